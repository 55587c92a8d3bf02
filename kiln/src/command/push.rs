//! `kiln push`.

use clap::Args;

use crate::command::transfer::Transfer;
use crate::input::value;
use crate::message::Failure;
use crate::progress::Mode;
use crate::state;

/// The arguments of `kiln push`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image, by its name: the name says which registry
    name: String,
    /// Show nothing but the digest
    #[arg(short, long)]
    quiet: bool,
}

/// Runs `kiln push`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = value::reference(&arguments.name)?;
    let engine = state::open()?;
    let transfer = Transfer::start(if arguments.quiet { Mode::Quiet } else { Mode::Auto });
    let pushed = transfer.with(|client| engine.push(&name, client))?;
    super::print(&format!("{}\n", pushed.digest))
}
