//! COPY and ADD.

use std::collections::HashMap;

use super::assembly::Tree;
use super::name::redacted;
use super::prepare::{FilesFrom, copy_source};
use super::remote::{self, SourceKind};
use super::run::main_context;
use super::stage::{Step, Worker};
use super::stages::{error, not_expanded};
use super::{owner, path};
use crate::check::copy_ignored_file;
use crate::dockerfile::Diagnostic;
use crate::dockerfile::ast::{Add, Copy as WrittenCopy, Sources};
use crate::dockerfile::expand::Expander;
use crate::dockerfile::mode::FileMode;
use crate::dockerfile::quote::go_quote;
use crate::graph::{Copy, CopyFrom, Edge, FileAction, FileOp, Mode, Op, Owner, Source, Vertex};

/// What COPY and ADD have in common, expanded.
struct Common {
    sources: Vec<String>,
    /// As written, for the history.
    destination: String,
    /// Absolute.
    target: String,
    chown: Option<String>,
    chmod: Option<String>,
    owner: Option<Owner>,
    mode: Option<Mode>,
    /// Name and content of the here-documents.
    inline: Vec<(String, String)>,
}

/// The inputs and actions of one file operation.
struct Actions {
    inputs: Vec<Option<Edge>>,
    /// Where each tree stands among the inputs, but for the first, which is what is worked on.
    places: HashMap<Option<Edge>, usize>,
    actions: Vec<FileAction>,
}

impl Actions {
    /// Returns the index of an input; the same tree is one input.
    fn input(&mut self, edge: Option<Edge>) -> usize {
        *self.places.entry(edge).or_insert_with(|| {
            self.inputs.push(edge);
            self.inputs.len() - 1
        })
    }
}

impl Worker<'_> {
    pub(super) fn copy(&mut self, step: Step<'_>, copy: &WrittenCopy) -> Result<(), Diagnostic> {
        let common = self.common(step, &copy.sources)?;
        for source in &common.sources {
            match remote::kind(source)? {
                SourceKind::Path => {}
                SourceKind::Git => {
                    return Err(error("remote-copy", "source can't be a git ref for COPY").hint("use ADD"));
                }
                SourceKind::Http => return Err(error("remote-copy", "source can't be a URL for COPY").hint("use ADD")),
            }
        }
        let tree = match &copy.from {
            None => main_context(),
            Some(from) => self.copied_tree(&from.text)?,
        };
        if copy.from.is_none() {
            self.check_ignored(step, &common.sources);
        }
        let mut actions = self.actions(copy.sources.link && common.chmod.is_none());
        if !common.sources.is_empty() {
            let edge = self.assembly.edge(&tree, common.sources.iter().map(String::as_str));
            let input = actions.input(edge);
            for source in &common.sources {
                let mut action = self.path_action(source, &common, &copy.sources, input);
                if copy.parents {
                    with_parents(&mut action, source);
                }
                actions.actions.push(FileAction::Copy(action));
            }
        }
        let flags = if copy.parents { "--parents " } else { "" };
        self.finish_copy(step, &common, &copy.sources, actions, format!("COPY {flags}"))
    }

    pub(super) fn add(&mut self, step: Step<'_>, add: &Add) -> Result<(), Diagnostic> {
        let common = self.common(step, &add.sources)?;
        let checksum = match &add.checksum {
            None => None,
            Some(word) => Some(self.word(step, word)?).filter(|checksum| !checksum.is_empty()),
        };
        let kinds: Vec<SourceKind> =
            common.sources.iter().map(|source| remote::kind(source)).collect::<Result<_, _>>()?;
        if checksum.is_some() {
            if common.sources.len() + common.inline.len() > 1 {
                return Err(error("invalid-checksum", "checksum can't be specified for multiple sources"));
            }
            if kinds.iter().all(|kind| *kind == SourceKind::Path) {
                return Err(error("invalid-checksum", "checksum requires HTTP(S) or Git sources"));
            }
        }
        let local: Vec<String> = common
            .sources
            .iter()
            .zip(&kinds)
            .filter(|(_, kind)| **kind == SourceKind::Path)
            .map(|(source, _)| source.clone())
            .collect();
        self.check_ignored(step, &local);
        let mut actions = self.actions(add.sources.link && common.chmod.is_none());
        for (source, kind) in common.sources.iter().zip(&kinds) {
            let action = match kind {
                SourceKind::Path => {
                    let edge = self.assembly.edge(&main_context(), [&**source]);
                    let input = actions.input(edge);
                    let action = self.path_action(source, &common, &add.sources, input);
                    Copy { unpack: add.unpack.unwrap_or(true), ..action }
                }
                SourceKind::Git => {
                    let git = remote::git_source(source, add.keep_git_dir, checksum.as_deref())?;
                    let edge = self.fetched(step, git, source);
                    let input = actions.input(Some(edge));
                    remote_action("/".to_owned(), &common, &add.sources, input)
                }
                SourceKind::Http => {
                    let (http, name) = remote::http_source(source, checksum.as_deref())?;
                    let edge = self.fetched(step, http, source);
                    let input = actions.input(Some(edge));
                    let action = remote_action(format!("/{name}"), &common, &add.sources, input);
                    Copy { unpack: add.unpack.unwrap_or(false), ..action }
                }
            };
            actions.actions.push(FileAction::Copy(action));
        }
        self.finish_copy(step, &common, &add.sources, actions, "ADD ".to_owned())
    }

    /// Adds the vertex of a source that comes from the network.
    fn fetched(&mut self, step: Step<'_>, source: Source, url: &str) -> Edge {
        let edge = self.assembly.source(source, None, redacted(url));
        self.assembly.locate(&Tree::Edge(Some(edge)), step.instruction);
        edge
    }

    fn common(&mut self, step: Step<'_>, written: &Sources) -> Result<Common, Diagnostic> {
        let mut sources = Vec::with_capacity(written.paths.len());
        for word in &written.paths {
            sources.push(self.word(step, word)?);
        }
        let destination = self.word(step, &written.destination)?;
        let chown = match &written.chown {
            None => None,
            Some(word) => Some(self.word(step, word)?).filter(|text| !text.is_empty()),
        };
        let chmod = match &written.chmod {
            None => None,
            Some(word) => Some(self.word(step, word)?).filter(|text| !text.is_empty()),
        };
        let mut inline = Vec::with_capacity(written.inline.len());
        for file in &written.inline {
            let name = inline_name(&file.name.text)?;
            inline.push((name, self.body(step, &file.content, file.expand)?));
        }
        let mode = chmod.as_deref().map(mode).transpose()?;
        let target = path::copy_destination(&self.state.cwd.replace('\\', "/"), &destination);
        path::check_length("open", &target)?;
        Ok(Common {
            target,
            sources,
            destination,
            owner: chown.as_deref().map(owner::parse),
            chown,
            chmod,
            mode,
            inline,
        })
    }

    /// Expands the body of a here-document.
    fn body(&mut self, step: Step<'_>, content: &str, expand: bool) -> Result<String, Diagnostic> {
        if !expand {
            return Ok(content.to_owned());
        }
        let environment = &self.state.environment;
        let expansion = Expander::for_heredoc(&|name| environment.get(name)).process_word_with_matches(content);
        let expansion = expansion.map_err(|cause| not_expanded(&cause))?;
        self.report_unset(step, "", Some(&expansion));
        Ok(expansion.text)
    }

    fn copied_tree(&mut self, from: &str) -> Result<Tree, Diagnostic> {
        match copy_source(from, &self.prepared.stages, self.prepared.escape)? {
            FilesFrom::Stage(stage) => self.stage_tree(stage).ok_or_else(|| {
                let current = self.prepared.stages.list[self.index].display();
                let message = format!(
                    "cannot copy from stage {}, it needs to be defined before current stage {}",
                    go_quote(from),
                    go_quote(&current)
                );
                error("stage-order", message)
            }),
            FilesFrom::Outside(name) => self.outside_tree(&name),
        }
    }

    fn check_ignored(&mut self, step: Step<'_>, sources: &[String]) {
        if step.is_trigger {
            return;
        }
        for source in sources {
            copy_ignored_file::check(step.instruction, source, self.prepared.request.ignore.as_ref(), self.reporter);
        }
    }

    /// Begins a file operation: on the stage, or on nothing when the result is linked.
    fn actions(&self, is_linked: bool) -> Actions {
        let base = if is_linked { None } else { self.state.edge };
        Actions { inputs: vec![base], places: HashMap::new(), actions: Vec::new() }
    }

    fn path_action(&self, source: &str, common: &Common, written: &Sources, input: usize) -> Copy {
        Copy {
            from: CopyFrom::Input(input),
            source: path::rooted(source),
            destination: common.target.clone(),
            owner: common.owner.clone(),
            mode: common.mode.clone(),
            wildcards: true,
            follow_symlinks: true,
            contents_only: true,
            unpack: false,
            include: None,
            required: Vec::new(),
            exclude: excludes(written),
        }
    }

    /// Adds the here-documents and the vertices, and the history entry.
    fn finish_copy(
        &mut self,
        step: Step<'_>,
        common: &Common,
        written: &Sources,
        mut actions: Actions,
        mut history: String,
    ) -> Result<(), Diagnostic> {
        for (name, content) in &common.inline {
            actions.actions.push(FileAction::Copy(Copy {
                from: CopyFrom::Inline { name: name.clone(), data: content.clone().into_bytes() },
                wildcards: false,
                follow_symlinks: false,
                contents_only: false,
                ..remote_action(path::rooted(name), common, written, 0)
            }));
        }
        if let Some(chown) = &common.chown {
            history.push_str(&format!("--chown={chown} "));
        }
        if let Some(chmod) = &common.chmod {
            history.push_str(&format!("--chmod={chmod} "));
        }
        for source in &common.sources {
            history.push_str(&format!("{source} "));
        }
        for (name, _) in &common.inline {
            history.push_str(&format!("<<{name} "));
        }
        history.push_str(&format!("{} # buildkit", common.destination));

        let shown = self.display(step, &step.instruction.original, &[]);
        let name = self.name(&shown);
        let is_linked = written.link && common.chmod.is_none();
        let copied = self.push(step, Op::File(FileOp { actions: actions.actions }), actions.inputs, name.clone());
        let edge = match (is_linked, self.state.edge) {
            (true, Some(base)) => self.merge(base, copied, &name),
            _ => copied,
        };
        self.layer(history, edge);
        Ok(())
    }

    fn merge(&mut self, base: Edge, copied: Edge, name: &str) -> Edge {
        let made = self.assembly.graph.vertex(copied.vertex);
        let vertex = Vertex {
            op: Op::Merge,
            inputs: vec![Some(base), Some(copied)],
            platform: None,
            name: format!("LINK {name}"),
            stage: made.stage.clone(),
            location: made.location.clone(),
            ignore_cache: false,
        };
        self.assembly.graph.push(vertex)
    }
}

/// Returns the name of the file that a here-document becomes: what ends it, as it is written, variables and all.
fn inline_name(name: &str) -> Result<String, Diagnostic> {
    if name.contains('/') {
        return Err(error("heredoc-name", format!("open {}: no such file or directory", path::rooted(name)))
            .hint("the name of a here-document is the name of a file: leave the slash out, and name the directory as destination"));
    }
    path::check_length("open", &path::rooted(name))?;
    Ok(name.to_owned())
}

fn excludes(written: &Sources) -> Vec<String> {
    written.excludes.iter().map(|word| word.text.clone()).collect()
}

/// A copy of what has been brought: as it is, without wildcards and links.
fn remote_action(source: String, common: &Common, written: &Sources, input: usize) -> Copy {
    Copy {
        from: CopyFrom::Input(input),
        source,
        destination: common.target.clone(),
        owner: common.owner.clone(),
        mode: common.mode.clone(),
        wildcards: false,
        follow_symlinks: false,
        contents_only: false,
        unpack: false,
        include: None,
        required: Vec::new(),
        exclude: excludes(written),
    }
}

/// Makes a copy of one that keeps the directories above its source, from `/./` on.
fn with_parents(action: &mut Copy, source: &str) {
    let (base, pattern) = source.split_once("/./").unwrap_or(("/", source));
    let pattern = path::rooted(pattern)[1..].to_owned();
    if !path::has_wildcards(base) && !path::has_wildcards(&pattern) {
        action.required = vec![pattern.clone()];
    }
    action.source = path::rooted(base);
    action.include = Some(vec![pattern]);
    if !action.destination.ends_with('/') {
        action.destination.push('/');
    }
}

/// Reads `--chmod`.
fn mode(text: &str) -> Result<Mode, Diagnostic> {
    match text.parse::<FileMode>() {
        Ok(FileMode::Octal(mode)) => Ok(Mode::Octal(mode)),
        Ok(FileMode::Symbolic(_)) => Ok(Mode::Symbolic(text.to_owned())),
        Err(cause) => Err(error("invalid-chmod", cause.to_string())
            .hint("write octal digits such as `755`, or changes such as `u=rwX,go=rX`")),
    }
}
