//! The private network of a build, and what is left of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_runtime::{PrivateNetwork, Program};
use kiln_testkit::{Bed, DockerRegistry, Image, Need, Source, host};

use crate::fixture::{bed, build, busybox, dockerfile, unable};

/// Returns true, after saying so, where there can be no private network.
fn has_none() -> bool {
    let program = program();
    unable()
        || PrivateNetwork::open(&|| Ok(&program)).is_err_and(|error| {
            // Where all tests have to run, none may pass by not running.
            assert!(std::env::var_os("CI").is_none(), "{error}");
            println!("skipped: {error}");
            true
        })
}

fn program() -> Program {
    Program::open(Path::new(env!("CARGO_BIN_EXE_kiln"))).expect("it can be read")
}

/// The links of this machine's that are ours.
fn links() -> BTreeSet<String> {
    let links = fs::read_dir("/sys/class/net").expect("sysfs").flatten();
    links.map(|link| link.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("kiln")).collect()
}

/// Waits until the links of a process are gone: the kernel takes them away when it has the time.
#[track_caller]
fn wait_until_gone(process: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let prefix = format!("kiln{process}n");
    while links().iter().any(|link| link.starts_with(&prefix)) {
        assert!(Instant::now() < deadline, "left: {:?}", links());
        std::thread::yield_now();
    }
}

#[test]
fn commands_share_a_private_network_that_has_names_and_a_gateway() {
    if has_none() {
        return;
    }
    let registry = DockerRegistry::empty();
    let bed = bed();
    let text = format!(
        "FROM busybox\n\
         RUN ip -o -4 addr show eth0 | grep -o 'inet [0-9.]*' > /first && ! wget -q -O /dev/null http://{0}/v2/\n\
         RUN ip -o -4 addr show eth0 | grep -o 'inet [0-9.]*' | cmp - /first && ip route | grep -q ^default\n\
         RUN test \"$(sed -n 's/\\tgate.way$//p' /etc/hosts | head -1)\" = \"$(ip route | sed -n 's/default via \\([^ ]*\\) .*/\\1/p')\"\n\
         RUN --network=none ! grep gate.way /etc/hosts\n\
         RUN --network=host grep '^127.0.0.1.gate.way$' /etc/hosts && wget -q -O /dev/null http://{0}/v2/\n",
        registry.address()
    );
    dockerfile(&bed, "context", &text);
    let outcome =
        build(&bed, "context").args(["--add-host=Gate.Way:host-gateway", "--allow=network.host"]).run().success();
    assert!(!outcome.stderr.contains("the host's network"), "{outcome}");
    bed.assert_tidy();
}

#[test]
fn builds_at_the_same_time_have_networks_of_their_own() {
    if has_none() {
        return;
    }
    let beds: Vec<Bed> = (0..3).map(|_| bed()).collect();
    let running: Vec<_> = beds
        .iter()
        .map(|bed| {
            dockerfile(bed, "context", "FROM busybox\nRUN ip -o -4 addr show eth0 | grep -o 'inet [0-9.]*'; sleep 1\n");
            build(bed, "context").start()
        })
        .collect();
    let addresses: BTreeSet<String> = running
        .into_iter()
        .map(|running| {
            let outcome = running.wait().success();
            outcome.stderr.lines().find(|line| line.contains(" inet ")).expect("an address").to_owned()
        })
        .collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
}

#[test]
fn an_interrupt_or_a_kill_takes_the_wire_down() {
    if has_none() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN echo up; sleep 604\n");
    for stop in [kiln_testkit::Running::interrupt, kiln_testkit::Running::kill] {
        let mut running = build(&bed, "context").start();
        running.wait_for(" up\n");
        let process = running.pid();
        assert!(links().iter().any(|link| link.starts_with(&format!("kiln{process}n"))), "{:?}", links());
        stop(&running);
        running.wait();
        wait_until_gone(process);
    }
}

/// In a network namespace of its own, where nobody else builds: what the host is like before, while and after.
const LIFE: &str = r#"
look() { echo "$1: forwarding $(cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding | xargs) tables $(nft list tables | grep -c kiln)"; }
quickly() { for i in $(seq 1000); do "$@" && return; sleep 0.01; done; echo "never: $*"; exit 1; }
state=/run/kiln/network-$(stat -Lc %i /proc/self/ns/net)
trap 'rm -rf "$state"' EXIT
# A new namespace takes the switch from the host, where other builds may be at work.
echo 0 > /proc/sys/net/ipv4/ip_forward
echo 0 > /proc/sys/net/ipv6/conf/all/forwarding
ip link add out type veth peer name away
ip link set out up
ip link set away up
ip addr add 2001:db8::1/64 dev out nodad
look before
"$@" --build-arg N=1 2>&1 | grep -o ' inet 10.*/30'
look after
"$@" --build-arg N=600 2>/dev/null & kiln=$!
quickly grep -q 1 /proc/sys/net/ipv4/ip_forward
quickly sh -c 'nft list tables | grep -q kiln'
look during
kill -KILL $kiln; wait
quickly sh -c '! nft list tables | grep -q kiln'
look killed
"$@" --target=empty 2>/dev/null
look swept
ls "$state"
"#;

#[test]
fn forwarding_and_rules_are_put_back_also_after_a_kill() {
    if has_none() || host().lacks(&["unshare", "nft", "ip"].map(Need::Tool)) {
        return;
    }
    let bed = Bed::new("unshare");
    bed.write(
        "context/Dockerfile",
        "FROM scratch AS empty\nFROM busybox\nARG N\nRUN ip -o -4 addr show eth0; test $N = 1 || sleep $N\n",
    );
    let outcome = bed
        .kiln(["-n", "sh", "-c", LIFE, "sh", env!("CARGO_BIN_EXE_kiln"), "build", "--progress=plain"])
        .args(["--build-context", &busybox()])
        .arg(bed.path("context"))
        .run()
        .success();
    assert_eq!(
        String::from_utf8_lossy(&outcome.stdout),
        "before: forwarding 0 0 tables 0\n inet 10.143.0.2/30\nafter: forwarding 0 0 tables 0\n\
         during: forwarding 1 1 tables 2\nkilled: forwarding 1 1 tables 0\nswept: forwarding 0 0 tables 0\nlock\n"
    );
}

/// A host and a machine beside it, which knows the host alone: a build can reach it, and it cannot reach into the build.
const NEIGHBOUR: &str = r#"
state=/run/kiln/network-$(stat -Lc %i /proc/self/ns/net)
trap 'rm -rf "$state"; kill $neighbour' EXIT
echo 0 > /proc/sys/net/ipv6/conf/all/forwarding
unshare -n sleep 600 & neighbour=$!
until [ "$(readlink /proc/$neighbour/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
beside() { nsenter -t $neighbour -n "$@"; }
ip link add out type veth peer name away
ip link set away netns $neighbour
ip link set lo up
ip addr add 203.0.113.1/24 dev out
ip addr add 2001:db8::1/64 dev out nodad
ip link set out up
beside ip addr add 203.0.113.2/24 dev away
beside ip addr add 2001:db8::2/64 dev away nodad
beside ip link set away up
log=$1; shift
"$@" > "$log" 2>&1 & kiln=$!
until grep -q ' up$' "$log" || ! kill -0 $kiln; do sleep 0.01; done
sed -n 's/^#[0-9]* [0-9.]* \(said\|has\) /\1 /p' "$log"
echo "advertisements: $(cat /proc/sys/net/ipv6/conf/kiln*/accept_ra)"
# As if it knew the way.
beside ip route add 10.143.0.2 via 203.0.113.1
beside ip route add fd6b:696c:6e72::a8f:2 via 2001:db8::1
for guest in 10.143.0.2 fd6b:696c:6e72::a8f:2; do
    beside busybox ping -c 1 -W 1 "$guest" > /dev/null && echo "reached $guest"
done
kill -INT $kiln
wait $kiln
"#;

#[test]
fn both_kinds_of_addresses_reach_out_and_are_not_reached() {
    if has_none() || host().lacks(&["unshare", "nsenter", "ip", "busybox"].map(Need::Tool)) {
        return;
    }
    let bed = Bed::new("unshare");
    bed.write(
        "context/Dockerfile",
        "FROM busybox\n\
         RUN echo has $(ip -o addr show eth0 | grep -c 'scope global'); \\\n\
          for a in 203.0.113.2 2001:db8::2 $(sed -n 's/\tgate.way$//p' /etc/hosts); do \\\n\
           ping -c 1 -W 5 $a > /dev/null && echo said $a; done; echo up; sleep 604\n",
    );
    let outcome = bed
        .kiln(["-n", "sh", "-c", NEIGHBOUR, "sh"])
        .arg(bed.path("log"))
        .args([env!("CARGO_BIN_EXE_kiln"), "build", "--progress=plain", "--add-host=gate.way:host-gateway"])
        .args(["--build-context", &busybox()])
        .arg(bed.path("context"))
        .run();
    assert_eq!(
        String::from_utf8_lossy(&outcome.stdout),
        "has 2\nsaid 203.0.113.2\nsaid 2001:db8::2\nsaid 10.143.0.1\nsaid fd6b:696c:6e72::a8f:1\nadvertisements: 0\n",
        "{outcome}"
    );
}

/// A host with a way out, which forbids forwarding in the way of the first word; it serves a file at 203.0.113.1.
const FORBIDDING: &str = r#"
echo 0 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip link add out type veth peer name away
ip addr add 203.0.113.1/24 dev out
ip link set out up
ip link set away up
ip route add default via 203.0.113.2
eval "$1"
mkdir "$2" && echo served > "$2/file"
busybox httpd -f -p 80 -h "$2" & server=$!
trap 'kill $server' EXIT
shift 2
"$@"
grep . /proc/sys/net/ipv4/ip_forward
"#;

#[test]
fn rules_that_forbid_forwarding_stay_and_pasta_is_the_way_out() {
    let tools = ["unshare", "nft", "iptables-legacy", "pasta", "ip", "busybox"];
    if unable() || host().lacks(&tools.map(Need::Tool)) {
        return;
    }
    const NEW: &str =
        "nft add table inet x; nft add chain inet x f '{ type filter hook forward priority 0; policy drop; }'";
    for (number, (forbid, chain)) in
        [(NEW, "chain x f"), ("iptables-legacy -P FORWARD DROP", "chain filter FORWARD of iptables-legacy")]
            .into_iter()
            .enumerate()
    {
        let bed = Bed::new("unshare");
        dockerfile(
            &bed,
            "context",
            "FROM busybox\nRUN wget -q -O - http://203.0.113.1/file && ip -o -4 addr show eth0\n",
        );
        let kiln = |arguments: &[&str]| {
            bed.kiln(["-n", "sh", "-ec", FORBIDDING, "sh", forbid])
                .arg(bed.path(format!("served{number}{}", arguments[0])))
                .arg(env!("CARGO_BIN_EXE_kiln"))
                .args(arguments)
        };
        let text = kiln(&["info"]).run().success().text();
        assert!(text.contains("private, through pasta") && text.contains(chain), "{text}");
        let outcome = kiln(&["build", "--progress=plain", "--build-context", &busybox()])
            .arg(bed.path("context"))
            .run()
            .success();
        assert_eq!(outcome.text(), "0\n", "{outcome}");
        outcome.says(&[" served\n", " inet 10.143.0.2/30"]);
    }
}

#[test]
fn the_proxies_of_dockers_configuration_are_for_commands_only() {
    if unable() {
        return;
    }
    let bed = bed();
    let proxies =
        r#"{"proxies":{"default":{"httpProxy":"http://p.example:1","noProxy":"a,b"},"tcp://x":{"httpProxy":"no"}}}"#;
    bed.write("docker/config.json", proxies);
    dockerfile(&bed, "context", "FROM busybox\nRUN env | grep -i _proxy | sort | xargs echo has\n");
    let run = |flags: &[&str]| {
        let kiln = build(&bed, "context").args(["-o", "type=oci,dest=image.tar", "--network=none"]).args(flags);
        kiln.env("DOCKER_CONFIG", bed.path("docker")).run().success()
    };
    run(&[]).says(&[" has HTTP_PROXY=http://p.example:1 NO_PROXY=a,b http_proxy=http://p.example:1 no_proxy=a,b\n"]);
    let config = serde_json::to_string(&Image::fetch(&Source::OciArchive(bed.path("image.tar"))).config).expect("JSON");
    assert!(!config.to_lowercase().contains("p.example"), "{config}");
    run(&["--no-cache", "--build-arg=Http_Proxy=q"])
        .says(&[" has HTTP_PROXY=q NO_PROXY=a,b http_proxy=q no_proxy=a,b\n"]);
    bed.write("docker/config.json", "{}");
    assert_eq!(run(&[]).ran(), Vec::<String>::new());
}
