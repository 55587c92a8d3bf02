//! What a finished or killed build has left on the machine.

use std::fs;
use std::path::Path;

/// Returns one line for every mount and process that has to do with the state directory
/// `root`, and for every half-written file in it. A tidy machine gives none.
///
/// Mounts are looked for in the mount namespaces of all processes, so a sandbox that still
/// lives in a namespace of its own is seen as well.
pub fn leftovers(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let needle = root.to_string_lossy().into_owned();
    let me = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let mounts = String::from_utf8_lossy(&read("mountinfo")).into_owned();
        let mounted: Vec<&str> = mounts.lines().filter(|line| line.contains(&needle)).collect();
        if pid == me {
            found.extend(mounted.iter().map(|line| format!("mount: {line}")));
            continue;
        }
        let environment = String::from_utf8_lossy(&read("environ")).into_owned();
        let folder = fs::read_link(process.path().join("cwd")).unwrap_or_default();
        // Other processes share our own mounts, which were reported above.
        let ours = fs::read_link("/proc/self/ns/mnt").ok() == fs::read_link(process.path().join("ns/mnt")).ok();
        if environment.contains(&needle) || folder.starts_with(root) || (!ours && !mounted.is_empty()) {
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            found.push(format!("process {pid}: {}", command.trim()));
        }
    }
    half_written(&root.join("ingest"), &mut found);
    found
}

fn half_written(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(format!("half-written: {}", entry.path().display()));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_and_a_half_written_file_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(leftovers(root.path()), Vec::<String>::new());
        let mut process = Command::new("sleep")
            .arg("600")
            .env("KILN_ROOT", root.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep is everywhere");
        fs::create_dir(root.path().join("ingest")).expect("a folder");
        fs::write(root.path().join("ingest/abc"), "half").expect("a file");
        let found = leftovers(root.path());
        process.kill().expect("our own child");
        process.wait().expect("our own child");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("sleep 600") && found[1].contains("ingest/abc"), "{found:?}");
    }
}
