//! `kiln tag`.

use clap::Args;

use crate::input::value;
use crate::message::Failure;
use crate::state;

/// The arguments of `kiln tag`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image: a name, or an id or the beginning of one
    source: String,
    /// Its new name
    target: String,
}

/// Runs `kiln tag`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let target = value::tag(&arguments.target)?;
    state::open()?.tag(&arguments.source, &target)?;
    Ok(())
}
