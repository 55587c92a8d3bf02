//! The client against a registry that misbehaves on demand, and against a real one.

mod auth;
mod fetch;
mod pull;
mod push;
mod real;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use kiln_oci::{Descriptor, Reference, media_type};
use kiln_registry_client::{Client, Credential, Credentials, Error, Options, Repository};
use kiln_testkit::registry::Registry;

/// How late a busy machine may notice something.
const LATE: Duration = Duration::from_secs(3);

/// Options that repeat at once.
fn hasty() -> Options {
    Options { backoff: Duration::from_millis(5), ..Options::default() }
}

/// A client that does not wait long for silent servers.
fn impatient() -> Client {
    Client::new(Options { stall: Duration::from_millis(800), ..hasty() })
}

fn client() -> Client {
    Client::new(hasty())
}

/// One user for everybody.
struct Somebody(Option<Credential>);

impl Credentials for Somebody {
    fn get(&self, _host: &str) -> Option<Credential> {
        self.0.clone()
    }
}

fn client_as(user: &str, password: &str) -> Client {
    let credential = Credential::Basic { user: user.into(), password: password.into() };
    Client::new(Options { credentials: Arc::new(Somebody(Some(credential))), ..hasty() })
}

fn reference(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.address()).parse().expect("a reference")
}

fn repository(registry: &Registry, path: &str) -> Repository {
    Repository { domain: registry.address(), path: path.into() }
}

/// Bytes that repeat nowhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// Puts an image of one layer and returns its manifest's and its layer's descriptors.
fn put_image(registry: &Registry, path: &str, tag: &str, layer: &[u8]) -> (Descriptor, Descriptor) {
    let config = registry.put_blob(path, media_type::CONFIG, br#"{"architecture":"amd64","os":"linux"}"#);
    let layer = registry.put_blob(path, media_type::LAYER, layer);
    let manifest = manifest_of(&config, &layer);
    (registry.put_manifest(path, tag, media_type::MANIFEST, manifest.as_bytes()), layer)
}

fn manifest_of(config: &Descriptor, layer: &Descriptor) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::MANIFEST,
        serde_json::to_string(config).expect("a descriptor is JSON"),
        serde_json::to_string(layer).expect("a descriptor is JSON"),
    )
}

fn read_all(client: &Client, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut stream = client.blob(repository, descriptor)?;
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Error::from_io(&error).expect("an error of the client").clone()),
    }
}
