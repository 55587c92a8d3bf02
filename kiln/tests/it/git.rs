//! ADD and contexts from git repositories, served by git itself on loopback.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kiln_testkit::git::{answer, git};
use kiln_testkit::tls::Authority;
use kiln_testkit::{Bed, Kiln, Manner, Need, Response, Server, free_port, host};

use crate::fixture::{bed, dockerfile};
use crate::ssh::{Agent, key};

/// Repositories behind a web server that counts.
struct Repositories {
    server: Server,
    root: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Repositories {
    /// Those that `make` puts into a folder. With a token, the server wants to see it.
    fn new(token: Option<&'static str>, make: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_owned();
        make(&root);
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (ours, below) = (asked.clone(), root.clone());
        let server = Server::start(move |request| {
            ours.lock().expect("no panic").push(request.path().to_owned());
            if token.is_some_and(|token| request.header("authorization") != Some(token)) {
                return Response::new(401).header("WWW-Authenticate", "Basic realm=\"git\"");
            }
            answer(request, &below)
        });
        Self { server, root, asked, _folder: folder }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.server.address())
    }

    /// How many requests there were since the last call.
    fn asked(&self) -> usize {
        std::mem::take(&mut *self.asked.lock().expect("no panic")).len()
    }
}

/// Makes the repository `r.git` with the files that `write` makes, as one commit.
fn repository(root: &Path, write: impl FnOnce(&Path)) {
    let source = root.join("r.git");
    fs::create_dir(&source).expect("a folder");
    git(&source, &["init", "-q", "-b", "main"]);
    fs::write(source.join("Dockerfile"), "FROM scratch\nCOPY . /\n").expect("a file");
    write(&source);
    git(&source, &["add", "-A"]);
    git(&source, &["commit", "-qm", "one"]);
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
    fs::read_to_string(bed.path("out").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn mode(bed: &Bed, path: &str) -> u32 {
    fs::symlink_metadata(bed.path("out").join(path)).expect("a file").permissions().mode() & 0o7777
}

fn unable() -> bool {
    host().lacks(&[Need::Tool("git")])
}

#[test]
fn an_unchanged_repository_is_asked_once() {
    if unable() {
        return;
    }
    let repositories = Repositories::new(None, |root| {
        repository(root, |source| {
            fs::write(source.join("f"), "one").expect("a file");
            fs::set_permissions(source.join("f"), fs::Permissions::from_mode(0o777)).expect("a mode");
            symlink("f", source.join("l")).expect("a link");
        });
    });
    let bed = bed();
    let url = repositories.url("r.git");
    build(&bed, &url).run().success();
    assert_eq!((read(&bed, "f"), mode(&bed, "f"), mode(&bed, "Dockerfile")), ("one".into(), 0o755, 0o644));
    assert!(bed.path("out/l").is_symlink() && !bed.path("out/.git").exists());
    repositories.asked();
    let again = build(&bed, &url).run().success();
    // What the server can do, and what its HEAD is.
    assert_eq!((repositories.asked(), again.cached().len()), (2, 1), "{again}");
    // ADD of the same commit fetches nothing either.
    add(&bed, &format!("{url}#main /o")).run().success();
    assert_eq!((repositories.asked(), read(&bed, "o/f")), (2, "one".into()));

    // A fixed time is that of the commit, for the files as well; steps that are known keep theirs.
    fs::remove_dir_all(bed.root()).expect("the store");
    build(&bed, &url).args(["--build-arg", "SOURCE_DATE_EPOCH=context"]).run().success();
    assert_eq!(fs::metadata(bed.path("out/f")).expect("a file").mtime(), 1_000_000_000);

    fs::write(repositories.root.join("r.git/f"), "two").expect("a file");
    git(&repositories.root.join("r.git"), &["commit", "-qam", "two"]);
    build(&bed, &url).run().success();
    assert_eq!(read(&bed, "f"), "two");
    bed.assert_tidy();
}

#[test]
fn a_default_in_the_file_may_be_the_time_of_the_commit() {
    if unable() {
        return;
    }
    let repositories = Repositories::new(None, |root| {
        repository(root, |source| {
            let text = "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nARG SOURCE_DATE_EPOCH\n\
                        COPY <<A /at\n$SOURCE_DATE_EPOCH\nA\n";
            fs::write(source.join("Dockerfile"), text).expect("a file");
        });
    });
    let bed = bed();
    build(&bed, &repositories.url("r.git")).run().success();
    assert_eq!(read(&bed, "at"), "1000000000\n");
    bed.assert_tidy();
}

#[test]
fn a_named_repository_and_one_that_a_stage_adds_have_the_time_of_the_commit() {
    if unable() {
        return;
    }
    let repositories = Repositories::new(None, |root| repository(root, |_| {}));
    let bed = bed();
    let url = repositories.url("r.git");
    let end = "FROM scratch\nARG SOURCE_DATE_EPOCH\nCOPY <<A /at\n$SOURCE_DATE_EPOCH\nA\n";
    for (text, context) in
        [(end.to_owned(), "other"), (format!("FROM scratch AS source\nADD {url} /\n{end}"), "unused")]
    {
        dockerfile(&bed, "context", &text);
        let name = if context == "other" { "other" } else { "source" };
        build(&bed, "context")
            .args([&format!("--build-arg=SOURCE_DATE_EPOCH={name}"), "--build-context", &format!("{context}={url}")])
            .run()
            .success();
        assert_eq!(read(&bed, "at"), "1000000000\n", "{text}");
    }
    bed.assert_tidy();
}

#[test]
fn every_form_of_a_reference() {
    if unable() {
        return;
    }
    let repositories = Repositories::new(None, |root| {
        repository(root, |source| {
            fs::create_dir_all(source.join("sub/deep")).expect("a folder");
            fs::write(source.join("sub/Dockerfile"), "FROM scratch\nCOPY . /o\n").expect("a file");
            fs::write(source.join("sub/deep/g"), "x").expect("a file");
            symlink("sub", source.join("to-sub")).expect("a link");
            symlink("/etc", source.join("to-etc")).expect("a link");
        });
        let source = root.join("r.git");
        git(&source, &["tag", "-am", "v1", "v1"]);
        git(&source, &["branch", "v1", "HEAD"]);
    });
    let bed = bed();
    let url = repositories.url("r.git");
    let source = repositories.root.join("r.git");
    let (commit, tag) = (git(&source, &["rev-parse", "HEAD"]), git(&source, &["rev-parse", "refs/tags/v1"]));
    for fragment in
        ["#main:sub", "#v1:sub", "?tag=v1&subdir=sub", "?branch=main&subdir=sub", &format!("#{commit}:sub"), "#:to-sub"]
    {
        build(&bed, &format!("{url}{fragment}")).run().success();
        assert_eq!(read(&bed, "o/deep/g"), "x", "{fragment}");
    }
    // Either object of an annotated tag is right.
    for sum in [&commit[..7], &tag[..7]] {
        add(&bed, &format!("--checksum={sum} {url}?tag=v1 /")).run().success();
    }
    add(&bed, &format!("--checksum=abcdef {url}?tag=v1 /"))
        .run()
        .failure()
        .says(&["expected checksum to match abcdef, got"]);
    add(&bed, &format!("{url}#nope /")).run().failure().says(&["repository does not contain ref nope, output: \"\""]);
    // The link leads to `etc` of the repository, which it does not have.
    add(&bed, &format!("{url}#:to-etc /")).run().failure().says(&["invalid subdir to-etc"]);
    add(&bed, &format!("{url}#:Dockerfile /")).run().failure().says(&["not a directory"]);
    add(&bed, &format!("--keep-git-dir {url}?tag=v1 /o")).run().success();
    let out = bed.path("out/o");
    assert_eq!(git(&out, &["rev-parse", "HEAD"]), commit);
    assert_eq!((git(&out, &["fsck"]), git(&out, &["describe", "--exact-match"])), (String::new(), "v1".into()));
    assert_eq!(git(&out, &["config", "remote.origin.url"]), url);
    build(&bed, &format!("{url}#main")).args(["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]).run().success();
    assert_eq!(git(&bed.path("out"), &["rev-parse", "HEAD"]), commit);
    dockerfile(&bed, "context", "FROM scratch\nCOPY --from=x sub/deep/g /g\n");
    build(&bed, "context").args(["--build-context", &format!("x={url}")]).run().success();
    assert_eq!(read(&bed, "g"), "x");
    bed.assert_tidy();
}

#[test]
fn every_key_of_a_query() {
    if unable() {
        return;
    }
    // The token `s3cret` of the user `x-access-token`.
    let header = "Basic eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    let repositories = Repositories::new(Some(header), |root| {
        repository(root, |source| fs::write(source.join("f"), "one").expect("a file"));
        let source = root.join("r.git");
        fs::write(source.join("f"), "two").expect("a file");
        git(&source, &["commit", "-qam", "two"]);
        git(&source, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    });
    let source = repositories.root.join("r.git");
    let (old, new) = (git(&source, &["rev-parse", "HEAD^"]), git(&source, &["rev-parse", "HEAD"]));
    let url = repositories.url("r.git");
    let bed = bed();
    bed.write("token", "s3cret\n");
    let lent = |kiln: Kiln| kiln.args(["--secret", "id=GIT_AUTH_TOKEN,src=token"]);
    let add = |line: &str| lent(add(&bed, &format!("{line} /o/")));
    for (query, content) in [
        (format!("?ref={old}"), "one"),
        ("?ref=main".to_owned(), "two"),
        (format!("?ref=main&commit={new}"), "two"),
        (format!("?branch=main&checksum={}", &new[..12]), "two"),
        (format!("?ref={old}&fetch-by-commit=true"), "one"),
        ("?submodules=false&mtime=checkout".to_owned(), "two"),
    ] {
        add(&format!("{url}{query}")).run().success();
        assert_eq!((read(&bed, "o/f"), bed.path("out/o/.git").exists()), (content.into(), false), "{query}");
    }
    add(&format!("{url}?ref=main&commit={old}")).run().failure().says(&["expected checksum to match"]);
    add(&format!("{url}?keep-git-dir=true")).run().success();
    assert_eq!(git(&bed.path("out/o"), &["rev-parse", "HEAD"]), new);
    add(&format!("--keep-git-dir=false {url}?keep-git-dir=true")).run().failure().says(&["inconsistent keep-git-dir"]);
    for (query, says) in [("?branch=a&tag=b", "conflict"), ("?nope=1", "unexpected query"), ("?ref=a&ref=b", "ref")] {
        lent(build(&bed, &format!("{url}{query}"))).run().failure().says(&[says]);
    }
    lent(build(&bed, &format!("{url}?mtime=commit"))).run().success();
    assert_eq!(fs::metadata(bed.path("out/f")).expect("a file").mtime(), 1_000_000_000);
    bed.assert_tidy();
}

#[test]
fn submodules_come_with_it_and_a_repository_may_use_sha256() {
    if unable() {
        return;
    }
    let repositories = Repositories::new(None, |root| {
        let inner = root.join("inner.git");
        fs::create_dir(&inner).expect("a folder");
        git(&inner, &["init", "-q", "-b", "main", "--object-format=sha256"]);
        fs::write(inner.join("s"), "inner").expect("a file");
        git(&inner, &["add", "-A"]);
        git(&inner, &["commit", "-qm", "one"]);
        let outer = root.join("r.git");
        fs::create_dir(&outer).expect("a folder");
        git(&outer, &["init", "-q", "-b", "main", "--object-format=sha256"]);
        git(&outer, &["-c", "protocol.file.allow=always", "submodule", "add", "-q", "../inner.git", "m"]);
        git(&outer, &["commit", "-qm", "one"]);
    });
    let bed = bed();
    // The address of the submodule is relative to that of the repository.
    let url = repositories.url("r.git");
    git(&repositories.root.join("r.git"), &["config", "-f", ".gitmodules", "submodule.m.url", "../inner.git"]);
    git(&repositories.root.join("r.git"), &["commit", "-qam", "two", "--allow-empty"]);
    add(&bed, &format!("{url} /o")).run().success();
    assert_eq!(read(&bed, "o/m/s"), "inner");
    assert!(!bed.path("out/o/m/.git").exists());
    add(&bed, &format!("{url}?submodules=false /o")).run().success();
    assert!(!bed.path("out/o/m/s").exists());
    bed.assert_tidy();
}

#[test]
fn a_submodule_cannot_name_this_machine() {
    if unable() {
        return;
    }
    let bed = bed();
    let secret = bed.path("secret");
    fs::create_dir(&secret).expect("a folder");
    git(&secret, &["init", "-q", "-b", "main"]);
    git(&secret, &["commit", "-qm", "one", "--allow-empty"]);
    let commit = git(&secret, &["rev-parse", "HEAD"]);
    let ran = bed.path("ran");
    let address = [
        format!("file://{}", secret.display()),
        secret.display().to_string(),
        format!("ext::touch {}", ran.display()),
        format!("--upload-pack=touch {}", ran.display()),
    ];
    for address in address {
        let repositories = Repositories::new(None, |root| {
            repository(root, |source| {
                let modules = format!("[submodule \"m\"]\n\tpath = m\n\turl = {address}\n");
                fs::write(source.join(".gitmodules"), modules).expect("a file");
                git(source, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},m")]);
                fs::create_dir(source.join("m")).expect("a folder");
            });
        });
        let outcome = add(&bed, &format!("{} /o", repositories.url("r.git"))).run().failure();
        assert!(outcome.stderr.contains("not allowed") || outcome.stderr.contains("fatal"), "{address}: {outcome}");
        assert!(!ran.exists(), "{address}");
    }
    bed.assert_tidy();
}

#[test]
fn addresses_that_are_not_remote_are_refused() {
    if unable() {
        return;
    }
    let bed = bed();
    let ran = bed.path("ran");
    let touch = format!("touch {}", ran.display());
    dockerfile(&bed, "context", "FROM scratch\nARG U\nADD $U /o\n");
    for address in [
        format!("http://127.0.0.1:1/r.git#--upload-pack={touch}"),
        format!("-oProxyCommand={}@host:r", ran.display()),
        "http://127.0.0.1:1/a\n/r.git".to_owned(),
        format!("ext::{touch}"),
        "file:///etc/r.git".to_owned(),
    ] {
        let outcome = build(&bed, "context").args(["--build-arg", &format!("U={address}")]).run().failure();
        assert!(!outcome.stderr.contains("kiln bug"), "{outcome}");
        assert!(!ran.exists(), "{address}");
    }
    build(&bed, "file:///etc").run().failure().says(&["not found"]);
    // A server that sends git elsewhere.
    let server = Server::start(|_| Response::new(302).header("Location", "file:///etc/r.git/info/refs"));
    let outcome = build(&bed, &format!("http://{}/r.git", server.address())).run().failure();
    assert!(outcome.stderr.contains("failed to load cache key"), "{outcome}");
    bed.assert_tidy();
}

#[test]
fn credentials_are_shown_to_their_host_alone() {
    if unable() {
        return;
    }
    // The token `s3cret` of the user `x-access-token`.
    let header = "Basic eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    let repositories = Repositories::new(Some(header), |root| repository(root, |_| {}));
    let bed = bed();
    bed.write("token", "s3cret\n");
    let url = repositories.url("r.git");
    build(&bed, &url).run().failure().says(&["GIT_AUTH_TOKEN"]);
    build(&bed, &url).args(["--secret", "id=GIT_AUTH_TOKEN,src=token"]).run().success();
    let address = repositories.server.address();
    let id = format!("id=GIT_AUTH_HEADER.{address},env=H");
    fs::remove_dir_all(bed.root()).expect("the store");
    let outcome = build(&bed, &url)
        .args(["--secret", &id, "--secret", "id=GIT_AUTH_TOKEN,env=WRONG"])
        .env("H", header)
        .env("WRONG", "x")
        .run()
        .success();
    assert!(!outcome.stderr.contains("s3cret") && !outcome.stderr.contains("eC1hY2"), "{outcome}");

    let seen = Arc::<Mutex<Vec<bool>>>::default();
    let (ours, target) = (seen.clone(), url.clone());
    let other = Server::start(move |request| {
        ours.lock().expect("no panic").push(request.header("authorization").is_some());
        Response::new(302).header("Location", format!("{target}/info/refs?service=git-upload-pack"))
    });
    // The redirect is from a host that the token is not for: it is not followed with it.
    let outcome = build(&bed, &format!("http://{}/r.git", other.address()))
        .args(["--secret", &format!("id=GIT_AUTH_TOKEN.{},src=token", other.address())])
        .run()
        .failure();
    assert_eq!(*seen.lock().expect("no panic"), [true], "{outcome}");
    // Passwords in addresses are not shown.
    let with_password = url.replace("http://", "http://me:pa55word@");
    let outcome = build(&bed, &with_password).run().failure();
    assert!(!outcome.stderr.contains("pa55word"), "{outcome}");
}

#[test]
fn a_repository_behind_tls_is_trusted_by_its_authority() {
    if unable() || host().lacks(&[Need::Tool("openssl")]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    repository(folder.path(), |source| fs::write(source.join("f"), "over TLS").expect("a file"));
    let authority = Authority::new();
    let below = folder.path().to_owned();
    let server = Server::start_tls(authority.server(), move |request| answer(request, &below));
    let bed = bed();
    let url = format!("https://{}/r.git", server.address());
    build(&bed, &url).run().failure().says(&["certificate", "hint: ", "SSL_CERT_FILE"]);
    build(&bed, &url).env("SSL_CERT_FILE", authority.certificate()).run().success();
    assert_eq!(read(&bed, "f"), "over TLS");
    bed.assert_tidy();
}

/// An ssh server for the user who runs the test, whom it knows by a key.
struct Sshd {
    child: Child,
    port: u16,
}

impl Sshd {
    fn new(bed: &Bed, host_key: &Path, authorized: &Path) -> Self {
        let port = free_port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
            host_key.display(),
            authorized.display()
        );
        let config = bed.write("sshd.conf", config);
        // Debian's server wants this directory, and its service makes it.
        let _ = fs::create_dir("/run/sshd");
        let program = host().tool("sshd").expect("it was asked for");
        let mut child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd runs");
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(matches!(child.try_wait(), Ok(None)) && Instant::now() < end, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_repository_over_ssh_needs_a_key_and_a_known_server() {
    let tools = [Need::Tool("sshd"), Need::Tool("ssh-agent"), Need::Tool("ssh-keygen"), Need::Root];
    if unable() || host().lacks(&tools) {
        return;
    }
    let bed = bed();
    repository(&bed.path("."), |source| fs::write(source.join("f"), "over ssh").expect("a file"));
    let (server_key, mine, other) = (key(&bed, "server", ""), key(&bed, "mine", ""), key(&bed, "other", ""));
    let sshd = Sshd::new(&bed, &server_key, &mine);
    let agent = Agent::new(&bed, &mine);
    let url = format!("ssh://root@127.0.0.1:{}{}", sshd.port, bed.path("r.git").display());
    let know = |key: &Path| {
        let public = fs::read_to_string(key.with_extension("pub")).expect("a public key");
        let line = format!("[127.0.0.1]:{} {public}", sshd.port);
        fs::create_dir_all(bed.home().join(".ssh")).expect("a folder");
        fs::write(bed.home().join(".ssh/known_hosts"), line).expect("a file");
    };
    let with_agent =
        |kiln: Kiln| kiln.args(["--ssh", "default"]).env("SSH_AUTH_SOCK", &agent.socket).limit(Duration::from_secs(60));

    // Nobody knows the server: it is not talked to, whatever it says.
    let keyscan = format!("ssh-keyscan -p {} 127.0.0.1", sshd.port);
    with_agent(build(&bed, &url)).run().failure().says(&["Host key verification failed", "known_hosts", &keyscan]);
    know(&other);
    with_agent(build(&bed, &url)).run().failure().says(&["Host key verification failed"]);

    know(&server_key);
    build(&bed, &url).run().failure().says(&["Permission denied", "--ssh default"]);
    with_agent(build(&bed, &url)).run().success();
    assert_eq!(read(&bed, "f"), "over ssh");
    with_agent(add(&bed, &format!("{url}#main:/ /o/"))).run().success();
    assert_eq!(read(&bed, "o/f"), "over ssh");
    // A key from a file will do, and no other.
    bed.forget();
    build(&bed, &url).arg(format!("--ssh=default={}", mine.display())).run().success();
    assert_eq!(read(&bed, "f"), "over ssh");
    build(&bed, &url).arg(format!("--ssh=default={}", other.display())).run().failure().says(&["Permission denied"]);
    bed.assert_tidy();
}

#[test]
fn a_server_that_hangs_can_be_left() {
    if unable() {
        return;
    }
    let (sender, asked) = std::sync::mpsc::channel();
    let server = Server::start(move |_| {
        let _ = sender.send(());
        Response { manner: Manner::Stall(1), ..Response::new(200).body("0000") }
    });
    let bed = bed();
    let running = build(&bed, &format!("http://{}/r.git", server.address())).start();
    asked.recv_timeout(Duration::from_secs(60)).expect("a request");
    let pressed = Instant::now();
    running.interrupt();
    let outcome = running.wait().failure();
    assert!(pressed.elapsed() < Duration::from_secs(15), "{outcome}");
    assert_eq!(outcome.status.code(), Some(130), "{outcome}");
    bed.assert_tidy();
}

#[test]
fn git_that_is_not_installed_is_missed_by_name() {
    let bed = bed();
    let outcome = build(&bed, "http://127.0.0.1:1/r.git").env("PATH", "/nonexistent").run().failure();
    outcome.says(&["cannot run `git`: it is not installed", "hint: "]);
    bed.assert_tidy();
}
