//! Becoming the command: the search along PATH, and what each refusal means.

use std::ffi::CString;
use std::io::{self, Read};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::emulation::architecture_of;
use crate::error::{SetupError, reason};
use crate::init::environment;
use crate::sys;

/// Becomes the command; returns what prevented it.
pub fn exec(args: &[String], environment: &[String]) -> SetupError {
    let Some(name) = args.first() else { return SetupError::CommandNotFound { name: String::new() } };
    // The engine has refused texts with a NUL.
    let strings = |texts: &[String]| -> Vec<CString> {
        texts.iter().filter_map(|text| CString::new(text.as_str()).ok()).collect()
    };
    let (words, variables) = (strings(args), strings(environment));
    let attempt = |path: &str| match CString::new(path) {
        Ok(path) => sys::execve(&path, &words, &variables),
        Err(error) => error.into(),
    };
    if name.contains('/') {
        return explain(name, &attempt(name));
    }
    let mut refused = None;
    let path = environment::get(environment, "PATH").unwrap_or("");
    for directory in path.split(':').filter(|_| !path.is_empty() && !name.is_empty()) {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        let error = attempt(&candidate);
        match error.raw_os_error() {
            // Not here: look further. A script whose interpreter is missing looks the same but is here.
            Some(libc::ENOENT | libc::ENOTDIR) if !exists(&candidate) => {}
            // Not for us here; perhaps another one further on.
            Some(libc::EACCES) => refused = refused.or(Some(candidate)),
            _ => return explain(&candidate, &error),
        }
    }
    match refused {
        Some(path) => SetupError::PermissionDenied { path },
        None => SetupError::CommandNotFound { name: name.clone() },
    }
}

fn explain(path: &str, error: &io::Error) -> SetupError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT) => SetupError::FileNotFound { exists: exists(&path), path },
        Some(libc::EACCES) => SetupError::PermissionDenied { path },
        Some(libc::ENOEXEC) => SetupError::ExecFormat { architecture: architecture(&path), path },
        _ => SetupError::Exec { path, reason: reason(error) },
    }
}

/// What a program is for, from how it begins.
fn architecture(path: &str) -> Option<String> {
    let mut start = [0; 20];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).ok()?;
    architecture_of(&start).map(str::to_owned)
}

fn exists(path: &str) -> bool {
    accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}
