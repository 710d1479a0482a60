"""The cut and the estimate against what an upload really does, on real servers."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.plan.batch_plan import Plan, read_plan
from lading.plan.ownership import expand
from lading.testing.ceph_gateway import Gateway
from lading.testing.s3_server import Server
from tests.conftest import REPOSITORY

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Release:
    """A release on disk with its stages in a work directory."""

    def __init__(self, directory: Path, run: Run, endpoint: str, bucket: str) -> None:
        self.root = directory / "data"
        self.work = directory / "work"
        self.work.mkdir()
        self._run, self._endpoint, self._bucket = run, endpoint, bucket

    def fill(self, directories: int, files: int, seed: int = 1) -> None:
        chance = random.Random(seed)
        for number in range(directories):
            folder = self.root / f"night {number // 5}" / f"tile-{number:03d}"
            folder.mkdir(parents=True)
            for file in range(files):
                (folder / f"{file:04d}.fits").write_bytes(chance.randbytes(chance.randrange(200, 3000)))

    def stage(self, *command: object, code: int = 0) -> str:
        result = self._run(*command, cwd=self.work)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout

    def crawl(self) -> None:
        self.stage("find.py", self.root, "--mtime", "-o", "find.json")

    def cut(self, *flags: str) -> Plan:
        self.stage("batch.py", self.root, "--min-batch-size=10k", "--max-batch-size=60k", "-o", "batch.json", *flags)
        return read_plan(self.work / "batch.json")

    def estimate(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stage("batch.py", self.root, "--estimate", "--json"))
        return found

    def upload_command(self, *flags: str) -> list[object]:
        target = ["--bucket", f"s3://{self._bucket}/prefix", "--endpoint-url", self._endpoint]
        return ["upload.py", self.root, *target, "--batch", "batch.json", "--max-workers", "8", *flags]

    def upload(self, *flags: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stage(*self.upload_command("--json", *flags)).splitlines()[-1])
        return found

    def files(self) -> dict[str, bytes]:
        return {
            os.path.relpath(os.path.join(folder, name), self.root): Path(folder, name).read_bytes()
            for folder, _, names in os.walk(self.root)
            for name in names
        }

    def owners(self) -> dict[str, str]:
        plan = read_plan(self.work / "batch.json")
        return {path: batch.id for batch, files in expand(plan, self.work) for path, _, _ in files}


def stored(server: Server, bucket: str) -> dict[str, tuple[str, tuple[int, int]]]:
    """Return {key: (MD5, identity)} of the objects, read from the server's disk; a new PUT makes a new identity."""
    top = server.directory / bucket / "prefix"
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder, name)
            status = path.stat()
            digest = hashlib.md5(path.read_bytes()).hexdigest()
            found[str(path.relative_to(top))] = (digest, (status.st_ino, status.st_ctime_ns))
    return found


def change_one_percent(release: Release, seed: int) -> None:
    """Add, grow, touch up (same size), remove and rename about one file in a hundred, and add a directory."""
    chance = random.Random(seed)
    paths = sorted(release.files())
    chosen = chance.sample(paths, max(5, len(paths) // 100))
    for number, path in enumerate(chosen):
        file = release.root / path
        match number % 5:
            case 0:
                file.with_name(f"new {number}.fits").write_bytes(chance.randbytes(500))
            case 1:
                file.write_bytes(file.read_bytes() + b"more")
            case 2:
                file.write_bytes(chance.randbytes(file.stat().st_size))
            case 3:
                file.unlink()
            case 4:
                file.rename(file.with_name(f"renamed {number}.fits"))
    extra = release.root / "night 1" / "tile-extra"
    extra.mkdir()
    (extra / "a.fits").write_bytes(b"a" * 100)


def test_estimate_is_what_the_upload_does(s3: Server, bucket: str, run: Run, tmp_path: Path) -> None:
    s3.make_bucket(bucket)
    release = Release(tmp_path, run, s3.endpoint, bucket)
    release.fill(10, 30)
    release.crawl()
    plan = release.cut()
    before = release.estimate()
    first = release.upload("--max-batches", str(len(plan.batches) // 2))
    assert first["objects"]["left"] > 0
    between = release.estimate()
    assert between["proven"] == first["objects"]["sent"]
    assert (between["objects"], between["bytes"]) == (
        before["objects"] - first["objects"]["sent"],
        before["bytes"] - first["bytes"]["sent"],
    )
    change_one_percent(release, 7)
    release.crawl()
    release.cut()
    left = release.estimate()
    second = release.upload()
    assert (left["objects"], left["bytes"]) == (second["objects"]["sent"], second["bytes"]["sent"])
    assert left["puts"] == left["objects"]
    assert second["objects"]["left"] == 0
    after = release.estimate()
    assert (after["objects"], after["bytes"], after["puts"], after["listings"]) == (0, 0, 0, 0)
    assert after["proven"] == len(release.files())


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_interrupted_changed_and_cut_again(s3: Server, bucket: str, run: Run, tmp_path: Path, seed: int) -> None:
    """Killed half-way, 1 % changed, re-crawled, cut again: only what is new or changed goes over the wire."""
    s3.make_bucket(bucket)
    release = Release(tmp_path, run, s3.endpoint, bucket)
    release.fill(20, 40, seed)
    release.crawl()
    release.cut()
    total = len(release.files())
    command = [sys.executable, str(REPOSITORY / "upload.py"), *map(str, release.upload_command()[1:])]
    process = subprocess.Popen(command, cwd=release.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = release.work / "journal"
    while process.poll() is None and sum(p.read_bytes().count(b'"done"') for p in journal.glob("*.jsonl")) < total / 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the transfer program dies with it; what it had begun settles
    proven = {
        record["key"].removeprefix("prefix/"): record["batch"]
        for path in journal.glob("*.jsonl")
        for record in map(json.loads, path.read_bytes().splitlines()[:-1])
        if record["kind"] == "done"
    }
    change_one_percent(release, seed)
    release.crawl()
    release.cut()
    files, owners = release.files(), release.owners()
    assert set(owners) == set(files)
    before = stored(s3, bucket)
    digests = {path: hashlib.md5(content).hexdigest() for path, content in files.items()}
    unchanged = {path for path in proven if path in files and before[path][0] == digests[path]}
    assert len(unchanged) >= total / 4
    assert all(owners[path] == proven[path] for path in unchanged), "a proven file moved to another batch"
    wanted = {path for path in files if path not in before or before[path][0] != digests[path]}
    result = release.upload()
    after = stored(s3, bucket)
    sent = {path for path in after if path not in before or after[path][1] != before[path][1]}
    assert sent - {path for path in after if path not in files} == wanted
    assert result["objects"]["sent"] == len(wanted)
    assert {path: after[path][0] for path in files} == digests
    again = release.upload()
    assert again["objects"] == {"sent": 0, "adopted": 0, "proven": 0, "failed": 0, "left": 0}


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_parts_are_as_estimated(gateway: Gateway, bucket: str, run: Run, tmp_path: Path) -> None:
    """Sizes around the part bound: one PUT, or as many parts as the ETag says."""
    gateway.make_bucket(bucket)
    release = Release(tmp_path, run, gateway.endpoint, bucket)
    release.root.mkdir()
    part = 50 * 2**20
    for name, size in {"exact": part, "one more": part + 1, "three": 2 * part + 5, "small": 10, "empty": 0}.items():
        with open(release.root / name, "wb") as stream:
            stream.truncate(size)
    release.crawl()
    release.cut()
    estimate = release.estimate()
    result = release.upload()
    assert (estimate["objects"], estimate["bytes"]) == (result["objects"]["sent"], result["bytes"]["sent"])
    listed = gateway.client().list_objects_v2(Bucket=bucket)["Contents"]
    parts = [int(item["ETag"].strip('"').partition("-")[2] or 0) for item in listed]
    assert len(listed) == estimate["objects"] == 5
    assert sum(item["Size"] for item in listed) == estimate["bytes"]
    assert sum(parts) == estimate["parts"] == 5
    assert sum(1 for count in parts if count) == estimate["multipart"] == 2
    assert estimate["puts"] == sum(count or 1 for count in parts) == 8
