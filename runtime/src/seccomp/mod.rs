//! The default seccomp profile, compiled by ourselves.
//!
//! Docker's rules for the capabilities of the command, for the machine's architecture and its compatible ones. What the
//! profile does not name fails with EPERM; what is newer than the profile fails with ENOSYS, because C libraries then fall
//! back to older calls. The numbers become a search tree, so that even the kernel's own walk over all calls at the
//! time of loading is short. Arguments are compared by their low 32 bits, which is all the kernel looks at for these.

pub(crate) mod answers;
mod emit;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use emit::{Action, Arch};
use table::{Column, number};

/// A set of capabilities, bit n for capability n.
pub type Capabilities = u64;

/// The capabilities of a command that is not insecure.
pub const DEFAULT_CAPABILITIES: Capabilities = bit(cap::CHOWN)
    | bit(cap::DAC_OVERRIDE)
    | bit(cap::FOWNER)
    | bit(cap::FSETID)
    | bit(cap::KILL)
    | bit(cap::SETGID)
    | bit(cap::SETUID)
    | bit(cap::SETPCAP)
    | bit(cap::NET_BIND_SERVICE)
    | bit(cap::NET_RAW)
    | bit(cap::SYS_CHROOT)
    | bit(cap::MKNOD)
    | bit(cap::AUDIT_WRITE)
    | bit(cap::SETFCAP);

/// The numbers of the capabilities that matter here.
mod cap {
    pub const CHOWN: u32 = 0;
    pub const DAC_OVERRIDE: u32 = 1;
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const FOWNER: u32 = 3;
    pub const FSETID: u32 = 4;
    pub const KILL: u32 = 5;
    pub const SETGID: u32 = 6;
    pub const SETUID: u32 = 7;
    pub const SETPCAP: u32 = 8;
    pub const NET_BIND_SERVICE: u32 = 10;
    pub const NET_RAW: u32 = 13;
    pub const SYS_MODULE: u32 = 16;
    pub const SYS_RAWIO: u32 = 17;
    pub const SYS_CHROOT: u32 = 18;
    pub const SYS_PTRACE: u32 = 19;
    pub const SYS_PACCT: u32 = 20;
    pub const SYS_ADMIN: u32 = 21;
    pub const SYS_BOOT: u32 = 22;
    pub const SYS_NICE: u32 = 23;
    pub const SYS_TIME: u32 = 25;
    pub const SYS_TTY_CONFIG: u32 = 26;
    pub const MKNOD: u32 = 27;
    pub const AUDIT_WRITE: u32 = 29;
    pub const SETFCAP: u32 = 31;
    pub const SYSLOG: u32 = 34;
    pub const PERFMON: u32 = 38;
    pub const BPF: u32 = 39;
}

const fn bit(capability: u32) -> Capabilities {
    1 << capability
}

/// What a filter depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Params<'a> {
    /// The command's capabilities.
    pub capabilities: Capabilities,
    /// The architecture, as Rust names it: `x86_64`.
    pub arch: &'a str,
    /// Whether the kernel (4.8 or later) checks a traced process again after the filter.
    pub has_safe_ptrace: bool,
}

impl Params<'static> {
    /// Returns the parameters for this machine.
    pub fn host(capabilities: Capabilities) -> Self {
        static SAFE: LazyLock<bool> = LazyLock::new(|| {
            let name = rustix::system::uname();
            let release = name.release().to_string_lossy().into_owned();
            let mut parts = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0u32));
            (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (4, 8)
        });
        Self { capabilities, arch: std::env::consts::ARCH, has_safe_ptrace: *SAFE }
    }
}

/// Says whether commands are kept from calls here: there is a table for this architecture, and the kernel has filters.
pub fn is_possible() -> bool {
    std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
        && default_filter(Params::host(DEFAULT_CAPABILITIES)).is_some()
}

/// Returns the default profile as a classic BPF program, each instruction as the kernel lays it out in eight bytes; none for
/// an architecture without a table. Compiled once per process and parameters.
pub fn default_filter(params: Params<'static>) -> Option<Arc<[u64]>> {
    type Cache = Mutex<HashMap<Params<'static>, Arc<[u64]>>>;
    static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);
    // A panic elsewhere cannot leave the map half changed.
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = cache.get(&params) {
        return Some(Arc::clone(filter));
    }
    let filter: Arc<[u64]> = compile(params)?.into();
    cache.insert(params, Arc::clone(&filter));
    Some(filter)
}

fn compile(params: Params<'_>) -> Option<Vec<u64>> {
    let arches: Vec<Arch> = architectures(params.arch)?
        .iter()
        .map(|&(audit, marker, column)| {
            let rules = rules(params, column);
            Arch { audit, marker, rules, highest: highest(column), otherwise: Action::Deny }
        })
        .collect();
    Some(emit::program(&arches))
}

/// The bit that marks the calls of x32.
const X32: u32 = 0x4000_0000;

/// The architectures a machine runs, native first: audit number, marker bit, column.
fn architectures(arch: &str) -> Option<&'static [(u32, u32, Column)]> {
    Some(match arch {
        "x86_64" => &[(0xc000_003e, 0, Column::X86_64), (0xc000_003e, X32, Column::X32), (0x4000_0003, 0, Column::X86)],
        "aarch64" => &[(0xc000_00b7, 0, Column::Generic), (0x4000_0028, 0, Column::Arm)],
        "riscv64" => &[(0xc000_00f3, 0, Column::Generic)],
        "loongarch64" => &[(0xc000_0102, 0, Column::Generic)],
        _ => return None,
    })
}

/// The highest number that the profile's makers knew; what is above is answered with ENOSYS.
fn highest(column: Column) -> u32 {
    match column {
        Column::X32 => 547,
        _ => 466,
    }
}

fn rules(params: Params<'_>, column: Column) -> BTreeMap<u32, Action> {
    let mut rules = BTreeMap::new();
    let mut set = |names: &str, action: Action| {
        rules.extend(names.split_ascii_whitespace().filter_map(|name| number(name, column)).map(|nr| (nr, action)));
    };
    let has = |capability| params.capabilities & bit(capability) != 0;
    set(ALWAYS, Action::Allow);
    set("socket", Action::Socket);
    set("personality", Action::Personality);
    set("clone", Action::Clone);
    set("clone3", Action::NoSuchCall);
    if params.has_safe_ptrace || has(cap::SYS_PTRACE) {
        set("process_vm_readv process_vm_writev ptrace", Action::Allow);
    }
    for (capability, names) in WITH_CAPABILITY {
        if has(*capability) {
            set(names, Action::Allow);
        }
    }
    match (params.arch, column) {
        (_, Column::X86_64 | Column::X32) => set("arch_prctl modify_ldt", Action::Allow),
        (_, Column::X86) => set("arch_prctl modify_ldt", Action::Allow),
        ("aarch64", _) => {
            set("arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls", Action::Allow)
        }
        ("riscv64", _) => set("riscv_flush_icache", Action::Allow),
        _ => {}
    }
    rules
}

/// Calls that come with a capability.
#[rustfmt::skip]
const WITH_CAPABILITY: &[(u32, &str)] = &[
    (cap::SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (cap::SYS_ADMIN, "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd \
        setdomainname sethostname setns syslog umount umount2 unshare"),
    (cap::DAC_READ_SEARCH, "open_by_handle_at"),
    (cap::SYS_BOOT, "reboot"),
    (cap::SYS_CHROOT, "chroot"),
    (cap::SYS_MODULE, "delete_module init_module finit_module"),
    (cap::SYS_PACCT, "acct"),
    (cap::SYS_RAWIO, "iopl ioperm"),
    (cap::SYS_TIME, "settimeofday stime clock_settime clock_settime64"),
    (cap::SYS_TTY_CONFIG, "vhangup"),
    (cap::SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (cap::SYSLOG, "syslog"),
    (cap::BPF, "bpf"),
    (cap::PERFMON, "perf_event_open"),
];

/// Calls that are always allowed.
#[rustfmt::skip]
const ALWAYS: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark \
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock \
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu \
    getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 \
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr \
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier \
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect \
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
    mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep \
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect \
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 \
    recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe \
    rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget \
    semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list \
    set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 \
    setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown \
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname \
    unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write \
    writev";

#[cfg(test)]
mod tests {
    use super::emit::{Data, interpret};
    use super::*;
    use proptest::prelude::*;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    fn x86_64(capabilities: Capabilities) -> Vec<u64> {
        compile(Params { capabilities, arch: "x86_64", has_safe_ptrace: true }).expect("x86_64 has a table")
    }

    fn run(filter: &[u64], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        interpret(filter, &Data { nr, arch, args })
    }

    #[test]
    fn every_rule_of_every_architecture_is_found_by_the_tree() {
        for arch in ["x86_64", "aarch64", "riscv64", "loongarch64"] {
            let params = Params { capabilities: DEFAULT_CAPABILITIES, arch, has_safe_ptrace: true };
            let filter = compile(params).expect("it has a table");
            for &(audit, marker, column) in architectures(arch).expect("it has a table") {
                let rules = rules(params, column);
                let private = 0xf_0000..0xf_0008;
                for nr in (0..600).chain(private) {
                    let expected = match rules.get(&nr) {
                        Some(Action::Allow | Action::Socket | Action::Clone | Action::Personality) => ALLOW,
                        Some(Action::NoSuchCall) => ENOSYS,
                        None if nr > highest(column) => ENOSYS,
                        _ => EPERM,
                    };
                    let found = run(&filter, audit, nr | marker, [0; 6]);
                    assert_eq!(found, expected, "{arch} {column:?} {nr}");
                }
            }
        }
    }

    #[test]
    fn arguments_decide_where_the_profile_says_so() {
        let filter = x86_64(DEFAULT_CAPABILITIES);
        let call = |nr, first| run(&filter, 0xc000_003e, nr, [first, 0, 0, 0, 0, 0]);
        for (family, expected) in [(1, ALLOW), (16, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW)] {
            assert_eq!(call(41, family), expected, "socket family {family}");
        }
        // The kernel takes the family as 32 bits: bits above must not hide it.
        assert_eq!(call(41, 0x1_0000_0026), EPERM);
        for (flags, expected) in [(0x11, ALLOW), (0x1000_0000, EPERM), (0x0002_0000, EPERM), (0x4000_0000, EPERM)] {
            assert_eq!(call(56, flags), expected, "clone flags {flags:#x}");
        }
        for (persona, expected) in [(0, ALLOW), (8, ALLOW), (0x2_0008, ALLOW), (0xffff_ffff, ALLOW), (4, EPERM)] {
            assert_eq!(call(135, persona), expected, "personality {persona:#x}");
        }
        assert_eq!(call(435, 0), ENOSYS, "clone3");
        assert_eq!(call(272, 0), EPERM, "unshare");
    }

    #[test]
    fn sys_admin_frees_what_needs_it() {
        let filter = x86_64(DEFAULT_CAPABILITIES | bit(cap::SYS_ADMIN));
        for nr in [435, 272, 165] {
            assert_eq!(run(&filter, 0xc000_003e, nr, [0; 6]), ALLOW, "{nr}");
        }
        assert_eq!(run(&filter, 0xc000_003e, 56, [0x1000_0000, 0, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn unknown_architectures_get_nothing() {
        let filter = x86_64(DEFAULT_CAPABILITIES);
        assert_eq!(run(&filter, 0xc000_00b7, 63, [0; 6]), EPERM);
    }

    #[test]
    fn the_program_fits_the_kernels_limit() {
        let length = x86_64(DEFAULT_CAPABILITIES).len();
        assert!(length < 4096, "{length} instructions");
    }

    proptest! {
        #[test]
        fn any_number_gets_one_of_the_three_answers(nr: u32, arch: u32, args: [u64; 6]) {
            let filter = x86_64(DEFAULT_CAPABILITIES);
            for arch in [arch, 0xc000_003e, 0x4000_0003] {
                prop_assert!([ALLOW, EPERM, ENOSYS].contains(&run(&filter, arch, nr, args)));
            }
        }
    }
}
