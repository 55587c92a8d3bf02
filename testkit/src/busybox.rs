//! The base image of the recorded builds, made of the machine's busybox.
//!
//! `testdata/vectors` was recorded on an image of one layer with busybox, its links, and a few
//! users. No recorded value depends on busybox itself, so any version will do.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_oci::Descriptor;
use serde_json::json;

use crate::context::{Entry, Kind, archive};
use crate::host;

/// 2020-01-01.
const TIME: i64 = 1_577_836_800;
const CREATED: &str = "2020-01-01T00:00:00Z";

const FOLDERS: &[(&str, &str)] = &[
    ("bin", "755"),
    ("dev", "755"),
    ("etc", "755"),
    ("home", "755"),
    ("proc", "755"),
    ("root", "700"),
    ("run", "755"),
    ("sys", "755"),
    ("tmp", "1777"),
    ("usr", "755"),
    ("usr/bin", "755"),
    ("usr/local", "755"),
    ("usr/local/bin", "755"),
    ("usr/sbin", "755"),
    ("var", "755"),
    ("var/log", "755"),
    ("var/tmp", "1777"),
    ("var/www", "755"),
];

const USERS: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
";

const GROUPS: &str = "\
root:x:0:
daemon:x:1:
wheel:x:10:root,app
www-data:x:33:
staff:x:50:app
users:x:100:app,nobody
app:x:1000:
nogroup:x:65534:
";

/// Returns an OCI layout with the image `latest` below `folder`, where it is made by the first
/// who asks and kept for the others.
///
/// # Panics
/// When there is no static busybox, or no room.
pub fn busybox(folder: &Path) -> PathBuf {
    let program = host().tool("busybox").expect("busybox (Debian's busybox-static)");
    let metadata = fs::metadata(&program).expect("the busybox just found");
    let layout = folder.join(format!("busybox-{}-{}", metadata.len(), metadata.mtime()));
    if !layout.exists() {
        let making = tempfile::Builder::new().prefix("busybox-").tempdir_in(folder).expect("a folder");
        make(&program, making.path()).unwrap_or_else(|error| panic!("cannot make the base image: {error}"));
        // Somebody may have been faster: then theirs is as good, and ours goes.
        if fs::rename(making.path(), &layout).is_ok() {
            let _ = making.keep();
        }
    }
    layout
}

fn make(program: &Path, layout: &Path) -> io::Result<()> {
    let layer = archive(&entries(program)?, Default::default())?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let put = |media_type: &str, bytes: &[u8]| -> io::Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, bytes);
        let path = layout.join("blobs").join(descriptor.digest.to_string().replace(':', "/"));
        fs::create_dir_all(path.parent().expect("a blob has a folder"))?;
        fs::write(path, bytes)?;
        Ok(descriptor)
    };
    let layer = put("application/vnd.oci.image.layer.v1.tar", &layer)?;
    let config = json!({
        "created": CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest.to_string()]},
        "history": [
            {"created": CREATED, "created_by": "make-busybox: root filesystem"},
            {"created": CREATED, "created_by": "CMD [\"sh\"]", "empty_layer": true},
        ],
    });
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]});
    let mut manifest = serde_json::to_value(put(media_type, manifest.to_string().as_bytes())?)?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn entries(program: &Path) -> io::Result<Vec<Entry>> {
    let list = Command::new(program).arg("--list").output()?;
    let names = String::from_utf8_lossy(&list.stdout).into_owned();
    let entry = |path: &str, kind: Kind, mode: &str| Entry {
        path: path.to_owned(),
        kind,
        mode: Some(mode.to_owned()),
        mtime: Some(TIME),
        ..Entry::default()
    };
    let file = |path: &str, text: &str| Entry { content: text.into(), ..entry(path, Kind::File, "644") };
    let link = |path: &str, to: &str| Entry { link: to.to_owned(), ..entry(path, Kind::Symlink, "777") };

    let mut entries: Vec<Entry> = FOLDERS.iter().map(|(path, mode)| entry(path, Kind::Dir, mode)).collect();
    let owner = Some(1000);
    entries.push(Entry { uid: owner, gid: owner, ..entry("home/app", Kind::Dir, "755") });
    entries.push(Entry { content: fs::read(program)?, ..entry("bin/busybox", Kind::File, "755") });
    let applets = names.lines().filter(|applet| *applet != "busybox");
    entries.extend(applets.map(|applet| link(&format!("bin/{applet}"), "busybox")));
    entries.extend([file("etc/group", GROUPS), file("etc/passwd", USERS), link("usr/bin/env", "../../bin/busybox")]);
    Ok(entries)
}
