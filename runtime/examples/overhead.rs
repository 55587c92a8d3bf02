//! Measures what the sandbox adds to a command: `overhead <helper program> [runs]`, as root.
//!
//! Runs a static `/bin/true` (busybox) alternately by hand and in a sandbox with everything on, and prints medians and fastest runs.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use kiln_runtime::{Cancel, Network, PrivateNetwork, Program, Root, Spec, run};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let helper = args.next().ok_or("the first argument is the helper's program")?;
    let runs: usize = args.next().map_or(Ok(200), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    for name in ["base/bin", "base/etc", "base/dev", "base/proc", "base/sys"] {
        fs::create_dir_all(dir.path().join(name))?;
    }
    fs::copy("/bin/busybox", dir.path().join("base/bin/true"))?;
    let start = Instant::now();
    let program = Program::open(Path::new(&helper))?;
    println!("sealed copy, once: {:?}", start.elapsed());
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for _ in 0..runs / 4 {
        let start = Instant::now();
        let network = PrivateNetwork::open(&|| Ok(&program))?;
        opened.push(start.elapsed());
        let start = Instant::now();
        drop(network);
        closed.push(start.elapsed());
    }
    for (name, at) in [("median", opened.len() / 2), ("fastest", 0)] {
        opened.sort();
        closed.sort();
        println!("private network, once a build, {name}: {:?} to open, {:?} to close", opened[at], closed[at]);
    }
    for network in [Network::Host, Network::None] {
        let (mut by_hand, mut sandboxed) = (Vec::new(), Vec::new());
        for i in 0..runs {
            let start = Instant::now();
            Command::new(dir.path().join("base/bin/true")).stdin(Stdio::null()).status()?;
            by_hand.push(start.elapsed());
            let (upper, work) = (dir.path().join(format!("u{i}")), dir.path().join(format!("w{i}")));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            let root = Root { lowers: vec![dir.path().join("base")], upper, work };
            let mut spec = Spec::new(root, ["/bin/true"]);
            spec.network = network.clone();
            let start = Instant::now();
            let outcome = run(&program, &spec, &mut |_| {}, &Cancel::new())?;
            sandboxed.push(start.elapsed());
            if !outcome.is_success() {
                return Err(format!("it ended with {outcome:?}").into());
            }
            fs::remove_dir_all(&spec.root.upper)?;
            fs::remove_dir_all(&spec.root.work)?;
        }
        // The fastest run says what it costs on a machine that is busy with other things as well.
        for (name, at) in [("median", runs / 2), ("fastest", 0)] {
            by_hand.sort();
            sandboxed.sort();
            let (bare, boxed) = (by_hand[at], sandboxed[at]);
            println!("{network:?} {name}: by hand {bare:?}, sandboxed {boxed:?}, overhead {:?}", boxed - bare);
        }
    }
    Ok(())
}
