"""``python -m benchmarks.audit [OBJECTS] [FAULTS]``: 1,000 planted faults among 100,000 objects, by the manifest alone.

Input: nothing: a read-only server on this machine, and a manifest. Output: what ``verify --manifest`` and a period of
scrubs find, their peak memory and time; it fails where a fault was passed over or invented.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lading.testing.s3_server import Server, serve
from tests.buckets import Bucket

SIZE = 64
PERIOD_DAYS = 6
# Per 1,000: an even number is swapped in pairs.
SHARES = {"missing": 160, "truncated": 160, "flipped": 160, "older": 160, "swapped": 160, "extra": 200}
# What each kind is called by the listing; a byte that flipped on the server's disk is shown by reading alone.
LISTED = {
    "missing": "missing",
    "truncated": "different",
    "older": "different",
    "swapped": "different",
    "extra": "extra",
}
# A process of its own for each command, at a time of its own, which says how much memory it took.
_RUN = """
import resource, sys, time
from types import SimpleNamespace
from lading.cli.main import main
from lading.core.command_line import run_main
from lading.verification import scrub_run
now = float(sys.argv.pop(1))
scrub_run.time = SimpleNamespace(time=lambda: now)
code = run_main(main)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000, file=sys.stderr)
sys.exit(code)
"""


@dataclass
class PlantedBucket:
    """A bucket and the keys of its faults, by kind."""

    bucket: Bucket
    keys: dict[str, list[str]] = field(default_factory=dict)

    def plant(self, objects: int, faults: int) -> None:
        """Fill the bucket, write its manifest, then spoil it."""
        bucket = self.bucket
        bucket.fill(objects, size=SIZE)
        counts = {kind: max(2, faults * share // 1000 // 2 * 2) for kind, share in SHARES.items()}
        total = sum(counts.values())
        rows, step = bucket.rows, objects // total
        place = 0
        for kind, count in counts.items():
            chosen = [(place + number) * step for number in range(count)]
            place += count
            self.keys[kind] = [rows[number].key for number in chosen]
            self._spoil(kind, chosen)
        bucket.write()

    def _spoil(self, kind: str, chosen: Sequence[int]) -> None:
        rows, path = self.bucket.rows, self.bucket.path
        if kind == "swapped":
            for one, other in zip(chosen[::2], chosen[1::2]):
                first, second = path(rows[one].key), path(rows[other].key)
                body = first.read_bytes()
                first.write_bytes(second.read_bytes())
                second.write_bytes(body)
            return
        for number in chosen:
            file = path(rows[number].key)
            body = bytearray(file.read_bytes())
            if kind == "missing":
                file.unlink()
            elif kind == "truncated":
                file.write_bytes(body[:-1])
            elif kind == "older":
                file.write_bytes(b"an older version".ljust(SIZE))
            elif kind == "extra":
                self.bucket.path(rows[number].key + ".extra").write_bytes(b"extra")
            else:  # below the server, whose listing goes on to show the recorded digest
                body[5] ^= 1
                file.write_bytes(body)
                md5 = hashlib.md5(body).hexdigest()
                rows[number] = replace(rows[number], etag=md5, md5=md5)

    @property
    def listed(self) -> dict[str, int]:
        """How many faults of each kind a listing can show."""
        found = {"missing": 0, "different": 0, "extra": 0}
        for kind, name in LISTED.items():
            found[name] += len(self.keys[kind])
        return found


@dataclass
class Outcome:
    """What a command printed, its exit code, its peak memory in MB and its seconds."""

    said: dict[str, Any]
    code: int
    peak: int
    seconds: float


def run(bucket: Bucket, now: float, *words: str) -> Outcome:
    """Run a command beside the manifest, at a time of its own."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(now), *words],
        cwd=bucket.directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    peak = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("peak ")]
    if not peak or not done.stdout:
        raise RuntimeError(done.stderr)
    return Outcome(json.loads(done.stdout), done.returncode, peak[0], time.monotonic() - began)


def audit(planted: PlantedBucket, server: Server) -> list[str]:
    """Verify by the listing, then scrub for a period; returns what was passed over or invented."""
    bucket, wrong = planted.bucket, []
    before = sorted((path, path.stat().st_mtime_ns) for path in server.directory.rglob("*"))
    found = run(bucket, time.time(), "verify", "--manifest", "manifest.jsonl.zst", "--json")
    shown = {kind: found.said["objects"][kind] for kind in planted.listed}
    print(f"verify --manifest: exit {found.code}, {shown}, peak {found.peak} MB, {found.seconds:.1f} s", flush=True)
    if shown != planted.listed or found.code != 4:
        wrong.append(f"the listing shows {planted.listed}, and verify found {shown}")
    peaks, day, read = [found.peak], time.time(), 0
    share = str(len(bucket.rows) * SIZE // PERIOD_DAYS + SIZE * 1000)
    for number in range(PERIOD_DAYS + 1):
        day += 86400.0
        words = ("--period", f"{PERIOD_DAYS}d", "--bytes", share, "--json")
        found = run(bucket, day, "scrub", "--manifest", "manifest.jsonl.zst", *words)
        peaks.append(found.peak)
        read += found.said["read"]["objects"]
        damaged = sorted(one["key"] for one in found.said["wrong"] if one["kind"] == "damaged")
        print(
            f"scrub, day {number + 1}: exit {found.code}, read {found.said['read']['objects']:,} objects, "
            f"{len(damaged)} damaged ones stand, peak {found.peak} MB, {found.seconds:.1f} s",
            flush=True,
        )
    shown = {kind: found.said["listed"]["objects"][kind] for kind in planted.listed}
    if shown != planted.listed:
        wrong.append(f"the listing shows {planted.listed}, and scrub found {shown}")
    lacking = sorted(set(planted.keys["flipped"]) - set(damaged))
    other = set(damaged) - {key for keys in planted.keys.values() for key in keys}
    wrong += [f"scrub passed over {key}" for key in lacking] + [f"scrub invented {key}" for key in sorted(other)]
    if before != sorted((path, path.stat().st_mtime_ns) for path in server.directory.rglob("*")):
        wrong.append("something was written to the bucket")
    print(f"read {read:,} objects in {PERIOD_DAYS + 1} days; highest peak {max(peaks)} MB", flush=True)
    if max(peaks) > 300:
        wrong.append(f"{max(peaks)} MB of memory")
    return wrong


def main(objects: int = 100_000, faults: int = 1000) -> int:
    """Plant, audit, print; returns 1 where anything is wrong."""
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        with serve(top / "s3", read_only=True) as server, patch.dict(os.environ, server.environment()):
            server.make_bucket("bkt")
            bucket = Bucket(top / "only", server, "bkt")
            bucket.directory.mkdir()
            planted = PlantedBucket(bucket)
            planted.plant(objects, faults)
            print({kind: len(keys) for kind, keys in planted.keys.items()}, flush=True)
            wrong = audit(planted, server)
    for line in wrong:
        print(f"wrong: {line}")
    print("all found, none invented" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
