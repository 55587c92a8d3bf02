//! Owners in a user namespace with one id: to commands, and in the layer, everything is as it would be for root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use kiln_testkit::{Bed, Image, Layer, Need, Ordinary, Source, bases, differences, host};

use crate::fixture::{bed, build, dockerfile, unable};
use crate::rungs::{RUNGS, Rung, lacks_users};

fn debian() -> String {
    format!("debian=oci-layout://{}:debian", bases().layout.display())
}

/// Builds as root and as ordinary users, and expects the same layers.
#[track_caller]
fn assert_same(prepare: impl Fn(&Bed), text: &str) {
    let mut expected: Option<Vec<Layer>> = None;
    let ordinary = RUNGS.iter().filter(|rung| rung.user.is_some());
    for rung in RUNGS.iter().take(1).chain(ordinary) {
        let bed = bed();
        prepare(&bed);
        let layers = layers(rung, &bed, text);
        let Some(expected) = &expected else {
            expected = Some(layers);
            continue;
        };
        // Logs and caches tell the time.
        let chance = |path: &str| ["var/log/", "var/cache/"].iter().any(|top| path.starts_with(top)).then_some(false);
        let found: Vec<String> =
            expected.iter().zip(&layers).flat_map(|(one, other)| differences(one, other, chance)).collect();
        assert!(found.is_empty() && expected.len() == layers.len(), "{:?} {:?}: {found:#?}", rung.user, rung.flags);
    }
}

fn layers(rung: &Rung, bed: &Bed, text: &str) -> Vec<Layer> {
    dockerfile(bed, "context", text);
    let kiln = build(bed, "context").args(["--build-context", &debian(), "-o", "type=oci,dest=image.tar"]);
    rung.prepare(bed, kiln.args(rung.flags).args(["--network=none"])).run().success();
    bed.assert_tidy();
    Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers()
}

/// What is done when the package has been unpacked.
const INSTALLED: &str = r#"#!/bin/sh
set -e
groupadd --system demog
useradd --system --no-create-home --gid demog demo
chown -R demo:demog /var/lib/demo
chown root:demog /usr/bin/demo
chmod 2755 /usr/bin/demo
install -d -o demo -g adm -m 750 /var/log/demo
install -o www-data -g www-data -m 640 /dev/null /var/lib/demo/web
cp -a /var/lib/demo /var/lib/copy
mkdir /taken
tar -C /var/lib -cf - demo | tar -C /taken -xpf -
chown --from=demo 12 /taken/demo/file
mknod /var/lib/demo/device c 1 3
chown 100:200 /var/lib/demo/device
"#;

/// Makes a Debian package with files of others, a program that takes rights, and what is done in its name.
fn package(bed: &Bed) {
    let tree = bed.path("package");
    for (name, content, mode) in [
        (
            "DEBIAN/control",
            "Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.invalid>\nDescription: d\n",
            0o644,
        ),
        ("DEBIAN/postinst", INSTALLED, 0o755),
        ("usr/bin/demo", "#!/bin/sh\n", 0o4755),
        ("var/lib/demo/file", "x", 0o640),
    ] {
        let path = bed.write(Path::new("package").join(name), content);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }
    chown(tree.join("var/lib/demo/file"), Some(33), Some(8)).expect("root may");
    fs::create_dir_all(bed.path("context")).expect("a folder");
    let made = Command::new("dpkg-deb")
        .env("SOURCE_DATE_EPOCH", "1")
        .arg("-b")
        .arg(&tree)
        .arg(bed.path("context/demo.deb"))
        .output();
    let made = made.expect("dpkg-deb");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Installs the package; then runs what looks whether it has become what it wanted, as apt does for its downloads; then is one
/// of the image's own users.
const TEXT: &str = r#"FROM debian
COPY demo.deb /
RUN dpkg -i /demo.deb && useradd -m -u 1500 alice && usermod -aG adm alice && test $(stat -c %u:%g /etc/shadow) = 0:42
RUN userdel demo; chgrp -R 5 /var/lib/copy && find / -xdev -group 5 -exec chmod g+s {} + && mkdir /var/lib/copy/in
RUN install -d -o alice -m 755 /a \
 && su alice -c 'test $(id -u):$(id -un) = 1500:alice && cd /a && umask 27 && echo x > file && mkdir -p d/e && ln -s file link && mkfifo pipe && (exec 3<> both)' \
 && setpriv --reuid=33 --regid=34 --groups=33,50 sh -c 'test "$(id -u) $(id -g) $(id -G)" = "33 34 34 33 50" && mktemp /tmp/made.XXXXXX && rm /tmp/made.*' \
 && setpriv --reuid=33 --regid=34 --clear-groups touch /tmp/touched \
 && su alice -s /bin/bash -c '(until test -e /tmp/seven; do sleep 0.01; done; touch /a/orphan) & exec touch /a/execd' \
 && perl -e '$> = 33; mkdir "/tmp/thirty-three"; $> = 0; mkdir "/tmp/zero"; $) = "7 7"; mkdir "/tmp/seven"' \
 && until test -e /a/orphan; do sleep 0.01; done \
 && su alice -s /bin/bash -c 'test "$(id -G)" = "1500 4" && ulimit -x unlimited && test "$(id -u)" = 1500' \
 && ! su alice -c 'chown 0 /a/file' && ! su alice -c 'mknod /a/device c 1 3'
USER alice
WORKDIR /made/for/her
RUN ! touch /etc/mine && ! mkdir /usr/mine && echo x > /dev/null && touch /tmp/hers && test "$(id -G)" = "1500 4" \
 && test "$(id -u) $(id -un) $HOME" = "1500 alice /home/alice" && cd && echo y > mine && test -O mine && tar -cf t mine && tar -xf t && rm t \
 && cp -a /etc/passwd . && ls -ln mine | grep -q '1500 1500' && passwd --status alice | grep -q alice
"#;

#[test]
fn packages_and_other_users_make_the_same_layers() {
    if lacks_users() || host().lacks(&[Need::Tool("dpkg-deb")]) {
        return;
    }
    assert_same(package, TEXT);
}

#[test]
fn an_id_beyond_the_ranges_is_named_with_what_helps() {
    if lacks_users() {
        return;
    }
    let bed = bed();
    for (text, says) in [
        ("FROM busybox\nRUN touch /x; chown 100000:5 /x\n", "chown: /x: Invalid argument"),
        ("FROM busybox\nUSER 100000\nRUN true\n", "cannot become user 100000: this user namespace has no such id"),
        ("FROM busybox\nCOPY --chown=100000:7 Dockerfile /\nRUN true\n", "cannot change the owner of"),
    ] {
        dockerfile(&bed, "context", text);
        let run = |who| build(&bed, "context").arg("--network=none").ordinary(&bed, who).run();
        run(Ordinary::WithRanges).failure().says(&[says, "--add-subuids", "`--isolation=userns-single` takes any id"]);
        run(Ordinary::WithoutRanges).success();
    }
}

#[test]
fn a_limit_of_file_locks_changes_nobody() {
    if unable() || lacks_users() {
        return;
    }
    for rung in RUNGS.iter().filter(|rung| rung.user.is_some()) {
        let bed = bed();
        dockerfile(&bed, "context", "FROM debian\nRUN useradd bob && test \"$(runuser -u bob -- id -un)\" = bob\n");
        let kiln = build(&bed, "context").args(["--build-context", &debian(), "--ulimit=locks=100"]);
        rung.prepare(&bed, kiln.args(rung.flags)).run().success();
        bed.assert_tidy();
    }
}
