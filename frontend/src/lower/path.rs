//! Paths as text: cleaning and joining, without looking at any file.

use super::stages::error;
use crate::dockerfile::Diagnostic;

/// Returns the shortest path that means the same: no `.`, no doubled or trailing slash, and
/// `..` only where it cannot be resolved. The empty path becomes `.`; above `/` is `/`.
pub(crate) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|&last| last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Returns `path` seen from the root: absolute and clean, never above `/`.
pub(super) fn rooted(path: &str) -> String {
    clean(&format!("/{path}"))
}

/// Returns the last component, as `basename` does.
pub(super) fn base(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or_default()
}

/// Returns where a destination (or, without `keep_slash`, a source) of COPY lies, seen from
/// `parent`. An absolute path stays as it is; a relative one is joined and cleaned. With `keep_slash`
/// the result ends with what says "into this directory", a `/` or `/.`, where `path` does.
pub(super) fn destination(parent: &str, path: &str, keep_slash: bool) -> String {
    let mut joined = match path {
        "" if parent.starts_with('/') => parent.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => rooted(&format!("{parent}/{path}")),
    };
    if keep_slash && (path.ends_with('/') || path.ends_with("/.")) && !joined.ends_with('/') {
        joined.push('/');
    }
    if keep_slash && path.ends_with("/.") {
        joined.push('.');
    }
    joined
}

/// Returns where a destination of COPY lies, as [`destination`] does, where the current directory (`.`, or nothing at
/// all) is always one to copy into, even if it does not exist yet.
pub(super) fn copy_destination(current: &str, path: &str) -> String {
    tidy(&destination(current, if matches!(path, "" | ".") { "./" } else { path }, true))
}

/// What Linux takes: bytes of one name, and bytes of a whole path.
const LONGEST: (usize, usize) = (255, 4095);

/// Checks that a file may have this path; `operation` is what other builders say they tried (`open`, `mkdir`).
///
/// Layers are written as archives, which hold any name: without this the image could not be unpacked.
pub(super) fn check_length(operation: &str, path: &str) -> Result<(), Diagnostic> {
    let longest = path.split('/').map(str::len).max().unwrap_or_default();
    if longest <= LONGEST.0 && path.len() <= LONGEST.1 {
        return Ok(());
    }
    let hint = match longest > LONGEST.0 {
        true => format!("a name has at most {} bytes, and one in this path has {longest}", LONGEST.0),
        false => format!("a path has at most {} bytes, and this one has {}", LONGEST.1, path.len()),
    };
    Err(error("path-too-long", format!("{operation} {}: file name too long", shortened(path))).hint(hint))
}

/// Returns the beginning of a path, for a message.
fn shortened(path: &str) -> String {
    match path.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    }
}

/// Returns a destination clean, with a slash at its end if it says "into this directory".
pub(super) fn tidy(destination: &str) -> String {
    let mut clean = rooted(destination);
    if clean != "/" && (destination.ends_with('/') || destination.ends_with("/.")) {
        clean.push('/');
    }
    clean
}

/// Whether a path has wildcards, so that it may match several files or none.
pub(super) fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("/../a", "/a"),
            ("a/../../b", "../b"),
            ("../../b", "../../b"),
            ("a/..", "."),
            ("/a/./b/../c", "/a/c"),
        ] {
            assert_eq!(clean(path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_tidy_destination_remembers_its_slash() {
        for (path, expected) in [("/a/../b/", "/b/"), ("/w/a/.", "/w/a/"), ("/w//a", "/w/a"), ("/", "/"), ("/..", "/")]
        {
            assert_eq!(tidy(path), expected, "{path:?}");
        }
    }

    #[test]
    fn an_absolute_destination_stays_as_it_is_but_for_its_end() {
        for (parent, path, kept, bare) in [
            ("/w", "/a/.", "/a/./.", "/a/."),
            ("/w", "../.", "/.", "/"),
            ("/w/", "", "/w/", "/w/"),
            ("/w/../x", "", "/w/../x", "/w/../x"),
            ("w", "", "/w", "/w"),
            ("/w", "a/./.", "/w/a/.", "/w/a"),
        ] {
            let found = [true, false].map(|keep_slash| destination(parent, path, keep_slash));
            assert_eq!(found, [kept, bare], "{path:?} in {parent:?}");
        }
    }

    #[test]
    fn the_current_directory_is_a_directory() {
        for (path, expected) in [(".", "/w/"), ("", "/w/"), ("./", "/w/"), ("a", "/w/a"), ("..", "/"), ("/", "/")] {
            assert_eq!(copy_destination("/w", path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_path_has_a_length() {
        let name = "n".repeat(255);
        assert!(check_length("open", &format!("/{name}/é")).is_ok());
        let found = check_length("open", &format!("/a/{name}n")).unwrap_err();
        assert!(found.message.starts_with("open /a/nnn") && found.message.ends_with("…: file name too long"));
        assert!(found.hint.unwrap().ends_with("has 256"));
        assert!(check_length("open", &"/a".repeat(2047)).is_ok());
        assert!(check_length("mkdir", &"/é".repeat(2048)).is_err());
    }

    #[test]
    fn an_escaped_star_is_no_wildcard() {
        assert!(has_wildcards("a*"));
        assert!(!has_wildcards("a\\*b"));
        assert!(has_wildcards("a\\\\*b"));
    }

    proptest::proptest! {
        #[test]
        fn cleaning_twice_changes_nothing(path in "[a./]{0,12}") {
            let once = clean(&path);
            proptest::prop_assert_eq!(clean(&once), once);
        }

        #[test]
        fn a_rooted_path_never_leaves_the_root(path in "[a./]{0,12}") {
            let rooted = rooted(&path);
            proptest::prop_assert!(rooted.starts_with('/') && !rooted.split('/').any(|part| part == ".."));
        }
    }
}
