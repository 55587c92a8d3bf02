//! Copies from a directory of the client that are perhaps not meant: of files that look like secrets, and of very much.
//!
//! Only names and sizes are looked at, never contents.

use kiln_frontend::dockerfile::{Diagnostic, Phase};
use kiln_frontend::graph::{CopyFrom, FileAction, FileOp};

use super::copy;
use crate::source::local::{LocalContext, LocalFile};

/// One copy of more files, or of more bytes, is worth a word.
const MANY_FILES: usize = 100_000;
const MANY_BYTES: u64 = 500_000_000;

/// Files that are secrets wherever they are. `.npmrc` is none: it rarely holds more than the address of a registry.
const SECRETS: [&str; 8] =
    [".git-credentials", ".netrc", ".pgpass", ".pypirc", "id_dsa", "id_ecdsa", "id_ed25519", "id_rsa"];

/// Files that are secrets in a directory of that name.
const SECRETS_IN: [(&str, &str); 3] = [(".aws", "credentials"), (".docker", "config.json"), (".kube", "config")];

/// What comes behind `.env.` in examples without secrets.
const EXAMPLES: [&str; 8] = ["defaults", "dist", "example", "sample", "schema", "template", "test", "vault"];

/// Directories of other people's files, and of files for tests: keys in there are no secrets.
const PUBLIC: [&str; 5] = ["fixtures", "node_modules", "site-packages", "testdata", "vendor"];

/// So many names stand in a warning.
const SHOWN: usize = 3;

/// Returns what is to be said of the copies from the context that is input number `input`, without their place.
pub fn warnings(op: &FileOp, input: usize, context: &LocalContext) -> Vec<Diagnostic> {
    let mut files: Vec<&LocalFile> = Vec::new();
    for action in &op.actions {
        if let FileAction::Copy(action) = action
            && action.from == CopyFrom::Input(input)
        {
            copy::local_files(&context.tree, action, &mut files);
        }
    }
    let secrets: Vec<_> = files.iter().map(|file| String::from_utf8_lossy(file.path())).collect();
    let secrets: Vec<&str> = secrets.iter().map(|path| &**path).filter(|path| is_secret(path)).collect();
    let bytes: u64 = files.iter().map(|file| file.stat.size).sum();
    let mut found = Vec::new();
    if !secrets.is_empty() {
        let shown: Vec<_> = secrets.iter().take(SHOWN).map(|path| format!("`{path}`")).collect();
        let more = match secrets.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let look = if secrets.len() == 1 { "looks like a secret" } else { "look like secrets" };
        let message = format!("{}{more} will be in the layer, and {look}", shown.join(", "));
        found.push(Diagnostic::warning(Phase::Lower, "copied-secrets", message).hint(
            "leave them out with .dockerignore; commands that need them can have them with `RUN --mount=type=secret`",
        ));
    }
    found.extend(large(files.len(), bytes));
    found
}

/// Returns what is to be said of a copy of so much.
fn large(files: usize, bytes: u64) -> Option<Diagnostic> {
    if files <= MANY_FILES && bytes <= MANY_BYTES {
        return None;
    }
    let message = format!("{files} files, {} MB in all, are copied from the context", bytes / 1_000_000);
    let warning = Diagnostic::warning(Phase::Lower, "large-copy", message);
    Some(warning.hint("`kiln context du` shows what takes the space, and .dockerignore leaves it out"))
}

fn is_secret(path: &str) -> bool {
    let mut names = path.rsplit('/');
    let name = names.next().unwrap_or_default();
    let directory = names.next().unwrap_or_default();
    if std::iter::once(directory).chain(names).any(|name| PUBLIC.contains(&name)) {
        return false;
    }
    SECRETS.contains(&name)
        || SECRETS_IN.contains(&(directory, name))
        || name == ".env"
        || name.strip_prefix(".env.").is_some_and(|rest| !EXAMPLES.contains(&rest))
        || name.ends_with(".key")
        || name.ends_with(".pem") && name.contains("key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for path in [".env", "a/.env.production", "id_rsa", "certs/server.key", "private-key.pem", ".aws/credentials"] {
            assert!(is_secret(path), "{path}");
        }
        for path in [".env.example", "env", "id_rsa.pub", "ca.pem", "credentials", "keyboard.rs", "src/.environment"] {
            assert!(!is_secret(path), "{path}");
        }
        for path in [".npmrc", ".env.test", "node_modules/a/test/server.key", "testdata/id_rsa", "vendor/x/.env"] {
            assert!(!is_secret(path), "{path}");
        }
    }

    #[test]
    fn a_large_copy_is_one_of_many_files_or_many_bytes() {
        for (files, bytes) in [(0, 0), (MANY_FILES, MANY_BYTES)] {
            assert_eq!(large(files, bytes), None, "{files} {bytes}");
        }
        let told = |files, bytes| large(files, bytes).expect("a warning").message;
        assert_eq!(told(100_001, 0), "100001 files, 0 MB in all, are copied from the context");
        assert_eq!(told(1, 500_000_001), "1 files, 500 MB in all, are copied from the context");
    }
}
