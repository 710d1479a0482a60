"""Huge files: sparse, resumed part by part, and what killed uploads leave in the bucket."""

import os
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from lading.checksums.digest import MIB, PART_BYTES, digest_file, part_bytes
from lading.verification.manifest import read_manifest
from tests import labtree
from tests.servers import faults


def sparse_file(path: Path, size: int) -> None:
    """Write a file of holes with a few bytes in its first, third and last part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)
        for position in (7, 2 * PART_BYTES + 1, size - 9):
            stream.seek(position)
            stream.write(os.urandom(9))


def parts_of(requests) -> list[int]:
    """Return the part numbers of the stored parts among requests."""
    queries = [parse_qs(request.query) for request in requests if request.put]
    return [int(query["partNumber"][0]) for query in queries if "partNumber" in query]


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize(
    "more", [["--engine", "s5cmd"], ["--engine", "obstore"], ["--engine", "crt"], ["--resume-size", "100M"]]
)
def test_six_sparse_parts(gateway, bucket: str, tmp_path: Path, more: list[str]) -> None:
    """By each way that sends parts: the ETag of the real server is the one we computed, ending in -6."""
    root, directory = tmp_path / "data", tmp_path / "run"
    sparse_file(root / "sparse.bin", 5 * PART_BYTES + 12_345)
    labtree.make_plan(root, directory, largest="1G")
    gateway.make_bucket(bucket)
    result = labtree.upload(root, directory, gateway, bucket, *more)
    assert result.returncode == 0, result.stderr
    assert labtree.verify(root, directory, gateway, bucket).returncode == 0
    (row,) = read_manifest(directory / "manifest.jsonl.zst").rows()
    assert row.etag.endswith("-6")
    assert row.checksum == "etag"
    assert labtree.differences(gateway, bucket, root) == []


def test_part_size_follows_s5cmd_above_ten_thousand_parts() -> None:
    """S3 takes 10,000 parts: the largest file it takes must fit."""
    for size in (10_000 * PART_BYTES - 1, 10_000 * PART_BYTES, 10_000 * PART_BYTES + 1, 5 << 40):
        assert -(-size // part_bytes(size)) <= 10_000
        assert part_bytes(size) <= 5 << 30
    assert part_bytes(10_000 * PART_BYTES - 1) == 50 * MIB
    assert part_bytes(10_000 * PART_BYTES + 1) > 50 * MIB


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_a_killed_huge_file_goes_on_at_the_next_part(gateway, bucket: str, tmp_path: Path) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    sparse_file(root / "huge.bin", 7 * PART_BYTES + 1)
    labtree.make_plan(root, directory, largest="1G")
    gateway.make_bucket(bucket)
    slow = True

    def pick(request: faults.Request):
        return faults.Stall(600) if slow and "partNumber=6" in request.query else None

    with faults.serve(gateway, pick) as proxy:
        command = labtree.upload_command(root, proxy, bucket, "--resume-size", "100M")
        process = subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        logs, deadline = directory / "journal" / "parts", time.monotonic() + 100
        while time.monotonic() < deadline:
            stored = sum(text.count(b'"kind":"part"') for text in map(Path.read_bytes, logs.glob("*.jsonl")))
            if stored >= 5:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert stored >= 5
        slow = False
        before = len(proxy.requests)
        again = labtree.upload(root, directory, proxy, bucket, "--resume-size", "100M")
        assert again.returncode == 0, again.stderr
        resent = parts_of(proxy.requests[before:])
        assert 0 < len(resent) <= 8 - 5, resent
        assert not list(logs.glob("*")), "the log of a finished upload goes"
        assert labtree.verify(root, directory, proxy, bucket).returncode == 0
    (row,) = read_manifest(directory / "manifest.jsonl.zst").rows()
    assert row.etag == digest_file(str(root / "huge.bin")).etag
    assert row.etag.endswith("-8")
    assert labtree.differences(gateway, bucket, root) == []
    assert labtree.client(gateway).list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_a_changed_huge_file_begins_anew(gateway, bucket: str, tmp_path: Path) -> None:
    """Parts of the old content are dropped, not mixed in."""
    root, directory = tmp_path / "data", tmp_path / "run"
    sparse_file(root / "huge.bin", 3 * PART_BYTES + 1)
    labtree.make_plan(root, directory, largest="1G", mtime=False)
    gateway.make_bucket(bucket)
    stuck = True

    def pick(request: faults.Request):
        return faults.Stall(600) if stuck and "partNumber=4" in request.query else None

    with faults.serve(gateway, pick) as proxy:
        command = labtree.upload_command(root, proxy, bucket, "--resume-size", "100M")
        process = subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        logs, deadline = directory / "journal" / "parts", time.monotonic() + 100
        while time.monotonic() < deadline:
            if sum(text.count(b'"kind":"part"') for text in map(Path.read_bytes, logs.glob("*.jsonl"))) >= 3:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stuck = False
        with (root / "huge.bin").open("r+b") as stream:
            stream.write(b"changed")
        again = labtree.upload(root, directory, proxy, bucket, "--resume-size", "100M")
        assert again.returncode == 0, again.stderr
    assert labtree.differences(gateway, bucket, root) == []
    assert labtree.client(gateway).list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_leftovers_of_our_keys_are_swept_and_no_others(gateway, bucket: str, tmp_path: Path) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 5, odd=False)
    labtree.make_plan(root, directory)
    gateway.make_bucket(bucket)
    s3 = labtree.client(gateway)
    ours = next(iter(labtree.expected(root)))
    for key in (ours, "foreign"):
        s3.create_multipart_upload(Bucket=bucket, Key=key)
    time.sleep(1.1)  # the bucket tells the begin in whole seconds
    result = labtree.upload(root, directory, gateway, bucket)
    assert result.returncode == 0, result.stderr
    assert "aborted 1 unfinished" in result.stderr
    left = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["foreign"]
