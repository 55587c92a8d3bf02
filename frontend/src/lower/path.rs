//! Paths as text: cleaning and joining, without looking at any file.

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
/// `parent`. An absolute path stays as it is; a relative one is joined and cleaned, and keeps
/// what says "into this directory": a trailing `/` or `/.`.
pub(super) fn destination(parent: &str, path: &str, keep_slash: bool) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut joined = rooted(&format!("{parent}/{path}"));
    if keep_slash && joined != "/" {
        if path.ends_with('/') {
            joined.push('/');
        } else if path.ends_with("/.") {
            joined.push_str("/.");
        }
    }
    joined
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
