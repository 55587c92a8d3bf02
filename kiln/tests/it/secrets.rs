//! Secrets: where they come from, what a command finds, and what they are not part of.

use crate::fixture::{bed, build, dockerfile, unable};

#[test]
fn secrets_come_from_files_and_variables_and_are_part_of_no_key() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("file", "from a file");
    let text = "FROM busybox\n\
        RUN --mount=type=secret,id=f cat /run/secrets/f; stat -c ' %a %u:%g' /run/secrets/f; \
        grep /run/secrets/f /proc/mounts | grep -q ro,nosuid,nodev,noexec && echo shut; ! echo x > /run/secrets/f\n\
        RUN --mount=type=secret,id=e cat /run/secrets/e\n\
        RUN --mount=type=secret,id=AUTO,env=X,mode=0755,target=/x,uid=3,gid=4 echo $X; stat -c %a.%u.%g /x; ! grep ' /x .*noexec' /proc/mounts\n\
        RUN --mount=type=secret,id=n --mount=type=secret,id=n,env=N test ! -e /run/secrets && env | grep '^N='\n";
    dockerfile(&bed, "context", text);
    let run = |auto: &str| {
        let flags = ["--secret=id=f,src=file", "--secret=id=e,type=env,env=FROM", "--secret=id=AUTO"];
        build(&bed, "context").args(flags).env("FROM", "from a variable").env("AUTO", auto).run()
    };
    let outcome = run("by its id").success();
    outcome.says(&["from a file 400 0:0\n", " shut\n", " from a variable\n", " by its id\n", " 755.3.4\n", " N=\n"]);
    bed.write("file", "another");
    let again = run("another").success();
    assert_eq!((again.cached().len(), again.ran().len()), (4, 0), "{again}");
    bed.assert_tidy();
}

#[test]
fn a_secret_that_is_missing_or_too_large_is_named() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN --mount=type=secret,id=f,required cat /run/secrets/f | wc -c\n");
    build(&bed, "context").run().failure().says(&["secret f: not found", "`--secret id=f,src=FILE`", ">>> RUN"]);
    const MOST: usize = 500 << 10;
    let run = |length: usize| {
        bed.write("file", vec![b'x'; length]);
        build(&bed, "context").arg("--secret=id=f,src=file").run()
    };
    run(MOST + 1).failure().says(&["secret `f`", "larger than 500 KiB"]);
    run(MOST).success().says(&[" 512000\n"]);
    build(&bed, "context").arg("--secret=id=f,src=nothing").run().failure().says(&["nothing"]);
    build(&bed, "context").arg("--secret=id=f,type=vault").run().failure().says(&["vault"]);
}
