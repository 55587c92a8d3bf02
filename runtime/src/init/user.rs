//! Who the command runs as: the text of USER, looked up in the image's own files.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

use crate::error::SetupError;
use crate::init::walk::{Missing, walk};

/// The largest `passwd` or `group` file that is read; more is cut off.
const LARGEST: u64 = 10 << 20;

/// Numbers of a user, its group, and all groups it is in, the first of which is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// The supplementary groups, the primary one among them.
    pub groups: Vec<u32>,
}

/// The image's `passwd` and `group`.
pub struct Files {
    passwd: String,
    group: String,
}

impl Files {
    /// Reads the files below `root`; one that is missing or no regular file counts as empty.
    pub fn read(root: &OwnedFd) -> Self {
        Self { passwd: read(root, "/etc/passwd"), group: read(root, "/etc/group") }
    }

    /// Resolves the text of USER.
    pub fn resolve(&self, text: &str) -> Result<Identity, SetupError> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let wanted = if user.is_empty() { Some(0) } else { number(user) };
        let entry = self.users().find(|entry| match wanted {
            Some(uid) => i64::from(entry.uid) == uid,
            None => entry.name == user,
        });
        let (uid, gid) = match (&entry, wanted) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Some(uid)) => (in_range(uid)?, 0),
            (None, None) => return Err(SetupError::UnknownUser(user.to_owned())),
        };
        if !group.is_empty() {
            let gid = self.find_group(group)?;
            return Ok(Identity { uid, gid, groups: vec![gid] });
        }
        let mut groups = vec![gid];
        if let Some(entry) = entry {
            for (_, gid, members) in self.groups() {
                if members.split(',').any(|member| member == entry.name) && !groups.contains(&gid) {
                    groups.push(gid);
                }
            }
        }
        Ok(Identity { uid, gid, groups })
    }

    /// Returns the home directory of the first user with this number, `/` where there is none.
    pub fn home(&self, uid: u32) -> String {
        let home = self.users().find(|entry| entry.uid == uid).map_or("", |entry| entry.home);
        if home.is_empty() { "/".to_owned() } else { home.to_owned() }
    }

    fn find_group(&self, text: &str) -> Result<u32, SetupError> {
        let wanted = number(text);
        let found = self.groups().find(|(name, gid, _)| match wanted {
            Some(wanted) => i64::from(*gid) == wanted,
            None => *name == text,
        });
        match (found, wanted) {
            (Some((_, gid, _)), _) => Ok(gid),
            (None, Some(gid)) => in_range(gid),
            (None, None) => Err(SetupError::UnknownGroup(text.to_owned())),
        }
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        lines(&self.passwd).map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().unwrap_or("");
            let mut id = || fields.next().and_then(number).and_then(|id| id.try_into().ok()).unwrap_or(0);
            id(); // The password.
            let (uid, gid) = (id(), id());
            User { name, uid, gid, home: fields.nth(1).unwrap_or("") }
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        lines(&self.group).map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().unwrap_or("");
            let gid = fields.nth(1).and_then(number).and_then(|id| id.try_into().ok()).unwrap_or(0);
            (name, gid, fields.next().unwrap_or(""))
        })
    }
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Returns what counts as a number: digits with an optional sign, as far as 64 bits go.
fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn in_range(id: i64) -> Result<u32, SetupError> {
    i32::try_from(id).ok().and_then(|id| u32::try_from(id).ok()).ok_or(SetupError::IdRange)
}

/// Reads a file of the image. What it is decides before it is opened: a pipe or a device would hang or do something.
fn read(root: &OwnedFd, path: &str) -> String {
    let Ok(found) = walk(root, path, Missing::Fail) else { return String::new() };
    let is_file = rustix::fs::fstat(&found).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    if !is_file {
        return String::new();
    }
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(link, flags, Mode::empty()) else { return String::new() };
    let mut bytes = Vec::new();
    // A file that cannot be read to its end counts as far as it could.
    let _ = std::fs::File::from(file).take(LARGEST).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\n# a comment\napp:x:1000:1001:App:/home/app:/bin/sh\n\
                          one:x:1:1:::\ndup:x:1:2::/a\nshort:x:7\nbad:x:huge:99999999999::/b\n";
    const GROUP: &str = "root:x:0:root\nwheel:x:10:root,app\napp:x:1001:\nother:x:1002:one,app,app\n";

    fn files() -> Files {
        Files { passwd: PASSWD.to_owned(), group: GROUP.to_owned() }
    }

    #[track_caller]
    fn check(text: &str, uid: u32, gid: u32, groups: &[u32]) {
        let found = files().resolve(text);
        assert_eq!(found, Ok(Identity { uid, gid, groups: groups.to_vec() }), "{text:?}");
    }

    #[test]
    fn every_form_of_user() {
        check("", 0, 0, &[0, 10]);
        check("root", 0, 0, &[0, 10]);
        check("0", 0, 0, &[0, 10]);
        check("1000", 1000, 1001, &[1001, 10, 1002]);
        check("app", 1000, 1001, &[1001, 10, 1002]);
        check("app:", 1000, 1001, &[1001, 10, 1002]);
        check("1234", 1234, 0, &[0]);
        check("1234:77", 1234, 77, &[77]);
        check("app:wheel", 1000, 10, &[10]);
        check("app:77", 1000, 77, &[77]);
        check("1234:wheel", 1234, 10, &[10]);
        check(":77", 0, 77, &[77]);
        check("short", 7, 0, &[0]);
        check("2147483647", 2_147_483_647, 0, &[0]);
    }

    #[test]
    fn what_is_unknown_says_so() {
        let message = |text: &str| files().resolve(text).map_err(|error| error.to_string());
        assert_eq!(message("x"), Err("unable to find user x: no matching entries in passwd file".into()));
        assert_eq!(message("app:x"), Err("unable to find group x: no matching entries in group file".into()));
        for text in ["-1", "2147483648", "1:-1", "1:2147483648"] {
            assert_eq!(message(text), Err("uids and gids must be in range 0-2147483647".into()), "{text}");
        }
    }

    #[test]
    fn home_is_found_by_number() {
        let files = files();
        for (uid, home) in [(0, "/root"), (1000, "/home/app"), (1, "/"), (4242, "/")] {
            assert_eq!(files.home(uid), home, "{uid}");
        }
    }

    proptest! {
        #[test]
        fn no_file_and_no_text_is_too_strange(passwd in ".{0,200}", group in ".{0,200}", text in ".{0,20}") {
            let files = Files { passwd, group };
            if let Ok(identity) = files.resolve(&text) {
                prop_assert_eq!(identity.groups.first(), Some(&identity.gid));
                files.home(identity.uid);
            }
        }

        #[test]
        fn two_numbers_need_no_files(uid in 0..=i32::MAX as u32, gid in 0..=i32::MAX as u32) {
            let files = Files { passwd: String::new(), group: String::new() };
            let expected = Identity { uid, gid, groups: vec![gid] };
            prop_assert_eq!(files.resolve(&format!("{uid}:{gid}")), Ok(expected));
        }
    }
}
