//! The files of cgroups of both versions: which limit goes where, and how controllers get to a group.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::spec::Resources;

/// What limits one kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Cpu,
    Cpuset,
    Devices,
    Memory,
    Pids,
}

impl Controller {
    /// Returns the kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Devices => "devices",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// One line for one file.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    pub controller: Controller,
    /// As the user knows it.
    pub name: &'static str,
    pub file: &'static str,
    pub value: String,
    /// Whether the user wants to hear that it was refused.
    pub is_asked_for: bool,
}

impl Setting {
    fn asked(controller: Controller, name: &'static str, file: &'static str, value: impl ToString) -> Self {
        Self { controller, name, file, value: value.to_string(), is_asked_for: true }
    }

    /// Makes one that nobody asked for.
    pub fn quiet(controller: Controller, file: &'static str, value: String) -> Self {
        Self { controller, name: file, file, value, is_asked_for: false }
    }
}

/// How much swap and memory together a memory limit allows by itself, as with Docker.
const SWAP_FACTOR: u64 = 2;

/// Returns what to write, in an order that the kernel takes.
pub fn settings(resources: &Resources, is_unified: bool) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(limit) = resources.pids {
        let is_asked_for = limit != Resources::DEFAULT_PIDS;
        let setting = Setting::asked(Controller::Pids, "pids", "pids.max", limit);
        settings.push(Setting { is_asked_for, ..setting });
    }
    memory(resources, is_unified, &mut settings);
    cpu(resources, is_unified, &mut settings);
    for (name, file, value) in
        [("cpuset-cpus", "cpuset.cpus", &resources.cpuset_cpus), ("cpuset-mems", "cpuset.mems", &resources.cpuset_mems)]
    {
        settings.extend(value.as_ref().map(|value| Setting::asked(Controller::Cpuset, name, file, value)));
    }
    settings
}

fn memory(resources: &Resources, is_unified: bool, settings: &mut Vec<Setting>) {
    const MEMORY: Controller = Controller::Memory;
    let limit = resources.memory;
    if let Some(limit) = limit {
        let file = if is_unified { "memory.max" } else { "memory.limit_in_bytes" };
        settings.push(Setting::asked(MEMORY, "memory", file, limit));
    }
    // Version 1 counts memory and swap together, version 2 swap alone.
    let together = match (resources.memory_swap, limit) {
        (Some(-1), _) => None,
        (Some(total), _) => u64::try_from(total).ok(),
        (None, Some(limit)) => Some(limit.saturating_mul(SWAP_FACTOR)),
        (None, None) => return,
    };
    let (file, value) = match (is_unified, together) {
        (true, None) => ("memory.swap.max", "max".to_owned()),
        (true, Some(total)) => ("memory.swap.max", total.saturating_sub(limit.unwrap_or(0)).to_string()),
        (false, None) => ("memory.memsw.limit_in_bytes", "-1".to_owned()),
        (false, Some(total)) => ("memory.memsw.limit_in_bytes", total.to_string()),
    };
    let setting = Setting::asked(MEMORY, "memory-swap", file, value);
    settings.push(Setting { is_asked_for: resources.memory_swap.is_some(), ..setting });
}

fn cpu(resources: &Resources, is_unified: bool, settings: &mut Vec<Setting>) {
    const CPU: Controller = Controller::Cpu;
    if let Some(shares) = resources.cpu_shares {
        settings.push(match is_unified {
            true => Setting::asked(CPU, "cpu-shares", "cpu.weight", weight(shares)),
            false => Setting::asked(CPU, "cpu-shares", "cpu.shares", shares),
        });
    }
    let (period, quota) = (resources.cpu_period, resources.cpu_quota);
    if is_unified && (period.is_some() || quota.is_some()) {
        let quota = quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
        let value = format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD));
        settings.push(Setting::asked(CPU, "cpu-quota", "cpu.max", value));
    } else if !is_unified {
        settings.extend(period.map(|period| Setting::asked(CPU, "cpu-period", "cpu.cfs_period_us", period)));
        settings.extend(quota.map(|quota| Setting::asked(CPU, "cpu-quota", "cpu.cfs_quota_us", quota)));
    }
}

/// The kernel's own period, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Turns shares (2 to 262,144, usually 1,024) into a weight (1 to 10,000), as the OCI runtimes do.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Returns the path of `--cgroup-parent` below the top of a hierarchy: `a/b`, or for systemd's `a-b.slice` the path of that slice.
///
/// No part of it leads upwards: it is the user's, but it may have come from a script.
pub fn parent_path(parent: &str) -> PathBuf {
    let slice = parent.split(':').next().unwrap_or(parent);
    match slice.strip_suffix(".slice").filter(|name| !name.contains('/') && !name.is_empty() && *name != "-") {
        Some(name) => {
            let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
            ends.map(|end| format!("{}.slice", &name[..end])).collect()
        }
        None => slice.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect(),
    }
}

/// Gives a group of version 1 the processors and memory of the one above, without which nothing can join it.
pub fn inherit_cpuset(path: &Path) -> io::Result<()> {
    let above = path.parent().unwrap_or(path);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fs::write(path.join(file), fs::read(above.join(file))?)?;
    }
    Ok(())
}

/// Lets the groups below `path` use controllers.
pub fn hand_on(path: &Path, controllers: &[Controller]) -> io::Result<()> {
    let file = path.join("cgroup.subtree_control");
    let handed = fs::read_to_string(&file)?;
    for controller in controllers.iter().filter(|controller| **controller != Controller::Devices) {
        if !handed.split_whitespace().any(|name| name == controller.name()) {
            fs::write(&file, format!("+{}", controller.name()))?;
        }
    }
    Ok(())
}

/// Returns the nearest group of version 2, from our own upwards, whose children can have the controllers.
///
/// A group that has processes, such as our own, usually cannot hand controllers on. To leave one is fine as long as it
/// limits nothing; where it does, commands stay below it and have no limits of their own.
pub fn distributor(own: &Path, root: &Path, controllers: &[Controller]) -> PathBuf {
    for group in own.ancestors().take_while(|path| path.starts_with(root)) {
        if hand_on(group, controllers).is_ok() {
            return group.to_owned();
        }
        if is_limited(group) {
            break;
        }
    }
    own.to_owned()
}

fn is_limited(group: &Path) -> bool {
    ["memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max"]
        .iter()
        .any(|file| fs::read_to_string(group.join(file)).is_ok_and(|text| !text.starts_with("max")))
}

/// Reads the count of kills from `memory.events` (version 2) or `memory.oom_control` (version 1).
pub fn oom_kills(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}
