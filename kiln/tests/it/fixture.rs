//! What most of these tests begin with.

use std::path::PathBuf;

use kiln_testkit::{Bed, Kiln, Need, bases, host};

/// What every build with a `RUN` needs here.
pub const NEEDS: &[Need] = &[
    Need::Root,
    Need::Tool("skopeo"),
    Need::Tool("umoci"),
    Need::Tool("runc"),
    Need::Tool("setpriv"),
    Need::Tool("docker-registry"),
];

/// A bed for the program that is being tested.
pub fn bed() -> Bed {
    Bed::new(env!("CARGO_BIN_EXE_kiln"))
}

/// Returns true, after saying so, when this machine cannot run the tests of this file.
#[track_caller]
pub fn unable() -> bool {
    host().lacks(NEEDS)
}

/// `busybox=oci-layout://…`, the value of `--build-context` that gives builds their smallest base.
pub fn busybox() -> String {
    format!("busybox=oci-layout://{}:busybox", bases().layout.display())
}

/// Prepares a plain-progress build of the folder `context` on top of busybox.
pub fn build(bed: &Bed, context: &str) -> Kiln {
    bed.kiln(["build", "--progress=plain", "--build-context", &busybox()]).arg(bed.path(context))
}

/// Writes a context of one Dockerfile.
pub fn dockerfile(bed: &Bed, context: &str, text: &str) -> PathBuf {
    bed.write(format!("{context}/Dockerfile"), text)
}
