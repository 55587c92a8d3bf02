//! The base image of the recorded builds.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::archive::Archive;
use crate::files::{Tree, Whiteouts, apply};
use crate::play::Result;

/// The base image, read once.
#[derive(Debug)]
pub struct Base {
    /// An OCI layout that calls it `latest`.
    pub layout: PathBuf,
    pub config: Value,
    pub tree: Tree,
}

/// Returns the base image.
///
/// # Panics
/// When it cannot be made.
pub fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let layout = kiln_testkit::busybox(Path::new(env!("CARGO_TARGET_TMPDIR")));
        read(&layout).unwrap_or_else(|error| panic!("{}: {error}", layout.display()))
    })
}

impl Base {
    /// The identities of its layers.
    pub fn diff_ids(&self) -> &[Value] {
        self.config["rootfs"]["diff_ids"].as_array().map_or(&[], Vec::as_slice)
    }
}

fn read(layout: &Path) -> Result<Base> {
    let archive = Archive::open(layout)?;
    let (_, manifest) = archive.manifests()?.pop().ok_or("a layout without an image")?;
    let mut tree = Tree::new();
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        apply(&mut tree, &archive.layer(layer)?, Whiteouts::Meant)?;
    }
    Ok(Base { layout: layout.to_owned(), config: archive.json(&manifest["config"])?, tree })
}
