//! Where kiln keeps its state, and the engine on top of it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_builder::{BuildError, Engine, EngineOptions};
use kiln_registry_client::DockerConfig;
use kiln_runtime::{Footing, Isolation, IsolationError};

/// The variables that kiln reads, as `docs/cli.md` lists them.
#[cfg(test)]
pub const VARIABLES: [&str; 9] = [
    "KILN_ROOT",
    "XDG_DATA_HOME",
    "KILN_INSECURE_REGISTRIES",
    "KILN_LOG",
    "BUILDKIT_PROGRESS",
    "NO_COLOR",
    "SOURCE_DATE_EPOCH",
    "DOCKER_CONFIG",
    "TERM",
];

/// Opens the engine on the user's store, with the strongest sandbox that can be had.
///
/// # Errors
/// When there is no place for the store, or it cannot be opened.
pub fn open() -> Result<Engine, BuildError> {
    Ground::take(None)?.open()
}

/// What an engine stands on.
pub struct Ground {
    /// The state directory.
    pub root: PathBuf,
    /// What this process may do with commands.
    pub footing: Footing,
}

impl Ground {
    /// Finds the state directory, and gets this process to the strongest isolation that can be had, or to the one wished
    /// for. To be called before any thread is started.
    ///
    /// # Errors
    /// When there is no place for the store, or what is wished for cannot be had.
    pub fn take(wish: Option<Isolation>) -> Result<Self, BuildError> {
        // In a user namespace everybody is root.
        let root = root(|name| std::env::var_os(name), rustix::process::geteuid().is_root())?;
        let footing = Footing::take(wish).map_err(|error| refused(&error))?;
        Ok(Self { root, footing })
    }

    /// Fails where the isolation is weaker than `least`.
    ///
    /// # Errors
    /// When it is, with the reason.
    pub fn require(&self, least: Isolation) -> Result<(), BuildError> {
        self.footing.require(least).map_err(|error| refused(&error))
    }

    /// Opens the engine.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub fn open(self) -> Result<Engine, BuildError> {
        let insecure = std::env::var("KILN_INSECURE_REGISTRIES").unwrap_or_default();
        Engine::open(EngineOptions {
            root: self.root,
            sandbox_program: program()?,
            footing: self.footing,
            credentials: Arc::new(DockerConfig::new()),
            insecure_registries: insecure
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

fn refused(error: &IsolationError) -> BuildError {
    BuildError::environment(error.to_string()).hint("`kiln info` shows what is possible here")
}

/// Returns the state directory: `KILN_ROOT`, `/var/lib/kiln` for root, else `kiln` in the user's data directory.
fn root(environment: impl Fn(&str) -> Option<OsString>, superuser: bool) -> Result<PathBuf, BuildError> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(root) = set("KILN_ROOT") {
        return std::path::absolute(&root).map_err(|error| {
            BuildError::environment(format!("cannot use `{}` of KILN_ROOT: {error}", root.display()))
        });
    }
    if superuser {
        return Ok(PathBuf::from("/var/lib/kiln"));
    }
    let data =
        set("XDG_DATA_HOME").filter(|path| path.is_absolute()).or_else(|| Some(set("HOME")?.join(".local/share")));
    data.map(|data| data.join("kiln")).ok_or_else(|| {
        BuildError::input("there is no place for the state: neither KILN_ROOT nor HOME is set")
            .hint("set KILN_ROOT to a directory")
    })
}

/// Returns the path of this program, by which the engine starts its sandboxes: the one that the kernel was given when it
/// started us. Asking /proc would work as well, but not where /proc is hidden.
pub fn program() -> Result<PathBuf, BuildError> {
    use std::os::unix::ffi::OsStrExt as _;
    let given = PathBuf::from(std::ffi::OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()));
    let path = std::path::absolute(&given).unwrap_or(given);
    if path.is_file() {
        return Ok(path);
    }
    std::env::current_exe()
        .map_err(|error| BuildError::environment(format!("cannot find kiln's own program file: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_has_its_place() {
        let with = |variables: &'static [(&str, &str)], superuser| {
            let find =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
            root(find, superuser).map(|path| path.to_str().unwrap().to_owned()).ok()
        };
        assert_eq!(with(&[("KILN_ROOT", "/k"), ("HOME", "/h")], true).as_deref(), Some("/k"));
        assert_eq!(with(&[("HOME", "/h")], true).as_deref(), Some("/var/lib/kiln"));
        assert_eq!(with(&[("HOME", "/h"), ("KILN_ROOT", "")], false).as_deref(), Some("/h/.local/share/kiln"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")], false).as_deref(), Some("/x/kiln"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_DATA_HOME", "x")], false).as_deref(), Some("/h/.local/share/kiln"));
        assert_eq!(with(&[], false), None);
    }

    #[test]
    fn this_program_is_found() {
        assert!(program().unwrap().is_file());
    }
}
