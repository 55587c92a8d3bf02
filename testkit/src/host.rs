//! What this machine can do, asked once.

use std::path::PathBuf;
use std::sync::OnceLock;

/// One thing that a test may not do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The test runs as root of the machine (or of a user namespace that may mount).
    Root,
    /// A program is on the path.
    Tool(&'static str),
}

/// What was found.
#[derive(Debug)]
pub struct Host {
    root: bool,
    path: Vec<PathBuf>,
}

/// Returns what this machine can do.
pub fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host {
        root: rustix::process::geteuid().is_root(),
        path: std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
    })
}

impl Host {
    /// Returns where the program `name` is.
    pub fn tool(&self, name: &str) -> Option<PathBuf> {
        // Debian keeps runc and mount helpers where the path of an ordinary user does not look.
        let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
        self.path.iter().chain(&more).map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// Returns true, after saying so on stderr, when one of `needs` is missing here. The
    /// caller then returns: the test holds nothing against a machine that cannot run it.
    #[track_caller]
    pub fn lacks(&self, needs: &[Need]) -> bool {
        let missing: Vec<String> = needs
            .iter()
            .filter_map(|need| match need {
                Need::Root => (!self.root).then(|| "root".to_owned()),
                Need::Tool(name) => self.tool(name).is_none().then(|| format!("the program `{name}`")),
            })
            .collect();
        if missing.is_empty() {
            return false;
        }
        // In CI everything is installed first, so what is missing there is a mistake.
        assert!(std::env::var_os("CI").is_none(), "this machine lacks {}", missing.join(", "));
        eprintln!("{}: not run: this machine lacks {}", std::panic::Location::caller(), missing.join(", "));
        true
    }
}
