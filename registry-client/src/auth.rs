//! Answering challenges: passwords, and tokens from token servers, kept per host and scope.
//!
//! A host's first challenge is remembered, so later requests come with the right header at
//! once. A token counts as used up at nine tenths of its life.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kiln_oci::base64;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::credentials::Credential;
use crate::error::Error;
use crate::host::{Host, Trust};
use crate::redact;
use crate::transport::{Ask, Transport, read_capped};

/// The shortest life a token is given, and the one of a token that does not say.
const SHORTEST_LIFE: u64 = 60;

/// The longest answer of a token server that is read.
const LONGEST_ANSWER: usize = 1 << 20;

/// Helper programs may ask a person; this is how long they may take.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);

/// How token servers know us.
const CLIENT_ID: &str = "kiln";

/// What a host demanded, and what it got.
#[derive(Default)]
pub(crate) struct Auth {
    challenge: Option<Challenge>,
    credential: Option<Option<Credential>>,
    /// By scopes.
    tokens: HashMap<String, Token>,
}

struct Token {
    header: HeaderValue,
    used_up: Instant,
}

/// The scopes of a request: one per repository, with the actions on it.
pub(crate) fn pull_scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// The scope for pushing, which contains pulling.
pub(crate) fn push_scope(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

impl Transport {
    /// Returns the header to send to `host`, as far as it is known what the host wants.
    pub(crate) async fn authorization(&self, host: &Host, scopes: &[String]) -> Result<Option<HeaderValue>, Error> {
        // Held while a token is fetched: others who want the same one wait for it.
        let mut auth = host.auth.lock().await;
        let Some(challenge) = auth.challenge.clone() else { return Ok(None) };
        let credential = match &auth.credential {
            Some(credential) => credential.clone(),
            None => {
                let credential = self.credential(&host.domain).await;
                if credential.is_some() {
                    host.set_known();
                }
                auth.credential.insert(credential).clone()
            }
        };
        match challenge {
            Challenge::Basic => match credential {
                Some(Credential::Basic { user, password }) => secret(&basic(&user, &password), host).map(Some),
                Some(Credential::Bearer(token)) => secret(&format!("Bearer {token}"), host).map(Some),
                _ => Ok(None),
            },
            Challenge::Bearer { realm, service, scope, .. } => {
                if let Some(Credential::Bearer(token)) = credential {
                    return secret(&format!("Bearer {token}"), host).map(Some);
                }
                let mut scopes = scopes.to_vec();
                if scopes.is_empty() {
                    scopes.extend(scope.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned));
                }
                scopes.sort();
                scopes.dedup();
                let key = scopes.join(" ");
                if let Some(token) = auth.tokens.get(&key)
                    && token.used_up > Instant::now()
                {
                    return Ok(Some(token.header.clone()));
                }
                let token = self.token(host, &realm, &service, &scopes, credential.as_ref()).await?;
                let header = token.header.clone();
                auth.tokens.insert(key, token);
                Ok(Some(header))
            }
        }
    }

    /// Takes note of a 401. `sent` is what was rejected.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when there is no point in trying again.
    pub(crate) async fn challenged(
        &self,
        host: &Host,
        what: &str,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
        rejections: &mut u32,
    ) -> Result<(), Error> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenge = Challenge::pick(texts);
        let refusal = |said: &str| Error::Unauthorized {
            host: host.domain.clone(),
            what: what.to_owned(),
            known: host.is_known(),
            said: redact::said(said),
        };
        let Some(challenge) = challenge else { return Err(refusal("it asks for a login of an unknown kind")) };
        let mut auth = host.auth.lock().await;
        *rejections += 1;
        if let Some(sent) = sent {
            let hopeless = match &challenge {
                Challenge::Basic => true,
                Challenge::Bearer { error, .. } => error == "insufficient_scope",
            };
            if hopeless || *rejections > 2 {
                return Err(refusal(match &challenge {
                    Challenge::Bearer { error, .. } => error,
                    Challenge::Basic => "",
                }));
            }
            auth.tokens.retain(|_, token| token.header != sent);
        } else if *rejections > 1 {
            // It was known what the host wants, and there was nothing to show.
            return Err(refusal(""));
        }
        auth.challenge = Some(challenge);
        Ok(())
    }

    async fn credential(&self, domain: &str) -> Option<Credential> {
        let (credentials, name) = (self.options.credentials.clone(), domain.to_owned());
        let asked = tokio::task::spawn_blocking(move || credentials.get(&name));
        match tokio::time::timeout(HELPER_PATIENCE, asked).await {
            Ok(Ok(credential)) => credential,
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("no credentials for {domain}: the credential helper gave no answer");
                None
            }
        }
    }

    async fn token(
        &self,
        host: &Host,
        realm: &str,
        service: &str,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> Result<Token, Error> {
        let protocol = |what: String| Error::Protocol { host: host.domain.clone(), what };
        let url = Url::parse(realm).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| protocol("its token server has no usable address".to_owned()))?;
        let trust = match self.trust(&url) {
            Trust::Verified if host.trust == Trust::Unverified && url.host_str() == host_name(host) => host.trust,
            trust => trust,
        };
        if url.scheme() == "http" && credential.is_some() && trust == Trust::Verified {
            return Err(protocol(format!("its token server {} wants a password over plain http", redact::shown(&url))));
        }
        let what = format!("a token from {}", redact::shown(&url));
        let mut answer = None;
        let form = |pairs: &[(&str, &str)]| {
            let mut form = Url::parse("form:").map_err(|error| protocol(error.to_string()))?;
            form.query_pairs_mut().extend_pairs(pairs);
            Ok::<_, Error>(form.query().unwrap_or_default().as_bytes().to_vec())
        };
        let scope = scopes.join(" ");
        let body = match credential {
            Some(Credential::Basic { user, password }) => Some(form(&[
                ("grant_type", "password"),
                ("service", service),
                ("scope", &scope),
                ("client_id", CLIENT_ID),
                ("username", user),
                ("password", password),
            ])?),
            Some(Credential::IdentityToken(token)) => Some(form(&[
                ("grant_type", "refresh_token"),
                ("service", service),
                ("scope", &scope),
                ("client_id", CLIENT_ID),
                ("refresh_token", token),
            ])?),
            _ => None,
        };
        if let Some(body) = body {
            let mut ask = Ask::new(Method::POST, url.clone(), &what);
            ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            ask.body = Some(body);
            let response = self.patient(&host.domain, trust, &ask, None).await?.response;
            // Not every token server knows this way of asking.
            let retry = matches!(response.status().as_u16(), 401 | 404 | 405);
            if !retry || !matches!(credential, Some(Credential::Basic { .. })) {
                answer = Some(response);
            }
        }
        let response = match answer {
            Some(response) => response,
            None => {
                let mut url = url;
                {
                    let mut query = url.query_pairs_mut();
                    if !service.is_empty() {
                        query.append_pair("service", service);
                    }
                    scopes.iter().for_each(|scope| {
                        query.append_pair("scope", scope);
                    });
                    query.append_pair("client_id", CLIENT_ID);
                }
                let mut ask = Ask::new(Method::GET, url, &what);
                if let Some(Credential::Basic { user, password }) = credential {
                    ask.headers.insert(AUTHORIZATION, secret(&basic(user, password), host)?);
                }
                self.patient(&host.domain, trust, &ask, None).await?.response
            }
        };
        let status = response.status();
        let bytes = read_capped(&host.domain, response, LONGEST_ANSWER, self.options.stall).await?;
        if !status.is_success() {
            let said = redact::said(&String::from_utf8_lossy(&bytes));
            let (host, what) = (host.domain.clone(), what);
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                    Error::Unauthorized { host, what, known: credential.is_some(), said }
                }
                StatusCode::TOO_MANY_REQUESTS => Error::RateLimited { host, what, said },
                status => Error::Status { host, what, status: status.as_u16(), said },
            });
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|_| protocol("its token server gave no JSON".to_owned()))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| protocol("its token server gave no token".to_owned()))?;
        let life = answer.expires_in.unwrap_or(SHORTEST_LIFE).clamp(SHORTEST_LIFE, 86400);
        Ok(Token {
            header: secret(&format!("Bearer {token}"), host)?,
            used_up: Instant::now() + Duration::from_secs(life * 9 / 10),
        })
    }
}

fn host_name(host: &Host) -> Option<&str> {
    Some(host.name.rsplit_once(':').map_or(&*host.name, |(name, _)| name))
}

/// Makes a header value that does not show in debug output.
fn secret(text: &str, host: &Host) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Protocol {
        host: host.domain.clone(),
        what: "the credentials or token for it hold characters that HTTP cannot carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the value of a header that says who we are (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::encode(format!("{user}:{password}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_encoded_as_the_standard_says() {
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
