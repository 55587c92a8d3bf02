//! Downloads of plain URLs.

use std::io::Read;

use kiln_oci::media_type;
use kiln_registry_client::Error;
use kiln_testkit::registry::{Fault, Registry};

use crate::{client, impatient, noise};

fn url(registry: &Registry, digest: &kiln_oci::Digest) -> String {
    format!("http://{}/v2/a/blobs/{digest}", registry.address())
}

#[test]
fn a_url_is_downloaded_with_its_headers() {
    let registry = Registry::start();
    let bytes = noise(50_000, 1);
    let file = registry.put_blob("a", media_type::LAYER, &bytes);
    registry.fault("GET", "/blobs/", 1, Fault::With("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT".into()));
    let client = client();
    let mut answer =
        client.fetch().get(&url(&registry, &file.digest), &[("If-None-Match", "\"x\"")], u64::MAX).unwrap();
    assert_eq!((answer.status, answer.header("Last-Modified")), (200, Some("Sun, 06 Nov 1994 08:49:37 GMT")));
    let mut got = Vec::new();
    answer.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    assert_eq!(registry.exchanges()[0].request.header("if-none-match"), Some("\"x\""));
    let head = client.fetch().head(&url(&registry, &file.digest), &[]).unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("50000")));
}

#[test]
fn a_failure_is_an_answer_and_passing_ones_are_repeated() {
    let registry = Registry::start();
    let missing = url(&registry, &kiln_oci::Digest::of("missing"));
    assert_eq!(client().fetch().get(&missing, &[], 1000).unwrap().status, 404);
    registry.fault("GET", "/blobs/", 2, Fault::status(503));
    assert_eq!(client().fetch().get(&missing, &[], 1000).unwrap().status, 404);
}

#[test]
fn secrets_stay_with_the_host_they_are_for() {
    let (one, other) = (Registry::start(), Registry::start());
    let file = other.put_blob("a", media_type::LAYER, b"x");
    one.fault("GET", "/blobs/", 1, Fault::Redirect(format!("http://{}", other.address())));
    let secret = [("Authorization", "Bearer secret"), ("X-Token", "secret"), ("Accept-Encoding", "gzip")];
    let mut text = String::new();
    client().fetch().get(&url(&one, &file.digest), &secret, 10).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "x");
    let (first, second) = (one.exchanges(), other.exchanges());
    assert_eq!(first[0].request.header("authorization"), Some("Bearer secret"));
    assert_eq!((second[0].request.header("authorization"), second[0].request.header("x-token")), (None, None));
    assert_eq!(second[0].request.header("accept-encoding"), Some("gzip"));
}

#[test]
fn there_is_a_limit() {
    let registry = Registry::start();
    let file = registry.put_blob("a", media_type::LAYER, &noise(1000, 1));
    let mut answer = client().fetch().get(&url(&registry, &file.digest), &[], 999).unwrap();
    let error = answer.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(matches!(Error::from_io(&error), Some(Error::Protocol { .. })), "{error}");
}

#[test]
fn a_download_that_breaks_off_is_an_error() {
    let registry = Registry::start();
    let file = registry.put_blob("a", media_type::LAYER, &noise(1000, 1));
    for fault in [Fault::Cut(500), Fault::Stall(500)] {
        registry.fault("GET", "/blobs/", 1, fault);
        let mut answer = impatient().fetch().get(&url(&registry, &file.digest), &[], 1000).unwrap();
        assert!(answer.read_to_end(&mut Vec::new()).is_err());
    }
}

#[test]
fn only_http_urls_are_fetched() {
    for url in ["", "file:///etc/passwd", "ftp://a/b", "http://", "a b"] {
        assert!(matches!(client().fetch().get(url, &[], 1), Err(Error::Name(_))), "{url}");
    }
    let error = client().fetch().get("http://127.0.0.1:1/x?token=secret", &[("a b", "c")], 1).unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}
