//! `kiln prune`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use kiln_builder::PruneOptions;

use crate::message::Failure;
use crate::state;
use crate::units::bytes;

/// The arguments of `kiln prune`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Remove also what builds could reuse
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Runs `kiln prune`. It asks only where somebody can answer.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !arguments.force && interactive && !agreed(arguments.all).map_err(Failure::output)? {
        return Ok(());
    }
    let pruned = state::open()?.prune(PruneOptions { all: arguments.all })?;
    super::print(&format!(
        "removed {}, {} and {}\nTotal reclaimed space: {}\n",
        counted(pruned.records, "cached step"),
        counted(pruned.layers, "layer"),
        counted(pruned.blobs, "blob"),
        bytes(pruned.bytes)
    ))
}

fn agreed(all: bool) -> io::Result<bool> {
    let what =
        if all { "everything that no image needs" } else { "what neither an image nor a build can use any more" };
    let mut err = io::stderr().lock();
    write!(err, "This removes {what} from the cache. Continue? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_is_singular() {
        assert_eq!(super::counted(1, "layer"), "1 layer");
        assert_eq!(super::counted(0, "layer"), "0 layers");
    }
}
