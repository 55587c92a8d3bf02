//! Pulling, with everything that can go wrong on the way.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_oci::{Descriptor, Digest, media_type};
use kiln_registry_client::{Client, Error, Options, Unreachable};
use kiln_testkit::registry::{Fault, Registry};

use crate::{LATE, client, hasty, impatient, noise, put_image, read_all, reference, repository};

#[test]
fn a_tag_resolves_to_checked_bytes() {
    let registry = Registry::start();
    let (manifest, layer) = put_image(&registry, "a/b", "1", b"layer");
    let client = client();
    let resolved = client.resolve(&reference(&registry, "a/b:1")).unwrap();
    assert_eq!(resolved.descriptor, manifest);
    assert_eq!(Digest::of(&resolved.bytes), manifest.digest);
    let pinned = reference(&registry, "a/b").with_digest(manifest.digest);
    assert_eq!(client.resolve(&pinned).unwrap(), resolved);
    assert_eq!(client.head(&reference(&registry, "a/b:1")).unwrap(), manifest);
    assert_eq!(client.manifest(&repository(&registry, "a/b"), &manifest).unwrap(), resolved.bytes);
    assert_eq!(read_all(&client, &repository(&registry, "a/b"), &layer).unwrap(), b"layer");
}

#[test]
fn a_missing_image_is_named() {
    let registry = Registry::start();
    let error = client().resolve(&reference(&registry, "nope")).unwrap_err();
    assert_eq!(error.to_string(), format!("{}/nope:latest: not found", registry.address()));
    assert!(error.hint().is_some());
}

#[test]
fn nobody_listening_is_said() {
    let address = Registry::start().address();
    let error = client().resolve(&format!("{address}/a").parse().unwrap()).unwrap_err();
    assert_eq!(error, Error::Unreachable { host: address, cause: Unreachable::Refused });
}

#[test]
fn this_machine_has_a_name() {
    let registry = Registry::start();
    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    let name = registry.address().replace("127.0.0.1", "localhost") + "/a:1";
    assert_eq!(client().resolve(&name.parse().unwrap()).unwrap().descriptor, manifest);
}

#[test]
fn a_mirror_that_breaks_off_is_continued_elsewhere() {
    let (origin, mirror) = (Registry::start(), Registry::start());
    let bytes = noise(50_000, 8);
    let layer = origin.put_blob("a", media_type::LAYER, &bytes);
    mirror.put_blob("a", media_type::LAYER, &bytes);
    mirror.fault("GET", "/blobs/", 1, Fault::Cut(20_000));
    mirror.fault("GET", "/blobs/", 100, Fault::status(404));
    let mirrors = BTreeMap::from([(origin.address(), vec![mirror.address()])]);
    let client = Client::new(Options { mirrors, ..hasty() });
    assert!(read_all(&client, &repository(&origin, "a"), &layer).unwrap() == bytes);
    assert_eq!(origin.exchanges().last().unwrap().request.header("range"), Some("bytes=20000-"));
}

#[test]
fn an_unknown_host_is_said() {
    let error = client().resolve(&"no-such-host.invalid/a".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_cut_connection_is_continued_where_it_broke() {
    let registry = Registry::start();
    let bytes = noise(300_000, 1);
    let layer = registry.put_blob("a", media_type::LAYER, &bytes);
    for cut in [100_000, 0, 1, 50_000] {
        registry.fault("GET", "/blobs/", 1, Fault::Cut(cut));
    }
    assert_eq!(read_all(&client(), &repository(&registry, "a"), &layer).unwrap(), bytes);
    let ranges: Vec<_> =
        registry.exchanges().iter().filter_map(|e| e.request.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=100000-", "bytes=100001-", "bytes=150001-"]);
}

#[test]
fn a_server_without_ranges_still_gives_the_right_bytes() {
    let registry = Registry::start();
    let bytes = noise(300_000, 2);
    let layer = registry.put_blob("a", media_type::LAYER, &bytes);
    registry.fault("GET", "/blobs/", 1, Fault::Cut(123_456));
    registry.fault("GET", "/blobs/", 1, Fault::IgnoreRange);
    assert_eq!(read_all(&client(), &repository(&registry, "a"), &layer).unwrap(), bytes);
}

#[test]
fn a_wrong_range_is_an_error_and_no_corruption() {
    let registry = Registry::start();
    let layer = registry.put_blob("a", media_type::LAYER, &noise(100_000, 3));
    registry.fault("GET", "/blobs/", 1, Fault::Cut(1000));
    registry.fault("GET", "/blobs/", 1, Fault::WrongRange);
    let error = read_all(&client(), &repository(&registry, "a"), &layer).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[test]
fn a_stalled_body_is_continued() {
    let registry = Registry::start();
    let bytes = noise(50_000, 4);
    let layer = registry.put_blob("a", media_type::LAYER, &bytes);
    registry.fault("GET", "/blobs/", 1, Fault::Stall(20_000));
    assert_eq!(read_all(&impatient(), &repository(&registry, "a"), &layer).unwrap(), bytes);
}

#[test]
fn a_server_that_never_gives_more_is_given_up() {
    let registry = Registry::start();
    let layer = registry.put_blob("a", media_type::LAYER, &noise(5000, 4));
    registry.fault("GET", "/blobs/", 100, Fault::Cut(0));
    let error = read_all(&client(), &repository(&registry, "a"), &layer).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. } | Error::Size { .. }), "{error}");
    assert!(registry.count("GET", "/blobs/") < 10);
}

#[test]
fn a_flipped_bit_never_passes() {
    let registry = Registry::start();
    let bytes = noise(100_000, 5);
    let layer = registry.put_blob("a", media_type::LAYER, &bytes);
    registry.fault("GET", "/blobs/", 1, Fault::Flip);
    let mut got = Vec::new();
    let error = client().blob(&repository(&registry, "a"), &layer).unwrap().read_to_end(&mut got).unwrap_err();
    assert!(matches!(Error::from_io(&error), Some(Error::Digest { .. })), "{error}");
    assert!(got.len() < bytes.len(), "the end is not handed out");

    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    registry.fault("GET", "/manifests/", 2, Fault::Flip);
    let error = client().resolve(&reference(&registry, "a:1")).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let error = client().manifest(&repository(&registry, "a"), &manifest).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[test]
fn the_announced_size_is_kept_to() {
    let registry = Registry::start();
    let bytes = noise(5000, 6);
    let layer = registry.put_blob("a", media_type::LAYER, &bytes);
    for (wrong, fault) in [(4999, None), (5001, None), (4999, Some(Fault::Chunked)), (5001, Some(Fault::Chunked))] {
        if let Some(fault) = fault {
            registry.fault("GET", "/blobs/", 1, fault);
        }
        let wrong = Descriptor { size: wrong, ..layer.clone() };
        let error = read_all(&client(), &repository(&registry, "a"), &wrong).unwrap_err();
        assert!(
            matches!(error, Error::Size { .. } | Error::Protocol { .. } | Error::Status { status: 416, .. }),
            "{error}"
        );
    }
    registry.fault("GET", "/blobs/", 1, Fault::Chunked);
    assert_eq!(read_all(&client(), &repository(&registry, "a"), &layer).unwrap(), bytes);
}

#[test]
fn an_empty_blob_is_read_and_checked() {
    let registry = Registry::start();
    let empty = registry.put_blob("a", media_type::LAYER, b"");
    assert_eq!(read_all(&client(), &repository(&registry, "a"), &empty).unwrap(), b"");
    let full = registry.put_blob("a", media_type::LAYER, b"x");
    let lie = Descriptor { size: 0, ..full };
    assert!(read_all(&client(), &repository(&registry, "a"), &lie).is_err());
}

#[test]
fn passing_failures_are_waited_out() {
    let registry = Registry::start();
    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    for status in [500, 502, 503] {
        registry.fault("GET", "/manifests/", 1, Fault::status(status));
    }
    registry.fault("GET", "/manifests/", 1, Fault::Hangup);
    assert_eq!(client().resolve(&reference(&registry, "a:1")).unwrap().descriptor, manifest);
    registry.fault("GET", "/manifests/", 100, Fault::status(503));
    let error = client().resolve(&reference(&registry, "a:1")).unwrap_err();
    assert!(matches!(error, Error::Status { status: 503, .. }), "{error}");
}

#[test]
fn retry_after_is_obeyed() {
    let registry = Registry::start();
    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    let later = || Fault::Status {
        status: 429,
        headers: vec![("Retry-After".into(), "1".into())],
        body: r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#.into(),
    };
    registry.fault("GET", "/manifests/", 1, later());
    let start = Instant::now();
    assert_eq!(client().resolve(&reference(&registry, "a:1")).unwrap().descriptor, manifest);
    assert!(start.elapsed() >= Duration::from_secs(1));
    registry.fault("GET", "/manifests/", 100, later());
    let error = Client::new(Options { retries: 1, ..hasty() }).resolve(&reference(&registry, "a:1")).unwrap_err();
    assert!(matches!(&error, Error::RateLimited { said, .. } if said.contains("slow down")), "{error}");
}

#[test]
fn a_redirect_is_followed_without_authorization() {
    let registry =
        Registry::with_login(kiln_testkit::registry::Login::Basic { user: "u".into(), password: "p".into() });
    let cdn = Registry::start();
    let bytes = noise(10_000, 7);
    let layer = registry.put_blob("a", media_type::LAYER, &bytes);
    cdn.put_blob("a", media_type::LAYER, &bytes);
    registry.fault("GET", "/blobs/", 2, Fault::Redirect(format!("http://{}", cdn.address())));
    // Without the login there is no redirect, so the first of the two is used up by the challenge.
    cdn.fault("GET", "/blobs/", 1, Fault::Cut(4000));
    let client = crate::client_as("u", "p");
    assert_eq!(read_all(&client, &repository(&registry, "a"), &layer).unwrap(), bytes);
    assert!(cdn.count("GET", "/blobs/") >= 2);
    assert!(cdn.exchanges().iter().all(|e| e.request.header("authorization").is_none()));
    assert!(cdn.exchanges().iter().any(|e| e.request.header("range") == Some("bytes=4000-")));
}

#[test]
fn a_redirect_goes_in_circles_only_so_often() {
    let registry = Registry::start();
    registry.fault("GET", "/manifests/", 1000, Fault::Redirect(format!("http://{}", registry.address())));
    let error = client().resolve(&reference(&registry, "a")).unwrap_err();
    assert!(matches!(&error, Error::Protocol { what, .. } if what.contains("circles")), "{error}");
    registry.fault("GET", "/manifests/", 1, Fault::Redirect("file://".into()));
}

#[test]
fn a_redirect_leads_only_to_http() {
    let registry = Registry::start();
    registry.fault("GET", "/manifests/", 1, Fault::Redirect("file://".into()));
    let error = client().resolve(&reference(&registry, "a")).unwrap_err();
    assert!(matches!(&error, Error::Protocol { what, .. } if what.contains("not HTTP")), "{error}");
}

#[test]
fn a_registry_that_says_little_to_head_is_asked_for_the_bytes() {
    let registry = Registry::start();
    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    let client = client();
    registry.fault("HEAD", "/manifests/", 1, Fault::status(405));
    assert_eq!(client.head(&reference(&registry, "a:1")).unwrap(), manifest);
    registry.fault("HEAD", "/manifests/", 1, Fault::Without("docker-content-digest"));
    assert_eq!(client.head(&reference(&registry, "a:1")).unwrap(), manifest);
    registry.fault(
        "",
        "/manifests/",
        1,
        Fault::With("content-type", format!("{}; charset=utf-8", media_type::MANIFEST)),
    );
    assert_eq!(client.head(&reference(&registry, "a:1")).unwrap(), manifest);
}

#[test]
fn the_content_type_must_fit_the_document() {
    let registry = Registry::start();
    let (manifest, _) = put_image(&registry, "a", "1", b"x");
    let resolve = || client().resolve(&reference(&registry, "a:1"));
    registry.fault("GET", "/manifests/", 1, Fault::With("content-type", "application/json".into()));
    assert_eq!(resolve().unwrap().descriptor, manifest);
    registry.fault("GET", "/manifests/", 1, Fault::Without("content-type"));
    assert_eq!(resolve().unwrap().descriptor, manifest);
    registry.fault("GET", "/manifests/", 1, Fault::With("content-type", media_type::INDEX.into()));
    assert!(matches!(resolve(), Err(Error::Protocol { .. })));
}

#[test]
fn a_manifest_may_only_be_so_long() {
    let registry = Registry::start();
    registry.put_manifest("a", "1", media_type::MANIFEST, &vec![b' '; (4 << 20) + 1]);
    let error = client().resolve(&reference(&registry, "a:1")).unwrap_err();
    assert!(matches!(&error, Error::Protocol { what, .. } if what.contains("longer")), "{error}");
}

#[test]
fn mirrors_come_first_and_the_registry_is_the_last_word() {
    let (origin, empty, good) = (Registry::start(), Registry::start(), Registry::start());
    let bytes = noise(20_000, 8);
    let (manifest, layer) = put_image(&origin, "a", "1", &bytes);
    let mirrors = vec![empty.address(), good.address()];
    let options = Options { mirrors: BTreeMap::from([(origin.address(), mirrors)]), ..hasty() };
    let client = Client::new(options);
    let (name, place) = (reference(&origin, "a:1"), repository(&origin, "a"));
    assert_eq!(client.resolve(&name).unwrap().descriptor, manifest);
    assert!(empty.count("GET", "ns=") > 0 && good.count("GET", "ns=") > 0);

    put_image(&good, "a", "1", &bytes);
    let before = origin.exchanges().len();
    assert_eq!(client.resolve(&name).unwrap().descriptor, manifest);
    assert_eq!(read_all(&client, &place, &layer).unwrap(), bytes);
    assert_eq!(origin.exchanges().len(), before, "the mirror has it");

    // A mirror that gives wrong bytes is not asked again.
    good.fault("GET", "/blobs/", 1, Fault::Flip);
    assert!(matches!(read_all(&client, &place, &layer), Err(Error::Digest { .. })));
    assert_eq!(read_all(&client, &place, &layer).unwrap(), bytes);
    assert!(origin.exchanges().len() > before);
}

#[test]
fn cancelling_ends_every_wait_at_once() {
    let registry = Registry::start();
    let layer = registry.put_blob("a", media_type::LAYER, &noise(100_000, 9));
    registry.fault("GET", "/blobs/", 1, Fault::Stall(50_000));
    let cancel = Arc::new(AtomicBool::new(false));
    let options = Options { stall: Duration::from_secs(60), cancel: Arc::clone(&cancel), ..hasty() };
    let client = Client::new(options);
    let mut stream = client.blob(&repository(&registry, "a"), &layer).unwrap();
    let reader = std::thread::spawn(move || {
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        (Error::from_io(&error).cloned(), Instant::now())
    });
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    cancel.store(true, Ordering::Relaxed);
    let (error, end) = reader.join().unwrap();
    assert_eq!(error, Some(Error::Cancelled));
    assert!(end.saturating_duration_since(start) < LATE);
    assert_eq!(client.resolve(&reference(&registry, "a")), Err(Error::Cancelled));
    let other = client.with_cancel(Arc::default());
    assert!(matches!(other.resolve(&reference(&registry, "a")), Err(Error::NotFound(_))));
}

#[test]
fn many_threads_read_at_once() {
    let registry = Registry::start();
    let blobs: Vec<_> = (0..12).map(|seed| noise(200_000, 100 + seed)).collect();
    let layers: Vec<_> = blobs.iter().map(|bytes| registry.put_blob("a", media_type::LAYER, bytes)).collect();
    let (client, place) = (client(), repository(&registry, "a"));
    std::thread::scope(|scope| {
        for (layer, bytes) in layers.iter().zip(&blobs) {
            let (client, place) = (&client, &place);
            scope.spawn(move || assert!(read_all(client, place, layer).unwrap() == *bytes));
        }
    });
}

#[test]
fn digests_that_cannot_be_checked_are_not_fetched() {
    let registry = Registry::start();
    let name = reference(&registry, &format!("a@sha512:{}", "0".repeat(128)));
    assert!(matches!(client().resolve(&name), Err(Error::Name(_))));
    assert_eq!(registry.exchanges().len(), 0);
}
