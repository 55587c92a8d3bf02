//! `kiln pull`.

use clap::Args;
use kiln_builder::BuildError;

use crate::command::transfer::Transfer;
use crate::input::value;
use crate::message::Failure;
use crate::progress::Mode;
use crate::state;

/// The arguments of `kiln pull`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image, by its name
    name: String,
    /// Fetch the image for this platform
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Show nothing but the digest
    #[arg(short, long)]
    quiet: bool,
}

/// Runs `kiln pull`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = value::reference(&arguments.name)?;
    let platforms = value::platforms(arguments.platform.as_slice())?;
    if platforms.len() > 1 {
        return Err(BuildError::input("an image is pulled for one platform at a time").into());
    }
    let engine = state::open()?;
    let transfer = Transfer::start(if arguments.quiet { Mode::Quiet } else { Mode::Auto });
    let pulled = transfer.with(|client| engine.pull(&name, platforms.first(), client))?;
    super::print(&format!("{}\n", pulled.digest))
}
