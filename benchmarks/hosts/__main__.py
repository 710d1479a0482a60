"""What it costs to send thousands of datasets to a host that limits its API, by a push that is killed halfway.

Input: ``python -m benchmarks.hosts [--datasets N] [--kind github|forgejo|gogs] [--every N] [--directory DIR]``.
Output: a table of seconds, CPU seconds, memory, requests and pushes of each step; exit 1 when a repository is not as
it should be.

The host is the stand-in of the tests on loopback (``tests/servers/git_hosts.py``), in this process. Each ``--every``-th
request meets a limit, by turns a secondary one (403) and a 429, and is asked to wait a second.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lading.mirror.git.commands import resolve
from tests.mirrors import Listed
from tests.servers.git_hosts import TOKEN, GitHostServer, limited, serve_host

BRANCHES = ("refs/heads/main", "refs/heads/git-annex")


class HostsBench:
    """One mirror and one host."""

    def __init__(self, host: GitHostServer, directory: Path, count: int) -> None:
        self.host, self.directory, self.count = host, directory, count
        kinds = {"github": f"datasets: {{path: datasets, github_org: lab}}\ngithub_api: {host.api}\n"}
        other = {"forgejo": "forgejo", "gogs": "gin"}.get(host.kind)
        default = (
            f"datasets: {{path: datasets}}\nhosts: [{{name: {other}, kind: {other}, api: {host.api}, org: lab}}]\n"
        )
        (directory / "mirror.yaml").write_text(kinds.get(host.kind, default))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "AWS_", "XDG_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        tokens = {"GITHUB_TOKEN": TOKEN, "FORGEJO_TOKEN": TOKEN, "GIN_TOKEN": TOKEN}
        root = str(Path(__file__).resolve().parents[2])
        self.environment = {**kept, **tokens, "HOME": str(directory), "PATH": path, "PYTHONPATH": root}
        self.listed = Listed(directory / "root")
        for number in range(count):
            self.listed.put(f"d{number:05d}/f.dat", b"%d" % number)
        self.listed.write(directory / "manifest.jsonl.zst")
        print(f"{'step':28} {'s':>7} {'CPU s':>7} {'MB':>5} {'requests':>9} {'new':>6} {'pushes':>7}", flush=True)

    def notes(self) -> dict[Path, int]:
        """Return when each repository was last noted as pushed."""
        return {path: path.stat().st_mtime_ns for path in self.directory.glob("datasets/???/*/lading-pushed/*")}

    def step(self, name: str, *words: str, kill_at: int | None = None) -> None:
        """Run the mirror, and kill it once the host was asked for ``kill_at`` new repositories."""
        asked, made, before = len(self.host.asked), self.host.made(), self.notes()
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "lading", "mirror", "-c", "mirror.yaml", *words], cwd=self.directory,
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while kill_at is not None and len(self.host.repositories) < kill_at and process.poll() is None:
            time.sleep(0.05)
        if kill_at is not None:
            process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds, cpu = time.monotonic() - begun, usage.ru_utime + usage.ru_stime
        if process.returncode not in (0, -signal.SIGKILL):
            print(said[-2000:])
        after = self.notes()
        pushes = sum(1 for path, when in after.items() if before.get(path) != when)
        print(
            f"{name:28} {seconds:7.1f} {cpu:7.1f} {usage.ru_maxrss / 1024:5.0f} {len(self.host.asked) - asked:9,} "
            f"{self.host.made() - made:6,} {pushes:7,}",
            flush=True,
        )

    def differing(self) -> int:
        """Return how many repositories there are not as they are here."""
        found = 0
        for config in self.directory.glob("datasets/???/*/config"):
            here = config.parent
            address = next((line for line in config.read_text().splitlines() if "url = " in line), "")
            there = Path(address.partition("= ")[2].strip('"'))
            found += not address or any(resolve(here, name) != resolve(there, name) for name in BRANCHES)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hosts", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--kind", choices=("github", "forgejo", "gogs"), default="github")
    parser.add_argument("--every", type=int, default=500, help="every so many requests meet a limit")
    parser.add_argument("--directory", type=Path, help="where to work; it stays")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.directory or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        with serve_host(options.kind, directory / "host") as host:
            bench = HostsBench(host, directory, options.datasets)
            bench.step("mirror, nothing sent", "update")
            host.fault = limited(options.every, 1)
            bench.step("push, killed halfway", "push", kill_at=options.datasets // 2)
            bench.step("push, the rest", "push")
            bench.step("push, nothing to do", "push")
            bench.listed.put("d00000/more.dat", b"more")
            bench.listed.write(directory / "manifest.jsonl.zst")
            bench.step("one changed", "update", "--push")
            bench.step("described", "update-metadata")
            differing = bench.differing()
    print(f"{differing:,} repositories differ; this process: "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")  # fmt: skip
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
