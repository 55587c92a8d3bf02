//! The recorded builds, played: every case of `testdata/vectors/{build,copy-fs,add-remote}.json`
//! is one test, built for real by the kiln program in a state directory of its own. What
//! BuildKit made of the same input has to come out: files, config, history, layers, steps,
//! output, or the error.
//!
//! `KILN_VECTORS` names another folder with files of these names. The members of a case are
//! explained in `build.json` itself and, in our words, in [`case`].

mod archive;
mod base;
mod case;
mod compare;
mod files;
mod image;
mod play;
mod progress;
mod servers;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;

use crate::case::Case;

const FILES: &[&str] = &["build", "copy-fs", "add-remote"];

fn main() -> ExitCode {
    // The recorded modes are those of a client with this mask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let arguments = Arguments::from_args();
    // A runner with a process for each test asks for one name: the other files need no reading.
    let wanted = |file: &&&str| match &arguments.filter {
        Some(name) if arguments.exact => name.starts_with(&format!("{file}::")),
        _ => true,
    };
    let trials = FILES.iter().filter(wanted).flat_map(|file| trials(file)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(file: &'static str) -> Vec<Trial> {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<serde_json::Value>,
    }
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors");
    let folder = std::env::var_os("KILN_VECTORS").map_or_else(|| here.into(), PathBuf::from);
    let path = folder.join(format!("{file}.json"));
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file_: File = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let trial = |case: serde_json::Value| {
        let word = |key: &str| case[key].as_str().map(str::to_owned);
        let parts = [Some(file.to_owned()), word("group"), word("name")];
        let name = parts.into_iter().flatten().collect::<Vec<_>>().join("::");
        Trial::test(name, move || {
            // A case with members we do not know is not compared in full, so it fails.
            let case: Case = serde_json::from_value(case).map_err(|error| Failed::from(error.to_string()))?;
            play::play(&case, file).map_err(Failed::from)
        })
    };
    file_.cases.into_iter().map(trial).collect()
}
