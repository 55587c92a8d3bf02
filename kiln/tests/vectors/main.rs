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

use kiln_testkit::Ordinary;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;

use crate::case::Case;

const FILES: &[&str] = &["build", "copy-fs", "add-remote"];

/// Who builds, and what that is called in the name of a test.
const USERS: [(&str, Option<Ordinary>); 3] =
    [("", None), ("-as-user", Some(Ordinary::WithRanges)), ("-with-one-id", Some(Ordinary::WithoutRanges))];

/// Whether a group of the recorded builds is also for ordinary users: those that are about commands. With one id nobody can
/// become anybody else.
fn is_for(group: &str, user: Option<Ordinary>) -> bool {
    const PARTS: [&str; 5] = ["run-", "mount-", "network", "sandbox", "user"];
    match user {
        None => true,
        Some(Ordinary::WithoutRanges) if group == "user" => false,
        Some(_) => PARTS.iter().any(|part| group.starts_with(part)),
    }
}

/// Cases that look at who somebody is, and not at what comes of it: with one id everything shows as root's.
const SHOWN: [&str; 4] =
    ["cache-not-writable-by-user", "cache-owner-and-mode", "secret-mode-owner", "secret-unreadable-for-user"];

/// A case that pings, which on the host's network is for those who have rights there.
const PING: &str = "hosts-resolve";

fn main() -> ExitCode {
    // The recorded modes are those of a client with this mask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let arguments = Arguments::from_args();
    // A runner with a process for each test asks for one name: the other files need no reading.
    let wanted = |file: &&&str| match &arguments.filter {
        Some(name) if arguments.exact => {
            name.starts_with(&format!("{file}::")) || name.starts_with(&format!("{file}-"))
        }
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
    let trial = |case: &serde_json::Value, (what, user): (&str, Option<Ordinary>)| {
        let word = |key: &str| case[key].as_str().map(str::to_owned);
        if !is_for(&word("group").unwrap_or_default(), user) {
            return None;
        }
        if user == Some(Ordinary::WithoutRanges) && SHOWN.iter().any(|name| case["name"] == *name) {
            return None;
        }
        if user.is_some() && case["name"] == PING {
            return None;
        }
        let parts = [Some(format!("{file}{what}")), word("group"), word("name")];
        let name = parts.into_iter().flatten().collect::<Vec<_>>().join("::");
        let case = case.clone();
        Some(Trial::test(name, move || {
            // A case with members we do not know is not compared in full, so it fails.
            let case: Case = serde_json::from_value(case).map_err(|error| Failed::from(error.to_string()))?;
            play::play(&case, file, user).map_err(Failed::from)
        }))
    };
    let all = file_.cases.iter().flat_map(|case| USERS.map(|user| trial(case, user)));
    all.flatten().collect()
}
