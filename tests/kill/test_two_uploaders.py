"""Two machines on one plan, one of them killed: the other finishes, nothing is lost, nothing doubled."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lading.core.atomic import read_log
from lading.verification.manifest import read_manifest
from tests import labtree
from tests.servers import faults

OBJECTS = int(os.environ.get("LADING_OBJECTS", "8000"))


def start(root: Path, directory: Path, proxy, bucket: str, host: str, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        labtree.upload_command(root, proxy, bucket, "--max-workers", "2", *more),
        cwd=directory, env={**os.environ, "LADING_HOST": host, "LADING_LEASE_SECONDS": "12"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def proven_by(journal: Path, pid: int) -> set[str]:
    """Return the keys that one uploader had proven; its process id is in the name of its journal."""
    keys: set[str] = set()
    for path in journal.glob("*.jsonl"):
        if f"-{pid}-" in path.name:
            keys |= {record["key"] for record in read_log(path) if record and record["kind"] == "done"}
    return keys


def wait_for_lease(directory: Path) -> None:
    """Return when the plan is held."""
    leases = directory / "journal" / "leases"
    deadline = time.monotonic() + 60
    while not (leases.exists() and list(leases.iterdir())):
        assert time.monotonic() < deadline, "nobody took the plan"
        time.sleep(0.05)


@pytest.mark.long
def test_one_of_two_is_killed(s3, bucket: str, tmp_path: Path) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, OBJECTS, odd=False)
    labtree.make_plan(root, directory, largest="400k")
    s3.make_bucket(bucket)
    # A process takes some thousand objects at a time. Slow enough that both are in the middle of it when one dies.
    with faults.serve(s3, lambda request: faults.Stall(0.01) if request.put else None) as proxy:
        first = start(root, directory, proxy, bucket, "node-a")
        wait_for_lease(directory)  # the other way round the first, uninvited, would be turned away
        second = start(root, directory, proxy, bucket, "node-b", "--join")
        claims = directory / "journal" / "claims"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            journals = list((directory / "journal").glob("*.jsonl"))
            busy = sum(len(path.read_bytes().splitlines()) > 3 for path in journals)
            if busy >= 2 and claims.exists() and list(claims.iterdir()):
                break
            time.sleep(0.1)
        else:
            pytest.fail("the two did not both come to work")
        assert first.poll() is None
        first.send_signal(signal.SIGKILL)
        first.communicate()
        killed_at = len(proxy.requests)
        done_by_first = proven_by(directory / "journal", first.pid)
        out, errors = second.communicate(timeout=400)
        assert second.returncode == 0, errors + out
        sent = [request.key for request in proxy.requests if request.put and ".lading-canary" not in request.key]
        later = {request.key for request in proxy.requests[killed_at:] if request.put}
        assert labtree.differences(s3, bucket, root) == []
        audit = labtree.verify(root, directory, proxy, bucket)
        assert audit.returncode == 0, audit.stderr
    assert later, "the survivor had work left to take over"
    assert done_by_first, "the killed one had proven something"
    assert not done_by_first & later, "what the dead one had proven was sent again"
    # What the dead one had in flight, two files and their repeats, may be sent once more; all else went exactly once.
    twice = {key for key in sent if sent.count(key) > 1}
    assert len(twice) <= 4, sorted(twice)
    manifest = read_manifest(directory / "manifest.jsonl.zst")
    assert manifest.end.complete
    assert manifest.end.objects == OBJECTS
    assert {row.key for row in manifest.rows()} == set(labtree.expected(root))


@pytest.mark.long
def test_a_second_run_is_told_who_holds_it(s3, bucket: str, tmp_path: Path) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 60, odd=False)
    labtree.make_plan(root, directory)
    s3.make_bucket(bucket)
    with faults.serve(s3, lambda request: faults.Stall(0.5) if request.put else None) as proxy:
        first = start(root, directory, proxy, bucket, "node-a")
        deadline = time.monotonic() + 60
        while not any(request.put for request in list(proxy.requests)) and time.monotonic() < deadline:
            time.sleep(0.05)
        second = labtree.upload(root, directory, proxy, bucket)
        assert second.returncode == 75, second.stderr
        assert f"process {first.pid}" in second.stderr
        _, errors = first.communicate(timeout=200)
        assert first.returncode == 0, errors
    assert labtree.differences(s3, bucket, root) == []
