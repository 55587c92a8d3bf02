//! Limits of single processes, from what `--ulimit` says.

use kiln_runtime::{Limit, Rlimit};

/// Reads `name=soft[:hard]`; -1 is no limit, and the last of a name counts. What cannot be read was refused before the build.
pub(super) fn rlimits(texts: &[String]) -> Vec<Rlimit> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in texts.iter().filter_map(|text| rlimit(text)) {
        limits.retain(|earlier| earlier.limit != limit.limit);
        limits.push(limit);
    }
    limits
}

fn rlimit(text: &str) -> Option<Rlimit> {
    let (name, limits) = text.split_once('=')?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| if text == "-1" { Some(None) } else { text.parse().ok().map(Some) };
    Some(Rlimit { limit: Limit::from_name(name)?, soft: number(soft)?, hard: number(hard)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_name_counts() {
        let read = rlimits(&["nofile=64".to_owned(), "core=0".to_owned(), "nofile=99".to_owned()]);
        let read: Vec<_> = read.iter().map(|limit| (limit.limit.name(), limit.soft)).collect();
        assert_eq!(read, [("core", Some(0)), ("nofile", Some(99))]);
    }

    #[test]
    fn both_limits_are_read() {
        let read = |text: &str| rlimit(text).map(|limit| (limit.limit.name(), limit.soft, limit.hard));
        assert_eq!(read("nofile=64"), Some(("nofile", Some(64), Some(64))));
        assert_eq!(read("core=0:-1"), Some(("core", Some(0), None)));
        for wrong in ["", "nofile", "files=1", "nofile=x", "nofile=1:2:3"] {
            assert_eq!(read(wrong), None);
        }
    }
}
