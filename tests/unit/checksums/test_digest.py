"""The compiled digests against the library's, byte for byte."""

import errno
import hashlib
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lading.checksums import digest as checksum
from lading.checksums.digest import (
    CHUNK_BYTES,
    MIB,
    FileDigests,
    chunk_slices,
    digest_file,
    digest_files,
    digest_in_pool,
    join_parts,
)
from lading.core.errors import UsageError

core = pytest.importorskip("lading.checksums._digest")

# The edges of a block, of a message's padding and of a lane's buffer.
EDGES = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 32767, 32768, 32769, 65536, 98305]


PATHS = core.paths()


def write_files(directory: Path, sizes: list[int]) -> list[Path]:
    chance = random.Random(5)
    paths = [directory / f"{number:04d}" for number in range(len(sizes))]
    for path, size in zip(paths, sizes):
        path.write_bytes(chance.randbytes(size))
    return paths


@pytest.mark.parametrize("path", checksum.PATHS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9, 17, 200])
def test_many_at_once_equal_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, path: str) -> None:
    choose_path(monkeypatch, path)
    chance = random.Random(count)
    paths = write_files(tmp_path, (EDGES + [chance.randrange(300_000) for _ in range(count)])[-count:])
    assert digest_files([(str(path), path.stat().st_size) for path in paths]) == [digest_file(str(p)) for p in paths]


@pytest.mark.parametrize("way", ["none", *PATHS])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 11, len(EDGES) * 6])
def test_edges_and_parts_of_any_size(tmp_path: Path, way: str, count: int) -> None:
    chance = random.Random(count)
    paths = write_files(tmp_path, chance.sample(EDGES * 6, count))
    parts = [chance.choice([0, 64, 128, 1024, 4096, 32768, 32832, 50048]) for _ in paths]
    parts = [part if not part or path.stat().st_size <= 2000 * part else 1024 for path, part in zip(paths, parts)]
    tasks = [(os.fsencode(path), part) for path, part in zip(paths, parts)]
    answers = core.digest_files(tasks, bytearray(1), -1, True, way)
    for path, part, (md5s, md5, sha256, _, before, after) in zip(paths, parts, answers):
        data = path.read_bytes()
        pieces = [data[at : at + part] for at in range(0, len(data), part)] if 0 < part < len(data) else [data]
        assert md5s == b"".join(hashlib.md5(piece, usedforsecurity=False).digest() for piece in pieces), (path, part)
        assert md5 == hashlib.md5(data, usedforsecurity=False).digest(), (path, part)
        assert sha256 == (None if way == "none" else hashlib.sha256(data).digest()), (path, part)
        assert before == after
    crcs = [answer[3] for answer in answers]
    whole = core.digest_files([(os.fsencode(path), 0) for path in paths])
    assert crcs == [answer[3] for answer in whole], "parts joined, or in one go"


@pytest.mark.parametrize("path", checksum.PATHS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9, 16, 17, 60])
def test_buffers_together_equal_each_alone(monkeypatch: pytest.MonkeyPatch, count: int, path: str) -> None:
    choose_path(monkeypatch, path)
    chance = random.Random(count)
    sizes = (EDGES + [chance.randrange(300_000) for _ in range(count)])[-count:] if count else []
    chance.shuffle(sizes)
    # Not at the start of what was allocated: no instruction may want more of an address.
    buffers = [memoryview(chance.randbytes(size + 1))[1:] for size in sizes]
    expected = [hashlib.sha256(buffer).hexdigest() for buffer in buffers]
    assert checksum.sha256_together(buffers) == expected
    assert [found.hex() for found in core.sha256_buffers(buffers, path)] == expected
    monkeypatch.setattr(checksum, "_core", lambda: None)
    monkeypatch.delenv(checksum.PATH_VARIABLE)
    assert checksum.sha256_together(buffers) == expected


def test_what_is_no_buffer_is_refused() -> None:
    with pytest.raises(TypeError):
        core.sha256_buffers([b"a", "a"])
    with pytest.raises(ValueError, match="no path avx1024"):
        core.sha256_buffers([b"a"], "avx1024")
    with pytest.raises(ValueError, match="no path none"):
        core.sha256_buffers([b"a"], "none")


def choose_path(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    if path not in PATHS:
        pytest.skip(f"this processor has no path {path}")
    monkeypatch.setenv(checksum.PATH_VARIABLE, path)


def test_a_path_that_does_not_exist_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checksum.PATH_VARIABLE, "avx1024")
    with pytest.raises(
        UsageError, match=r"LADING_DIGEST_PATH='avx1024': there is no such path; the paths are: sha_ni, "
    ):
        digest_files([])
    monkeypatch.setenv(checksum.PATH_VARIABLE, "avx2")
    monkeypatch.setattr(checksum, "_core", lambda: None)
    with pytest.raises(UsageError, match=r"LADING_DIGEST_PATH=avx2: not possible here; this machine has: none, "):
        digest_files([])


@pytest.mark.parametrize("path", checksum.PATHS)
def test_large_files_share_a_call_and_all_cores_have_some(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    choose_path(monkeypatch, path)
    large = [10 * CHUNK_BYTES] * 40
    assert [piece.stop - piece.start for piece in chunk_slices(large, 1)] == [13, 13, 13, 1], "eight gigabytes a call"
    assert [piece.stop - piece.start for piece in chunk_slices(large, 5)] == [8] * 5
    assert [piece.stop - piece.start for piece in chunk_slices(large[:8], 100)] == [4, 4]
    assert [piece.stop - piece.start for piece in chunk_slices([1000] * 100, 1)] == [64, 36]
    assert [piece.stop - piece.start for piece in chunk_slices([CHUNK_BYTES, 5], 1)] == [1, 1]
    assert not list(chunk_slices([], 1))


def test_a_file_in_parts_has_the_etag_of_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(150 * MIB + 7)
        stream.seek(99 * MIB)
        stream.write(os.urandom(2 * MIB))
    (found,) = digest_files([(str(path), path.stat().st_size)])
    assert found == digest_file(str(path))
    assert isinstance(found, FileDigests)
    assert found.etag.endswith("-4")
    with path.open("rb") as stream:
        assert found.md5 == hashlib.file_digest(stream, "md5").hexdigest()


def test_what_cannot_be_read_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    (good,) = write_files(tmp_path, [70_000])
    names = [str(tmp_path / "missing"), str(good), str(tmp_path), os.fsdecode(bytes(tmp_path / "x\xff"))]
    missing, found, directory, odd = digest_files([(name, 70_000) for name in names])
    assert isinstance(missing, OSError)
    assert missing.errno == errno.ENOENT
    assert isinstance(directory, OSError)
    assert directory.errno == errno.EISDIR
    assert isinstance(odd, OSError)
    assert found == digest_file(str(good))


@pytest.mark.parametrize("how", ["compiled", "python"])
def test_a_pipe_in_a_files_place_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (good,) = write_files(tmp_path, [70_000])
    if how == "python":
        monkeypatch.setattr(checksum, "_core", lambda: None)
    names = [str(tmp_path / "pipe"), os.devnull, str(good)]
    # Not by ``with``: before, the call never came back, and a pool waits for its threads.
    answers: list[FileDigests | OSError] = []
    thread = threading.Thread(target=lambda: answers.extend(digest_files([(n, 70_000) for n in names])), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for a writer"
    pipe, device, found = answers
    for refused, kind in ((pipe, "pipe"), (device, "device")):
        assert isinstance(refused, OSError)
        assert refused.strerror == f"it is a {kind} now"
    assert found == digest_file(str(good))


@pytest.mark.parametrize("how", ["compiled", "python"])
def test_a_stop_cuts_off_what_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "python":
        monkeypatch.setattr(checksum, "_core", lambda: None)
    (small,) = write_files(tmp_path, [70_000])
    huge = tmp_path / "huge"
    with huge.open("wb") as stream:
        stream.truncate(1 << 40)  # hashed for a quarter of an hour
    stop = bytearray(1)
    timer = threading.Timer(0.5, lambda: stop.__setitem__(0, 1))
    timer.start()
    began = time.monotonic()
    found, cut = digest_files([(str(small), 70_000), (str(huge), 1 << 40)], stop)
    assert time.monotonic() - began < 60
    assert found == digest_file(str(small))
    assert isinstance(cut, OSError)
    assert cut.errno == errno.ECANCELED
    (late,) = digest_files([(str(small), 70_000)], stop)
    assert isinstance(late, OSError)
    assert not [name for name in os.listdir("/proc/self/fd") if points_to(name) == str(huge)], "it is closed"


def points_to(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def test_a_file_that_shrank_or_grew_since_it_was_planned(tmp_path: Path) -> None:
    """The size given chooses the form of the ETag only: what was read is what the stamps say."""
    paths = write_files(tmp_path, [10, 100_000])
    assert digest_files([(str(path), 5000) for path in paths]) == [digest_file(str(path)) for path in paths]


def test_without_the_compiled_module_or_its_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(tmp_path, [0, 10, 100_000])
    files = [(str(path), path.stat().st_size) for path in paths]
    expected: list[FileDigests | OSError] = [digest_file(path) for path, _ in files]

    class Plain:
        @staticmethod
        def digest_files(tasks: list[tuple[bytes, int]], *_: object) -> list[object]:
            return [(a, b, None, *rest) for a, b, _, *rest in core.digest_files(tasks)]

        @staticmethod
        def paths() -> list[str]:
            return []

    monkeypatch.setattr(checksum, "_core", lambda: Plain)
    assert digest_files(files) == expected
    monkeypatch.setattr(checksum, "_core", lambda: None)
    assert digest_files(files) == expected
    (missing,) = digest_files([(str(tmp_path / "missing"), 1)])
    assert isinstance(missing, OSError)


def test_a_pool_keeps_the_order(tmp_path: Path) -> None:
    paths = write_files(tmp_path, [number * 37 for number in range(300)])
    with ThreadPoolExecutor(3) as pool:
        found = list(digest_in_pool(pool, [(str(path), path.stat().st_size) for path in paths]))
    assert found == [digest_file(str(path)) for path in paths]


def test_the_etag_of_no_parts_is_that_of_nothing() -> None:
    assert join_parts([hashlib.md5(b"", usedforsecurity=False).digest()]).endswith("-1")
