"""What a mirror of a whole DANDI archive costs: the first run, and what changes cost afterwards.

Input: ``python -m benchmarks.dandi [--dandisets N] [--assets N] [--zarr ENTRIES] [--sample N] [--directory DIR]``.
Output: a table of seconds, CPU seconds, memory of the largest process, and commits of each step; exit 1 when a step
made other commits than it should, or a file of the sample is not what it should be.

The archive is the stand-in of the tests on loopback (``tests/servers/dandi.py``), in this process; each import and each
update is a process of its own, as cron starts it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.figures import note
from tests.servers.dandi import KEY, Archive, body_of, path_of, serve

SETTINGS = "datasets: {path: dandisets}\nzarrs: {path: zarrs}\nmanifest: manifests\n"


class DandiBench:
    """One archive and one mirror of it."""

    def __init__(self, archive: Archive, directory: Path) -> None:
        self.archive, self.directory = archive, directory
        self.failed, self.steps = False, 0
        (directory / "mirror.yaml").write_text(SETTINGS + "private_stores: [private]\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "AWS_", "XDG_"))}
        home = {"HOME": str(directory), "AWS_EC2_METADATA_DISABLED": "true", "DANDI_API_KEY": KEY}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        self.environment = {**kept, **home, "PATH": path, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        print(
            f"{'step':30} {'import s':>9} {'CPU':>8} {'MB':>6} {'mirror s':>9} {'CPU':>8} {'MB':>6} commits", flush=True
        )

    def run(self, *words: str, code: int = 0) -> tuple[float, float, float]:
        """Run ``lading``; returns seconds, CPU seconds of it and its children, and megabytes of the largest process."""
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "lading", *words], cwd=self.directory, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        found = os.waitstatus_to_exitcode(status)
        process.returncode = found
        if found != code:
            self.failed = True
            print(f"lading {' '.join(words[:1])}: exit {found}, not {code}\n{said[-2000:]}")
        return time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024

    def commits(self) -> dict[str, str]:
        """Return where the branch main of every repository is."""
        found = {}
        for store in ("dandisets", "zarrs"):
            for head in self.directory.glob(f"{store}/???/*/refs/heads/main"):
                found[str(head)] = head.read_text()
        return found

    def step(self, name: str, change: Callable[[], object], wanted: int | None, *, zarr_manifests: bool = True) -> None:
        """Change the archive, import and mirror it, and compare how many branches moved."""
        change()
        before = self.commits()
        flags = ["--zarr-manifests", f"{self.archive.url}/zarr-manifests"] if zarr_manifests else []
        source = ("import", f"dandi+{self.archive.api}", "-c", "mirror.yaml", "--endpoint-url", self.archive.url)
        first = self.run(*source, "--no-sign-request", *flags)
        second = self.run("mirror", "-c", "mirror.yaml", "update")
        after = self.commits()
        moved = sum(1 for head in after if before.get(head) != after[head])
        fine = wanted is None or moved == wanted
        self.failed |= not fine
        row = " ".join(f"{seconds:9.1f} {cpu:8.1f} {memory:6.0f}" for seconds, cpu, memory in (first, second))
        print(f"{name:30} {row} {moved:,}{'' if fine else f', not {wanted}'}", flush=True)
        self.steps += 1
        for what, (_, cpu, memory) in (("import", first), ("mirror", second)):
            note(f"step {self.steps}, {name}: {what}", cpu, "CPU s")
            note(f"step {self.steps}, {name}: memory of {what}", memory, "MB")

    def sample(self, count: int) -> None:
        """Clone as a user does, get a file of each of ``count`` datasets, and have git-annex check it."""
        begun = time.monotonic()
        allowed = "annex.security.allowed-ip-addresses"
        self._tool("git", "config", "--global", allowed, "127.0.0.1", where=self.directory)
        self._tool("datalad", "clone", f"ria+file://{self.directory}/dandisets#~super", "clone", where=self.directory)
        cloned = time.monotonic() - begun
        clone = self.directory / "clone"
        there = [name for name in sorted(self.archive.dandisets) if self.archive.dandisets[name].generated > 2]
        wanted = there[:: max(1, len(there) // count)][:count]
        begun = time.monotonic()
        for name in wanted:
            self._tool("datalad", "get", f"{name}/{path_of(2)}", where=clone)
            self._tool("git", "annex", "fsck", path_of(2), where=clone / name)
            if (clone / name / path_of(2)).read_bytes() != body_of(f"{name}/{path_of(2)}"):
                self.failed = True
                print(f"{name}/{path_of(2)} has another content")
        each = (time.monotonic() - begun) / len(wanted)
        print(f"datalad clone {cloned:.1f} s; of {len(wanted)} datasets get, and git annex fsck: {each:.1f} s each")
        seconds, cpu, memory = self.run("mirror", "-c", "mirror.yaml", "verify", "--fsck", str(count))
        print(f"mirror verify --fsck {count}: {seconds:.1f} s, {cpu:.1f} s of CPU, {memory:.0f} MB", flush=True)

    def _tool(self, *words: str, where: Path) -> None:
        done = subprocess.run(words, cwd=where, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            self.failed = True
            print(f"{' '.join(words)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-1000:]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dandi", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--dandisets", type=int, default=100)
    parser.add_argument("--assets", type=int, default=100, help="of each dandiset")
    parser.add_argument("--zarr", type=int, default=10_000, help="entries of the one Zarr store; 0: none")
    parser.add_argument("--sample", type=int, default=5, help="datasets to clone and get from; 0: none")
    parser.add_argument("--directory", type=Path, help="where to work; it stays")
    options = parser.parse_args(argv)
    archive = Archive()
    for number in range(1, options.dandisets + 1):
        archive.add(f"{number:06d}", generated=options.assets)
    archive.add("900000", generated=5, embargo="EMBARGOED")
    count = options.dandisets + 1
    with serve(archive), tempfile.TemporaryDirectory() as scratch:
        directory = options.directory or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        bench = DandiBench(archive, directory)
        bench.step("first run", lambda: None, count)
        bench.step("nothing changed", lambda: None, 0)
        bench.step("one changed", lambda: archive.put("000001", "new.nwb"), 2)
        bench.step("one asset removed", lambda: archive.remove("000002", path_of(1)), 2)
        bench.step("one published", lambda: archive.publish("000003", "0.250101.0000"), 2)
        bench.step("one dandiset removed", lambda: archive.dandisets.pop("000004"), 1)
        bench.step("an embargo lifted", lambda: setattr(archive.dandisets["900000"], "embargo", "OPEN"), 2)
        if options.zarr:
            bench.step(f"a Zarr of {options.zarr:,}", lambda: archive.put("000005", "z.zarr", zarr=options.zarr), 3)
            bench.step("nothing changed", lambda: None, 0)
        if options.sample:
            bench.sample(options.sample)
        size = sum(
            file.stat().st_size for store in ("dandisets", "zarrs") for file in directory.glob(f"{store}/**/*.pack")
        )
        print(f"packs of the mirror: {size / 1e6:,.1f} MB; this process: "
              f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")  # fmt: skip
    return int(bench.failed)


if __name__ == "__main__":
    sys.exit(main())
