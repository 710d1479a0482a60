"""Compare what the outputs of a compression give back with the digests of the original files, or write it.

Input: stored compressions, and which files of theirs are meant. Output: for
each file whether the rebuilt bytes have its size and SHA-256.
Invariant: a file counts as equal only by the SHA-256 of its rebuilt bytes; what
is written appears under its name only after that.
"""

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lading.compress.job import SourceFile
from lading.compress.rebuild.rebuild_files import FileRebuilder
from lading.compress.rebuild.rebuild_images import ImageRebuilder
from lading.compress.rebuild.rebuild_recordings import RecordingRebuilder
from lading.compress.rebuild.stored_compression import CopyDamaged, NotPromised, StoredCompression
from lading.core.atomic import atomic_write
from lading.core.errors import UsageError

EQUAL, DIFFERENT, NOT_PROMISED = "equal", "different", "not promised"


class Rebuilder(Protocol):
    """What gives the bytes of a source file; raises ``NotPromised`` and ``CopyDamaged``."""

    def blocks(self, record: SourceFile) -> Iterator[bytes]:
        """Yield the bytes of a source file."""

    def close(self) -> None:
        """Let go of what is held."""


@dataclass(frozen=True)
class FileVerdict:
    """What came of one file: ``state`` is equal, different or not promised; ``reason`` says why it is not equal."""

    path: str
    size: int
    state: str
    reason: str = ""


@dataclass
class ProofCounters:
    """What came of all files so far; ``damaged`` are sentences on outputs that are not what was written."""

    files: int = 0
    bytes: int = 0
    wrong: list[FileVerdict] = field(default_factory=list)
    unpromised: list[FileVerdict] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def add(self, verdict: FileVerdict) -> None:
        """Count one file."""
        if verdict.state == EQUAL:
            self.files += 1
            self.bytes += verdict.size
        else:
            (self.wrong if verdict.state == DIFFERENT else self.unpromised).append(verdict)


def choose(session: Sequence[StoredCompression], wanted: Sequence[str]) -> list[tuple[StoredCompression, SourceFile]]:
    """Return the records of the files that are meant, all when none is named; ``UsageError`` for a name of nothing.

    A name is a path relative to the source, or one that begins with the folder of the session, or a glob of these.
    """
    found = []
    left = set(wanted)
    for stored in session:
        for record in stored.sources:
            names = {record.path, shown(stored, record)}
            hits = {one for one in wanted if any(one == name or fnmatch.fnmatchcase(name, one) for name in names)}
            left -= hits
            if hits or not wanted:
                found.append((stored, record))
    if left:
        lacking = [name for stored in session for name in stored.not_carried if name in left]
        reason = "no output contains it" if lacking else "compress.json names no such source file"
        raise UsageError(f"{sorted(left)[0]}: {reason}; see its sources")
    return found


def shown(stored: StoredCompression, record: SourceFile) -> str:
    """Return the path of a file for people: below the session."""
    path = stored.source_name if record.path == "." else record.path
    return f"{stored.folder}/{path}" if stored.folder else path


def open_rebuilder(stored: StoredCompression, password: str | None) -> Rebuilder:
    """Return what makes the files of a compression again; reads whatever is common to them."""
    if stored.kind == "ephys":
        return RecordingRebuilder(stored)
    if stored.kind == "imaging":
        return ImageRebuilder(stored)
    if stored.kind in ("generic", "video"):
        return FileRebuilder(stored, password)
    raise UsageError(f"{stored.name}: nobody here knows data of kind {stored.kind!r}; take a newer Lading")


def prove(
    chosen: Iterable[tuple[StoredCompression, SourceFile]], password: str | None, to: Path | None = None
) -> Iterator[FileVerdict]:
    """Yield what comes of each file; with ``to``, each equal one is written there, at its path below the session."""
    rebuilders: dict[int, Rebuilder] = {}
    for stored, record in chosen:
        try:
            if id(stored) not in rebuilders:
                rebuilders[id(stored)] = open_rebuilder(stored, password)
            blocks = rebuilders[id(stored)].blocks(record)
            path = shown(stored, record)
            wrong = _compare(record, blocks) if to is None else _write(record, blocks, to / path)
            yield FileVerdict(path, record.size, DIFFERENT if wrong else EQUAL, wrong)
        except NotPromised as error:
            yield FileVerdict(shown(stored, record), record.size, NOT_PROMISED, str(error))
        except CopyDamaged as error:
            yield FileVerdict(shown(stored, record), record.size, DIFFERENT, str(error))
    for rebuilder in rebuilders.values():
        rebuilder.close()


def _feed(blocks: Iterator[bytes], found: list[int], digest: "hashlib._Hash") -> Iterator[bytes]:
    for block in blocks:
        found[0] += len(block)
        digest.update(block)
        yield block


def _compare(record: SourceFile, blocks: Iterator[bytes]) -> str:
    """Return what is wrong with rebuilt bytes, or an empty string."""
    size, digest = [0], hashlib.sha256()
    for _ in _feed(blocks, size, digest):
        pass
    return _judge(record, size[0], digest.hexdigest())


def _judge(record: SourceFile, size: int, sha256: str) -> str:
    if (size, sha256) == (record.size, record.sha256):
        return ""
    return f"the copy gives {size} bytes of SHA-256 {sha256}, the original had {record.size} of {record.sha256}"


class _Wrong(Exception):
    """Rebuilt bytes that are not the original's: what was written of them goes."""


def _write(record: SourceFile, blocks: Iterator[bytes], target: Path) -> str:
    """Write rebuilt bytes to a new file with the original's time; return what is wrong with them, then not there."""
    if os.path.lexists(target):
        raise UsageError(f"{target} already exists; give another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    size, digest = [0], hashlib.sha256()
    try:
        with atomic_write(target, "wb") as stream:
            for block in _feed(blocks, size, digest):
                stream.write(block)
            if wrong := _judge(record, size[0], digest.hexdigest()):
                raise _Wrong(wrong)
    except _Wrong as error:
        return str(error)
    os.utime(target, ns=(record.mtime_ns, record.mtime_ns))
    return ""
