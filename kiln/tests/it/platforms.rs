//! Builds for several platforms at once.

use std::fs;
use std::process::Command;

use kiln_testkit::{Bed, DockerRegistry};
use serde_json::Value;

use crate::fixture::{bed, dockerfile, unable};

const TWO: &str = "linux/amd64,linux/arm64";

/// A context whose files depend on the platform, and on which nothing runs.
fn files(bed: &Bed) {
    dockerfile(bed, "ctx", "FROM scratch\nARG TARGETARCH\nCOPY same /\nCOPY f-$TARGETARCH /f\n");
    for name in ["f-amd64", "f-arm64", "same"] {
        bed.write(format!("ctx/{name}"), name);
    }
}

fn build(bed: &Bed) -> kiln_testkit::Kiln {
    bed.kiln(["build", "--progress=plain", "--platform", TWO]).arg(bed.path("ctx"))
}

fn raw(name: &str) -> Value {
    let output = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .expect("skopeo");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a document")
}

#[test]
fn an_index_is_made_kept_and_pushed() {
    if unable() {
        return;
    }
    let (bed, registry) = (bed(), DockerRegistry::empty());
    files(&bed);
    let name = registry.name("app:1");
    build(&bed).args(["-t", &name, "--push", "--iidfile", "iid", "--metadata-file", "facts"]).run().success();
    let index = raw(&name);
    let manifests = index["manifests"].as_array().expect("an index");
    let platforms: Vec<_> = manifests.iter().map(|manifest| &manifest["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    // What is the same for both is made, and sent, once.
    let layers = |manifest: &Value| {
        let digest = manifest["digest"].as_str().expect("a digest");
        raw(&format!("{}@{digest}", registry.name("app")))["layers"].clone()
    };
    let (one, other) = (layers(&manifests[0]), layers(&manifests[1]));
    assert_eq!(one[0]["digest"], other[0]["digest"]);
    assert_ne!(one[1]["digest"], other[1]["digest"]);

    let facts: Value = serde_json::from_slice(&fs::read(bed.path("facts")).expect("facts")).expect("JSON");
    let digest = facts["containerimage.digest"].as_str().expect("a digest").to_owned();
    assert_eq!(fs::read_to_string(bed.path("iid")).expect("an id"), digest);
    assert_eq!(facts.get("containerimage.config.digest"), None);

    let listed = bed.kiln(["images", "--format=json"]).run().success().text();
    assert!(listed.contains(r#""Platform":"linux/amd64,linux/arm64""#), "{listed}");
    let history = |platform: &str| bed.kiln(["history", "--platform", platform, &name]).run();
    assert!(history("linux/arm64").success().text().contains("COPY f-arm64"));
    history("linux/s390x").failure().says(&["no image for linux/s390x", "linux/amd64, linux/arm64"]);
    let inspected: Value = serde_json::from_str(&bed.kiln(["inspect", &name]).run().success().text()).expect("JSON");
    assert_eq!(inspected[0]["images"][1]["config"]["architecture"], "arm64");

    // From the store to another name, and as the base of another build.
    let second = registry.name("second:1");
    bed.kiln(["tag", &name, &second]).run().success();
    bed.kiln(["push", &second]).run().success();
    assert_eq!(raw(&second), index);
    dockerfile(&bed, "ctx", &format!("FROM {name}\nCOPY same /again\n"));
    build(&bed).args(["-t", "above", "--pull=false"]).run().success();
    bed.assert_tidy();
}

#[test]
fn files_of_platforms_have_folders() {
    if unable() {
        return;
    }
    let bed = bed();
    files(&bed);
    build(&bed).args(["-o", "out"]).run().success();
    for architecture in ["amd64", "arm64"] {
        let path = bed.path(format!("out/linux_{architecture}/f"));
        assert_eq!(fs::read_to_string(path).expect("a file"), format!("f-{architecture}"));
    }
    let streamed = build(&bed).args(["-o", "-"]).run().success();
    let mut archive = tar::Archive::new(&*streamed.stdout);
    let entries = archive.entries().expect("an archive").map(|entry| entry.expect("an entry"));
    let names: Vec<_> = entries.map(|entry| String::from_utf8_lossy(&entry.path_bytes()).into_owned()).collect();
    let expected =
        ["linux_amd64", "linux_arm64"].map(|folder| ["/", "/f", "/same"].map(|name| format!("{folder}{name}")));
    assert_eq!(names, expected.concat());
}

#[test]
fn files_of_platforms_can_share_a_folder() {
    let bed = bed();
    files(&bed);
    let clash = build(&bed).args(["-o", "type=local,dest=all,platform-split=false"]).run().failure();
    clash.says(&["cannot overwrite /f from linux/amd64 with linux/arm64", "platform-split=false"]);
    assert!(!bed.path("all").exists());
    dockerfile(&bed, "ctx", "FROM scratch\nARG TARGETARCH\nCOPY f-$TARGETARCH /d/\n");
    build(&bed).args(["-o", "type=local,dest=all,platform-split=false"]).run().success();
    for name in ["f-amd64", "f-arm64"] {
        assert_eq!(fs::read_to_string(bed.path("all/d").join(name)).expect("a file"), name);
    }
    let one = bed.kiln(["build", "--platform=linux/arm64", "-o", "type=local,dest=one,platform-split=true", "ctx"]);
    one.run().success();
    assert!(bed.path("one/linux_arm64/d/f-arm64").is_file());
}

#[test]
fn what_a_set_of_platforms_cannot_be_is_refused_before_anything_is_built() {
    if unable() {
        return;
    }
    let bed = bed();
    files(&bed);
    let refused = build(&bed).args(["-o", "type=docker,dest=x.tar"]).run().failure();
    let refused = refused.says(&["docker exporter does not currently support exporting manifest lists"]);
    assert!(refused.ran().is_empty() && !bed.path("x.tar").exists());
    let argument = |value: &str| build(&bed).args(["--build-arg", &format!("BUILDKIT_MULTI_PLATFORM={value}")]).run();
    argument("0").failure().says(&["returning multiple target platforms is not allowed"]);
    argument("maybe").failure().says(&["invalid boolean value for multi-platform: maybe"]);
    build(&bed).args(["--platform", "amd65"]).run().failure().says(&["amd65", "unknown"]);

    // One platform, and yet an index.
    let one = bed.kiln(["build", "--progress=plain", "-o", "type=oci,tar=false,dest=one"]).arg(bed.path("ctx"));
    one.args(["--build-arg", "BUILDKIT_MULTI_PLATFORM=1"]).run().success();
    let index = fs::read_to_string(bed.path("one/index.json")).expect("an index");
    assert!(index.contains("application/vnd.oci.image.index.v1+json\",\"digest"), "{index}");
}
