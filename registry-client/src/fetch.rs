//! Downloads of plain URLs, for `ADD` and for contexts: redirects, proxies, retries, no
//! registry's rules.

use std::io::{self, Read};

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Response, Url};

use crate::client::Client;
use crate::error::{Error, Unreachable};
use crate::redact;
use crate::retry::http_date;
use crate::transport::{Ask, Transport, broken};

/// A web server that says that it is broken mostly is; registries, which limit their users, are asked more often.
const RETRIES: u32 = 2;

/// Makes requests for plain URLs.
#[derive(Debug, Clone, Copy)]
pub struct Fetch<'a> {
    client: &'a Client,
}

/// An answer, with its body still to be read.
///
/// The body is what the server sent; a `content-encoding` is not undone. Reading it gives an
/// error when the connection breaks off, or when there are more bytes than the limit.
pub struct Fetched {
    /// The HTTP status; any, also a failure.
    pub status: u16,
    /// The headers, names in lower case, in order; values that are no text are left out.
    pub headers: Vec<(String, String)>,
    client: Client,
    host: String,
    response: Option<Response>,
    chunk: Option<Box<dyn AsRef<[u8]> + Send>>,
    taken: usize,
    left: u64,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("status", &self.status).field("headers", &self.headers).finish_non_exhaustive()
    }
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Gets `url`, with `headers` sent to its own host only. At most `limit` bytes can be read.
    ///
    /// # Errors
    /// When there is no answer; a status that is a failure is an answer.
    pub fn get(&self, url: &str, headers: &[(&str, &str)], limit: u64) -> Result<Fetched, Error> {
        self.ask(Method::GET, url, headers, limit)
    }

    /// Asks for the headers only.
    ///
    /// # Errors
    /// As [`Fetch::get`].
    pub fn head(&self, url: &str, headers: &[(&str, &str)]) -> Result<Fetched, Error> {
        self.ask(Method::HEAD, url, headers, 0)
    }

    fn ask(&self, method: Method, url: &str, headers: &[(&str, &str)], limit: u64) -> Result<Fetched, Error> {
        let url = Url::parse(url).map_err(|error| Error::Name(format!("{url:?} is no URL: {error}")))?;
        let host = url.host_str().map(str::to_owned);
        let host = host.filter(|_| matches!(url.scheme(), "http" | "https"));
        let host = host.ok_or_else(|| Error::Name(format!("{} is no http or https URL", redact::shown(&url))))?;
        let transport = &self.client.transport;
        let (trust, what) = (Transport::download_trust(&url), redact::shown(&url));
        let mut ask = Ask::new(method, url, &what);
        ask.retries = RETRIES;
        ask.is_verified = true;
        for (name, value) in headers {
            let wrong = || Error::Name(format!("header {name:?} for {what} cannot be sent"));
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            ask.headers.insert(name, value);
        }
        let answer = self.client.run(transport.patient(&host, trust, &ask, None))?;
        let headers = answer.response.headers().iter();
        let headers = headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
        Ok(Fetched {
            status: answer.response.status().as_u16(),
            headers: headers.collect(),
            client: self.client.clone(),
            host,
            response: Some(answer.response),
            chunk: None,
            taken: 0,
            left: limit,
        })
    }
}

impl Fetched {
    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// Returns when the server says that the content last changed, in seconds since 1970.
    pub fn last_modified(&self) -> Option<u64> {
        http_date(self.header("last-modified")?.trim())
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.chunk = None;
        self.taken = 0;
        let Some(mut response) = self.response.take() else { return Ok(()) };
        let (host, stall) = (self.host.clone(), self.client.transport.options.stall);
        let next = self.client.run(async {
            match tokio::time::timeout(stall, response.chunk()).await {
                Ok(chunk) => chunk.map_err(|error| broken(&host, &error)),
                Err(_) => Err(Error::Unreachable { host, cause: Unreachable::Timeout(stall.as_secs()) }),
            }
        })?;
        if let Some(chunk) = next {
            let Some(left) = self.left.checked_sub(chunk.len() as u64) else {
                return Err(Error::Protocol {
                    host: self.host.clone(),
                    what: "it sends more than is allowed".to_owned(),
                });
            };
            self.left = left;
            self.chunk = Some(Box::new(chunk));
            self.response = Some(response);
        }
        Ok(())
    }
}

impl Read for Fetched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(chunk) = &self.chunk {
                let rest = &(**chunk).as_ref()[self.taken..];
                if !rest.is_empty() {
                    let n = rest.len().min(buffer.len());
                    buffer[..n].copy_from_slice(&rest[..n]);
                    self.taken += n;
                    return Ok(n);
                }
            }
            self.advance()?;
            if self.chunk.is_none() {
                return Ok(0);
            }
        }
    }
}
