//! RUN: a command, and what is mounted while it runs.

use super::assembly::{MAIN_CONTEXT, Tree};
use super::mounts::{self, Surroundings};
use super::name::summary;
use super::outline::OutlineMount;
use super::prepare::{FilesFrom, mount_source};
use super::stage::{Step, Worker};
use super::stages::error;
use super::{arguments, path};
use crate::dockerfile::ast::{Run, RunCommand, RunNetwork, Security as WrittenSecurity};
use crate::dockerfile::mount::{self, Mount as WrittenMount, MountKind as WrittenKind};
use crate::dockerfile::{Diagnostic, hint};
use crate::graph::{
    Copy, CopyFrom, Edge, Exec, FileAction, FileOp, Mode, Mount, MountKind, Network, Op, Security, Vertex,
};

/// Where a script with a `#!` line is mounted.
const PIPES: &str = "/dev/pipes";

impl Worker<'_> {
    pub(super) fn run(&mut self, step: Step<'_>, run: &Run) -> Result<(), Diagnostic> {
        let (args, line, script) = self.command(step, run);
        if args.is_empty() {
            return Err(error("empty-command", "failed to marshal LLB definition: arguments are required")
                .hint("give the command as `RUN [\"program\", \"argument\"]`"));
        }
        let mut inputs = vec![self.state.edge];
        let mut mounts = Vec::new();
        if let Some((name, body)) = script {
            let edge = self.script(&name, body);
            mounts.push(bind(&mut inputs, PIPES, edge));
        }
        let mut ssh_count = 0;
        for word in &run.mounts {
            let written = self.read_mount(step, &word.text)?;
            let mount = self.mount(&written, &mut inputs, ssh_count)?;
            ssh_count += usize::from(written.kind == WrittenKind::Ssh);
            match &mount.kind {
                MountKind::Secret { id, required, .. } => {
                    self.gathered.secrets.push(OutlineMount { id: id.clone(), required: *required, lines: step.lines });
                }
                MountKind::Ssh { id, required, .. } => {
                    self.gathered.ssh.push(OutlineMount { id: id.clone(), required: *required, lines: step.lines });
                }
                _ => {}
            }
            mounts.push(mount);
        }
        let secrets: Vec<String> = mounts.iter().filter_map(secret_variable).collect();
        let shown = self.display(step, &line, &secrets);
        let name = self.name(&shown);
        let copied = self.state.environment.size() + self.state.arguments.names().len();
        self.assembly.spend(2 * copied)?;
        let history = format!("RUN {}{} # buildkit", self.argument_prefix(), args.join(" "));
        let request = &self.prepared.request;
        let exec = Exec {
            args,
            env: self.state.environment.entries(),
            cwd: path::rooted(&self.state.cwd.replace('\\', "/")),
            user: self.state.config.config.user.clone(),
            hostname: request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned().unwrap_or_default(),
            extra_hosts: request.extra_hosts.iter().map(|(name, ip)| (name.to_lowercase(), ip.clone())).collect(),
            network: match run.network {
                None | Some(RunNetwork::Default) => request.network,
                Some(RunNetwork::None) => Network::None,
                Some(RunNetwork::Host) => Network::Host,
            },
            security: match run.security {
                WrittenSecurity::Sandbox => Security::Sandbox,
                WrittenSecurity::Insecure => Security::Insecure,
            },
            mounts,
            proxy_env: arguments::proxy_variables(&request.build_args),
            ulimits: request.ulimits.clone(),
            shm_size: request.shm_size,
            cgroup_parent: request.cgroup_parent.clone(),
            devices: run.devices.iter().map(|device| (device.name.clone(), device.required)).collect(),
        };
        let edge = self.push(step, Op::Exec(exec), inputs, name);
        self.layer(history, edge);
        Ok(())
    }

    /// Returns the arguments, the line to show, and the script to mount, if any: its name and text.
    fn command(&self, step: Step<'_>, run: &Run) -> (Vec<String>, String, Option<(String, String)>) {
        let line = step.instruction.original.clone();
        let in_shell = |text: &str| {
            let mut args = self.shell();
            args.push(text.to_owned());
            args
        };
        match &run.command {
            RunCommand::Exec(words) => (words.iter().map(|word| word.text.clone()).collect(), line, None),
            RunCommand::Shell(word) => (in_shell(&word.text), line, None),
            RunCommand::Script(script) => {
                let line = format!("{line} ({})", summary(&script.body));
                if script.is_program && self.state.platform.os != "windows" {
                    let args = in_shell(&format!("{PIPES}/{}", script.name));
                    (args, line, Some((script.name.clone(), script.body.clone())))
                } else {
                    (in_shell(&script.body), line, None)
                }
            }
        }
    }

    /// Adds a file system that holds a script and nothing else.
    fn script(&mut self, name: &str, body: String) -> Edge {
        let copy = Copy {
            from: CopyFrom::Inline { name: name.to_owned(), data: body.into_bytes() },
            source: format!("/{name}"),
            destination: format!("/{name}"),
            owner: None,
            mode: Some(Mode::Octal(0o755)),
            wildcards: false,
            follow_symlinks: false,
            contents_only: false,
            unpack: false,
            include: None,
            required: Vec::new(),
            exclude: Vec::new(),
        };
        self.assembly.graph.push(Vertex {
            op: Op::File(FileOp { actions: vec![FileAction::Copy(copy)] }),
            inputs: vec![None],
            platform: None,
            name: "[internal] preparing inline document".to_owned(),
            stage: None,
            location: None,
            ignore_cache: false,
        })
    }

    fn read_mount(&mut self, step: Step<'_>, text: &str) -> Result<WrittenMount, Diagnostic> {
        let expansions = std::cell::RefCell::new(Vec::new());
        let read = mount::parse(text, |value| {
            let expansion = self.expand(value)?;
            let text = expansion.text.clone();
            expansions.borrow_mut().push(expansion);
            Ok(text)
        });
        for expansion in expansions.into_inner() {
            self.report_unset(step, "", Some(&expansion));
        }
        read.map_err(|cause| Diagnostic { hint: hint::mount(&cause), ..error("invalid-mount", cause.to_string()) })
    }

    fn mount(
        &mut self,
        written: &WrittenMount,
        inputs: &mut Vec<Option<Edge>>,
        ssh_count: usize,
    ) -> Result<Mount, Diagnostic> {
        let mut around = Surroundings {
            cwd: &self.state.cwd.replace('\\', "/"),
            cache_namespace: self
                .prepared
                .request
                .build_args
                .get("BUILDKIT_CACHE_MOUNT_NS")
                .map(String::as_str)
                .unwrap_or_default(),
            ssh_count,
            input: None,
        };
        let wrong = |cause: mounts::MountError| {
            let hint = match &cause {
                mounts::MountError::Target(_) if written.target.is_none() => {
                    "say where it is to be: `target=/path`; without, it would be the working directory"
                }
                mounts::MountError::Target(_) => "a directory below the root can be mounted on, the root itself not",
                mounts::MountError::SshSource => "leave `source` out: the agent is chosen by `id`",
            };
            error("invalid-mount", cause.to_string()).hint(hint)
        };
        // What is wrong with a mount is said before its source is looked for.
        let mount = mounts::lower(written, &around).map_err(wrong)?;
        if !matches!(written.kind, WrittenKind::Bind | WrittenKind::Cache) {
            return Ok(mount);
        }
        let source = path::rooted(written.source.as_deref().unwrap_or_default());
        let tree = match written.from.as_deref() {
            Some(name) => self.mounted_tree(name, &mount.target)?,
            None if written.kind == WrittenKind::Bind => main_context(),
            None => return Ok(mount),
        };
        let edge = self.assembly.edge(&tree, [&*source]);
        around.input = Some(inputs.len());
        inputs.push(edge);
        mounts::lower(written, &around).map_err(wrong)
    }

    fn mounted_tree(&mut self, name: &str, target: &str) -> Result<Tree, Diagnostic> {
        match mount_source(name, &self.prepared.stages) {
            FilesFrom::Stage(stage) => self.stage_tree(stage).ok_or_else(|| {
                let message = format!(
                    "cannot mount from stage {name:?} to {target:?}, stage needs to be defined before current command"
                );
                error("stage-order", message)
            }),
            FilesFrom::Outside(name) => self.outside_tree(&name),
        }
    }

    /// Returns the files of a stage that has been worked through.
    pub(super) fn stage_tree(&self, stage: usize) -> Option<Tree> {
        self.done.get(stage)?.as_ref().map(|state| state.tree.clone())
    }

    /// Returns the files of a context or an image.
    pub(super) fn outside_tree(&mut self, name: &str) -> Result<Tree, Diagnostic> {
        let platform = self.prepared.heads[self.index].platform.clone();
        let origin = self.prepared.outside(name, &platform)?;
        self.assembly.tree(&origin, &platform, self.prepared, &mut |image| format!("FROM {image}"))
    }

    /// Returns `|2 a=1 b= `: the arguments of the stage with what they are worth now.
    fn argument_prefix(&self) -> String {
        let names = self.state.arguments.names();
        if names.is_empty() {
            return String::new();
        }
        let mut out = format!("|{} ", names.len());
        for name in names {
            let value = self.state.environment.get(name).unwrap_or_default();
            out.push_str(&format!("{name}={value} "));
        }
        out
    }
}

/// Returns the directory that is being built.
pub(super) fn main_context() -> Tree {
    Tree::Local { name: MAIN_CONTEXT.to_owned(), label: "[internal] load build context".to_owned() }
}

fn bind(inputs: &mut Vec<Option<Edge>>, target: &str, edge: Edge) -> Mount {
    inputs.push(Some(edge));
    let kind = MountKind::Bind { input: inputs.len() - 1, source: "/".to_owned() };
    Mount { target: target.to_owned(), read_only: true, kind }
}

fn secret_variable(mount: &Mount) -> Option<String> {
    match &mount.kind {
        MountKind::Secret { env, .. } => env.clone(),
        _ => None,
    }
}
