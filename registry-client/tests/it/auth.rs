//! Logins and tokens.

use std::sync::Arc;

use kiln_oci::{Digest, media_type};
use kiln_registry_client::{Client, Credential, Error, Options};
use kiln_testkit::registry::{Fault, Login, Registry};

use crate::{Somebody, client, client_as, hasty, noise, put_image, read_all, reference, repository};

fn basic() -> Registry {
    Registry::with_login(Login::Basic { user: "me".into(), password: "s3:cret".into() })
}

fn token() -> Registry {
    Registry::with_login(Login::Token { user: "me".into(), password: "s3:cret".into() })
}

#[test]
fn a_password_is_shown_when_it_is_asked_for() {
    let registry = basic();
    let (manifest, layer) = put_image(&registry, "a", "1", b"x");
    let client = client_as("me", "s3:cret");
    assert_eq!(client.resolve(&reference(&registry, "a:1")).unwrap().descriptor, manifest);
    read_all(&client, &repository(&registry, "a"), &layer).unwrap();
    let rejected = registry.exchanges().iter().filter(|e| e.status == 401).count();
    assert_eq!(rejected, 1, "what the registry wants is remembered");
}

#[test]
fn without_or_with_a_wrong_password_there_is_a_hint() {
    let registry = basic();
    put_image(&registry, "a", "1", b"x");
    let error = client().resolve(&reference(&registry, "a:1")).unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { known: false, .. }), "{error}");
    assert!(error.hint().unwrap().contains("login"));
    let error = client_as("me", "wrong").resolve(&reference(&registry, "a:1")).unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { known: true, .. }), "{error}");
    assert!(!error.to_string().contains("wrong"));
    assert!(registry.exchanges().len() < 8, "nobody is hammered");
}

#[test]
fn a_token_is_fetched_once_per_scope() {
    let registry = token();
    let (_, layer) = put_image(&registry, "a", "1", b"x");
    put_image(&registry, "b", "1", b"x");
    let client = client();
    for _ in 0..3 {
        client.resolve(&reference(&registry, "a:1")).unwrap();
        read_all(&client, &repository(&registry, "a"), &layer).unwrap();
    }
    assert_eq!(registry.count("", "/token"), 1);
    client.resolve(&reference(&registry, "b:1")).unwrap();
    assert_eq!(registry.count("", "/token"), 2);
    assert_eq!(registry.exchanges().iter().filter(|e| e.status == 401).count(), 1);
}

#[test]
fn a_token_that_ran_out_is_replaced() {
    let registry = token();
    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    let client = client();
    client.resolve(&reference(&registry, "a:1")).unwrap();
    registry.expire_tokens();
    assert_eq!(client.resolve(&reference(&registry, "a:1")).unwrap().descriptor, manifest);
    assert_eq!(registry.count("", "/token"), 2);
}

#[test]
fn pushing_needs_a_login() {
    let registry = token();
    let (bytes, place) = (noise(1000, 1), repository(&registry, "a"));
    let layer = kiln_oci::Descriptor::of(media_type::LAYER, &bytes);
    let open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn std::io::Read + Send>);
    let error = client().push_blob(&place, &layer, &open, &[], &|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { known: false, .. }), "{error}");
    client_as("me", "s3:cret").push_blob(&place, &layer, &open, &[], &|_| ()).unwrap();
    assert_eq!(registry.blob("a", &layer.digest), Some(bytes.clone()));
}

#[test]
fn a_token_server_that_knows_only_get_is_asked_that_way() {
    let registry = token();
    let place = repository(&registry, "a");
    registry.fault("POST", "/token", 1, Fault::status(405));
    let digest = client_as("me", "s3:cret").push_manifest(
        &place,
        Some("1"),
        media_type::INDEX,
        br#"{"schemaVersion":2,"manifests":[]}"#,
    );
    assert_eq!(digest.unwrap(), Digest::of(br#"{"schemaVersion":2,"manifests":[]}"#));
    let basic = |e: &&kiln_testkit::registry::Exchange| e.request.header("authorization").is_some();
    let asked = registry.exchanges();
    let asked: Vec<_> = asked.iter().filter(|e| e.request.target.starts_with("/token?")).collect();
    assert!(asked.len() == 1 && asked.iter().all(basic));
}

#[test]
fn a_wrong_password_is_told_by_the_token_server() {
    let registry = token();
    put_image(&registry, "a", "1", b"x");
    let error = client_as("me", "nope").resolve(&reference(&registry, "a:1")).unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { known: true, said, .. } if said.contains("incorrect")), "{error}");
}

#[test]
fn identity_tokens_are_exchanged() {
    let registry = token();
    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    let credential = Credential::IdentityToken("s3:cret".into());
    let client = Client::new(Options { credentials: Arc::new(Somebody(Some(credential))), ..hasty() });
    assert_eq!(client.resolve(&reference(&registry, "a:1")).unwrap().descriptor, manifest);
    assert_eq!(registry.count("POST", "/token"), 1);
}

#[test]
fn token_servers_may_misbehave() {
    for answer in ["", "{}", "[]", r#"{"token":""}"#, "{\"token\":\"a\\nb\"}"] {
        let registry = token();
        put_image(&registry, "a", "1", b"x");
        let fault = Fault::Status { status: 200, headers: Vec::new(), body: answer.into() };
        registry.fault("", "/token", 9, fault);
        let error = client().resolve(&reference(&registry, "a:1")).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[test]
fn a_challenge_that_nobody_understands_ends_it() {
    let registry = Registry::start();
    let challenges = ["Negotiate", "Bearer realm=\"file:///etc/passwd\"", "Bearer realm=\"not a url\"", ""];
    for challenge in challenges {
        let headers = vec![("WWW-Authenticate".to_owned(), challenge.to_owned())];
        registry.fault("GET", "/manifests/", 5, Fault::Status { status: 401, headers, body: String::new() });
        let error = client().resolve(&reference(&registry, "a:1")).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. } | Error::Protocol { .. }), "{error}");
        while client().resolve(&reference(&registry, "a:1")).is_err_and(|e| !matches!(e, Error::NotFound(_))) {}
    }
}
