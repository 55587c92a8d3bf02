#!/usr/bin/env python3
"""Times kiln and buildah on the same work, in turn, and prints ratios. See README.md."""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
NOISE = random.Random(11)


def main():
    options = arguments()
    work = options.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    bases = Path(run(["bash", TREE / "testkit/bases.sh", options.bases], stdout=subprocess.PIPE).stdout.strip().splitlines()[-1])
    registry = Registry(work / "registry", bases / "registry")
    tools = [Kiln(options.kiln.resolve(), work, registry), Buildah(work, registry)]
    tools = [tool for tool in tools if tool.available()]
    rows = []
    try:
        for case in cases(options.scale):
            if options.only and not any(case.name.startswith(name) for name in options.only):
                continue
            rows.append(measure(case, tools, work, options.rounds))
            print(line(rows[-1], tools), flush=True)
    finally:
        registry.stop()
        for tool in tools:
            tool.clear()
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kiln", type=Path, default=TREE / "target/release/kiln")
    parser.add_argument("--bases", type=Path, default=TREE / "target/bases", help="folder of testkit/bases.sh")
    parser.add_argument("--work", type=Path, default=TREE / "bench/out")
    parser.add_argument("--only", type=lambda text: text.split(","), help="cases, by the start of their names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    return parser.parse_args()


# ---- the work ------------------------------------------------------------------------------


class Case:
    """A context, made once; what is done to it before each timed build; and the result wanted."""

    def __init__(self, name, make, result, before=None, primed=True, cold=False):
        self.name, self.make, self.result = name, make, result
        self.before = before or (lambda context: None)
        self.primed, self.cold = primed, cold


def cases(scale):
    return [
        Case("noop-store", lambda context: many_files(context, scale), "store"),
        Case("noop-oci", lambda context: many_files(context, scale), "oci"),
        Case("noop-push", lambda context: many_files(context, scale), "push"),
        Case("runs", nothing, "store", before=thirty_runs),
        Case("stages", nothing, "store", before=eight_stages),
        Case("copy", big_copy, "oci", before=lambda context: big_file(context, scale)),
        Case("pull", pull, "store", primed=False, cold=True),
    ]


def nothing(context):
    write(context / "Dockerfile", "FROM @busybox:latest\n")


def many_files(context, scale):
    steps = "".join(f"RUN echo {number} > /step{number}\n" for number in range(18))
    write(context / "Dockerfile", f"FROM @busybox:latest\nWORKDIR /src\nCOPY . .\n{steps}CMD [\"true\"]\n")
    for number in range(int(2000 * max(scale, 0.05))):
        write(context / f"pkg{number % 40}/mod{number % 7}/file{number}.txt", text(NOISE.randint(200, 6000)))


def thirty_runs(context):
    steps = "".join(f"RUN echo {number} > /step{number}\n" for number in range(29))
    write(context / "Dockerfile", f"FROM @busybox:latest\nRUN echo {fresh()}\n{steps}")


def eight_stages(context):
    mark = fresh()
    stages = "".join(f"FROM @busybox:latest AS s{n}\nRUN sleep 2 && echo {mark} > /out{n}\n" for n in range(8))
    copies = "".join(f"COPY --from=s{n} /out{n} /\n" for n in range(8))
    write(context / "Dockerfile", f"{stages}FROM @busybox:latest\n{copies}")


def big_copy(context):
    write(context / "Dockerfile", "FROM @busybox:latest\nCOPY big /big\n")


def big_file(context, scale):
    blocks = [text(1 << 16).encode() for _ in range(16)]
    with open(context / "big", "wb") as file:
        for _ in range(int(16384 * scale)):
            file.write(NOISE.choice(blocks) if NOISE.random() < 0.6 else NOISE.randbytes(1 << 16))


def pull(context):
    write(context / "Dockerfile", "FROM @node:slim\nRUN true\n")


def text(size):
    words = ("fn", "let", "return", "value", "index", "self", "match", "buffer", "length", "0x1f", "};", "{")
    out = []
    while size > 0:
        out.append(NOISE.choice(words) + str(NOISE.randint(0, 999)))
        size -= len(out[-1]) + 1
    return " ".join(out)


def fresh():
    return f"{time.time_ns()}"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


# ---- the tools -------------------------------------------------------------------------------


class Kiln:
    name = "kiln"

    def __init__(self, program, work, registry):
        self.program, self.root, self.registry = program, work / "kiln", registry

    def available(self):
        return self.program.exists() or sys.exit(f"{self.program} is not there: cargo build --release")

    def commands(self, context, dockerfile, result, archive):
        command = [self.program, "build", "--progress=plain", "-f", dockerfile]
        if result == "push":
            command += ["--push", "-t", self.registry.name("bench/kiln:1")]
        elif result == "oci":
            command += ["-o", f"type=oci,dest={archive}"]
        else:
            command += ["-t", "bench:1"]
        return [command + [context]]

    def environment(self):
        return {"KILN_ROOT": str(self.root)}

    def clear(self):
        shutil.rmtree(self.root, ignore_errors=True)


class Buildah:
    name = "buildah"

    def __init__(self, work, registry):
        self.root, self.registry = work / "buildah", registry
        self.base = ["buildah", "--root", self.root / "root", "--runroot", self.root / "run"]

    def available(self):
        return shutil.which("buildah") or print("buildah is not installed: kiln alone is timed")

    def commands(self, context, dockerfile, result, archive):
        build = self.base + ["bud", "--layers", "--isolation", "chroot", "--network", "host", "--tls-verify=false"]
        build += ["--jobs", "8", "-t", "localhost/bench:1", "-f", dockerfile, context]
        push = self.base + ["push", "--tls-verify=false", "localhost/bench:1"]
        if result == "push":
            return [build, push + [f"docker://{self.registry.name('bench/buildah:1')}"]]
        if result == "oci":
            return [build, push + [f"oci-archive:{archive}"]]
        return [build]

    def environment(self):
        return {}

    def clear(self):
        if self.root.exists():
            subprocess.run(self.base + ["rmi", "--all", "--force"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(["umount", "-l", self.root / "root/overlay"], stderr=subprocess.DEVNULL)
            shutil.rmtree(self.root, ignore_errors=True)


class Registry:
    """Debian's registry on a free loopback port, on a copy of the prepared storage."""

    def __init__(self, folder, seed):
        folder.mkdir(parents=True)
        shutil.copytree(seed, folder / "data")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]
        write(folder / "config.yml", f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{self.address}\"}}\n"
              f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 30
        while True:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{self.address}/v2/").close()
                return
            except OSError:
                if time.time() > deadline:
                    self.stop()
                    sys.exit("the registry did not start")
                time.sleep(0.05)

    def name(self, name):
        return f"{self.address}/{name}"

    def stop(self):
        self.process.kill()
        self.process.wait()


# ---- timing -------------------------------------------------------------------------------------


def measure(case, tools, work, rounds):
    context, archive = work / "context", work / "image.tar"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    case.make(context)
    for tool in tools:
        tool.clear()
    results = {tool.name: [] for tool in tools}
    memory = {tool.name: 0 for tool in tools}

    def build(tool):
        dockerfile = work / "Dockerfile"
        dockerfile.write_text((context / "Dockerfile").read_text().replace("@", tool.registry.name("")))
        archive.unlink(missing_ok=True)
        seconds, peak = 0.0, 0
        for command in tool.commands(context, dockerfile, case.result, archive):
            took, used = timed(command, tool.environment(), work / f"{tool.name}.log")
            seconds, peak = seconds + took, max(peak, used)
        return seconds, peak

    if case.primed:
        for tool in tools:
            case.before(context)
            build(tool)
    for _ in range(rounds):
        for tool in tools:
            if case.cold:
                tool.clear()
            case.before(context)
            os.sync()
            seconds, peak = build(tool)
            results[tool.name].append(seconds)
            memory[tool.name] = max(memory[tool.name], peak)
    return {"case": case.name, "seconds": results, "memory": memory}


def timed(command, environment, log):
    with open(log, "wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], env={**os.environ, **environment},
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGKILL)
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}:\n{Path(log).read_text(errors='replace')[-4000:]}")
    return seconds, usage.ru_maxrss * 1024


def line(row, tools):
    parts = [f"{row['case']:<12}"]
    medians = {name: statistics.median(times) for name, times in row["seconds"].items()}
    for tool in tools:
        parts.append(f"{tool.name} {medians[tool.name]:8.3f} s (min {min(row['seconds'][tool.name]):.3f}, "
                     f"{row['memory'][tool.name] / 1e6:.0f} MB)")
    if len(medians) == 2:
        parts.append(f"share {medians['kiln'] / medians['buildah']:.4f} = 1/{medians['buildah'] / medians['kiln']:.1f}")
    return "   ".join(parts)


def run(command, **more):
    return subprocess.run([str(word) for word in command], check=True, text=True, **more)


if __name__ == "__main__":
    main()
