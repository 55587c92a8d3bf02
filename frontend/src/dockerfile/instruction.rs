//! Nodes into typed instructions: the rules of each keyword.

use std::collections::HashMap;

use super::{
    ast::*,
    device::Device,
    diagnostic::Problem,
    duration::Nanoseconds,
    flags::{self, FlagTable, Flags},
    heredoc,
    mount::{self, MountError},
    quote::go_quote,
    suggest,
};

/// The least time a health check may wait.
const MIN_INTERVAL: Nanoseconds = Nanoseconds(1_000_000);

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

struct Builder<'a> {
    node: &'a Node,
    line: &'a Line<'a>,
    problems: &'a mut Vec<Problem>,
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

    fn problem(&mut self, code: &'static str, message: impl Into<String>, span: Span) {
        self.problems.push(Problem::instruction(code, message, span));
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
        self.problems.push(problem.suggest(suggestion));
    }

    fn flags(&mut self, table: FlagTable) -> Flags {
        Flags::parse(self.node, table, self.problems)
    }

    /// Where the arguments stand, or the keyword when there are none.
    fn place(&self) -> Span {
        match (self.node.arguments.first(), self.node.arguments.last()) {
            (Some(first), Some(last)) => first.span.to(last.span),
            _ => self.node.keyword.span,
        }
    }

    fn at_least_one(&mut self, name: &str) -> Option<()> {
        if !self.node.arguments.is_empty() {
            return Some(());
        }
        self.problem("arguments", format!("{name} requires at least one argument"), self.node.keyword.span);
        None
    }

    fn single(&mut self, name: &str) -> Option<Word> {
        if let [word] = &*self.node.arguments {
            return Some(word.clone());
        }
        self.problem("arguments", format!("{name} requires exactly one argument"), self.place());
        None
    }

    fn one(&mut self, name: &str) -> Option<Word> {
        let word = self.single(name);
        self.flags(flags::NONE);
        word
    }

    fn command_line(&self, arguments: &[Word]) -> CommandLine {
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
                self.problem("arguments", "FROM requires either one or three arguments", self.place());
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
            self.problem("stage-name", message, name.span);
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
            match mount::check_early(&word.text) {
                Ok(()) => {}
                Err(error @ MountError::FromVariable) => self.problem("mount-from", error.to_string(), word.span),
                Err(error) => self.problem("invalid-mount", error.to_string(), word.span),
            }
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
            self.problem("shell-form", "SHELL requires the arguments to be in JSON form", self.place());
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
                self.problem("blank-name", format!("{name} names can not be blank"), key.span.to(value.span));
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
                self.problem("blank-name", "ARG names can not be blank", word.span);
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
            self.problem("arguments", message, self.place());
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

    fn healthcheck(&mut self) -> Option<Healthcheck> {
        self.at_least_one("HEALTHCHECK")?;
        let (kind, arguments) = self.node.arguments.split_first()?;
        let name = kind.text.to_uppercase();
        if name == "NONE" {
            if arguments.is_empty() {
                return Some(Healthcheck::None);
            }
            self.problem("arguments", "HEALTHCHECK NONE takes no arguments", self.place());
            return None;
        }
        let flags = self.flags(flags::HEALTHCHECK);
        if name != "CMD" {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", go_quote(&name));
            self.problem("healthcheck", message, kind.span);
            return None;
        }
        if arguments.is_empty() {
            self.problem("healthcheck", "Missing command after HEALTHCHECK CMD", kind.span);
        }
        let mut interval = |name: &str| self.interval(name, flags.text(name));
        let (interval, timeout) = (interval("interval"), interval("timeout"));
        let start_period = self.interval("start-period", flags.text("start-period"));
        let start_interval = self.interval("start-interval", flags.text("start-interval"));
        let retries = flags.non_empty("retries").map_or(0, |word| self.retries(&word));
        let command = self.command_line(arguments);
        Some(Healthcheck::Cmd(Probe { command, interval, timeout, start_period, start_interval, retries }))
    }

    fn interval(&mut self, name: &str, value: Option<Word>) -> Nanoseconds {
        let none = Nanoseconds(0);
        let Some(word) = value.filter(|word| !word.text.is_empty()) else { return none };
        match word.text.parse::<Nanoseconds>() {
            Ok(time) if time == none || time >= MIN_INTERVAL => time,
            Ok(_) => {
                let message = format!("Interval {} cannot be less than {MIN_INTERVAL}", go_quote(name));
                self.problem("duration", message, word.span);
                none
            }
            Err(error) => {
                self.problem("duration", error.to_string(), word.span);
                none
            }
        }
    }

    fn retries(&mut self, word: &Word) -> u32 {
        match parse_number(&word.text) {
            Ok(number) => u32::try_from(number).unwrap_or_else(|_| {
                self.problem("retries", format!("--retries cannot be negative ({number})"), word.span);
                0
            }),
            Err(reason) => {
                let message = format!("strconv.ParseInt: parsing {}: {reason}", go_quote(&word.text));
                self.problem("retries", message, word.span);
                0
            }
        }
    }

    fn onbuild(&mut self) -> Option<Onbuild> {
        let Some(nested) = &self.node.nested else {
            self.problem("arguments", "ONBUILD requires at least one argument", self.node.keyword.span);
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

/// Reads a signed number of 32 bits, in decimal.
fn parse_number(text: &str) -> Result<i32, &'static str> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    text.parse().map_err(|_| "value out of range")
}

/// Returns what comments say about names: the first that begins with a name and a blank.
fn descriptions(comments: &[Comment]) -> HashMap<&str, &str> {
    comments.iter().rev().filter_map(|comment| comment.text.split_once(' ')).collect()
}
