//! Running the program as an ordinary user, on a machine that need not have one.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use crate::bed::{Bed, Kiln};

/// The user's id, and the first of the 65,536 ids that are set aside for it. Nobody on the machine need know them: both
/// stand only in files that the run sees in place of the machine's.
const USER: u32 = 100_777;
const FIRST: u32 = 200_000;

/// What an ordinary user has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordinary {
    /// A range of subordinate ids.
    WithRanges,
    /// Nothing but an id.
    WithoutRanges,
}

/// Mounts a few files over the machine's, and becomes the user.
const SCRIPT: &str = r#"
etc=$1 user=$2 program=$3; shift 3
mount -t overlay -o "lowerdir=$etc:/etc" overlay /etc
mount --bind "$program" "$etc/../kiln"
exec setpriv --reuid "$user" --regid "$user" --clear-groups "$etc/../kiln" "$@"
"#;

impl Kiln {
    /// Makes it a run as an ordinary user, to whom the bed's folders are given. Needs root, `unshare` and `setpriv`.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn ordinary(mut self, bed: &Bed, who: Ordinary) -> Self {
        let base = bed.root().with_file_name("");
        let etc = etc(bed);
        fs::create_dir_all(&etc).expect("a folder");
        let add = |name: &str, line: &str| {
            let mut text = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
            text.push_str(line);
            fs::write(etc.join(name), text).expect("a file");
        };
        add("passwd", &format!("kilntest:x:{USER}:{USER}::{}:/bin/sh\n", bed.home().display()));
        let range = format!("kilntest:{FIRST}:65536\n");
        for name in ["subuid", "subgid"] {
            add(name, if who == Ordinary::WithRanges { &range } else { "" });
        }
        fs::write(base.join("kiln"), "").expect("a place for the program");
        for folder in [&base, &etc] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        for folder in [bed.root(), bed.home()] {
            chown(folder, Some(USER), Some(USER)).expect("root may");
        }
        give(&bed.path("."));
        self.among_mounts(SCRIPT, [etc.into_os_string(), USER.to_string().into()]);
        self
    }

    /// Runs it in a mount namespace of its own, where a script first mounts what it likes: it gets the words, then the program
    /// and its arguments, and ends with `exec`. Needs root and `unshare`.
    pub fn among_mounts(&mut self, script: &str, words: impl IntoIterator<Item = OsString>) {
        let begin = ["-m", "--propagation", "private", "sh", "-ec", script, "sh"].map(OsString::from);
        self.run_by("unshare", begin.into_iter().chain(words));
    }

    /// Makes another program run it: the words, then the program, then its arguments.
    pub fn run_by(&mut self, program: &str, words: impl IntoIterator<Item = OsString>) {
        let program = std::mem::replace(&mut self.program, program.into());
        self.arguments.splice(0..0, words.into_iter().chain([program.into_os_string()]));
    }
}

/// Returns the folder whose files lie over those of `/etc` in a run as an ordinary user.
pub fn etc(bed: &Bed) -> PathBuf {
    bed.root().with_file_name("etc")
}

/// Gives a file, or a folder with all that is in it, to the user.
fn give(path: &Path) {
    lchown(path, Some(USER), Some(USER)).expect("root may");
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        fs::read_dir(path).expect("a folder").for_each(|entry| give(&entry.expect("an entry").path()));
    }
}
