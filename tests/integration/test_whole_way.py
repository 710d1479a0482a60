"""From a tree nobody here wrote to a proven bucket, through the make targets alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lading.testing.s3_server import Server, serve
from lading.verification.manifest import read_manifest
from tests import oracle
from tests.conftest import ODD_NAMES, REPOSITORY, need_program

SITE_PACKAGES = Path(next(path for path in sys.path if path.endswith("site-packages")))


def client_of(server: Server):  # type: ignore[no-untyped-def]
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of 60 files of 100 kB in six directories, odd names among them, with the neighbour dr10."""
    release = tmp_path / "data" / "dr1"
    for directory in ("spectro/data", "spectro/redux", "spectro/data-old", "target", "zcat", "vac"):
        (release / directory).mkdir(parents=True)
        for number in range(10):
            (release / directory / f"file-{number}").write_bytes(os.urandom(100_000))
    (release / "odd").mkdir()
    for name in ODD_NAMES:
        (release / "odd" / os.fsdecode(name)).write_bytes(os.urandom(50))
    (release / "link").symlink_to("target/file-0")
    neighbour = tmp_path / "data" / "dr10"
    neighbour.mkdir()
    (neighbour / "not-ours").write_bytes(b"x")
    return release


@pytest.fixture
def settings(release: Path, s3: Server, bucket: str) -> dict[str, object]:
    s3.make_bucket(bucket)
    return {
        "root": release.parent,
        "release": release,
        "bucket": f"s3://{bucket}",
        "endpoint": s3.endpoint,
        "min_batch": "100k",
        "max_batch": "1M",
        "workers": 4,
        "max_workers": 8,
    }


def fingerprints(server: Server, bucket: str) -> dict[str, tuple[int, int]]:
    """What identifies each stored object: a second PUT of a key changes it."""
    found = {}
    for folder, _, names in os.walk(server.directory / bucket):
        for name in names:
            try:
                status = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue  # being written under another name, or the uploader's own canary
            found[os.path.relpath(os.path.join(folder, name), server.directory / bucket)] = (
                status.st_ino,
                status.st_ctime_ns,
            )
    return found


def expected_keys(release: Path, remap: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Key → (size, MD5) by the documented rule: longest match on whole components."""
    found = {}
    for path, fact in oracle.files(release).items():
        key = f"{release.name}/{path}"
        for source in sorted(remap, key=len, reverse=True):
            if path == source or path.startswith(source + "/"):
                key = remap[source] + path[len(source) :]
                break
        found[key] = fact
    return found


def by_path(rows, release: Path) -> dict[str, tuple[int, str | None]]:  # type: ignore[no-untyped-def]
    return {row.path: (row.size, row.md5) for row in rows}


def test_every_file_arrives_proven(make, settings, release, s3, bucket, tmp_path) -> None:
    remap = {"spectro/data": "raw_spectro_data"}
    for target in ("find.json", "batch.json", "upload", "verify"):
        result = make(target, **settings, remap=json.dumps(remap))
        assert result.returncode == 0, result.stdout + result.stderr
    stored = oracle.objects(client_of(s3), bucket)
    expected = expected_keys(release, remap)
    # Bytes that are no UTF-8 and control characters cannot be in a key; the manifest records what they became.
    manifest = read_manifest(tmp_path / "manifest.jsonl.zst")
    assert manifest.end.complete
    keys = {row.path: row.key for row in manifest.rows()}
    for key in [key for key in expected if re.search("[\x00-\x1f\x7f\udc80-\udcff]", key)]:
        expected[keys[key.removeprefix("dr1/")]] = expected.pop(key)
    assert stored == expected
    assert {row.key: (row.size, row.md5) for row in read_manifest(tmp_path / "manifest.jsonl.zst").rows()} == expected
    assert not any(key.startswith("dr10") for key in stored)
    assert "raw_spectro_data/file-3" in stored
    assert "dr1/spectro/data-old/file-3" in stored


def test_find_json_equals_the_oracle(run, tmp_path) -> None:
    root = SITE_PACKAGES / "numpy"
    assert run("find.py", root, "-o", tmp_path / "find.json").returncode == 0
    assert (tmp_path / "find.json").read_bytes() == oracle.find_json(root)


def test_batches_go_two_at_a_time_then_none(make, settings, s3, bucket, tmp_path) -> None:
    assert make("find.json", "batch.json", **settings).returncode == 0
    batches = len(json.loads((tmp_path / "batch.json").read_bytes())["batches"])
    assert batches > 5
    queued = []
    for _ in range(batches):
        result = make("upload", **settings, max_batches=2, upload_flags="--json")
        assert result.returncode == 0, result.stdout + result.stderr
        summary = json.loads([line for line in result.stdout.splitlines() if line.startswith("{")][-1])
        queued.append(summary["batches"]["queued"])
        if not queued[-1]:
            break
    assert queued == [max(0, batches - 2 * (turn + 1)) for turn in range(len(queued))]
    assert queued[-1] == 0
    before = fingerprints(s3, bucket)
    again = make("upload", **settings)
    assert again.returncode == 0
    assert fingerprints(s3, bucket) == before
    assert "nothing" in again.stdout + again.stderr


def test_a_lost_object_is_named_and_sent_again_alone(make, run, settings, s3, bucket, tmp_path) -> None:
    assert make("find.json", "batch.json", **settings).returncode == 0
    assert make("upload", **settings).returncode == 0
    client_of(s3).delete_object(Bucket=bucket, Key="dr1/zcat/file-7")
    before = fingerprints(s3, bucket)
    assert "dr1/zcat/file-7" not in before
    verify = run(
        *("-m", "lading", "verify", settings["root"], "--bucket", settings["bucket"]),
        *("--batch", "batch.json", "--endpoint-url", settings["endpoint"]),
        cwd=tmp_path,
    )
    assert verify.returncode == 4, verify.stdout + verify.stderr
    assert "zcat/file-7" in verify.stdout + verify.stderr
    assert make("upload", **settings).returncode == 0
    after = fingerprints(s3, bucket)
    assert {key for key in after if after[key] != before.get(key)} == {"dr1/zcat/file-7"}
    assert make("verify", **settings).returncode == 0


def proven_keys(directory: Path) -> set[str]:
    """Keys that the journals call done: whole lines only, as a reader of the format sees them."""
    found = set()
    for journal in (directory / "journal").rglob("*"):
        if journal.is_file():
            for line in journal.read_bytes().split(b"\n")[:-1]:
                if b'"kind":"done"' in line:
                    found.add(json.loads(line)["key"])
    return found


def test_killed_in_the_middle_it_converges(make, settings, release, s3, bucket, tmp_path) -> None:
    assert make("find.json", "batch.json", **settings).returncode == 0
    command = [sys.executable, str(REPOSITORY / "upload.py"), str(settings["root"]), "--bucket", settings["bucket"]]
    command += ["--batch", "batch.json", "--endpoint-url", settings["endpoint"], "--max-workers", "1"]
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        seen = len(fingerprints(s3, bucket))
        while process.poll() is None and len(fingerprints(s3, bucket)) < seen + 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 2
    proven, before = proven_keys(tmp_path), fingerprints(s3, bucket)
    result = make("upload", **settings)
    assert result.returncode == 0, result.stdout + result.stderr
    after = fingerprints(s3, bucket)
    sent_again = {key for key in before if after[key] != before[key]}
    assert proven
    assert not sent_again & proven
    assert make("verify", **settings).returncode == 0
    manifest = read_manifest(tmp_path / "manifest.jsonl.zst")
    assert by_path(manifest.rows(), release) == oracle.files(release)


def test_two_sources_on_one_key_are_refused_before_sending(make, run, settings, s3, bucket, tmp_path) -> None:
    assert make("find.json", "batch.json", **settings).returncode == 0
    result = run(
        *("upload.py", settings["root"], "--bucket", settings["bucket"], "--batch", "batch.json"),
        *("--endpoint-url", settings["endpoint"], "--remap", '{"zcat": "dr1/vac"}'),
        cwd=tmp_path,
    )
    assert result.returncode in (2, 4), result.stdout + result.stderr
    assert "dr1/vac/file-0" in result.stderr
    assert fingerprints(s3, bucket) == {}


@pytest.fixture
def lone_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of this test alone, which need not list a directory for each object in it."""
    with serve(tmp_path / "server", alone=True) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.long
def test_site_packages_by_make_and_by_ranks(make, lone_s3, bucket, tmp_path) -> None:
    """Tens of thousands of files that nobody here wrote."""
    need_program("mpiexec")
    s3 = lone_s3
    s3.make_bucket(bucket)
    settings = {
        "root": SITE_PACKAGES.parent,
        "release": SITE_PACKAGES,
        "bucket": f"s3://{bucket}",
        "endpoint": s3.endpoint,
        "min_batch": "10M",
        "max_batch": "100M",
    }
    for target in ("find.json", "batch.json", "upload", "verify"):
        result = make(target, **settings, timeout=900)
        assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "find.json").read_bytes() == oracle.find_json(SITE_PACKAGES)
    command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py", str(REPOSITORY / "find.py"), str(SITE_PACKAGES)]
    subprocess.run([*command, "-o", "ranks.json"], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "ranks.json").read_bytes() == (tmp_path / "find.json").read_bytes()
    listed = {
        item["Key"]: (item["Size"], item["ETag"].strip('"'))
        for page in client_of(s3).get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for item in page.get("Contents", [])
    }
    walked = {f"{SITE_PACKAGES.name}/{path}": fact for path, fact in oracle.files(SITE_PACKAGES).items()}
    assert {key: size for key, (size, _) in listed.items()} == {key: size for key, (size, _) in walked.items()}
    # A multipart ETag (with "-") is no MD5 of the object: read those back.
    whole = {key: etag for key, (_, etag) in listed.items() if "-" not in etag}
    assert whole == {key: walked[key][1] for key in whole}
    parts = [key for key in listed if key not in whole]
    assert {key: oracle.objects(client_of(s3), bucket, key)[key] for key in parts} == {
        key: walked[key] for key in parts
    }
