//! Sealing what real overlays made, against a plain walk of both views.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags};

use super::*;
use crate::tree::{Kind, Meta, Tree, file_digest, split};

/// A mounted overlay, unmounted when dropped.
struct Overlay(PathBuf);

impl Overlay {
    /// Mounts `upper` over `lowers`; `None` where the host does not allow it.
    fn mount(work: &Path, upper: &Path, lowers: &[PathBuf]) -> Option<Self> {
        let (merged, work) = (work.join("merged"), work.join("work"));
        for path in [&merged, &work] {
            std::fs::create_dir_all(path).unwrap();
        }
        let lowers: Vec<_> = lowers.iter().map(|path| path.to_str().unwrap()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off,redirect_dir=off,metacopy=off",
            lowers.join(":"),
            upper.display(),
            work.display()
        );
        let options = CString::new(options).unwrap();
        match rustix::mount::mount("overlay", &merged, "overlay", MountFlags::empty(), &*options) {
            Ok(()) => Some(Self(merged)),
            Err(error) => {
                println!("no overlay can be mounted here ({error}): nothing is tested");
                None
            }
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// A file as a walk sees it.
#[derive(Debug, Clone)]
struct Seen {
    meta: Meta,
    inode: Option<u64>,
    bytes: Vec<u8>,
}

fn walk(directory: &Path) -> BTreeMap<Vec<Vec<u8>>, Seen> {
    let mut seen = BTreeMap::new();
    for entry in walkdir::WalkDir::new(directory).min_depth(1) {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        let path = entry.path().strip_prefix(directory).unwrap();
        let names = path.iter().map(|name| name.as_encoded_bytes().to_vec()).collect();
        let kind = match found.file_type() {
            it if it.is_dir() => Kind::Directory,
            it if it.is_symlink() => Kind::Symlink,
            it if it.is_fifo() => Kind::Fifo,
            it if it.is_socket() => continue,
            it if it.is_char_device() => Kind::Char,
            _ => Kind::File,
        };
        let mut meta = Meta::new(kind, found.mode() & 0o7777);
        (meta.uid, meta.gid) = (found.uid(), found.gid());
        meta.mtime = (found.mtime(), found.mtime_nsec() as u32);
        let mut bytes = Vec::new();
        match kind {
            Kind::File => {
                bytes = std::fs::read(entry.path()).unwrap();
                meta.size = bytes.len() as u64;
                meta.content = Some(Digest::of(&bytes));
            }
            Kind::Symlink => {
                meta.link = std::fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
            }
            Kind::Char => meta.device = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())),
            _ => {}
        }
        let inode = (kind == Kind::File && found.nlink() > 1).then(|| found.ino());
        seen.insert(names, Seen { meta, inode, bytes });
    }
    seen
}

/// Whether nothing changed, as far as a layer is concerned.
fn same(old: &Seen, new: &Seen) -> bool {
    let times = || {
        let (old, new) = (old.meta.mtime, new.meta.mtime);
        old.0 == new.0 && (old.1 == new.1 || old.1 == 0 || new.1 == 0)
    };
    file_digest(&old.meta) == file_digest(&new.meta) && (new.meta.is_directory() || times())
}

/// The layer between two views, by walking both.
fn double_walk(old: &BTreeMap<Vec<Vec<u8>>, Seen>, new: &BTreeMap<Vec<Vec<u8>>, Seen>) -> Vec<NewEntry> {
    let mut changed: std::collections::BTreeSet<&Vec<Vec<u8>>> = std::collections::BTreeSet::new();
    changed.extend(new.iter().filter(|(path, seen)| !old.get(*path).is_some_and(|old| same(old, seen))).map(|it| it.0));
    let is_directory = |path: &[Vec<u8>]| path.is_empty() || new.get(path).is_some_and(|seen| seen.meta.is_directory());
    let gone = old.keys().filter(|path| {
        let parent = &path[..path.len() - 1];
        let was_directory = parent.is_empty() || old[parent].meta.is_directory();
        !new.contains_key(*path) && is_directory(parent) && was_directory
    });
    changed.extend(gone);
    let parents: Vec<_> = changed.iter().flat_map(|path| (1..path.len()).map(|depth| path[..depth].to_vec())).collect();
    changed.extend(&parents);
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut entries = Vec::new();
    for path in changed {
        let name = path.join(&b'/');
        let Some(seen) = new.get(path) else {
            entries.push(NewEntry::new(name, NewKind::Whiteout, 0));
            continue;
        };
        let meta = &seen.meta;
        let kind = match meta.kind {
            Kind::Directory => NewKind::Directory,
            Kind::Symlink => NewKind::Symlink(meta.link.clone()),
            Kind::Fifo => NewKind::Fifo,
            Kind::Char => NewKind::Char(meta.device.0, meta.device.1),
            _ => match seen.inode.and_then(|inode| links.get(&inode)) {
                Some(first) => NewKind::Hardlink(first.clone()),
                None => {
                    links.extend(seen.inode.map(|inode| (inode, name.clone())));
                    NewKind::File { size: meta.size, content: Content::Bytes(seen.bytes.clone().into()) }
                }
            },
        };
        let (uid, gid, mtime) = (meta.uid, meta.gid, meta.mtime);
        entries.push(NewEntry { uid, gid, mtime, ..NewEntry::new(name, kind, meta.mode) });
    }
    entries
}

#[derive(Debug, Clone)]
enum Edit {
    Write(Vec<&'static str>, Vec<u8>),
    MakeDirectory(Vec<&'static str>),
    Remove(Vec<&'static str>),
    Again(Vec<&'static str>),
    Link(Vec<&'static str>, Vec<&'static str>),
    Symlink(Vec<&'static str>),
    Move(Vec<&'static str>, Vec<&'static str>),
    Mode(Vec<&'static str>, u32),
    Owner(Vec<&'static str>, u32),
    Touch(Vec<&'static str>, i64),
    Socket(Vec<&'static str>),
    CopyUp(Vec<&'static str>),
}

fn edits() -> impl Strategy<Value = Edit> {
    let path = || prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "a.x"]), 1..4);
    prop_oneof![
        4 => (path(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(path, bytes)| Edit::Write(path, bytes)),
        4 => path().prop_map(Edit::MakeDirectory),
        3 => path().prop_map(Edit::Remove),
        2 => path().prop_map(Edit::Again),
        2 => (path(), path()).prop_map(|(one, two)| Edit::Link(one, two)),
        1 => path().prop_map(Edit::Symlink),
        2 => (path(), path()).prop_map(|(one, two)| Edit::Move(one, two)),
        1 => (path(), prop::sample::select(vec![0o700, 0o755, 0o4711])).prop_map(|(path, mode)| Edit::Mode(path, mode)),
        1 => (path(), prop::sample::select(vec![0, 1000])).prop_map(|(path, owner)| Edit::Owner(path, owner)),
        1 => (path(), 0..3i64).prop_map(|(path, time)| Edit::Touch(path, time)),
        1 => path().prop_map(Edit::Socket),
        2 => path().prop_map(Edit::CopyUp),
    ]
}

/// Makes an edit; one that is not possible does nothing.
fn edit(root: &Path, edit: &Edit) {
    let at = |path: &[&str]| root.join(path.join("/"));
    // No edit follows a link: they could lead out of the overlay.
    let is_link = |path: &[&str]| std::fs::symlink_metadata(at(path)).is_ok_and(|it| it.is_symlink());
    let through = |path: &[&str]| (1..path.len()).any(|depth| is_link(&path[..depth]));
    let plain = |path: &[&str]| !through(path) && !is_link(path);
    let _ = match edit {
        Edit::Write(path, bytes) if plain(path) => match std::fs::symlink_metadata(at(path)) {
            Ok(found) if !found.is_file() => Ok(()),
            _ => std::fs::write(at(path), bytes),
        },
        Edit::MakeDirectory(path) if plain(path) => std::fs::create_dir_all(at(path)),
        Edit::Remove(path) if !through(path) => crate::remove::remove_tree(&at(path)),
        Edit::Again(path) if plain(path) && at(path).is_dir() => {
            crate::remove::remove_tree(&at(path)).and_then(|()| std::fs::create_dir_all(at(path).join("b")))
        }
        Edit::Link(one, two) if plain(one) && plain(two) && at(one).is_file() => std::fs::hard_link(at(one), at(two)),
        Edit::Symlink(path) if !through(path) => std::os::unix::fs::symlink("nowhere", at(path)),
        Edit::Move(one, two) if !through(one) && !through(two) => std::fs::rename(at(one), at(two)),
        Edit::Mode(path, mode) if plain(path) => {
            std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(*mode))
        }
        Edit::Owner(path, owner) if plain(path) => std::os::unix::fs::lchown(at(path), Some(*owner), Some(*owner)),
        Edit::Touch(path, time) if plain(path) && at(path).is_file() => {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(*time as u64);
            std::fs::File::open(at(path)).and_then(|file| file.set_modified(time))
        }
        Edit::Socket(path) if !through(path) => std::os::unix::net::UnixListener::bind(at(path)).map(drop),
        Edit::CopyUp(path) if plain(path) && at(path).exists() => {
            let mode = std::fs::metadata(at(path)).unwrap().permissions();
            std::fs::set_permissions(at(path), mode)
        }
        _ => Ok(()),
    };
}

/// What a tree shows, without times.
fn digests(seen: &BTreeMap<Vec<Vec<u8>>, Seen>) -> BTreeMap<Vec<u8>, Digest> {
    seen.iter().map(|(path, seen)| (path.join(&b'/'), file_digest(&seen.meta))).collect()
}

fn run(rounds: &[Vec<Edit>]) -> Result<(), TestCaseError> {
    let (temporary, store) = store();
    let empty = temporary.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (mut lowers, mut chain) = (vec![empty], Vec::new());
    let mut old = BTreeMap::new();
    for edits in rounds {
        let scratch = store.scratch("sandbox").unwrap();
        let upper = scratch.path().join("upper");
        std::fs::create_dir(&upper).unwrap();
        let Some(overlay) = Overlay::mount(scratch.path(), &upper, &lowers) else { return Ok(()) };
        for one in edits {
            edit(&overlay.0, one);
        }
        let new = walk(&overlay.0);
        drop(overlay);
        let walked = pack(&store, double_walk(&old, &new).into_iter().map(Ok), &Pack::default()).unwrap();
        let sealed = seal(&store, upper.clone(), &lowers, &Notes::default(), Some(Compression::Gzip)).unwrap();
        prop_assert_eq!(&sealed.index.entries(), &walked.index.entries());
        prop_assert_eq!(sealed.diff_id, walked.diff_id);
        prop_assert!(!upper.exists());

        // The directory form is what unpacking the tar stream gives, and gives it again.
        let directory = store.layer(&sealed.diff_id).directory().unwrap();
        let again = pack(&store, read::entries(&directory, store.ownership()), &Pack::default()).unwrap();
        prop_assert_eq!(again.diff_id, sealed.diff_id);
        // A directory cannot be twice in an overlay. The upper one has all that the lower one has.
        lowers.retain(|lower| *lower != directory);
        lowers.insert(0, directory);
        chain.push(sealed.diff_id);
        let tree = Tree::of(&store, &chain).unwrap();
        let mut shown = BTreeMap::new();
        let visited = tree.root().walk(&mut |path, node| {
            shown.insert(path.to_vec(), file_digest(&node.meta));
            prop_assert!(!split(path).1.is_empty());
            Ok::<(), TestCaseError>(())
        });
        visited?;
        prop_assert_eq!(&shown, &digests(&new));
        let view = scratch.path().join("view");
        std::fs::create_dir(&view).unwrap();
        let Some(overlay) = Overlay::mount(scratch.path(), &view, &lowers) else { return Ok(()) };
        prop_assert_eq!(&digests(&walk(&overlay.0)), &digests(&new));
        drop(overlay);
        old = new;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sealing_equals_a_walk_of_both_views(rounds in prop::collection::vec(prop::collection::vec(edits(), 0..25), 1..4)) {
        run(&rounds)?;
    }
}

#[test]
fn a_rewrite_that_keeps_size_and_time_is_not_lost() {
    let touch = |path| Edit::Touch(path, 1);
    let first = vec![Edit::Write(vec!["a"], b"one".to_vec()), touch(vec!["a"])];
    let second = vec![Edit::Write(vec!["a"], b"two".to_vec()), touch(vec!["a"])];
    run(&[first, second]).unwrap();
}

#[test]
fn a_directory_made_again_hides_what_it_had() {
    let first = vec![
        Edit::MakeDirectory(vec!["a", "b", "c"]),
        Edit::Write(vec!["a", "x"], b"1".to_vec()),
        Edit::Write(vec!["a", "b", "y"], b"2".to_vec()),
    ];
    run(&[first, vec![Edit::Again(vec!["a"])], vec![Edit::Remove(vec!["a"]), Edit::Write(vec!["a"], b"".to_vec())]])
        .unwrap();
}
