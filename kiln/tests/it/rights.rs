//! What a Dockerfile may do, and what it needs to be allowed for.

use kiln_testkit::{Bed, DockerRegistry, Outcome};

use crate::fixture::{bed, build, dockerfile, unable};

fn run(bed: &Bed, text: &str, flags: &[&str]) -> Outcome {
    dockerfile(bed, "context", text);
    let outcome = build(bed, "context").args(flags).run();
    bed.assert_tidy();
    outcome
}

#[test]
fn what_needs_to_be_allowed_is_refused_before_anything_runs() {
    if unable() {
        return;
    }
    let bed = bed();
    for (flag, message, allowed) in [
        ("--network=host", "network.host is not allowed", "--allow=network.host"),
        ("--security=insecure", "security.insecure is not allowed", "--allow=security.insecure"),
        (
            "--device=vendor.com/a=b",
            "device vendor.com/a=b is requested by the build but not allowed",
            "--allow=device=vendor.com/a=b",
        ),
    ] {
        let text = format!("FROM busybox AS it\nRUN echo first\nRUN {flag} echo second\nFROM scratch AS other\n");
        let target = ["--target=it"];
        let refused = run(&bed, &text, &target).failure();
        let refused = refused.says(&[message, ">>> RUN --", &allowed.replacen('=', " ", 1)]);
        assert!(refused.ran().iter().all(|step| !step.contains("echo")), "{refused}");
        run(&bed, &text, &["--target=it", allowed]).success().says(&[" second\n"]);
        // In the cache or not, it must be allowed each time; where the target does not need it, it need not.
        run(&bed, &text, &target).failure().says(&[message]);
        run(&bed, &text, &[]).success();
    }
    run(&bed, "FROM busybox\n", &["--allow=network.none"]).failure().says(&["unknown entitlement network.none"]);
    let required = "FROM busybox\nRUN --device=vendor.com/a=b,required true\n";
    run(&bed, required, &["--allow=device"]).failure().says(&["required device \"vendor.com/a=b\" is not registered"]);
}

#[test]
fn an_insecure_command_has_all_rights() {
    if unable() {
        return;
    }
    let bed = bed();
    let text = "FROM busybox\n\
                RUN --security=insecure mkdir /m && mount -t tmpfs none /m && grep -q ' /sys sysfs rw' /proc/mounts && \\\n\
                \u{20}   grep -q 'Seccomp:.*0' /proc/self/status && ! grep -q 00000000a80425fb /proc/self/status\n\
                RUN grep -q 00000000a80425fb /proc/self/status && ! mount -t tmpfs none /m\n";
    run(&bed, text, &["--allow=security.insecure"]).success();
}

#[test]
fn the_network_is_none_the_hosts_or_what_the_build_says() {
    if unable() {
        return;
    }
    let registry = DockerRegistry::empty();
    let bed = bed();
    let get = format!("wget -q -O /dev/null http://{}/v2/", registry.address());
    let text = format!("FROM busybox\nRUN --network=host {get}\nRUN --network=none ! {get}\n");
    run(&bed, &text, &["--allow=network.host"]).success();
    // On the command line it is allowed too, and holds for every RUN that says nothing.
    run(&bed, &format!("FROM busybox\nRUN {get} && echo 2\nRUN --network=host {get}\n"), &["--network=host"]).success();
    run(&bed, &format!("FROM busybox\nRUN --network=default ! {get}\n"), &["--network=none"]).success();
}
