#!/usr/bin/env python3
"""Tells what a RUN costs over the same command run by hand, on every rung and in every network. See README.md."""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
STEPS = 40
# What is timed, and the flags that it takes.
CASES = [
    ("root, host's network", ["--network=host", "--allow=network.host"], ""),
    ("root, no network", ["--network=none"], ""),
    ("root, private network", [], ""),
    ("root, base of 100,000 files", ["--network=none"], "big"),
    ("userns", ["--isolation=userns", "--network=none"], ""),
    ("userns-single", ["--isolation=userns-single", "--network=none"], ""),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kiln", type=Path, default=TREE / "target/release/kiln")
    parser.add_argument("--work", type=Path, default=TREE / "bench/out-overhead")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    work = options.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    (work / "context").mkdir(parents=True)
    try:
        shutil.copy(shutil.which("busybox"), work / "context/busybox")
        many = "".join(f"d{n // 1000}/f{n}\n" for n in range(100_000))
        (work / "context/many").write_text(many)
        print(f"by hand: {by_hand(work):.2f} ms for one command in a chroot")
        for name, flags, base in CASES:
            print(f"{name:<30}" + tell(options, work, flags, base), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def tell(options, work, flags, base):
    """The cost of one more step, and of the first."""
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    one, all_ = [], []
    build(options, root, work, flags, base, 1)
    for _ in range(options.rounds):
        one.append(build(options, root, work, flags, base, 1))
        all_.append(build(options, root, work, flags, base, STEPS + 1))
    noop = min(build(options, root, work, flags, base, 0) for _ in range(options.rounds))
    each = (statistics.median(all_) - statistics.median(one)) / STEPS
    return f"{each * 1e3:6.2f} ms a step, {(statistics.median(one) - noop) * 1e3:6.2f} ms for the first with all that it brings"


def build(options, root, work, flags, base, steps):
    mark = time.time_ns()
    lines = ["FROM scratch AS small", "COPY busybox /busybox"]
    if base:
        make = "for d in $(/busybox seq 0 99); do /busybox mkdir d$d; done; /busybox xargs /busybox touch < many"
        lines += ["FROM small AS big", "COPY many /many", f'RUN ["/busybox", "sh", "-c", "{make}"]']
    lines += [f"FROM {base or 'small'}"]
    # Nothing but the sandbox, and the start and end of a small program.
    lines += [f'RUN ["/busybox", "true", "{mark}-{step}"]' for step in range(steps)]
    dockerfile = work / "Dockerfile"
    dockerfile.write_text("\n".join(lines) + "\n")
    command = [options.kiln, "build", "--progress=plain", "-f", dockerfile, "-o", "type=cacheonly", *flags, work / "context"]
    start = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "KILN_ROOT": str(root)}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{command}:\n{done.stderr[-2000:]}")
    return seconds


def by_hand(work):
    root = work / "hand"
    root.mkdir(parents=True)
    shutil.copy(work / "context/busybox", root / "busybox")
    times = []
    for _ in range(100):
        start = time.perf_counter()
        subprocess.run(["/busybox", "true"], check=True, preexec_fn=lambda: (os.chroot(root), os.chdir("/")))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    main()
