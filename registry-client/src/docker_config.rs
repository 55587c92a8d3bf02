//! Credentials as `docker login` leaves them: `config.json`, and the helper programs it names.
//!
//! `$DOCKER_AUTH_CONFIG` holds the same JSON and comes first; then `$DOCKER_CONFIG/config.json`
//! or `~/.docker/config.json`. Read once, when the first registry asks.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;

use crate::{Credential, Credentials};

/// What helpers said is believed this long.
const REMEMBERED: Duration = Duration::from_secs(290);

/// Under which names docker.io stands in the file, the usual one first.
const HUB_KEYS: [&str; 4] = ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"];

/// The credentials of Docker's configuration.
#[derive(Debug, Default)]
pub struct DockerConfig {
    /// Instead of the usual places.
    path: Option<PathBuf>,
    documents: OnceLock<Vec<Vec<u8>>>,
    remembered: Mutex<HashMap<String, (Instant, Option<Credential>)>>,
}

impl DockerConfig {
    /// Uses the user's own configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses the configuration at `path`, and nothing from the environment.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    fn documents(&self) -> &[Vec<u8>] {
        self.documents.get_or_init(|| {
            let mut documents = Vec::new();
            let path = match &self.path {
                Some(path) => Some(path.clone()),
                None => {
                    documents.extend(std::env::var("DOCKER_AUTH_CONFIG").ok().map(String::into_bytes));
                    let folder =
                        std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
                    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
                    folder.or_else(home).map(|folder| folder.join("config.json"))
                }
            };
            if let Some(path) = path {
                match std::fs::read(&path) {
                    Ok(bytes) => documents.push(bytes),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => tracing::warn!("cannot read credentials at {}: {error}", path.display()),
                }
            }
            documents
        })
    }

    /// Returns the proxies that every build is to use, as `proxies.default` of the file has them: build arguments by their
    /// names, in both cases.
    pub fn proxies(&self) -> BTreeMap<String, String> {
        let read = |document: &Vec<u8>| serde_json::from_slice::<WithProxies>(document).ok()?.proxies.remove("default");
        let found = self.documents().iter().find_map(read).unwrap_or_default();
        let named = [
            ("HTTP_PROXY", found.http),
            ("HTTPS_PROXY", found.https),
            ("FTP_PROXY", found.ftp),
            ("NO_PROXY", found.no),
            ("ALL_PROXY", found.all),
        ];
        let given = named.into_iter().filter(|(_, value)| !value.is_empty());
        given.flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_lowercase(), value)]).collect()
    }

    fn look_up(&self, host: &str) -> Option<Credential> {
        let own = [host];
        let keys: &[&str] = if host == "docker.io" { &HUB_KEYS } else { &own };
        self.documents().iter().find_map(|document| keys.iter().find_map(|key| read(document, key, host)))
    }
}

impl Credentials for DockerConfig {
    fn get(&self, host: &str) -> Option<Credential> {
        let remembered = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, credential)) = remembered().get(host)
            && when.elapsed() < REMEMBERED
        {
            return credential.clone();
        }
        let credential = self.look_up(host);
        remembered().insert(host.to_owned(), (Instant::now(), credential.clone()));
        credential
    }
}

/// The part of the file that is about proxies.
#[derive(Deserialize)]
struct WithProxies {
    #[serde(default)]
    proxies: BTreeMap<String, Proxies>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Proxies {
    #[serde(rename = "httpProxy")]
    http: String,
    #[serde(rename = "httpsProxy")]
    https: String,
    #[serde(rename = "ftpProxy")]
    ftp: String,
    #[serde(rename = "noProxy")]
    no: String,
    #[serde(rename = "allProxy")]
    all: String,
}

/// A member that the credential crate does not know: a token to be sent as it is.
#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    auths: BTreeMap<String, TokenEntry>,
}

#[derive(Deserialize)]
struct TokenEntry {
    registrytoken: Option<String>,
}

fn read(document: &[u8], key: &str, host: &str) -> Option<Credential> {
    let tokens: Option<Tokens> = serde_json::from_slice(document).ok();
    let token = tokens.and_then(|mut tokens| tokens.auths.remove(key)?.registrytoken);
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        return Some(Credential::Bearer(token));
    }
    match docker_credential::get_credential_from_reader(document, key) {
        Ok(DockerCredential::IdentityToken(token)) => Some(Credential::IdentityToken(token)),
        Ok(DockerCredential::UsernamePassword(user, secret)) if user == "<token>" => {
            Some(Credential::IdentityToken(secret))
        }
        Ok(DockerCredential::UsernamePassword(user, password)) if user.is_empty() && password.is_empty() => None,
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Some(Credential::Basic { user, password: password.trim_end_matches('\0').to_owned() })
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => None,
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found in native keychain") =>
        {
            None
        }
        Err(CredentialRetrievalError::HelperFailure { helper, stdout, .. }) => {
            tracing::warn!("{helper} has no credentials for {host}{}", crate::redact::said(&stdout));
            None
        }
        Err(error) => {
            tracing::warn!("cannot read the credentials for {host}: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(json: &str, host: &str) -> Option<Credential> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        DockerConfig::at(path).get(host)
    }

    fn basic(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic { user: user.into(), password: password.into() })
    }

    #[test]
    fn the_hub_stands_under_its_old_address() {
        let json = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6cGE6c3M="}}}"#;
        assert_eq!(look_up(json, "docker.io"), basic("me", "pa:ss"));
        assert_eq!(look_up(json, "ghcr.io"), None);
    }

    #[test]
    fn tokens_are_told_apart() {
        let json = r#"{"auths":{"a.io":{"registrytoken":"t"},"b.io":{"auth":"bWU6eA==","identitytoken":"i"},"c.io:5000":{"auth":"bWU6eA=="}}}"#;
        assert_eq!(look_up(json, "a.io"), Some(Credential::Bearer("t".into())));
        assert_eq!(look_up(json, "b.io"), Some(Credential::IdentityToken("i".into())));
        assert_eq!(look_up(json, "c.io:5000"), basic("me", "x"));
        assert_eq!(look_up(json, "c.io"), None);
    }

    #[test]
    fn damage_is_nobody() {
        for json in ["", "{", "[]", r#"{"auths":{"a.io":{"auth":"%%%"}}}"#, r#"{"credsStore":"no-such-helper"}"#] {
            assert_eq!(look_up(json, "a.io"), None, "{json}");
        }
    }
}
