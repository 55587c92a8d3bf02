//! What commands may use together: `--resource`, the flags that `docker build` had for it, and those that do nothing here.

use clap::{ArgAction, Args};
use kiln_builder::{BuildError, Resources};
use kiln_frontend::dockerfile::csv;

use crate::units::parse_bytes;

/// The flags.
#[derive(Debug, Clone, Default, Args)]
pub struct ResourceFlags {
    /// Limit what each command may use: `memory`, `memory-swap`, `cpu-shares`, `cpu-period`, `cpu-quota`, `cpuset-cpus`, `cpuset-mems`, `pids`
    #[arg(long = "resource", value_name = "KEY=VALUE[,…]")]
    resources: Vec<String>,
    /// Let each command have so many processes and threads; -1 for no limit [default: 4096]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Put the cgroups of commands below this one
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    pub cgroup_parent: String,
    /// The same as `--resource memory=SIZE`
    #[arg(short, long, value_name = "SIZE", hide = true)]
    memory: Option<String>,
    /// The same as `--resource memory-swap=SIZE`
    #[arg(long, value_name = "SIZE", hide = true, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// The same as `--resource cpu-shares=NUMBER`
    #[arg(short, long, value_name = "NUMBER", hide = true)]
    cpu_shares: Option<String>,
    /// The same as `--resource cpu-period=MICROSECONDS`
    #[arg(long, value_name = "MICROSECONDS", hide = true)]
    cpu_period: Option<String>,
    /// The same as `--resource cpu-quota=MICROSECONDS`
    #[arg(long, value_name = "MICROSECONDS", hide = true, allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// The same as `--resource cpuset-cpus=LIST`
    #[arg(long, value_name = "LIST", hide = true)]
    cpuset_cpus: Option<String>,
    /// The same as `--resource cpuset-mems=LIST`
    #[arg(long, value_name = "LIST", hide = true)]
    cpuset_mems: Option<String>,
    #[command(flatten)]
    ignored: IgnoredFlags,
}

/// Flags of `docker build` that mean nothing here.
#[derive(Debug, Clone, Default, Args)]
struct IgnoredFlags {
    /// Accepted, for scripts: does nothing
    #[arg(long, value_name = "OPTION", hide = true)]
    security_opt: Vec<String>,
    /// Accepted, for scripts: does nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, hide = true)]
    squash: Option<bool>,
    /// Accepted, for scripts: does nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, hide = true)]
    compress: Option<bool>,
    /// Accepted, for scripts: does nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, hide = true)]
    rm: Option<bool>,
    /// Accepted, for scripts: does nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, hide = true)]
    force_rm: Option<bool>,
}

/// Docker's least memory limit, in bytes.
const LEAST_MEMORY: u64 = 6 << 20;

impl ResourceFlags {
    /// Reads all of them; a later one replaces an earlier one.
    ///
    /// # Errors
    /// When a key is unknown, or a value is none.
    pub fn read(&self) -> Result<Resources, BuildError> {
        let mut resources = Resources::default();
        for text in &self.resources {
            let wrong = |why: String| BuildError::input(format!("invalid resource `{text}` for `--resource`: {why}"));
            for field in csv::fields(text).map_err(|error| wrong(error.to_string()))? {
                let (key, value) =
                    field.split_once('=').ok_or_else(|| wrong(format!("`{field}` is not of the form `key=value`")))?;
                set(&mut resources, "--resource", key.trim(), value.trim())?;
            }
        }
        for (key, value) in [
            ("pids-limit", &self.pids_limit),
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
        ] {
            if let Some(value) = value {
                set(&mut resources, &format!("--{key}"), key.trim_end_matches("-limit"), value)?;
            }
        }
        check(&resources)?;
        Ok(resources)
    }

    /// Returns what is to be said about flags that do nothing.
    pub fn notices(&self) -> Vec<String> {
        let IgnoredFlags { security_opt, squash, compress, rm, force_rm } = &self.ignored;
        let given = [
            (
                "security-opt",
                !security_opt.is_empty(),
                "commands always have the default filter and rights; see `--allow`",
            ),
            ("squash", *squash == Some(true), "layers are kept as they are"),
            ("compress", *compress == Some(true), "the context is read where it is"),
            ("rm", *rm == Some(false), "nothing is left of commands"),
            ("force-rm", *force_rm == Some(true), "nothing is left of commands"),
        ];
        let given = given.into_iter().filter(|(_, is_given, _)| *is_given);
        given.map(|(flag, _, why)| format!("`--{flag}` does nothing: {why}")).collect()
    }
}

fn set(resources: &mut Resources, flag: &str, key: &str, value: &str) -> Result<(), BuildError> {
    let wrong = |why: &str| BuildError::input(format!("invalid value `{value}` of `{key}` for `{flag}`: {why}"));
    let number = || value.parse::<i64>().map_err(|_| wrong("it is not a number"));
    let positive = || number().and_then(|number| u64::try_from(number).map_err(|_| wrong("it is below zero")));
    let size = || parse_bytes(value).ok_or_else(|| wrong("it is not a size such as `512m`"));
    let list = || {
        let is_list = !value.is_empty() && value.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | ','));
        if is_list { Ok(value.to_owned()) } else { Err(wrong("it is not a list such as `0-3,5`")) }
    };
    match key {
        "memory" => resources.memory = Some(size()?),
        "memory-swap" if value == "-1" => resources.memory_swap = Some(-1),
        "memory-swap" => resources.memory_swap = Some(i64::try_from(size()?).map_err(|_| wrong("it is too large"))?),
        "cpu-shares" => resources.cpu_shares = Some(positive()?),
        "cpu-period" => resources.cpu_period = Some(positive()?),
        "cpu-quota" => resources.cpu_quota = Some(number()?),
        "cpuset-cpus" => resources.cpuset_cpus = Some(list()?),
        "cpuset-mems" => resources.cpuset_mems = Some(list()?),
        "pids" => resources.pids = u64::try_from(number()?).ok().filter(|pids| *pids > 0),
        _ => {
            let known = "memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, cpuset-mems, pids";
            return Err(
                BuildError::input(format!("unknown resource `{key}` for `{flag}`")).hint(format!("known: {known}"))
            );
        }
    }
    Ok(())
}

fn check(resources: &Resources) -> Result<(), BuildError> {
    let Resources { memory, memory_swap, .. } = resources;
    if memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        return Err(BuildError::input("a memory limit is at least 6 MiB"));
    }
    match memory_swap {
        None | Some(-1) => Ok(()),
        Some(total) if memory.is_some_and(|memory| u64::try_from(*total).is_ok_and(|total| total >= memory)) => Ok(()),
        Some(_) => {
            Err(BuildError::input("`memory-swap` counts memory and swap together: it needs `memory`, and is not less"))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: ResourceFlags,
    }

    fn read(words: &[&str]) -> Result<Resources, String> {
        let line = Line::try_parse_from(std::iter::once(&"kiln").chain(words)).expect("known flags");
        line.flags.read().map_err(|error| error.message)
    }

    #[test]
    fn resources_come_from_the_new_flag_and_the_old_ones() {
        let expected = Resources {
            pids: None,
            memory: Some(64 << 20),
            memory_swap: Some(-1),
            cpu_shares: Some(512),
            cpu_period: Some(50_000),
            cpu_quota: Some(-1),
            cpuset_cpus: Some("0-1,3".to_owned()),
            cpuset_mems: Some("0".to_owned()),
        };
        let new = [
            "--resource=memory=64m,memory-swap=-1,cpu-shares=512,cpu-period=50000",
            "--resource",
            "cpu-quota=-1,\"cpuset-cpus=0-1,3\",cpuset-mems=0,pids=-1",
        ];
        assert_eq!(read(&new), Ok(expected.clone()));
        let old = ["-m", "64m", "--memory-swap=-1", "-c512", "--cpu-period=50000", "--cpu-quota", "-1"];
        let more = ["--cpuset-cpus=0-1,3", "--cpuset-mems=0", "--pids-limit", "-1"];
        assert_eq!(read(&[&old[..], &more[..]].concat()), Ok(expected));
        assert_eq!(read(&[]), Ok(Resources::default()));
        assert_eq!(read(&["--pids-limit=10"]).map(|resources| resources.pids), Ok(Some(10)));
    }

    #[test]
    fn what_is_none_is_refused() {
        for wrong in [
            "--resource=memory",
            "--resource=memory=x",
            "--resource=memory=1k",
            "--resource=disk=1g",
            "--resource=memory=64m,memory-swap=32m",
            "--memory-swap=64m",
            "--cpu-shares=-1",
            "--cpuset-cpus=a",
            "--cpuset-cpus=0\n1",
            "--pids-limit=many",
        ] {
            assert!(read(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_does_nothing_says_so() {
        let notices = |words: &[&str]| {
            Line::try_parse_from(std::iter::once(&"kiln").chain(words)).expect("known flags").flags.notices().len()
        };
        assert_eq!(notices(&["--rm", "--squash=false"]), 0);
        assert_eq!(notices(&["--security-opt", "a=b", "--squash", "--compress", "--rm=false", "--force-rm"]), 5);
    }
}
