//! Against Debian's docker-registry, with skopeo as the other reader and writer.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use kiln_oci::{Descriptor, Digest, Document, media_type};
use kiln_registry_client::{Error, Pushed, Repository};
use kiln_testkit::{DockerRegistry, Need, host};

use crate::{client, manifest_of, noise, read_all};

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(arguments).output().expect("skopeo");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn lacks_tools() -> bool {
    host().lacks(&[Need::Tool("docker-registry"), Need::Tool("setpriv"), Need::Tool("skopeo")])
}

#[test]
fn skopeo_reads_what_was_pushed_and_the_client_what_skopeo_pushed() {
    if lacks_tools() {
        return;
    }
    let (registry, client) = (DockerRegistry::empty(), client());
    let place = Repository { domain: registry.address(), path: "team/app".into() };
    // An empty archive of two blocks, and a layer that goes as a stream.
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let layer = noise(20 << 20, 1);
    let parts = [(media_type::CONFIG, config.to_vec()), (media_type::LAYER, layer.clone())];
    let mut descriptors = Vec::new();
    for (kind, bytes) in &parts {
        let descriptor = Descriptor::of(*kind, bytes);
        let open = || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
        assert_eq!(client.push_blob(&place, &descriptor, &open, &[], &|_| ()), Ok(Pushed::Uploaded));
        assert_eq!(client.push_blob(&place, &descriptor, &open, &[], &|_| ()), Ok(Pushed::Existed));
        let other = Repository { path: "team/other".into(), ..place.clone() };
        let mounted = client.push_blob(&other, &descriptor, &open, &["team/app".to_owned()], &|_| ());
        assert_eq!(mounted, Ok(Pushed::Mounted));
        descriptors.push(descriptor);
    }
    let manifest = manifest_of(&descriptors[0], &descriptors[1]);
    let digest = client.push_manifest(&place, Some("1"), media_type::MANIFEST, manifest.as_bytes()).unwrap();

    let name = format!("docker://{}", registry.name("team/app"));
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("{name}:1")]);
    assert_eq!(raw, manifest);
    let folder = tempfile::tempdir().unwrap();
    let layout = format!("dir:{}", folder.path().display());
    skopeo(&["copy", "--preserve-digests", "--src-tls-verify=false", &format!("{name}@{digest}"), &layout]);
    let copied = folder.path().join(descriptors[1].digest.hex());
    assert!(fs::read(copied).unwrap() == layer);

    skopeo(&["copy", "--preserve-digests", "--dest-tls-verify=false", &layout, &format!("{name}:2")]);
    let resolved = client.resolve(&registry.name("team/app:2").parse().unwrap()).unwrap();
    assert_eq!(resolved.descriptor.digest, digest);
    let Document::Manifest(document) = Document::parse(&resolved.bytes, None).unwrap() else { panic!("an index") };
    assert!(read_all(&client, &place, &document.layers[0]).unwrap() == layer);
    let pinned = registry.name(&format!("team/app@{digest}")).parse().unwrap();
    assert_eq!(client.resolve(&pinned).unwrap(), resolved);
    assert_eq!(client.head(&pinned).unwrap(), resolved.descriptor);
}

#[test]
fn the_real_registrys_refusals_are_understood() {
    if lacks_tools() {
        return;
    }
    let (registry, client) = (DockerRegistry::empty(), client());
    let place = Repository { domain: registry.address(), path: "a".into() };
    let missing = client.resolve(&registry.name("a:1").parse().unwrap());
    assert_eq!(missing, Err(Error::NotFound(registry.name("a:1"))));
    let nowhere = Descriptor::of(media_type::LAYER, b"nowhere");
    assert!(matches!(client.blob(&place, &nowhere), Err(Error::NotFound(_))));
    assert_eq!(client.has_blob(&place, &nowhere), Ok(false));
    let manifest = manifest_of(&nowhere, &nowhere);
    let error = client.push_manifest(&place, Some("1"), media_type::MANIFEST, manifest.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("MANIFEST_BLOB_UNKNOWN"), "{error}");
    let lie = Descriptor { digest: Digest::of("a"), size: 1, ..nowhere };
    let open = || Ok(Box::new(io::Cursor::new(b"b".to_vec())) as Box<dyn Read + Send>);
    let error = client.push_blob(&place, &lie, &open, &[], &|_| ()).unwrap_err();
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
}

#[test]
fn large_blobs_go_through_at_a_good_speed() {
    if lacks_tools() {
        return;
    }
    let (registry, client) = (DockerRegistry::empty(), client());
    let place = Repository { domain: registry.address(), path: "a".into() };
    let bytes = noise(64 << 20, 1);
    let blob = Descriptor::of(media_type::LAYER, &bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    fs::write(&path, &bytes).unwrap();
    let start = Instant::now();
    assert_eq!(client.push_blob(&place, &blob, &|| open(&path), &[], &|_| ()), Ok(Pushed::Uploaded));
    let pushed = start.elapsed();
    let start = Instant::now();
    let copied = io::copy(&mut client.blob(&place, &blob).unwrap(), &mut io::sink()).unwrap();
    assert_eq!(copied, blob.size);
    println!("64 MiB: pushed in {pushed:?}, pulled in {:?}", start.elapsed());
}

fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(fs::File::open(path)?))
}
