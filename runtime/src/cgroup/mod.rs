//! The control group of one command: limits, devices, and the count of what the kernel killed for want of memory.
//!
//! ```text
//! version 1   /sys/fs/cgroup/<controller>/<ours>/kiln-<pid>      for each controller that is needed
//! version 2   /sys/fs/cgroup/<ours>/kiln-<pid>                   or below the nearest group that can hand controllers on
//! ```
//!
//! Groups are made below the builder's own, so that its limits hold for commands too. The helper makes them, outlives the
//! command, and removes them; what a killed helper left is removed by the next one, which is safe because the kernel refuses
//! to remove a group with processes in it.
//!
//! A limit that the host refuses is a warning that names it. Only the device rules are more: where they cannot be had, the
//! mounts of the sandbox keep device nodes from being opened.

mod device;
mod files;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statfs;

use crate::error::reason;
use crate::spec::Resources;
use files::{Controller, Setting};

/// The numbers of the file systems of cgroups.
const CGROUP: i64 = 0x0027_e0eb;
const CGROUP2: i64 = 0x6367_7270;
/// Where hosts mount them.
const ROOT: &str = "/sys/fs/cgroup";
/// How the names of our groups begin; the number of the helper's process follows.
const PREFIX: &str = "kiln-";

/// Says whether the host has cgroups of version 2 only.
pub fn is_unified() -> bool {
    is_of_type(Path::new(ROOT), CGROUP2)
}

fn is_of_type(path: &Path, number: i64) -> bool {
    statfs(path).is_ok_and(|found| found.f_type == number)
}

/// A limit that the host refused.
pub struct Refused {
    name: &'static str,
    value: String,
    reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host refused the limit `{}={}`: {}", self.name, self.value, self.reason)
    }
}

/// Tries every limit that a command can have, and returns the name of each with the reason where the host refuses it.
pub fn limits() -> Vec<(&'static str, Option<String>)> {
    // So high, or so much like what there is, that nothing but the limit itself can be refused.
    let resources = Resources {
        pids: Some(1 << 20),
        memory: Some(1 << 50),
        memory_swap: Some(1 << 50),
        cpu_shares: Some(1024),
        cpu_period: Some(100_000),
        cpu_quota: Some(100_000),
        cpuset_cpus: Some("0".to_owned()),
        cpuset_mems: Some("0".to_owned()),
    };
    let host = Host::new();
    let mut refused = Vec::new();
    let wish = Wish { resources: &resources, parent: "", confines_devices: false };
    drop(Group::make(&host, &wish, &mut |limit| refused.push(limit)));
    let names = files::settings(&resources, host.is_unified).into_iter().map(|setting| setting.name);
    let reason = |name| refused.iter().find(|limit| limit.name == name).map(|limit| limit.reason.clone());
    names.map(|name| (name, reason(name))).collect()
}

/// What a command's group is to do.
pub struct Wish<'a> {
    /// The limits.
    pub resources: &'a Resources,
    /// The group to make it in, from the top of the hierarchy; empty for the builder's own.
    pub parent: &'a str,
    /// Whether only the ordinary devices may be opened.
    pub confines_devices: bool,
}

/// Where groups are made.
pub struct Host {
    root: PathBuf,
    /// The text of `/proc/self/cgroup`.
    membership: String,
    is_unified: bool,
    /// The file system that groups are on. Directories of another would be taken for groups that limit nothing.
    file_system: i64,
}

impl Host {
    /// Returns this machine as the calling process sees it.
    pub fn new() -> Self {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let is_unified = is_unified();
        Self { root: ROOT.into(), membership, is_unified, file_system: if is_unified { CGROUP2 } else { CGROUP } }
    }

    /// Returns the builder's own group in the hierarchy of a controller; none where the host lacks it.
    fn own(&self, controller: Controller) -> Option<PathBuf> {
        let line = self.membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let is_it = match self.is_unified {
                true => number == "0" && names.is_empty(),
                false => names.split(',').any(|name| name == controller.name()),
            };
            is_it.then_some(path)
        })?;
        let top = self.top(controller)?;
        let own = top.join(line.trim_start_matches('/'));
        // In a container the path may be that of the host, and the mount only what is ours.
        Some(if own.is_dir() { own } else { top })
    }

    /// Returns the top of a controller's hierarchy; none where the host has none.
    fn top(&self, controller: Controller) -> Option<PathBuf> {
        let top = if self.is_unified { self.root.clone() } else { self.root.join(controller.name()) };
        is_of_type(&top, self.file_system).then_some(top)
    }
}

/// The group of one command.
#[derive(Default)]
pub struct Group {
    /// The directories made: controllers and path; with version 2 it is one.
    directories: Vec<(Vec<Controller>, PathBuf)>,
    /// Groups above them that were missing, the highest first.
    parents: Vec<PathBuf>,
    confines_devices: bool,
}

impl Group {
    /// Makes a group. What cannot be had is told to `warn` and left out.
    pub fn make(host: &Host, wish: &Wish, warn: &mut dyn FnMut(Refused)) -> Self {
        let mut settings = files::settings(wish.resources, host.is_unified);
        if wish.confines_devices {
            settings.push(Setting::quiet(Controller::Devices, "devices", String::new()));
        }
        let mut group = Self::default();
        let mut controllers: Vec<Controller> = settings.iter().map(|setting| setting.controller).collect();
        controllers.sort();
        controllers.dedup();
        if host.is_unified && !controllers.is_empty() {
            group.make_unified(host, wish, &controllers);
        } else {
            for controller in controllers {
                group.make_single(host, wish, controller);
            }
        }
        for setting in &settings {
            let result = match (setting.controller, group.directory(setting.controller)) {
                (_, None) => Err(io::Error::other(format!(
                    "no cgroup with the controller `{}` can be made",
                    setting.controller.name()
                ))),
                (Controller::Devices, Some(directory)) => {
                    let result = device::confine(directory, host.is_unified);
                    group.confines_devices = result.is_ok();
                    result
                }
                (_, Some(directory)) => fs::write(directory.join(setting.file), &setting.value),
            };
            match result {
                Err(error) if setting.is_asked_for => {
                    let (name, value) = (setting.name, setting.value.clone());
                    warn(Refused { name, value, reason: reason(&error) });
                }
                Err(error) => tracing::debug!(%error, "cgroup setting {} is not set", setting.name),
                Ok(()) => {}
            }
        }
        group
    }

    fn make_single(&mut self, host: &Host, wish: &Wish, controller: Controller) {
        let base = match wish.parent {
            "" => host.own(controller),
            parent => host.top(controller).map(|top| top.join(files::parent_path(parent))),
        };
        let Some(base) = base else { return };
        let fill = |path: &Path| if controller == Controller::Cpuset { files::inherit_cpuset(path) } else { Ok(()) };
        match self.directory_below(&base, &fill) {
            Ok(path) => self.directories.push((vec![controller], path)),
            Err(error) => tracing::debug!(%error, "no cgroup below {}", base.display()),
        }
    }

    fn make_unified(&mut self, host: &Host, wish: &Wish, controllers: &[Controller]) {
        let Some(own) = host.own(Controller::Pids) else { return };
        let base = match wish.parent {
            "" => files::distributor(&own, &host.root, controllers),
            parent => host.root.join(files::parent_path(parent)),
        };
        let made = self.directory_below(&base, &|path| {
            // Every group on the way down hands the controllers on.
            if let Some(above) = path.parent() {
                files::hand_on(above, controllers).ok();
            }
            Ok(())
        });
        match made {
            Ok(path) => {
                let has = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
                let has = controllers.iter().copied().filter(|controller| {
                    // Device rules are programs, not files of a controller.
                    *controller == Controller::Devices || has.split_whitespace().any(|name| name == controller.name())
                });
                self.directories.push((has.collect(), path));
            }
            Err(error) => tracing::debug!(%error, "no cgroup below {}", base.display()),
        }
    }

    /// Makes our directory below `base`, and `base` where it is missing; `prepare` is called for each that was made.
    fn directory_below(&mut self, base: &Path, prepare: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
        let missing: Vec<&Path> = base.ancestors().take_while(|path| !path.is_dir()).collect();
        for path in missing.into_iter().rev() {
            fs::create_dir(path)?;
            self.parents.push(path.to_owned());
            prepare(path)?;
        }
        sweep(base);
        let path = base.join(format!("{PREFIX}{}", std::process::id()));
        match fs::create_dir(&path) {
            // Left by a process that had our number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir(&path)?;
                fs::create_dir(&path)?;
            }
            result => result?,
        }
        prepare(&path)?;
        Ok(path)
    }

    fn directory(&self, controller: Controller) -> Option<&Path> {
        let found = self.directories.iter().find(|(controllers, _)| controllers.contains(&controller));
        found.map(|(_, path)| path.as_path())
    }

    /// Moves the calling process in. Returns whether it can open the ordinary devices only from now on.
    pub fn join(&self) -> bool {
        let mut is_confined = self.confines_devices;
        for (controllers, path) in &self.directories {
            if let Err(error) = fs::write(path.join("cgroup.procs"), "0") {
                tracing::debug!(%error, "cannot join {}", path.display());
                is_confined &= !controllers.contains(&Controller::Devices);
            }
        }
        is_confined
    }

    /// Returns how many processes of the group the kernel has killed for want of memory; none where nobody counts.
    pub fn oom_kills(&self) -> Option<u64> {
        let directory = self.directory(Controller::Memory)?;
        ["memory.events", "memory.oom_control"].iter().find_map(|file| files::oom_kills(&directory.join(file)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let paths = self.directories.iter().map(|(_, path)| path);
        for path in paths.chain(self.parents.iter().rev()) {
            // The last process may be on its way out for a moment.
            for _ in 0..MAX_TRIES {
                match fs::remove_dir(path) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(PAUSE),
                    _ => break,
                }
            }
        }
    }
}

/// How often and how far apart a busy group is tried to be removed.
const MAX_TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(2);

/// Removes groups of helpers that are gone.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).filter(|pid| pid.parse::<u32>().is_ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // One with processes in it stays, whoever they are.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
