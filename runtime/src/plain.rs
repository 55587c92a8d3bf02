//! Root file systems without an overlay: a plain copy of the layers, and what a command changed in it.
//!
//! Where the kernel refuses an overlay – a store on NFS or on an overlay, an old kernel in a user namespace – the layers are
//! copied into one directory. Files with several names become several files: in an overlay, too, writing to one
//! leaves the others alone. What changed afterwards has a younger change time, which no program can set; all the rest is
//! deleted, and what is missing gets a whiteout, so that in the end the directory is what an overlay would have left.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat,
    mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::WHITEOUT_MARK;
use crate::cover::Cover;
use crate::stub::KEPT;

/// Where copies stand, inside the work directory of a root.
pub const COPIES: &str = "copies";
/// The copy that a command changes, in there.
pub const ROOT: &str = "root";
/// A file beside it, made when the copy was complete.
const MARK: &str = "root-made";
/// How deep directories may be nested.
const DEPTH: usize = 512;

/// The change time of a file: seconds and nanoseconds.
type ChangeTime = (i64, i64);

fn change_time(metadata: &Metadata) -> ChangeTime {
    (metadata.ctime(), metadata.ctime_nsec())
}

/// Copies layers as [`copy_layers`]. If it is the copy that the command changes, nothing else will change it.
pub fn assemble(layers: &[PathBuf], copies: &Path, name: &str) -> io::Result<PathBuf> {
    let copy = copy_layers(layers, copies, name)?;
    if name == ROOT {
        finish(copies)?;
    }
    Ok(copy)
}

/// Copies layers, top first, into the new directory `name` in `copies`, and returns its path.
pub fn copy_layers(layers: &[PathBuf], copies: &Path, name: &str) -> io::Result<PathBuf> {
    match mkdirat(CWD, copies, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        made => made?,
    }
    let copy = copies.join(name);
    mkdirat(CWD, &copy, Mode::RWXU)?;
    copy_into(layers, &copy)?;
    Ok(copy)
}

/// Copies layers, top first, into a directory that is empty.
pub fn copy_into(layers: &[PathBuf], target: &Path) -> io::Result<()> {
    fill(layers, target)?;
    match layers.first() {
        // The path may lead through a descriptor: it is followed.
        Some(top) => adopt(&fs::canonicalize(top)?, &fs::metadata(top)?, target),
        None => fs::set_permissions(target, fs::Permissions::from_mode(0o755)),
    }
}

/// Marks the copy that the command changes as complete, and waits until what changes from now on has a younger change time than everything before.
pub fn finish(copies: &Path) -> io::Result<()> {
    let mark = copies.join(MARK);
    File::create_new(&mark)?;
    let made = change_time(&fs::metadata(&mark)?);
    let probe = copies.join("root-probe");
    loop {
        fs::write(&probe, "")?;
        let now = change_time(&fs::metadata(&probe)?);
        fs::remove_file(&probe)?;
        if now > made {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Copies what layers show into a directory that is empty.
fn fill(layers: &[PathBuf], target: &Path) -> io::Result<()> {
    for (name, shown) in below(layers)? {
        let target = target.join(name);
        match shown {
            Shown::Directories(directories) => {
                mkdirat(CWD, &target, Mode::RWXU)?;
                fill(&directories, &target)?;
                adopt(&directories[0], &fs::symlink_metadata(&directories[0])?, &target)?;
            }
            Shown::Other(source, metadata) => copy(&source, &metadata, &target)?,
        }
    }
    Ok(())
}

/// What layers show under a name.
enum Shown {
    /// Directories that are seen as one, topmost first.
    Directories(Vec<PathBuf>),
    /// Anything else.
    Other(PathBuf, Metadata),
}

/// Returns what layers, top first, show.
fn below(layers: &[PathBuf]) -> io::Result<BTreeMap<OsString, Shown>> {
    // Nothing more shows below these: a whiteout, a file, or a directory that hides all.
    let mut closed = BTreeMap::new();
    for layer in layers {
        for entry in fs::read_dir(layer)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            if matches!(closed.get(&name), Some((true, _))) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path)?;
            let (is_closed, shown) = closed.entry(name).or_insert((false, None));
            match shown {
                _ if is_whiteout(&path, &metadata) => *is_closed = true,
                Some(Shown::Directories(directories)) if metadata.is_dir() => {
                    *is_closed = is_opaque(&path)?;
                    directories.push(path);
                }
                None if metadata.is_dir() => {
                    *is_closed = is_opaque(&path)?;
                    *shown = Some(Shown::Directories(vec![path]));
                }
                None => {
                    *is_closed = true;
                    *shown = Some(Shown::Other(path, metadata));
                }
                Some(_) => *is_closed = true,
            }
        }
    }
    Ok(closed.into_iter().filter_map(|(name, (_, shown))| Some((name, shown?))).collect())
}

fn is_whiteout(path: &Path, metadata: &Metadata) -> bool {
    if metadata.file_type().is_char_device() {
        return metadata.rdev() == 0;
    }
    let may_be = metadata.is_file() && metadata.len() == 0 && metadata.mode() & 0o7777 == 0;
    may_be && rustix::fs::lgetxattr(path, WHITEOUT_MARK, &mut [0; 1]).is_ok()
}

/// Makes a whiteout, or a file that stands for one where the file system, an overlay itself, takes none.
fn make_whiteout(path: &Path) -> io::Result<()> {
    match mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => {}
        made => return Ok(made?),
    }
    mknodat(CWD, path, FileType::RegularFile, Mode::empty(), 0)?;
    Ok(rustix::fs::lsetxattr(path, WHITEOUT_MARK, b"y", XattrFlags::empty())?)
}

fn is_opaque(path: &Path) -> io::Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0; 1];
        match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(1) if value == *b"y" => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP | Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Copies what is no directory; a socket, and a device without the right to make one, is left out.
pub fn copy(source: &Path, metadata: &Metadata, target: &Path) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut from = File::from(openat(CWD, source, flags, Mode::empty())?);
        io::copy(&mut from, &mut File::create_new(target)?)?;
    } else if kind.is_symlink() {
        symlinkat(fs::read_link(source)?, CWD, target)?;
    } else if kind.is_socket() {
        return Ok(());
    } else {
        match mknodat(CWD, target, FileType::from_raw_mode(metadata.mode()), Mode::empty(), metadata.rdev()) {
            // Without the right to make devices there are none.
            Err(Errno::PERM) => return Ok(()),
            made => made?,
        }
    }
    adopt(source, metadata, target)
}

/// Gives a copy the owner, attributes, mode and time of what it was made from, in an order in which none undoes another.
fn adopt(source: &Path, metadata: &Metadata, target: &Path) -> io::Result<()> {
    let owner = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    chownat(CWD, target, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
    if metadata.is_file() || metadata.is_dir() {
        copy_attributes(source, target)?;
    }
    if !metadata.is_symlink() {
        chmodat(CWD, target, Mode::from_bits_retain(metadata.mode() & 0o7777), AtFlags::empty())?;
    }
    set_time(target, metadata)
}

/// Gives something the modification time that `metadata` name.
pub fn set_time(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let last_modification = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() as _ };
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    Ok(utimensat(CWD, path, &Timestamps { last_access, last_modification }, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn copy_attributes(source: &Path, target: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(source, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        listed => listed?,
    };
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let is_mark = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        if is_mark || !(name.starts_with(b"user.") || name == b"security.capability") {
            continue;
        }
        let length = rustix::fs::lgetxattr(source, name, &mut value[..])?;
        match rustix::fs::lsetxattr(target, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes of the root's copy in `work`, if there is one, what an overlay would have left in `upper`. The command has ended;
/// what is covered in the copy, and what is in the directories of the kernel's file systems if anything is, counts as never
/// touched.
pub fn collect(work: &Path, lowers: &[PathBuf], upper: &Path, covers: &[Cover]) -> io::Result<()> {
    let copies = work.join(COPIES);
    let root = copies.join(ROOT);
    let Ok(mark) = fs::symlink_metadata(copies.join(MARK)) else { return Ok(()) };
    let since = change_time(&mark);
    // Deleting one of several names changes the time of the others: first everything is judged, then deleted.
    let covered = covers.iter().map(|cover| cover.path.clone());
    let mut verdict = Verdict { covered: covered.collect(), ..Verdict::default() };
    judge(&root, Path::new(""), lowers, (since, 0), &mut verdict)?;
    for path in &verdict.removed {
        if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    for path in &verdict.unchanged {
        let is_dir = fs::symlink_metadata(path)?.is_dir();
        match if is_dir { fs::remove_dir(path) } else { fs::remove_file(path) } {
            // Something in it has changed.
            Err(error) if is_dir && error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => removed?,
        }
    }
    for path in &verdict.missing {
        make_whiteout(path)?;
    }
    for (path, metadata) in &verdict.directories {
        match set_time(path, metadata) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            set => set?,
        }
    }
    fs::remove_dir(upper)?;
    fs::rename(&root, upper)
}

/// What is to be done with a copy.
#[derive(Default)]
struct Verdict {
    /// What is not the command's, below the root.
    covered: HashSet<PathBuf>,
    /// What is to go with all that is in it.
    removed: Vec<PathBuf>,
    /// As they were; what is in a directory comes before it.
    unchanged: Vec<PathBuf>,
    /// What the layers have and the copy does not.
    missing: Vec<PathBuf>,
    /// All directories, with the times that they shall keep.
    directories: Vec<(PathBuf, Metadata)>,
}

fn judge(
    directory: &Path,
    inside: &Path,
    lowers: &[PathBuf],
    (since, depth): (ChangeTime, usize),
    verdict: &mut Verdict,
) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::other(format!("directories are nested more than {DEPTH} deep")));
    }
    let is_changed = |metadata: &Metadata| change_time(metadata) > since;
    let here = fs::symlink_metadata(directory)?;
    let below = if lowers.is_empty() { BTreeMap::new() } else { below(lowers)? };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let metadata = fs::symlink_metadata(&path)?;
        let inside = inside.join(&name);
        if verdict.covered.contains(&inside) {
            verdict.removed.push(path);
            names.push(name);
            continue;
        }
        if is_the_kernels(&inside, verdict) && metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                verdict.removed.push(entry?.path());
            }
            if below.contains_key(&name) {
                verdict.unchanged.push(path.clone());
            }
            verdict.directories.push((path, metadata));
            names.push(name);
            continue;
        }
        if metadata.is_dir() {
            let lowers = match below.get(&name) {
                Some(Shown::Directories(directories)) => &directories[..],
                _ => &[],
            };
            judge(&path, &inside, lowers, (since, depth + 1), verdict)?;
        }
        if !is_changed(&metadata) {
            verdict.unchanged.push(path);
        }
        names.push(name);
    }
    if is_changed(&here) {
        names.sort();
        let missing = below.keys().filter(|name| names.binary_search(name).is_err());
        let missing = missing.filter(|name| !verdict.covered.contains(&inside.join(name)));
        let missing: Vec<_> = missing.map(|name| directory.join(name)).collect();
        verdict.missing.extend(missing);
    }
    verdict.directories.push((directory.to_owned(), here));
    Ok(())
}

/// Says whether something stands where the kernel's own file systems would be mounted, if anything could be.
fn is_the_kernels(inside: &Path, verdict: &Verdict) -> bool {
    !verdict.covered.is_empty() && KEPT.iter().any(|kept| inside == Path::new(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(directory: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            found.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
        found.sort();
        found
    }

    #[test]
    fn what_a_command_changes_is_left_in_the_form_of_an_overlay() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| temporary.path().join(name);
        for name in ["low/kept", "low/changed/sub", "low/hidden", "top/new", "upper", "work"] {
            fs::create_dir_all(at(name)).expect("a directory");
        }
        for name in
            ["low/kept/file", "low/changed/one", "low/changed/two", "low/changed/sub/deep", "low/hidden/x", "top/new/y"]
        {
            fs::write(at(name), name).expect("a file");
        }
        fs::hard_link(at("low/changed/one"), at("low/changed/link")).expect("a link");
        symlink("one", at("low/changed/symbolic")).expect("a symlink");
        mknodat(CWD, at("top/hidden"), FileType::CharacterDevice, Mode::empty(), 0).expect("a whiteout");
        fs::set_permissions(at("low/kept"), fs::Permissions::from_mode(0o711)).expect("ours");
        let lowers = [at("top"), at("low")];

        let root = assemble(&lowers, &at("work/copies"), ROOT).expect("it can be copied");
        assert_eq!(names(&root), ["changed", "kept", "new"]);
        assert_eq!(fs::metadata(root.join("kept")).expect("it is there").mode() & 0o7777, 0o711);
        fs::write(root.join("changed/one"), "other").expect("a change");
        fs::remove_file(root.join("changed/two")).expect("a deletion");
        fs::remove_dir_all(root.join("new")).expect("a deletion");

        collect(&at("work"), &lowers, &at("upper"), &[]).expect("it can be collected");
        assert_eq!(names(&at("upper")), ["changed", "new"]);
        // The other name of the file has kept its content, as over an overlay, and the rest is as it was.
        assert_eq!(names(&at("upper/changed")), ["one", "two"]);
        for name in ["upper/new", "upper/changed/two"] {
            let found = fs::symlink_metadata(at(name)).expect("a whiteout");
            assert!(found.file_type().is_char_device() && found.rdev() == 0, "{name}");
        }
    }

    #[test]
    fn what_did_not_change_leaves_nothing() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| temporary.path().join(name);
        fs::create_dir_all(at("low/a/b")).expect("directories");
        fs::create_dir_all(at("upper")).expect("a directory");
        fs::create_dir_all(at("work")).expect("a directory");
        assemble(&[at("low")], &at("work/copies"), ROOT).expect("it can be copied");
        collect(&at("work"), &[at("low")], &at("upper"), &[]).expect("it can be collected");
        assert_eq!(names(&at("upper")), [""; 0]);
    }
}
