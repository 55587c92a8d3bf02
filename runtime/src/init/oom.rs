//! How often the kernel's out-of-memory killer has struck in our cgroup.
//!
//! The command runs in the builder's own cgroup, so the count is compared before and after and only believed when the command
//! was killed.

use std::fs;

/// Returns the count so far; zero where the host keeps none.
pub fn kills() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().filter_map(count).sum()
}

/// Returns the count of one line of `/proc/self/cgroup`: `4:memory:/path` or, for version 2, `0::/path`.
fn count(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let file = if hierarchy == "0" && controllers.is_empty() {
        format!("/sys/fs/cgroup{path}/memory.events")
    } else if controllers.split(',').any(|name| name == "memory") {
        format!("/sys/fs/cgroup/memory{path}/memory.oom_control")
    } else {
        return None;
    };
    field(&fs::read_to_string(file).ok()?)
}

fn field(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_the_file_are_understood() {
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(field("low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(field("oom_kill x\n"), None);
    }
}
