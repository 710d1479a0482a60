"""Compression straight to a bucket: the same bytes as in a directory, each read back from the server."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import tifffile

from lading.cli import compress as command
from lading.compress.bucket_destination import PART, BucketDestination
from lading.compress.destination import open_destination
from lading.compress.job import CompressionJob
from lading.coordination.claims import CompletionRecords
from lading.testing.ephys_data import make_samples, write_openephys
from lading.testing.s3_server import Server
from tests.conftest import REPOSITORY
from tests.images import light_sheet
from tests.kinds import tree_bytes

IMAGING = ["--kind", "imaging", "--levels", "3", "--chunk", "8,16,16", "--shard", "16,32,32"]


@pytest.fixture
def bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A bucket of this test, its endpoint in the environment as users have it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
    name = f"c-{os.urandom(6).hex()}"
    client.create_bucket(Bucket=name)
    return client, name


def objects(bucket: tuple[Any, str], prefix: str) -> dict[str, bytes]:
    """Key without the prefix → content."""
    client, name = bucket
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=f"{prefix}/"):
        for item in page.get("Contents", ()):
            body = client.get_object(Bucket=name, Key=item["Key"])["Body"].read()
            found[item["Key"].removeprefix(f"{prefix}/")] = body
    return found


def without_report(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path != "compress.json"}


def compress(source: Path, destination: str, state: Path, *flags: str) -> dict[str, Any]:
    """Compress with one worker; returns the report beside the state."""
    assert command.main([str(source), destination, "--state", str(state), "--workers", "1", *flags]) == 0
    place = state if "://" in destination else Path(destination)
    return dict(json.loads((place / "compress.json").read_text()))


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.long
def test_images_are_the_same_objects_as_files(version: str, bucket: tuple[Any, str], tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    stack = light_sheet((33, 70, 66))
    stack[:16, :32, :32] = 0  # a shard of nothing but the fill value has no object
    tifffile.imwrite(source / "a.tif", stack)
    (source / "notes.txt").write_text("a sidecar")
    flags = [*IMAGING, "--ngff", version]
    compress(source, str(tmp_path / "out"), tmp_path / "s1", *flags)
    report = compress(source, f"s3://{bucket[1]}/lab/x", tmp_path / "s2", *flags)
    sent = objects(bucket, "lab/x")
    assert without_report(sent) == without_report(tree_bytes(tmp_path / "out"))
    assert json.loads(sent["compress.json"]) == report
    assert report["source_checksum"] == report["decoded_checksum"]


def test_recordings_are_the_same_objects_as_files(bucket: tuple[Any, str], tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_openephys(
        source,
        {
            "Neuropix-PXI-100.ProbeA-AP": make_samples(900, 8, 0, step=12, offset=300, units=3),
            "NI-DAQmx-103.PXI-6133": make_samples(900, 3, 1, units=1),
        },
    )
    flags = ["--kind", "ephys", "--chunk-seconds", "0.01", "--correct"]
    compress(source, str(tmp_path / "out"), tmp_path / "s1", *flags)
    compress(source, f"s3://{bucket[1]}/x", tmp_path / "s2", *flags)
    sent = without_report(objects(bucket, "x"))
    assert sent == without_report(tree_bytes(tmp_path / "out"))
    assert any(path.startswith("ecephys_clipped/") for path in sent)
    assert any("/traces_seg0/" in path for path in sent)


def test_an_object_that_is_gone_is_made_again(bucket: tuple[Any, str], tmp_path: Path) -> None:
    client, name = bucket
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((33, 70, 66)))
    to = f"s3://{name}/x"
    compress(tmp_path / "a.tif", to, tmp_path / "s", *IMAGING)
    before = objects(bucket, "x")
    victim = next(key for key in before if "/0/c/" in key)
    client.delete_object(Bucket=name, Key=f"x/{victim}")
    compress(tmp_path / "a.tif", to, tmp_path / "s", *IMAGING)
    assert without_report(objects(bucket, "x")) == without_report(before)
    # Other bytes of the same size are found by reading.
    client.put_object(Bucket=name, Key=f"x/{victim}", Body=bytes(len(before[victim])))
    compress(tmp_path / "a.tif", to, tmp_path / "s", *IMAGING, "--recheck")
    assert without_report(objects(bucket, "x")) == without_report(before)


def test_a_block_that_the_server_gives_back_otherwise_is_caught(
    bucket: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((33, 70, 66)))
    write = BucketDestination.write

    def spoil(self: BucketDestination, path: str, blocks: Any) -> None:
        data = bytearray(b"".join(memoryview(block).cast("B") for block in blocks))
        if path.endswith("/0/c/0/0/0/0/1"):
            data[len(data) // 2] ^= 4
        write(self, path, [bytes(data)])

    monkeypatch.setattr(BucketDestination, "write", spoil)
    argv = [str(tmp_path / "a.tif"), f"s3://{bucket[1]}/x", "--state", str(tmp_path / "s"), "--workers", "1", *IMAGING]
    argv += ["--engine", "mpi"]  # in this process, where the server was spoilt
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert ended.value.code == 4
    assert "a.ome.zarr/0" in capsys.readouterr().err
    assert "compress.json" not in objects(bucket, "x")
    assert "a.ome.zarr/zarr.json" not in objects(bucket, "x")


@pytest.mark.long
def test_a_killed_job_continues(bucket: tuple[Any, str], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((96, 160, 166)))
    compress(tmp_path / "a.tif", str(tmp_path / "out"), tmp_path / "s1", *IMAGING)
    state = tmp_path / "s2"
    run = [sys.executable, "-m", "jobs", "compress", str(tmp_path / "a.tif"), f"s3://{bucket[1]}/x"]
    run += ["--state", str(state), "--workers", "1", *IMAGING]
    process = subprocess.Popen(run, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(CompletionRecords(state / "done").names()) < 5:
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(0.3)
    before = CompletionRecords(state / "done").names()
    assert before
    assert subprocess.run(run, cwd=REPOSITORY, check=False, capture_output=True).returncode == 0
    assert without_report(objects(bucket, "x")) == without_report(tree_bytes(tmp_path / "out"))


def test_a_file_larger_than_a_part(bucket: tuple[Any, str], tmp_path: Path) -> None:
    place = open_destination(CompressionJob(tmp_path, f"s3://{bucket[1]}/x", "ephys", {}))
    assert not place.is_occupied()
    block = np.random.default_rng(1).integers(0, 256, PART + 1000, dtype=np.uint8)
    with place:
        place.write("large", [block[: PART - 5], block[PART - 5 :]])
        place.write("empty", [])
    assert place.read("large") == block.tobytes()
    assert place.read("empty") == b""
    assert place.is_occupied()
    assert place.size("large") == len(block)
    with pytest.raises(FileNotFoundError):
        place.read("absent")
    place.remove("large")
    place.remove("empty")
    assert not open_destination(CompressionJob(tmp_path, f"s3://{bucket[1]}/x", "ephys", {})).is_occupied()


def test_what_cannot_go_to_a_bucket_is_refused(bucket: tuple[Any, str], tmp_path: Path, run: Any) -> None:
    client, name = bucket
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((9, 40, 50)))
    client.put_object(Bucket=name, Key="taken/by", Body=b"others")
    for destination, kind, sentence in (
        (f"s3://{name}/taken", "imaging", "is not empty and was not made by this job"),
        (f"s3://{name}", "imaging", "give a directory, or s3://bucket/prefix"),
        ("ftp://somewhere/x", "imaging", "give a directory, or s3://bucket/prefix"),
        (f"s3://{name}/x", "generic", "is not a local directory"),
    ):
        state = tmp_path / f"state{len(destination)}{kind}"
        argv = ["compress", str(tmp_path / "a.tif"), destination, "--kind", kind, "--state", str(state)]
        result = run("-m", "jobs", *argv)
        assert result.returncode != 0
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
    assert list(objects(bucket, "taken")) == ["by"]
    assert not objects(bucket, "x")
