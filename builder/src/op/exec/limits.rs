//! Limits of single processes, from what `--ulimit` says.

use kiln_runtime::{Limit, Rlimit};

/// Reads `name=soft[:hard]`; -1 is no limit. What cannot be read was refused before the build.
pub(super) fn rlimits(texts: &[String]) -> Vec<Rlimit> {
    texts.iter().filter_map(|text| rlimit(text)).collect()
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
    fn both_limits_are_read() {
        let read = |text: &str| rlimit(text).map(|limit| (limit.limit.name(), limit.soft, limit.hard));
        assert_eq!(read("nofile=64"), Some(("nofile", Some(64), Some(64))));
        assert_eq!(read("core=0:-1"), Some(("core", Some(0), None)));
        for wrong in ["", "nofile", "files=1", "nofile=x", "nofile=1:2:3"] {
            assert_eq!(read(wrong), None);
        }
    }
}
