"""The files of a source, opened where they lie and nowhere else, and what was read of them.

Input: a job. Output: open files by their paths relative to the source.
Invariant: a file is opened below the top of the source, component by
component, without following a link; it is a regular file when it is opened.
A link is followed only where one was planned, and only to the very file it
led to then.
"""

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.compress import reads
from lading.compress.job import CompressionJob, SourceFault, SourceFile, walk_links
from lading.core.opening import Root, descriptor_folder, open_plain
from lading.core.times import ctime_of, mtime_of

BLOCK = 4 << 20


@dataclass(frozen=True)
class SourceState:
    """What tells a file from another one, or from itself after a change, without reading it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @staticmethod
    def of(status: os.stat_result) -> "SourceState":
        """Return the state in a stat result."""
        return SourceState(status.st_size, mtime_of(status), ctime_of(status), status.st_ino, status.st_dev)

    def pinned(self) -> list[int]:
        """Return what is equal on every machine: device numbers are each machine's own."""
        return [self.size, self.mtime_ns, self.ctime_ns, self.inode]


class OpenFile:
    """One file of a source, open to read; its methods raise ``SourceFault`` that names it.

    path   relative to the source, ``.`` for the source itself
    name   as people know it
    state  as it was when it was opened
    """

    def __init__(self, path: str, name: str, descriptor: int) -> None:
        self.path, self.name, self.descriptor = path, name, descriptor
        self.state = SourceState.of(os.fstat(descriptor))
        noting = reads.current()
        self._reads = noting.of(path, name, self.state.pinned()) if noting else None

    def passing(self, offset: int) -> reads.Passing:
        """Return what takes note of bytes that are read from ``offset`` on."""
        return reads.Passing(self._reads, self.read_at, offset)

    def as_file(self) -> reads.RecordedFile:
        """Return a file object for a library; what it reads is noted."""
        return reads.RecordedFile(self.name, self.state.size, self.fill, self._reads)

    def fill(self, offset: int, view: memoryview) -> int:
        """Fill a view from ``offset``; return how many bytes there were."""
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self.descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise self.fault(error) from error
            if not count:
                break
            done += count
        return done

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end of the file."""
        found = b""
        while len(found) < size:
            try:
                block = os.pread(self.descriptor, size - len(found), offset + len(found))
            except OSError as error:
                raise self.fault(error) from error
            if not block:
                break
            found = found + block if found else block
        return found

    def blocks(self, size: int | None = None) -> Iterator[bytes]:
        """Yield the file's bytes in order, at most ``size`` of them."""
        at = 0
        while block := self.read_at(at, BLOCK if size is None else min(BLOCK, size - at)):
            at += len(block)
            yield block

    @property
    def was_noted(self) -> bool:
        """Whether a unit noted what it read of this file."""
        return bool(self._reads and self._reads.blocks)

    def fault(self, error: OSError) -> SourceFault:
        """Return the sentence for a file that cannot be read."""
        return SourceFault(f"{self.name}: cannot be read: {error.strerror or error}")

    def require_unchanged(self) -> None:
        """Raise ``SourceFault`` when the file is not in the state any more in which it was opened."""
        if SourceState.of(os.fstat(self.descriptor)) != self.state:
            raise SourceFault(f"{self.name}: changed while it was read; let its writer finish, then run again")

    def refresh(self) -> None:
        """Take the state that the file has now for the one it was opened in: for changes of our own."""
        self.state = SourceState.of(os.fstat(self.descriptor))

    def system_path(self) -> str:
        """Return a path that leads to this very file, for programs and libraries that open by path."""
        folder = descriptor_folder()
        return f"{folder}/{self.descriptor}" if folder else self.name

    def record(self, sha256: str, lossy: str = "") -> SourceFile:
        """Return the record of this file, all of whose bytes have that digest."""
        state = self.state
        return SourceFile(
            self.path, state.size, sha256, state.mtime_ns, state.ctime_ns, state.inode, state.device, lossy
        )


class Source:
    """The files of a job's source."""

    def __init__(self, top: Path, links: Mapping[str, Sequence[int]] | None = None) -> None:
        self.top = top
        self._links = links or {}
        self._root: Root | None = None
        self._lock = threading.Lock()

    @staticmethod
    def of(job: CompressionJob) -> "Source":
        """Return the source of a job, as it was planned."""
        return Source(job.source, job.links)

    def relative(self, name: str) -> str:
        """Return the path relative to the source of a file by its whole name."""
        return "." if name == os.fspath(self.top) else os.path.relpath(name, self.top)

    def locate(self, path: str) -> str:
        """Return the name of a file for people."""
        return os.fspath(self.top) if path == "." else os.path.join(self.top, path)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[OpenFile]:
        """Open a file by its path relative to the source; ``SourceFault`` when no regular file is there."""
        name = self.locate(path)
        try:
            descriptor = self._open(path, name)
        except OSError as error:
            raise SourceFault(f"{name}: cannot be read: {error.strerror or error}") from error
        try:
            file = OpenFile(path, name, descriptor)
            yield file
            if file.was_noted:
                file.require_unchanged()
        finally:
            os.close(descriptor)

    def _open(self, path: str, name: str) -> int:
        if path in self._links:
            descriptor = open_plain(name)
            if SourceState.of(os.fstat(descriptor)).pinned() == list(self._links[path]):
                return descriptor
            os.close(descriptor)
            raise OSError(errno.ESTALE, "it is a link, and leads to another file than when the work was planned")
        with self._lock:
            if self._root is None:
                self._root = Root(self.top if path != "." else self.top.parent)
        return self._root.open(path if path != "." else self.top.name)

    def close(self) -> None:
        """Let go of the top of the source."""
        if self._root is not None:
            self._root.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class SourceSurvey:
    """A source as it is now: one digest over path, size and mtime of every file, and where its links lead."""

    fingerprint: str
    links: Mapping[str, list[int]]


class Fingerprint:
    """A digest over path, size and mtime of files: tells whether a source changed, without reading it."""

    def __init__(self) -> None:
        self._state = hashlib.sha256()

    def add(self, path: str, status: os.stat_result) -> None:
        """Add the next file."""
        text = f"{path}\0{status.st_size}\0{mtime_of(status)}\n"
        self._state.update(text.encode("utf-8", "surrogateescape"))

    @property
    def value(self) -> str:
        """The digest of all that was added."""
        return self._state.hexdigest()


def scan_source(source: Path) -> SourceSurvey:
    """Look at every file of a source without reading any; raises as ``walk_files`` does."""
    fingerprint = Fingerprint()
    links: dict[str, list[int]] = {}
    for path, status, link in walk_links(source):
        fingerprint.add(path, status)
        if link:
            links[path] = SourceState.of(status).pinned()
    return SourceSurvey(fingerprint.value, links)
