//! The base images of the tests, made once for a checkout by `testkit/bases.sh`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where the base images are. Both folders are shared by all tests: read only.
#[derive(Debug)]
pub struct Bases {
    /// An OCI layout with the tags `busybox`, `debian`, `python`, `node` and `gcc`.
    pub layout: PathBuf,
    /// The storage of a registry that has them as `busybox:latest`, `debian:12-slim`,
    /// `python:slim`, `node:slim` and `gcc:12`.
    pub registry: PathBuf,
}

/// Finds or makes the base images: a few minutes the first time, nothing afterwards.
///
/// They are kept in `target/bases`, or where the variable `KILN_TEST_BASES` says. It may also
/// name a finished folder, which spares every test process the look at the machine's settings.
///
/// # Panics
/// When they cannot be made; the script's own words say why.
pub fn bases() -> &'static Bases {
    static BASES: OnceLock<Bases> = OnceLock::new();
    BASES.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = std::env::var_os("KILN_TEST_BASES").map_or_else(|| here.join("../target/bases"), PathBuf::from);
        if folder.join("done").exists() {
            let bases = Bases { layout: folder.join("oci"), registry: folder.join("registry") };
            let_all_read(&bases.layout);
            return bases;
        }
        let script = here.join("bases.sh");
        let output = Command::new("bash")
            .arg(&script)
            .arg(&folder)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", script.display()));
        assert!(output.status.success(), "{} failed: {}", script.display(), output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        let done = Path::new(text.lines().last().unwrap_or_default());
        let bases = Bases { layout: done.join("oci"), registry: done.join("registry") };
        let_all_read(&bases.layout);
        bases
    })
}

/// Lets ordinary users read the layout, which the tool that made it does not.
fn let_all_read(layout: &Path) {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).into_iter().flatten().flatten();
    for path in blobs.map(|blob| blob.path()).chain([layout.join("index.json")]) {
        if std::fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o044 != 0o044) {
            // Whoever may not change it needs no more than it has.
            let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644));
        }
    }
}
