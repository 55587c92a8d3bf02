//! One stage: what its instructions do to config, environment and history.

use std::collections::{BTreeMap, HashMap};

use kiln_oci::{Healthcheck, History, ImageConfig, Platform};
use serde_json::{Map, Value};

use super::arguments::{self, Declared, SCAN};
use super::assembly::{Assembly, Tree};
use super::environment::{Environment, index_config, set_in_config};
use super::name::{Namer, with_upper_keyword};
use super::origin::Origin;
use super::prepare::{Base, Prepared};
use super::stages::error;
use super::{epoch, history, owner, ports, workdir};
use crate::check::{
    Reporter, expose_invalid_format, expose_proto_casing, invalid_base_image_platform, json_args_recommended,
    legacy_key_value_format, multiple_instructions_disallowed, secrets_used_in_arg_or_env, undefined_var,
    workdir_relative_path,
};
use crate::dockerfile::ast::{Argument, CommandLine, Healthcheck as Written, Pairs};
use crate::dockerfile::expand::{ExpandError, Expander, Expansion};
use crate::dockerfile::{Diagnostic, Instruction, InstructionKind, Lines, Span, Word};
use crate::graph::{Edge, FileAction, FileOp, Location, Op, Vertex};

/// The search path of images that have none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The same on Windows.
const WINDOWS_PATH: &str = r"c:\Windows\System32;c:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0";

/// A stage as it stands after some of its instructions.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Its file system.
    pub(super) edge: Option<Edge>,
    /// The directory that its files come from, when that is one of the client's and nothing was done to it yet.
    pub(super) tree: Tree,
    pub(super) config: ImageConfig,
    /// Where each variable stands in the environment of the config.
    config_index: HashMap<String, usize>,
    pub(super) environment: Environment,
    /// The names that ARG declared.
    pub(super) arguments: Declared,
    /// Where relative paths begin.
    pub(super) cwd: String,
    /// Whether there was a WORKDIR, in this stage or one below it in the file.
    has_workdir: bool,
    pub(super) platform: Platform,
    /// How many history entries are of the image below.
    pub(super) base_history: usize,
    /// The edges of the layers since.
    pub(super) layer_edges: Vec<Option<Edge>>,
}

/// An instruction and where to say that it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) instruction: &'a Instruction,
    /// Whether it comes from the base.
    pub(super) is_trigger: bool,
    pub(super) lines: Lines,
    pub(super) span: Span,
}

/// Works through one stage.
pub(super) struct Worker<'a> {
    pub(super) prepared: &'a Prepared<'a>,
    pub(super) done: &'a [Option<State>],
    pub(super) assembly: &'a mut Assembly,
    pub(super) reporter: &'a mut Reporter,
    pub(super) state: State,
    pub(super) namer: Namer,
    pub(super) index: usize,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage.
    latest: BTreeMap<&'static str, &'a Instruction>,
}

/// Works through the stages that are wanted, in order.
pub(super) fn work_through(
    prepared: &Prepared<'_>,
    assembly: &mut Assembly,
    reporter: &mut Reporter,
) -> Result<Vec<Option<State>>, Vec<Diagnostic>> {
    let mut done: Vec<Option<State>> = vec![None; prepared.stages.list.len()];
    for &index in &prepared.wanted {
        let state = stage(prepared, index, &done, assembly, reporter).map_err(|found| vec![found])?;
        done[index] = Some(state);
    }
    Ok(done)
}

fn stage(
    prepared: &Prepared<'_>,
    index: usize,
    done: &[Option<State>],
    assembly: &mut Assembly,
    reporter: &mut Reporter,
) -> Result<State, Diagnostic> {
    let stage = &prepared.stages.list[index];
    let triggers = &prepared.triggers[index];
    let base = &prepared.heads[index].base;
    let counts = |instruction: &Instruction| {
        use InstructionKind::{Add, Copy, Run, Workdir};
        matches!(instruction.kind, Run(_) | Copy(_) | Add(_) | Workdir(_))
    };
    let own = stage.instructions.iter().filter(|instruction| counts(instruction)).count();
    let is_image = match base {
        Base::Outside(name) => matches!(prepared.outside(name, &prepared.heads[index].platform), Ok(Origin::Image(_))),
        _ => false,
    };
    let mut namer = Namer {
        platform: prepared.request.multi_platform.then(|| prepared.heads[index].platform.clone()),
        stage: (prepared.stages.list.len() > 1).then(|| stage.display()),
        total: usize::from(is_image) + triggers.len() + own,
        done: 0,
    };
    let state = start(prepared, index, done, assembly, reporter, &mut namer)
        .map_err(|found| at_instruction(found, stage.instruction))?;
    let mut worker = Worker { prepared, done, assembly, reporter, state, namer, index, latest: BTreeMap::new() };
    if matches!(base, Base::Replaced(_)) {
        return Ok(worker.state);
    }
    for trigger in triggers.iter() {
        let (lines, span) = (stage.instruction.lines, stage.instruction.span);
        worker.apply(Step { instruction: &trigger.instruction, is_trigger: true, lines, span })?;
    }
    for instruction in &stage.instructions {
        let (lines, span) = (instruction.lines, instruction.span);
        worker.apply(Step { instruction, is_trigger: false, lines, span })?;
    }
    Ok(worker.state)
}

/// Says where, unless that is said already.
fn at_instruction(found: Diagnostic, instruction: &Instruction) -> Diagnostic {
    if found.lines.is_empty() { found.at(instruction.lines, instruction.span) } else { found }
}

/// Returns a stage after its FROM.
fn start(
    prepared: &Prepared<'_>,
    index: usize,
    done: &[Option<State>],
    assembly: &mut Assembly,
    reporter: &mut Reporter,
    namer: &mut Namer,
) -> Result<State, Diagnostic> {
    let head = &prepared.heads[index];
    let stage = &prepared.stages.list[index];
    let origin = match &head.base {
        Base::Stage(base) => {
            let Some(parent) = done.get(*base).and_then(Option::as_ref) else {
                return Err(error("stage-order", format!("stage {base} has not been made")));
            };
            assembly.spend(parent.size())?;
            let mut state = parent.clone();
            state.config.config.on_build.clear();
            // All of a base belongs to what is built on it.
            state.edge = assembly.edge(&state.tree, ["/"]);
            state.tree = Tree::Edge(state.edge);
            return Ok(state);
        }
        Base::Scratch => Origin::Empty,
        Base::Outside(name) => prepared.outside(name, &head.platform)?,
        Base::Replaced(context) => Origin::Context(context.clone()),
    };
    let none = Environment::default();
    let label: &mut dyn FnMut(&str) -> String = &mut |image| namer.next(&format!("FROM {image}"), &none);
    let tree = assembly.tree(&origin, &head.platform, prepared, label)?;
    let config = origin.query(&head.platform).and_then(|query| prepared.config(&query)).cloned();
    if let (Some(config), Base::Outside(written), Origin::Image(_)) = (&config, &head.base, &origin) {
        let found = &config.platform;
        invalid_base_image_platform::check(stage.instruction, written, found, &head.platform, reporter);
    }
    let mut platform = head.platform.clone();
    let mut config = match config {
        Some(config) => {
            if matches!(head.base, Base::Replaced(_)) {
                platform = config.platform.normalized();
            }
            ImageConfig { created: None, ..config }
        }
        None => empty_config(&platform),
    };
    config.config.on_build.clear();
    let is_windows = platform.os == "windows";
    let mut environment = Environment::from_config(&config.config.env);
    if environment.get("PATH").is_none() {
        let path = if is_windows { WINDOWS_PATH } else { PATH };
        // An image for Windows brings its own; the variable is for commands only.
        if !is_windows {
            config.config.env.push(format!("PATH={path}"));
        }
        environment.set("PATH", path);
    }
    let mut cwd = "/".to_owned();
    if !config.config.working_dir.is_empty() {
        cwd = workdir::next("", &config.config.working_dir, &platform.os)
            .map_err(|cause| error("invalid-workdir", cause.to_string()))?;
        config.config.working_dir.clone_from(&cwd);
    }
    // All of a base belongs to what is built on it.
    let edge = match head.base {
        Base::Replaced(_) if matches!(tree, Tree::Local { .. }) => None,
        _ => assembly.edge(&tree, ["/"]),
    };
    Ok(State {
        edge,
        tree: if matches!(head.base, Base::Replaced(_)) { tree } else { Tree::Edge(edge) },
        base_history: config.history.len(),
        config_index: index_config(&config.config.env),
        config,
        environment,
        arguments: Declared::default(),
        cwd,
        has_workdir: false,
        platform,
        layer_edges: Vec::new(),
    })
}

/// Returns the config of nothing.
fn empty_config(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig { platform: platform.clone(), ..ImageConfig::default() };
    config.config.working_dir = "/".to_owned();
    config
}

impl State {
    /// Returns about how many bytes a copy takes.
    fn size(&self) -> usize {
        let config = &self.config.config;
        let texts =
            self.environment.size() + config.env.iter().chain(self.arguments.names()).map(String::len).sum::<usize>();
        let labels: usize = config.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        let keys: usize = config.exposed_ports.keys().chain(config.volumes.keys()).map(String::len).sum();
        texts + labels + keys + self.config.history.iter().map(|entry| 64 + entry.created_by.len()).sum::<usize>()
    }
}

impl<'a> Worker<'a> {
    fn apply(&mut self, step: Step<'a>) -> Result<(), Diagnostic> {
        self.dispatch(step).map_err(
            |found| {
                if found.lines.is_empty() { found.at(step.lines, step.span) } else { found }
            },
        )
    }

    fn dispatch(&mut self, step: Step<'a>) -> Result<(), Diagnostic> {
        match &step.instruction.kind {
            InstructionKind::Run(run) => self.run(step, run),
            InstructionKind::Copy(copy) => self.copy(step, copy),
            InstructionKind::Add(add) => self.add(step, add),
            InstructionKind::Workdir(word) => self.workdir(step, word),
            InstructionKind::Env(pairs) => self.env(step, pairs),
            InstructionKind::Label(pairs) => self.label(step, pairs),
            InstructionKind::Arg(arguments) => self.arg(step, arguments),
            InstructionKind::Cmd(command) => {
                self.cmd(step, command);
                Ok(())
            }
            InstructionKind::Entrypoint(command) => {
                self.entrypoint(step, command);
                Ok(())
            }
            InstructionKind::Shell(words) => {
                let shell: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
                self.note(format!("SHELL {}", history::plain_list(&shell)));
                self.state.config.config.shell = shell;
                Ok(())
            }
            InstructionKind::User(word) => {
                let user = self.word(step, word)?;
                self.note(format!("USER {user}"));
                self.state.config.config.user = user;
                Ok(())
            }
            InstructionKind::Volume(words) => self.volume(step, words),
            InstructionKind::Expose(words) => self.expose(step, words),
            InstructionKind::Stopsignal(word) => self.stopsignal(step, word),
            InstructionKind::Healthcheck(check) => {
                self.healthcheck(step, check);
                Ok(())
            }
            InstructionKind::Maintainer(word) => {
                self.note(format!("MAINTAINER {}", word.text));
                self.state.config.author = Some(word.text.clone());
                Ok(())
            }
            InstructionKind::Onbuild(onbuild) => {
                self.state.config.config.on_build.push(onbuild.trigger.clone());
                Ok(())
            }
            // Cutting a file into stages has taken these away.
            InstructionKind::From(_) | InstructionKind::Invalid => Ok(()),
        }
    }

    /// Expands a word, and reports the variables in it that nothing sets.
    pub(super) fn word(&mut self, step: Step<'_>, word: &Word) -> Result<String, Diagnostic> {
        self.text(step, &word.text)
    }

    /// Expands a text, and reports the variables in it that nothing sets.
    pub(super) fn text(&mut self, step: Step<'_>, text: &str) -> Result<String, Diagnostic> {
        let expansion = self.expand(text).map_err(|cause| error("expansion", cause.to_string()));
        self.report_unset(step, text, expansion.as_ref().ok());
        Ok(expansion?.text)
    }

    pub(super) fn expand(&self, text: &str) -> Result<Expansion, ExpandError> {
        arguments::expand(text, &self.state.environment, self.prepared.escape)
    }

    /// Reports the variables of an expansion that nothing sets. Where the text cannot be expanded, those that it
    /// would have asked for are not known, but the one that it stumbled over is.
    pub(super) fn report_unset(&mut self, step: Step<'_>, text: &str, expansion: Option<&Expansion>) {
        let names = match expansion {
            Some(expansion) => expansion.unmatched.clone(),
            None => self.names_asked_for(text),
        };
        for name in names {
            let is_declared = self.state.arguments.has(&name) || SCAN.contains(&&*name);
            if !is_declared {
                undefined_var::check(step.instruction, &name, self.state.environment.names(), self.reporter);
            }
        }
    }

    /// Returns the undefined variables that a text with a mistake in it asks for before the mistake.
    fn names_asked_for(&self, text: &str) -> std::collections::BTreeSet<String> {
        let asked = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let lookup = |name: &str| {
            let value = self.state.environment.get(name);
            if value.is_none() {
                asked.borrow_mut().insert(name.to_owned());
            }
            value
        };
        let _ = Expander::new(self.prepared.escape, &lookup).process_word(text);
        asked.into_inner()
    }

    /// Returns the line of an instruction for display: variables expanded, keyword in upper case.
    pub(super) fn display(&self, step: Step<'_>, line: &str, hidden: &[String]) -> String {
        let environment = &self.state.environment;
        let lookup = |name: &str| match hidden.iter().any(|known| known == name) {
            true => Some("****"),
            false => environment.get(name),
        };
        let expander = Expander::for_display(self.prepared.escape, &lookup);
        let line = expander.process_word(line).unwrap_or_else(|_| line.to_owned());
        let line = with_upper_keyword(&line);
        if step.is_trigger { format!("ONBUILD {line}") } else { line }
    }

    /// Returns the name of the next vertex.
    pub(super) fn name(&mut self, text: &str) -> String {
        self.namer.next(text, &self.state.environment)
    }

    /// Adds a vertex of this stage to the graph.
    pub(super) fn push(&mut self, step: Step<'_>, op: Op, inputs: Vec<Option<Edge>>, name: String) -> Edge {
        let is_kept_from_cache = matches!(step.instruction.kind, InstructionKind::Workdir(_));
        self.assembly.graph.push(Vertex {
            platform: matches!(op, Op::Exec(_)).then(|| self.state.platform.clone()),
            op,
            inputs,
            name,
            stage: Some(self.prepared.stages.list[self.index].display()),
            location: Some(Location {
                span: step.span.start..step.span.end,
                lines: (step.lines.first, step.lines.last),
            }),
            ignore_cache: !is_kept_from_cache && self.ignores_cache(),
        })
    }

    fn ignores_cache(&self) -> bool {
        let request = &self.prepared.request;
        let name = self.prepared.stages.list[self.index].name.as_deref();
        request.no_cache
            || name.is_some_and(|name| request.no_cache_filter.iter().any(|filter| filter.to_lowercase() == name))
    }

    /// Adds a history entry that makes no layer.
    fn note(&mut self, text: String) {
        self.record(text, true);
    }

    /// Makes `edge` the file system of the stage, and adds the history entry of its layer.
    pub(super) fn layer(&mut self, text: String, edge: Edge) {
        self.state.edge = Some(edge);
        self.state.tree = Tree::Edge(Some(edge));
        self.state.layer_edges.push(Some(edge));
        self.record(text, false);
    }

    /// Adds a history entry.
    fn record(&mut self, created_by: String, empty_layer: bool) {
        self.state.config.history.push(History {
            created: self.prepared.epoch.map(epoch::rfc3339),
            created_by,
            author: String::new(),
            comment: history::COMMENT.to_owned(),
            empty_layer,
        });
    }

    /// Returns the shell of this stage.
    pub(super) fn shell(&self) -> Vec<String> {
        let shell = &self.state.config.config.shell;
        if !shell.is_empty() {
            return shell.clone();
        }
        let default: &[&str] =
            if self.state.platform.os == "windows" { &["cmd", "/S", "/C"] } else { &["/bin/sh", "-c"] };
        default.iter().map(|&word| word.to_owned()).collect()
    }

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

    fn cmd(&mut self, step: Step<'a>, command: &CommandLine) {
        self.recommend_json(step, command);
        self.only_last(step);
        let arguments = self.arguments_of(command);
        self.note(format!("CMD {}", history::quoted_list(&arguments)));
        self.state.config.config.cmd = arguments;
        self.state.config.config.args_escaped = true;
    }

    fn entrypoint(&mut self, step: Step<'a>, command: &CommandLine) {
        self.recommend_json(step, command);
        self.only_last(step);
        let arguments = self.arguments_of(command);
        self.note(format!("ENTRYPOINT {}", history::quoted_list(&arguments)));
        self.state.config.config.entrypoint = arguments;
        if !self.latest.contains_key("CMD") {
            self.state.config.config.cmd.clear();
        }
    }

    fn env(&mut self, step: Step<'_>, pairs: &Pairs) -> Result<(), Diagnostic> {
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

    fn label(&mut self, step: Step<'_>, pairs: &Pairs) -> Result<(), Diagnostic> {
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

    fn arg(&mut self, step: Step<'_>, arguments: &[Argument]) -> Result<(), Diagnostic> {
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
        }
        self.note(text);
        Ok(())
    }

    fn volume(&mut self, step: Step<'_>, words: &[Word]) -> Result<(), Diagnostic> {
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

    fn expose(&mut self, step: Step<'_>, words: &[Word]) -> Result<(), Diagnostic> {
        let mut ports = Vec::new();
        for word in words {
            let expansion = self.expand(&word.text).map_err(|cause| error("expansion", cause.to_string()))?;
            for argument in expansion.words {
                if !step.is_trigger {
                    expose_proto_casing::check(step.instruction, &argument, self.reporter);
                    expose_invalid_format::check(step.instruction, &argument, self.reporter);
                }
                let found = ports::parse(&argument).map_err(|cause| error("invalid-port", cause.to_string()))?;
                ports.extend(found.keys());
            }
        }
        self.note(format!("EXPOSE {}", history::plain_list(&ports)));
        let ports = ports.into_iter().map(|port| (port, Value::Object(Map::new())));
        self.state.config.config.exposed_ports.extend(ports);
        Ok(())
    }

    fn stopsignal(&mut self, step: Step<'_>, word: &Word) -> Result<(), Diagnostic> {
        let signal = self.word(step, word)?;
        crate::dockerfile::signal::parse(&signal).map_err(|cause| error("invalid-signal", cause.to_string()))?;
        self.note(format!("STOPSIGNAL {signal}"));
        self.state.config.config.stop_signal = signal;
        Ok(())
    }

    fn healthcheck(&mut self, step: Step<'a>, written: &Written) {
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

    fn workdir(&mut self, step: Step<'_>, word: &Word) -> Result<(), Diagnostic> {
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
        let action = FileAction::MakeDir {
            path: super::path::rooted(&next),
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
