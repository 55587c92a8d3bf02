//! One stage: what its instructions do to config, environment and history.

use std::collections::{BTreeMap, HashMap};

use kiln_oci::{History, ImageConfig, Platform};

use super::arguments::{self, Declared, SCAN};
use super::assembly::{Assembly, Tree};
use super::environment::{Environment, index_config};
use super::name::{Namer, with_upper_keyword};
use super::origin::Origin;
use super::outline::Gathered;
use super::prepare::{Base, Prepared};
use super::stages::{error, not_expanded};
use super::{history, workdir};
use crate::check::{Reporter, invalid_base_image_platform, undefined_var};
use crate::dockerfile::expand::{ExpandError, Expander, Expansion};
use crate::dockerfile::{Diagnostic, Instruction, InstructionKind, Lines, Span, Word};
use crate::graph::{Edge, Location, Op, Vertex};

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
    pub(super) config_index: HashMap<String, usize>,
    pub(super) environment: Environment,
    /// The names that ARG declared.
    pub(super) arguments: Declared,
    /// Where relative paths begin.
    pub(super) cwd: String,
    /// Whether there was a WORKDIR, in this stage or one below it in the file.
    pub(super) has_workdir: bool,
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
    pub(super) gathered: &'a mut Gathered,
    pub(super) state: State,
    pub(super) namer: Namer,
    pub(super) index: usize,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage.
    pub(super) latest: BTreeMap<&'static str, &'a Instruction>,
}

/// No more mistakes than this are reported in one run.
const MOST_ERRORS: usize = 50;

/// The stages as they stand in the end, and what was gathered on the way.
pub(super) type Outcome = (Vec<Option<State>>, Gathered);

/// Works through the stages that are wanted, in order.
///
/// A mistake does not end the work, unless what comes after depends on it.
pub(super) fn work_through(
    prepared: &Prepared<'_>,
    assembly: &mut Assembly,
    reporter: &mut Reporter,
) -> Result<Outcome, Vec<Diagnostic>> {
    let mut done: Vec<Option<State>> = vec![None; prepared.stages.list.len()];
    let mut gathered = Gathered::default();
    let mut errors = Vec::new();
    for &index in &prepared.wanted {
        match stage(prepared, index, &done, assembly, reporter, &mut gathered, &mut errors) {
            Some(state) => done[index] = Some(state),
            None => break,
        }
    }
    if errors.is_empty() { Ok((done, gathered)) } else { Err(errors) }
}

/// Returns the stage as it stands in the end; nothing when there is no use in going on.
fn stage(
    prepared: &Prepared<'_>,
    index: usize,
    done: &[Option<State>],
    assembly: &mut Assembly,
    reporter: &mut Reporter,
    gathered: &mut Gathered,
    errors: &mut Vec<Diagnostic>,
) -> Option<State> {
    let stage = &prepared.stages.list[index];
    let triggers = &prepared.triggers[index];
    let mut namer = namer(prepared, index);
    let state = match start(prepared, index, done, assembly, reporter, &mut namer) {
        Ok(state) => state,
        Err(found) => {
            errors.push(at_instruction(found, stage.instruction));
            return None;
        }
    };
    let mut worker =
        Worker { prepared, done, assembly, reporter, gathered, state, namer, index, latest: BTreeMap::new() };
    if matches!(prepared.heads[index].base, Base::Replaced(_)) {
        return Some(worker.state);
    }
    let head = stage.instruction;
    let triggers = triggers.iter().map(|trigger| Step {
        instruction: &trigger.instruction,
        is_trigger: true,
        lines: head.lines,
        span: head.span,
    });
    let own = stage.instructions.iter().map(|&instruction| Step {
        instruction,
        is_trigger: false,
        lines: instruction.lines,
        span: instruction.span,
    });
    for step in triggers.chain(own) {
        let Err(found) = worker.apply(step) else { continue };
        errors.push(found);
        worker.reporter.mute();
        let is_needed = matches!(step.instruction.kind, InstructionKind::Env(_) | InstructionKind::Arg(_));
        if is_needed || errors.len() >= MOST_ERRORS {
            return None;
        }
    }
    Some(worker.state)
}

/// Returns what gives the steps of a stage their names.
fn namer(prepared: &Prepared<'_>, index: usize) -> Namer {
    let stage = &prepared.stages.list[index];
    let head = &prepared.heads[index];
    let counts = |instruction: &Instruction| {
        use InstructionKind::{Add, Copy, Run, Workdir};
        matches!(instruction.kind, Run(_) | Copy(_) | Add(_) | Workdir(_))
    };
    let own = stage.instructions.iter().filter(|instruction| counts(instruction)).count();
    let is_image = match &head.base {
        Base::Outside(name) => matches!(prepared.outside(name, &head.platform), Ok(Origin::Image(_))),
        _ => false,
    };
    Namer {
        platform: prepared.request.multi_platform.then(|| head.platform.clone()),
        stage: (prepared.stages.list.len() > 1).then(|| stage.display()),
        total: usize::from(is_image) + prepared.triggers[index].len() + own,
        done: 0,
    }
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
    assembly.locate(&tree, stage.instruction);
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
        let expansion = self.expand(text).map_err(|cause| not_expanded(&cause));
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
    pub(super) fn note(&mut self, text: String) {
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
            created: self.prepared.epoch.map(|seconds| kiln_oci::rfc3339(seconds, 0)),
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
}
