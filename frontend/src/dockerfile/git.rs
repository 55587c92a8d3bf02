//! References to git repositories, as ADD and remote contexts take them.
//!
//! ```text
//! https://host/path.git#ref:subdir      ssh://…   git://…   user@host:path
//! https://host/path.git?ref=…&subdir=…
//! ```

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

use super::{csv, quote::go_quote};
use crate::lower::path::clean;

/// A part of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitReference {
    /// What git is asked to fetch from.
    pub remote: String,
    /// The last part of the path, without `.git`.
    pub short_name: String,
    /// Branch, tag or commit; empty for the default.
    pub reference: String,
    /// The directory inside; empty for all.
    pub subdir: String,
    /// The commit it has to be, or the start of it; empty when it does not matter.
    pub checksum: String,
    /// Whether the connection can be read by others.
    pub unencrypted: bool,
    /// Whether it might as well be a local path (`github.com/…` without a scheme).
    pub indistinguishable_from_local: bool,
    /// `keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `submodules`, if given.
    pub submodules: Option<bool>,
    /// `mtime`: `checkout` or `commit`; empty when not given.
    pub mtime: String,
    /// Whether only that commit is fetched.
    pub fetch_by_commit: bool,
}

/// Why a text is not a reference to a git repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// Something else: a path or another kind of URL.
    #[error("{0}")]
    NotGit(String),
    /// Meant as one, but wrong.
    #[error("{0}")]
    Malformed(String),
}

impl GitError {
    /// Whether the text was recognised as git at all.
    pub fn is_git(&self) -> bool {
        matches!(self, Self::Malformed(_))
    }
}

static SCP: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:[^?#]*").expect("the pattern is constant"));

/// Reads a reference.
pub fn parse(text: &str) -> Result<GitReference, GitError> {
    let not_git = |reason: &str| GitError::NotGit(reason.to_owned());
    if text.starts_with("./") || text.starts_with("../") {
        return Err(not_git("invalid argument"));
    }
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let (location, tail) = text.split_at(end);
    let mut git = GitReference::default();
    let mut is_url = true;
    match location.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            let scheme = scheme.to_ascii_lowercase();
            match &*scheme {
                "http" | "git" => git.unencrypted = true,
                "https" | "ssh" => {}
                _ => return Err(GitError::NotGit(format!("{scheme}: invalid protocol"))),
            }
            let address = text.split('#').next().unwrap_or_default();
            check_url(address, rest)
                .map_err(|wrong| GitError::NotGit(format!("parse {}: {wrong}", go_quote(address))))?;
            if scheme.starts_with("http") && !(rest.ends_with(".git") && rest.contains('/')) {
                return Err(not_git("invalid argument"));
            }
            git.remote = format!("{scheme}://{rest}");
        }
        _ if location.starts_with("github.com/") => {
            git.remote = location.to_owned();
            git.indistinguishable_from_local = true;
        }
        _ if SCP.find(location).is_some_and(|found| found.len() == location.len()) => {
            git.remote = location.to_owned();
            is_url = false;
        }
        _ => return Err(not_git("unknown protocol")),
    }
    let last = git.remote.rsplit('/').next().unwrap_or_default();
    git.short_name = last.strip_suffix(".git").unwrap_or(last).to_owned();
    let (query, fragment) = tail.split_once('#').unwrap_or((tail, ""));
    let fragment = if is_url { decode(fragment, false) } else { fragment.to_owned() };
    let (reference, subdir) = fragment.split_once(':').unwrap_or((&*fragment, ""));
    git.reference = reference.to_owned();
    git.subdir = clean(&format!("/{subdir}")).trim_start_matches('/').to_owned();
    git.query(query.strip_prefix('?').unwrap_or_default()).map_err(GitError::Malformed)?;
    Ok(git)
}

impl GitReference {
    fn query(&mut self, query: &str) -> Result<(), String> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let is_read = |pair: &&str| !pair.is_empty() && !pair.contains(';') && broken_escape(pair).is_none();
        for pair in query.split('&').filter(is_read) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(key, true)).or_default().push(decode(value, true));
        }
        let mut branch = String::new();
        let mut tag = String::new();
        for (key, values) in values {
            let [value] =
                <[String; 1]>::try_from(values).map_err(|_| format!("query {} has multiple values", go_quote(&key)))?;
            let switch = |value: &str| match value {
                "" => Ok(true),
                value => csv::boolean(value).ok_or_else(|| format!("invalid {key} value: {}", go_quote(value))),
            };
            let is_switch = matches!(&*key, "keep-git-dir" | "submodules" | "fetch-by-commit");
            let is_known = matches!(&*key, "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" | "mtime");
            if !is_switch && !is_known {
                return Err(format!("unexpected query {}", go_quote(&key)));
            }
            if !is_switch && value.is_empty() {
                return Err(format!("query {} has no value", go_quote(&key)));
            }
            match &*key {
                "ref" => set_once("ref", &mut self.reference, value)?,
                "tag" => tag = value,
                "branch" => branch = value,
                "subdir" => set_once("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => set_once("checksum", &mut self.checksum, value)?,
                "keep-git-dir" => self.keep_git_dir = Some(switch(&value)?),
                "submodules" => self.submodules = Some(switch(&value)?),
                "fetch-by-commit" => self.fetch_by_commit = switch(&value)?,
                _ if matches!(&*value, "checkout" | "commit") => self.mtime = value,
                _ => {
                    return Err(format!(
                        "invalid mtime value: {} (must be \"checkout\" or \"commit\")",
                        go_quote(&value)
                    ));
                }
            }
        }
        if !branch.is_empty() && !tag.is_empty() {
            return Err("branch conflicts with tag".to_owned());
        }
        for (prefix, name) in [("refs/tags/", tag), ("refs/heads/", branch)] {
            if !name.is_empty() {
                let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                set_once("ref", &mut self.reference, full)?;
            }
        }
        Ok(())
    }
}

fn set_once(what: &str, place: &mut String, value: String) -> Result<(), String> {
    if !place.is_empty() && *place != value {
        return Err(format!("{what} conflicts: {} vs {}", go_quote(place), go_quote(&value)));
    }
    *place = value;
    Ok(())
}

/// Checks what has to be in order in a URL before anything can be asked of its host: no control characters, a host with
/// a number for its port, and whole escapes. `rest` is what follows the scheme, without query.
fn check_url(text: &str, rest: &str) -> Result<(), String> {
    if text.contains(|c: char| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = match host.starts_with('[') {
        true => host.rsplit_once(']').ok_or("missing ']' in host")?.1,
        false => &host[host.rfind(':').unwrap_or(host.len())..],
    };
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !is_port {
        return Err(format!("invalid port {} after host", go_quote(port)));
    }
    if let Some(wrong) = host.chars().find(|c| " \\^`{|}%".contains(*c)) {
        return Err(format!("invalid character {} in host name", go_quote(&wrong.to_string())));
    }
    broken_escape(path).map_or(Ok(()), |escape| Err(format!("invalid URL escape {}", go_quote(escape))))
}

/// Returns the first `%` with what follows it, where that is not two hexadecimal digits.
fn broken_escape(text: &str) -> Option<&str> {
    let is_whole = |escape: &str| escape.len() == 3 && escape[1..].bytes().all(|byte| byte.is_ascii_hexdigit());
    text.match_indices('%').map(|(at, _)| &text[at..text.ceil_char_boundary(at + 3)]).find(|escape| !is_whole(escape))
}

/// Undoes percent encoding; what is not encoded well stays as it is.
fn decode(text: &str, plus_is_blank: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            (b'+', _) if plus_is_blank => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
