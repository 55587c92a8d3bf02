//! `kiln debug`: what is going on inside.

use std::path::Path;

use clap::{Args, Subcommand};
use kiln_builder::BuildError;
use kiln_frontend::dockerfile::{self, dump};

use crate::input::build_file;
use crate::message::Failure;

/// The arguments of `kiln debug`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the instructions of a build file as JSON, with their places and what is wrong with them
    Ast {
        /// The build file, or `-` for standard input
        #[arg(value_name = "FILE")]
        file: String,
    },
}

/// Runs `kiln debug`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let What::Ast { file } = &arguments.what;
    let current = std::env::current_dir()
        .map_err(|error| BuildError::environment(format!("cannot tell the current directory: {error}")))?;
    let found = build_file::find(Some(file), Path::new("."), &current)?;
    let (parsed, diagnostics) = dockerfile::parse_bytes(&found.file.text);
    super::print(&format!("{:#}\n", dump::file(&parsed, &diagnostics)))
}
