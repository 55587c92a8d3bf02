//! `kiln build`.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use kiln_builder::{
    BuildError, BuildRequest, BuildResult, Client, Destination, Entitlement, Output, ShellRequest, Steps,
};
use kiln_frontend::dockerfile::csv;
use kiln_frontend::lower;
use kiln_oci::Platform;
use kiln_registry_client::DockerConfig;
use kiln_runtime::Isolation;

use super::call::{Call, Method};
use super::shell;
use crate::input::context::{self, LocalContexts};
use crate::input::origin::{self, Origin, Wanted};
use crate::input::resources::ResourceFlags;
use crate::input::results::{LocalResults, write_file};
use crate::input::secret::{Lent, NamedSecrets};
use crate::input::ssh::NamedAgents;
use crate::input::{build_arg, cache, output, value};
use crate::message::{self, Failure, SourceText};
use crate::progress::{Display, Mode};
use crate::state::Ground;
use crate::{interrupt, metadata, summary};

/// The arguments of `kiln build`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The context: a directory, a git or http URL, or `-` for an archive or a Dockerfile on standard input
    #[arg(value_name = "PATH")]
    context: String,
    /// Name the image, as `NAME[:TAG]`; may be given several times
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// Read this build file: a path from the current directory, a URL, or `-` for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Leave out of the context what this file says, instead of its `.dockerignore`
    #[arg(long = "ignorefile", value_name = "FILE")]
    ignore_file: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Set build arguments from a file of `NAME=VALUE` lines; those of the command line win
    #[arg(long = "build-arg-file", value_name = "FILE")]
    build_arg_files: Vec<PathBuf>,
    /// Stop at this stage
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Add a label to the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Look in this cache for what is not in the store: an image with its cache in it, or `type=registry,ref=NAME`
    #[arg(long = "cache-from", value_name = "NAME")]
    cache_from: Vec<String>,
    /// Write what others need to find what was built: `type=inline` writes it into the image
    #[arg(long = "cache-to", value_name = "CACHE")]
    cache_to: Vec<String>,
    /// Run every step again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t, hide_default_value = true, hide_possible_values = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    no_cache: bool,
    /// Run the steps of these stages again
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Ask the registries again what the tags of base images point to
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t, hide_default_value = true, hide_possible_values = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pull: bool,
    /// Add or replace a context: a directory, a URL, `docker-image://NAME`, `oci-layout://PATH`
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    build_contexts: Vec<String>,
    /// Say what to make: a directory, `-` for a tar stream, or `type=TYPE,key=value,…`
    #[arg(short, long = "output", value_name = "OUTPUT")]
    outputs: Vec<String>,
    /// Push the image under all its names
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t, hide_default_value = true, hide_possible_values = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    push: bool,
    /// Put the image into the store, also when other outputs are given
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t, hide_default_value = true, hide_possible_values = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    load: bool,
    /// Build for these platforms; several give an index with an image for each
    #[arg(long = "platform", value_name = "OS/ARCH", env = "DOCKER_DEFAULT_PLATFORM", hide_env = true)]
    platforms: Vec<String>,
    /// Give commands this network: `default`, `none`, `host`
    #[arg(long, value_name = "MODE", default_value = "default", hide_default_value = true)]
    network: String,
    /// Allow what a Dockerfile may not do by itself: `network.host`, `security.insecure`, `device[=NAME]`
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Add a line to the `/etc/hosts` of commands
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    hosts: Vec<String>,
    /// Set the size of `/dev/shm` for commands
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Set a limit for commands
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    #[command(flatten)]
    resources: ResourceFlags,
    /// Offer a secret to the steps that ask for it
    #[arg(long = "secret", value_name = "id=ID,src=FILE|env=NAME")]
    secrets: Vec<String>,
    /// Forward an ssh agent, or keys, to the steps that ask for it
    #[arg(long = "ssh", value_name = "ID[=SOCKET|KEY[,KEY]]")]
    agents: Vec<String>,
    /// Shut commands in by this: `root`, `userns`, `userns-single`, `chroot` [default: the strongest there is]
    #[arg(long, value_name = "KIND")]
    isolation: Option<String>,
    /// Fail where commands would be shut in by less than this
    #[arg(long, value_name = "KIND")]
    require_isolation: Option<String>,
    /// Run at most so many commands at the same time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// End a command that takes longer, such as `90s` or `1h30m`
    #[arg(long, value_name = "DURATION")]
    step_timeout: Option<String>,
    /// Keep what a failed command leaves for `kiln shell`, or open a shell there at once
    #[arg(long, value_name = "WHAT")]
    on_fail: Option<OnFail>,
    /// Show progress in this way [default: auto]
    #[arg(long, value_name = "MODE")]
    progress: Option<Mode>,
    /// Show nothing, and print the image's id when it is done
    #[arg(short, long)]
    quiet: bool,
    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what is known of the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Print the build graph and build nothing
    #[arg(long, value_name = "FORM")]
    print: Option<Form>,
    /// Ask about the build file and build nothing: `check`, `outline`, `targets`, with `,format=json` as JSON
    #[arg(long, value_name = "METHOD[,key=value]")]
    call: Option<String>,
    /// Check the build file and build nothing; the same as `--call=check`
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// Accepted with `false`, for scripts: kiln makes no provenance attestation
    #[arg(long, value_name = "false")]
    provenance: Option<String>,
    /// Accepted with `false`, for scripts: kiln makes no software bill of materials
    #[arg(long, value_name = "false")]
    sbom: Option<String>,
}

/// What is done when a command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnFail {
    /// What it leaves is kept
    Keep,
    /// That, and a shell is opened there
    Shell,
}

/// In which form a graph is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Text, one vertex after the other
    Graph,
    /// JSON
    Json,
    /// The language of Graphviz
    Dot,
}

/// Runs `kiln build`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let begun = Instant::now();
    let current = std::env::current_dir()
        .map_err(|error| BuildError::environment(format!("cannot tell the current directory: {error}")))?;
    let mode = arguments.mode()?;
    arguments.refuse_attestations()?;
    let call = arguments.call()?;
    let place = origin::locate(&arguments.context, &current)?;
    let named = context::named(&arguments.build_contexts, &current)?;
    let lent = arguments.lent(&current)?;
    let mut request = arguments.request(&current, named.values)?;
    output::check_destinations(&request.outputs, io::stdout().is_terminal())?;
    for path in arguments.iidfile.iter().chain(&arguments.metadata_file).filter(|_| call.method == Method::Build) {
        output::check_destination(&Destination::File(path.clone()), false)?;
    }
    for notice in arguments.resources.notices().iter().filter(|_| !matches!(mode, Mode::Quiet | Mode::Rawjson)) {
        let _ = writeln!(io::stderr(), "note: {notice}");
    }
    if arguments.on_fail == Some(OnFail::Shell) && !arguments.opens_shell() && mode != Mode::Rawjson {
        let _ =
            writeln!(io::stderr(), "note: there is no terminal for a shell: a failed step is kept for `kiln shell`");
    }
    let ground = Ground::take(arguments.isolation()?)?;
    if let Some(least) = arguments.least_isolation()? {
        ground.require(least)?;
    }
    let engine = ground.open()?;
    let display = Display::start(if arguments.print.is_some() { Mode::Quiet } else { mode });
    let (steps, cancel) = (Steps::new(display.sink()), interrupt::cancel());
    let fetcher = engine.fetcher(&steps, &lent, &cancel);
    let wanted =
        Wanted { name: arguments.file.as_deref(), current: &current, options: &request.options, cancel: &cancel };
    let Origin { file, path, main, context, time } = origin::find(place, wanted, &fetcher)?;
    drop(fetcher);
    let source = SourceText { name: file.name.clone(), text: String::from_utf8_lossy(&file.text).into_owned() };
    let failed = |error: BuildError| Failure::Error { error, file: Some(source.clone()) };
    request.options.filename.clone_from(&file.name);
    request.build_file = file;
    request.context = context;
    request.options.context_time = time;
    let mut contexts = LocalContexts::new(main, path.as_deref(), named.directories)?;
    if let Some(name) = &arguments.ignore_file {
        contexts = contexts.with_ignore_file(&current.join(name), name)?;
    }
    if let Some(path) = arguments.iidfile.as_ref().filter(|_| call.method == Method::Build) {
        // The id of an earlier build must not be taken for this one's.
        let _ = std::fs::remove_file(path);
    }

    let ignored = contexts.ignored().map(|patterns| request.options.ignore = patterns);
    let client = Client { contexts: &contexts, secrets: &lent, results: &LocalResults::default(), steps, cancel };
    if call.method != Method::Build {
        let answered = call.run(&engine, request, &client, &source, ignored);
        drop(client);
        drop(display);
        return answered;
    }
    ignored?;
    if let Some(form) = arguments.print {
        let plan = engine.plan(&request, &client).map_err(failed)?;
        return super::print(&form.draw(&plan));
    }
    let result = engine.build(&request, &client);
    let cancel = client.cancel.clone();
    drop(client);
    drop(display);
    let result = match result {
        Err(error) if error.is_kept && arguments.opens_shell() => {
            let code = message::code(error.kind);
            message::print(&failed(error));
            shell::open(&engine, ShellRequest::default(), &lent, cancel)?;
            return Err(Failure::Told(code));
        }
        result => result.map_err(failed)?,
    };
    arguments.write_files(&request, &result)?;
    arguments.report(mode, &request, &result, begun)
}

impl Arguments {
    fn mode(&self) -> Result<Mode, BuildError> {
        if self.quiet {
            return match self.progress {
                None | Some(Mode::Quiet) => Ok(Mode::Quiet),
                Some(_) => Err(BuildError::input("`--quiet` and `--progress` do not go together")),
            };
        }
        match self.progress {
            Some(mode) => Ok(mode),
            None => mode_of(&std::env::var("BUILDKIT_PROGRESS").unwrap_or_default()),
        }
    }

    fn opens_shell(&self) -> bool {
        self.on_fail == Some(OnFail::Shell) && shell::has_terminal()
    }

    fn lent(&self, current: &Path) -> Result<Lent, BuildError> {
        let usual = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
        Ok(Lent {
            secrets: NamedSecrets::parse(&self.secrets, current)?,
            agents: NamedAgents::parse(&self.agents, usual, current)?,
        })
    }

    fn isolation(&self) -> Result<Option<Isolation>, BuildError> {
        // `default` is what Docker calls it.
        self.isolation.as_deref().filter(|text| *text != "default").map(value::isolation).transpose()
    }

    fn least_isolation(&self) -> Result<Option<Isolation>, BuildError> {
        self.require_isolation.as_deref().map(value::isolation).transpose()
    }

    fn call(&self) -> Result<Call, BuildError> {
        match &self.call {
            Some(text) => Call::parse(text),
            None => Call::parse(if self.check { "check" } else { "build" }),
        }
    }

    fn refuse_attestations(&self) -> Result<(), BuildError> {
        for (flag, value) in [("provenance", &self.provenance), ("sbom", &self.sbom)] {
            if let Some(value) = value.as_ref().filter(|value| csv::boolean(value) != Some(false)) {
                return Err(BuildError::input(format!("`--{flag}={value}`: kiln makes no attestations yet"))
                    .hint(format!("leave it out, or say `--{flag}=false`")));
            }
        }
        Ok(())
    }

    /// Everything but the build file and the context.
    fn request(
        &self,
        current: &Path,
        contexts: std::collections::BTreeMap<String, String>,
    ) -> Result<BuildRequest, BuildError> {
        let mut names = self.tags.iter().map(|text| value::tag(text)).collect::<Result<Vec<_>, _>>()?;
        let mut outputs = Vec::new();
        for text in &self.outputs {
            let parsed = output::parse(text, current)?;
            names.extend(parsed.names);
            outputs.push(parsed.output);
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.to_string()));
        let outputs = output::combine(outputs, self.push, self.load)?;
        if names.is_empty() && outputs.iter().any(|output| matches!(output, Output::Image { push: true, .. })) {
            return Err(
                BuildError::input("tag is needed when pushing").hint("name the image with `-t REGISTRY/NAME:TAG`")
            );
        }
        let platforms = value::platforms(&self.platforms)?;
        let mut build_args =
            build_arg::all(&self.build_arg_files, &self.build_args, current, |name| std::env::var(name).ok())?;
        build_arg::add_proxies(&mut build_args, DockerConfig::new().proxies());
        let options = lower::Request {
            target: self.target.clone().filter(|target| !target.is_empty()),
            build_args,
            labels: value::labels(&self.labels)?,
            platform: None,
            build_platform: Platform::host(),
            multi_platform: platforms.len() > 1,
            contexts,
            no_cache: self.no_cache,
            no_cache_filter: self.no_cache_filter.clone(),
            network: value::network(&self.network)?,
            extra_hosts: value::hosts(&self.hosts)?,
            shm_size: self.shm_size.as_deref().map(value::shm_size).transpose()?,
            ulimits: value::ulimits(&self.ulimits)?,
            cgroup_parent: self.resources.cgroup_parent.clone(),
            ..lower::Request::default()
        };
        Ok(BuildRequest {
            build_file: kiln_builder::BuildFile { name: String::new(), text: Vec::new() },
            context: None,
            options,
            platforms,
            names,
            outputs,
            cache_from: cache::sources(&self.cache_from)?,
            cache_to: cache::targets(&self.cache_to)?,
            pull: self.pull,
            allowed: self.allowed()?,
            resources: self.resources.read()?,
            jobs: self.jobs.map(|jobs| jobs as usize),
            keeps_failed: self.on_fail.is_some(),
            step_timeout: self.step_timeout.as_deref().map(value::step_timeout).transpose()?,
        })
    }

    fn allowed(&self) -> Result<BTreeSet<Entitlement>, BuildError> {
        let texts = self.allow.iter().filter(|text| !text.is_empty());
        let mut allowed = texts.map(|text| text.parse()).collect::<Result<BTreeSet<_>, _>>()?;
        // Who asks for it on the command line allows it.
        if self.network == "host" {
            allowed.insert(Entitlement::NetworkHost);
        }
        Ok(allowed)
    }

    fn write_files(&self, request: &BuildRequest, result: &BuildResult) -> Result<(), BuildError> {
        let write = |path: &Path, bytes: &[u8]| {
            write_file(path, bytes)
                .map_err(|error| BuildError::environment(format!("cannot write `{}`: {error}", path.display())))
        };
        if let (Some(path), Some(image)) = (&self.iidfile, &result.image) {
            write(path, metadata::id(image).as_bytes())?;
        }
        if let Some(path) = &self.metadata_file {
            write(path, metadata::document(request, result).as_bytes())?;
        }
        Ok(())
    }

    fn report(&self, mode: Mode, request: &BuildRequest, result: &BuildResult, begun: Instant) -> Result<(), Failure> {
        if let (true, Some(image)) = (self.quiet, &result.image)
            && !request.outputs.iter().any(output::to_stdout)
        {
            return super::print(&format!("{}\n", metadata::id(image)));
        }
        if matches!(mode, Mode::Quiet | Mode::Rawjson) {
            return Ok(());
        }
        let mut text = message::draw_warnings(&result.warnings);
        text.push_str(&summary::draw(request, result, begun.elapsed()));
        let _ = io::stderr().lock().write_all(text.as_bytes());
        Ok(())
    }
}

impl Form {
    fn draw(self, plan: &lower::Plan) -> String {
        use kiln_frontend::graph;
        let mut text = match self {
            Self::Graph => graph::print::text(&plan.graph, plan.root),
            Self::Json => graph::print::json(&plan.graph, plan.root),
            Self::Dot => graph::print::dot(&plan.graph, plan.root),
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }
}

/// Reads BUILDKIT_PROGRESS.
fn mode_of(text: &str) -> Result<Mode, BuildError> {
    match text {
        "" => Ok(Mode::Auto),
        text => <Mode as clap::ValueEnum>::from_str(text, true).map_err(|_| {
            BuildError::input(format!("`{text}` in BUILDKIT_PROGRESS is not a way to show progress"))
                .hint("use auto, plain, tty, quiet or rawjson")
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn read(words: &[&str]) -> Arguments {
        Line::try_parse_from([&["build"], words].concat()).unwrap().arguments
    }

    fn request(words: &[&str]) -> Result<BuildRequest, BuildError> {
        read(words).request(Path::new("/here"), Default::default())
    }

    #[test]
    fn flags_become_a_request() {
        let request = request(&[
            "-t",
            "app:1",
            "--tag=app:1",
            "-t",
            "127.0.0.1:5000/app",
            "--target",
            "final",
            "--label",
            "a=b",
            "--no-cache",
            "--pull=true",
            "--push=false",
            "--jobs",
            "3",
            "--platform",
            "linux/amd64",
            "--network=none",
            "--shm-size=1g",
            "--no-cache-filter=a,b",
            "--ulimit",
            "nofile=1:2",
            ".",
        ])
        .unwrap();
        let names: Vec<_> = request.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/library/app:1", "127.0.0.1:5000/app:latest"]);
        assert!(request.pull && request.options.no_cache && request.outputs.is_empty());
        assert_eq!(request.options.no_cache_filter, ["a", "b"]);
        assert_eq!((request.jobs, request.options.shm_size), (Some(3), Some(1 << 30)));
    }

    #[test]
    fn of_a_flag_with_one_value_the_last_counts_and_lists_grow() {
        let arguments = read(&[
            "--target=a",
            "--target",
            "b",
            "-f",
            "x",
            "--file=y",
            "--progress=tty",
            "--progress",
            "plain",
            "-q",
            "-q",
            "--no-cache",
            "--no-cache=false",
            "--pull=false",
            "--pull",
            "--network=host",
            "--network=none",
            "--shm-size=1g",
            "--shm-size=2g",
            "--iidfile=i",
            "--iidfile=j",
            "--check",
            "--check",
            ".",
        ]);
        assert_eq!((arguments.target.as_deref(), arguments.file.as_deref()), (Some("b"), Some("y")));
        assert_eq!((arguments.progress, &*arguments.network), (Some(Mode::Plain), "none"));
        assert!(!arguments.no_cache && arguments.pull && arguments.quiet && arguments.check);
        assert_eq!((arguments.shm_size.as_deref(), arguments.iidfile), (Some("2g"), Some("j".into())));
        let request = request(&[
            "-t",
            "a",
            "-t",
            "b",
            "--build-arg=x=1",
            "--build-arg=x=2",
            "--build-arg=y=3",
            "--label=l=1",
            "--label=l=2",
            "--platform=linux/amd64",
            "--platform=linux/arm64",
            "--no-cache-filter=a",
            "--no-cache-filter=b",
            ".",
        ])
        .unwrap();
        assert_eq!((request.names.len(), request.platforms.len()), (2, 2));
        assert_eq!(request.options.no_cache_filter, ["a", "b"]);
        let arguments = request.options.build_args;
        assert_eq!((&*arguments["x"], &*arguments["y"], &*request.options.labels["l"]), ("2", "3", "2"));
    }

    #[test]
    fn pushing_needs_a_name() {
        let error = request(&["--push", "."]).unwrap_err();
        assert_eq!(error.message, "tag is needed when pushing");
        assert!(error.hint.unwrap().contains("-t"));
        assert!(request(&["-o", "type=registry,name=a/b", "."]).is_ok());
    }

    #[test]
    fn ways_to_show_progress() {
        assert_eq!(read(&["-q", "."]).mode().unwrap(), Mode::Quiet);
        assert!(read(&["-q", "--progress=plain", "."]).mode().is_err());
        assert_eq!(read(&["--progress=rawjson", "."]).mode().unwrap(), Mode::Rawjson);
        assert_eq!(mode_of("PLAIN").unwrap(), Mode::Plain);
        assert!(mode_of("fancy").is_err());
    }

    #[test]
    fn checking_is_a_call() {
        assert_eq!(read(&["--check", "."]).call().unwrap().method, Method::Check);
        assert_eq!(read(&["--call=targets", "."]).call().unwrap().method, Method::Targets);
        assert_eq!(read(&["."]).call().unwrap().method, Method::Build);
    }

    #[test]
    fn attestations_can_only_be_declined() {
        assert!(read(&["--provenance=false", "--sbom=0", "."]).refuse_attestations().is_ok());
        assert!(read(&["--provenance=mode=max", "."]).refuse_attestations().is_err());
    }
}
