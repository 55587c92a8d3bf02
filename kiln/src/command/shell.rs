//! `kiln shell`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use kiln_builder::progress::Silent;
use kiln_builder::{BuildError, Engine, Seat, ShellRequest, Steps};
use kiln_runtime::{Cancel, Terminal};

use crate::input::secret::{Lent, NamedSecrets};
use crate::input::ssh::NamedAgents;
use crate::input::value;
use crate::interrupt;
use crate::message::Failure;
use crate::state::Ground;

/// The arguments of `kiln shell`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The number of a failed step that is kept, or a part of its name [default: the last]
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// Show everything as it was before the command rather than after it
    #[arg(long)]
    before: bool,
    /// Offer a secret, as the build did
    #[arg(long = "secret", value_name = "id=ID,src=FILE|env=NAME")]
    secrets: Vec<String>,
    /// Forward an ssh agent, or keys, as the build did
    #[arg(long = "ssh", value_name = "ID[=SOCKET|KEY[,KEY]]")]
    agents: Vec<String>,
    /// Shut the shell in by this, as the build did: `root`, `userns`, `userns-single`, `chroot`
    #[arg(long, value_name = "KIND")]
    isolation: Option<String>,
}

/// Runs `kiln shell`. Its exit code is that of the shell.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    if !has_terminal() {
        return Err(BuildError::input("a shell needs a terminal, and there is none")
            .hint("run it where standard input and output are a terminal")
            .into());
    }
    let current = std::env::current_dir()
        .map_err(|error| BuildError::environment(format!("cannot tell the current directory: {error}")))?;
    let usual = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
    let lent = Lent {
        secrets: NamedSecrets::parse(&arguments.secrets, &current)?,
        agents: NamedAgents::parse(&arguments.agents, usual, &current)?,
    };
    let isolation = arguments.isolation.as_deref().map(value::isolation).transpose()?;
    let engine = Ground::take(isolation)?.open()?;
    let request = ShellRequest { step: arguments.step.clone(), before: arguments.before, term: None };
    match open(&engine, request, &lent, interrupt::cancel())? {
        0 => Ok(()),
        code => Err(Failure::Told(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}

/// Whether there is somebody who can use a shell.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Opens a shell at the user's terminal and returns its exit code.
///
/// # Errors
/// As [`Engine::shell`].
pub fn open(engine: &Engine, request: ShellRequest, lent: &Lent, cancel: Cancel) -> Result<i32, BuildError> {
    let request = ShellRequest { term: std::env::var("TERM").ok(), ..request };
    let mut output = |bytes: &[u8]| {
        // A terminal that is gone ends the shell by itself.
        let _ = io::stdout().write_all(bytes).and_then(|()| io::stdout().flush());
    };
    let seat = Seat {
        secrets: lent,
        terminal: &Terminal::take,
        output: &mut output,
        steps: Steps::new(Arc::new(Silent)),
        cancel,
    };
    engine.shell(&request, seat)
}
