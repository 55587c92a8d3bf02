//! A place for one test: layers, an upper directory, and the helper's program.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use kiln_runtime::{Cancel, Event, Outcome, Program, Root, RunError, Spec, Stream, run};

static PROGRAM: LazyLock<Program> =
    LazyLock::new(|| Program::open(Path::new(env!("CARGO_BIN_EXE_kiln_sandbox_init"))).expect("the helper was built"));

/// Directories of one test; gone with it.
pub struct Bed {
    dir: tempfile::TempDir,
    pub root: Root,
}

/// What a command did.
pub struct Ran {
    pub result: Result<Outcome, RunError>,
    pub stdout: String,
    pub stderr: String,
    pub warnings: Vec<String>,
}

impl Ran {
    /// Returns the output of a command that must have succeeded.
    #[track_caller]
    pub fn out(self) -> String {
        assert!(matches!(self.result, Ok(Outcome::Exited(0))), "{:?}: {}", self.result, self.stderr);
        self.stdout
    }

    #[track_caller]
    pub fn code(&self) -> i32 {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error}")).code()
    }

    #[track_caller]
    pub fn error(&self) -> String {
        self.result.as_ref().expect_err("it cannot be run").to_string()
    }
}

impl Bed {
    /// Makes a bed with one layer: busybox, users, a few directories. Says what is missing where it cannot.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped("needs root");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        for name in ["upper", "work", "base/bin", "base/etc", "base/root", "base/tmp", "base/var"] {
            fs::create_dir_all(dir.path().join(name)).expect("a directory");
        }
        fs::copy("/bin/busybox", dir.path().join("base/bin/busybox")).expect("needs the package busybox-static");
        for name in APPLETS.split_whitespace() {
            symlink("busybox", dir.path().join("base/bin").join(name)).expect("a symlink");
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
        fs::write(dir.path().join("base/etc/passwd"), passwd).expect("a file");
        fs::write(dir.path().join("base/etc/group"), "root:x:0:\nwheel:x:10:app\napp:x:1001:\n").expect("a file");
        for name in ["dev", "proc", "sys"] {
            fs::create_dir(dir.path().join("base").join(name)).expect("a directory");
        }
        let root = Root {
            lowers: vec![dir.path().join("base")],
            upper: dir.path().join("upper"),
            work: dir.path().join("work"),
        };
        Some(Self { dir, root })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn base(&self, name: &str) -> PathBuf {
        self.path("base").join(name)
    }

    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    pub fn sh(&self, script: &str) -> Spec {
        Spec::new(self.root.clone(), ["sh", "-c", script])
    }

    pub fn run(&self, spec: &Spec) -> Ran {
        self.run_until(spec, &Cancel::new())
    }

    pub fn run_until(&self, spec: &Spec, cancel: &Cancel) -> Ran {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut warnings = Vec::new();
        let mut listener = |event: Event<'_>| match event {
            Event::Output(Stream::Stdout, bytes) => stdout.extend_from_slice(bytes),
            Event::Output(Stream::Stderr, bytes) => stderr.extend_from_slice(bytes),
            Event::Warning(text) => warnings.push(text.to_owned()),
            Event::Note(_) | Event::Identity(..) => {}
        };
        let result = run(&PROGRAM, spec, &mut listener, cancel);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let ran = Ran { result, stdout: text(stdout), stderr: text(stderr), warnings };
        self.check_nothing_is_left();
        ran
    }

    /// Runs a script that must succeed and returns its output.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        self.run(&self.sh(script)).out()
    }

    /// Returns the names of everything below the upper directory, sorted.
    pub fn changes(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.root.upper, &self.root.upper, &mut found);
        found.sort();
        found
    }

    #[track_caller]
    fn check_nothing_is_left(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        let here = self.dir.path().to_str().expect("text");
        assert!(!mounts.contains(here), "still mounted: {mounts}");
        let work: Vec<_> = fs::read_dir(&self.root.work).expect("it stays").collect();
        assert!(work.is_empty(), "work is not empty: {work:?}");
    }
}

fn list(top: &Path, directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        found.push(entry.path().strip_prefix(top).expect("below").to_string_lossy().into_owned());
        if entry.file_type().expect("a type").is_dir() {
            list(top, &entry.path(), found);
        }
    }
}

const APPLETS: &str = "sh cat ls id env true false sleep kill mount umount unshare hostname pwd stat mkdir rm ln \
    echo grep readlink touch mknod chmod chown ps ip ping test dd head tail wc find sed awk setsid od cp mv seq ulimit nc";

/// Says why a test does not run here. Where all tests have to run, none may pass by not running.
#[track_caller]
pub fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    println!("skipped: {why}");
}

/// Returns the helper's program.
pub fn program() -> &'static Program {
    &PROGRAM
}
