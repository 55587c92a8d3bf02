//! `kiln rmi`.

use clap::Args;

use crate::message::{self, Failure};
use crate::state;

/// The arguments of `kiln rmi`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The images: names, or ids or the beginnings of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs `kiln rmi`. One image that cannot be removed does not keep the others.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = state::open()?;
    let mut failed = None;
    for image in &arguments.images {
        match engine.remove(image) {
            Ok(names) => {
                let lines: String = names.iter().map(|name| format!("Untagged: {name}\n")).collect();
                super::print(&lines)?;
            }
            Err(error) => {
                if let Some(earlier) = failed.replace(Failure::from(error)) {
                    message::print(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
