//! Mount points that the image lacks.
//!
//! A mount needs something to be mounted on, and a layer must not show it. Two ways:
//!
//! - [`plant`]: the missing mount points stand in a directory of their own that becomes the lowest layer of the overlay.
//!   They show only where no layer has anything, no parent's time changes, and nothing has to be taken away.
//! - [`remove`]: where a layer hides them (a whiteout, an opaque directory, a symlink on the way) the helper makes them
//!   in the upper directory, says so, and they are taken away at the end if nothing was put into them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, openat2, statat, unlinkat};

use crate::plain;
use crate::wire::Stub;

/// Where the overlay keeps its own files, inside the work directory of a root.
pub const OVERLAY: &str = "overlay";
/// Where the planted mount points stand, inside the work directory of a root.
pub const PLANTED: &str = "stubs";

/// Directories that are made in the image itself where missing, and stay in the layer.
pub const KEPT: [&str; 3] = ["dev", "proc", "sys"];

/// Makes the mount points below `base`: (path inside the sandbox, whether a directory).
///
/// `cwd` is the working directory; what of it the layers `lowers` lack is made for real later on, so nothing is planted there.
pub fn plant<'a>(
    base: &Path,
    targets: impl Iterator<Item = (&'a str, bool)>,
    cwd: &str,
    lowers: &[PathBuf],
) -> io::Result<()> {
    let make = |path: &Path| DirBuilder::new().mode(0o755).create(path);
    make(base)?;
    let cwd = clean(cwd);
    for (target, is_dir) in targets {
        let path = clean(target);
        let Some(name) = path.file_name() else { continue };
        if KEPT.iter().any(|kept| path.starts_with(kept)) || would_keep(&path, &cwd, lowers) {
            continue;
        }
        let mut place = base.to_path_buf();
        for component in path.parent().into_iter().flat_map(Path::components) {
            place.push(component);
            // What is there already, of whatever kind, is found out by the next step.
            let _ = make(&place);
        }
        place.push(name);
        // A conflict between two targets (one inside a file) is left to the mounting, which can say it better.
        let _ = if is_dir { make(&place) } else { fs::File::create_new(&place).map(drop) };
    }
    Ok(())
}

// Whether planting `path` would make a part of the working directory appear that no layer has.
fn would_keep(path: &Path, cwd: &Path, lowers: &[PathBuf]) -> bool {
    let mut shared = PathBuf::new();
    for (mine, theirs) in path.components().zip(cwd.components()) {
        if mine != theirs {
            break;
        }
        shared.push(mine);
        if !lowers.iter().any(|lower| fs::symlink_metadata(lower.join(&shared)).is_ok()) {
            return true;
        }
    }
    false
}

/// Returns the path without `.` and `..` and without a leading slash, as text: symlinks are not looked at.
pub fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Takes mount points away again that are still empty, and gives their directories the times they had.
///
/// Nothing here follows a symlink: the command may have put one wherever it liked (CVE-2024-23652). What cannot be taken
/// away stays; it is then part of what the command left.
pub fn remove(upper: &Path, stubs: &[Stub]) {
    for stub in stubs.iter().rev() {
        if let Err(error) = remove_one(upper, stub) {
            tracing::debug!("mount point {}/{} stays: {error}", stub.parent, stub.name);
        }
    }
}

fn remove_one(upper: &Path, stub: &Stub) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())?;
    let scope = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let parent = if stub.parent.is_empty() { "." } else { &stub.parent };
    let parent = openat2(&root, parent, flags, Mode::empty(), scope)?;
    let time = rustix::fs::fstat(&parent)?;
    let found = statat(&parent, &*stub.name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
    if stub.is_dir && kind.is_dir() {
        unlinkat(&parent, &*stub.name, AtFlags::REMOVEDIR)?;
    } else if !stub.is_dir && kind.is_file() && found.st_size == 0 {
        unlinkat(&parent, &*stub.name, AtFlags::empty())?;
    } else {
        return Ok(());
    }
    let now = (time.st_mtime as i64, time.st_mtime_nsec as i64);
    // Untouched since the stub was made: the time from before. Else the command changed the directory: its time.
    let (tv_sec, tv_nsec) = if now == stub.after { stub.before } else { now };
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    let last_modification = Timespec { tv_sec, tv_nsec: tv_nsec as _ };
    rustix::fs::futimens(&parent, &Timestamps { last_access, last_modification })
}

/// Empties a work directory. What the overlay left there means nothing to anyone.
pub fn sweep(work: &Path) {
    for name in [OVERLAY, PLANTED, plain::COPIES] {
        let _ = fs::remove_dir_all(work.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn planted_mount_points_have_parents_and_skip_what_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let base = dir.path().join("s");
        let targets =
            [("/etc/hosts", false), ("/dev/x", true), ("/run/../a/b", true), ("/", true), ("/etc/hosts/no", true)];
        plant(&base, targets.into_iter(), "/", &[]).expect("it can be planted");
        assert!(base.join("etc/hosts").is_file() && base.join("a/b").is_dir());
        assert!(!base.join("dev").exists() && !base.join("run").exists());
    }

    #[test]
    fn nothing_is_planted_where_the_working_directory_will_be_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lower = dir.path().join("lower");
        fs::create_dir_all(lower.join("root")).expect("a lower layer");
        let base = dir.path().join("s");
        let targets = [("/root/.cache", true), ("/app/c", true)];
        let lowers = [lower];
        plant(&base, targets.into_iter(), "/app", &lowers).expect("it can be planted");
        assert!(base.join("root/.cache").is_dir() && !base.join("app").exists());
        fs::remove_dir_all(&base).expect("ours");
        plant(&base, targets.into_iter(), "/root", &lowers).expect("it can be planted");
        assert!(base.join("root/.cache").is_dir() && base.join("app/c").exists());
    }

    #[test]
    fn a_symlink_in_place_of_the_parent_is_not_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (upper, outside) = (dir.path().join("upper"), dir.path().join("outside"));
        fs::create_dir_all(outside.join("y")).expect("a canary");
        fs::create_dir(&upper).expect("an upper directory");
        symlink("../outside", upper.join("x")).expect("a symlink");
        let stub = |parent: &str| Stub {
            parent: parent.into(),
            name: "y".into(),
            is_dir: true,
            before: (1, 0),
            after: (2, 0),
        };
        remove(&upper, &[stub("x"), stub("../outside"), stub("")]);
        assert!(outside.join("y").is_dir());
    }

    #[test]
    fn an_empty_stub_goes_and_its_directory_gets_its_time_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let etc = dir.path().join("etc");
        fs::create_dir(&etc).expect("a directory");
        for (name, content) in [("hosts", ""), ("kept", "x")] {
            fs::write(etc.join(name), content).expect("a file");
        }
        let meta = fs::metadata(&etc).expect("it is there");
        let after = (meta.mtime(), meta.mtime_nsec());
        let stub =
            |name: &str| Stub { parent: "etc".into(), name: name.into(), is_dir: false, before: (1234, 5), after };
        remove(dir.path(), &[stub("hosts"), stub("kept")]);
        assert!(!etc.join("hosts").exists() && etc.join("kept").exists());
        let meta = fs::metadata(&etc).expect("it is there");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1234, 5));
    }
}
