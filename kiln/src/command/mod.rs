//! The command line: one file per subcommand.
//!
//! Reading it costs about a millisecond and touches nothing: the store is opened, and threads are started, by the
//! subcommands that need them.

mod build;
mod cache;
mod call;
mod context;
mod debug;
mod history;
mod images;
mod info;
mod inspect;
mod prune;
mod pull;
mod push;
mod rmi;
mod shell;
mod tag;
mod transfer;
mod version;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::message::{self, Failure};

/// Build images from Dockerfiles, without a daemon
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    args_override_self = true,
    max_term_width = 110
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::Arguments>),
    /// List the images in the store
    Images(images::Arguments),
    /// Give an image another name
    Tag(tag::Arguments),
    /// Remove names, and images that nothing else names
    Rmi(rmi::Arguments),
    /// Send an image to its registry
    Push(push::Arguments),
    /// Fetch an image from its registry
    Pull(pull::Arguments),
    /// Show how an image came about
    History(history::Arguments),
    /// Show what is known of images, as JSON
    Inspect(inspect::Arguments),
    /// Remove from the store what is not needed any more
    Prune(prune::Arguments),
    /// List, show and remove cache mounts
    Cache(cache::Arguments),
    /// Open a shell where a step failed
    Shell(shell::Arguments),
    /// Show what this machine lets kiln do
    Info(info::Arguments),
    /// Show what a build would see of a directory, and why
    Context(context::Arguments),
    /// Look inside: what kiln makes of a build file
    Debug(debug::Arguments),
    /// Show the version
    Version(version::Arguments),
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    crate::log::start();
    let result = match command {
        Command::Build(arguments) => build::run(&arguments),
        Command::Images(arguments) => images::run(&arguments),
        Command::Tag(arguments) => tag::run(&arguments),
        Command::Rmi(arguments) => rmi::run(&arguments),
        Command::Push(arguments) => push::run(&arguments),
        Command::Pull(arguments) => pull::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Prune(arguments) => prune::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Shell(arguments) => shell::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Context(arguments) => context::run(&arguments),
        Command::Debug(arguments) => debug::run(&arguments),
        Command::Version(arguments) => version::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            message::print(&failure);
            failure.code()
        }
    }
}

/// Writes a result to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_mistyped_flag_or_command_gets_a_suggestion() {
        let message = |words: &[&str]| CommandLine::try_parse_from(words).unwrap_err().to_string();
        assert!(message(&["kiln", "build", "--no-cach", "."]).contains("--no-cache"));
        assert!(message(&["kiln", "biuld", "."]).contains("build"));
    }

    /// Every subcommand, flag and variable stands in `docs/cli.md`, and no other.
    #[test]
    fn the_documentation_knows_every_flag_and_only_those() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).unwrap();
        let mut missing = Vec::new();
        // Flags of RUN are spoken of, too.
        let mut known = ["--help", "--version", "--security", "--device"].map(str::to_owned).to_vec();
        for command in CommandLine::command().get_subcommands() {
            let heading = format!("## `kiln {}", command.get_name());
            let Some(start) = text.find(&heading) else {
                missing.push(heading);
                continue;
            };
            let section = &text[start..];
            let section = &section[..section[3..].find("\n## ").map_or(section.len(), |end| end + 3)];
            let nested = command.get_subcommands().flat_map(clap::Command::get_arguments);
            for argument in command.get_arguments().chain(nested).filter(|argument| argument.get_id() != "help") {
                if let Some(long) = argument.get_long() {
                    let flag = format!("--{long}");
                    if !section.contains(&format!("`{flag}`")) && !section.contains(&format!("`{flag} ")) {
                        missing.push(format!("{} {flag}", command.get_name()));
                    }
                    known.push(flag);
                }
                if let Some(short) = argument.get_short()
                    && !section.contains(&format!("`-{short}`"))
                {
                    missing.push(format!("{} -{short}", command.get_name()));
                }
                for value in argument.get_possible_values().iter().filter(|_| argument.get_long() == Some("progress")) {
                    if !section.contains(value.get_name()) {
                        missing.push(format!("{} {}", command.get_name(), value.get_name()));
                    }
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new(), "are missing in docs/cli.md");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let unknown: Vec<_> = words
            .filter(|word| word.starts_with("--") && word.len() > 2 && word.as_bytes()[2].is_ascii_lowercase())
            .filter(|word| !known.iter().any(|flag| flag == word))
            .collect();
        assert_eq!(unknown, Vec::<&str>::new(), "are in docs/cli.md and do not exist");
    }

    #[test]
    fn every_variable_and_exit_code_is_documented() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).unwrap();
        for name in crate::state::VARIABLES {
            assert!(text.contains(&format!("| `{name}` |")), "{name}");
        }
        use kiln_builder::Kind;
        for code in [Kind::Input, Kind::Environment, Kind::Bug, Kind::Cancelled].map(message::code) {
            assert!(text.contains(&format!("| {code} |")), "{code}");
        }
    }
}
