//! Any text as the value of `--mount`, and as everything else that has fields.
#![no_main]

use kiln_frontend::dockerfile::{csv, git, mount, mode::FileMode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = mount::parse(text, |word| Ok(word.to_owned()));
    let _ = mount::parse(text, |word| Ok(format!("{word},{word}")));
    let _ = csv::fields(text);
    let _ = git::parse(text);
    let _ = text.parse::<FileMode>();
});
