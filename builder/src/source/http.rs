//! Files from web servers, for ADD and for contexts (spec: copy-add.md §15).
//!
//! A file that was fetched before is asked for with the ETags of all that it has been and is here, and not sent again when
//! it is one of these; one whose checksum is given and that is here is not asked for at all.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use kiln_oci::{Digest, Hasher, ReferenceDigest};
use kiln_registry_client::{Error as RegistryError, Fetched, Unreachable};

use super::image::{environment, registry};
use super::remote::{Known, Made, Remote, RemoteTree, check_address};
use crate::error::BuildError;
use crate::op;
use crate::op::files::{FileKind, FileMeta, FileNode, Origin};

/// Nothing larger is fetched.
pub const LARGEST: u64 = 64 << 30;
/// What a server has compressed may grow to before its ratio is looked at.
const FREE_SIZE: u64 = 64 << 20;
/// How often a download that breaks off is begun again.
const TRIES: u32 = 3;
/// A server is told of so many ETags, the newest ones: a header cannot be of any length.
const ETAGS: usize = 32;
/// Who may read the file.
const MODE: u32 = 0o600;

/// A file on a web server.
#[derive(Debug, Clone, Copy)]
pub struct HttpFile<'a> {
    /// Where.
    pub url: &'a str,
    /// The name that it gets.
    pub filename: &'a str,
    /// What it must hash to.
    pub checksum: Option<&'a ReferenceDigest>,
    /// It is refused when it has more bytes.
    pub largest: u64,
}

/// A file that was fetched.
struct Download {
    file: Arc<tempfile::TempPath>,
    digest: Digest,
    size: u64,
    /// Seconds since 1970; 0 when the server does not say.
    modified: i64,
    etag: Option<String>,
}

impl HttpFile<'_> {
    fn key(&self) -> Digest {
        let mut hasher = Hasher::domain("kiln.http-url.v1");
        hasher.field(self.url).field(self.filename);
        hasher.finish()
    }

    fn checksum_key(&self, digest: &Digest) -> Digest {
        let mut hasher = Hasher::domain("kiln.http-checksum.v1");
        hasher.field(self.filename).digest(digest);
        hasher.finish()
    }

    /// Everything that a file of this name, content and age is.
    fn class(&self, download: &Download) -> Digest {
        let mut hasher = Hasher::domain("kiln.http-file.v1");
        hasher.field(self.filename).number(u64::from(MODE)).digest(&download.digest);
        hasher.number(download.modified.cast_unsigned());
        hasher.finish()
    }

    fn tree(&self, download: &Download) -> FileNode {
        let mut meta = FileMeta::directory(MODE, (download.modified, 0));
        meta.kind = FileKind::Regular;
        meta.size = download.size;
        let mut file = FileNode::leaf(meta, Origin::Spool(download.file.clone()));
        file.content = Some(download.digest);
        let mut top = FileNode::empty();
        top.children.insert(self.filename.as_bytes().into(), file);
        top
    }

    fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match host.strip_prefix('[') {
            Some(address) => address.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        }
    }
}

impl Remote<'_> {
    /// Fetches a file, or finds it here.
    ///
    /// # Errors
    /// When the server cannot be reached or does not have it, or when it is not what it should be.
    pub fn http(&self, file: &HttpFile) -> Result<RemoteTree, BuildError> {
        check_address(file.url)?;
        let key = file.key();
        let _lock = self.lock(&key)?;
        if let Some(ReferenceDigest::Sha256(digest)) = file.checksum
            && let Some(tree) = self.alias(&file.checksum_key(digest))
        {
            return Ok(tree);
        }
        let began = Instant::now();
        let authorization = self.http_authorization(file.host())?;
        // What has to have a certain content is not asked whether it has another.
        let mut known = if file.checksum.is_none() { self.known(&key) } else { Vec::new() };
        known.retain(|known| known.fact("etag").is_some());
        known.truncate(ETAGS);
        let etags = known.iter().filter_map(|known| known.fact("etag")).collect::<Vec<_>>().join(", ");
        let etags = Some(&*etags).filter(|etags| !etags.is_empty());
        let asking = Asking { file, authorization: authorization.as_deref(), known: &known, etags };
        if asking.etags.is_some()
            && let Some(index) = self.look(&asking)?
        {
            return Ok(known.swap_remove(index).into_tree());
        }
        let download = match self.download(&asking)? {
            Answer::Download(download) => download,
            // It changed back between the two requests.
            Answer::Known(index) => return Ok(known.swap_remove(index).into_tree()),
        };
        if let Some(expected) = file.checksum
            && *expected != ReferenceDigest::Sha256(download.digest)
        {
            return Err(BuildError::input(format!("digest mismatch {}: {expected}", download.digest)).hint(
                "the first is what the server sent, the second what `--checksum` wants; never take the first unseen",
            ));
        }
        let mut facts = vec![("content", download.digest.to_string())];
        facts.extend(download.etag.clone().map(|etag| ("etag", etag)));
        let made = Made { key, class: file.class(&download), name: "http", facts: &facts, began };
        let tree = self.keep(&made, || self.pack(op::file::Source::Files(Arc::new(file.tree(&download)))))?;
        let checksum = file.checksum_key(&download.digest);
        if self.store.class(&checksum) != Some(tree.class) {
            let created = crate::solver::nanoseconds();
            self.store.alias(&checksum, &tree.class, created).map_err(|error| environment(&error))?;
        }
        Ok(tree)
    }

    /// What the client lends for a host, as the value of a header.
    fn http_authorization(&self, host: &str) -> Result<Option<String>, BuildError> {
        if let Some(header) = self.secret(&format!("HTTP_AUTH_HEADER_{host}"))? {
            return Ok(Some(header));
        }
        Ok(self.secret(&format!("HTTP_AUTH_TOKEN_{host}"))?.map(|token| format!("Bearer {token}")))
    }

    /// Asks whether the file is one of the known ones, and which. A server that cannot say is asked for the file.
    fn look(&self, asking: &Asking) -> Result<Option<usize>, BuildError> {
        match self.registry.fetch().head(asking.file.url, &asking.headers()) {
            Ok(answer) => Ok(asking.which(&answer)),
            Err(RegistryError::Cancelled) => Err(BuildError::cancelled()),
            Err(error) => {
                tracing::debug!(%error, "cannot ask whether a file changed");
                Ok(None)
            }
        }
    }

    /// Fetches the file, unless it is one of the known ones.
    fn download(&self, asking: &Asking) -> Result<Answer, BuildError> {
        let mut tries = 1;
        let mut asking = *asking;
        let everything = Asking { etags: None, ..asking };
        loop {
            let answer =
                self.registry.fetch().get(asking.file.url, &asking.headers(), asking.file.largest).map_err(failed)?;
            if let Some(index) = asking.which(&answer) {
                return Ok(Answer::Known(index));
            }
            // It is one of several, and the server does not say which.
            if answer.status == 304 && asking.etags.is_some() {
                asking = everything;
                continue;
            }
            if !(200..400).contains(&answer.status) || answer.status == 304 {
                return Err(refused(answer.status, asking.file.host()));
            }
            match self.receive(answer, asking.file) {
                Ok(download) => return Ok(Answer::Download(download)),
                Err(_) if self.cancel.is_cancelled() => return Err(BuildError::cancelled()),
                Err(Broken::Stream(error)) if tries < TRIES => {
                    tracing::debug!(%error, "a download broke off; trying again");
                    tries += 1;
                }
                Err(Broken::Stream(error) | Broken::Here(error)) => {
                    return Err(BuildError::environment(format!("failed to load cache key: {error}")));
                }
            }
        }
    }

    fn receive(&self, answer: Fetched, of: &HttpFile) -> Result<Download, Broken> {
        let modified = answer.last_modified().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
        let etag = answer.header("etag").map(|etag| strong(etag).to_owned());
        let is_gzip = answer.header("content-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("gzip"));
        let total = answer.header("content-length").and_then(|length| length.parse().ok()).filter(|_| !is_gzip);
        let came = Cell::new(0);
        let sent = Counted { input: answer, count: &came };
        let mut body: Box<dyn Read> =
            if is_gzip { Box::new(flate2::read::MultiGzDecoder::new(sent)) } else { Box::new(sent) };
        let spool = self.contents.spool().map_err(Broken::Here)?;
        let mut file = tempfile::NamedTempFile::new_in(spool).map_err(Broken::Here)?;
        let (mut hasher, mut size, mut told) = (Hasher::new(), 0u64, 0);
        let mut buffer = vec![0; 128 << 10];
        let item = format!("downloading {}", of.filename);
        loop {
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Broken::Stream(error)),
            };
            size += n as u64;
            if size > of.largest {
                return Err(Broken::Here(io::Error::other(format!("the file is larger than {} bytes", of.largest))));
            }
            if is_gzip && size > op::archive::room(came.get(), FREE_SIZE) {
                return Err(Broken::Here(io::Error::other("what the server has compressed grows beyond all measure")));
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(Broken::Here)?;
            if n == 0 || size - told >= 1 << 20 {
                told = size;
                self.step.progress(&item, size, total, n == 0);
            }
            if n == 0 {
                break;
            }
        }
        let file = Arc::new(file.into_temp_path());
        Ok(Download { file, digest: hasher.finish(), size, modified, etag })
    }
}

/// A stream that counts what came.
struct Counted<'a, R> {
    input: R,
    count: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// Where a download failed.
enum Broken {
    /// Between the server and here.
    Stream(io::Error),
    /// On this machine: another try would not help.
    Here(io::Error),
}

/// What a server has.
enum Answer {
    /// This.
    Download(Download),
    /// That one of the known ones.
    Known(usize),
}

/// One request.
#[derive(Clone, Copy)]
struct Asking<'a> {
    file: &'a HttpFile<'a>,
    authorization: Option<&'a str>,
    known: &'a [Known],
    /// The ETags of the known ones, as a header; without it they do not count.
    etags: Option<&'a str>,
}

impl<'a> Asking<'a> {
    fn headers(&self) -> Vec<(&'a str, &'a str)> {
        let mut headers = Vec::new();
        headers.extend(self.authorization.map(|value| ("authorization", value)));
        headers.extend(self.etags.map(|value| ("if-none-match", value)));
        headers
    }

    /// Which of the known ones the answer is about. Some servers leave the ETag out of a 304: then it must be the only one.
    fn which(&self, answer: &Fetched) -> Option<usize> {
        self.etags?;
        match answer.header("etag").map(strong) {
            Some(etag) if matches!(answer.status, 200 | 304) => {
                self.known.iter().position(|known| known.fact("etag") == Some(etag))
            }
            None if answer.status == 304 && self.known.len() == 1 => Some(0),
            _ => None,
        }
    }
}

/// Returns an ETag without the mark of a weak one.
fn strong(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn failed(error: RegistryError) -> BuildError {
    let is_distrust = matches!(error, RegistryError::Unreachable { cause: Unreachable::Tls(_), .. });
    match registry(error) {
        error if error.kind == crate::Kind::Cancelled => error,
        error if is_distrust => error.context("failed to load cache key").hint(DISTRUST_HINT),
        error => error.context("failed to load cache key"),
    }
}

/// What to do about a certificate that this machine does not trust.
pub const DISTRUST_HINT: &str = "if the server's certificate is signed by an authority of your own, name the file with that one's: `SSL_CERT_FILE=FILE`";

fn refused(status: u16, host: &str) -> BuildError {
    let message = format!("failed to load cache key: invalid response status {status}");
    match status {
        401 | 403 => BuildError::environment(message)
            .hint(format!("if it wants to know who you are: `--secret id=HTTP_AUTH_TOKEN_{host},src=FILE`")),
        404 | 410 => BuildError::input(message).hint("there is no such file on the server; check the address"),
        400..500 => BuildError::input(message),
        _ => BuildError::environment(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_named_after_the_host_alone() {
        for (url, host) in [
            ("https://example.com/x", "example.com"),
            ("http://me:pw@example.com:8080?q", "example.com"),
            ("http://[::1]:80/", "::1"),
            ("https://example.com", "example.com"),
        ] {
            assert_eq!(HttpFile { url, filename: "x", checksum: None, largest: LARGEST }.host(), host);
        }
    }

    #[test]
    fn an_address_is_one_word() {
        assert!(check_address("https://example.com/a%20b?c#d").is_ok());
        for address in ["http://h/a\nb", "http://h/a b", "http://h/\u{7}", "http://h/\u{2028}"] {
            assert!(check_address(address).is_err(), "{address:?}");
        }
    }
}
