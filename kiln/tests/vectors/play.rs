//! Playing a case: its builds in order, in one state directory, each compared.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kiln_testkit::context::{self, Entry};
use kiln_testkit::{Bed, Kiln, Need, Ordinary, host};

use crate::archive::Archive;
use crate::base::base;
use crate::case::{Case, NamedContext, Options, Stdin};
use crate::compare::{Outcome, compare};
use crate::files::{Tree, Whiteouts, apply, list, list_folder, now};
use crate::image::observe;
use crate::progress::Progress;
use crate::servers::Servers;

/// What can go wrong while a result is read.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Builds a case of the file named `file`, as root or as somebody else, and says what is wrong.
///
/// # Errors
/// With one line for every difference from what is recorded.
pub fn play(case: &Case, file: &str, user: Option<Ordinary>) -> std::result::Result<(), String> {
    if lacks(case, user) {
        return Ok(());
    }
    let stage = Stage::new(case, file).map_err(|error| format!("cannot prepare the case: {error}"))?;
    let mut wrong = Vec::new();
    let mut given = Given::default();
    for (number, build) in case.builds().iter().enumerate() {
        let (kiln, output) = stage.prepare(&mut given, build, number).map_err(|error| error.to_string())?;
        let ended = match user {
            Some(user) => kiln.ordinary(&stage.bed, user),
            None => kiln,
        }
        .run();
        let outcome = stage.observe(&ended, &output).map_err(|error| format!("build {number}: {error}\n{ended}"))?;
        if !case.is_comparable() {
            // The recorded result is wrong and the right one unknown; it must end in good order.
            assert!(ended.status.code().is_some_and(|code| code != 101), "{ended}");
            continue;
        }
        let differences = compare(&build.expected(), &outcome, &stage.servers);
        if !differences.is_empty() {
            let differences: Vec<_> = differences.iter().map(|line| format!("build {number}: {line}")).collect();
            wrong.push(format!("{}\n\n{}\n{}", differences.join("\n"), ended.command, outcome.said));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n\n")) }
}

/// Whether this machine cannot play the case. On a machine of the recorded kind it can, or
/// something is not installed, which is a failure.
fn lacks(case: &Case, user: Option<Ordinary>) -> bool {
    let mut needs = vec![Need::Root, Need::Tool("busybox")];
    if user.is_some() {
        needs.extend(["unshare", "setpriv", "newuidmap"].map(Need::Tool));
    }
    let mut missing = host().lacks(&needs);
    for word in &case.requires {
        match &**word {
            "git" => needs.push(Need::Tool("git")),
            "amd64" if cfg!(not(target_arch = "x86_64")) => {
                eprintln!("{}: not run: needs an amd64 machine", case.name);
                missing = true;
            }
            // What the program has to bring, and what a root can do.
            "amd64" | "root" | "mknod" | "network.host" | "security.insecure" => {}
            other => panic!("{}: needs {other}, which we do not know", case.name),
        }
    }
    missing || host().lacks(&needs)
}

/// What is kept from one build of a sequence to the next.
#[derive(Default)]
struct Given {
    dockerfile: Option<String>,
    tar: Vec<Entry>,
}

/// Where a result was put.
struct Output {
    kind: String,
    path: PathBuf,
}

/// The folders, servers and options of a case.
struct Stage<'a> {
    case: &'a Case,
    bed: Bed,
    servers: Servers,
    since: i64,
    /// Whether the results are images on the base image; else they are lists of files.
    on_base: bool,
    no_options: Options,
}

impl<'a> Stage<'a> {
    fn new(case: &'a Case, file: &str) -> Result<Self> {
        let bed = Bed::new(env!("CARGO_BIN_EXE_kiln"));
        fs::create_dir(bed.path("tmp"))?;
        context::make(&bed.path("ctx"), &case.context)?;
        context::make(&bed.path("df"), case.dockerfile_dir.as_deref().unwrap_or_default())?;
        let on_base = file == "build";
        Ok(Self { case, bed, servers: Servers::of(case)?, since: now(), on_base, no_options: Options::default() })
    }

    /// Makes the files of a build, and its command line.
    fn prepare(&self, given: &mut Given, build: &Case, number: usize) -> Result<(Kiln, Output)> {
        let options = build.options.as_ref().or(self.case.options.as_ref()).unwrap_or(&self.no_options);
        context::edit(&self.bed.path("ctx"), &build.edits)?;
        if let Some(dockerfile) = build.dockerfile.as_ref().or(self.case.dockerfile.as_ref().filter(|_| number == 0)) {
            let text = self.servers.name(dockerfile);
            self.bed.write("df/Dockerfile", &text);
            given.dockerfile = Some(text);
        }
        if let Some(tar) = build.tar.as_ref().or(self.case.tar.as_ref().filter(|_| number == 0)) {
            given.tar.clone_from(tar);
        }
        let mut kiln = self.bed.kiln(["build", "--progress=rawjson"]);
        kiln = kiln.env("TMPDIR", self.bed.path("tmp")).folder(self.bed.path("tmp")).limit(Duration::from_secs(120));
        for (name, value) in &options.env {
            kiln = kiln.env(name, value);
        }
        kiln = kiln.args(flags(options));
        kiln = kiln.args(self.secrets(options)?);
        kiln = kiln.args(self.contexts(options)?);
        let output = self.output(options, number);
        let attributes: String = options.output_attrs.iter().map(|(key, value)| format!(",{key}={value}")).collect();
        kiln = kiln.arg("-o").arg(format!("type={},dest={}{attributes}", output.kind, output.path.display()));
        kiln = kiln.args(&options.extra);
        kiln = self.dockerfile(kiln, options, given)?;
        let from_stdin = matches!(options.stdin, Some(Stdin::Context | Stdin::Tar));
        kiln = if from_stdin { kiln.arg("-") } else { kiln.arg(self.bed.path("ctx")) };
        Ok((kiln, output))
    }

    /// How the Dockerfile is given.
    fn dockerfile(&self, kiln: Kiln, options: &Options, given: &Given) -> Result<Kiln> {
        let path = |name: &str| self.bed.path(name).display().to_string();
        Ok(match (options.stdin, &options.file, &given.dockerfile) {
            (Some(Stdin::Dockerfile), _, text) => kiln.args(["-f", "-"]).input(text.clone().unwrap_or_default()),
            (Some(Stdin::Context), _, text) => kiln.input(text.clone().unwrap_or_default()),
            (Some(Stdin::Tar), ..) => kiln.input(context::archive(&given.tar, options.compression)?),
            (None, Some(file), _) => {
                kiln.arg("-f").arg(file.replace("{CTX}", &path("ctx")).replace("{DF}", &path("df")))
            }
            (None, None, Some(_)) => kiln.arg("-f").arg(path("df/Dockerfile")),
            (None, None, None) => kiln,
        })
    }

    fn secrets(&self, options: &Options) -> Result<Vec<String>> {
        let mut flags = Vec::new();
        for (index, secret) in options.secrets.iter().enumerate() {
            let value = match &secret.env {
                Some(name) => format!("env={name}"),
                None => {
                    let path = self.bed.write(format!("tmp/secret{index}"), secret.file.bytes()?);
                    format!("src={}", path.display())
                }
            };
            flags.extend(["--secret".to_owned(), format!("id={},{value}", secret.id)]);
        }
        Ok(flags)
    }

    fn contexts(&self, options: &Options) -> Result<Vec<String>> {
        let layout = format!("oci-layout://{}:latest", base().layout.display());
        let mut flags = Vec::new();
        let contexts = &options.build_contexts;
        if !contexts.contains_key("busybox") && (self.on_base || !contexts.is_empty()) {
            flags.extend(["--build-context".to_owned(), format!("busybox={layout}")]);
        }
        for (name, value) in contexts {
            let value = match value {
                None => layout.clone(),
                Some(NamedContext::Text(value)) => self.servers.name(value),
                Some(NamedContext::Build { build }) => {
                    let folder = self.bed.path(format!("out{build}.layout"));
                    Archive::open(&self.bed.path(format!("out{build}.tar")))?.unpack(&folder)?;
                    format!("oci-layout://{}:latest", folder.display())
                }
                Some(NamedContext::Folder { context }) => {
                    let folder = self.bed.path(format!("named-{}", name.replace('/', "_")));
                    if folder.exists() {
                        fs::remove_dir_all(&folder)?;
                    }
                    context::make(&folder, context)?;
                    folder.display().to_string()
                }
            };
            flags.extend(["--build-context".to_owned(), format!("{name}={value}")]);
        }
        Ok(flags)
    }

    fn output(&self, options: &Options, number: usize) -> Output {
        let usual = if self.on_base { "oci" } else { "tar" };
        let kind = options.output.clone().unwrap_or_else(|| usual.to_owned());
        let end = if kind == "local" { "" } else { ".tar" };
        Output { path: self.bed.path(format!("out{number}{end}")), kind }
    }

    /// Reads what the program said and made.
    fn observe(&self, ended: &kiln_testkit::Outcome, output: &Output) -> Result<Outcome> {
        let folder = self.bed.path("").display().to_string();
        let progress = Progress::read(&ended.stderr.replace(folder.trim_end_matches('/'), "{DIR}"));
        let mut seen = match (ended.status.success(), &*output.kind) {
            (false, _) => [("error".to_owned(), progress.error())].into_iter().collect(),
            (true, "local") => [("tree".to_owned(), list_folder(&output.path)?)].into_iter().collect(),
            (true, "tar") => {
                // In a plain archive no name has a meaning.
                let mut tree = Tree::new();
                apply(&mut tree, &fs::read(&output.path)?, Whiteouts::Ordinary)?;
                [("tree".to_owned(), list(&tree, &Tree::new(), self.since))].into_iter().collect()
            }
            (true, _) => observe(&Archive::open(&output.path)?, self.since)?,
        };
        seen.insert("steps".to_owned(), progress.steps());
        seen.insert("logs".to_owned(), progress.logs());
        Ok(Outcome { seen, said: progress.text() })
    }
}

/// The flags that need no files.
fn flags(options: &Options) -> Vec<String> {
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: &str| flags.extend([name.to_owned(), value.to_owned()]);
    for (name, value) in &options.build_args {
        match value {
            Some(value) => flag("--build-arg", &format!("{name}={value}")),
            None => flag("--build-arg", name),
        }
    }
    for (name, value) in &options.labels {
        flag("--label", &format!("{name}={value}"));
    }
    let single = [
        ("--target", &options.target),
        ("--platform", &options.platform),
        ("--network", &options.network),
        ("--shm-size", &options.shm_size),
    ];
    for (name, value) in single {
        if let Some(value) = value {
            flag(name, value);
        }
    }
    let repeated = [
        ("--add-host", &options.add_hosts),
        ("--ulimit", &options.ulimits),
        ("--ssh", &options.ssh),
        ("--allow", &options.allow),
        ("--no-cache-filter", &options.no_cache_filter),
    ];
    for (name, values) in repeated {
        values.iter().for_each(|value| flag(name, value));
    }
    if options.no_cache {
        flags.push("--no-cache".to_owned());
    }
    flags
}
