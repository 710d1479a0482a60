"""Which digests an upload makes: the names, and what comes of leaving SHA-256 out."""

import hashlib
from pathlib import Path

import pytest

from lading.checksums.digest import FileDigests, digest_file, digest_files
from lading.checksums.digest_choice import ALL_DIGESTS, DigestChoice, parse_digests
from lading.checksums.digest_prefetch import DigestPrefetch
from lading.core.errors import UsageError
from lading.core.opening import Root


@pytest.mark.parametrize(
    ("text", "sha256"),
    [("md5,crc64nvme", False), (" CRC64NVME , md5", False), ("md5", False), ("sha256,md5,crc64nvme", True)],
)
def test_names_in_any_order_say_what_is_made(text: str, sha256: bool) -> None:
    assert parse_digests(text) == DigestChoice(sha256)
    assert parse_digests(str(parse_digests(text))) == parse_digests(text)
    assert parse_digests(str(ALL_DIGESTS)) == ALL_DIGESTS == DigestChoice()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "none is named"),
        (" , ", "none is named"),
        ("md5,,sha256", "holds an empty name"),
        ("md5,sha1", "'sha1' is not a digest of files; there are: md5, crc64nvme, sha256"),
        ("crc64nvme", "without md5 .* write md5,crc64nvme$"),
        ("sha256", "without md5 .* write md5,crc64nvme,sha256$"),
    ],
)
def test_a_list_that_proves_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_digests(text)


@pytest.mark.parametrize("compiled", [True, False])
def test_all_but_sha256_is_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    if not compiled:
        monkeypatch.setenv("LADING_DIGEST", "python")
    monkeypatch.setattr("lading.checksums.digest.part_bytes", lambda size: 1 << 16)
    files = []
    for size in (0, 1, 63, 64, 65, 65_536, 65_537, 200_001):
        (tmp_path / str(size)).write_bytes(hashlib.shake_128(b"%d" % size).digest(size))
        files.append((str(tmp_path / str(size)), size))
    whole = [digest_file(path, 1 << 16 if size > 1 << 16 else 0) for path, size in files]
    for one, less in zip(whole, digest_files(files, wants_sha256=False), strict=True):
        assert isinstance(less, FileDigests)
        assert less.sha256 is None
        assert (less.etag, less.md5, less.crc64, less.after) == (one.etag, one.md5, one.crc64, one.after)
    assert digest_files(files) == whole


def test_the_reader_of_an_upload_leaves_it_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    root = Root(str(tmp_path), follow=False)
    with DigestPrefetch(root, wants_sha256=False) as reader:
        waiting = reader.add(str(tmp_path / "a"), 7)
        reader.begin(flush=True)
        found = waiting.result()
    assert isinstance(found, FileDigests)
    assert (found.sha256, found.md5) == (None, hashlib.md5(b"content", usedforsecurity=False).hexdigest())
