"""What the bucket holds already is copied by the server, not sent: counted in front of the server."""

import random
from pathlib import Path

import pytest

from lading.testing.ceph_gateway import Gateway
from lading.verification.content_index import ContentIndex, KnownObject
from lading.verification.manifest import read_manifest
from tests.copying import Release, counting
from tests.shipping import Site

pytestmark = pytest.mark.xdist_group("rgw")


def test_release_2_with_most_of_release_1(gateway: Gateway, bucket: str, tmp_path: Path) -> None:
    """90 % of it under other names; of these one object was replaced since, and is sent."""
    gateway.make_bucket(bucket)
    chance = random.Random(7)
    with counting(gateway.endpoint) as relay:
        first = Release(tmp_path / "one", gateway.client(), relay.endpoint, bucket)
        first.directory.mkdir()
        for number in range(40):
            first.put(f"old/{number}.bin", chance.randbytes(100_000 + number))
        first.put("old/large.bin", chance.randbytes((52 << 20) + 5), part=50 << 20)
        first.write()
        site = Site(tmp_path / "two", relay.endpoint, bucket)
        total = 0
        for row in first.rows:
            body = gateway.client().get_object(Bucket=bucket, Key=row.key)["Body"].read()
            path = site.release / "renamed" / row.path.replace("old/", "new-")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(body)
            total += len(body)
        replaced = first.rows[3]
        gateway.client().put_object(Bucket=bucket, Key=replaced.key, Body=b"x" * replaced.size)
        fresh = chance.randbytes(total // 20)
        (site.release / "fresh.bin").write_bytes(fresh)
        site.plan("--min-batch-size", "1M", "--max-batch-size", "1G")
        before = relay.sent
        done = site.upload("--reuse", str(first.manifest))
        sent = relay.sent - before
        listed = {key for key in site.listing() if key.startswith("dr1/renamed/")}
        verified = site.verify("--full")
    assert done.returncode == 0, done.stderr
    share = sent / (total + len(fresh))
    print(f"{sent:,} bytes sent of {total + len(fresh):,}: {share:.1%}")
    assert share <= 0.11
    assert "copied 40 by the server" in done.stdout
    run = next(record for record in site.runs() if record["stage"] == "upload")
    assert (run["objects"]["copied"], run["objects"]["sent"]) == (40, 2)
    assert len(listed) == 41
    assert verified.returncode == 0, verified.stderr
    rows = list(read_manifest(site.directory / "manifest.jsonl.zst").rows())
    assert all(row.sha256 for row in rows)


def test_another_server_is_refused(gateway: Gateway, bucket: str, tmp_path: Path) -> None:
    gateway.make_bucket(bucket)
    first = Release(tmp_path / "one", gateway.client(), "https://s3.example.org", bucket)
    first.directory.mkdir()
    first.put("a", b"a")
    first.write()
    site = Site(tmp_path / "two", gateway.endpoint, bucket)
    (site.release / "a").write_bytes(b"a")
    site.plan()
    done = site.upload("--reuse", str(first.manifest))
    assert (done.returncode, "is of another server" in done.stderr) == (2, True), done.stderr


def test_looking_up_content(gateway: Gateway, bucket: str, tmp_path: Path) -> None:
    gateway.make_bucket(bucket)
    release = Release(tmp_path, gateway.client(), gateway.endpoint, bucket)
    release.fill(25)
    release.put("twice", release.body(release.rows[0].path, release.rows[0].size))
    release.write()
    index = ContentIndex([read_manifest(release.manifest)], tmp_path)
    for row in release.rows:
        assert index.has_size(row.size)
        assert KnownObject(bucket, row.key, row.etag, None) in list(index.find(row.sha256 or "", row.size))
        assert list(index.find(row.sha256 or "", row.size + 1)) == []
    assert list(index.find("0" * 64, 1)) == list(index.find("f" * 64, 1)) == []
    assert not index.has_size(7)
    assert len(list(index.find(release.rows[-1].sha256 or "", release.rows[-1].size))) == 2
