"""Buckets that encrypt, and buckets whose ETags are no MD5: what proves an object there, and that a wrong one is seen.

A real Ceph gateway with its testing KMS shows what a server that encrypts may do: its ETags stay the MD5s of the plain
bytes. A real rclone with SHA-1 as ETags is a server that has none. ``tests/servers/kms.py`` shows what Amazon S3 does.
"""

import base64
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.testing import ceph_gateway
from lading.testing import s3_server as rclone
from lading.verification.manifest import read_manifest
from tests.conftest import need
from tests.servers import kms
from tests.shipping import Site, make_site, walk, write_files

LARGE = 51 << 20  # two parts
SMALL = {b"a/%02d" % number: 2000 + number for number in range(30)} | {b"empty": 0, b"odd $name'": 10}
KEY = base64.b64encode(bytes(range(32))).decode()


def fill(site: Site) -> dict[str, tuple[int, str]]:
    """Write and plan a small release with one file of two parts; returns {key: (size, MD5)}."""
    write_files(site.release, {**SMALL, b"large": LARGE})
    site.plan("--min-batch-size", "20k", "--max-batch-size", "100M")
    return {f"dr1/{path}": found for path, found in walk(site.release).items()}


def methods(site: Site) -> "Counter[str]":
    """Return how many objects of a complete manifest were proven by each method."""
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    assert manifest.end.complete
    return Counter(row.checksum.partition(":")[0] for row in manifest.rows())


def check_bytes(site: Site, expected: dict[str, tuple[int, str]]) -> None:
    """Assert that the bucket holds these objects, read through another client."""
    client, found = site.client(), {}
    for key in site.listing():
        body = client.get_object(Bucket=site.bucket, Key=key)["Body"].read()
        found[key] = (len(body), hashlib.md5(body).hexdigest())
    assert found == expected


def spoil(site: Site, *keys: str, **more: Any) -> None:
    """Put other bytes of the same size under keys."""
    for key in keys:
        size = site.listing()[key][0]
        site.client().put_object(Bucket=site.bucket, Key=key, Body=os.urandom(size), **more)


def check_that_spoilt_ones_are_seen(site: Site, expected: dict[str, tuple[int, str]], **more: Any) -> None:
    """Spoil a small and a large object: verify names both, the next upload sends both and no other."""
    spoilt = ("dr1/a/07", "dr1/large")
    spoil(site, *spoilt, **more)
    seen = site.verify()
    assert seen.returncode == 4, seen.stdout + seen.stderr
    assert "differing: 2:" in seen.stderr
    assert all(key in seen.stderr for key in spoilt)
    again = site.upload()
    assert again.returncode == 0, again.stderr
    assert site.runs()[-1]["objects"]["sent"] == 2
    assert site.verify().returncode == 0
    check_bytes(site, expected)
    # Without a journal, too: what lies there is judged anew, not by what was known of it.
    spoil(site, *spoilt, **more)
    for path in (site.directory / "journal").glob("*.*"):
        path.unlink()
    assert site.upload().returncode == 0
    objects = site.runs()[-1]["objects"]
    assert (objects["sent"], objects["adopted"]) == (2, len(expected) - 2)
    check_bytes(site, expected)


@pytest.fixture(scope="module")
def encrypting_server() -> Iterator[ceph_gateway.Gateway]:
    """A Ceph gateway that encrypts all it stores, and knows a KMS with one key."""
    need(ceph_gateway.missing())
    settings = (
        "rgw_crypt_require_ssl = false",
        f"rgw_crypt_default_encryption_key = {KEY}",
        "rgw_crypt_s3_kms_backend = testing",
        f"rgw_crypt_s3_kms_encryption_keys = testkey-1={KEY}",
    )
    with ceph_gateway.serve(Path(tempfile.mkdtemp(prefix="rgw-")), *settings) as gateway:
        yield gateway


@pytest.fixture
def encrypting(encrypting_server: ceph_gateway.Gateway, monkeypatch: pytest.MonkeyPatch) -> ceph_gateway.Gateway:
    for name, value in encrypting_server.environment().items():
        monkeypatch.setenv(name, value)
    return encrypting_server


KMS = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "testkey-1"}
CUSTOMER = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"c" * 32}


def way_of(gateway: ceph_gateway.Gateway, bucket: str, key: str) -> str:
    """Return how the gateway itself notes that an object is encrypted."""
    notes = json.loads(gateway.admin("object", "stat", f"--bucket={bucket}", f"--object={key}"), strict=False)["attrs"]
    return str(notes.get("user.rgw.crypt.mode", "")).strip("\0")


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
class TestOnTheGateway:
    def test_a_server_that_encrypts_unasked_is_proven_by_etag(
        self, encrypting: ceph_gateway.Gateway, bucket: str, tmp_path: Path
    ) -> None:
        site = make_site(tmp_path, encrypting, bucket)
        expected = fill(site)
        done = site.upload()
        assert done.returncode == 0, done.stderr
        assert {way_of(encrypting, bucket, key) for key in ("dr1/a/01", "dr1/large")} == {"RGW-AUTO"}
        assert site.verify().returncode == 0
        assert methods(site) == {"etag": len(expected)}
        # Spoilt by a client that names a key of the KMS, so that the answers to HEAD name it.
        check_that_spoilt_ones_are_seen(site, expected, **KMS)

    @pytest.mark.parametrize("engine", ["s5cmd", "boto3", "obstore", "crt"])
    def test_a_policy_that_demands_a_key_is_met_by_each_engine(
        self, engine: str, encrypting: ceph_gateway.Gateway, bucket: str, tmp_path: Path
    ) -> None:
        site = make_site(tmp_path, encrypting, bucket)
        write_files(site.release, SMALL)
        site.plan()
        demand = {"Null": {"s3:x-amz-server-side-encryption": "true"}}
        rule = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Condition": demand}
        rule["Resource"] = [f"arn:aws:s3:::{bucket}/*"]
        policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
        encrypting.client().put_bucket_policy(Bucket=bucket, Policy=policy)
        refused = site.upload("--engine", engine)
        assert refused.returncode == 1, refused.stderr
        assert "PutObject" in refused.stderr
        flags = ["--engine", engine, "--sse", "aws:kms", "--sse-kms-key-id", "testkey-1"]
        # This gateway denies the begin of each upload in parts under such a policy, with the header or without.
        done = site.upload(*flags)
        assert done.returncode == 0, done.stderr
        encrypting.client().delete_bucket_policy(Bucket=bucket)
        expected = fill(site)
        done = site.upload(*flags)
        assert done.returncode == 0, done.stderr
        assert [run["retries"] for run in site.runs()[-2:]] == [0, 0], "by the engine that was asked for"
        assert {way_of(encrypting, bucket, key) for key in ("dr1/a/01", "dr1/large")} == {"SSE-KMS"}
        done = site.verify()
        assert done.returncode == 0, done.stderr
        check_bytes(site, expected)

    def test_what_others_sent_with_a_key_of_the_kms_is_adopted(
        self, encrypting: ceph_gateway.Gateway, bucket: str, tmp_path: Path
    ) -> None:
        site = make_site(tmp_path, encrypting, bucket)
        expected = fill(site)
        client = site.client()
        for path in walk(site.release).keys() - {"large"}:
            body = (site.release / path).read_bytes()
            client.put_object(Bucket=bucket, Key=f"dr1/{path}", Body=body, **KMS)
        # Parts of a size that nobody would guess: no local ETag is equal to this one.
        upload = client.create_multipart_upload(Bucket=bucket, Key="dr1/large", **KMS)["UploadId"]
        content, size, parts = (site.release / "large").read_bytes(), (17 << 20) + 4096, []
        for number, start in enumerate(range(0, LARGE, size), 1):
            part = client.upload_part(
                Bucket=bucket, Key="dr1/large", UploadId=upload, PartNumber=number, Body=content[start : start + size]
            )
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        client.complete_multipart_upload(
            Bucket=bucket, Key="dr1/large", UploadId=upload, MultipartUpload={"Parts": parts}
        )
        assert way_of(encrypting, bucket, "dr1/large") == "SSE-KMS"
        done = site.upload()
        assert done.returncode == 0, done.stderr
        objects = site.runs()[-1]["objects"]
        assert (objects["sent"], objects["adopted"]) == (0, len(expected))
        assert site.verify().returncode == 0
        assert methods(site) == {"etag": len(expected) - 1, "download": 1}

    @pytest.mark.parametrize("more", [(), ("--level", "crc64")])
    def test_an_object_under_a_customers_key_is_replaced(
        self, encrypting: ceph_gateway.Gateway, bucket: str, tmp_path: Path, more: tuple[str, ...]
    ) -> None:
        """Nobody without the key may even ask for its HEAD: it stands in the way of one object, not of the run."""
        site = make_site(tmp_path, encrypting, bucket)
        expected = fill(site)
        for key in ("dr1/a/03", "dr1/a/04"):
            body = os.urandom(expected[key][0])
            site.client().put_object(Bucket=bucket, Key=key, Body=body, **CUSTOMER)
        done = site.upload(*more)
        assert done.returncode == 0, done.stderr
        assert site.verify().returncode == 0
        check_bytes(site, expected)
        spoil(site, "dr1/a/05", **CUSTOMER)
        seen = site.verify()
        assert seen.returncode == 4
        assert "differing: 1: dr1/a/05" in seen.stderr
        assert site.upload(*more).returncode == 0
        check_bytes(site, expected)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["s5cmd", "obstore", "crt"])
def test_etags_that_are_another_digest(
    engine: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server with SHA-1 as ETags and no checksums: every byte is read back."""
    with rclone.serve(tmp_path / "server", etag="SHA1") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        site = make_site(tmp_path / "site", server, bucket)
        expected = fill(site)
        done = site.upload("--engine", engine)
        assert done.returncode == 0, done.stderr
        assert {len(etag) for _, etag in site.listing().values()} == {40}
        assert site.verify().returncode == 0
        # These send a checksum with each object in one part, and this server shows it.
        checksum = {"obstore": "sha256", "crt": "crc64nvme"}.get(engine, "none")
        sent_whole = len(expected) - 1 if checksum != "none" else 0
        assert methods(site) == Counter({checksum: sent_whole, "download": len(expected) - sent_whole})
        check_that_spoilt_ones_are_seen(site, expected)
        write_files(site.release, {b"more": 5})
        site.plan()
        refused = site.upload("--level", "etag")
        assert refused.returncode == 1
        assert "does not use MD5s as ETags" in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "announced", "checksums"),
    [("s5cmd", True, True), ("obstore", False, True), ("crt", True, True), ("s5cmd", True, False)],
)
def test_as_amazon_shows_a_bucket_under_a_key(
    engine: str, announced: bool, checksums: bool, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proven by the checksum that HEAD shows, by download where there is none; also where the bucket does not tell."""
    with rclone.serve(tmp_path / "server", anonymous=True) as server, kms.serve(server) as keyed:
        keyed.announced, keyed.checksums = announced, checksums
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        site = make_site(tmp_path / "site", keyed, bucket)
        expected = fill(site)
        done = site.upload("--engine", engine)
        assert done.returncode == 0, done.stderr
        assert not {md5 for _, md5 in expected.values()} & {etag for _, etag in site.listing().values()}
        assert site.verify().returncode == 0
        # obstore sends a SHA-256 with each object in one part, which counts more.
        sent_whole = len(expected) - 1 if engine == "obstore" else 0
        method = "crc64nvme" if checksums else "download"
        assert methods(site) == Counter({"sha256": sent_whole, method: len(expected) - sent_whole})
        check_that_spoilt_ones_are_seen(site, expected)
