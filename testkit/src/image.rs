//! An image as other tools see it: fetched by skopeo, read as an OCI layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_oci::{Document, ImageConfig, Index, Manifest};

use crate::layer::{Layer, read};

/// Where an image is.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a registry on loopback.
    Registry(String),
    /// In an archive of an OCI layout.
    OciArchive(PathBuf),
    /// In an archive as `docker load` takes it.
    DockerArchive(PathBuf),
    /// In a folder with an OCI layout, under a name.
    Layout(PathBuf, String),
}

/// An image that was fetched into a folder of its own.
#[derive(Debug)]
pub struct Image {
    /// An OCI layout, in which the image is called `it`.
    pub layout: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its config.
    pub config: ImageConfig,
    _folder: tempfile::TempDir,
}

impl Image {
    /// Fetches an image with skopeo.
    ///
    /// # Panics
    /// When skopeo cannot, or what it brings is not an image.
    #[track_caller]
    pub fn fetch(source: &Source) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = folder.path().join("layout");
        let from = match source {
            Source::Registry(name) => format!("docker://{name}"),
            Source::OciArchive(path) => format!("oci-archive:{}", path.display()),
            Source::DockerArchive(path) => format!("docker-archive:{}", path.display()),
            Source::Layout(path, name) => format!("oci:{}:{name}", path.display()),
        };
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", &from])
            .arg(format!("oci:{}:it", layout.display())));
        let index: Index = json(&layout.join("index.json"));
        let descriptor = index.manifests.first().expect("a manifest in the index");
        let bytes = fs::read(blob(&layout, &descriptor.digest.to_string())).expect("the manifest");
        let manifest = match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => manifest,
            other => panic!("not one image: {other:?}"),
        };
        let config = json(&blob(&layout, &manifest.config.digest.to_string()));
        Self { layout, manifest, config, _folder: folder }
    }

    /// Reads the layers, lowest first.
    ///
    /// # Panics
    /// When one is not a tar archive.
    #[track_caller]
    pub fn layers(&self) -> Vec<Layer> {
        self.manifest
            .layers
            .iter()
            .map(|layer| {
                let path = blob(&self.layout, &layer.digest.to_string());
                let file = fs::File::open(&path).expect("a blob of the manifest");
                read(file).unwrap_or_else(|error| panic!("layer {}: {error}", layer.digest))
            })
            .collect()
    }

    /// Unpacks the image with umoci into a runtime bundle in `bundle`, which must not exist.
    ///
    /// # Panics
    /// When umoci cannot.
    #[track_caller]
    pub fn unpack(&self, bundle: &Path) {
        run(Command::new("umoci").args(["unpack", "--image"]).arg(format!("{}:it", self.layout.display())).arg(bundle));
    }
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
