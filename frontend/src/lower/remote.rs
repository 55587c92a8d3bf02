//! Sources of ADD: from git, from a web server, or from the context.

use kiln_oci::{ReferenceDigest, ReferenceError};

use super::path;
use super::stages::error;
use crate::dockerfile::Diagnostic;
use crate::dockerfile::git::{self, GitError};
use crate::graph::Source;

/// What a source word of COPY and ADD means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// A path in the context or wherever `--from` says.
    Path,
    /// A git repository.
    Git,
    /// A file on a web server.
    Http,
}

/// Finds out what a source word means, after expansion.
pub(super) fn kind(source: &str) -> Result<SourceKind, Diagnostic> {
    match git::parse(source) {
        Ok(url) if !url.indistinguishable_from_local => Ok(SourceKind::Git),
        Err(GitError::Malformed(cause)) => Err(error("invalid-git-source", cause)),
        _ if source.starts_with("http://") || source.starts_with("https://") => Ok(SourceKind::Http),
        _ => Ok(SourceKind::Path),
    }
}

/// Returns the source of a git repository. What flags say must agree with the URL's query.
pub(super) fn git_source(url: &str, keep_git_dir: Option<bool>, checksum: Option<&str>) -> Result<Source, Diagnostic> {
    let wrong = |message: String| error("invalid-git-source", message);
    let url = match git::parse(url) {
        Ok(url) => url,
        Err(GitError::NotGit(_)) => return Err(wrong(format!("invalid git context {url}"))),
        Err(GitError::Malformed(cause)) => return Err(wrong(cause)),
    };
    let keep_git_dir = match (keep_git_dir, url.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(wrong("inconsistent keep-git-dir configuration".to_owned()));
        }
        (flag, query) => flag.or(query).unwrap_or(false),
    };
    let in_query = Some(&*url.checksum).filter(|text| !text.is_empty());
    let checksum = match (checksum, in_query) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(wrong(format!("checksum mismatch {query:?} != {flag:?}")));
        }
        (flag, query) => flag.or(query),
    };
    if let Some(checksum) = checksum
        && !checksum.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Err(wrong(format!(
            "failed to load cache key: invalid checksum {checksum} for Git URL, expected hex commit hash"
        )));
    }
    Ok(Source::Git {
        remote: url.remote,
        reference: url.reference,
        subdir: url.subdir,
        keep_git_dir,
        checksum: checksum.map(str::to_owned),
        submodules: url.submodules.unwrap_or(true),
        commit_times: false,
    })
}

/// Returns the source of a context that is a git repository. `keep_git_dir` is what holds for all contexts.
pub(super) fn git_context(url: &str, keep_git_dir: bool) -> Result<Source, Diagnostic> {
    let parsed = git::parse(url).ok();
    let of_url = parsed.as_ref().and_then(|parsed| parsed.keep_git_dir);
    let mut source = git_source(url, Some(of_url.unwrap_or(keep_git_dir)), None)?;
    if let Source::Git { commit_times, .. } = &mut source {
        *commit_times = parsed.is_some_and(|parsed| parsed.mtime == "commit");
    }
    Ok(source)
}

/// Returns the source of a context that is a file on a web server.
pub(super) fn http_context(url: &str) -> Source {
    Source::Http { url: url.to_owned(), filename: "context".to_owned(), checksum: None }
}

/// Returns the source of a file on a web server, and the file's name.
pub(super) fn http_source(url: &str, checksum: Option<&str>) -> Result<(Source, String), Diagnostic> {
    let checksum = match checksum {
        None => None,
        Some(text) => Some(text.parse::<ReferenceDigest>().map_err(|cause| {
            error("invalid-checksum", checksum_message(&cause)).hint("it is `sha256:` and 64 hexadecimal digits")
        })?),
    };
    let filename = file_name(url);
    Ok((Source::Http { url: url.to_owned(), filename: filename.clone(), checksum }, filename))
}

/// Says what is wrong with a checksum.
fn checksum_message(cause: &ReferenceError) -> &'static str {
    match cause {
        ReferenceError::DigestAlgorithm => "unsupported digest algorithm",
        ReferenceError::DigestLength => "invalid checksum digest length",
        _ => "invalid checksum digest format",
    }
}

/// Returns the last part of a URL's path.
fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let name = percent_decoded(path);
    match path::base(&name) {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = match (first, after) {
            (b'%', [high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                std::str::from_utf8(&after[..2]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn a_download_is_called_after_its_path() {
        for (url, expected) in [
            ("https://h/x/y", "y"),
            ("https://h/x/y/", "y"),
            ("https://h/a%20b?q=/c#d/e", "a b"),
            ("https://h", "__unnamed__"),
            ("https://h/", "__unnamed__"),
            ("https://h?x/y", "__unnamed__"),
            ("https://h/%2e%2e", "__unnamed__"),
            ("https://h/%zz", "%zz"),
        ] {
            assert_eq!(file_name(url), expected, "{url}");
        }
    }
}
