//! Values with a syntax of their own: durations, sizes, signals, modes, git references.

use kiln_frontend::dockerfile::{
    InstructionKind, ast::Healthcheck, diagnostic::first_error, duration::Nanoseconds, git, mode::FileMode, parse,
    signal, size,
};
use serde_json::{Map, Value, json};

use crate::vectors::{run, same, text};

#[test]
fn durations_are_read_as_recorded() {
    run("duration", |case| {
        let input = text(case, "input");
        let result = input.parse::<Nanoseconds>();
        match case["error"].as_str() {
            Some(error) => {
                same("error", result.map_err(|error| error.to_string()).err().as_deref(), Some(error))?;
            }
            None => {
                let time = result.map_err(|error| error.to_string())?;
                same("nanoseconds", Some(time.0), case["nanoseconds"].as_i64())?;
                same("text", &*time.to_string(), text(case, "go_string"))?;
            }
        }
        // Upstream reads flags byte by byte: what it says about these rows in a flag is its own mistake.
        let recorded_value = case["healthcheck_interval_ns"].as_i64();
        let recorded_error = case["healthcheck_interval_error"].as_str();
        if !input.is_ascii() || (recorded_value.is_none() && recorded_error.is_none()) {
            return Ok(());
        }
        let (file, diagnostics) = parse(&format!("FROM base\nHEALTHCHECK --interval={input} CMD x\n"));
        match &file.instructions[1].kind {
            InstructionKind::Healthcheck(Healthcheck::Cmd(probe)) => {
                same("interval", Some(probe.interval.0), recorded_value)
            }
            _ => same("error", first_error(&diagnostics).map(|error| error.full_text()).as_deref(), recorded_error),
        }
    });
}

#[test]
fn sizes_are_read_as_recorded() {
    run("byte-size", |case| match (size::parse(text(case, "input")), case["error"].as_str()) {
        (result, Some(error)) => same("error", result.map_err(|error| error.to_string()), Err(error.to_owned())),
        (result, None) => same("bytes", result.ok(), case["bytes"].as_u64()),
    });
}

#[test]
fn signals_are_read_as_recorded() {
    run("stopsignal", |case| match (signal::parse(text(case, "input")), case["error"].as_str()) {
        (result, Some(error)) => same("error", result.map_err(|error| error.to_string()), Err(error.to_owned())),
        (result, None) => same("number", result.ok(), case["number"].as_i64()),
    });
}

#[test]
fn modes_are_applied_as_recorded() {
    run("chmod-symbolic", |case| {
        let mode = text(case, "mode").parse::<FileMode>();
        if let Some(error) = case["error"].as_str() {
            return same("error", mode.map_err(|error| error.to_string()).err().as_deref(), Some(error));
        }
        let mode = mode.map_err(|error| error.to_string())?;
        for row in case["results"].as_array().into_iter().flatten() {
            let initial = text(row, "initial");
            let bits = initial.trim_end_matches('/');
            let bits = u32::from_str_radix(bits, 8).map_err(|error| error.to_string())?;
            let result = mode.apply(bits, initial.ends_with('/'));
            same(initial, format!("{result:04o}"), text(row, "result").to_owned())?;
        }
        Ok(())
    });
}

#[test]
fn git_references_are_read_as_recorded() {
    run("git-url", |case| {
        let result = git::parse(text(case, "input"));
        let is_git = result.as_ref().map_or_else(|error| error.is_git(), |_| true);
        same("is_git", Some(is_git), case["is_git"].as_bool())?;
        if let Some(error) = case["error"].as_str() {
            return same("error", result.map_err(|error| error.to_string()).err().as_deref(), Some(error));
        }
        let git = result.map_err(|error| error.to_string())?;
        let mut fields = Map::new();
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        put("remote", json!(git.remote));
        put("short_name", json!(git.short_name));
        put("ref", json!(git.reference));
        put("subdir", json!(git.subdir));
        put("checksum", json!(git.checksum));
        put("mtime", json!(git.mtime));
        put("unencrypted", json!(git.unencrypted));
        put("indistinguishable_from_local", json!(git.indistinguishable_from_local));
        put("fetch_by_commit", json!(git.fetch_by_commit));
        if let Some(keep) = git.keep_git_dir {
            put("keep_git_dir", json!(keep));
        }
        if let Some(submodules) = git.submodules {
            put("submodules", json!(submodules));
        }
        same("fields", &Value::Object(fields), &case["parsed"])
    });
}

#[test]
fn octal_modes_are_numbers_up_to_twelve_bits() {
    assert_eq!("0644".parse(), Ok(FileMode::Octal(0o644)));
    assert_eq!("7777".parse(), Ok(FileMode::Octal(0o7777)));
    for wrong in ["8", "999", "10000", "644x", "0o644"] {
        let message = format!("invalid chmod parameter: '{wrong}'. it should be octal string and between 0 and 07777");
        assert_eq!(wrong.parse::<FileMode>().map_err(|error| error.to_string()), Err(message));
    }
    for wrong in ["abc", "-1", ""] {
        assert_eq!(wrong.parse::<FileMode>().map_err(|error| error.to_string()), Err("invalid syntax".to_owned()));
    }
}

#[test]
fn sizes_may_have_signs_and_exponents() {
    assert_eq!(["+1", "1e3", "1.5e1k", "2E-1k"].map(size::parse), [Ok(1), Ok(1000), Ok(15360), Ok(204)]);
    for wrong in ["1e", "e1", "+-1", "1e3.5", "inf1", "1_000"] {
        assert!(size::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn addresses_that_cannot_be_asked_are_not_git() {
    for (text, reason) in [
        ("ssh://git@host:a/r.git", "invalid port \":a\" after host"),
        ("https://[::1]x/r.git", "invalid port \"x\" after host"),
        ("https://[::1/r.git", "missing ']' in host"),
        ("https://ho st/r.git", "invalid character \" \" in host name"),
        ("https://host/%zz/r.git", "invalid URL escape \"%zz\""),
        ("https://host/r.git?a=%4", "unexpected"),
        ("git://host/a\tb", "net/url: invalid control character in URL"),
    ] {
        match git::parse(text) {
            Err(error) => assert_eq!(error.to_string(), format!("parse {text:?}: {reason}")),
            // What is broken in the query is not read at all.
            Ok(git) => assert_eq!((git.remote.as_str(), reason), ("https://host/r.git", "unexpected")),
        }
    }
    assert!(git::parse("https://user:p%40ss@host:8443/r.git").is_ok());
}
