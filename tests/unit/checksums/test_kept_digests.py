"""Digests that were kept are found by bisection, and only for files in the state in which they were read."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from lading.checksums import kept_digests
from lading.checksums.digest import DIGESTED, FileState, digest_file, digest_files
from lading.checksums.kept_digests import (
    REUSED,
    DigestSource,
    KeptDigest,
    KeptDigests,
    decode_kept,
    encode_header,
    find_kept,
    key_of,
    key_of_line,
)
from lading.core.atomic import encode_record
from lading.core.errors import LadingError
from lading.core.opening import Root

HARD = ["a", "a b", 'a"', "a\\", 'a\\"', "a!", "a/b", "a\n", "é", "\udce9", "z" * 4000, "😀"]


def kept(path: str, **more: int) -> KeptDigest:
    return replace(KeptDigest(path, 1, 10**9 + 5, 10**9 + 5, 3, "e", "m", "s", "c", 3 * 10**9), **more)  # type: ignore[arg-type]


def write(path: Path, rows: list[KeptDigest], root: str = "/data") -> KeptDigests:
    lines = sorted(encode_record(row.as_json()) for row in rows)
    path.write_bytes(encode_header(root, "now", {}) + b"".join(lines))
    return KeptDigests(path)


@pytest.mark.parametrize("block", [64, 700, 1 << 16])
def test_every_row_is_found_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(kept_digests, "BLOCK", max(block, 512))
    monkeypatch.setattr(kept_digests, "MOST_BLOCKS", 3)
    draw = random.Random(block)
    names = {*HARD, *("".join(draw.choices('ab/" \\é', k=draw.randrange(1, 12))) for _ in range(500))}
    there = sorted(names)[::2]
    found = write(tmp_path / "digests", [kept(name) for name in there])
    for name in draw.sample(sorted(names), len(names)):
        row = found.find(name)
        assert (row.path if row else None) == (name if name in set(there) else None)
    found.close()


@pytest.mark.parametrize("path", HARD)
def test_the_beginning_of_a_line(path: str) -> None:
    line = encode_record(kept(path).as_json())[:-1]
    assert key_of_line(line) == key_of(path)
    assert decode_kept(line) == kept(path)
    assert decode_kept(line.replace(b'"size":1', b'"size":2')) is None


def test_without_rows(tmp_path: Path) -> None:
    found = write(tmp_path / "digests", [])
    assert found.find("a") is None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True), ({"size": 2}, False), ({"mtime_ns": 7}, False), ({"ctime_ns": 7}, False), ({"inode": 7}, False),
    ],
)  # fmt: skip
def test_the_state_decides(change: dict[str, int], same: bool) -> None:
    assert kept("a").is_of(replace(FileState(1, 10**9 + 5, 10**9 + 5, 3, 99), **change)) is same


def test_a_file_that_was_changed_a_moment_before_is_read_again() -> None:
    """Its times could not tell a change in the same tick of the clock."""
    state = FileState(1, 10**9 + 5, 10**9 + 5, 3)
    assert not kept("a", read_ns=10**9 + 10**7).is_of(state)
    assert kept("a", read_ns=10**9 + 10**8).is_of(state)
    coarse = FileState(1, 10**9, 10**9, 3)
    assert not kept("a", mtime_ns=10**9, ctime_ns=10**9, read_ns=2 * 10**9).is_of(coarse)
    assert kept("a", mtime_ns=10**9, ctime_ns=10**9, read_ns=4 * 10**9).is_of(coarse)


@pytest.mark.parametrize(
    ("root", "release", "path", "named"),
    [
        ("/d/a", "/d/a", "x", "x"),
        ("/d", "/d/a", "x", "a/x"),
        ("/d/a/b", "/d/a", "b/x", "x"),
        ("/d/a/b", "/d/a", "x", ""),
    ],
)
def test_a_release_above_or_below(tmp_path: Path, root: str, release: str, path: str, named: str) -> None:
    write(tmp_path / "digests", [kept("x"), kept("a/x")], root).close()
    found = KeptDigests(tmp_path / "digests", release).find(path)
    assert (found.path if found else "") == named


def test_what_cannot_be_used_is_said_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "signoff").mkdir()
    assert find_kept(tmp_path, "/data") is None
    place = tmp_path / "signoff/digests.jsonl"
    write(place, [], "/elsewhere").close()
    assert find_kept(tmp_path, "/data") is None
    for text in (b"", b"{}", b"nonsense\n", encode_record({"kind": "digests", "format": 2, "root": "/data"})):
        place.write_bytes(text)
        with pytest.raises(LadingError):
            KeptDigests(place)
        assert find_kept(tmp_path, "/data") is None
    assert capsys.readouterr().err.count("files are read again") == 5


def test_only_what_changed_is_read(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("same", "changed", "gone"):
        (root / name).write_bytes(name.encode())
        os.utime(root / name, (1, 1))
    rows = [KeptDigest.of(name, digest_file(str(root / name)), 2**62) for name in ("same", "changed", "gone")]
    found = write(tmp_path / "digests", rows, str(root))
    (root / "changed").write_bytes(b"CHANGED")
    os.utime(root / "changed", (1, 1))
    (root / "gone").unlink()
    (root / "new").write_bytes(b"new")
    names = [("same", 4), ("changed", 7), ("gone", 4), ("new", 3)]
    with Root(root) as opened:
        source = DigestSource(opened, found)
        read, reused = DIGESTED.files, REUSED.files
        answers = source.digest(names)
        assert (DIGESTED.files - read, REUSED.files - reused) == (2, 1)
        plain = digest_files(names, root=opened)
    assert [str(answer) for answer in answers] == [str(answer) for answer in plain]
