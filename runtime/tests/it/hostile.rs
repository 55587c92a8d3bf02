//! Images that want out.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_runtime::{Mount, MountKind};

use crate::bed::Bed;

#[test]
fn a_symlinked_etc_leads_nowhere_else() {
    let Some(bed) = Bed::new() else { return };
    let outside = bed.make_dir("outside");
    fs::remove_dir_all(bed.base("etc")).expect("ours");
    symlink(&outside, bed.base("etc")).expect("a symlink");
    assert_ne!(bed.ok("cat /etc/hosts | wc -l"), "0\n");
    assert!(fs::read_dir(&outside).expect("it is there").next().is_none());
}

#[test]
fn stubs_are_not_taken_away_through_a_symlink() {
    let Some(bed) = Bed::new() else { return };
    let outside = bed.make_dir("outside/y");
    symlink("/x", bed.base("link")).expect("a symlink");
    let mut spec = bed.sh(&format!("rm -rf /x; ln -s {} /x; true", bed.path("outside").display()));
    let kind = MountKind::Tmpfs { size: None };
    spec.mounts = vec![Mount { target: "/link/y".into(), read_only: false, kind }];
    bed.run(&spec).out();
    assert!(outside.is_dir());
}

#[test]
fn device_and_proc_directories_may_be_links() {
    let Some(bed) = Bed::new() else { return };
    let outside = bed.make_dir("outside");
    for name in ["dev", "proc", "sys"] {
        fs::remove_dir_all(bed.base(name)).expect("ours");
        symlink(&outside, bed.base(name)).expect("a symlink");
    }
    bed.run(&bed.sh("true")).result.ok();
    assert!(fs::read_dir(&outside).expect("it is there").next().is_none());
}

#[test]
fn masks_do_not_use_the_images_null() {
    let Some(bed) = Bed::new() else { return };
    fs::create_dir_all(bed.base("dev")).expect("a directory");
    symlink("/proc/sys/kernel/core_pattern", bed.base("dev/null")).expect("a symlink");
    let before = fs::read("/proc/sys/kernel/core_pattern").expect("procfs");
    assert_eq!(bed.ok("cat /proc/kcore | wc -c; echo x > /dev/null; stat -c %t:%T /dev/null"), "0\n1:3\n");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").expect("procfs"), before);
}

#[test]
fn a_working_directory_in_procs_descriptors_is_none() {
    let Some(bed) = Bed::new() else { return };
    for fd in 3..20 {
        let mut spec = bed.sh("pwd; cat ../../../../../../etc/passwd; ls ../../../..");
        spec.cwd = format!("/proc/self/fd/{fd}");
        let ran = bed.run(&spec);
        assert!(ran.stdout.is_empty() || !ran.stdout.contains("boot"), "{fd}: {}", ran.stdout);
        if ran.result.is_ok() {
            assert!(ran.stdout.contains("app:x:1000"), "{fd}: {}", ran.stdout);
        }
        let _ = fs::remove_dir_all(bed.root.upper.join("proc"));
    }
    symlink("/proc/self/fd/7", bed.base("dir")).expect("a symlink");
    let mut spec = bed.sh("pwd");
    spec.cwd = "/dir".into();
    let ran = bed.run(&spec);
    assert!(ran.result.is_err() || ran.stdout.starts_with('/'), "{}", ran.stdout);
}

#[test]
fn users_in_a_pipe_do_not_hang() {
    let Some(bed) = Bed::new() else { return };
    fs::remove_file(bed.base("etc/passwd")).expect("ours");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, bed.base("etc/passwd"), rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    symlink("/dev/zero", bed.base("etc/shadow")).expect("a symlink");
    bed.ok("true");
    let mut spec = bed.sh("true");
    spec.user = "app".into();
    assert!(bed.run(&spec).error().contains("unable to find user app"));
}

#[test]
fn the_helpers_program_cannot_be_changed_from_inside() {
    let Some(bed) = Bed::new() else { return };
    let script = bed.base("bin/again");
    fs::write(&script, "#!/proc/self/exe\n").expect("a file");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let program = env!("CARGO_BIN_EXE_kiln_sandbox_init");
    let before = fs::read(program).expect("it is there");
    let mut spec = bed.sh("");
    spec.args = vec!["/bin/again".into()];
    let _ = bed.run(&spec);
    assert!(fs::read(program).expect("it is there") == before);
}

#[test]
fn a_mount_below_a_cache_that_swaps_links_stays_inside() {
    let Some(bed) = Bed::new() else { return };
    let cache = bed.make_dir("cache");
    let outside = bed.make_dir("outside");
    fs::create_dir(cache.join("a")).expect("a directory");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::rename(cache.join("a"), cache.join("b"));
                let _ = symlink(&outside, cache.join("a"));
                let _ = fs::remove_file(cache.join("a"));
                let _ = fs::rename(cache.join("b"), cache.join("a"));
            }
        });
        for _ in 0..20 {
            let mut spec = bed.sh("true");
            spec.mounts = vec![
                Mount { target: "/c".into(), read_only: false, kind: MountKind::Directory { path: cache.clone() } },
                Mount { target: "/c/a/sub".into(), read_only: false, kind: MountKind::Tmpfs { size: None } },
            ];
            let _ = bed.run(&spec);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(fs::read_dir(&outside).expect("it is there").next().is_none());
}
