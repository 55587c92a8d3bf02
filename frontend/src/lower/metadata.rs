//! The instructions that change what is known of an image, not its files (but for WORKDIR, which makes its directory).

use kiln_oci::Healthcheck;
use serde_json::{Map, Value};

use super::arguments::SCAN;
use super::environment::set_in_config;
use super::outline::OutlineArgument;
use super::stage::{Step, Worker};
use super::stages::{error, not_expanded};
use super::{history, owner, path, ports, workdir};
use crate::check::{
    expose_invalid_format, expose_proto_casing, json_args_recommended, legacy_key_value_format,
    multiple_instructions_disallowed, secrets_used_in_arg_or_env, workdir_relative_path,
};
use crate::dockerfile::ast::{Argument, CommandLine, Healthcheck as Written, Pairs};
use crate::dockerfile::{Diagnostic, Lines, Word, signal};
use crate::graph::{FileAction, FileOp, Op};

impl<'a> Worker<'a> {
    fn arguments_of(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
            CommandLine::Shell(word) => {
                let mut arguments = self.shell();
                arguments.push(word.text.clone());
                arguments
            }
        }
    }

    /// Remembers that an instruction of which only the last counts was there.
    fn only_last(&mut self, step: Step<'a>) {
        let Some(name) = step.instruction.kind.name() else { return };
        if let Some(earlier) = self.latest.insert(name, step.instruction)
            && !step.is_trigger
        {
            multiple_instructions_disallowed::check(earlier, step.instruction, self.reporter);
        }
    }

    fn recommend_json(&mut self, step: Step<'_>, command: &CommandLine) {
        if matches!(command, CommandLine::Shell(_)) && !step.is_trigger {
            let has_shell = !self.state.config.config.shell.is_empty();
            json_args_recommended::check(step.instruction, has_shell, self.reporter);
        }
    }

    pub(super) fn cmd(&mut self, step: Step<'a>, command: &CommandLine) {
        self.recommend_json(step, command);
        self.only_last(step);
        let arguments = self.arguments_of(command);
        self.note(format!("CMD {}", history::quoted_list(&arguments)));
        self.state.config.config.cmd = arguments;
        self.state.config.config.args_escaped = true;
    }

    pub(super) fn entrypoint(&mut self, step: Step<'a>, command: &CommandLine) {
        self.recommend_json(step, command);
        self.only_last(step);
        let arguments = self.arguments_of(command);
        self.note(format!("ENTRYPOINT {}", history::quoted_list(&arguments)));
        self.state.config.config.entrypoint = arguments;
        if !self.latest.contains_key("CMD") {
            self.state.config.config.cmd.clear();
        }
    }

    pub(super) fn env(&mut self, step: Step<'_>, pairs: &Pairs) -> Result<(), Diagnostic> {
        let pairs = self.pairs(step, pairs)?;
        let mut text = "ENV".to_owned();
        for (key, value) in &pairs {
            if !step.is_trigger {
                secrets_used_in_arg_or_env::check(step.instruction, key, self.reporter);
            }
            text.push_str(&format!(" {key}={value}"));
            set_in_config(&mut self.state.config.config.env, &mut self.state.config_index, key, value);
            self.state.environment.set(key, value);
        }
        self.note(text);
        Ok(())
    }

    pub(super) fn label(&mut self, step: Step<'_>, pairs: &Pairs) -> Result<(), Diagnostic> {
        let pairs = self.pairs(step, pairs)?;
        let mut text = "LABEL".to_owned();
        for (key, value) in pairs {
            text.push_str(&format!(" {key}={value}"));
            self.state.config.config.labels.insert(key, value);
        }
        self.note(text);
        Ok(())
    }

    /// Expands pairs; all of them see the variables from before the instruction.
    fn pairs(&mut self, step: Step<'_>, pairs: &Pairs) -> Result<Vec<(String, String)>, Diagnostic> {
        let mut out = Vec::with_capacity(pairs.pairs.len());
        for pair in &pairs.pairs {
            out.push((self.word(step, &pair.key)?, self.word(step, &pair.value)?));
        }
        if pairs.legacy && !step.is_trigger {
            legacy_key_value_format::check(step.instruction, self.reporter);
        }
        Ok(out)
    }

    pub(super) fn arg(&mut self, step: Step<'_>, arguments: &[Argument]) -> Result<(), Diagnostic> {
        let mut text = "ARG".to_owned();
        for argument in arguments {
            let name = &argument.name.text;
            if !step.is_trigger {
                secrets_used_in_arg_or_env::check(step.instruction, name, self.reporter);
            }
            let value = match (self.prepared.request.build_args.get(name), &argument.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.word(step, default)?),
                (None, None) => self.prepared.globals.values.get(name).map(str::to_owned),
            };
            text.push(' ');
            text.push_str(name);
            if let Some(value) = value {
                text.push_str(&format!("={value}"));
                if !SCAN.contains(&&**name) {
                    self.state.environment.set(name, &value);
                }
            }
            self.state.arguments.add(name);
            self.gather(step, argument);
        }
        self.note(text);
        Ok(())
    }

    /// Notes an argument for the outline. One that has neither a default nor a value of its own is the global one.
    fn gather(&mut self, step: Step<'_>, argument: &Argument) {
        let name = &argument.name.text;
        let is_own = argument.default.is_some() || self.prepared.request.build_args.contains_key(name);
        let is_global = !is_own && self.prepared.globals.values.get(name).is_some();
        let argument = OutlineArgument {
            name: name.clone(),
            description: argument.description.clone(),
            value: self.state.environment.get(name).map(str::to_owned),
            lines: if is_global { Lines::default() } else { step.lines },
        };
        self.gathered.arguments.push(argument);
    }

    pub(super) fn volume(&mut self, step: Step<'_>, words: &[Word]) -> Result<(), Diagnostic> {
        let mut paths = Vec::with_capacity(words.len());
        for word in words {
            let path = self.word(step, word)?;
            if path.is_empty() {
                return Err(error("empty-volume", "VOLUME specified can not be an empty string"));
            }
            paths.push(path);
        }
        self.note(format!("VOLUME {}", history::plain_list(&paths)));
        let volumes = paths.into_iter().map(|path| (path, Value::Object(Map::new())));
        self.state.config.config.volumes.extend(volumes);
        Ok(())
    }

    pub(super) fn expose(&mut self, step: Step<'_>, words: &[Word]) -> Result<(), Diagnostic> {
        let mut ports = Vec::new();
        for word in words {
            let expansion = self.expand(&word.text).map_err(|cause| not_expanded(&cause))?;
            for argument in expansion.words {
                if !step.is_trigger {
                    expose_proto_casing::check(step.instruction, &argument, self.reporter);
                    expose_invalid_format::check(step.instruction, &argument, self.reporter);
                }
                let found = ports::parse(&argument)
                    .map_err(|cause| error("invalid-port", cause.to_string()).hint(cause.hint(&argument)))?;
                ports.extend(found.keys());
            }
        }
        self.note(format!("EXPOSE {}", history::plain_list(&ports)));
        let ports = ports.into_iter().map(|port| (port, Value::Object(Map::new())));
        self.state.config.config.exposed_ports.extend(ports);
        Ok(())
    }

    pub(super) fn stopsignal(&mut self, step: Step<'_>, word: &Word) -> Result<(), Diagnostic> {
        let signal = self.word(step, word)?;
        signal::parse(&signal).map_err(|cause| {
            let found = error("invalid-signal", cause.to_string());
            match signal::closest(&signal) {
                Some(known) => found.hint(format!("did you mean {known}?")),
                None => found.hint("name a signal as `kill -l` does, or give its number"),
            }
        })?;
        self.note(format!("STOPSIGNAL {signal}"));
        self.state.config.config.stop_signal = signal;
        Ok(())
    }

    pub(super) fn healthcheck(&mut self, step: Step<'a>, written: &Written) {
        self.only_last(step);
        let check = match written {
            Written::None => Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() },
            Written::Cmd(probe) => {
                let test = match &probe.command {
                    CommandLine::Shell(word) => vec!["CMD-SHELL".to_owned(), word.text.clone()],
                    CommandLine::Exec(words) => {
                        let words = words.iter().map(|word| word.text.clone());
                        std::iter::once("CMD".to_owned()).chain(words).collect()
                    }
                };
                Healthcheck {
                    test,
                    interval: probe.interval.0,
                    timeout: probe.timeout.0,
                    start_period: probe.start_period.0,
                    start_interval: probe.start_interval.0,
                    retries: i64::from(probe.retries),
                    ..Healthcheck::default()
                }
            }
        };
        self.note(history::healthcheck(&check));
        self.state.config.config.healthcheck = Some(check);
    }

    pub(super) fn workdir(&mut self, step: Step<'_>, word: &Word) -> Result<(), Diagnostic> {
        let directory = self.word(step, word)?;
        if !self.state.has_workdir && !step.is_trigger {
            workdir_relative_path::check(step.instruction, &directory, self.reporter);
        }
        self.state.has_workdir = true;
        let current = &self.state.cwd;
        let next = workdir::next(current, &directory, &self.state.platform.os)
            .map_err(|cause| error("invalid-workdir", cause.to_string()))?;
        self.state.cwd.clone_from(&next);
        self.state.config.config.working_dir.clone_from(&next);
        let text = format!("WORKDIR {next}");
        let next = next.replace('\\', "/");
        if next == "/" {
            self.note(text);
            return Ok(());
        }
        let user = &self.state.config.config.user;
        let made = path::rooted(&next);
        path::check_length("mkdir", &made)?;
        let action = FileAction::MakeDir {
            path: made,
            mode: 0o755,
            owner: if user.is_empty() { None } else { Some(owner::parse(user)) },
            time: self.prepared.epoch,
        };
        let shown = self.display(step, &step.instruction.original, &[]);
        let name = self.name(&shown);
        let inputs = vec![self.state.edge];
        let edge = self.push(step, Op::File(FileOp { actions: vec![action] }), inputs, name);
        self.layer(text, edge);
        Ok(())
    }
}
