//! The `kiln` command.
//!
//! This crate is the engine's first client: it reads the command line, lends the engine the user's files, credentials
//! and terminal, draws progress and errors, and turns failures into exit codes. It is the only crate that prints.

mod answer;
mod command;
mod excerpt;
mod input;
mod interrupt;
mod log;
mod message;
mod metadata;
mod progress;
mod state;
mod summary;
mod table;
mod units;

use std::process::ExitCode;

// musl's own allocator is slow where several threads allocate.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A sandbox's first process is this program, started by the engine with an argument that nobody types.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == kiln_runtime::init::ARGUMENT) {
        kiln_runtime::init::main();
    }
    command::run()
}
