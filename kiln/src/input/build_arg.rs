//! Build arguments: from the command line, from files, from the environment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kiln_builder::BuildError;

/// A file of arguments is no larger.
const LARGEST: u64 = 1 << 20;

/// Taken from the environment without being asked for, as buildx does: a reproducible build needs no flag.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Adds the proxies of the user's configuration, but for those that are given in one spelling or another.
pub fn add_proxies(arguments: &mut BTreeMap<String, String>, proxies: BTreeMap<String, String>) {
    let is_new = |name: &String| !arguments.keys().any(|given| given.eq_ignore_ascii_case(name));
    let new: Vec<_> = proxies.into_iter().filter(|(name, _)| is_new(name)).collect();
    arguments.extend(new);
}

/// Returns the build arguments: those of the files in order, then those of the flags; the last of a name wins. A flag
/// without value takes it from the environment, and is left out when it is not there. Paths are taken from `current`.
///
/// # Errors
/// When a file cannot be read, a line of it is none, or a name is missing.
pub fn all(
    files: &[PathBuf],
    flags: &[String],
    current: &Path,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, BuildError> {
    let mut arguments = BTreeMap::new();
    for file in files {
        read(&current.join(file), &file.display().to_string(), &mut arguments)?;
    }
    for flag in flags {
        match flag.split_once('=') {
            Some(("", _)) => {
                return Err(BuildError::input(format!("invalid build argument `{flag}`: the name is missing")));
            }
            None if flag.is_empty() => return Err(BuildError::input("invalid build argument: it is empty")),
            Some((name, value)) => {
                arguments.insert(name.to_owned(), value.to_owned());
            }
            None => {
                if let Some(value) = environment(flag) {
                    arguments.insert(flag.clone(), value);
                }
            }
        }
    }
    let is_given = arguments.contains_key(EPOCH) || flags.iter().any(|flag| flag == EPOCH);
    if !is_given && let Some(epoch) = environment(EPOCH).filter(|epoch| !epoch.is_empty()) {
        arguments.insert(EPOCH.to_owned(), epoch);
    }
    Ok(arguments)
}

/// Reads a file of arguments; `name` is what the user called it.
fn read(path: &Path, name: &str, arguments: &mut BTreeMap<String, String>) -> Result<(), BuildError> {
    let unreadable = |why: String| BuildError::input(format!("cannot read the build arguments in `{name}`: {why}"));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(unreadable("it is larger than 1 MiB".to_owned()));
    }
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if let Some((key, value)) = argument(line).map_err(|why| wrong(name, number + 1, why))? {
            arguments.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(())
}

/// Reads one line; nothing for one that says nothing.
fn argument(line: &[u8]) -> Result<Option<(&str, &str)>, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8 text")?.trim_start();
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains('\0') {
        return Err("there is a zero byte in it");
    }
    match line.split_once('=') {
        Some((name, value)) if !name.trim_end().is_empty() => Ok(Some((name.trim_end(), value))),
        Some(_) => Err("the name is missing"),
        None => Err("it is not of the form `NAME=VALUE`"),
    }
}

fn wrong(name: &str, line: usize, why: &str) -> BuildError {
    BuildError::input(format!("{name}:{line}: invalid build argument: {why}"))
        .hint("each line of such a file is `NAME=VALUE`, without quotes, or a comment that begins with `#`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "SET" => Some("from env".to_owned()),
            "SOURCE_DATE_EPOCH" => Some("7".to_owned()),
            _ => None,
        }
    }

    fn read(files: &[&str], flags: &[&str]) -> Result<Vec<String>, BuildError> {
        let here = tempfile::tempdir().unwrap();
        let names: Vec<PathBuf> = (0..files.len()).map(|number| PathBuf::from(format!("{number}.conf"))).collect();
        for (name, text) in names.iter().zip(files) {
            std::fs::write(here.path().join(name), text).unwrap();
        }
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let arguments = all(&names, &flags, here.path(), environment)?;
        Ok(arguments.iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn arguments_come_from_the_flag_or_the_environment() {
        let found = read(&[], &["A=1", "A=2=3", "SET", "UNSET", "EMPTY="]).unwrap();
        assert_eq!(found, ["A=2=3", "EMPTY=", "SET=from env", "SOURCE_DATE_EPOCH=7"]);
        assert_eq!(read(&[], &["SOURCE_DATE_EPOCH=9"]).unwrap(), ["SOURCE_DATE_EPOCH=9"]);
        for wrong in ["=x", ""] {
            assert!(read(&[], &[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_command_line_wins_over_files() {
        let first = "# versions\n\nA=1\n  B = \"b\" # kept \r\nSOURCE_DATE_EPOCH=3\nUNSET=f";
        let found = read(&[first, "A=2\nC=x=y\n"], &["C=3", "UNSET"]).unwrap();
        assert_eq!(found, ["A=2", "B= \"b\" # kept ", "C=3", "SOURCE_DATE_EPOCH=3", "UNSET=f"]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("A=1\n\nB\n", "0.conf:3: invalid build argument: it is not of the form `NAME=VALUE`"),
            ("=1", "0.conf:1: invalid build argument: the name is missing"),
            ("A=\0", "0.conf:1: invalid build argument: there is a zero byte in it"),
        ] {
            assert_eq!(read(&[text], &[]).unwrap_err().message, expected);
        }
        let missing = all(&["nope".into()], &[], Path::new("/"), environment).unwrap_err();
        assert!(missing.message.starts_with("cannot read the build arguments in `nope`: "), "{}", missing.message);
        assert!(read(&[&"#".repeat(1 << 20)], &[]).is_ok());
        assert!(read(&[&"#".repeat((1 << 20) + 1)], &[]).is_err());
    }
}
