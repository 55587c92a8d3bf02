//! Nodes into typed instructions: the rules of each keyword.

use std::collections::HashMap;

use super::{
    ast::*,
    device::Device,
    diagnostic::Problem,
    flags::{self, FlagTable, Flags},
    heredoc, hint,
    mount::{self, MountError},
    quote::go_quote,
    suggest,
};

/// All keywords, in the order in which they are suggested.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a node. What is wrong goes to `problems`, the first of them first.
pub(super) fn build(line: &Line<'_>, problems: &mut Vec<Problem>) -> InstructionKind {
    let mut builder = Builder { node: line.node, line, problems };
    builder.build().unwrap_or(InstructionKind::Invalid)
}

/// What an instruction is made from.
pub(super) struct Line<'a> {
    pub node: &'a Node,
    /// The logical line as written.
    pub original: &'a str,
    pub heredocs: &'a [Heredoc],
    pub comments: &'a [Comment],
}

pub(super) struct Builder<'a> {
    pub(super) node: &'a Node,
    line: &'a Line<'a>,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Builder<'_> {
    fn build(&mut self) -> Option<InstructionKind> {
        let before = self.problems.len();
        let name = self.node.keyword.text.to_ascii_uppercase();
        let kind = match &*name {
            "FROM" => self.from().map(InstructionKind::From),
            "RUN" => Some(InstructionKind::Run(self.run())),
            "CMD" => {
                self.flags(flags::NONE);
                Some(InstructionKind::Cmd(self.command_line(&self.node.arguments)))
            }
            "ENTRYPOINT" => {
                self.flags(flags::NONE);
                Some(InstructionKind::Entrypoint(self.command_line(&self.node.arguments)))
            }
            "SHELL" => self.shell().map(InstructionKind::Shell),
            "ENV" => self.pairs("ENV").map(InstructionKind::Env),
            "LABEL" => self.pairs("LABEL").map(InstructionKind::Label),
            "ARG" => self.arg().map(InstructionKind::Arg),
            "COPY" => self.copy().map(InstructionKind::Copy),
            "ADD" => self.add().map(InstructionKind::Add),
            "WORKDIR" => self.one("WORKDIR").map(InstructionKind::Workdir),
            "USER" => self.one("USER").map(InstructionKind::User),
            "MAINTAINER" => self.one("MAINTAINER").map(InstructionKind::Maintainer),
            "STOPSIGNAL" => self.single("STOPSIGNAL").map(InstructionKind::Stopsignal),
            "VOLUME" => self.volume().map(InstructionKind::Volume),
            "EXPOSE" => self.expose().map(InstructionKind::Expose),
            "HEALTHCHECK" => self.healthcheck().map(InstructionKind::Healthcheck),
            "ONBUILD" => self.onbuild().map(InstructionKind::Onbuild),
            _ => {
                self.unknown();
                None
            }
        };
        kind.filter(|_| self.problems.len() == before)
    }

    pub(super) fn problem(&mut self, code: &'static str, message: impl Into<String>, span: Span) {
        self.problems.push(Problem::instruction(code, message, span));
    }

    pub(super) fn hinted(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        span: Span,
        hint: impl Into<String>,
    ) {
        self.problems.push(Problem::instruction(code, message, span).hint(hint));
    }

    fn unknown(&mut self) {
        let written = &self.node.keyword.text;
        let found = suggest::closest(&written.to_uppercase(), KEYWORDS);
        let is_lower = !written.chars().any(char::is_uppercase);
        let suggestion = found.map(|name| if is_lower { name.to_lowercase() } else { name.to_owned() });
        let problem = Problem::instruction(
            "unknown-instruction",
            format!("unknown instruction: {written}"),
            self.node.keyword.span,
        );
        self.problems.push(match suggestion {
            None => problem.hint(hint::unknown(written)),
            suggestion => problem.suggest(suggestion),
        });
    }

    pub(super) fn flags(&mut self, table: FlagTable) -> Flags {
        Flags::parse(self.node, table, self.problems)
    }

    /// Where the arguments stand, or the keyword when there are none.
    pub(super) fn place(&self) -> Span {
        match (self.node.arguments.first(), self.node.arguments.last()) {
            (Some(first), Some(last)) => first.span.to(last.span),
            _ => self.node.keyword.span,
        }
    }

    pub(super) fn at_least_one(&mut self, name: &str) -> Option<()> {
        if !self.node.arguments.is_empty() {
            return Some(());
        }
        self.hinted(
            "arguments",
            format!("{name} requires at least one argument"),
            self.node.keyword.span,
            hint::form(name),
        );
        None
    }

    fn single(&mut self, name: &str) -> Option<Word> {
        if let [word] = &*self.node.arguments {
            return Some(word.clone());
        }
        self.hinted("arguments", format!("{name} requires exactly one argument"), self.place(), hint::form(name));
        None
    }

    fn one(&mut self, name: &str) -> Option<Word> {
        let word = self.single(name);
        self.flags(flags::NONE);
        word
    }

    pub(super) fn command_line(&self, arguments: &[Word]) -> CommandLine {
        if self.node.json {
            return CommandLine::Exec(arguments.to_vec());
        }
        CommandLine::Shell(arguments.first().cloned().unwrap_or_else(|| Word::new("", self.node.rest)))
    }

    fn from(&mut self) -> Option<From> {
        let (image, naming) = match &*self.node.arguments {
            [image] => (image, None),
            [image, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => (image, Some((keyword, name))),
            _ => {
                self.hinted(
                    "arguments",
                    "FROM requires either one or three arguments",
                    self.place(),
                    hint::from(&self.node.arguments),
                );
                self.flags(flags::FROM);
                return None;
            }
        };
        if let Some((_, name)) = naming
            && !is_stage_name(&name.text.to_lowercase())
        {
            let message = format!(
                "invalid name for build stage: {}, name can't start with a number or contain symbols",
                go_quote(&name.text)
            );
            self.hinted(
                "stage-name",
                message,
                name.span,
                "a name starts with a letter, and has letters, digits, `-`, `_` and `.` in it",
            );
        }
        let flags = self.flags(flags::FROM);
        Some(From {
            platform: flags.non_empty("platform"),
            image: image.clone(),
            as_keyword: naming.map(|(keyword, _)| keyword.clone()),
            name: naming.map(|(_, name)| name.clone()),
        })
    }

    fn run(&mut self) -> Run {
        let flags = self.flags(flags::RUN);
        let mut devices = Vec::new();
        for word in flags.list("device") {
            match Device::parse(&word.text) {
                Ok(device) => devices.push(device),
                Err(error) => self.problem("device", error.to_string(), word.span),
            }
        }
        let mounts = flags.list("mount");
        for word in &mounts {
            let Err(error) = mount::check_early(&word.text) else { continue };
            let problem = match error {
                MountError::FromVariable => Problem::instruction("mount-from", error.to_string(), word.span),
                _ => Problem::instruction("invalid-mount", error.to_string(), word.span),
            };
            self.problems.push(Problem { hint: hint::mount(&error), ..problem });
        }
        let network = flags.text("network").and_then(|word| match &*word.text {
            "default" => Some(RunNetwork::Default),
            "none" => Some(RunNetwork::None),
            "host" => Some(RunNetwork::Host),
            other => {
                let message = format!("invalid network mode {}", go_quote(other));
                let problem = Problem::instruction("network", message, word.span);
                self.problems.push(problem.hint("use `default`, `none` or `host`"));
                None
            }
        });
        let security = flags.text("security").map_or(Security::Sandbox, |word| match &*word.text {
            "sandbox" => Security::Sandbox,
            "insecure" => Security::Insecure,
            other => {
                let message = format!("security {} is not valid", go_quote(other));
                let problem = Problem::instruction("security", message, word.span);
                self.problems.push(problem.hint("use `sandbox` or `insecure`"));
                Security::Sandbox
            }
        });
        Run { command: self.run_command(), mounts, devices, network, security }
    }

    fn run_command(&self) -> RunCommand {
        let word = match self.command_line(&self.node.arguments) {
            CommandLine::Exec(words) => return RunCommand::Exec(words),
            CommandLine::Shell(word) => word,
        };
        let Some(first) = self.line.heredocs.first() else {
            return RunCommand::Shell(word);
        };
        if heredoc::announcement(&word.text).is_some() {
            return RunCommand::Script(Script {
                name: first.name.clone(),
                body: first.body(),
                is_program: first.content.starts_with("#!"),
                written: word,
            });
        }
        let mut text = word.text;
        for heredoc in self.line.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        RunCommand::Shell(Word::new(text, word.span))
    }

    fn shell(&mut self) -> Option<Vec<Word>> {
        self.flags(flags::NONE);
        self.at_least_one("SHELL")?;
        if !self.node.json {
            self.hinted(
                "shell-form",
                "SHELL requires the arguments to be in JSON form",
                self.place(),
                "write it with double quotes, as `SHELL [\"/bin/bash\", \"-c\"]`",
            );
            return None;
        }
        Some(self.node.arguments.clone())
    }

    fn pairs(&mut self, name: &str) -> Option<Pairs> {
        self.flags(flags::NONE);
        self.at_least_one(name)?;
        let mut pairs = Vec::new();
        let mut legacy = false;
        for triple in self.node.arguments.chunks_exact(3) {
            let [key, value, separator] = triple else { continue };
            if key.text.is_empty() {
                let message = format!("{name} names can not be blank");
                self.hinted("blank-name", message, key.span.to(value.span), hint::form(name));
            }
            legacy |= separator.text.is_empty();
            pairs.push(Pair { key: key.clone(), value: value.clone() });
        }
        Some(Pairs { pairs, legacy })
    }

    fn arg(&mut self) -> Option<Vec<Argument>> {
        self.at_least_one("ARG")?;
        let mut arguments = Vec::new();
        let descriptions = descriptions(self.line.comments);
        for word in &self.node.arguments {
            let (name, default) = match word.text.split_once('=') {
                Some((name, default)) => {
                    let middle = (word.span.start + name.len()).min(word.span.end);
                    let start = (middle + 1).min(word.span.end);
                    let default = Word::new(default, Span::new(start, word.span.end));
                    (Word::new(name, Span::new(word.span.start, middle)), Some(default))
                }
                None => (word.clone(), None),
            };
            if name.text.is_empty() {
                self.hinted("blank-name", "ARG names can not be blank", word.span, hint::form("ARG"));
            }
            let description = descriptions.get(&*name.text).map(|text| (*text).to_owned());
            arguments.push(Argument { name, default, description });
        }
        Some(arguments)
    }

    fn sources(&mut self, name: &str, table: FlagTable) -> Option<(Sources, Flags)> {
        let Some(([first, rest @ ..], destination)) =
            self.node.arguments.split_last().map(|(destination, sources)| (sources, destination))
        else {
            let message = format!(
                "{name} requires at least two arguments, but only one was provided. \
                 Destination could not be determined"
            );
            self.hinted("arguments", message, self.place(), hint::form(name));
            self.flags(table);
            return None;
        };
        if heredoc::announcement(&destination.text).is_some() {
            let message = format!("{name} cannot accept a heredoc as a destination");
            self.problem("heredoc-destination", message, destination.span);
        }
        let mut paths = Vec::new();
        let mut inline = Vec::new();
        // Of several with one name the last is taken; without a body (in the JSON form) the file is empty.
        let bodies: HashMap<&str, &Heredoc> = self.line.heredocs.iter().map(|body| (&*body.name, body)).collect();
        for word in std::iter::once(first).chain(rest) {
            let Some(announcement) = heredoc::announcement(&word.text) else {
                paths.push(word.clone());
                continue;
            };
            inline.push(InlineFile {
                content: match bodies.get(&*announcement.name) {
                    Some(heredoc) if announcement.chomp => heredoc::chomp(&heredoc.content),
                    Some(heredoc) => heredoc.content.clone(),
                    None => String::new(),
                },
                name: Word::new(announcement.name, word.span),
                expand: announcement.expand,
            });
        }
        let flags = self.flags(table);
        let sources = Sources {
            paths,
            inline,
            destination: destination.clone(),
            json: self.node.json,
            chown: flags.non_empty("chown"),
            chmod: flags.non_empty("chmod"),
            link: flags.switch("link").unwrap_or(false),
            excludes: flags.list("exclude"),
        };
        Some((sources, flags))
    }

    fn copy(&mut self) -> Option<Copy> {
        let (sources, flags) = self.sources("COPY", flags::COPY)?;
        let parents = flags.switch("parents").unwrap_or(false);
        Some(Copy { sources, from: flags.non_empty("from"), parents })
    }

    fn add(&mut self) -> Option<Add> {
        let (sources, flags) = self.sources("ADD", flags::ADD)?;
        Some(Add {
            sources,
            checksum: flags.non_empty("checksum"),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        })
    }

    fn volume(&mut self) -> Option<Vec<Word>> {
        self.at_least_one("VOLUME")?;
        self.flags(flags::NONE);
        let mut volumes = Vec::new();
        for word in &self.node.arguments {
            let text = word.text.trim();
            if text.is_empty() {
                self.problem("empty-volume", "VOLUME specified can not be an empty string", word.span);
            }
            volumes.push(Word::new(text, word.span));
        }
        Some(volumes)
    }

    fn expose(&mut self) -> Option<Vec<Word>> {
        self.at_least_one("EXPOSE")?;
        self.flags(flags::NONE);
        let mut ports = self.node.arguments.clone();
        ports.sort_by(|a, b| a.text.cmp(&b.text));
        Some(ports)
    }

    fn onbuild(&mut self) -> Option<Onbuild> {
        let Some(nested) = &self.node.nested else {
            self.at_least_one("ONBUILD");
            return None;
        };
        self.flags(flags::NONE);
        let name = nested.keyword.text.to_uppercase();
        match &*name {
            "ONBUILD" => {
                let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
                self.problem("onbuild-trigger", message, nested.keyword.span);
            }
            "FROM" | "MAINTAINER" => {
                let message = format!("{name} isn't allowed as an ONBUILD trigger");
                self.problem("onbuild-trigger", message, nested.keyword.span);
            }
            _ => {}
        }
        let original = self.line.original.trim_start();
        let mut trigger = original.get(self.node.keyword.text.len()..).unwrap_or_default().trim_start().to_owned();
        for heredoc in self.line.heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.content);
            trigger.push_str(&heredoc.name);
        }
        Some(Onbuild { trigger })
    }
}

/// Whether a text in lower case can name a stage.
pub fn is_stage_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.'))
}

/// Returns what comments say about names: the first that begins with a name and a blank.
fn descriptions(comments: &[Comment]) -> HashMap<&str, &str> {
    comments.iter().rev().filter_map(|comment| comment.text.split_once(' ')).collect()
}
