"""A second copy of a release: by the server itself, through this machine, killed and run again, into other clouds."""

import fcntl
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lading.core.atomic import read_log
from lading.testing.ceph_gateway import Gateway
from lading.verification.manifest import WithdrawnObject, read_manifest
from tests.copying import ODD, PART, Release, counting, read_bucket
from tests.servers import altered

pytestmark = pytest.mark.xdist_group("rgw")


@pytest.fixture
def release(gateway: Gateway, bucket: str, tmp_path: Path) -> Release:
    gateway.make_bucket(bucket)
    gateway.make_bucket(f"{bucket}-copy")
    return Release(tmp_path, gateway.client(), gateway.endpoint, bucket)


def bytes_read(gateway: Gateway) -> int:
    """Return the bytes of bodies that the gateway itself counts as read by clients."""
    done = subprocess.run(
        ["ceph", "--admin-daemon", str(gateway.directory / "run" / "client.rgw.a.asok"), "perf", "dump"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return int(json.loads(done.stdout)["rgw"]["get_b"])


def attributes(client: Any, bucket: str, key: str) -> dict[str, Any]:
    head = client.head_object(Bucket=bucket, Key=key)
    tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    kept = {name: head.get(name) for name in ("ETag", "Metadata", "ContentType", "CacheControl", "ContentLength")}
    return kept | {"tags": sorted((tag["Key"], tag["Value"]) for tag in tags)}


def test_a_copy_by_the_server(gateway: Gateway, release: Release, bucket: str) -> None:
    release.fill(20)
    for name in ODD:
        release.put(name, b"odd " + name.encode())
    release.put("empty", b"")
    release.put("big.bin", release.body("big", 2 * PART + 100), part=PART, Metadata={"run": "7"}, Tagging="of=parts")
    release.put(
        "kept.txt", b"kept", Metadata={"lab": "x y"}, ContentType="text/x", Tagging="k=v&a=b", CacheControl="no"
    )
    release.write()
    before = bytes_read(gateway)
    with counting(gateway.endpoint) as relay:
        found = release.result(f"s3://{bucket}-copy/second", "--endpoint-url", relay.endpoint)
    assert (found["copied"], found["streamed"], found["verified"]) == (28, 0, 28)
    assert found["bytes"] > 2 * PART
    assert bytes_read(gateway) == before, "the gateway gave no byte of any object out"
    assert (relay.sent < 100_000, relay.got < 100_000) == (True, True), (relay.sent, relay.got)
    client = gateway.client()
    assert read_bucket(client, f"{bucket}-copy", "second/") == release.contents()
    for name in ("big.bin", "kept.txt"):
        second = attributes(client, f"{bucket}-copy", f"second/{name}")
        assert attributes(client, bucket, f"dr1/{name}") == second
    there = read_manifest(release.directory / f"manifest.{bucket}-copy.jsonl.zst")
    assert (there.header.bucket, there.header.prefix, there.end.complete) == (f"{bucket}-copy", "second/", True)
    assert {row.path for row in there.rows()} == {row.path for row in release.rows}
    done = release.run("verify", "--manifest", there.path.name, "--deep", "--endpoint-url", gateway.endpoint)
    assert "28 of 28 objects are as the manifest says" in done.stdout
    places = json.loads((release.directory / "manifest.places.json").read_text())
    assert [(place["name"], place["url"]) for place in places["places"]] == [
        (f"{bucket}-copy", f"s3://{bucket}-copy/second/")
    ]


def test_what_is_there_stays(gateway: Gateway, release: Release, bucket: str) -> None:
    """Right objects are found, others are refused, and copies of ours follow the release."""
    release.fill(6)
    release.write()
    client, other = gateway.client(), f"{bucket}-copy"
    names = [row.path for row in release.rows]
    client.put_object(Bucket=other, Key=names[0], Body=b"of somebody else")
    client.put_object(Bucket=other, Key=names[1], Body=release.body(names[1], release.rows[1].size))
    client.put_object(Bucket=other, Key="extra", Body=b"")
    done = release.copy(f"s3://{other}", "--json", code=4)
    found = json.loads(done.stdout)
    assert (found["copied"], found["present"], found["refused"], found["extra"]) == (4, 1, 1, 1)
    assert f"other objects at the second place: 1: dr1/{names[0]} (another object is there)" in done.stderr
    assert client.get_object(Bucket=other, Key=names[0])["Body"].read() == b"of somebody else"
    assert release.result(f"s3://{other}", "--overwrite")["copied"] == 1
    release.put(names[2], b"a newer state of the release")
    release.write()
    found = release.result(f"s3://{other}")
    assert (found["copied"], found["present"]) == (1, 5)
    copied = read_bucket(client, other)
    assert copied.pop("extra")[0] == 0
    assert copied == release.contents()


@pytest.mark.long
def test_a_first_place_that_is_not_as_recorded(gateway: Gateway, release: Release, bucket: str) -> None:
    """Nothing of it is copied, except the recorded versions where the bucket has them still."""
    release.fill(6)
    release.write()
    client = gateway.client()
    keys = [row.key for row in release.rows]
    client.delete_object(Bucket=bucket, Key=keys[0])
    client.put_object(Bucket=bucket, Key=keys[1], Body=b"x" * release.rows[1].size)
    done = release.copy(f"s3://{bucket}-copy", code=4)
    assert "not as recorded at the first place: 2: " in done.stderr
    assert f"{keys[0]} (it is missing)" in done.stderr
    assert f"{keys[1]} (same size, another ETag)" in done.stderr
    assert len(read_bucket(client, f"{bucket}-copy")) == 4
    end = read_manifest(release.directory / f"manifest.{bucket}-copy.jsonl.zst").end
    assert (end.objects, end.complete) == (4, False)


def test_what_a_listing_leaves_out_is_copied(gateway: Gateway, release: Release, bucket: str) -> None:
    """An object that the first place does not list is asked for by itself before it is called missing."""
    release.fill(3)
    release.write()
    hidden, gone = release.rows[0].key, release.rows[2].key
    gateway.client().delete_object(Bucket=bucket, Key=gone)

    def hide(request: altered.Request, answer: altered.Answer) -> altered.Answer:
        status, headers, body = answer
        entry = rf"<Contents><Key>{re.escape(quote(hidden, safe=''))}</Key>.*?</Contents>".encode()
        return status, headers, re.sub(entry, b"", body, flags=re.DOTALL)

    with altered.serve(gateway, after=hide) as proxy:
        done = release.copy(f"s3://{bucket}-copy", "--endpoint-url", proxy.endpoint, code=4)
        listings = [request.path for request in proxy.requests if "list-type=2" in request.path]
    assert listings
    assert f"not as recorded at the first place: 1: {gone} (it is missing)" in done.stderr
    assert {key.rpartition("/")[2] for key in read_bucket(gateway.client(), f"{bucket}-copy")} == {
        row.path.rpartition("/")[2] for row in release.rows[:2]
    }


@pytest.mark.long
def test_recorded_versions(gateway: Gateway, bucket: str, tmp_path: Path) -> None:
    gateway.make_bucket(bucket, versioned=True)
    gateway.make_bucket(f"{bucket}-copy", versioned=True)
    release = Release(tmp_path, gateway.client(), gateway.endpoint, bucket)
    release.fill(4)
    release.write()
    wanted = release.contents()
    client = gateway.client()
    client.delete_object(Bucket=bucket, Key=release.rows[0].key)
    client.put_object(Bucket=bucket, Key=release.rows[1].key, Body=b"newer")
    done = release.copy(f"s3://{bucket}-copy")
    assert "2 objects were copied from the recorded version" in done.stdout
    assert read_bucket(client, f"{bucket}-copy") == wanted
    rows = list(read_manifest(tmp_path / f"manifest.{bucket}-copy.jsonl.zst").rows())
    assert all(row.version_id for row in rows)
    assert release.run("verify", "--manifest", f"manifest.{bucket}-copy.jsonl.zst", "--deep").returncode == 0


@pytest.mark.long
def test_names_of_places(release: Release, bucket: str) -> None:
    release.fill(1)
    release.write()
    assert "inside the other" in release.copy(f"s3://{bucket}/dr1/inside", code=2).stderr
    assert release.copy(f"s3://{bucket}/dr1-second").returncode == 0  # beside it, in the same bucket
    assert "has another place of the name" in release.copy(f"s3://{bucket}/dr1-third", code=2).stderr
    assert release.copy(f"s3://{bucket}/dr1-third", "--name", "third").returncode == 0
    release.run("verify", "--manifest", "manifest.third.jsonl.zst")


@pytest.mark.long
def test_one_copy_at_a_time_and_a_torn_log(release: Release, bucket: str) -> None:
    release.fill(3)
    release.write()
    log = release.directory / f"manifest.{bucket}-copy.copy.jsonl"
    with log.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert "another copy works" in release.copy(f"s3://{bucket}-copy", code=75).stderr
    log.write_bytes(b'{"kind":"copy","torn')
    assert release.result(f"s3://{bucket}-copy")["copied"] == 3
    with log.open("ab") as stream:
        stream.write(b'{"kind":"done","key":"x","crc":"00000000"}\n{"kind":"do')
    found = release.result(f"s3://{bucket}-copy")
    assert (found["copied"], found["present"]) == (0, 3)
    assert [record["kind"] for record in read_log(log) if record] == ["copy"]
    log.rename(log.with_name("manifest.two.copy.jsonl"))
    assert "give this one another --name" in release.copy(f"s3://{bucket}/second", "--name", "two", code=4).stderr


@pytest.mark.long
def test_withdrawn_objects_are_not_copied(gateway: Gateway, release: Release, bucket: str) -> None:
    release.fill(3)
    gone, client = release.rows[1], gateway.client()
    release.write()
    release.copy(f"s3://{bucket}-copy")
    release.rows.remove(gone)
    client.delete_object(Bucket=bucket, Key=gone.key)
    said = WithdrawnObject(gone.path, gone.key, gone.size, gone.etag, gone.sha256, None, "consent", "2026-02-01")
    release.write(withdrawn=lambda: [said])
    found = release.result(f"s3://{bucket}-copy")
    assert (found["copied"], found["present"], found["extra"]) == (0, 2, 1)
    done = release.run("verify", "--manifest", f"manifest.{bucket}-copy.jsonl.zst", code=4)
    assert f"extra: 1: {gone.path} (withdrawn, and there again)" in done.stderr


def test_a_directory(release: Release, bucket: str, tmp_path: Path) -> None:
    """Files appear whole under their keys; links and names that lead elsewhere are refused."""
    release.fill(6)
    for name in ODD:
        release.put(name, b"odd " + name.encode())
    release.put("big.bin", release.body("big", 2 * PART + 100), part=PART)
    release.put("through/link.txt", b"not through it")
    release.put("taken", b"of the release")
    release.write()
    top, outside = tmp_path / "second", tmp_path / "outside"
    top.mkdir()
    outside.mkdir()
    (top / "through").symlink_to(outside)
    (top / "taken").write_bytes(b"of somebody else")
    done = release.copy(str(top), "--json", code=4)
    found = json.loads(done.stdout)
    assert (found["copied"], found["refused"], found["failed"]) == (12, 1, 1), done.stderr
    assert list(outside.iterdir()) == []
    assert (top / "taken").read_bytes() == b"of somebody else"
    (top / "through").unlink()
    assert release.result(str(top), "--overwrite")["copied"] == 2
    copied = {path.relative_to(top).as_posix(): path for path in top.rglob("*") if path.is_file()}
    assert {name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in copied.items()} == {
        row.path: row.md5 for row in release.rows
    }
    assert {path.stat().st_mtime_ns for path in copied.values()} == {10**18}
    assert "14 of 14" in release.run("verify", "--place", "second", "--deep").stdout
    release.run("restore", "--from", "second", "--to", str(tmp_path / "back"))
    assert (tmp_path / "back" / "taken").read_bytes() == b"of the release"
    (top / "taken").write_bytes(b"of the releasE")
    (top / "big.bin").unlink()
    done = release.run("verify", "--place=second", "--deep", code=4)
    assert "different: 1: taken (its bytes have another SHA256)" in done.stderr
    assert "missing: 1: big.bin" in done.stderr
