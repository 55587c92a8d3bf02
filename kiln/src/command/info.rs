//! `kiln info`.

use std::path::Path;

use clap::Args;
use kiln_oci::Platform;
use kiln_runtime::Emulator;
use serde_json::json;

use crate::input::value;
use crate::message::Failure;
use crate::state::Ground;

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
    let ground = Ground::take(wish)?;
    let facts = Facts { cgroup: cgroup(), ground };
    super::print(&match arguments.format {
        Form::Text => facts.text(),
        Form::Json => format!("{:#}\n", facts.json()),
    })
}

/// What was found out.
struct Facts {
    ground: Ground,
    cgroup: Option<u8>,
}

impl Facts {
    fn text(&self) -> String {
        let footing = &self.ground.footing;
        let isolation = footing.isolation.map_or("none", |rung| rung.name());
        let cgroup = self.cgroup.map_or("none".to_owned(), |version| format!("version {version}"));
        let mut text = String::new();
        for (name, value) in [
            ("version", format!("{} {}", env!("CARGO_PKG_VERSION"), Platform::host())),
            ("state", self.ground.root.display().to_string()),
            ("platforms", platforms().join(", ")),
            ("isolation", format!("{isolation} ({footing})")),
            ("cgroups", cgroup),
        ] {
            text.push_str(&format!("{:<19}{value}\n", format!("{name}:")));
        }
        for (rung, reason) in &footing.refused {
            text.push_str(&format!("no {rung}: {reason}\n"));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let footing = &self.ground.footing;
        let refused: serde_json::Map<_, _> =
            footing.refused.iter().map(|(rung, reason)| (rung.name().to_owned(), json!(reason))).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "platform": Platform::host().to_string(),
            "platforms": platforms(),
            "state": self.ground.root,
            "isolation": footing.isolation.map(|rung| rung.name()),
            "ids": footing.count,
            "refused": refused,
            "cgroup": self.cgroup,
        })
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
