//! The rungs of the sandbox's ladder: what runs for root runs for others, and makes the same image.

use kiln_testkit::{Bed, Image, Kiln, Need, Ordinary, Source, host};

use crate::fixture::{bed, build, dockerfile, unable};

/// A way to run a build.
pub struct Rung {
    /// Root where there is none.
    pub user: Option<Ordinary>,
    pub flags: &'static [&'static str],
    /// What the log of the first RUN says.
    pub says: &'static str,
}

/// Those with mounts and namespaces, the strongest first.
pub const RUNGS: [Rung; 5] = [
    Rung { user: None, flags: &[], says: "" },
    Rung { user: Some(Ordinary::WithRanges), flags: &[], says: "sandbox: user namespace with 65537 ids" },
    Rung { user: None, flags: &["--isolation=userns"], says: "sandbox: user namespace with 4294967295 ids" },
    Rung { user: Some(Ordinary::WithoutRanges), flags: &[], says: "sandbox: user namespace with one id" },
    Rung { user: None, flags: &["--isolation=userns-single"], says: "sandbox: user namespace with one id" },
];

impl Rung {
    /// Whether it is in a user namespace.
    pub fn is_confined(&self) -> bool {
        !self.says.is_empty()
    }

    /// Whether there is one id.
    pub fn has_one_id(&self) -> bool {
        self.says.contains("one id")
    }

    pub fn prepare(&self, bed: &Bed, kiln: Kiln) -> Kiln {
        match self.user {
            Some(user) => kiln.ordinary(bed, user),
            None => kiln,
        }
    }
}

pub fn lacks_users() -> bool {
    unable() || host().lacks(&[Need::Tool("newuidmap"), Need::Tool("unshare")])
}

/// Changes of all kinds: new, changed, replaced and deleted files, links, devices, owners, modes, a user of the image's own. All
/// times are set, so that the layers depend on nothing else.
const CHANGES: &str = "\
FROM busybox
RUN mkdir -p /d/sub && echo one > /d/sub/file && ln -s file /d/sub/link && ln /d/sub/file /d/hard \\
 && chown 1000:33 /d/sub/file && chown -h 5:6 /d/sub/link && chown -R 7:8 /d/sub && chmod 4755 /d/hard && mkfifo -m 600 /d/pipe \\
 && chown 9 /d/pipe && mknod -m 640 /d/null c 1 3 && mknod /d/disk b 8 17 && chown 0:6 /d/disk \\
 && (cd /d/sub && chown 7:44 ../hard) && mkdir -p /d/root/in && cp /bin/busybox /d/root && chroot /d/root /busybox chown 3:4 /in \\
 && find /d -exec touch -h -d @1000000000 {} +
RUN rm -r /d/sub && mkdir /d/sub && echo two > /d/sub/new && rm /d/pipe /bin/arch && echo x:x:70:70::/:/bin/sh >> /etc/passwd \\
 && mkdir -p /home/x && chown x /home/x && touch -d @1000000001 /d/sub/new /d/sub /d /bin /etc/passwd /etc /home/x /home
USER x
RUN echo mine > /home/x/file && chmod 640 /home/x/file && touch -d @1000000002 /home/x/file /home/x
";

#[test]
fn all_rungs_make_the_same_layers() {
    if lacks_users() {
        return;
    }
    let mut expected: Option<Vec<kiln_oci::Digest>> = None;
    for rung in RUNGS {
        let bed = bed();
        dockerfile(&bed, "context", CHANGES);
        let kiln = build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]).env("SOURCE_DATE_EPOCH", "1");
        rung.prepare(&bed, kiln.args(rung.flags)).run().success().says(&[rung.says]);
        bed.assert_tidy();
        let image = Image::fetch(&Source::OciArchive(bed.path("image.tar")));
        let found = image.config.rootfs.diff_ids.clone();
        match &expected {
            None => expected = Some(found),
            Some(expected) => assert_eq!(&found, expected, "under {:?} {:?}", rung.user, rung.flags),
        }
        // What belongs to other ids can be removed again.
        rung.prepare(&bed, bed.kiln(["prune", "--all", "--force"])).run().success();
    }
}

/// Runs the program with its state on an overlay, on which no overlay can write.
fn on_an_overlay(bed: &Bed, mut kiln: Kiln) -> Kiln {
    let folder = bed.path("overlay");
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir_all(folder.join(name)).expect("a folder");
    }
    kiln.among_mounts(
        r#"mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$2"; shift 2; exec "$@""#,
        [folder.into_os_string(), bed.root().into_os_string()],
    );
    kiln
}

#[test]
fn where_there_is_no_overlay_layers_are_copied_and_the_same() {
    if lacks_users() {
        return;
    }
    let bed = bed();
    // More than one layer in a mount, and changes of all that there is.
    let text = format!(
        "{CHANGES}USER root\nRUN --mount=from=busybox,target=/m --mount=type=tmpfs,target=/etc/t test -e /m/bin\n"
    );
    dockerfile(&bed, "context", &text);
    let mut expected = None;
    for rung in [&RUNGS[0], &RUNGS[2], &RUNGS[4]] {
        for is_copied in [false, true] {
            let kiln = build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]).env("SOURCE_DATE_EPOCH", "1");
            let kiln = kiln.arg("--no-cache").args(rung.flags);
            let kiln = if is_copied { on_an_overlay(&bed, kiln) } else { kiln };
            let says: &[&str] = if is_copied { &["layers are copied", "the kernel refuses an overlay"] } else { &[] };
            kiln.run().success().says(says);
            let found = Image::fetch(&Source::OciArchive(bed.path("image.tar"))).config.rootfs.diff_ids.clone();
            assert_eq!(&found, expected.get_or_insert_with(|| found.clone()), "{:?}, copied: {is_copied}", rung.flags);
        }
    }
}

#[test]
fn info_names_the_rung_and_why_it_is_no_stronger() {
    if lacks_users() {
        return;
    }
    let bed = bed();
    let text = bed.kiln(["info"]).run().success().text();
    for line in [
        "isolation:         root (",
        "root file system:  overlay\n",
        "network:           private, through nat",
        "limits: pids, memory, ",
        "seccomp:           default profile\n",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let text = on_an_overlay(&bed, bed.kiln(["info"])).run().success().text();
    assert!(text.contains("a copy of the layers") && text.contains("no overlay: "), "{text}");
    let text = bed.kiln(["info"]).ordinary(&bed, Ordinary::WithRanges).run().success().text();
    assert!(
        text.contains("userns (user namespace with 65537 ids)") && text.contains("no root: this is not root"),
        "{text}"
    );
    let json = bed.kiln(["info", "--format=json"]).ordinary(&bed, Ordinary::WithoutRanges).run().success().text();
    let facts: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(facts["isolation"], "userns-single");
    let reason = facts["refused"]["userns"].as_str().unwrap_or_default();
    assert!(reason.contains("/etc/subuid sets no ids aside"), "{json}");
    assert_eq!(facts["rootfs"]["form"], "overlay-userxattr");
    // The groups of this machine are root's.
    assert_eq!(facts["limits"]["memory"], false);
    assert!(facts["refused_limits"]["memory"].as_str().is_some_and(|reason| reason.contains("`memory`")), "{json}");
    assert!(
        facts["network"]["refused"]["nat"].as_str().is_some_and(|reason| reason.contains("not permitted")),
        "{json}"
    );
    assert_eq!(facts["seccomp"], true);
}

#[test]
fn a_weaker_sandbox_than_asked_for_is_an_error() {
    if lacks_users() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN true\n");
    let run = |flag: &str| build(&bed, "context").arg(flag).ordinary(&bed, Ordinary::WithoutRanges).run();
    let outcome = run("--isolation=root").failure().says(&["isolation `root` cannot be had: this is not root"]);
    assert_eq!(outcome.status.code(), Some(3));
    run("--require-isolation=userns").failure().says(&["`userns` is required", "only `userns-single`", "/etc/subuid"]);
    run("--isolation=jail").failure().says(&["`jail` is no isolation"]);
}
