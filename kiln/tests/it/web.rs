//! ADD and contexts from web servers, which count what they are asked.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kiln_testkit::context::{Compression, Entry, Kind, archive};
use kiln_testkit::tls::Authority;
use kiln_testkit::{Bed, Kiln, Manner, Need, Request, Response, Server, host};

use crate::fixture::{bed, dockerfile};

const TIME: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

const COMPRESSIONS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd];

/// A server that remembers what it was asked: method, path and Authorization.
struct Web {
    server: Server,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn new(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let ours = asked.clone();
        let server = Server::start(move |request| {
            let mut line = format!("{} {}", request.method, request.path());
            for name in ["if-none-match", "authorization"] {
                line.extend(request.header(name).map(|value| format!(" {name}={value}")));
            }
            ours.lock().expect("no panic").push(line);
            answer(request)
        });
        Self { server, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    /// What it was asked since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

/// Builds into the folder `out`.
fn build(bed: &Bed, context: &str) -> Kiln {
    let _ = fs::remove_dir_all(bed.path("out"));
    bed.kiln(["build", "--progress=plain", "-o", "out", context])
}

fn add(bed: &Bed, line: &str) -> Kiln {
    dockerfile(bed, "context", &format!("FROM scratch\nADD {line}\n"));
    build(bed, "context")
}

fn read(bed: &Bed, path: &str) -> String {
    fs::read_to_string(bed.path("out").join(path)).expect("a file of the result")
}

fn file(path: &str, content: &str) -> Entry {
    Entry { path: path.into(), content: content.into(), ..Entry::default() }
}

#[test]
fn an_unchanged_file_is_asked_about_once() {
    let version = Arc::new(Mutex::new("one"));
    let current = version.clone();
    let web = Web::new(move |request| {
        let version = *current.lock().expect("no panic");
        let etag = format!("W/\"{version}\"");
        if request.header("if-none-match").is_some_and(|known| etag.ends_with(known)) {
            return Response::new(304);
        }
        Response::new(200).header("ETag", &*etag).header("Last-Modified", TIME).body(version)
    });
    let bed = bed();
    let line = format!("{} /", web.url("/f"));
    add(&bed, &line).run().success();
    assert_eq!(web.asked(), ["GET /f"]);
    let found = fs::metadata(bed.path("out/f")).expect("the file");
    assert_eq!((found.permissions().mode() & 0o7777, found.mtime()), (0o600, 1_000_000_000));

    let again = add(&bed, &line).run().success();
    assert_eq!(web.asked(), ["HEAD /f if-none-match=\"one\""]);
    assert_eq!(again.cached().len(), 1, "{again}");

    *version.lock().expect("no panic") = "two";
    add(&bed, &line).run().success();
    assert_eq!(web.asked(), ["HEAD /f if-none-match=\"one\"", "GET /f if-none-match=\"one\""]);
    assert_eq!(read(&bed, "f"), "two");

    // The same content from elsewhere is the same step.
    let other = add(&bed, &format!("{} /", web.url("/other/f"))).run().success();
    assert_eq!(web.asked(), ["GET /other/f"]);
    assert_eq!(read(&bed, "f"), "two");
    assert_eq!(other.cached().len(), 1, "{other}");
}

#[test]
fn every_known_version_is_asked_about() {
    let state = Arc::new(Mutex::new(("one", true)));
    let current = state.clone();
    let web = Web::new(move |request| {
        let (version, names_it) = *current.lock().expect("no panic");
        let known = request.header("if-none-match").unwrap_or_default();
        let response = Response::new(if known.contains(version) { 304 } else { 200 });
        let response = if response.status == 200 { response.body(version) } else { response };
        if names_it || response.status == 200 { response.header("ETag", format!("\"{version}\"")) } else { response }
    });
    let bed = bed();
    let line = format!("{} /", web.url("/f"));
    let serve = |version, names_it, asked: &[&str]| {
        *state.lock().expect("no panic") = (version, names_it);
        let outcome = add(&bed, &line).run().success();
        assert_eq!(read(&bed, "f"), version, "{outcome}");
        assert_eq!(web.asked(), asked, "{outcome}");
    };
    serve("one", true, &["GET /f"]);
    serve("two", true, &["HEAD /f if-none-match=\"one\"", "GET /f if-none-match=\"one\""]);
    // Back to what it was: it is here.
    serve("one", true, &["HEAD /f if-none-match=\"two\", \"one\""]);
    serve("two", true, &["HEAD /f if-none-match=\"two\", \"one\""]);
    // It is one of them, and the server does not say which.
    let unsaid = ["HEAD /f if-none-match=\"two\", \"one\"", "GET /f if-none-match=\"two\", \"one\"", "GET /f"];
    serve("one", false, &unsaid);
    bed.assert_tidy();
}

#[test]
fn a_file_whose_checksum_is_here_is_not_asked_for() {
    let web = Web::new(|_| Response::new(200).body("hello"));
    let bed = bed();
    let sum = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    add(&bed, &format!("{} /a/", web.url("/f"))).run().success();
    assert_eq!(web.asked().len(), 1);
    add(&bed, &format!("--checksum={sum} {} /b/", web.url("/f"))).run().success();
    add(&bed, &format!("--checksum={sum} {} /c/", web.url("/elsewhere/f"))).run().success();
    assert_eq!(web.asked(), [""; 0]);
    assert_eq!(read(&bed, "c/f"), "hello");

    let wrong = format!("sha256:{}", "0".repeat(64));
    let outcome = add(&bed, &format!("--checksum={wrong} {} /d/", web.url("/f"))).run().failure();
    outcome.says(&[&format!("digest mismatch {sum}: {wrong}"), "Dockerfile:2"]);
    bed.assert_tidy();
}

#[test]
fn credentials_go_to_their_host_alone() {
    let other = Web::new(|_| Response::new(200).body("moved"));
    let target = other.url("/target");
    let web = Web::new(move |request| match request.header("authorization") {
        Some("Bearer s3cret") => Response::new(302).header("Location", &*target),
        _ => Response::new(401),
    });
    let bed = bed();
    bed.write("token", "s3cret\n");
    let line = format!("{} /", web.url("/f"));
    add(&bed, &line).run().failure().says(&["invalid response status 401", "HTTP_AUTH_TOKEN_127.0.0.1"]);
    web.asked();
    let outcome = add(&bed, &line).args(["--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,src=token"]).run().success();
    assert_eq!(read(&bed, "f"), "moved");
    assert_eq!(web.asked(), ["GET /f authorization=Bearer s3cret"]);
    assert_eq!(other.asked(), ["GET /target"]);
    assert!(!outcome.stderr.contains("s3cret"), "{outcome}");
    add(&bed, &line).args(["--secret", "id=HTTP_AUTH_HEADER_127.0.0.1,env=H"]).env("H", "Basic abc").run().failure();
    assert_eq!(web.asked(), ["GET /f authorization=Basic abc"]);
}

#[test]
fn servers_show_a_certificate_on_this_machine_too() {
    if host().lacks(&[Need::Tool("openssl")]) {
        return;
    }
    let authority = Authority::new();
    let file = |_: &Request| Response::new(200).body("over TLS");
    let (good, alone) = (Server::start_tls(authority.server(), file), Server::start_tls(authority.self_signed(), file));
    let sent = format!("https://{}/f", alone.address());
    let web = Web::new(move |_| Response::new(302).header("Location", &*sent));
    let bed = bed();
    let own = authority.certificate();
    let trusting = |address: &str| {
        add(&bed, &format!("{address} /")).env("SSL_CERT_FILE", &own).env("KILN_INSECURE_REGISTRIES", "127.0.0.1")
    };
    let refused = ["failed to load cache key", "certificate", "hint: ", "SSL_CERT_FILE"];
    let address = format!("https://{}/f", good.address());
    add(&bed, &format!("{address} /")).run().failure().says(&refused);
    trusting(&address).run().success();
    assert_eq!(read(&bed, "f"), "over TLS");
    trusting(&format!("https://{}/f", alone.address())).run().failure().says(&refused);
    trusting(&web.url("/f")).run().failure().says(&refused);
    // Contexts and build files are no different.
    for arguments in [[&*address, "--no-cache"], ["context", &format!("-f={address}")]] {
        build(&bed, arguments[0]).arg(arguments[1]).run().failure().says(&refused);
    }
    bed.assert_tidy();
}

#[test]
fn downloads_that_break_off_are_begun_again() {
    let count = Mutex::new(0);
    let web = Web::new(move |request| {
        let mut count = count.lock().expect("no panic");
        *count += 1;
        let response = Response::new(200).body("whole");
        match request.path() {
            "/once" if *count == 1 => Response { manner: Manner::Cut(2), ..response },
            "/always" => Response { manner: Manner::Cut(2), ..response },
            _ => response,
        }
    });
    let bed = bed();
    add(&bed, &format!("{} /f", web.url("/once"))).run().success();
    assert_eq!(read(&bed, "f"), "whole");
    assert_eq!(web.asked(), ["GET /once", "GET /once"]);
    let outcome = add(&bed, &format!("{} /g", web.url("/always"))).run().failure();
    outcome.says(&["failed to load cache key", "127.0.0.1"]);
    assert_eq!(web.asked().len(), 3);
    bed.assert_tidy();
}

#[test]
fn downloads_end_however_much_is_sent_or_nothing() {
    // Zeros that are nothing on the way. Gzip alone makes a thousandth of them; members of it make no difference.
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut zeros, &vec![0; 16 << 20]).expect("memory");
    let bomb = zeros.finish().expect("memory").repeat(5);
    let (sender, asked) = std::sync::mpsc::channel();
    let web = Web::new(move |request| match request.path() {
        "/bomb" => Response::new(200).header("Content-Encoding", "gzip").body(&bomb[..]),
        "/cut" => Response::new(200).header("Content-Encoding", "gzip").body(&bomb[..1000]),
        "/large" => Response::new(200).body(vec![b'#'; 17 << 20]),
        _ => {
            let _ = sender.send(());
            Response { manner: Manner::Stall(1), ..Response::new(200).body("slow") }
        }
    });
    let bed = bed();
    add(&bed, &format!("{} /f", web.url("/bomb"))).run().failure().says(&["grows beyond all measure", "Dockerfile:2"]);
    add(&bed, &format!("{} /f", web.url("/cut"))).run().failure().says(&["failed to load cache key"]);
    // No build file is so large, so no more of it is fetched.
    build(&bed, "context").args(["-f", &web.url("/large")]).run().failure().says(&["more than is allowed"]);
    let running = add(&bed, &format!("{} /f", web.url("/never"))).start();
    asked.recv_timeout(Duration::from_secs(60)).expect("a request");
    let pressed = Instant::now();
    running.interrupt();
    let outcome = running.wait().failure();
    assert!(pressed.elapsed() < Duration::from_secs(15), "{outcome}");
    assert_eq!(outcome.status.code(), Some(130), "{outcome}");
    bed.assert_tidy();
}

#[test]
fn addresses_that_lead_astray_are_refused() {
    let web = Web::new(|request| match request.path() {
        "/file" => Response::new(302).header("Location", "file:///etc/passwd"),
        "/circle" => Response::new(302).header("Location", "/circle"),
        _ => Response::new(404),
    });
    let bed = bed();
    add(&bed, &format!("{} /", web.url("/file"))).run().failure().says(&["not HTTP"]);
    add(&bed, &format!("{} /", web.url("/circle"))).run().failure().says(&["circles"]);
    dockerfile(&bed, "context", "FROM scratch\nARG U\nADD \"$U\" /\n");
    let line = web.url("/a\r\nX-Injected: yes");
    web.asked();
    build(&bed, "context").args(["--build-arg", &format!("U={line}")]).run().failure().says(&["character '\\r'"]);
    assert_eq!(web.asked(), [""; 0]);
    // Neither is fetched: they are paths in the context, where they are not.
    add(&bed, "file:///etc/passwd /").run().failure().says(&["not found"]);
    bed.assert_tidy();
}

#[test]
fn a_fetched_archive_is_unpacked_when_asked_to_be() {
    let bytes = archive(&[file("in/f", "x")], Compression::Xz).expect("an archive");
    let web = Web::new(move |_| Response::new(200).body(&bytes[..]));
    let bed = bed();
    let url = web.url("/a.tar.xz");
    add(&bed, &format!("--unpack {url} /o/")).run().success();
    assert_eq!(read(&bed, "o/in/f"), "x");
    add(&bed, &format!("--chmod=640 {url} /o/")).run().success();
    assert_eq!(fs::metadata(bed.path("out/o/a.tar.xz")).expect("the file").permissions().mode() & 0o7777, 0o640);
}

#[test]
fn a_context_is_an_archive_or_a_build_file() {
    let entries = [file("Dockerfile", "FROM scratch\nCOPY . /o/\n"), file("d/f", "x"), file(".dockerignore", "d\n")];
    let bytes = archive(&entries, Compression::Gzip).expect("an archive");
    let web = Web::new(move |request| match request.path() {
        "/context.tgz" => Response::new(200).header("ETag", "\"1\"").body(&bytes[..]),
        "/other" => Response::new(200).body("FROM scratch\nCOPY local /o/\n"),
        _ => Response::new(200).body("FROM scratch\nCOPY --from=more context /more\nCOPY . /o/\n"),
    });
    let bed = bed();
    build(&bed, &web.url("/context.tgz")).run().success();
    // No ignore file counts in such a context.
    assert_eq!(read(&bed, "o/d/f"), "x");
    web.asked();
    let again = build(&bed, &web.url("/context.tgz")).run().success();
    assert_eq!((web.asked(), again.cached().len()), (vec!["HEAD /context.tgz if-none-match=\"1\"".to_owned()], 1));

    let more = format!("more={}", web.url("/other"));
    build(&bed, &web.url("/Dockerfile?raw=1")).args(["--build-context", &more]).run().success();
    assert_eq!(read(&bed, "o/context"), "FROM scratch\nCOPY --from=more context /more\nCOPY . /o/\n");
    assert_eq!(read(&bed, "more"), "FROM scratch\nCOPY local /o/\n");

    // A build file alone, for a context that is here.
    bed.write("context/local", "here");
    build(&bed, "context").args(["-f", &web.url("/other")]).run().success();
    assert_eq!(read(&bed, "o/local"), "here");
    build(&bed, &web.url("/context.tgz")).args(["-f", "nope"]).run().failure().says(&["open nope: no such file"]);
    bed.assert_tidy();
}

#[test]
fn standard_input_is_an_archive_or_a_build_file() {
    let bed = bed();
    let entries = [
        file("Dockerfile", "FROM scratch\nCOPY f /\n"),
        file("sub/Other", "FROM scratch\nCOPY f /g\n"),
        file("f", "x"),
    ];
    for compression in COMPRESSIONS {
        let bytes = archive(&entries, compression).expect("an archive");
        build(&bed, "-").input(&bytes[..]).run().success();
        assert_eq!(read(&bed, "f"), "x", "{compression:?}");
        let again = build(&bed, "-").input(&bytes[..]).run().success();
        assert_eq!(again.cached().len(), 1, "{compression:?}: {again}");
        build(&bed, "-").args(["-f", "sub/Other"]).input(bytes).run().success();
        assert_eq!(read(&bed, "g"), "x", "{compression:?}");
    }
    build(&bed, "-").input("FROM scratch\nWORKDIR /w\n").run().success();
    // An archive is as old as the newest file in it.
    let dated = Entry { mtime: Some(1_234_567_890), ..file("Dockerfile", "FROM scratch\nWORKDIR /w\n") };
    let bytes = archive(&[dated, file("f", "")], Compression::None).expect("an archive");
    build(&bed, "-").args(["--build-arg", "SOURCE_DATE_EPOCH=context"]).input(bytes).run().success();
    assert_eq!(fs::metadata(bed.path("out/w")).expect("a folder").mtime(), 1_234_567_890);
    let outcome = build(&bed, "-").args(["-f", "x"]).input("FROM scratch\n").run().failure();
    outcome.says(&["ambiguous Dockerfile source"]);
    build(&bed, "-").input("FROM scratch\nCOPY a /\n").run().failure().says(&["the context is empty"]);
    build(&bed, "-").args(["-f", "-"]).input("FROM scratch\n").run().failure().says(&["can't use stdin for both"]);
    bed.assert_tidy();
}

#[test]
fn the_time_of_the_build_is_that_of_a_context_or_of_a_stage() {
    let dated = Entry { mtime: Some(1_234_567_890), ..file("f", "x") };
    let bytes = archive(&[dated, file("g", "")], Compression::Gzip).expect("an archive");
    let web = Web::new(move |request| match request.path() {
        "/dated" => Response::new(200).header("Last-Modified", TIME).body("x"),
        "/f.tgz" => Response::new(200).body(&bytes[..]),
        _ => Response::new(200).body("x"),
    });
    let bed = bed();
    let time = |stage: &str, flags: &[&str]| -> String {
        let text = format!(
            "ARG SOURCE_DATE_EPOCH\nARG NAME=dated\n{stage}\nFROM scratch\nARG SOURCE_DATE_EPOCH\n\
             COPY <<A /at\n${{SOURCE_DATE_EPOCH-none}}\nA\n"
        );
        dockerfile(&bed, "context", &text);
        build(&bed, "context").args(flags).run().success();
        read(&bed, "at").trim_end().to_owned()
    };
    let other = |path: &str| format!("other={}", web.url(path));
    for (path, expected) in [("/dated", "1000000000"), ("/f.tgz", "1234567890"), ("/undated", "none")] {
        let flags = ["--build-arg=SOURCE_DATE_EPOCH=other", "--build-context", &other(path)];
        assert_eq!(time("", &flags), expected, "{path}");
    }
    fs::create_dir(bed.path("empty")).expect("a folder");
    let local = ["--build-arg=SOURCE_DATE_EPOCH=other", "--build-context=other=empty"];
    assert_eq!(time("", &local), "none");
    let stage = format!("FROM scratch AS source\nARG NAME\nADD {}$NAME /", web.url("/"));
    for (flags, expected) in [(&[][..], "1000000000"), (&["--build-arg=NAME=f.tgz"], "1234567890")] {
        let flags = [&["--build-arg=SOURCE_DATE_EPOCH=source"], flags].concat();
        assert_eq!(time(&stage, &flags), expected);
    }
    web.asked();
    let told = build(&bed, "context").args(["--build-arg=SOURCE_DATE_EPOCH=source", "--call=check"]).run().success();
    assert!(told.text().contains("no warnings"), "{told}");
    dockerfile(&bed, "context", "FROM scratch AS source\nADD http://127.0.0.1:9/nope /\nFROM scratch\n");
    let failed = build(&bed, "context").arg("--build-arg=SOURCE_DATE_EPOCH=source").run().failure();
    failed.says(&["cannot take SOURCE_DATE_EPOCH", "127.0.0.1"]);
    bed.assert_tidy();
}

/// What is in `out` after a build whose context is this archive; or what the build said.
fn hostile(bed: &Bed, entries: &[Entry]) -> Result<Vec<String>, String> {
    let all = [&[file("Dockerfile", "FROM scratch\nCOPY . /\n")], entries].concat();
    let bytes = archive(&all, Compression::None).expect("an archive");
    let outcome = build(bed, "-").input(bytes).run();
    bed.assert_tidy();
    if !outcome.status.success() {
        return Err(outcome.failure().stderr);
    }
    let mut names: Vec<String> = fs::read_dir(bed.path("out"))
        .expect("the result")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "Dockerfile")
        .collect();
    names.sort();
    Ok(names)
}

#[test]
fn an_archive_cannot_leave_its_context() {
    let bed = bed();
    let victim = bed.write("victim", "safe");
    let outside = victim.to_str().expect("a path");
    let special =
        |path: &str, kind, link: &str| Entry { path: path.into(), kind, link: link.into(), ..Entry::default() };
    assert_eq!(hostile(&bed, &[file("../../up", "x"), file("/etc/abs", "x")]), Ok(vec!["etc".into(), "up".into()]));
    let error = hostile(&bed, &[special("l", Kind::Hardlink, outside)]).expect_err("a hard link out");
    assert!(error.contains("no such file"), "{error}");
    // Through a symlink of the archive: inside the context, where the way ends.
    let error = hostile(
        &bed,
        &[
            special("d", Kind::Symlink, outside),
            file("d", "x"),
            special("e", Kind::Symlink, "/nowhere"),
            file("e/f", "x"),
        ],
    );
    assert!(error.as_ref().is_err_and(|error| error.contains("no such file or directory")), "{error:?}");
    let found = hostile(&bed, &[special("r", Kind::Symlink, "/"), file("r/f", "x")]).expect("it stays inside");
    assert_eq!(found, ["f", "r"]);
    assert_eq!(fs::read_to_string(victim).expect("the file"), "safe");
    let error = hostile(&bed, &[special("x".repeat(5000).as_str(), Kind::Dir, "")]);
    assert!(error.as_ref().is_err_and(|error| error.contains("4096")), "{error:?}");
}

#[test]
fn an_archive_that_ends_early_or_never_is_refused() {
    let bed = bed();
    let entries = [file("Dockerfile", "FROM scratch\nCOPY big /\n"), Entry { size: Some(100_000), ..file("big", "") }];
    for compression in COMPRESSIONS {
        let mut bytes = archive(&entries, compression).expect("an archive");
        bytes.truncate(if compression == Compression::None { 3000 } else { bytes.len() / 2 });
        let outcome = build(&bed, "-").input(bytes).run().failure();
        assert!(outcome.stderr.contains("cannot unpack the build context"), "{compression:?}: {outcome}");
    }
    // A file that says to be larger than any archive grows.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").expect("a name");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(8 << 30);
    header.set_cksum();
    std::io::Write::write_all(&mut gzip, header.as_bytes()).expect("memory");
    std::io::Write::write_all(&mut gzip, &[0; 1 << 16]).expect("memory");
    let bytes = gzip.finish().expect("memory");
    build(&bed, "-").input(bytes).run().failure().says(&["expands to more than 1000 times its size"]);
    bed.assert_tidy();
}

#[test]
fn named_contexts_that_are_none_are_named() {
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY --from=x / /\n");
    for (value, says) in [
        ("./no/such", "failed to get build context x: stat ./no/such: no such file or directory"),
        ("context/Dockerfile", "not a directory"),
        ("file:///etc", "no such file or directory"),
        ("oci-layout://nowhere", "not an OCI layout"),
        ("https://example.com/r.git?nonsense=1", "unexpected query"),
    ] {
        build(&bed, "context").args(["--build-context", &format!("x={value}")]).run().failure().says(&[says]);
    }
}
