"""Digests of an object on its way: the ETag that its copy must have, and whether its bytes are the recorded ones."""

import hashlib

import pytest

from lading.copy.copy_digest import CopyDigest, is_md5_etag, stream_part
from lading.copy.copy_log import ProvenCopy, copy_of_row, decode_copy, encode_copy
from lading.verification.manifest import ManifestRow

BODY = bytes(range(256)) * 40


def row(**values: object) -> ManifestRow:
    md5, sha = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()
    known = {"size": len(BODY), "md5": md5, "sha256": sha, "etag": md5, "version_id": None} | values
    return ManifestRow(
        path="p", key="k", mtime_ns=0, checksum="etag", batch="b", uploaded_at="2026-01-01T00:00:00Z", **known
    )


def etag_of(part: int) -> str:
    digests = [hashlib.md5(BODY[start : start + part]).digest() for start in range(0, len(BODY), part)]
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"


@pytest.mark.parametrize("part", [1, 100, 1024, 10_239, 10_240, 10_241])
@pytest.mark.parametrize("block", [1, 7, 1024, 20_000])
def test_the_etag_of_parts(part: int, block: int) -> None:
    digest = CopyDigest(row(), part)
    for start in range(0, len(BODY), block):
        digest.add(BODY[start : start + block])
    assert digest.etag == etag_of(part)
    assert (digest.difference(), digest.is_proven()) == ("", True)


def test_other_bytes() -> None:
    short, other = CopyDigest(row()), CopyDigest(row())
    short.add(BODY[:-1])
    other.add(BODY[:-1] + b"x")
    assert short.difference() == "10,239 bytes came, recorded 10,240"
    assert other.difference() == "its bytes have another SHA256"
    assert not other.is_proven()


def test_without_a_recorded_digest() -> None:
    unknown = CopyDigest(row(md5=None, sha256=None, etag="opaque"), 1024)
    unknown.add(BODY)
    assert (unknown.difference(), unknown.is_proven()) == ("", False)
    by_etag = CopyDigest(row(md5=None, sha256=None, etag=etag_of(1024)), 1024)
    by_etag.add(BODY)
    assert by_etag.is_proven()


def test_forms_of_etags_and_parts() -> None:
    assert is_md5_etag("0" * 32)
    assert is_md5_etag("0" * 32 + "-7")
    assert not any(map(is_md5_etag, ["", "0" * 31, "G" * 32, "0" * 32 + "-x", '"' + "0" * 30 + '"']))
    assert (stream_part(10, 0), stream_part(10, 3)) == (0, 3)
    assert stream_part(60 << 20, 0) == 50 << 20


def test_whose_copy_it_is() -> None:
    copy = copy_of_row(row())
    assert copy.is_of(row())
    assert not copy.is_of(row(size=1))
    assert not copy.is_of(row(sha256="0" * 64))
    assert copy.is_of(row(sha256=None))  # by the MD5
    weak = ProvenCopy("k", len(BODY), "e", None, None, None, "source", "etag")
    assert weak.is_of(row(md5=None, sha256=None, etag="source"))
    assert not weak.is_of(row(md5=None, sha256=None, etag=""))


def test_records_of_the_log() -> None:
    copy = ProvenCopy("k\udcff", 7, "e", "v1", "a" * 64, None, "s", "crc64nvme:AAAA", "crc64nvme:AAAA", 5)
    record = encode_copy(copy)
    assert decode_copy(record, 5) == copy
    for name, value in (("key", 1), ("size", -1), ("size", True), ("etag", None), ("sha256", 3), ("by", "\0")):
        assert decode_copy(record | {name: value}, 5) is None
