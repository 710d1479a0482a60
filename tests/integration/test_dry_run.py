"""``upload --dry-run`` says what the run then does: it looks at the bucket."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import botocore.exceptions
import pytest
from boto3.s3.transfer import TransferConfig

from lading.testing.s3_server import Server, free_port
from tests.conftest import REPOSITORY
from tests.shipping import Site, make_site, write_files

MIB = 1 << 20
PARTS = (5, 8, 16, 50)


@pytest.fixture
def moto(monkeypatch) -> Iterator[str]:
    """A server with the multipart ETags of Amazon S3."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    port = free_port()
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    client = boto3.client("s3", endpoint_url=endpoint)
    try:
        for _ in range(200):
            try:
                client.create_bucket(Bucket="bucket")
                break
            except botocore.exceptions.EndpointConnectionError:  # it has not begun to listen
                time.sleep(0.1)
        yield endpoint
    finally:
        server.terminate()
        server.wait(30)


def preview(site: Site, *flags: str) -> tuple[dict, str]:  # type: ignore[type-arg]
    done = site.upload("--dry-run", "--json", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kind"] == "rehearsal"
    return found, done.stderr


def estimate(site: Site) -> dict:  # type: ignore[type-arg]
    """Return what ``estimate bucket=`` counts of the release."""
    done = site.command(
        *(str(REPOSITORY / "batch.py"), "--estimate", str(site.release), "--upload-root", str(site.root), "--json"),
        *("--bucket", site.place, "--endpoint-url", site.endpoint),
    )
    assert done.returncode == 0, done.stderr
    found: dict = json.loads(done.stdout)  # type: ignore[type-arg]
    return found


@pytest.mark.long
def test_it_counts_what_the_run_then_does(moto: str, tmp_path: Path) -> None:
    """A third equal, a third different, a third missing, sent before by others in parts of several sizes."""
    site = Site(tmp_path, moto, "bucket")
    client = site.client()
    for part in PARTS:
        size = (part + 3) * MIB
        for name in ("equal", "longer", "other", "missing"):
            path = site.release / f"{name}{part}.bin"
            path.write_bytes(os.urandom(MIB) * (part + 3))
            if name == "missing":
                continue
            theirs = tmp_path / "theirs"
            content = path.read_bytes()
            theirs.write_bytes(content + b"more" if name == "longer" else content[::-1] if name == "other" else content)
            config = TransferConfig(multipart_threshold=part * MIB, multipart_chunksize=part * MIB)
            client.upload_file(str(theirs), "bucket", f"dr1/{path.name}", Config=config)
            assert client.head_object(Bucket="bucket", Key=f"dr1/{path.name}")["ETag"].endswith('-2"')
        assert size == path.stat().st_size
    (site.release / "nothing").touch()
    (site.release / "nothing-yet").touch()
    client.put_object(Bucket="bucket", Key="dr1/nothing", Body=b"")
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    total = sum(part + 3 for part in PARTS) * MIB
    before = site.listing()
    found, said = preview(site)
    assert found["missing"] == {"objects": 5, "bytes": total}
    assert found["different"] == {"objects": 4, "bytes": total}
    assert found["to_read"] == {"objects": 8, "bytes": 2 * total}
    assert found["equal"] == {"objects": 1, "bytes": 0}
    assert (found["objects"], found["bytes"], found["verified"]) == (9, 2 * total, 0)
    assert "would send 9 objects, 191 MB (5 missing, 4 of another size); would read 8 objects, 191 MB" in said
    counted = estimate(site)
    for name in ("missing", "different", "to_read", "equal"):
        assert counted["bucket"][name]["objects"] == found[name]["objects"], name
        assert counted["bucket"][name]["bytes"] == found[name]["bytes"], name
    assert (counted["objects"], counted["bytes"]) == (found["objects"], found["bytes"])
    assert site.listing() == before
    assert not (site.directory / "journal").exists()
    lines = site.upload("--dry-run").stdout.splitlines()
    assert len(lines) == 17
    assert sum(line.startswith("# read first, it is there with this size: cp ") for line in lines) == 8
    done = site.upload()
    assert done.returncode == 0, done.stderr
    objects = site.runs()[-1]["objects"]
    assert objects["adopted"] == 5, "those of equal bytes, of what was to be read, and the empty one"
    assert objects["sent"] == 9 + 4, "and of what was to be read, those of other bytes"
    assert estimate(site)["objects"] == 0
    found, said = preview(site)
    assert (found["objects"], found["verified"]) == (0, 18)
    assert "would send 0 objects, 0 B (0 missing, 0 of another size); nothing was sent" in said


def test_an_upload_by_others_is_read_and_not_sent_again(moto: str, tmp_path: Path) -> None:
    site = Site(tmp_path, moto, "bucket")
    write_files(site.release, {b"p%d.bin" % n: 2 * MIB for n in range(3)})
    for path in site.release.iterdir():
        site.client().upload_file(str(path), "bucket", f"dr1/{path.name}")
    site.plan()
    _, said = preview(site)
    assert "would send 0 objects, 0 B (0 missing, 0 of another size); would read 3 objects, 6.29 MB that are" in said
    assert site.upload().returncode == 0
    assert (site.runs()[-1]["objects"]["sent"], site.runs()[-1]["objects"]["adopted"]) == (0, 3)


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"run%d/%02d.bin" % (n % 3, n): 2_000 + n for n in range(12)})
    site.plan()
    return site


def test_what_others_may_have_under_the_same_keys(site: Site) -> None:
    """Nothing is overwritten that must not be; what is verified and looks changed is read, as the run does."""
    site.client().put_object(Bucket=site.bucket, Key="dr1/run0/00.bin", Body=b"another")
    site.client().put_object(Bucket=site.bucket, Key="dr1/run0/stray", Body=b"of nobody")
    found, said = preview(site, "--no-overwrite")
    assert (found["missing"]["objects"], found["different"]["objects"], found["refused"]) == (11, 0, 1)
    assert "run0/00.bin: the bucket holds another object under its key" in said
    assert site.upload("--no-overwrite").returncode == 3
    assert site.runs()[-1]["objects"]["sent"] == 11
    (site.release / "run1" / "01.bin").touch()
    found, _ = preview(site)
    assert (found["different"]["objects"], found["to_read"]["objects"], found["verified"]) == (1, 1, 10)


def test_an_estimate_with_a_bucket_counts_what_is_there_apart(site: Site) -> None:
    keys = {f"dr1/run{n % 3}/{n:02}.bin": n for n in range(12)}
    for key, number in list(keys.items())[:8]:
        body = (site.root / key).read_bytes() if number < 4 else b"another"
        site.client().put_object(Bucket=site.bucket, Key=key, Body=body)
    command = [str(REPOSITORY / "batch.py"), "--estimate", str(site.release), "--upload-root", str(site.root), "--json"]
    bucket = ["--bucket", site.place, "--endpoint-url", site.endpoint]
    done = site.command(*command, *bucket)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    counts = {name: found["bucket"][name]["objects"] for name in ("missing", "different", "to_read", "equal")}
    assert counts == {"missing": 4, "different": 4, "to_read": 4, "equal": 0}
    assert found["objects"] == 8
    told = site.command(*command[:-1], *bucket).stdout
    assert "in the bucket, and not counted above: 4 objects, 8.01 kB of the right size" in told
    assert "bucket" not in json.loads(site.command(*command).stdout)
    assert site.upload().returncode == 0
    assert (site.runs()[-1]["objects"]["sent"], site.runs()[-1]["objects"]["adopted"]) == (8, 4)
    assert json.loads(site.command(*command, *bucket).stdout)["objects"] == 0
    other = site.command(*command, "--bucket", "s3://another-bucket", "--endpoint-url", site.endpoint)
    assert other.returncode == 4
    assert "are of another bucket" in other.stderr


def test_a_bucket_that_cannot_be_listed_is_said(site: Site) -> None:
    site.endpoint = f"http://127.0.0.1:{free_port()}"
    done = site.upload("--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["looked"], found["objects"]) == (False, 12)
    assert "note: the bucket cannot be listed: " in done.stderr
    assert "would send at most 12 objects, 24.1 kB; the bucket was not listed" in done.stderr
