"""``restore`` beside others that write into the same directory: what it did not examine, it does not replace."""

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lading.core import appear, identity
from lading.core.errors import LadingError
from lading.core.temporary_files import TemporaryFiles
from lading.restore.restorer import Restorer, Tree, names_like_ours
from lading.verification.manifest import ManifestHeader, ManifestRow, read_manifest, write_manifest

WHEN = "2026-01-01T00:00:00Z"
CONTENT = bytes(range(256)) * 400
OLD = b"what was there before, of the user"
NEWER = b"what the user wrote meanwhile, nowhere else"


class Meanwhile:
    """Stands for a bucket's reader: after half of the bytes something else happens in the directory."""

    def __init__(self, content: bytes, action: Callable[[], object]) -> None:
        self.content, self.action = content, action

    def blocks(self, key: str, size: int, version_id: str | None = None) -> Iterator[bytes]:
        yield self.content[: size // 2]
        self.action()
        yield self.content[size // 2 :]

    def check(self) -> None:
        """Nobody stops it."""

    def stop(self) -> None:
        """Nobody stops it."""


def row_of(path: str, content: bytes = CONTENT) -> ManifestRow:
    return ManifestRow(
        path, path, len(content), 7, None, hashlib.sha256(content).hexdigest(), "e", None, "etag", "b", WHEN
    )


def restore(to: Path, action: Callable[[], object], *, overwrite: bool = False, path: str = "d/a") -> bool:
    there = Tree(to)
    try:
        return Restorer(Meanwhile(CONTENT, action), there, overwrite).restore(row_of(path))  # type: ignore[arg-type]
    finally:
        there.close()


def no_renameat2(patch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    patch.setattr(appear, "_rename", lacking)


def no_links(patch: pytest.MonkeyPatch) -> None:
    no_renameat2(patch)

    def lacking(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    patch.setattr(os, "link", lacking)


@pytest.fixture(params=["renameat2", "links", "neither"])
def calls(request, monkeypatch) -> str:
    """What the file system has: each of the ways, as NFS (links only) and exFAT (neither) leave them."""
    {"renameat2": lambda _: None, "links": no_renameat2, "neither": no_links}[request.param](monkeypatch)
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "to" / "d").mkdir(parents=True)
    return tmp_path / "to" / "d" / "a"


def alone(place: Path) -> bool:
    """Nothing unfinished is left beside the file."""
    return [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_appears_meanwhile_stays(calls, place, overwrite) -> None:
    with pytest.raises(LadingError, match="appeared"):
        restore(place.parents[1], lambda: place.write_bytes(NEWER), overwrite=overwrite)
    assert place.read_bytes() == NEWER
    assert alone(place)
    assert restore(place.parents[1], lambda: None, overwrite=True)
    assert place.read_bytes() == CONTENT
    assert alone(place)


def test_the_same_bytes_from_another_run_are_fine(calls, place) -> None:
    assert restore(place.parents[1], lambda: place.write_bytes(CONTENT))
    assert alone(place)


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "pipe"])
@pytest.mark.parametrize("before", [False, True])
def test_other_things_in_its_place_stay(calls, place, tmp_path, kind, before) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)

    def act() -> None:
        place.unlink(missing_ok=True)
        if kind == "link":
            place.symlink_to(outside)
        elif kind == "dangling":
            place.symlink_to(tmp_path / "nowhere")
        elif kind == "directory":
            place.mkdir()
            (place / "x").write_bytes(NEWER)
        else:
            os.mkfifo(place)

    if before:
        place.write_bytes(OLD)
    with pytest.raises(LadingError):
        restore(place.parents[1], act, overwrite=before)
    assert outside.read_bytes() == OLD
    assert not (tmp_path / "nowhere").exists()
    assert kind != "directory" or (place / "x").read_bytes() == NEWER
    assert kind != "pipe" or place.is_fifo()
    assert alone(place)


def same_stamp(place: Path, change: Callable[[], object]) -> None:
    """Change a file and give it the size and the time that it had."""
    before = place.stat()
    change()
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (place.stat().st_size, place.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


OTHER = OLD.upper()
CHANGES = {
    "written": lambda place: place.write_bytes(NEWER),
    "written, stamp kept": lambda place: same_stamp(place, lambda: place.write_bytes(OTHER)),
    "replaced": lambda place: (place.with_name("new").write_bytes(NEWER), place.with_name("new").rename(place)),
    "replaced, stamp kept": lambda place: same_stamp(
        place, lambda: (place.with_name("new").write_bytes(OTHER), place.with_name("new").rename(place))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_overwrite_replaces_only_what_was_examined(calls, place, change) -> None:
    place.write_bytes(OLD)
    with pytest.raises(LadingError, match="left as it is"):
        restore(place.parents[1], lambda: CHANGES[change](place), overwrite=True)
    assert place.read_bytes() in (NEWER, OTHER)
    assert alone(place)


def test_overwrite_of_what_is_there(calls, place) -> None:
    place.write_bytes(OLD)
    assert restore(place.parents[1], lambda: None, overwrite=True)
    assert place.read_bytes() == CONTENT
    assert alone(place)
    # What was examined has gone: the name is free.
    place.write_bytes(OLD)
    assert restore(place.parents[1], place.unlink, overwrite=True)
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("times", [1, 2])
def test_replaced_in_the_last_instant(place, monkeypatch, times) -> None:
    """Between the last look and the exchange: what was swapped out is looked at and put back."""
    place.write_bytes(OLD)
    real, left = appear._rename, [NEWER, b"a third file, newest"][:times]

    def racing(old: bytes, new: bytes, directory: int, flags: int) -> None:
        if flags == appear._EXCHANGE and left:
            place.with_name("new").write_bytes(left.pop(0))
            place.with_name("new").rename(place)
        real(old, new, directory, flags)

    monkeypatch.setattr(appear, "_rename", racing)
    with pytest.raises(LadingError, match="replaced"):
        restore(place.parents[1], lambda: None, overwrite=True)
    kept = [path.read_bytes() for path in place.parent.iterdir() if path.name.startswith(appear.KEPT)]
    if times == 1:
        assert place.read_bytes() == NEWER
        assert alone(place)
    else:
        assert place.read_bytes() == b"a third file, newest"
        assert kept == [NEWER]


CROSSINGS = {
    "replaced": lambda place: (place.with_name("new").write_bytes(NEWER), place.with_name("new").rename(place)),
    "written": lambda place: place.write_bytes(NEWER),
    "appended": lambda place: place.write_bytes(place.read_bytes() + NEWER),
    "emptied": lambda place: place.write_bytes(b""),
    "same length": lambda place: place.write_bytes(NEWER.ljust(place.stat().st_size)),
}


@pytest.mark.parametrize(
    ("crossing", "then"),
    [(name, then) for name in CROSSINGS for then in ("goes on", "fails") if (name, then) != ("emptied", "fails")],
)
def test_what_takes_the_place_of_a_placeholder_stays(place, monkeypatch, crossing, then) -> None:
    """Without links and RENAME_NOREPLACE: between the placeholder and the rename somebody takes the name."""
    no_links(monkeypatch)
    real, done = os.write, []

    def writing(descriptor: int, block: bytes) -> int:
        count = real(descriptor, block)
        if bytes(block).startswith(b"Lading holds this name"):
            CROSSINGS[crossing](place)
            done.append(place.read_bytes())
            if then == "fails":
                raise OSError(errno.EIO, "Input/output error")
        return count

    monkeypatch.setattr(os, "write", writing)
    with pytest.raises(OSError if then == "fails" else LadingError):
        restore(place.parents[1], lambda: None)
    assert done
    assert place.read_bytes() == done[0]
    assert alone(place)


def test_a_placeholder_of_a_killed_run_is_no_file_of_the_user(place, monkeypatch) -> None:
    child = os.fork()
    if child == 0:
        no_links(monkeypatch)
        os.rename = lambda *_, **__: os._exit(9)  # type: ignore[assignment]
        restore(place.parents[1], lambda: None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = place.read_bytes()
    assert b"Lading holds this name for a file" in left
    # Of a process that lives, or not of this form: a file like any other.
    for text in (left.replace(f"-{child}-".encode(), f"-{os.getpid()}-".encode()), left + b"and more", b"x" + left):
        place.write_bytes(text)
        if text.startswith(b"Lading") and text.endswith(b"one.\n"):
            text = re.sub(rb"(-\d+-)\d+-", rb"\g<1>%d-" % (identity.start_ticks(os.getpid()) or 0), text, count=1)
            place.write_bytes(text)
        with pytest.raises(LadingError, match="other content"):
            restore(place.parents[1], lambda: None)
        assert place.read_bytes() == text
    place.write_bytes(left)
    assert restore(place.parents[1], lambda: None)
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_exchange_nothing_is_lost_and_nothing_swept(place, moment) -> None:
    place.write_bytes(OLD)
    child = os.fork()
    if child == 0:
        real = appear._rename

        def dying(*given: object) -> None:
            if moment == "after":
                real(*given)  # type: ignore[arg-type]
            os._exit(9)

        appear._rename = dying  # type: ignore[assignment]
        restore(place.parents[1], lambda: None, overwrite=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    names = {path.name: path.read_bytes() for path in place.parent.iterdir()}
    assert sorted(names.values()) == sorted([OLD, CONTENT])
    assert place.read_bytes() == (OLD if moment == "before" else CONTENT)
    restore(place.parents[1], lambda: None, overwrite=True)
    assert place.read_bytes() == CONTENT
    assert {path.name for path in place.parent.iterdir()} == set(names)


@pytest.mark.parametrize("swap", ["moved", "link", "new"])
def test_a_directory_that_is_moved_away_gets_nothing(calls, place, tmp_path, swap) -> None:
    outside = tmp_path / "outside"

    def act() -> None:
        place.parent.rename(outside)
        if swap == "link":
            place.parent.symlink_to(outside)
        elif swap == "new":
            place.parent.mkdir()

    with pytest.raises(LadingError, match="its directory was moved"):
        restore(place.parents[1], act)
    assert list(outside.iterdir()) == []


def test_two_restores_with_overwrite_at_once(place) -> None:
    place.write_bytes(OLD)
    gate = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(restore, place.parents[1], gate.wait, overwrite=True) for _ in range(2)]
        assert [run.result(30) for run in runs] == [True, True]
    assert place.read_bytes() == CONTENT
    assert alone(place)


@pytest.mark.long
def test_a_writer_that_never_rests_loses_nothing(calls, place) -> None:
    """A user replaces the file all the time; whatever was theirs when it was replaced is never gone."""
    ends, lost, number = threading.Event(), [], [0]

    def write() -> None:
        while not ends.is_set():
            number[0] += 1
            mine = b"version %d of the user" % number[0]
            new = place.with_name("new")
            new.write_bytes(mine)
            held = os.open(new, os.O_RDONLY)
            new.rename(place)
            time.sleep(0.0005)
            if os.fstat(held).st_nlink == 0:  # the user alone removes it, in the next line
                lost.append(mine)
            place.unlink(missing_ok=True)
            os.close(held)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            try:
                restore(place.parents[1], lambda: None)
            except LadingError:
                pass
    finally:
        ends.set()
        writer.join()
    assert number[0] > 20
    assert lost == []


@pytest.mark.parametrize("instead", ["nothing", "link"])
def test_a_file_that_goes_between_two_looks_is_a_sentence(place, instead: str) -> None:
    place.write_bytes(NEWER)
    seen = appear.Identity.of(place.stat())
    place.unlink()
    if instead == "link":
        place.symlink_to("/dev/null")
    directory = os.open(place.parent, os.O_RDONLY)
    try:
        with pytest.raises(appear.Taken, match="removed or replaced meanwhile"):
            appear.is_left_placeholder(place.name.encode(), directory, seen)
    finally:
        os.close(directory)


def test_a_file_of_the_release_is_not_swept(tmp_path) -> None:
    """A release that holds what a killed restore left somewhere: its names look like ours."""
    name = f".lading-restore-{'a' * 24}-00000001-1-1-{'0' * 16}"
    header = ManifestHeader("b", "", None, "/data", "0" * 64, WHEN, {})
    rows = [replace(row_of(f"d/{name}"), mtime_ns=7), row_of("d/z")]
    write_manifest(tmp_path / "m.zst", header, rows, complete=True)
    manifest = read_manifest(tmp_path / "m.zst")
    assert list(names_like_ours(manifest)) == [f"d/{name}"]
    folder = tmp_path / "to" / "d"
    folder.mkdir(parents=True)
    for made in (name, name.replace("aaaa", "bbbb")):
        (folder / made).write_bytes(CONTENT)
        os.utime(folder / made, ns=(7, 7))
    descriptor = os.open(folder, os.O_RDONLY)
    TemporaryFiles(lambda: names_like_ours(manifest)).sweep([b"d"], descriptor)
    os.close(descriptor)
    assert [path.name for path in folder.iterdir()] == [name]
