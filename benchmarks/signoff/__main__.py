"""``python -m benchmarks.signoff [planted] [ranks]``: what a sign-off finds, and how ranks share it; both by default.

Sizes by environment: LADING_BENCH_FILES (1,000,000), LADING_BENCH_EACH (25 errors of each kind),
LADING_BENCH_RANKED (20,000 files), LADING_LATENCY_US (5,000 for each request).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.choice import choose_tables
from benchmarks.figures import note
from lading.testing import sink_server
from lading.testing.planted_release import CHECKS, CLEAN, FLAGS, PlantedRelease, found_in

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = int(os.environ.get("LADING_BENCH_FILES", "1000000"))
EACH = int(os.environ.get("LADING_BENCH_EACH", "25"))
RANKED = int(os.environ.get("LADING_BENCH_RANKED", "20000"))
LATENCY = os.environ.get("LADING_LATENCY_US", "5000")
LEAST_RATIO = 3.5
BUCKET = "s3://signed"


def run(
    directory: Path, *words: str, ranks: int = 1, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command of Lading in a directory."""
    command = [sys.executable, "-m", "lading", *words]
    if ranks > 1:
        mpiexec = peers.find("mpiexec") or "mpiexec"
        command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py", *command[1:]]
    whole = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})}
    return subprocess.run(command, cwd=directory, env=whole, capture_output=True, text=True, check=False)


def timed(what: str, do: Callable[[], Any]) -> Any:
    """Do something and print how long it took."""
    began = time.monotonic()
    done = do()
    took = time.monotonic() - began
    print(f"{what}: {took:.1f} s", flush=True)
    note(what, took, "s")
    return done


def compare(directory: Path, planted: PlantedRelease) -> list[str]:
    """Return what was passed over, and what was invented."""
    with (directory / "signoff/findings.jsonl").open() as stream:
        found = found_in(map(json.loads, stream))
    wrong = [f"passed over: {kind} of {path!r}" for kind, path in sorted(planted.expected - found)]
    return wrong + [f"invented: {kind} of {path!r}" for kind, path in sorted(found - planted.expected)]


def sign_off(directory: Path, planted: PlantedRelease) -> list[str]:
    """Sign off by two ranks, and compare with what was planted."""
    owned = ("--owner", "root", "--group", "root") if os.geteuid() == 0 else ()
    words = ["signoff", str(planted.root), *FLAGS, *owned, "--checks", CHECKS, "--json"]
    done = timed("sign-off by two ranks", lambda: run(directory, *words, ranks=2))
    if done.returncode != 4:
        return [f"exit {done.returncode}: {done.stderr[-500:]}"]
    said = json.loads(done.stdout)
    found = sum(said["errors"].values()) + sum(said["notes"].values())
    print(
        f"{said['entries']['files']:,} files; read {said['read']['files']:,}; {len(planted.kinds)} kinds planted, "
        f"{len(planted.expected):,} findings expected, {found:,} found"
    )
    return compare(directory, planted)


def last_run(directory: Path) -> Any:
    """Return the record of the last run of upload or verify."""
    paths = sorted((directory / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(paths[-1].read_text())


def transfer(directory: Path, planted: PlantedRelease) -> list[str]:
    """Upload and verify 100,000 of the sound files; returns what was read to hash them."""
    release = planted.root / CLEAN / "night000"
    for script, *rest in (
        ("find", str(release), "--mtime"),
        ("batch", str(release), "--file-tree", "find.json", "--max-batch-size", "1G", "--min-batch-size", "1M"),
    ):
        done = timed(script, lambda script=script, rest=rest: run(directory, script, *rest))
        if done.returncode:
            return [f"{script}: exit {done.returncode}: {done.stderr[-500:]}"]
    wrong = []
    with sink_server.serve(directory) as server:
        environment = server.environment()
        words = [str(planted.root), "--bucket", BUCKET, "--batch", "batch.json", "--endpoint-url", server.endpoint]
        done = timed("upload", lambda: run(directory, "upload", *words, environment=environment))
        record = last_run(directory)
        print(
            f"upload: exit {done.returncode}, verified {record['objects']['proven']:,} objects, read "
            f"{record['digested']} to hash, reused {record['digests_reused']}"
        )
        if done.returncode or record["digested"]["bytes"]:
            wrong.append(f"upload: exit {done.returncode}, read {record['digested']}: {done.stderr[-500:]}")
        done = timed("verify", lambda: run(directory, "verify", *words, environment=environment))
        record = last_run(directory)
        objects = record["objects"]
        print(f"verify: exit {done.returncode}, {objects['proven']:,} objects, read {objects['read']} files")
        if done.returncode or record["objects"]["read"]:
            wrong.append(f"verify: exit {done.returncode}, read {record['objects']['read']}: {done.stderr[-500:]}")
    return wrong


def planted(scratch: Path) -> list[str]:
    """Plant, sign off, upload, verify."""
    release = PlantedRelease(scratch / "rel")
    timed(f"made about {FILES:,} files", lambda: release.make(FILES, EACH))
    if wrong := sign_off(scratch, release):
        return wrong
    print("all found, none invented")
    return [] if peers.lacks_compiler("the sink server") else transfer(scratch, release)


def build_slow_files(directory: Path) -> Path:
    """Compile the slow file server; returns the library's path."""
    library = directory / "slow_files.so"
    source = Path(__file__).with_name("slow_files.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def ranks(scratch: Path) -> list[str]:
    """One rank and four, where each request to the file server takes long."""
    if peers.lacks_compiler("the slow file server"):
        return []
    release = PlantedRelease(scratch / "ranked")
    release.make(RANKED, 0)
    slow = {"LD_PRELOAD": str(build_slow_files(scratch)), "LADING_LATENCY_US": LATENCY}
    seconds = {}
    for count in (1, 4):
        words = [
            "signoff",
            str(release.root),
            "-o",
            f"by{count}",
            "--max-workers",
            "4",
            "--checks",
            "all=off",
            "--json",
        ]
        done = run(scratch, *words, ranks=count, environment=slow)
        if done.returncode:
            return [f"{count} ranks: exit {done.returncode}: {done.stderr[-500:]}"]
        seconds[count] = json.loads(done.stdout)["seconds"]
    ratio = seconds[1] / seconds[4]
    print(
        f"{RANKED:,} files, {LATENCY} µs a request, 4 threads a rank: {seconds[1]:.1f} s by one rank, "
        f"{seconds[4]:.1f} s by four: {ratio:.2f} times (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )
    note("four ranks: times one", ratio, better="more")
    return [] if ratio >= LEAST_RATIO else [f"four ranks are {ratio:.2f} times as fast as one"]


TABLES = {"planted": planted, "ranks": ranks}


def main(names: Sequence[str] | None = None) -> int:
    """Run the tables that were named; returns 1 where anything is wrong."""
    wrong = []
    for name in choose_tables(__doc__, TABLES, words=names):
        with tempfile.TemporaryDirectory() as directory:
            wrong += TABLES[name](Path(directory))
    for line in wrong[:40]:
        print(f"wrong: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
