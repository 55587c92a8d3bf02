//! On what processor a command runs.

use kiln_frontend::graph::{Op, Vertex};
use kiln_oci::{Platform, PlatformMatcher};
use kiln_runtime::Emulator;

use crate::error::BuildError;

/// Returns what emulates the processor of a platform; `None` where it is this machine's.
///
/// # Errors
/// When it is another one and there is no emulator.
pub(super) fn emulator(platform: Option<&Platform>) -> Result<Option<Emulator>, BuildError> {
    let host = Platform::host();
    let Some(wanted) = platform.map(Platform::normalized) else { return Ok(None) };
    if PlatformMatcher::only(&host).rank(&wanted).is_some() || wanted == host.normalized() {
        return Ok(None);
    }
    let found = if wanted.os == host.os { Emulator::find(&wanted.architecture) } else { None };
    found.map(Some).ok_or_else(|| {
        BuildError::input(format!("cannot run commands for {wanted} on {host}: there is no emulator")).hint(
            "install qemu's static user-mode emulators (Debian: `qemu-user-static`), or use \
             `FROM --platform=$BUILDPLATFORM` for the stages that run",
        )
    })
}

/// Fails for a command that cannot run here.
///
/// # Errors
/// As [`emulator`].
pub fn check(vertex: &Vertex) -> Result<(), BuildError> {
    if !matches!(vertex.op, Op::Exec(_)) {
        return Ok(());
    }
    emulator(vertex.platform.as_ref()).map(drop).map_err(|mut error| {
        error.location.clone_from(&vertex.location);
        error.step = Some(vertex.name.clone());
        error
    })
}
