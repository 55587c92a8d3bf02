//! Ssh mounts: the user's agent, and keys, as a command sees them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kiln_testkit::{Bed, Need, host};

use crate::fixture::{NEEDS, bed, build, dockerfile};

#[track_caller]
fn unable() -> bool {
    host().lacks(&[NEEDS, &[Need::Tool("ssh-agent"), Need::Tool("ssh-keygen"), Need::Tool("cc")]].concat())
}

/// A program that asks the agent of SSH_AUTH_SOCK one thing, the number on its command line, and prints the type of the
/// answer and what text is in it.
const CLIENT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/un.h>
int main(int argc, char **argv) {
    struct sockaddr_un at = {AF_UNIX, {0}};
    unsigned char bytes[65536] = {0, 0, 0, 1, atoi(argv[1])};
    strcpy(at.sun_path, getenv("SSH_AUTH_SOCK"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (void *)&at, sizeof at) || write(fd, bytes, 5) != 5) return 9;
    long n = read(fd, bytes, sizeof bytes);
    if (n < 5) return 8;
    printf("answer %d ", bytes[4]);
    for (long i = 5; i < n; i++) if (bytes[i] > 31 && bytes[i] < 127) putchar(bytes[i]);
    putchar('\n');
    return argc < 2;
}
"#;

/// Writes a context whose image has the client as `/ask`.
fn context(bed: &Bed, commands: &str) {
    let source = bed.write("client.c", CLIENT);
    std::fs::create_dir_all(bed.path("context")).expect("a folder");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-O1", "-o"]).arg(bed.path("context/ask")).arg(source);
    assert!(cc.status().expect("cc runs").success());
    dockerfile(bed, "context", &format!("FROM busybox\nCOPY ask /\n{commands}"));
}

/// Makes a key and returns its file; the public one is beside it.
pub fn key(bed: &Bed, name: &str, passphrase: &str) -> PathBuf {
    let path = bed.path(name);
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", passphrase, "-C", &format!("comment-{name}"), "-f"]).arg(&path);
    assert!(keygen.status().expect("ssh-keygen runs").success());
    path
}

/// A real agent with one key.
pub struct Agent {
    child: Child,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Agent {
    /// Starts one.
    pub fn new(bed: &Bed, key: &Path) -> Self {
        let socket = bed.path("agent");
        let mut agent = Command::new("ssh-agent");
        agent.args(["-D", "-a"]).arg(&socket).stdout(Stdio::piped());
        let mut child = agent.spawn().expect("ssh-agent runs");
        // It says where it listens once it does.
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket);
        assert!(add.status().expect("ssh-add runs").success());
        Self { child, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_command_lists_the_keys_of_the_users_agent_and_cannot_change_them() {
    if unable() {
        return;
    }
    let bed = bed();
    let agent = Agent::new(&bed, &key(&bed, "mine", ""));
    context(
        &bed,
        "RUN --mount=type=ssh,uid=5,gid=6,mode=0640 /ask 11; /ask 19; \
         echo \"at $SSH_AUTH_SOCK $(stat -c '%F %u:%g %a' $SSH_AUTH_SOCK)\"\n\
         RUN --mount=type=ssh,id=work,required,target=/w/sock /ask 11; /ask 19; echo \"at $SSH_AUTH_SOCK\"\n\
         RUN test ! -e /run/buildkit && test ! -e /w\n",
    );
    let raw = format!("work={},raw=true", agent.socket.display());
    let outcome = build(&bed, "context")
        .args(["--ssh=default", "--ssh", &raw])
        .env("SSH_AUTH_SOCK", &agent.socket)
        .run()
        .success()
        .says(&["at /run/buildkit/ssh_agent.0 socket 5:6 640", "at /w/sock", "comment-mine"]);
    // The second build step may do everything, the first may not; then there is no key left.
    let answers: Vec<_> = outcome.stderr.lines().filter_map(|line| line.split_once("answer ")).collect();
    let kinds: Vec<_> = answers.iter().map(|(_, rest)| rest.split(' ').next().unwrap_or("")).collect();
    assert_eq!(kinds, ["12", "5", "12", "6"], "{outcome}");
    assert!(answers[2].1.contains("comment-mine"), "{outcome}");
    bed.assert_tidy();
}

#[test]
fn keys_from_files_are_in_an_agent_that_ends_with_the_build() {
    if unable() {
        return;
    }
    let bed = bed();
    let (one, two) = (key(&bed, "one", ""), key(&bed, "two", ""));
    context(&bed, "RUN --mount=type=ssh,id=deploy /ask 11; echo \"socket $SSH_AUTH_SOCK\"; ls /tmp\n");
    let outcome = build(&bed, "context")
        .arg(format!("--ssh=deploy={},{}", one.display(), two.display()))
        .env("TMPDIR", bed.path("."))
        .run()
        .success()
        .says(&["comment-one", "comment-two"]);
    let left: Vec<_> = std::fs::read_dir(bed.path(".")).expect("a folder").flatten().map(|it| it.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("ssh-")), "{left:?}\n{outcome}");
    bed.assert_tidy();

    let locked = key(&bed, "locked", "passphrase");
    build(&bed, "context")
        .arg(format!("--ssh=deploy={}", locked.display()))
        .run()
        .failure()
        .says(&["locked", "hint: a key with a passphrase"]);
}

#[test]
fn a_missing_agent_matters_only_where_it_is_required() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox\nRUN --mount=type=ssh test \"$SSH_AUTH_SOCK\" = /run/buildkit/ssh_agent.0 && test ! -e $SSH_AUTH_SOCK\n",
    );
    build(&bed, "context").run().success();
    dockerfile(&bed, "context", "FROM busybox\nRUN --mount=type=ssh,required true\n");
    build(&bed, "context").run().failure().says(&["no SSH key \"\" forwarded from the client", "--ssh default"]);
}
