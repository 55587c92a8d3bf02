//! Reading blobs: a stream that survives broken connections and checks what it hands out.

use std::io::{self, Read};
use std::time::Duration;

use kiln_oci::{Descriptor, Digest, Hasher};
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::pull_scope;
use crate::client::{Client, Repository};
use crate::error::{Error, Unreachable};
use crate::host::Endpoint;
use crate::resolve::first_good;
use crate::retry::Backoff;
use crate::transport::{Ask, Transport, broken, refusal};

/// How long a blob waits for its turn. A limit is a courtesy: who holds streams open without
/// reading them must not stop everybody else for good.
const TURN: Duration = Duration::from_secs(20);

/// What a stream is about.
#[derive(Clone)]
pub(crate) struct Origin {
    pub repository: Repository,
    pub descriptor: Descriptor,
}

impl Origin {
    fn what(&self) -> String {
        format!("{}@{}", self.repository, self.descriptor.digest)
    }
}

/// A blob being read: exactly as many bytes as its descriptor says, or an error. The last of
/// them are handed out only when the digest of all is right.
pub struct BlobStream {
    client: Client,
    origin: Origin,
    endpoint: Endpoint,
    response: Option<Response>,
    chunk: Option<Box<dyn AsRef<[u8]> + Send>>,
    /// How much of the chunk was handed out.
    taken: usize,
    /// How many bytes came.
    received: u64,
    /// How many bytes come a second time.
    skip: u64,
    /// Running; `None` once all is checked.
    hasher: Option<Hasher>,
    /// Starts anew whenever something came.
    backoff: Backoff,
    _turn: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream").field("blob", &self.origin.what()).field("received", &self.received).finish()
    }
}

impl BlobStream {
    pub(crate) fn open(client: &Client, origin: Origin) -> Result<Self, Error> {
        let transport = &client.transport;
        let (endpoint, response, turn) = client.run(async {
            let host = transport.host(&origin.repository.domain);
            let turn = tokio::time::timeout(TURN, host.blobs.clone().acquire_owned()).await;
            let (endpoint, response, _) = request_anywhere(transport, &origin, 0).await?;
            Ok((endpoint, response, turn.ok().and_then(Result::ok)))
        })?;
        let backoff = Backoff::new(transport.options.backoff, transport.options.retries);
        Ok(Self {
            client: client.clone(),
            origin,
            endpoint,
            response: Some(response),
            chunk: None,
            taken: 0,
            received: 0,
            skip: 0,
            hasher: Some(Hasher::new()),
            backoff,
            _turn: turn,
        })
    }

    /// Returns what is being read.
    pub fn descriptor(&self) -> &Descriptor {
        &self.origin.descriptor
    }

    /// Brings the next chunk, or nothing when all is there and checked.
    fn advance(&mut self) -> Result<(), Error> {
        self.chunk = None;
        self.taken = 0;
        let size = self.origin.descriptor.size;
        while self.received < size {
            let Some(mut response) = self.response.take() else {
                self.reopen()?;
                continue;
            };
            let (host, stall) = (self.endpoint.host.domain.clone(), self.client.transport.options.stall);
            let next = self.client.run(async {
                match tokio::time::timeout(stall, response.chunk()).await {
                    Ok(chunk) => chunk.map_err(|error| broken(&host, &error)),
                    Err(_) => Err(Error::Unreachable { host, cause: Unreachable::Timeout(stall.as_secs()) }),
                }
            });
            match next {
                Ok(Some(chunk)) if chunk.len() as u64 <= self.skip => {
                    self.skip -= chunk.len() as u64;
                    self.response = Some(response);
                }
                Ok(Some(mut chunk)) => {
                    let known = usize::try_from(std::mem::take(&mut self.skip)).unwrap_or(usize::MAX);
                    let chunk = chunk.split_off(known);
                    self.received += chunk.len() as u64;
                    if self.received > size {
                        return Err(self.wrong_size());
                    }
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&chunk);
                    }
                    self.chunk = Some(Box::new(chunk));
                    self.response = Some(response);
                    self.backoff =
                        Backoff::new(self.client.transport.options.backoff, self.client.transport.options.retries);
                    break;
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                broken => {
                    let wait = self.backoff.wait(None);
                    tracing::debug!("{} broke off after {} of {size} bytes", self.origin.what(), self.received);
                    let Some(wait) = wait else {
                        return Err(broken.err().unwrap_or_else(|| self.wrong_size()));
                    };
                    self.client.run(async {
                        tokio::time::sleep(wait).await;
                        Ok(())
                    })?;
                }
            }
        }
        if self.received == size
            && let Some(hasher) = self.hasher.take()
        {
            self.response = None;
            self._turn = None;
            self.check(hasher.finish())?;
        }
        Ok(())
    }

    fn check(&mut self, found: Digest) -> Result<(), Error> {
        let wanted = self.origin.descriptor.digest;
        if found == wanted {
            return Ok(());
        }
        self.chunk = None;
        if self.endpoint.mirrored.is_some() {
            self.endpoint.host.distrust();
        }
        Err(Error::Digest { host: self.endpoint.host.domain.clone(), what: self.origin.what(), wanted, found })
    }

    fn wrong_size(&self) -> Error {
        Error::Size {
            host: self.endpoint.host.domain.clone(),
            what: self.origin.what(),
            wanted: self.origin.descriptor.size,
            found: self.received,
        }
    }

    /// Asks again, from the registry's own address (redirected ones expire), for what is missing.
    fn reopen(&mut self) -> Result<(), Error> {
        let found = self.client.run(request_anywhere(&self.client.transport, &self.origin, self.received))?;
        let (endpoint, response, skip) = found;
        self.endpoint = endpoint;
        self.response = Some(response);
        self.skip = skip;
        Ok(())
    }
}

impl Read for BlobStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.chunk.as_ref().is_none_or(|chunk| (**chunk).as_ref().len() <= self.taken) {
            self.advance()?;
        }
        let Some(chunk) = &self.chunk else { return Ok(0) };
        let rest = &(**chunk).as_ref()[self.taken..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.taken += n;
        Ok(n)
    }
}

/// Asks the mirrors and the registry for a blob from `offset` on.
async fn request_anywhere(
    transport: &Transport,
    origin: &Origin,
    offset: u64,
) -> Result<(Endpoint, Response, u64), Error> {
    first_good(transport, &origin.repository.domain, async |endpoint| {
        let (response, skip) = request(transport, &endpoint, origin, offset).await?;
        Ok((endpoint, response, skip))
    })
    .await
}

/// Asks one host for a blob from `offset` on; returns also how many bytes of the answer are
/// known already.
async fn request(
    transport: &Transport,
    endpoint: &Endpoint,
    origin: &Origin,
    offset: u64,
) -> Result<(Response, u64), Error> {
    let what = origin.what();
    let path = endpoint.path(&origin.repository.path, &format!("blobs/{}", origin.descriptor.digest));
    let mut ask = Ask::new(Method::GET, transport.url(&endpoint.host, &path).await?, &what);
    if offset > 0 {
        let range = HeaderValue::from_str(&format!("bytes={offset}-"));
        ask.headers.insert(RANGE, range.map_err(|error| Error::Name(error.to_string()))?);
    }
    let answer = transport.exchange(&endpoint.host, &[pull_scope(&origin.repository.path)], &ask).await?;
    let response = answer.response;
    let host = || endpoint.host.domain.clone();
    let skip = match response.status() {
        StatusCode::PARTIAL_CONTENT if offset > 0 => {
            if range_start(response.headers()) != Some(offset) {
                return Err(Error::Protocol {
                    host: host(),
                    what: format!("{what}: it answers with another range than asked for"),
                });
            }
            0
        }
        // It does not know ranges: what we have comes again.
        StatusCode::OK => offset,
        _ => return Err(refusal(&endpoint.host, &what, response, transport.options.stall).await),
    };
    let wanted = origin.descriptor.size;
    if let Some(length) = response.content_length()
        && length + (offset - skip) != wanted
    {
        return Err(Error::Size { host: host(), what, wanted, found: length + (offset - skip) });
    }
    Ok((response, skip))
}

/// Reads where a partial answer begins: `bytes 500-1499/2000`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
