//! Requests: one exchange, then redirects, then patience, then authorization around it.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, IF_NONE_MATCH, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use crate::client::Options;
use crate::error::{Error, Unreachable};
use crate::host::{Endpoint, Host, Trust, is_loopback};
use crate::redact;
use crate::retry::{Backoff, is_temporary, retry_after};

/// As many redirects are followed.
const REDIRECTS: u32 = 10;

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(30);

/// How long a host on this machine may take to say that it does not speak TLS.
const PROBE: Duration = Duration::from_secs(3);

/// The longest error text that is read.
const LONGEST_REFUSAL: usize = 64 << 10;

/// Everything that the clones of a client share.
pub(crate) struct Transport {
    pub options: Options,
    /// One per [`Trust`].
    clients: [OnceLock<Result<reqwest::Client, String>>; 4],
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    runtime: OnceLock<Result<Runtime, String>>,
}

/// One request.
pub(crate) struct Ask<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
    /// What is asked for, for messages.
    pub what: &'a str,
    /// It is repeated at most so often, and not more often than everything else.
    pub retries: u32,
    /// Whether every host shows a certificate, also one that need not as a registry.
    pub is_verified: bool,
}

/// A response, and whether it is from the host that was asked.
pub(crate) struct Answer {
    pub response: Response,
    pub is_direct: bool,
    /// Where it came from after redirects.
    pub url: Url,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, url: Url, what: &'a str) -> Self {
        let mut headers = HeaderMap::new();
        // Blobs must arrive as they are stored.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Self { method, url, headers, body: None, what, retries: u32::MAX, is_verified: false }
    }
}

impl Transport {
    pub(crate) fn new(options: Options) -> Self {
        Self { options, clients: Default::default(), hosts: Mutex::default(), runtime: OnceLock::new() }
    }

    /// Returns the runtime, started when it is first needed.
    pub(crate) fn runtime(&self) -> Result<&Runtime, Error> {
        let runtime = self.runtime.get_or_init(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(2).thread_name("kiln-net").enable_all().build().map_err(|error| error.to_string())
        });
        runtime.as_ref().map_err(|cause| Error::Setup(cause.clone()))
    }

    fn client(&self, trust: Trust) -> Result<&reqwest::Client, Error> {
        let client = self.clients[trust as usize].get_or_init(|| {
            // Fails only when somebody was faster, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(CONNECT)
                .pool_idle_timeout(Duration::from_secs(60))
                .http2_adaptive_window(true);
            if matches!(trust, Trust::Unverified | Trust::Loopback) {
                builder = builder.tls_danger_accept_invalid_certs(true);
            }
            if matches!(trust, Trust::Loopback | Trust::VerifiedLoopback) {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|error| innermost(&error))
        });
        client.as_ref().map_err(|cause| Error::Setup(cause.clone()))
    }

    /// Says how far the host of a download that is nobody's registry is to be trusted.
    pub(crate) fn download_trust(url: &Url) -> Trust {
        if is_loopback(url.host_str().unwrap_or_default()) { Trust::VerifiedLoopback } else { Trust::Verified }
    }

    /// Says how far a host is to be trusted.
    pub(crate) fn trust(&self, url: &Url) -> Trust {
        let host = url.host_str().unwrap_or_default();
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}")).unwrap_or_default();
        if is_loopback(host) {
            Trust::Loopback
        } else if self.options.insecure.iter().any(|name| name == host || *name == with_port) {
            Trust::Unverified
        } else {
            Trust::Verified
        }
    }

    /// Returns what is known about a host, named as in a reference.
    pub(crate) fn host(&self, domain: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(domain.to_owned()).or_insert_with(|| {
            let trust = if is_loopback(domain) {
                Trust::Loopback
            } else if self.options.insecure.iter().any(|name| name == domain) {
                Trust::Unverified
            } else {
                Trust::Verified
            };
            Arc::new(Host::new(domain, trust))
        });
        Arc::clone(host)
    }

    /// Returns where content of `domain` can be had: its mirrors in order, then itself.
    pub(crate) fn endpoints(&self, domain: &str) -> Vec<Endpoint> {
        let mirrors = self.options.mirrors.get(domain).into_iter().flatten().map(|mirror| {
            let mirror = mirror.trim_end_matches('/');
            let (host, path) = mirror.split_once('/').unwrap_or((mirror, ""));
            let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
            Endpoint { host: self.host(host), prefix, mirrored: Some(domain.to_owned()) }
        });
        let mut endpoints: Vec<_> = mirrors.filter(|mirror| !mirror.host.is_distrusted()).collect();
        endpoints.push(self.origin(domain));
        endpoints
    }

    /// Returns the registry itself, for pushing.
    pub(crate) fn origin(&self, domain: &str) -> Endpoint {
        Endpoint { host: self.host(domain), prefix: String::new(), mirrored: None }
    }

    /// Makes the URL of a path on a host, finding out first whether the host speaks TLS.
    pub(crate) async fn url(&self, host: &Host, path: &str) -> Result<Url, Error> {
        let scheme = *host.scheme.get_or_try_init(|| self.probe(host)).await?;
        make_url(scheme, host, path)
    }

    /// Asks a host that need not have TLS whether it does.
    async fn probe(&self, host: &Host) -> Result<&'static str, Error> {
        let url = make_url("https", host, "/v2/")?;
        let has_port = url.port().is_some();
        let ask = Ask::new(Method::GET, url, &host.domain);
        match tokio::time::timeout(PROBE, self.once(&host.domain, host.trust, &ask, None, None)).await {
            Ok(Ok(_)) => Ok("https"),
            Ok(Err(error @ Error::Unreachable { cause: Unreachable::Dns, .. })) => Err(error),
            Ok(Err(error @ Error::Unreachable { cause: Unreachable::Refused, .. })) if has_port => Err(error),
            _ => {
                tracing::debug!("{} does not speak TLS: using plain http", host.name);
                Ok("http")
            }
        }
    }

    /// Asks `host`, with what it wants to see, until there is an answer that another try would
    /// not change.
    pub(crate) async fn exchange(&self, host: &Host, scopes: &[String], ask: &Ask<'_>) -> Result<Answer, Error> {
        let mut rejections = 0;
        loop {
            let header = self.authorization(host, scopes).await?;
            let answer = self.patient(&host.domain, host.trust, ask, header.as_ref()).await?;
            if !(answer.is_direct && answer.response.status() == StatusCode::UNAUTHORIZED) {
                return Ok(answer);
            }
            self.challenged(host, ask.what, answer.response.headers(), header.as_ref(), &mut rejections).await?;
        }
    }

    /// Asks until there is an answer that is not a passing failure, or patience ends.
    pub(crate) async fn patient(
        &self,
        name: &str,
        trust: Trust,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Error> {
        let mut backoff = Backoff::new(self.options.backoff, self.options.retries.min(ask.retries));
        let mut unreachable = Backoff::new(self.options.backoff, 1);
        loop {
            let result = self.follow(name, trust, ask, authorization).await;
            let wait = match &result {
                Ok(answer) if is_temporary(answer.response.status()) => {
                    let asked = answer.response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                    backoff.wait(asked.and_then(|text| retry_after(text, SystemTime::now())))
                }
                Err(Error::Unreachable { cause: Unreachable::Refused | Unreachable::Dns, .. }) => {
                    unreachable.wait(None)
                }
                Err(Error::Unreachable { cause: Unreachable::Tls(_), .. }) => None,
                Err(Error::Unreachable { .. }) => backoff.wait(None),
                _ => None,
            };
            let Some(wait) = wait else { return result };
            match &result {
                Ok(answer) => tracing::debug!("{name} answered {}: trying again", answer.response.status()),
                Err(error) => tracing::debug!("{error}: trying again"),
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks, and goes where the answer points.
    async fn follow(
        &self,
        name: &str,
        trust: Trust,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Error> {
        let response = self.once(name, trust, ask, authorization, None).await?;
        let mut answer = Answer { response, is_direct: true, url: ask.url.clone() };
        let mut headers = ask.headers.clone();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        for _ in 0..REDIRECTS {
            let redirects = matches!(answer.response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirects || !matches!(ask.method, Method::GET | Method::HEAD) {
                return Ok(answer);
            }
            let protocol =
                |what: &str| Error::Protocol { host: name.to_owned(), what: format!("{}: {what}", ask.what) };
            let location = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| protocol("it redirects to nowhere"))?;
            let url = answer.url.join(location).map_err(|_| protocol("it redirects to an address that is none"))?;
            let next_trust = if ask.is_verified { Self::download_trust(&url) } else { self.trust(&url) };
            match url.scheme() {
                "https" => {}
                "http" if answer.url.scheme() == "http" || next_trust != Trust::Verified => {}
                "http" => return Err(protocol("it redirects from https to plain http")),
                _ => return Err(protocol("it redirects to something that is not HTTP")),
            }
            let same = url.origin() == answer.url.origin();
            if !same {
                headers = only_public(&headers);
            }
            let next_trust = if same { trust } else { next_trust };
            let hop = Ask {
                method: ask.method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                body: None,
                what: ask.what,
                retries: ask.retries,
                is_verified: ask.is_verified,
            };
            let shown = if same { name.to_owned() } else { authority(&url) };
            let response = self.once(&shown, next_trust, &hop, None, None).await?;
            answer = Answer { response, is_direct: same && answer.is_direct, url };
        }
        Err(Error::Protocol { host: name.to_owned(), what: format!("{}: it redirects in circles", ask.what) })
    }

    /// Makes one exchange. `stream` is sent as the body, where it is given.
    pub(crate) async fn once(
        &self,
        name: &str,
        trust: Trust,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
        stream: Option<Body>,
    ) -> Result<Response, Error> {
        let mut request = self.client(trust)?.request(ask.method.clone(), ask.url.clone()).headers(ask.headers.clone());
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let is_stream = stream.is_some();
        if let Some(body) = stream.or_else(|| ask.body.clone().map(Body::from)) {
            request = request.body(body);
        }
        let sending = request.send();
        // Whoever streams a body watches its progress.
        let result = if is_stream {
            sending.await
        } else {
            let timeout = || unreachable(name, Unreachable::Timeout(self.options.stall.as_secs()));
            tokio::time::timeout(self.options.stall, sending).await.map_err(|_| timeout())?
        };
        result.map_err(|error| broken(name, &error))
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        // Not waiting: a credential helper may still be asking its user.
        if let Some(Ok(runtime)) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn make_url(scheme: &str, host: &Host, path: &str) -> Result<Url, Error> {
    let text = format!("{scheme}://{}{path}", host.name);
    Url::parse(&text).map_err(|error| Error::Name(format!("{} is no host: {error}", host.domain)))
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Keeps the headers that another host may see.
fn only_public(headers: &HeaderMap) -> HeaderMap {
    let mut public = HeaderMap::new();
    for name in [ACCEPT, ACCEPT_ENCODING, RANGE, IF_NONE_MATCH] {
        for value in headers.get_all(&name) {
            public.append(name.clone(), value.clone());
        }
    }
    public
}

fn unreachable(name: &str, cause: Unreachable) -> Error {
    Error::Unreachable { host: name.to_owned(), cause }
}

/// Finds the cause in what the HTTP library reports.
pub(crate) fn broken(name: &str, error: &reqwest::Error) -> Error {
    if error.is_timeout() {
        return unreachable(name, Unreachable::Timeout(CONNECT.as_secs()));
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return unreachable(name, Unreachable::Tls(tls.to_string()));
        }
        if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            return unreachable(name, Unreachable::Refused);
        }
        if cause.to_string().starts_with("dns error") {
            return unreachable(name, Unreachable::Dns);
        }
        // An `io::Error` is not the source of what it wraps, but passes over it; some wrap another.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map_or_else(|| cause.source(), |inner| Some(inner));
    }
    // The error itself would print the whole URL.
    let cause = error.source().map_or_else(|| "the request failed".to_owned(), innermost);
    unreachable(name, Unreachable::Broken(cause))
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Reads a body of at most `limit` bytes; no pause may be longer than `stall`.
pub(crate) async fn read_capped(
    name: &str,
    mut response: Response,
    limit: usize,
    stall: Duration,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::time::timeout(stall, response.chunk()).await;
        let chunk = chunk.map_err(|_| unreachable(name, Unreachable::Timeout(stall.as_secs())))?;
        let Some(chunk) = chunk.map_err(|error| broken(name, &error))? else { return Ok(bytes) };
        if bytes.len() + chunk.len() > limit {
            let what = format!("its answer is longer than {limit} bytes");
            return Err(Error::Protocol { host: name.to_owned(), what });
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// Makes an error of a response that is no success.
pub(crate) async fn refusal(host: &Host, what: &str, response: Response, stall: Duration) -> Error {
    let status = response.status();
    let limits = response.headers().clone();
    let body = read_capped(&host.domain, response, LONGEST_REFUSAL, stall).await.unwrap_or_default();
    let mut said = explain(&body);
    let (host_name, what) = (host.domain.clone(), what.to_owned());
    match status.as_u16() {
        404 => Error::NotFound(what),
        401 | 403 => Error::Unauthorized { host: host_name, what, known: host.is_known(), said: redact::said(&said) },
        429 => {
            for name in ["ratelimit-limit", "ratelimit-remaining"] {
                if let Some(value) = limits.get(name).and_then(|value| value.to_str().ok()) {
                    said.push_str(&format!(" ({name} {value})"));
                }
            }
            Error::RateLimited { host: host_name, what, said: redact::said(&said) }
        }
        status => Error::Status { host: host_name, what, status, said: redact::said(&said) },
    }
}

/// Reads codes and messages of a registry's error document; other bodies are not repeated.
fn explain(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else { return String::new() };
    let texts: Vec<_> = refusal.errors.iter().map(|entry| format!("{} {}", entry.code, entry.message)).collect();
    texts.join("; ")
}
