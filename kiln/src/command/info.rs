//! `kiln info`.

use std::path::Path;

use clap::Args;
use kiln_oci::Platform;
use kiln_runtime::{Emulator, Isolation, NoNetwork, PrivateNetwork, Program, Refusal, overlay_refusal, seccomp};
use serde_json::json;

use crate::input::value;
use crate::message::Failure;
use crate::state::{self, Ground};

/// The arguments of `kiln info`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Show what there is of this kind instead of the strongest: `root`, `userns`, `userns-single`, `chroot`
    #[arg(long, value_name = "KIND")]
    isolation: Option<String>,
    /// Print in this form
    #[arg(long, value_name = "FORM", default_value = "text")]
    format: Form,
}

/// In which form it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Lines for people
    Text,
    /// One JSON object
    Json,
}

/// Runs `kiln info`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wish = arguments.isolation.as_deref().filter(|text| *text != "default").map(value::isolation).transpose()?;
    let facts = Facts::find(Ground::take(wish)?);
    super::print(&match arguments.format {
        Form::Text => facts.text(),
        Form::Json => format!("{:#}\n", facts.json()),
    })
}

/// What was found out, by trying.
struct Facts {
    ground: Ground,
    /// How layers become a root: in words of two kinds, and why not better.
    root: (&'static str, &'static str, Option<String>),
    network: Option<PrivateNetwork>,
    /// Ways out of the private network that cannot be had.
    no_ways: Vec<Refusal>,
    cgroup: Option<u8>,
    /// Limits, and why they cannot be had.
    limits: Vec<(&'static str, Option<String>)>,
    has_seccomp: bool,
}

impl Facts {
    fn find(ground: Ground) -> Self {
        let program = state::program().map_err(|error| error.to_string());
        let program = program.and_then(|path| Program::open(&path).map_err(|error| error.to_string()));
        let network = match program {
            _ if ground.footing.isolation == Some(Isolation::Chroot) => {
                let reason = "the isolation `chroot` has none".to_owned();
                Err(NoNetwork(vec![Refusal { way: "namespace", reason }]))
            }
            Ok(program) => PrivateNetwork::open(&|| Ok(&program)),
            Err(reason) => Err(NoNetwork(vec![Refusal { way: "program", reason }])),
        };
        let no_ways = match &network {
            Ok(network) => network.refused().to_vec(),
            Err(NoNetwork(refused)) => refused.clone(),
        };
        Self {
            root: root_form(&ground),
            network: network.ok(),
            no_ways,
            cgroup: cgroup(),
            limits: kiln_runtime::limits(),
            has_seccomp: seccomp::is_possible(),
            ground,
        }
    }

    fn text(&self) -> String {
        let footing = &self.ground.footing;
        let isolation = footing.isolation.map_or("none", |rung| rung.name());
        let possible: Vec<&str> =
            self.limits.iter().filter(|(_, reason)| reason.is_none()).map(|(name, _)| *name).collect();
        let cgroup = match self.cgroup {
            None => "none".to_owned(),
            Some(version) if possible.is_empty() => format!("version {version}, no limits"),
            Some(version) => format!("version {version}, limits: {}", possible.join(", ")),
        };
        let network = match &self.network {
            None => "the host's".to_owned(),
            Some(network) if network.has_ipv6() => format!("private, through {}", network.way()),
            Some(network) => format!("private, through {}, IPv4 alone", network.way()),
        };
        let mut text = String::new();
        for (name, value) in [
            ("version", format!("{} {}", env!("CARGO_PKG_VERSION"), Platform::host())),
            ("state", self.ground.root.display().to_string()),
            ("platforms", platforms().join(", ")),
            ("isolation", format!("{isolation} ({footing})")),
            ("root file system", self.root.1.to_owned()),
            ("network", network),
            ("cgroups", cgroup),
            ("seccomp", if self.has_seccomp { "default profile" } else { "none" }.to_owned()),
        ] {
            text.push_str(&format!("{:<19}{value}\n", format!("{name}:")));
        }
        let rungs = footing.refused.iter().map(|(rung, reason)| (rung.to_string(), reason));
        let root = self.root.2.iter().map(|reason| ("overlay".to_owned(), reason));
        let ways = self.no_ways.iter().map(|refusal| (format!("network through {}", refusal.way), &refusal.reason));
        let limits = self.limits.iter().filter_map(|(name, reason)| Some((format!("limit {name}"), reason.as_ref()?)));
        for (what, reason) in rungs.chain(root).chain(ways).chain(limits) {
            text.push_str(&format!("no {what}: {reason}\n"));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let footing = &self.ground.footing;
        let reasons = |pairs: Vec<(&str, &String)>| -> serde_json::Map<_, _> {
            pairs.into_iter().map(|(name, reason)| (name.to_owned(), json!(reason))).collect()
        };
        let limits: serde_json::Map<_, _> =
            self.limits.iter().map(|(name, reason)| ((*name).to_owned(), json!(reason.is_none()))).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "platform": Platform::host().to_string(),
            "platforms": platforms(),
            "state": self.ground.root,
            "isolation": footing.isolation.map(|rung| rung.name()),
            "ids": footing.count,
            "refused": reasons(footing.refused.iter().map(|(rung, reason)| (rung.name(), reason)).collect()),
            "rootfs": { "form": self.root.0, "reason": self.root.2 },
            "network": {
                "default": self.network.as_ref().map_or("host", PrivateNetwork::way),
                "ipv6": self.network.as_ref().map(PrivateNetwork::has_ipv6),
                "refused": reasons(self.no_ways.iter().map(|refusal| (refusal.way, &refusal.reason)).collect()),
            },
            "cgroup": self.cgroup,
            "limits": limits,
            "refused_limits": reasons(
                self.limits.iter().filter_map(|(name, reason)| Some((*name, reason.as_ref()?))).collect()
            ),
            "seccomp": self.has_seccomp,
        })
    }
}

/// Tries how layers become a root file system here: a word for it, words for people, and the reason where it is a copy.
fn root_form(ground: &Ground) -> (&'static str, &'static str, Option<String>) {
    let copy = |reason: String| ("copy", "a copy of the layers for each command", Some(reason));
    let isolation = match ground.footing.isolation {
        Some(Isolation::Chroot) => return copy("the isolation `chroot` has no mounts".to_owned()),
        Some(isolation) => isolation,
        None => return ("none", "none", None),
    };
    // Nothing is made of a state directory that is not there yet.
    let there = ground.root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    match overlay_refusal(there, isolation) {
        Ok(None) if isolation == Isolation::Root => ("overlay", "overlay", None),
        Ok(None) => ("overlay-userxattr", "overlay, with its marks as attributes of users", None),
        Ok(Some(reason)) => copy(reason),
        Err(error) => ("unknown", "unknown", Some(format!("nothing can be written in {}: {error}", there.display()))),
    }
}

/// Returns the platforms whose commands can be run: this machine's, and those that can be emulated.
fn platforms() -> Vec<String> {
    let host = Platform::host();
    let emulated = Emulator::architectures().into_iter().filter(|name| *name != host.architecture);
    let emulated = emulated.map(|name| Platform::new("linux", name).to_string());
    std::iter::once(host.to_string()).chain(emulated).collect()
}

/// Returns the version of the host's cgroups.
fn cgroup() -> Option<u8> {
    let here = Path::new("/sys/fs/cgroup");
    if here.join("cgroup.controllers").exists() {
        return Some(2);
    }
    here.join("memory").exists().then_some(1)
}
