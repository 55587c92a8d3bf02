//! What a command sees, and what of it arrives in the layer.

use kiln_testkit::{Bed, Image, Layer, Source};

use crate::fixture::{bed, build, dockerfile, unable};

fn layers(bed: &Bed, text: &str) -> Vec<Layer> {
    dockerfile(bed, "context", text);
    build(bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().success();
    bed.assert_tidy();
    Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers()
}

#[test]
fn a_command_leaves_only_what_it_wrote() {
    if unable() {
        return;
    }
    let bed = bed();
    let layers = layers(
        &bed,
        "FROM busybox\n\
         RUN cat /etc/hosts /etc/resolv.conf /proc/self/mounts > /dev/null; touch /dev/shm/x /tmp/y && rm /tmp/y; echo hi > /written\n\
         RUN true\n",
    );
    let paths: Vec<_> = layers[1].keys().filter(|path| *path != "tmp").collect();
    assert_eq!(paths, ["written"]);
    assert!(layers[2].is_empty(), "{:?}", layers[2]);
}

#[test]
fn a_command_runs_as_the_user_in_the_folder_with_the_variables() {
    if unable() {
        return;
    }
    let bed = bed();
    let layers = layers(
        &bed,
        "FROM busybox\n\
         RUN echo 'app:x:1000:1000::/home/app:/bin/sh' >> /etc/passwd && echo 'app:x:1000:' >> /etc/group \\\n\
         \u{20} && echo 'tape:x:26:app' >> /etc/group && mkdir -p /home/app /work && chown 1000:1000 /home/app /work\n\
         ENV COLOUR=blue\n\
         ARG SHADE=dark\n\
         USER app\n\
         WORKDIR /work\n\
         RUN test \"$(id -u) $(id -g)\" = '1000 1000' && id -G | grep -qw 26\n\
         RUN test \"$COLOUR $SHADE $PWD\" = 'blue dark /work' && test \"$HOME\" = /home/app && touch made\n\
         USER 33:44\n\
         RUN test \"$(id -u):$(id -g)\" = 33:44\n",
    );
    let made = layers.iter().find_map(|layer| layer.get("work/made")).expect("the file that was made");
    assert_eq!((made.uid, made.gid), (1000, 1000));
}

#[test]
fn a_command_is_shut_in() {
    if unable() {
        return;
    }
    let bed = bed();
    layers(
        &bed,
        "FROM busybox\n\
         RUN mkdir /mnt && ! mount -t tmpfs none /mnt 2>/dev/null\n\
         RUN test \"$(ls -d /proc/[0-9]* | wc -l)\" -le 6\n\
         RUN ! (echo 1 > /proc/sys/vm/drop_caches) 2>/dev/null && ! mkdir /sys/fs/x 2>/dev/null\n\
         RUN test ! -s /proc/kcore && test ! -s /proc/keys && ! ls /proc/scsi/* 2>/dev/null\n\
         RUN for device in null zero full random urandom tty; do test -c /dev/$device; done && test -L /dev/stdin && test -d /dev/pts\n",
    );
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    if unable() {
        return;
    }
    let bed = bed();
    layers(&bed, "FROM busybox\nRUN (trap '' HUP TERM INT; exec sleep 603) & echo started\n");
}

#[test]
fn output_arrives_whole_and_while_the_command_runs() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN echo first; echo to stderr >&2; sleep 2; printf 'no newline'\n");
    let mut running = build(&bed, "context").start();
    running.wait_for(" first\n");
    let outcome = running.wait().success().says(&[" to stderr\n", " no newline"]);
    assert!(outcome.took.as_secs_f64() >= 2.0);
    let lines: String = (1..=3000).map(|number| format!("{number} ")).collect();
    dockerfile(&bed, "context", "FROM busybox\nRUN for i in $(seq 3000); do printf \"$i \"; done; echo\n");
    let outcome = build(&bed, "context").run().success();
    let said: String = outcome.stderr.lines().filter(|line| line.contains("1 2 3 ")).collect();
    assert!(said.contains(lines.trim()), "{outcome}");
}
