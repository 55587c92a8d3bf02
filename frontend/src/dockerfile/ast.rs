//! What a Dockerfile says: instructions with typed flags and arguments, and where each of them stands.
//!
//! Words are kept as they are written: quotes, escapes and `$variables` are still in them, because what they mean
//! depends on the stage they end up in. [`super::expand`] turns them into text.

use super::{device::Device, directive::SyntaxRequest, duration::Nanoseconds};

/// A part of the source text, in bytes: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    /// The bytes `start..end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that holds both.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Returns the text of this span, or nothing when the span is not of this text.
    pub fn text(self, source: &str) -> &str {
        source.get(self.start..self.end).unwrap_or_default()
    }
}

/// A range of physical lines, counted from 1, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lines {
    /// The first line. 0 means "before the text" and is not shown.
    pub first: usize,
    /// The last line.
    pub last: usize,
}

impl Lines {
    /// The lines `first..=last`.
    pub fn new(first: usize, last: usize) -> Self {
        Self { first, last }
    }

    /// One line.
    pub fn single(line: usize) -> Self {
        Self { first: line, last: line }
    }
}

/// A word as written, not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Word {
    /// The text, with continuations joined. Quotes and escapes are still there (flag values have lost theirs).
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Word {
    /// A word at a place.
    pub fn new(text: impl Into<String>, span: Span) -> Self {
        Self { text: text.into(), span }
    }
}

impl AsRef<str> for Word {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The escape character: a backslash or a backtick.
    pub escape: char,
    /// The lines at the top that direct the parser, in order.
    pub directives: Vec<Directive>,
    /// The frontend that the file asks for.
    pub frontend: Option<SyntaxRequest>,
    /// The instructions, in order. One with mistakes in it is here as [`InstructionKind::Invalid`].
    pub instructions: Vec<Instruction>,
    /// The number of physical lines.
    pub line_count: usize,
}

impl File {
    /// Returns the value of the first directive of that name.
    pub fn directive(&self, name: DirectiveName) -> Option<&Directive> {
        self.directives.iter().find(|directive| directive.name == name)
    }
}

/// `# name=value` at the top of the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Directive {
    /// Which.
    pub name: DirectiveName,
    /// The text after `=`, trimmed.
    pub value: Word,
    /// Its line.
    pub line: usize,
}

/// The directives there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirectiveName {
    /// `# syntax=`: the frontend to read the file with.
    Syntax,
    /// `# escape=`: the escape character.
    Escape,
    /// `# check=`: options of the build checks.
    Check,
}

/// An instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The keyword, as written (`from`, `FROM`).
    pub keyword: Word,
    /// What it says.
    pub kind: InstructionKind,
    /// The line it came from, split but not interpreted.
    pub node: Node,
    /// Everything that belongs to it: from the keyword to the end of its last here-document.
    pub span: Span,
    /// The physical lines of `span`.
    pub lines: Lines,
    /// The logical line: continuations joined, comments removed, trimmed.
    pub original: String,
    /// The here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// The block of comment lines directly above.
    pub comments: Vec<Comment>,
}

impl Instruction {
    /// Returns the description that the comments give to `name` (of an ARG or a stage).
    pub fn description_of(&self, name: &str) -> Option<&str> {
        self.comments.iter().find_map(|comment| {
            let rest = comment.text.strip_prefix(name)?;
            rest.strip_prefix(' ')
        })
    }
}

/// A comment line above an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Comment {
    /// The text without its `#`, trimmed. (An indented comment keeps the `#`.)
    pub text: String,
    /// The whole line.
    pub span: Span,
    /// Its line.
    pub line: usize,
}

/// A logical line, split into keyword, flags and arguments by the rules of its keyword.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The keyword, as written.
    pub keyword: Word,
    /// The flags, as `--name` or `--name=value`, without quotes and escapes.
    pub flags: Vec<Word>,
    /// The arguments. ENV and LABEL have three for each pair: key, value, and `=` or nothing.
    pub arguments: Vec<Word>,
    /// Whether the arguments were written as a JSON array.
    pub json: bool,
    /// The instruction inside an ONBUILD.
    pub nested: Option<Box<Node>>,
    /// Where the arguments stand: after the keyword and the flags.
    pub rest: Span,
}

/// `<<NAME` and its body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heredoc {
    /// The name, without quotes.
    pub name: String,
    /// The number before `<<`, or 0.
    pub file_descriptor: u32,
    /// `<<-`: leading tabs are not part of the content.
    pub chomp: bool,
    /// Whether variables in it are expanded (no part of the name is quoted).
    pub expand: bool,
    /// The lines between, exactly as written (tabs included).
    pub content: String,
    /// Where the content stands.
    pub span: Span,
}

impl Heredoc {
    /// Returns the content, without leading tabs if the here-document says so.
    pub fn body(&self) -> String {
        if self.chomp { super::heredoc::chomp(&self.content) } else { self.content.clone() }
    }
}

/// An instruction, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// `FROM`.
    From(From),
    /// `RUN`.
    Run(Run),
    /// `CMD`.
    Cmd(CommandLine),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `SHELL`.
    Shell(Vec<Word>),
    /// `ENV`.
    Env(Pairs),
    /// `LABEL`.
    Label(Pairs),
    /// `ARG`.
    Arg(Vec<Argument>),
    /// `COPY`.
    Copy(Copy),
    /// `ADD`.
    Add(Add),
    /// `WORKDIR`.
    Workdir(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`.
    Volume(Vec<Word>),
    /// `EXPOSE`; the arguments are sorted bytewise.
    Expose(Vec<Word>),
    /// `STOPSIGNAL`.
    Stopsignal(Word),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `MAINTAINER`.
    Maintainer(Word),
    /// `ONBUILD`.
    Onbuild(Onbuild),
    /// Something that is not an instruction, or one with mistakes; a diagnostic says which.
    Invalid,
}

impl InstructionKind {
    /// Returns the name of the instruction in upper case, nothing for an invalid one.
    pub fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::From(_) => "FROM",
            Self::Run(_) => "RUN",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Shell(_) => "SHELL",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Arg(_) => "ARG",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
            Self::Workdir(_) => "WORKDIR",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Expose(_) => "EXPOSE",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Invalid => return None,
        })
    }
}

/// `FROM [--platform=…] image [AS name]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// `--platform`, not expanded.
    pub platform: Option<Word>,
    /// The image or stage, not expanded.
    pub image: Word,
    /// The word `AS`, as written.
    pub as_keyword: Option<Word>,
    /// The name of the stage, as written.
    pub name: Option<Word>,
}

impl From {
    /// Returns the name of the stage in lower case, as stages are known.
    pub fn stage_name(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.text.to_lowercase())
    }
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: RunCommand,
    /// `--mount` values; [`super::mount::parse`] reads them when the instruction is reached.
    pub mounts: Vec<Word>,
    /// `--device`.
    pub devices: Vec<Device>,
    /// `--network`; nothing when not given.
    pub network: Option<RunNetwork>,
    /// `--security`.
    pub security: Security,
}

/// The command of a RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCommand {
    /// Given to the shell. With here-documents on the line, their bodies and terminators are in the text.
    Shell(Word),
    /// The JSON form: an argument vector.
    Exec(Vec<Word>),
    /// A single here-document and nothing else.
    Script(Script),
}

/// The body of a here-document that is the whole command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The name of the here-document, which is the name of the script file.
    pub name: String,
    /// The text, leading tabs removed where `<<-` says so.
    pub body: String,
    /// Whether it starts with `#!`, so that it is run as a file.
    pub is_program: bool,
    /// The line as written (`<<EOF`), for display.
    pub written: Word,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunNetwork {
    /// What the request says.
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Security {
    /// Confined.
    #[default]
    Sandbox,
    /// All privileges.
    Insecure,
}

/// The command of CMD, ENTRYPOINT and HEALTHCHECK CMD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// One text for the shell.
    Shell(Word),
    /// The JSON form.
    Exec(Vec<Word>),
}

/// The arguments of ENV and LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// The pairs, in order.
    pub pairs: Vec<Pair>,
    /// `ENV key value` instead of `ENV key=value`.
    pub legacy: bool,
}

/// `key=value`, both not expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Before the first `=`.
    pub key: Word,
    /// After it.
    pub value: Word,
}

/// `name[=default]` of an ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name; never expanded.
    pub name: Word,
    /// The default, not expanded.
    pub default: Option<Word>,
    /// What the comment above says of it.
    pub description: Option<String>,
}

/// What COPY and ADD have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The sources that are not here-documents, not expanded.
    pub paths: Vec<Word>,
    /// The sources that are here-documents; they come after all paths.
    pub inline: Vec<InlineFile>,
    /// The destination, not expanded.
    pub destination: Word,
    /// Whether the arguments were written as a JSON array.
    pub json: bool,
    /// `--chown`, not expanded.
    pub chown: Option<Word>,
    /// `--chmod`, not expanded.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order; never expanded.
    pub excludes: Vec<Word>,
}

/// A here-document as a file to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name, which is what ends it, and never expanded.
    pub name: Word,
    /// Its text, leading tabs removed where `<<-` says so.
    pub content: String,
    /// Whether variables in it are expanded.
    pub expand: bool,
}

/// `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Sources, destination and the flags shared with ADD.
    pub sources: Sources,
    /// `--from`; nothing when not given or empty.
    pub from: Option<Word>,
    /// `--parents`.
    pub parents: bool,
}

/// `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Sources, destination and the flags shared with COPY.
    pub sources: Sources,
    /// `--checksum`, not expanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, if given.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK CMD`.
    Cmd(Probe),
}

/// A command that says whether a container is healthy. Times are 0 when not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The command.
    pub command: CommandLine,
    /// `--interval`.
    pub interval: Nanoseconds,
    /// `--timeout`.
    pub timeout: Nanoseconds,
    /// `--start-period`.
    pub start_period: Nanoseconds,
    /// `--start-interval`.
    pub start_interval: Nanoseconds,
    /// `--retries`; 0 when not given.
    pub retries: u32,
}

/// `ONBUILD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger as it is stored in the image: its line, then the bodies of its here-documents.
    pub trigger: String,
}
