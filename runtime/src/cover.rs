//! What stands in for mounts where nothing can be mounted: copies, put where the command looks for them.
//!
//! Nothing of them gets into the layer. The copy of a cache mount changes places with the cache when the command has ended.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, statat};
use serde::{Deserialize, Serialize};

/// Something of the builder's in the copy that a command changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    /// Where, below the root, no symlinks.
    pub path: PathBuf,
    /// The directory of which it is the next state; none where nobody wants what is written to it.
    pub home: Option<PathBuf>,
}

/// Gives back what was written to copies of directories of the host. The command has ended.
///
/// Nothing here follows a symlink. A copy that the command took away or replaced leaves the directory as it was.
pub fn give_back(root: &Path, covers: &[Cover]) -> io::Result<()> {
    for cover in covers {
        let (Some(home), Some(name)) = (&cover.home, cover.path.file_name()) else { continue };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let scope = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let parent = cover.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let found = openat2(&root, parent, flags, Mode::empty(), scope)
            .and_then(|parent| Ok((statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?, parent)));
        match found {
            Ok((stat, parent)) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                renameat_with(&parent, name, CWD, home, RenameFlags::EXCHANGE)?;
            }
            _ => tracing::debug!("{} is no directory any more", cover.path.display()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_copy_changes_places_and_a_symlink_in_its_place_does_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["root/a/cache", "home", "other", "root/real/cache"] {
            fs::create_dir_all(at(name)).expect("a directory");
        }
        for (name, text) in
            [("root/a/cache/x", "new"), ("home/x", "old"), ("other/x", "old"), ("root/real/cache/x", "evil")]
        {
            fs::write(at(name), text).expect("a file");
        }
        symlink("real", at("root/b")).expect("a symlink");
        symlink("real/cache", at("root/c")).expect("a symlink");
        let cover = |path: &str, home: &str| Cover { path: path.into(), home: Some(at(home)) };
        let covers =
            [cover("a/cache", "home"), cover("b/cache", "other"), cover("c", "other"), cover("gone/x", "other")];
        give_back(&at("root"), &covers).expect("it can be given back");
        let read = |name: &str| fs::read_to_string(at(name)).expect("a file");
        assert_eq!(
            (read("home/x"), read("root/a/cache/x"), read("other/x")),
            ("new".into(), "old".into(), "old".into())
        );
    }
}
