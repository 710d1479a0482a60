"""What lies in a bucket already: what it takes to believe that it is the file, and what the manifest says of it."""

import base64
import hashlib
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.checksums.digest import digest_file, read_checksum
from lading.objectstore.download import ObjectReader
from lading.objectstore.object_info import ObjectHead, ObjectInfo
from lading.plan.planned_object import AdoptLevel
from lading.testing.s3_server import Server
from lading.verification.compare import CHECKSUM_BYTES, CompareLevel, CompareMatch, Comparison
from lading.verification.manifest import ManifestRow, Strength, read_manifest
from tests.collision import ONE, OTHER
from tests.shipping import Site, make_site, write_files

KEY = "dr1/b.bin"


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    """Two files that nobody has sent yet."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"a.bin": 3_000})
    (site.release / "b.bin").write_bytes(ONE)
    site.plan()
    return site


def put(site: Site, content: bytes) -> None:
    site.client().put_object(Bucket=site.bucket, Key=KEY, Body=content)


def held(site: Site) -> bytes:
    body: bytes = site.client().get_object(Bucket=site.bucket, Key=KEY)["Body"].read()
    return body


def row(site: Site) -> ManifestRow:
    return next(row for row in read_manifest(site.directory / "manifest.jsonl.zst").rows() if row.key == KEY)


def run(site: Site, stage: str, *flags: str, code: int = 0) -> str:
    done = getattr(site, stage)(*flags)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_another_content_of_the_same_md5_is_never_called_the_file(site: Site) -> None:
    """Adopted it is by default, but the manifest does not say whose bytes they are; reading them tells."""
    put(site, OTHER)
    assert "already present 1" in run(site, "upload")
    said = run(site, "verify")
    assert "1 object was already in the bucket and was compared by less than SHA-256" in said
    found = row(site)
    assert (found.verified_by, found.checksum, found.strength) == ("md5, present before", "etag", Strength.MD5)
    assert (found.sha256, found.file_sha256, found.present_before) == (None, sha256(ONE), True)
    assert KEY in run(site, "verify", "--full", code=4)
    run(site, "upload")
    run(site, "verify", "--full")
    assert (row(site).verified_by, row(site).sha256, held(site)) == ("download, sent", sha256(ONE), ONE)


@pytest.mark.parametrize("adopt", ["checksum", "download"])
def test_adopting_by_more_sends_over_it(site: Site, adopt: str) -> None:
    """This server has no checksum of its own, so both read the object."""
    put(site, OTHER)
    assert "already present 0" in run(site, "upload", f"--adopt={adopt}")
    run(site, "verify")
    assert (row(site).verified_by, row(site).sha256, held(site)) == ("md5, sent", sha256(ONE), ONE)


def test_what_was_adopted_may_be_read_later_and_stays_known(site: Site) -> None:
    put(site, ONE)
    run(site, "upload")
    run(site, "verify")
    assert row(site).sha256 is None
    for flags in (("--adopt=download",), ()):
        run(site, "verify", *flags)
        found = row(site)
        assert (found.verified_by, found.sha256, found.file_sha256) == ("download, present before", sha256(ONE), None)
    assert "downloaded 0" in run(site, "verify", "--adopt=download")
    assert "nothing to send" in run(site, "upload")


def test_what_others_put_over_a_sent_object_is_theirs(site: Site) -> None:
    """Its ETag is that of the record, its time is not."""
    run(site, "upload")
    run(site, "verify")
    assert (row(site).verified_by, row(site).sha256) == ("md5, sent", sha256(ONE))
    time.sleep(1.1)  # listings have whole seconds
    put(site, OTHER)
    run(site, "verify")
    assert (row(site).verified_by, row(site).sha256) == ("md5, present before", None)
    assert KEY in run(site, "verify", "--adopt=checksum", code=4)
    assert "sent 1 " in run(site, "upload")
    run(site, "verify", "--full")
    assert held(site) == ONE


@pytest.mark.parametrize("content", [ONE, OTHER])
def test_restore_brings_back_the_file_or_nothing(site: Site, content: bytes) -> None:
    """The digest of the file is in the manifest, though it says nothing of the object."""
    put(site, content)
    run(site, "upload")
    run(site, "verify")
    target = site.directory / "back"
    done = site.command("-m", "lading", "restore", "--to", str(target), "--prefix", "b.bin")
    assert (done.returncode, (target / "b.bin").exists()) == ((0, True) if content == ONE else (3, False)), done.stderr


def test_an_object_of_ours_stays_ours_when_the_file_was_touched(site: Site) -> None:
    site.plan(find=("--mtime",))
    run(site, "upload")
    os.utime(site.release / "b.bin")
    site.plan(find=("--mtime",))
    assert "already present 1" in run(site, "upload")
    run(site, "verify")
    assert (row(site).verified_by, row(site).sha256) == ("md5, sent", sha256(ONE))


class Bucket:
    """One object and what a server says of it."""

    bucket = "bucket"

    def __init__(self, content: bytes, **checksums: str) -> None:
        self.content, self.heads, self.reads = content, 0, 0
        self.checksums = checksums
        self.etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.listed = ObjectInfo("k", len(content), self.etag, "2026-01-01T00:00:00Z")

    def head(self, key: str) -> ObjectHead:
        self.heads += 1
        others = {name: value for name, value in self.checksums.items() if name != "crc64nvme"}
        return ObjectHead(len(self.content), self.etag, self.checksums.get("crc64nvme"), None, None, others)

    def blocks(self, key: str, version: str | None = None, start: int = 0) -> Iterator[bytes]:
        self.reads += 1
        yield self.content[start:]


def compare(
    path: Path, bucket: Any, level: CompareLevel, *, found: bool, adopt: AdoptLevel = AdoptLevel.MD5
) -> CompareMatch | None:
    comparison = Comparison(bucket, level, ObjectReader(bucket), adopt=adopt)
    return comparison.match(str(path), bucket.listed, digest_file(str(path)), found=found)


def checksum(name: str, path: Path) -> str:
    if name == "sha256":
        return base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
    if name == "crc64nvme":
        return digest_file(str(path)).crc64
    with path.open("rb") as stream:
        value = read_checksum(stream.fileno(), name)
    assert value is not None
    return value


@pytest.mark.parametrize("name", ["sha256", "crc64nvme", "crc32c", "sha1", "crc32"])
@pytest.mark.parametrize("equal", [True, False])
def test_checksums_that_a_server_may_have_tell_apart_what_md5_does_not(tmp_path: Path, name: str, equal: bool) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.write_bytes(ONE)
    theirs.write_bytes(ONE if equal else OTHER)
    bucket = Bucket(theirs.read_bytes(), **{name: checksum(name, theirs)})
    match = compare(mine, bucket, CompareLevel.ETAG, found=True, adopt=AdoptLevel.CHECKSUM)
    value = f"{name}:{checksum(name, mine)}"
    assert match == (CompareMatch(value, True, value) if equal else None)
    assert bucket.reads == 0


def test_checksums_are_those_of_others(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"123456789")
    assert checksum("crc32c", path) == base64.b64encode(bytes.fromhex("e3069283")).decode()
    assert checksum("crc32", path) == base64.b64encode(zlib.crc32(b"123456789").to_bytes(4, "big")).decode()
    assert checksum("sha1", path) == base64.b64encode(hashlib.sha1(b"123456789").digest()).decode()
    with path.open("rb") as stream:
        assert read_checksum(stream.fileno(), "xxh3") is None


def test_a_checksum_of_a_kind_not_known_here_is_no_reason_to_believe(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(ONE)
    bucket = Bucket(OTHER, xxh3="AAAA")
    assert compare(path, bucket, CompareLevel.ETAG, found=True, adopt=AdoptLevel.CHECKSUM) is None
    assert bucket.reads == 1


def test_the_checksum_of_a_large_object_is_asked_for_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(CHECKSUM_BYTES))
    honest = Bucket(path.read_bytes(), crc64nvme=checksum("crc64nvme", path))
    value = f"crc64nvme:{checksum('crc64nvme', path)}"
    assert compare(path, honest, CompareLevel.ETAG, found=False) == CompareMatch("etag", False, value)
    damaged = Bucket(path.read_bytes(), crc64nvme="AAAAAAAAAAA=")  # the right ETag of other bytes
    assert compare(path, damaged, CompareLevel.ETAG, found=False) is None


def test_a_server_without_checksums_is_soon_asked_no_more(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(CHECKSUM_BYTES))
    bucket: Any = Bucket(path.read_bytes())
    comparison, digests = Comparison(bucket, CompareLevel.ETAG, ObjectReader(bucket)), digest_file(str(path))
    for _ in range(30):
        assert comparison.match(str(path), bucket.listed, digests) == CompareMatch("etag")
    assert bucket.heads < 10


def test_an_object_that_was_adopted_by_its_size_is_compared_by_verify(site: Site) -> None:
    """Upload was told to look at sizes alone; a manifest never rests on that."""
    put(site, b"B" * len(ONE))
    assert "compares no content" in run(site, "upload", "--level", "size")
    assert KEY in run(site, "verify", code=4)
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    assert (manifest.end.complete, [found.key for found in manifest.rows()]) == (False, ["dr1/a.bin"])
    assert "sent 1 " in run(site, "upload")
    assert "level etag" in run(site, "verify")
    assert (held(site), row(site).strength) == (ONE, Strength.MD5)


def test_records_of_sizes_become_more(site: Site) -> None:
    """What was sent whole has the MD5 as its ETag, which the listing tells: nothing is read for it."""
    run(site, "upload", "--level", "size")
    run(site, "verify")
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    rows = {found.key: found.strength for found in manifest.rows()}
    assert manifest.end.complete
    assert rows == {"dr1/a.bin": Strength.MD5, KEY: Strength.MD5}
    assert "downloaded 0" in run(site, "verify")
