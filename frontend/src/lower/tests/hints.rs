//! What errors suggest.

use super::*;

#[track_caller]
fn check(text: &str, hint: &str) {
    let (file, parsed) = crate::dockerfile::parse(text);
    let found = match first_error(&parsed) {
        Some(found) => found.clone(),
        None => {
            assert_eq!(file.instructions.len(), text.trim().lines().filter(|line| !line.starts_with('#')).count());
            lower_text(text, &request(), &BTreeMap::new()).result.expect_err("a mistake")
        }
    };
    assert_eq!(found.hint.as_deref(), Some(hint), "for {text:?}");
    assert!(!found.lines.is_empty(), "for {text:?}");
}

#[test]
fn a_name_that_no_stage_has_is_told_with_those_that_stages_have() {
    let one = "no stage is named `biulder`; the only stage with a name is `builder`; did you mean `builder`?";
    check("FROM scratch AS builder\nFROM scratch\nCOPY --from=biulder /x /x\n", one);
    check("FROM scratch AS builder\nFROM scratch\nRUN --mount=type=bind,from=biulder,target=/x true\n", one);
    check("FROM scratch AS builder\nFROM biulder\n", one);
    let two = "FROM scratch AS a1\nFROM scratch AS b1\nFROM scratch\n";
    check(
        &format!("{two}COPY --from=nothing / /\n"),
        "no stage is named `nothing`; the stages of this file are `a1`, `b1`",
    );
    check(
        &format!("{two}COPY --from=A2 / /\n"),
        "no stage is named `A2`; the stages of this file are `a1`, `b1`; did you mean `a1`?",
    );
    check(&format!("{two}COPY --from=3 / /\n"), "the stages of this file are numbered from 0 to 2");
    let many: String = (0..50).map(|number| format!("FROM scratch AS s{number}\n")).collect();
    let found = lower_text(&format!("{many}COPY --from=x / /\n"), &request(), &BTreeMap::new()).result.unwrap_err();
    assert!(found.hint.unwrap().contains("`s19`, …"), "not all of them");
}

#[test]
fn an_image_is_not_taken_for_a_stage() {
    for name in ["example.org/x", "debian:12", "nothing"] {
        let text = format!("FROM scratch AS builder\nFROM {name}\n");
        assert_eq!(lower_text(&text, &request(), &BTreeMap::new()).result.unwrap_err().hint, None);
    }
}

#[test]
fn what_people_often_get_wrong_has_a_hint() {
    let check = |line: &str, hint: &str| check(&format!("FROM scratch\n{line}\n"), hint);
    let comment = "a comment has a line of its own: `#` behind an instruction is one of its arguments";
    let quote = "close the quote; a quote that is meant as a character is written with the escape character before it";
    let brace = "close the `${…}`; a `$` that is meant as a character is written with the escape character before it";
    let port = "a port is a number up to 65535, or a range of rising numbers such as `8000-8010`";
    let units = "the units are `h`, `m`, `s`, `ms`, `us` and `ns`";
    let command = "a command stands behind RUN; a line that goes on with the one above needs a `\\` at the end of that";
    let mode = "write octal digits such as `755`, or changes such as `u=rwX,go=rX`";
    for (line, hint) in [
        ("FROM busybox # the base", comment),
        ("ENV a=b # a comment", comment),
        ("EXPOSE 80 # web", comment),
        ("FROM ${X:?a b}", "FROM takes the image as one word: a `${…}` in it can have no blanks, not even in quotes"),
        ("FROM busybox AS", "name the stage behind AS"),
        ("FROM busybox AS my app", "the name of a stage is one word, without blanks"),
        ("FROM busybox: latest", "the form is `FROM IMAGE [AS NAME]`"),
        ("FROM busybox AS 1", "a name starts with a letter, and has letters, digits, `-`, `_` and `.` in it"),
        ("FROM https://a/b", "an image is not named by a URL: write `a/b`"),
        ("FROM busybox:$TAG", "the tag behind `busybox` is empty; a variable in it has no value?"),
        ("FROM Busybox", "names of images and stages are in lower case: write `busybox`"),
        ("FROM $BASE", "declare it with `ARG BASE=…` before the first FROM"),
        ("ARG BASE=busybox\nFROM $BASE", "FROM sees only ARGs before the first FROM: move `ARG BASE` up there"),
        ("FROM --platform=foo busybox", "a platform is `os/architecture`, such as `linux/amd64` or `linux/arm64`"),
        ("COPY a", "the form is `COPY SOURCE… DESTINATION`; the destination may be `.`, the working directory"),
        ("COPY \"a /b", quote),
        ("COPY --chmod=789 a b", mode),
        ("COPY --chmod=u+x,y a b", mode),
        ("COPY --link=1 a b", "write `--link` or `--link=false`"),
        ("WORKDIR", "the form is `WORKDIR PATH`"),
        ("WORKDIR --x /a", "this instruction takes no flags"),
        ("ADD --checksum=sha256:0 http://a/b /", "it is `sha256:` and 64 hexadecimal digits"),
        ("ENV a=\"b c", quote),
        ("ENV a=${b", brace),
        ("ENV a=${b:-c", brace),
        (
            "ENV a=${b:=c}",
            "nothing can be assigned here: `${name:-default}` takes a default, and `ARG name=default` sets one",
        ),
        (
            "ENV a=${b^^}",
            "there are `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/` and `//`; a shell knows more, in RUN",
        ),
        ("ENV a=${b:?c}", "give it a value before this line; one that an ARG declares can have it from `--build-arg`"),
        ("ENV a=${b:?c d}", "blanks end a value, also inside of `${…}`: put the whole value in quotes"),
        ("ENV a=b c", "put a value with blanks in it in quotes"),
        ("EXPOSE 80/http", "the protocols are `tcp`, `udp` and `sctp`"),
        ("EXPOSE 80,443", "put blanks between ports, not commas"),
        ("EXPOSE http", port),
        ("EXPOSE 90-80", port),
        ("EXPOSE host:8080:80", "EXPOSE names the port of the container alone; `docker run -p` connects it"),
        ("HEALTHCHECK --interval=5 CMD x", &format!("did you mean `5s`? {units}")),
        ("HEALTHCHECK --interval=2min CMD x", &format!("did you mean `2m`? {units}")),
        ("HEALTHCHECK --interval=1d CMD x", units),
        ("HEALTHCHECK --interval=5us CMD x", "0 leaves it to whoever runs the container"),
        ("HEALTHCHECK --interval 5s CMD x", "write `--interval=VALUE`, without blanks"),
        ("HEALTHCHECK --retries=x CMD x", "give a number; 0 leaves it to whoever runs the container"),
        ("HEALTHCHECK curl localhost", "write `HEALTHCHECK CMD curl localhost`"),
        ("SHELL /bin/sh -c", "write it with double quotes, as `SHELL [\"/bin/bash\", \"-c\"]`"),
        ("CMD [\"sleep\", 5]", "put every item in double quotes, numbers too"),
        (
            "RUN --mount=type=cache x",
            "say where it is to be: `target=/path`; without, it would be the working directory",
        ),
        ("RUN --mount=type=cache, target=/x x", "the options stand together, with a comma and no blank between them"),
        ("RUN --mount=type=cache,target=/x,mode=9 x", "a mode has octal digits, such as `0755`"),
        (
            "RUN --mount=from=$x,target=/x x",
            "name a stage: `FROM image-with-$VARIABLE AS name`, and `from=name` in the mount",
        ),
        ("apt-get update", command),
        ("&& echo x", "a line that goes on with the one above needs a `\\` at the end of that"),
        ("<<<<<<< HEAD", "this is a mark of a merge conflict that nobody has resolved"),
        ("services:", "this looks like YAML; `-f` names the build file"),
    ] {
        check(line, hint);
    }
}

#[test]
fn values_have_neighbours_too() {
    check("FROM scratch\nRUN --network=hsot x\n", "use `default`, `none` or `host`");
    check("FROM scratch\nRUN --security=no x\n", "use `sandbox` or `insecure`");
    check("FROM scratch\nSTOPSIGNAL sigtrem\n", "did you mean SIGTERM?");
    check("FROM scratch\nSTOPSIGNAL x\n", "name a signal as `kill -l` does, or give its number");
    check("FROM scratch\nSTOPSIGNAL nothing\n", "name a signal as `kill -l` does, or give its number");
    check(
        "# check=skp=all\nFROM scratch\n",
        "the options are `skip=RULE,…`, `experimental=RULE,…` and `error=true`, with `;` between them",
    );
}
