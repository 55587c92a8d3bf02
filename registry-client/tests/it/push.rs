//! Pushing, with everything that can go wrong on the way.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kiln_oci::{Descriptor, Digest, media_type};
use kiln_registry_client::{Client, Error, Options, Pushed};
use kiln_testkit::registry::{Fault, Login, Registry};

use crate::{LATE, client, client_as, hasty, manifest_of, noise, reference, repository};

/// Larger than what is sent from memory.
const LARGE: usize = 9 << 20;

type Opened = io::Result<Box<dyn Read + Send>>;

fn opener(bytes: &[u8]) -> impl Fn() -> Opened + Sync + use<> {
    let bytes = bytes.to_vec();
    move || Ok(Box::new(io::Cursor::new(bytes.clone())))
}

#[track_caller]
fn check_upload(registry: &Registry, client: &Client, bytes: &[u8]) {
    let layer = Descriptor::of(media_type::LAYER, bytes);
    let last = std::cell::Cell::new(0);
    let pushed = client.push_blob(&repository(registry, "a"), &layer, &opener(bytes), &[], &|n| last.set(n));
    assert_eq!(pushed, Ok(Pushed::Uploaded));
    assert_eq!(last.get(), bytes.len() as u64);
    assert!(registry.blob("a", &layer.digest).as_deref() == Some(bytes));
}

#[test]
fn blobs_of_all_sizes_arrive() {
    let registry = Registry::start();
    let client = client();
    for (seed, size) in [(1, 0), (2, 1), (3, 1 << 20), (4, LARGE)] {
        check_upload(&registry, &client, &noise(size, seed));
    }
    let layer = Descriptor::of(media_type::LAYER, &noise(LARGE, 4));
    let never = || -> Opened { panic!("it is there") };
    let place = repository(&registry, "a");
    assert_eq!(client.push_blob(&place, &layer, &never, &[], &|_| ()), Ok(Pushed::Existed));
    assert_eq!(client.has_blob(&place, &layer), Ok(true));
    assert_eq!(client.has_blob(&repository(&registry, "b"), &layer), Ok(false));
    let sent = registry.exchanges().into_iter().find(|e| e.request.body.len() == LARGE).unwrap();
    assert_eq!(sent.request.header("content-length"), Some(&*LARGE.to_string()), "registries want the length");
}

#[test]
fn a_whole_image_can_be_pulled_back() {
    let registry = Registry::start();
    let (client, place) = (client(), repository(&registry, "team/app"));
    let (config, layer) = (br#"{"os":"linux"}"#.to_vec(), noise(5000, 1));
    for bytes in [&config, &layer] {
        client.push_blob(&place, &Descriptor::of("", bytes), &opener(bytes), &[], &|_| ()).unwrap();
    }
    let manifest =
        manifest_of(&Descriptor::of(media_type::CONFIG, &config), &Descriptor::of(media_type::LAYER, &layer));
    let push = |tag| client.push_manifest(&place, tag, media_type::MANIFEST, manifest.as_bytes()).unwrap();
    let digest = Digest::of(&manifest);
    assert_eq!((push(None), push(Some("1"))), (digest, digest));
    assert_eq!(client.resolve(&reference(&registry, "team/app:1")).unwrap().descriptor.digest, digest);
    let has = |tag, bytes: &[u8]| client.has_manifest(&place, tag, &Descriptor::of(media_type::MANIFEST, bytes));
    assert_eq!((has(Some("1"), manifest.as_bytes()), has(None, manifest.as_bytes())), (Ok(true), Ok(true)));
    assert_eq!((has(Some("2"), manifest.as_bytes()), has(Some("1"), b"other")), (Ok(false), Ok(false)));
}

#[test]
fn a_blob_is_mounted_from_a_neighbour() {
    let registry = Registry::with_login(Login::Token { user: "me".into(), password: "pw".into() });
    let client = client_as("me", "pw");
    let bytes = noise(1000, 1);
    let layer = registry.put_blob("team/base", media_type::LAYER, &bytes);
    let never = || -> Opened { panic!("it can be mounted") };
    let sources = ["other/base".to_owned(), "team/base".to_owned()];
    let pushed = client.push_blob(&repository(&registry, "team/app"), &layer, &never, &sources, &|_| ());
    assert_eq!(pushed, Ok(Pushed::Mounted));
    assert_eq!(registry.blob("team/app", &layer.digest), Some(bytes));
}

#[test]
fn a_mount_that_is_not_granted_becomes_an_upload() {
    let registry = Registry::start();
    let (client, bytes) = (client(), noise(1000, 1));
    let layer = Descriptor::of(media_type::LAYER, &bytes);
    let push = |path: &str| {
        client.push_blob(&repository(&registry, path), &layer, &opener(&bytes), &["nobody".to_owned()], &|_| ())
    };
    // The registry does not have it there, and opens an upload instead.
    assert_eq!(push("a"), Ok(Pushed::Uploaded));
    assert_eq!(registry.count("POST", "/blobs/uploads/"), 1, "the same session is used");
    registry.fault("POST", "mount=", 1, Fault::status(403));
    assert_eq!(push("b"), Ok(Pushed::Uploaded));
}

#[test]
fn a_failed_upload_starts_again() {
    let registry = Registry::start();
    let client = client();
    for (seed, fault) in
        [Fault::status(500), Fault::Hangup, Fault::status(404), Fault::status(429)].into_iter().enumerate()
    {
        registry.fault("PUT", "/blobs/uploads/", 1, fault);
        check_upload(&registry, &client, &noise(1000, seed as u64 * 2 + 1));
    }
    registry.fault("PUT", "/blobs/uploads/", 1, Fault::status(503));
    check_upload(&registry, &client, &noise(LARGE, 99));
    registry.fault("POST", "/blobs/uploads/", 1, Fault::status(503));
    check_upload(&registry, &client, &noise(1000, 55));
}

#[test]
fn an_upload_that_always_fails_is_given_up() {
    let registry = Registry::start();
    registry.fault("PUT", "/blobs/uploads/", 100, Fault::status(500));
    let (opened, bytes) = (AtomicU32::new(0), noise(10, 1));
    let open = || -> Opened {
        opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(io::Cursor::new(bytes.clone())))
    };
    let layer = Descriptor::of(media_type::LAYER, &bytes);
    let error = client().push_blob(&repository(&registry, "a"), &layer, &open, &[], &|_| ()).unwrap_err();
    assert!(matches!(error, Error::Status { status: 500, .. }), "{error}");
    assert_eq!(opened.load(Ordering::Relaxed), 5);
}

#[test]
fn a_token_that_runs_out_during_the_upload_is_replaced() {
    let registry = Registry::with_login(Login::Token { user: "me".into(), password: "pw".into() });
    let client = client_as("me", "pw");
    let challenge = format!(r#"Bearer realm="http://{}/token",service="fake""#, registry.address());
    let fault =
        Fault::Status { status: 401, headers: vec![("WWW-Authenticate".into(), challenge)], body: String::new() };
    registry.fault("PUT", "/blobs/uploads/", 1, fault);
    check_upload(&registry, &client, &noise(LARGE, 1));
}

#[test]
fn an_upload_may_go_elsewhere_without_authorization() {
    let registry = Registry::with_login(Login::Basic { user: "me".into(), password: "pw".into() });
    let storage = Registry::start();
    let bytes = noise(1000, 1);
    let layer = Descriptor::of(media_type::LAYER, &bytes);
    let location = format!("http://{}/v2/a/blobs/uploads/{}?_state=a%2Bb", storage.address(), storage.open_upload());
    registry.fault("POST", "/blobs/uploads/", 1, Fault::With("location", location));
    let client = client_as("me", "pw");
    let place = repository(&registry, "a");
    assert_eq!(client.push_blob(&place, &layer, &opener(&bytes), &[], &|_| ()), Ok(Pushed::Uploaded));
    assert_eq!(storage.blob("a", &layer.digest), Some(bytes));
    assert!(storage.exchanges().iter().all(|e| e.request.header("authorization").is_none()));
}

#[test]
fn a_blob_can_be_pulled_while_it_is_pushed() {
    let registry = Registry::start();
    let client = client();
    let place = repository(&registry, "copy");
    for (seed, size) in [(1, 1000), (2, LARGE)] {
        let bytes = noise(size, seed);
        let layer = registry.put_blob("a", media_type::LAYER, &bytes);
        let open = || -> Opened { Ok(Box::new(client.blob(&repository(&registry, "a"), &layer)?)) };
        assert_eq!(client.push_blob(&place, &layer, &open, &[], &|_| ()), Ok(Pushed::Uploaded));
        assert!(registry.blob("copy", &layer.digest) == Some(bytes));
    }
}

#[test]
fn what_cannot_be_read_is_told_and_not_sent() {
    let registry = Registry::start();
    let bytes = noise(LARGE, 1);
    let layer = Descriptor::of(media_type::LAYER, &bytes);
    let place = repository(&registry, "a");
    let shorter = opener(&bytes[1..]);
    let broken = || -> Opened { Ok(Box::new(io::Read::chain(&[0; 3 << 20][..], Broken))) };
    let missing = || -> Opened { Err(io::ErrorKind::NotFound.into()) };
    let opens: [&(dyn Fn() -> Opened + Sync); 3] = [&shorter, &broken, &missing];
    for open in opens {
        let error = client().push_blob(&place, &layer, open, &[], &|_| ()).unwrap_err();
        assert!(matches!(error, Error::Local { .. }), "{error}");
    }
    let small = Descriptor::of(media_type::LAYER, b"small");
    let error = client().push_blob(&place, &small, &opener(b"smal"), &[], &|_| ()).unwrap_err();
    assert!(matches!(error, Error::Local { .. }), "{error}");
    let error = client().push_blob(&place, &small, &opener(b"smalL"), &[], &|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Status { status: 400, said, .. } if said.contains("DIGEST_INVALID")), "{error}");
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk is on fire"))
    }
}

#[test]
fn a_tag_is_not_moved_before_its_parts_are_there() {
    let registry = Registry::start();
    let place = repository(&registry, "a");
    let missing = Descriptor::of(media_type::LAYER, b"nowhere");
    let manifest = manifest_of(&missing, &missing);
    let error = client().push_manifest(&place, Some("1"), media_type::MANIFEST, manifest.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("MANIFEST_BLOB_UNKNOWN"), "{error}");
    assert_eq!(registry.manifest("a", "1"), None);
}

#[test]
fn a_wrong_digest_from_the_registry_is_noticed() {
    let registry = Registry::start();
    let wrong = Digest::of("other").to_string();
    registry.fault("PUT", "/manifests/", 1, Fault::With("docker-content-digest", wrong));
    let body = br#"{"schemaVersion":2,"manifests":[]}"#;
    let error = client().push_manifest(&repository(&registry, "a"), Some("1"), media_type::INDEX, body).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[test]
fn cancelling_ends_an_upload() {
    let registry = Registry::start();
    let cancel = Arc::new(AtomicBool::new(false));
    let client = Client::new(Options { cancel: Arc::clone(&cancel), stall: Duration::from_secs(60), ..hasty() });
    let layer = Descriptor::new(media_type::LAYER, Digest::of("endless"), u64::MAX / 2);
    let end = Arc::clone(&cancel);
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        end.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let open = || -> Opened { Ok(Box::new(Slowly)) };
    let error = client.push_blob(&repository(&registry, "a"), &layer, &open, &[], &|_| ()).unwrap_err();
    let late = canceller.join().unwrap().elapsed();
    assert_eq!(error, Error::Cancelled);
    assert!(late < LATE, "{late:?}");
}

struct Slowly;

impl Read for Slowly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(5));
        let n = buffer.len().min(1000);
        buffer[..n].fill(0);
        Ok(n)
    }
}
