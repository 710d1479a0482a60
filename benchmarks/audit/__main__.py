"""``python -m benchmarks.audit [OBJECTS] [FAULTS]``: 1,000 planted faults among 100,000 objects, by the manifest alone.

Input: nothing: a read-only server on this machine, and a manifest. Output: what ``verify --manifest`` and a period of
scrubs find, their peak memory and time; it fails where a fault was passed over or invented.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.audit.read_only_server import WHEN, serve
from benchmarks.figures import note
from lading.verification.manifest import ManifestHeader, ManifestRow, write_manifest

SIZE = 64
PERIOD_DAYS = 3
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
import sys, time
from pathlib import Path
from types import SimpleNamespace
from lading.cli.main import main
from lading.core.command_line import run_main
from lading.verification import scrub_run
now = float(sys.argv.pop(1))
scrub_run.time = SimpleNamespace(time=lambda: now)
code = run_main(main)
# Not ru_maxrss: that counts what the parent had when it forked.
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print("peak", int(peak) * 1024 // 10**6, file=sys.stderr)
sys.exit(code)
"""


@dataclass
class PlantedBucket:
    """The objects of a bucket as a server holds them, its manifest, and the keys of its errors by kind."""

    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    rows: list[ManifestRow] = field(default_factory=list)
    keys: dict[str, list[str]] = field(default_factory=dict)

    def plant(self, count: int, faults: int) -> None:
        """Fill the bucket, describe it, then spoil it."""
        for number in range(count):
            key = f"dr1/d{number % 7}/{number:06d}"
            body = (hashlib.sha256(key.encode()).digest() * (SIZE // 32 + 1))[:SIZE]
            md5, sha256 = hashlib.md5(body, usedforsecurity=False).hexdigest(), hashlib.sha256(body).hexdigest()
            self.objects[key] = body, md5
            self.rows.append(ManifestRow(key[4:], key, SIZE, 0, md5, sha256, md5, None, "etag", "b", WHEN))
        counts = {kind: max(2, faults * share // 1000 // 2 * 2) for kind, share in SHARES.items()}
        step = count // sum(counts.values())
        place = 0
        for kind, number in counts.items():
            self.keys[kind] = [self.rows[(place + index) * step].key for index in range(number)]
            place += number
            self._spoil(kind)
        self.rows.sort(key=lambda row: row.key.encode())

    def _spoil(self, kind: str) -> None:
        chosen = self.keys[kind]
        if kind == "swapped":
            for one, other in zip(chosen[::2], chosen[1::2]):
                self.objects[one], self.objects[other] = self.objects[other], self.objects[one]
            return
        for key in chosen:
            body, md5 = self.objects[key]
            if kind == "missing":
                del self.objects[key]
            elif kind == "truncated":
                self._put(key, body[:-1])
            elif kind == "older":
                self._put(key, b"an older version".ljust(SIZE))
            elif kind == "extra":
                self._put(key + ".extra", b"extra")
            else:  # below the server, whose listing goes on to show the recorded digest
                self.objects[key] = body[:5] + bytes([body[5] ^ 1]) + body[6:], md5

    def _put(self, key: str, body: bytes) -> None:
        self.objects[key] = body, hashlib.md5(body, usedforsecurity=False).hexdigest()

    def write_manifest(self, directory: Path, endpoint: str) -> None:
        """Write the manifest, which is all that is kept of the release."""
        header = ManifestHeader("bkt", "dr1/", endpoint, "/r", "0" * 64, WHEN, {})
        write_manifest(directory / "manifest.jsonl.zst", header, self.rows, complete=True)

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


def run(directory: Path, now: float, *words: str) -> Outcome:
    """Run a command beside the manifest, at a time of its own."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(now), *words],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    peak = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("peak ")]
    if not peak or not done.stdout:
        raise RuntimeError(done.stderr)
    return Outcome(json.loads(done.stdout), done.returncode, peak[0], time.monotonic() - began)


def audit(planted: PlantedBucket, directory: Path) -> list[str]:
    """Verify by the listing, then scrub for a period; returns what was passed over or invented."""
    wrong = []
    found = run(directory, time.time(), "verify", "--manifest", "manifest.jsonl.zst", "--json")
    shown = {kind: found.said["objects"][kind] for kind in planted.listed}
    print(f"verify --manifest: exit {found.code}, {shown}, peak {found.peak} MB, {found.seconds:.1f} s", flush=True)
    note("verify --manifest", found.seconds, "s")
    if shown != planted.listed or found.code != 4:
        wrong.append(f"the listing shows {planted.listed}, and verify found {shown}")
    peaks, day, read = [found.peak], time.time(), 0
    share = str(len(planted.rows) * SIZE // PERIOD_DAYS + SIZE * 1000)
    for number in range(PERIOD_DAYS + 1):
        day += 86400.0
        words = ("--period", f"{PERIOD_DAYS}d", "--bytes", share, "--json")
        found = run(directory, day, "scrub", "--manifest", "manifest.jsonl.zst", *words)
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
    print(f"read {read:,} objects in {PERIOD_DAYS + 1} days; highest peak {max(peaks)} MB", flush=True)
    note("highest peak", max(peaks), "MB")
    if max(peaks) > 300:
        wrong.append(f"{max(peaks)} MB of memory")
    return wrong


def main(objects: int = 100_000, faults: int = 1000) -> int:
    """Plant, audit, print; returns 1 where anything is wrong."""
    planted = PlantedBucket()
    planted.plant(objects, faults)
    print({kind: len(keys) for kind, keys in planted.keys.items()}, flush=True)
    keys = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader", "AWS_REGION": "us-east-1"}
    with (
        tempfile.TemporaryDirectory() as directory,
        serve(planted.objects) as server,
        patch.dict(os.environ, {**keys, "AWS_EC2_METADATA_DISABLED": "true"}),
    ):
        planted.write_manifest(Path(directory), server.endpoint)
        wrong = audit(planted, Path(directory))
        if server.refused:
            wrong.append(f"{server.refused} requests asked for a change")
    for line in wrong:
        print(f"wrong: {line}")
    print("all found, none invented" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", nargs="?", type=int, default=100_000)
    parser.add_argument("faults", nargs="?", type=int, default=1000)
    sys.exit(main(**vars(parser.parse_args())))
