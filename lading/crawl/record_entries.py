"""After the walk: what its entries are and have beside name and size, into ``find.metadata.jsonl.zst``.

Input: a settled walker and its root. Output: lines of the metadata file,
counts of what is no regular file.
Invariant: links, and what is neither file nor directory, are looked at
always; regular files only with ``--metadata``. Streamed: what is held is one
block of names. Nothing is gone through below the root but what the walk went
through, and nothing but directories is opened.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from lading.core.opening import Root
from lading.core.times import ctime_of, mtime_of, saturate
from lading.crawl.account_names import group_name, user_name
from lading.crawl.options import REST, SPECIAL, Options, Walker
from lading.tree.entry_record import (
    FILE_KIND,
    MODE_BITS,
    XATTR_BYTES,
    XATTR_NAME_BYTES,
    XATTRS_BYTES,
    EntryMetadata,
    RecordedEntry,
)
from lading.tree.metadata_file import MetadataHeader, encode_line, metadata_path, write_entries
from lading.tree.not_regular import NamedCount, NotRegular

if TYPE_CHECKING:
    from lading.core.worker_threads import WorkerPool

ROOM = 1 << 20
PIECE = 256  # entries that a thread looks at in a row
# Below this time an entry, the answers come from memory, and threads of Python only get in each other's way.
SLOW = 100e-6
CALLS = 3  # of the system, an entry: for the rate cap
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip
_NONE = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENODATA)

Named = tuple[str, str]  # the walk's letter, and a path


@dataclass
class Lacking:
    """What was asked for and could not be had: entries without metadata, extended attributes that are not recorded."""

    entries: NamedCount = field(default_factory=NamedCount)
    xattrs: NamedCount = field(default_factory=NamedCount)


@dataclass
class Recorded:
    """What the pass came to: ``written`` is False where there was nothing to record."""

    not_regular: NotRegular = field(default_factory=NotRegular)
    lacking: Lacking = field(default_factory=Lacking)
    written: bool = False


def record_entries(
    root: str, walker: Walker, options: Options, output: Path, tree_sha256: str, show: Callable[[int], None]
) -> Recorded:
    """Write the metadata file beside ``output``, none where nothing is to be recorded; returns the counts.

    ``show`` is told now and then how many entries are done.
    """
    found = Recorded()
    done = 0
    path = metadata_path(output)
    block = walker.entries(SPECIAL, ROOM)
    if not block and not options.metadata:
        path.unlink(missing_ok=True)
        return found
    from lading.core.worker_threads import WorkerPool  # here: most releases hold files alone

    with (
        EntryReader(root, options) as reader,
        closing(WorkerPool(max(1, options.workers), "metadata")) as pool,
    ):

        def rest() -> Iterator[tuple[bytes, int]]:
            if options.metadata:  # asked for after the last of the others: the walk goes through one kind at a time
                yield from _pieces(walker, REST, walker.entries(REST, ROOM), reader, pool, found)

        def lines() -> Iterator[tuple[bytes, int]]:
            nonlocal done
            for line in chain(_pieces(walker, SPECIAL, block, reader, pool, found), rest()):
                done += line[1]
                show(done)
                yield line

        write_entries(path, MetadataHeader(tree_sha256, options.metadata), lines())
    found.written = True
    return found


def _pieces(
    walker: Walker, which: int, block: bytes, reader: "EntryReader", pool: "WorkerPool", found: Recorded
) -> Iterator[tuple[bytes, int]]:
    """Yield pieces of lines with their number, in the walk's order, from ``block`` on; counts on the way."""
    while block:
        names = [(item[:1], item[1:]) for item in os.fsdecode(block[:-1]).split("\0")]
        pieces = [names[start : start + PIECE] for start in range(0, len(names), PIECE)]
        for piece in reader.read_all(pieces, pool):
            for entry in piece:
                if which == SPECIAL:
                    found.not_regular.add_entry(entry)
                if reader.metadata and entry.metadata is None:
                    found.lacking.entries.add(entry.path)
                elif entry.metadata is not None and entry.metadata.unread:
                    found.lacking.xattrs.add(f"{entry.path}: {', '.join(entry.metadata.unread)}")
            yield b"".join(map(encode_line, piece)), len(piece)
        block = walker.entries(which, ROOM)


class EntryReader:
    """Looks at entries below a root; safe to use from many threads."""

    def __init__(self, root: str, options: Options) -> None:
        self.metadata = options.metadata
        self._follow = options.links == "follow"
        self._rate = options.rate
        self._root = Root(root, follow=self._follow)
        self._real = os.path.realpath(root).rstrip("/") + "/"

    def __enter__(self) -> "EntryReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._root.close()

    def read_all(self, pieces: Sequence[Sequence[Named]], pool: "WorkerPool") -> Iterator[list[RecordedEntry]]:
        """Yield the entries of each piece in order, by threads where one alone waits for the file system."""
        started, done = time.monotonic(), 0
        for place, piece in enumerate(pieces):
            yield self.read(piece)
            done += len(piece)
            if self._rate:
                time.sleep(max(0.0, started + done * CALLS / self._rate - time.monotonic()))
            elif time.monotonic() - started > SLOW * done:
                yield from pool.map(self.read, pieces[place + 1 :])
                return

    def read(self, names: Sequence[Named]) -> list[RecordedEntry]:
        """Return what some entries are; a directory is opened once for all names in it that follow one another."""
        found = []
        at: str | None = None
        directory = -1
        try:
            for letter, path in names:
                above, _, name = path.rpartition("/")
                if above != at:
                    if directory >= 0:
                        os.close(directory)
                    directory, at = self._open(above), above
                found.append(self._read(letter, path or ".", name or ".", directory))
        finally:
            if directory >= 0:
                os.close(directory)
        return found

    def _open(self, above: str) -> int:
        """Return a descriptor of a directory below the root, -1 where it cannot be opened any more."""
        try:
            return self._root.hold_directory(above)
        except OSError:
            return -1

    def _read(self, letter: str, path: str, name: str, directory: int) -> RecordedEntry:
        kind = {"d": "directory", "e": "directory", "f": FILE_KIND, "l": "link"}.get(letter, "unknown")
        status: os.stat_result | None = None
        if directory >= 0 and (self.metadata or letter == "o"):
            with suppress(OSError):
                status = os.stat(name, dir_fd=directory, follow_symlinks=self._follow and letter != "o")
        if letter == "o" and status is not None:
            # A directory here is one that the walk could not enter, a link one that leads nowhere or in a circle.
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "unknown")
        target, dangling, outside = None, False, False
        if kind == "link" and directory >= 0:
            target, dangling, outside = self._follow_link(name, path, directory)
        if status is not None and _KINDS.get(stat.S_IFMT(status.st_mode)) != kind:
            status = None  # something else by now: its attributes are not this entry's
        metadata = self._describe(name, directory, status) if self.metadata and status is not None else None
        return RecordedEntry(kind, path, target, dangling, outside, letter == "e", metadata)

    def _follow_link(self, name: str, path: str, directory: int) -> tuple[str | None, bool, bool]:
        """Return where a link leads as it is written, whether nowhere, and whether out of the root."""
        try:
            target = os.readlink(name, dir_fd=directory)
        except OSError:
            return None, False, False
        try:
            found = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            # What is not there has a place all the same: the one that its text names.
            text = target if target.startswith("/") else os.path.join(self._real, os.path.dirname(path), target)
            return target, True, not f"{os.path.normpath(text)}/".startswith(self._real)
        try:
            real = os.readlink(f"/proc/self/fd/{found}")
        except OSError:
            real = os.path.realpath(os.path.join(self._real, path))
        finally:
            os.close(found)
        return target, False, not f"{real}/".startswith(self._real)

    def _describe(self, name: str, directory: int, status: os.stat_result) -> EntryMetadata:
        xattrs, unread = self._read_xattrs(name, directory)
        is_file = stat.S_ISREG(status.st_mode)
        shared = is_file and status.st_nlink > 1
        return EntryMetadata(
            status.st_mode & MODE_BITS,
            status.st_uid,
            status.st_gid,
            user_name(status.st_uid),
            group_name(status.st_gid),
            mtime_of(status),
            saturate(status.st_atime_ns),
            ctime_of(status),
            status.st_nlink if is_file else 1,
            f"{status.st_dev}:{status.st_ino}" if shared else None,
            status.st_blocks * 512 if is_file else None,
            xattrs,
            unread,
        )

    def _read_xattrs(self, name: str, directory: int) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """Return an entry's extended attributes, and the names of those that cannot be recorded."""
        found: dict[str, bytes] = {}
        unread: list[str] = []
        # There is no call that takes a directory and a name; this one goes through no link of the release either.
        path = f"/proc/self/fd/{directory}/{name}" if name != "." else f"/proc/self/fd/{directory}"
        follow = self._follow or name == "."
        read = partial(os.getxattr, path, follow_symlinks=follow)
        try:
            names = os.listxattr(path, follow_symlinks=follow)
        except OSError as error:
            return found, () if error.errno in _NONE else ("*",)
        room = XATTRS_BYTES
        for attribute in sorted(names):
            try:
                value = read(attribute)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    unread.append(attribute)
                continue
            room -= len(value)
            if room < 0 or len(value) > XATTR_BYTES or len(os.fsencode(attribute)) > XATTR_NAME_BYTES:
                unread.append(attribute)
            else:
                found[attribute] = value
        return found, tuple(unread)
