//! The Dockerfile language, where its effect can be seen in the image.

use kiln_testkit::{Bed, Container, Image, Kind, Layer, Source, flatten};

use crate::fixture::{bed, build, dockerfile, unable};

fn image(bed: &Bed, text: &str) -> Image {
    dockerfile(bed, "context", text);
    build(bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().success();
    bed.assert_tidy();
    Image::fetch(&Source::OciArchive(bed.path("image.tar")))
}

/// The last layer, which is what the last instruction made.
fn last(bed: &Bed, text: &str) -> Layer {
    image(bed, text).layers().pop().expect("a layer")
}

fn paths(layer: &Layer) -> Vec<&str> {
    layer.iter().filter(|(_, entry)| entry.kind != Kind::Directory).map(|(path, _)| path.as_str()).collect()
}

#[test]
fn copy_puts_files_where_it_should() {
    if unable() {
        return;
    }
    let bed = bed();
    for name in ["a.txt", "b.txt", "dir/c.txt", "dir/deep/d.txt", "dir two/e.txt"] {
        bed.write(format!("context/{name}"), name);
    }
    for (copy, expected) in [
        ("COPY a.txt /x", &["x"][..]),
        ("COPY a.txt /x/", &["x/a.txt"]),
        ("COPY a.txt b.txt /x/", &["x/a.txt", "x/b.txt"]),
        ("COPY *.txt /x/", &["x/a.txt", "x/b.txt"]),
        ("COPY dir /x", &["x/c.txt", "x/deep/d.txt"]),
        ("COPY dir/ /x/y/", &["x/y/c.txt", "x/y/deep/d.txt"]),
        ("COPY [\"dir two/e.txt\", \"/x y/\"]", &["x y/e.txt"]),
        ("COPY ?.txt d*/c.txt x/", &["x/a.txt", "x/b.txt", "x/c.txt"]),
        ("COPY <<end /here\n one\n two\nend", &["here"]),
    ] {
        let layer = last(&bed, &format!("FROM busybox\n{copy}\n"));
        assert_eq!(paths(&layer), expected, "{copy}");
        assert!(layer.values().all(|entry| (entry.uid, entry.gid) == (0, 0)), "{copy}: {layer:?}");
    }
}

#[test]
fn a_wildcard_may_match_nothing_and_a_name_may_not() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/a.txt", "x");
    assert_eq!(paths(&last(&bed, "FROM busybox\nCOPY *.jar a.tx? /app/\n")), ["app/a.txt"]);
    dockerfile(&bed, "context", "FROM busybox\nCOPY b.txt /app/\n");
    build(&bed, "context").run().failure().says(&["Dockerfile:2", "b.txt"]);
}

#[test]
fn copy_changes_owners_and_modes() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/dir/file", "x");
    let layer = last(&bed, "FROM busybox\nCOPY --chown=nobody:wheel --chmod=750 dir /x\n");
    for path in ["x", "x/file"] {
        let entry = &layer[path];
        assert_eq!((entry.uid, entry.gid, entry.mode), (65534, 10, 0o750), "{path}");
    }
    let layer = last(&bed, "FROM busybox\nCOPY --chown=7 dir/file /x\n");
    assert_eq!((layer["x"].uid, layer["x"].gid), (7, 7));
}

#[test]
fn add_unpacks_archives_and_copies_the_rest() {
    if unable() {
        return;
    }
    let bed = bed();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o640);
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(1_000_000_000);
    archive.append_data(&mut header, "inside/file", &b"hello"[..]).expect("memory");
    let plain = archive.into_inner().expect("memory");
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zipped, &plain).expect("memory");
    bed.write("context/plain.tar", &plain);
    bed.write("context/zipped.tar.gz", zipped.finish().expect("memory"));
    bed.write("context/not.tar", "no archive at all");
    for name in ["plain.tar", "zipped.tar.gz"] {
        let layer = last(&bed, &format!("FROM busybox\nADD {name} /x/\n"));
        assert_eq!(paths(&layer), ["x/inside/file"], "{name}");
        let file = &layer["x/inside/file"];
        assert_eq!((file.uid, file.gid, file.mode), (12, 34, 0o640), "{name}");
    }
    assert_eq!(paths(&last(&bed, "FROM busybox\nADD not.tar /x/\n")), ["x/not.tar"]);
    assert_eq!(paths(&last(&bed, "FROM busybox\nCOPY plain.tar /x/\n")), ["x/plain.tar"]);
}

#[test]
fn documents_continuations_shells_and_variables() {
    if unable() {
        return;
    }
    let bed = bed();
    let image = image(
        &bed,
        "# syntax=docker/dockerfile:1\n\
         # escape=`\n\
         ARG TAG=busybox\n\
         FROM ${TAG} AS first\n\
         ENV A=1 B=\"two words\" C=${D:-three}\n\
         ENV A=2 E=$A\n\
         RUN <<end\n\
         set -e\n\
         echo \"$A $B $C $E\" > /variables\n\
         end\n\
         RUN echo one `\n\
         \u{20}   # a comment in between\n\
         \u{20}   two > /continued\n\
         SHELL [\"/bin/sh\", \"-ec\"]\n\
         RUN false || echo \"shell ${0}\" > /shell\n\
         FROM first\n\
         COPY --from=0 /variables /from-index\n\
         COPY --from=first /continued /from-name\n\
         ENTRYPOINT [\"/bin/sh\", \"-c\", \"cat /variables /from-index /from-name\"]\n\
         STOPSIGNAL SIGUSR1\n\
         VOLUME /data\n\
         MAINTAINER nobody\n",
    );
    assert_eq!(Container::of(&image).output(), "2 two words three 1\n2 two words three 1\none two\n");
    let config = &image.config.config;
    assert_eq!(config.stop_signal, "SIGUSR1");
    assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data"]);
    assert!(config.cmd.is_empty(), "an ENTRYPOINT drops the base's CMD: {:?}", config.cmd);
    assert_eq!(image.config.author.as_deref(), Some("nobody"));
    let layers = image.config.history.iter().filter(|step| !step.empty_layer).count();
    assert_eq!(layers, image.manifest.layers.len(), "{:?}", image.config.history);
}

#[test]
fn triggers_of_a_base_run_in_the_next_build() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "base", "FROM busybox\nONBUILD COPY app /app\nONBUILD RUN cat /app > /seen\n");
    build(&bed, "base").args(["-t", "team/onbuild:1"]).run().success();
    bed.write("context/app", "payload\n");
    let image = image(&bed, "FROM team/onbuild:1\nCMD [\"cat\", \"/seen\"]\n");
    assert_eq!(Container::of(&image).output(), "payload\n");
    assert!(image.config.config.on_build.is_empty());
}

#[test]
fn what_takes_the_place_of_another_kind_hides_it() {
    if unable() {
        return;
    }
    let bed = bed();
    // A file where there was a folder, a folder where there was a file, a folder made anew.
    let image = image(
        &bed,
        "FROM busybox\n\
         RUN mkdir -p /a/below && echo 1 > /b\n\
         RUN rm -rf /a && echo now a file > /a && rm /b && mkdir /b && echo 2 > /b/inside\n\
         RUN rm -rf /b && mkdir /b && echo 3 > /b/other\n",
    );
    let tree = flatten(&image.layers());
    let of = |path: &str| {
        paths(&tree).into_iter().filter(|known| known.starts_with(path)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), ["a"]);
    assert_eq!(of("b/"), ["b/other"]);
    assert_eq!(Container::of(&image).command(&["sh", "-c", "cat /a /b/*; ls /b"]).output(), "now a file\n3\nother\n");
}
