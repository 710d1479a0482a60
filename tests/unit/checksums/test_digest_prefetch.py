"""Digests made beside the sending, and ahead of it."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from lading.checksums import digest_prefetch as reading
from lading.checksums.digest import FileDigests
from lading.checksums.digest_prefetch import DigestPrefetch


def write(path: Path, content: bytes) -> tuple[str, int]:
    path.write_bytes(content)
    return str(path), len(content)


def sha256(found: FileDigests | OSError) -> str:
    assert isinstance(found, FileDigests)
    return found.sha256


def test_what_was_read_ahead_is_used_once(tmp_path: Path) -> None:
    path, size = write(tmp_path / "a", b"first")
    with DigestPrefetch() as reader:
        reader.ahead([(path, size)])
        early = reader.add(path, size)
        assert sha256(early.result()) == hashlib.sha256(b"first").hexdigest()
        write(tmp_path / "a", b"again")
        late = reader.add(path, size)
        reader.begin(flush=True)
        assert sha256(late.result()) == hashlib.sha256(b"again").hexdigest()


def test_a_file_of_another_size_is_read_anew(tmp_path: Path) -> None:
    path, size = write(tmp_path / "a", b"planned")
    with DigestPrefetch() as reader:
        reader.ahead([(path, size)])
        path, size = write(tmp_path / "a", b"longer than planned")
        found = reader.add(path, size)
        reader.begin(flush=True)
        assert sha256(found.result()) == hashlib.sha256(b"longer than planned").hexdigest()


def test_the_stamps_tell_that_it_changed_after_it_was_read_ahead(tmp_path: Path) -> None:
    path, size = write(tmp_path / "a", b"1" * 100)
    with DigestPrefetch() as reader:
        reader.ahead([(path, size)])
        found = reader.add(path, size).result()
        assert isinstance(found, FileDigests)
        assert found.steady
        time.sleep(0.02)  # older kernels tell times in steps of some milliseconds
        write(tmp_path / "a", b"2" * 100)
        assert found.after.ctime_ns != os.stat(path).st_ctime_ns


def test_a_file_that_does_not_fit_keeps_no_smaller_one_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AHEAD_BYTES", 100)
    files = [write(tmp_path / name, b"x" * size) for name, size in (("huge", 101), ("a", 60), ("b", 50), ("c", 40))]
    with DigestPrefetch() as reader:
        reader.ahead(files)
        taken = {Path(path).name for path, size in files if reader.take(path, size)}
    assert taken == {"a", "c"}


def test_large_files_are_begun_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counts for no more than is read of it until something is sent, so that they fill lanes of one call."""
    monkeypatch.setattr(reading, "AHEAD_BYTES", 100)
    monkeypatch.setattr(reading, "AHEAD_FILE", 30)
    files = [write(tmp_path / name, b"x" * 1000) for name in "abcd"]
    with DigestPrefetch() as reader:
        reader.ahead(files)
        taken = [bool(reader.take(path, size)) for path, size in files]
    assert taken == [True, True, True, False]


def test_less_is_read_ahead_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "usable_bytes", lambda: 4 * 2500)
    files = [write(tmp_path / name, b"x" * 1000) for name in "abcd"]
    with DigestPrefetch() as reader:
        reader.ahead(files)
        assert [bool(reader.take(path, size)) for path, size in files] == [True, True, False, False]


def test_a_file_that_is_gone_is_an_error_of_its_own(tmp_path: Path) -> None:
    kept = write(tmp_path / "kept", b"kept")
    with DigestPrefetch() as reader:
        reader.ahead([(str(tmp_path / "gone"), 4), kept])
        assert isinstance(reader.add(str(tmp_path / "gone"), 4).result(), FileNotFoundError)
        assert sha256(reader.add(*kept).result()) == hashlib.sha256(b"kept").hexdigest()
