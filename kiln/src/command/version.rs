//! `kiln version`.

use clap::Args;
use kiln_oci::Platform;

use crate::message::Failure;

/// The arguments of `kiln version`.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Runs `kiln version`.
pub fn run(_arguments: &Arguments) -> Result<(), Failure> {
    super::print(&format!("kiln {} {}\n", env!("CARGO_PKG_VERSION"), Platform::host()))
}
