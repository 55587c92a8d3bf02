//! From a name to bytes: manifests and indexes.

use kiln_oci::{Descriptor, Digest, Document, Reference, ReferenceDigest, media_type};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use crate::auth::pull_scope;
use crate::client::Repository;
use crate::error::Error;
use crate::host::Endpoint;
use crate::transport::{Ask, Transport, read_capped, refusal};

/// The longest manifest that is read; registries need not take longer ones.
const LONGEST_MANIFEST: usize = 4 << 20;

/// Everything we understand, and then everything: without the index types, registries answer
/// with one platform of their own choice.
const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

/// A manifest or index, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes, exactly as the registry has them.
    pub bytes: Vec<u8>,
}

/// Fetches what `reference` names.
pub(crate) async fn resolve(transport: &Transport, reference: &Reference) -> Result<Resolved, Error> {
    let reference = reference.with_default_tag();
    let wanted = pinned(&reference)?;
    let what = reference.to_string();
    let repository = Repository::from(&reference);
    first_good(transport, &repository.domain, async |endpoint| {
        let name = match wanted {
            Some(digest) => digest.to_string(),
            None => reference.tag.clone().unwrap_or_default(),
        };
        let response = get(transport, &endpoint, &repository, Method::GET, &name, wanted.is_some(), &what).await?;
        let announced = content_type(response.headers());
        let header = digest_header(response.headers());
        let stall = transport.options.stall;
        let bytes = read_capped(&endpoint.host.domain, response, LONGEST_MANIFEST, stall).await?;
        check(&endpoint, &what, wanted.or(header), &bytes)?;
        let media_type = document_type(&endpoint, &what, &bytes, announced.as_deref())?;
        Ok(Resolved { descriptor: Descriptor::of(media_type, &bytes), bytes })
    })
    .await
}

/// Asks for type, digest and size only.
pub(crate) async fn head(transport: &Transport, reference: &Reference) -> Result<Descriptor, Error> {
    let reference = reference.with_default_tag();
    let wanted = pinned(&reference)?;
    let what = reference.to_string();
    let repository = Repository::from(&reference);
    let answer = first_good(transport, &repository.domain, async |endpoint| {
        let name = match wanted {
            Some(digest) => digest.to_string(),
            None => reference.tag.clone().unwrap_or_default(),
        };
        let path = endpoint.path(&repository.path, &format!("manifests/{name}"));
        let response = send(transport, &endpoint, &repository, Method::HEAD, &path, &what).await?;
        let headers = response.headers();
        let size = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let kind = content_type(headers).filter(|kind| media_type::is_index(kind) || media_type::is_manifest(kind));
        let (digest, status) = (digest_header(headers).or(wanted), response.status());
        if wanted.is_some() && digest != wanted {
            return Err(protocol(&endpoint, &what, "it answers with another digest than asked for"));
        }
        Ok(match (kind, digest, size) {
            (Some(kind), Some(digest), Some(size)) if status.is_success() => Some(Descriptor::new(kind, digest, size)),
            _ if status == StatusCode::NOT_FOUND => return Err(Error::NotFound(what.clone())),
            // Some registries say no word about refusals, or nothing at all, to HEAD.
            _ => None,
        })
    })
    .await?;
    match answer {
        Some(descriptor) => Ok(descriptor),
        None => Ok(resolve(transport, &reference).await?.descriptor),
    }
}

/// Fetches a manifest by its descriptor.
pub(crate) async fn manifest(
    transport: &Transport,
    repository: &Repository,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, Error> {
    let what = format!("{repository}@{}", descriptor.digest);
    if descriptor.size > LONGEST_MANIFEST as u64 {
        return Err(Error::Name(format!("{what} has {} bytes, too many for a manifest", descriptor.size)));
    }
    first_good(transport, &repository.domain, async |endpoint| {
        let name = descriptor.digest.to_string();
        let response = get(transport, &endpoint, repository, Method::GET, &name, true, &what).await?;
        let stall = transport.options.stall;
        let bytes = read_capped(&endpoint.host.domain, response, LONGEST_MANIFEST, stall).await?;
        if bytes.len() as u64 != descriptor.size {
            let (host, what) = (endpoint.host.domain.clone(), what.clone());
            return Err(Error::Size { host, what, wanted: descriptor.size, found: bytes.len() as u64 });
        }
        check(&endpoint, &what, Some(descriptor.digest), &bytes)?;
        Ok(bytes)
    })
    .await
}

/// Tries the mirrors in order and then the registry. What the registry itself says counts.
pub(crate) async fn first_good<T>(
    transport: &Transport,
    domain: &str,
    attempt: impl AsyncFn(Endpoint) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut endpoints = transport.endpoints(domain).into_iter().peekable();
    while let Some(endpoint) = endpoints.next() {
        match attempt(endpoint).await {
            Err(error) if endpoints.peek().is_some() && error.is_about_the_host() => {
                tracing::debug!("{error}: trying the next host");
            }
            result => return result,
        }
    }
    Err(Error::Name(format!("{domain} is no registry")))
}

/// Returns the sha256 a reference is pinned to; other algorithms cannot be checked.
fn pinned(reference: &Reference) -> Result<Option<Digest>, Error> {
    match &reference.digest {
        Some(ReferenceDigest::Other(text)) => Err(Error::Name(format!(
            "cannot fetch {}: only sha256 digests can be checked, not {text}",
            reference.name()
        ))),
        Some(ReferenceDigest::Sha256(digest)) => Ok(Some(*digest)),
        None => Ok(None),
    }
}

async fn get(
    transport: &Transport,
    endpoint: &Endpoint,
    repository: &Repository,
    method: Method,
    name: &str,
    is_digest: bool,
    what: &str,
) -> Result<Response, Error> {
    let path = endpoint.path(&repository.path, &format!("manifests/{name}"));
    let mut response = send(transport, endpoint, repository, method.clone(), &path, what).await?;
    if is_digest && response.status() == StatusCode::NOT_FOUND {
        // Caches and old registries have manifests only among the blobs.
        let path = endpoint.path(&repository.path, &format!("blobs/{name}"));
        response = send(transport, endpoint, repository, method, &path, what).await?;
    }
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    Err(refusal(&endpoint.host, what, response, transport.options.stall).await)
}

async fn send(
    transport: &Transport,
    endpoint: &Endpoint,
    repository: &Repository,
    method: Method,
    path: &str,
    what: &str,
) -> Result<Response, Error> {
    let mut ask = Ask::new(method, transport.url(&endpoint.host, path).await?, what);
    ask.headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
    Ok(transport.exchange(&endpoint.host, &[pull_scope(&repository.path)], &ask).await?.response)
}

fn check(endpoint: &Endpoint, what: &str, wanted: Option<Digest>, bytes: &[u8]) -> Result<(), Error> {
    let found = Digest::of(bytes);
    match wanted {
        Some(wanted) if wanted != found => {
            if endpoint.mirrored.is_some() {
                endpoint.host.distrust();
            }
            Err(Error::Digest { host: endpoint.host.domain.clone(), what: what.to_owned(), wanted, found })
        }
        _ => Ok(()),
    }
}

/// Decides what a document is; header and document must not disagree.
fn document_type(endpoint: &Endpoint, what: &str, bytes: &[u8], announced: Option<&str>) -> Result<String, Error> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Inside {
        media_type: Option<String>,
    }
    let document = Document::parse(bytes, announced).map_err(|error| protocol(endpoint, what, &error.to_string()))?;
    let known = |text: &str| media_type::is_index(text) || media_type::is_manifest(text);
    let inside = serde_json::from_slice::<Inside>(bytes).ok().and_then(|inside| inside.media_type);
    let named = inside.or_else(|| announced.map(str::to_owned)).filter(|text| known(text));
    Ok(named.unwrap_or_else(|| {
        match document {
            Document::Manifest(_) => media_type::MANIFEST,
            Document::Index(_) => media_type::INDEX,
        }
        .to_owned()
    }))
}

fn protocol(endpoint: &Endpoint, what: &str, problem: &str) -> Error {
    Error::Protocol { host: endpoint.host.domain.clone(), what: format!("{what}: {problem}") }
}

/// Returns the media type of a response, without parameters.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Returns the digest that a registry claims.
pub(crate) fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.trim().parse().ok()
}
