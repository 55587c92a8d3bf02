//! Pushing: blobs first, then what refers to them.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use kiln_oci::{Descriptor, Digest};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};

use crate::auth::{pull_scope, push_scope};
use crate::body::{Progress, body, patience};
use crate::client::{Client, Repository};
use crate::error::{Error, Unreachable};
use crate::host::Endpoint;
use crate::redact;
use crate::resolve::digest_header;
use crate::retry::{Backoff, is_temporary};
use crate::transport::{Ask, Transport, refusal};

/// Opens a blob to be pushed; called again for each try.
pub type Open<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync);

/// How a blob came into a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry linked it from another repository of its own.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// How often a watched upload looks at its progress.
const LOOK: Duration = Duration::from_millis(50);

/// Whether the registry has a blob.
pub(crate) async fn has_blob(
    transport: &Transport,
    repository: &Repository,
    descriptor: &Descriptor,
) -> Result<bool, Error> {
    exists(transport, repository, descriptor, pull_scope(&repository.path)).await
}

async fn exists(
    transport: &Transport,
    repository: &Repository,
    descriptor: &Descriptor,
    scope: String,
) -> Result<bool, Error> {
    let endpoint = transport.origin(&repository.domain);
    let what = what(repository, descriptor);
    let path = endpoint.path(&repository.path, &format!("blobs/{}", descriptor.digest));
    let ask = Ask::new(Method::HEAD, transport.url(&endpoint.host, &path).await?, &what);
    let response = transport.exchange(&endpoint.host, &[scope], &ask).await?.response;
    match response.status() {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(refusal(&endpoint.host, &what, response, transport.options.stall).await),
    }
}

/// Brings a blob into a repository.
pub(crate) fn blob(
    client: &Client,
    repository: &Repository,
    descriptor: &Descriptor,
    open: Open<'_>,
    mount_from: &[String],
    progress: &dyn Fn(u64),
) -> Result<Pushed, Error> {
    let transport = &client.transport;
    let endpoint = transport.origin(&repository.domain);
    let push = Push { transport, endpoint, repository, descriptor, what: what(repository, descriptor) };
    // A closed semaphore would only mean no limit.
    let uploads = push.endpoint.host.uploads.clone();
    let _turn = client.run(async { Ok(uploads.acquire_owned().await.ok()) })?;
    let mut session = match client.run(push.begin(mount_from))? {
        Begun::Done(pushed) => return Ok(pushed),
        Begun::Session(url) => url,
    };
    let mut backoff = Backoff::new(transport.options.backoff, transport.options.retries);
    loop {
        // Outside of the runtime: the reader may itself be a stream of this client.
        let counter = Progress::default();
        let stream = open().and_then(|reader| body(reader, descriptor.size, &counter));
        let stream = stream.map_err(|error| push.local(&error))?;
        // A failed upload is not continued: what the registry got of it is known to nobody.
        let wait = match client.run(push.upload(session, stream, &counter, progress)) {
            Ok(Sent::Done) => return Ok(Pushed::Uploaded),
            Ok(Sent::Again(error)) | Err(error @ Error::Unreachable { .. }) => match backoff.wait(None) {
                Some(wait) => {
                    tracing::debug!("{error}: uploading again");
                    wait
                }
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        session = client.run(async {
            tokio::time::sleep(wait).await;
            push.start().await
        })?;
    }
}

/// Whether `tag` names a manifest, or without one whether it is there under its digest.
pub(crate) async fn has_manifest(
    transport: &Transport,
    repository: &Repository,
    tag: Option<&str>,
    descriptor: &Descriptor,
) -> Result<bool, Error> {
    let place = Place::new(transport, repository, tag, &descriptor.digest);
    let mut ask = place.ask(transport, Method::HEAD).await?;
    ask.headers.insert(ACCEPT, typed(&descriptor.media_type)?);
    let response = transport.exchange(&place.endpoint.host, &[push_scope(&repository.path)], &ask).await?.response;
    // Whoever may not look may still be allowed to write, and hears the reason then.
    Ok(response.status() == StatusCode::OK && digest_header(response.headers()) == Some(descriptor.digest))
}

/// Puts a manifest.
pub(crate) async fn manifest(
    transport: &Transport,
    repository: &Repository,
    tag: Option<&str>,
    media_type: &str,
    bytes: &[u8],
) -> Result<Digest, Error> {
    let digest = Digest::of(bytes);
    let place = Place::new(transport, repository, tag, &digest);
    let host = &place.endpoint.host;
    let mut ask = place.ask(transport, Method::PUT).await?;
    ask.headers.insert(CONTENT_TYPE, typed(media_type)?);
    ask.body = Some(bytes.to_vec());
    let response = transport.exchange(host, &[push_scope(&repository.path)], &ask).await?.response;
    if !response.status().is_success() {
        let what = format!("cannot push {}", place.what);
        return Err(refusal(host, &what, response, transport.options.stall).await);
    }
    match digest_header(response.headers()) {
        Some(found) if found != digest => {
            Err(Error::Digest { host: host.domain.clone(), what: place.what, wanted: digest, found })
        }
        _ => Ok(digest),
    }
}

/// Where a manifest goes.
struct Place {
    endpoint: Endpoint,
    path: String,
    what: String,
}

impl Place {
    fn new(transport: &Transport, repository: &Repository, tag: Option<&str>, digest: &Digest) -> Self {
        let endpoint = transport.origin(&repository.domain);
        let (name, what) = match tag {
            Some(tag) => (tag.to_owned(), format!("{repository}:{tag}")),
            None => (digest.to_string(), format!("{repository}@{digest}")),
        };
        Self { path: endpoint.path(&repository.path, &format!("manifests/{name}")), endpoint, what }
    }

    async fn ask(&self, transport: &Transport, method: Method) -> Result<Ask<'_>, Error> {
        Ok(Ask::new(method, transport.url(&self.endpoint.host, &self.path).await?, &self.what))
    }
}

fn typed(media_type: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(media_type).map_err(|_| Error::Name(format!("{media_type:?} is no media type")))
}

fn what(repository: &Repository, descriptor: &Descriptor) -> String {
    format!("{repository}@{}", descriptor.digest)
}

/// Picks the repository whose path begins most like ours; it is the likeliest to be readable.
fn nearest<'a>(sources: &'a [String], target: &str) -> Option<&'a str> {
    let shared = |source: &str| source.split('/').zip(target.split('/')).take_while(|(a, b)| a == b).count();
    sources.iter().map(|source| &**source).filter(|source| *source != target).max_by_key(|source| shared(source))
}

/// One blob on its way.
struct Push<'a> {
    transport: &'a Transport,
    endpoint: Endpoint,
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    what: String,
}

/// How a push begins.
enum Begun {
    /// There is nothing to send.
    Done(Pushed),
    /// An upload is open.
    Session(Url),
}

enum Sent {
    Done,
    /// Failed in a way that may pass.
    Again(Error),
}

impl Push<'_> {
    async fn begin(&self, mount_from: &[String]) -> Result<Begun, Error> {
        if exists(self.transport, self.repository, self.descriptor, push_scope(&self.repository.path)).await? {
            return Ok(Begun::Done(Pushed::Existed));
        }
        if let Some(source) = nearest(mount_from, &self.repository.path)
            && let Some(begun) = self.mount(source).await?
        {
            return Ok(begun);
        }
        self.start().await.map(Begun::Session)
    }

    /// Asks for the blob of another repository. The registry may open an upload instead, or
    /// refuse.
    async fn mount(&self, source: &str) -> Result<Option<Begun>, Error> {
        let scopes = [push_scope(&self.repository.path), pull_scope(source)];
        let rest = format!("blobs/uploads/?mount={}&from={source}", self.descriptor.digest);
        let response = match self.post(&rest, &scopes).await {
            Err(Error::Unauthorized { .. }) => return Ok(None),
            response => response?,
        };
        Ok(match response.status() {
            StatusCode::CREATED => Some(Begun::Done(Pushed::Mounted)),
            StatusCode::ACCEPTED => Some(Begun::Session(self.location(&response)?)),
            _ => None,
        })
    }

    async fn start(&self) -> Result<Url, Error> {
        let response = self.post("blobs/uploads/", &[push_scope(&self.repository.path)]).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(response).await);
        }
        self.location(&response)
    }

    async fn post(&self, rest: &str, scopes: &[String]) -> Result<Response, Error> {
        let path = self.endpoint.path(&self.repository.path, rest);
        let mut ask = Ask::new(Method::POST, self.transport.url(&self.endpoint.host, &path).await?, &self.what);
        ask.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        Ok(self.transport.exchange(&self.endpoint.host, scopes, &ask).await?.response)
    }

    /// Reads where to upload to: absolute or relative, and with parameters that must stay.
    fn location(&self, response: &Response) -> Result<Url, Error> {
        let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let mut url = text
            .and_then(|text| response.url().join(text).ok())
            .ok_or_else(|| self.protocol("it opens an upload without saying where"))?;
        let asked = response.url();
        if asked.scheme() == "https" && url.scheme() == "http" && url.host_str() == asked.host_str() {
            // Registries behind a proxy that adds TLS often do not know about it.
            let port = asked.port();
            if url.set_scheme("https").is_err() || url.set_port(port).is_err() {
                return Err(self.protocol("it opens an upload at an address that is none"));
            }
        }
        match url.scheme() {
            "https" | "http" if url.scheme() == asked.scheme() || url.scheme() == "https" => Ok(url),
            _ => Err(self.protocol("it opens an upload at an address that is not as safe as its own")),
        }
    }

    async fn upload(
        &self,
        mut url: Url,
        stream: Body,
        counter: &Progress,
        progress: &dyn Fn(u64),
    ) -> Result<Sent, Error> {
        url.query_pairs_mut().append_pair("digest", &self.descriptor.digest.to_string());
        let own = self.transport.url(&self.endpoint.host, "/").await?;
        let is_own = own.origin() == url.origin();
        let trust = if is_own { self.endpoint.host.trust } else { self.transport.trust(&url) };
        let scopes = [push_scope(&self.repository.path)];
        let authorization = match is_own {
            true => self.transport.authorization(&self.endpoint.host, &scopes).await?,
            false => None,
        };
        let size = self.descriptor.size;
        let name = if is_own { self.endpoint.host.domain.clone() } else { redact::shown(&url) };
        let mut ask = Ask::new(Method::PUT, url, &self.what);
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ask.headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        let sending = self.transport.once(&name, trust, &ask, authorization.as_ref(), Some(stream));
        let result = self.watch(sending, counter, progress).await;
        if let Some(error) = counter.failure() {
            return Err(self.local(&error));
        }
        let response = result?;
        let status = response.status();
        match status.as_u16() {
            200 | 201 | 202 | 204 => {}
            401 if is_own => {
                // The token ran out on the way.
                let mut rejections = 1;
                let (host, headers) = (&self.endpoint.host, response.headers());
                self.transport.challenged(host, &self.what, headers, authorization.as_ref(), &mut rejections).await?;
                return Ok(Sent::Again(self.refused(response).await));
            }
            404 => return Ok(Sent::Again(self.refused(response).await)),
            _ if is_temporary(status) => return Ok(Sent::Again(self.refused(response).await)),
            _ => return Err(self.refused(response).await),
        }
        match digest_header(response.headers()) {
            Some(found) if found != self.descriptor.digest => {
                Err(Error::Digest { host: name, what: self.what.clone(), wanted: self.descriptor.digest, found })
            }
            _ => {
                progress(size);
                Ok(Sent::Done)
            }
        }
    }

    /// Reports progress while `sending`, and ends it when there is none for too long.
    async fn watch(
        &self,
        sending: impl Future<Output = Result<Response, Error>>,
        counter: &Progress,
        progress: &dyn Fn(u64),
    ) -> Result<Response, Error> {
        let mut sending = std::pin::pin!(sending);
        let (mut sent, mut since) = (0, Instant::now());
        let patience = patience(self.descriptor.size, self.transport.options.stall);
        loop {
            if let Ok(result) = tokio::time::timeout(LOOK, &mut sending).await {
                return result;
            }
            if counter.sent() != sent {
                (sent, since) = (counter.sent(), Instant::now());
                progress(sent);
            } else if since.elapsed() > patience {
                let cause = Unreachable::Timeout(patience.as_secs());
                return Err(Error::Unreachable { host: self.endpoint.host.domain.clone(), cause });
            }
        }
    }

    fn local(&self, error: &io::Error) -> Error {
        Error::Local { what: self.descriptor.digest.to_string(), cause: error.to_string() }
    }

    fn protocol(&self, problem: &str) -> Error {
        Error::Protocol { host: self.endpoint.host.domain.clone(), what: format!("{}: {problem}", self.what) }
    }

    async fn refused(&self, response: Response) -> Error {
        let what = format!("cannot push {}", self.what);
        refusal(&self.endpoint.host, &what, response, self.transport.options.stall).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_mounted_from_first() {
        let sources = ["other/x".to_owned(), "team/base".to_owned(), "team/app".to_owned()];
        assert_eq!(nearest(&sources, "team/app"), Some("team/base"));
        assert_eq!(nearest(&sources[2..], "team/app"), None);
    }
}
