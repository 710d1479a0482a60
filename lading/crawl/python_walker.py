"""The walk in Python, for machines without the compiled one; the interface of ``lading.crawl.options.Walker``.

Input: a root and settings. Output: a record per directory, its files already
as text. Invariant: the same bytes as the compiled walk.

It has no threads: it walks while it is waited for. Python's threads only get in each other's way while the file
system answers from memory, and a site whose file system makes them wait has the compiled walk.
"""

import errno
import gc
import json
import os
import pickle
import stat
import struct
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quote
from operator import itemgetter
from typing import Any

from lading.core.times import ctime_of, is_saturated, mtime_of
from lading.crawl.options import NCDU, REST, SNAPSHOT, SNAPSHOTS, TREE, Options, root_name
from lading.tree.globs import compile_globs
from lading.tree.size_tree import DIRECTORY, FILE, LINK, OTHER, FlatTree

# Bytes of a path that one call may take; deeper directories are opened in hops.
HOP = 3900
_GONE = (errno.ENOENT, errno.ENOTDIR)
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
_SNAPSHOTS = frozenset(SNAPSHOTS)

_STAMP = struct.Struct("<Qqq")
_NAME = itemgetter(0)

# Inode, mtime and ctime of a directory.
Stamp = tuple[int, int, int]
# A file before it is text: name, size, mtime, 512-byte blocks, (device, inode) if it has more names.
File = tuple[str, int, int, int, tuple[int, int] | None]


@dataclass(slots=True)
class DirectoryRecord:
    """A directory as found: names of children by kind, the files' bytes and text."""

    directories: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    text: str = ""
    file_count: int = 0
    own: int = 0
    vanished: bool = False
    total: int = 0
    entries: int = 0
    stamp: Stamp | None = None
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class WalkedDirectory:
    """A directory to list: its path below the root with a final ``/`` and, if links are followed, all above it."""

    path: str
    depth: int
    ancestors: tuple[tuple[int, int], ...] = ()


class PythonWalker:
    """One walk; see ``lading.crawl.options.Walker`` for the methods."""

    def __init__(self, root: str, options: Options, *, seed: bool = True) -> None:
        self._device = os.stat(root).st_dev
        os.scandir(root).close()
        self._options = options
        self._name = root_name(root) if options.form == TREE else os.path.abspath(root)
        self._prefix = root if root.endswith("/") else root + "/"
        self._inodes = options.hard_links == "once" or options.form == NCDU
        self._excluded = compile_globs(options.exclude)
        self._waiting: deque[WalkedDirectory] = deque([WalkedDirectory("", 0)] if seed else [])
        self._listing: Iterator[None] | None = None
        self._current: tuple[str, float] | None = None
        self._slowest: tuple[str, float] | None = None
        self._stopping = False
        self._records: dict[str, DirectoryRecord] = {}
        # Paths that could not be opened, and paths that are not there any more.
        self._refused: set[str] = set()
        self._gone: set[str] = set()
        self._faults: list[tuple[str, int]] = []
        self._entries = self._bytes = 0
        self._logged: list[str] = []
        self._borrowed = False
        self._next_slot = 0.0
        self._pieces: Iterator[str] | None = None
        self._listed: tuple[int, Iterator[bytes]] | None = None
        self._known: dict[str, DirectoryRecord] = {}
        self._stamped: Iterator[bytes] | None = None
        self._unchanged = 0

    # -- walking --

    def start(self) -> None:
        """Begin."""
        gc.disable()  # the records hold no cycles, and scanning them all again and again doubles the time

    def wait(self, seconds: float) -> bool:
        """Walk for ``seconds``, or until nothing is left to do here: then True."""
        end = time.monotonic() + seconds
        try:
            while seconds > 0 and not self._stopping and (self._listing or self._waiting):
                self._listing = self._listing or self._list(self._waiting.pop())
                if not any(time.monotonic() >= end for _ in self._listing):
                    self._listing = None
                if time.monotonic() >= end:
                    break
        except BaseException:
            self._stopping = True  # what it was listing is lost
            raise
        if self._stopping:
            self._waiting.clear()
            self._listing = None
        return not (self._listing or self._waiting)

    def stop(self) -> None:
        """Drop what is left."""
        self._stopping = True

    def end(self) -> None:
        """Be done; a walk that is not is dropped."""
        self._stopping = self._stopping or not self.wait(0)
        self._current = None
        gc.enable()

    def _open(self, path: str) -> int:
        flags = _DIRECTORY | (os.O_NOFOLLOW if path and self._options.links != "follow" else 0)
        rest = os.fsencode(path[:-1]) or b"."
        base = os.open(self._prefix, _PATH)
        try:
            while len(rest) > HOP:
                head, _, tail = rest[:HOP].rpartition(b"/")
                base, old = os.open(head, _PATH, dir_fd=base), base
                os.close(old)
                rest = tail + rest[HOP:]
            return os.open(rest, flags, dir_fd=base)
        finally:
            os.close(base)

    def _keep_rate(self) -> None:
        if self._options.rate:
            slot = max(self._next_slot, time.monotonic() - 0.01)
            self._next_slot = slot + 1 / self._options.rate
            time.sleep(max(0.0, slot - time.monotonic()))

    def _list(self, place: WalkedDirectory) -> Iterator[None]:
        """List a directory, in pieces where a rate is kept."""
        path, started, record = place.path, time.monotonic(), DirectoryRecord()
        self._current = path, started
        self._keep_rate()
        try:
            descriptor = self._open(path)
        except OSError as error:
            self._refuse(path, error.errno or errno.EIO)
            return
        try:
            ancestors = self._enter(place, descriptor)
            if ancestors is None:
                self._records[path] = record
                return
            if self._options.stamps:
                record.stamp = self._read_stamp(descriptor)
                if self._take_known(place, record.stamp):
                    return
            # By descriptor, so that each status looks up one name and not the whole path.
            with os.scandir(descriptor) as entries:
                yield from self._take(record, path, entries)
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._refuse(path, error.errno)
                return
            # Listed in part: what was found stays.
            record.stamp = None
            if error.errno == errno.ENOENT:
                record.vanished = True
            else:
                self._faults.append((path.rstrip("/"), error.errno or errno.EIO))
        finally:
            os.close(descriptor)
        self._finish(place, record, ancestors or ())
        took = time.monotonic() - started
        if self._slowest is None or took > self._slowest[1]:
            self._slowest = path, took

    def _enter(self, place: WalkedDirectory, descriptor: int) -> tuple[tuple[int, int], ...] | None:
        """Return what is above the directory's children; None for one that is not to be listed, ELOOP for a loop."""
        options, ancestors = self._options, place.ancestors
        if options.links == "follow" or options.one_file_system:
            status = os.stat(descriptor)
            if options.links == "follow":
                identity = status.st_dev, status.st_ino
                if identity in ancestors:
                    raise OSError(errno.ELOOP, "")
                ancestors = (*ancestors, identity)
            if options.one_file_system and status.st_dev != self._device:
                return None
        if place.depth <= options.log_depth:
            self._logged.append(place.path)
        return ancestors

    def know(
        self,
        types: "array[int]",
        sizes: "array[int]",
        ends: "array[int]",
        names: bytes | bytearray,
        offsets: "array[int]",
        mtimes: "array[int] | None",
        stamps: bytes,
    ) -> None:
        """Take an earlier crawl's tree before the start."""
        if (mtimes is not None) != self._options.mtime:
            raise ValueError("the earlier tree does not fit this walk")
        tree = FlatTree(types, sizes, ends, names, offsets, mtimes)
        self._known = _known_directories(tree, _STAMP.iter_unpack(stamps))

    def _read_stamp(self, descriptor: int) -> Stamp | None:
        status = os.stat(descriptor)
        stamp = status.st_ino, mtime_of(status), ctime_of(status)
        sure = status.st_dev == self._device and not any(map(is_saturated, stamp[1:]))
        return stamp if sure else None

    def _take_known(self, place: WalkedDirectory, stamp: Stamp | None) -> bool:
        """Keep the names of the earlier crawl for a directory that is the same still; False for any other."""
        known = self._known.get(place.path)
        if known is None or stamp is None or known.stamp != stamp:
            return False
        names = (*known.directories, *known.links, *[file[0] for file in known.files])
        if self._excluded and any(self._excluded(name, place.path + name) for name in names):
            return False
        known.unchanged = True
        self._finish(place, known, ())
        return True

    def _refuse(self, path: str, error: int) -> None:
        if path and (error in _GONE or (error == errno.ELOOP and self._options.links != "follow")):
            self._gone.add(path)
        else:
            self._refused.add(path)
            self._faults.append((path.rstrip("/"), error))

    def _take(self, record: DirectoryRecord, path: str, entries: "Iterator[os.DirEntry[str]]") -> Iterator[None]:
        """Sort the entries of a directory into kinds."""
        links, excluded, rated = self._options.links, self._excluded, bool(self._options.rate)
        detailed = self._inodes or self._options.mtime
        add, is_regular = record.files.append, stat.S_ISREG
        for entry in entries:
            name = entry.name
            if excluded and excluded(name, path + name):
                continue
            follow = False
            try:
                if not entry.is_file(follow_symlinks=False):
                    if entry.is_symlink():
                        if links == "record":
                            record.links.append(name)
                        if links != "follow":
                            continue
                        follow = True
                    elif entry.is_dir(follow_symlinks=False):
                        record.directories.append(name)
                        continue
                if rated:
                    self._keep_rate()
                    yield
                status = entry.stat(follow_symlinks=follow)
            except OSError as error:
                self._miss(record, path, entry, error.errno or errno.EIO, follow)
                continue
            if not is_regular(status.st_mode):
                kind = record.directories if stat.S_ISDIR(status.st_mode) else record.others
                (record.links if stat.S_ISLNK(status.st_mode) else kind).append(name)
            elif detailed:
                identity = (status.st_dev, status.st_ino) if self._inodes and status.st_nlink > 1 else None
                add((name, status.st_size, mtime_of(status), status.st_blocks, identity))
            else:
                add((name, status.st_size, 0, 0, None))

    def _miss(self, record: DirectoryRecord, path: str, entry: "os.DirEntry[str]", error: int, follow: bool) -> None:
        if error not in _GONE:
            record.others.append(entry.name)
            self._faults.append((path + entry.name, error))
        elif follow:
            # A dangling link is an entry; it may itself have vanished.
            try:
                entry.stat(follow_symlinks=False)
            except OSError:
                return
            record.others.append(entry.name)
            self._faults.append((path + entry.name, errno.ENOENT))

    def _finish(self, place: WalkedDirectory, record: DirectoryRecord, ancestors: tuple[tuple[int, int], ...]) -> None:
        """Sort what was found and drop what is named twice; its directories wait."""
        named = record.directories, record.others, record.links
        for kind in named:
            kind.sort()
        record.files.sort(key=_NAME)  # texts alone are compared faster than tuples
        count = sum(map(len, named)) + len(record.files)
        names = {file[0] for file in record.files}.union(record.directories, record.others, record.links)
        if len(names) != count:
            _drop_doubles(record)
        self._faults += [(place.path + name, SNAPSHOT) for name in record.directories if name in _SNAPSHOTS]
        record.own = sum([file[1] for file in record.files])
        record.file_count = len(record.files)
        if self._options.hard_links != "once":
            record.text, record.files = self._text(record.files), []
        path = place.path
        self._records[path] = record
        self._entries += count
        self._bytes += record.own
        self._waiting.extend(
            [WalkedDirectory(f"{path}{name}/", place.depth + 1, ancestors) for name in record.directories]
        )

    def adopt(self, records: Iterable[tuple[str, DirectoryRecord]]) -> None:
        """Take directories by path that were not walked, in place of a walk."""
        for path, record in records:
            self._finish(WalkedDirectory(path, 0), record, ())
        self._waiting.clear()

    def _text(self, files: list[File]) -> str:
        if self._options.form == NCDU:
            return "".join([_ncdu_file(file) for file in files])
        if self._options.mtime:
            return "".join([f",[{quote(name)},1,{size},{mtime}]" for name, size, mtime, _, _ in files])
        return "".join([f",[{quote(name)},1,{size}]" for name, size, _, _, _ in files])

    # -- what others ask --

    def state(self) -> tuple[int, int, int, int]:
        """Return (entries, bytes, directories waiting, threads without work): it is one thread of those asked for."""
        working = 1 if self._listing or self._waiting else 0
        return self._entries, self._bytes, len(self._waiting), self._options.workers - working

    def slowest(self) -> tuple[bytes, float] | None:
        """Return the directory that takes longest now, after the end the one that did, and its seconds."""
        found = self._slowest
        if self._current is not None:
            found = self._current[0], time.monotonic() - self._current[1]
        return (os.fsencode(found[0].rstrip("/")), found[1]) if found else None

    def logged(self) -> list[bytes]:
        """Return the directories down to ``log_depth`` opened since the last call."""
        found, self._logged = self._logged, []
        return [os.fsencode(path.rstrip("/")) for path in found]

    def faults(self) -> list[tuple[bytes, int]]:
        """Return what could not be read with its errno."""
        return [(os.fsencode(path), error) for path, error in self._faults]

    def take(self, most: int) -> list[tuple[int, bytes, int, bytes]]:
        """Lend directories that wait, the oldest first."""
        places = [self._waiting.popleft() for _ in range(min(most, len(self._waiting) // 2))]
        return [(0, os.fsencode(place.path), place.depth, pickle.dumps(place.ancestors)) for place in places]

    def give(self, rank: int, number: int, path: bytes, depth: int, ancestors: bytes) -> None:
        """Borrow a directory."""
        self._borrowed = True
        above = pickle.loads(ancestors)  # noqa: S301 - from a rank of this job
        self._waiting.append(WalkedDirectory(os.fsdecode(path), depth, above))

    def shard(self, index: int) -> bytes | None:
        """Return everything found here as the first shard; ``ValueError`` when the walk did not go to its end."""
        self._refuse_part()
        if index or not self._borrowed:
            return None
        return pickle.dumps((self._records, self._refused, self._gone))

    def add_shard(self, rank: int, data: bytes) -> None:
        """Take in what a rank found."""
        records, refused, gone = pickle.loads(data)  # noqa: S301 - from a rank of this job
        self._records.update(records)
        self._refused |= refused
        self._gone |= gone

    # -- the result --

    def _refuse_part(self) -> None:
        if self._stopping:
            raise ValueError("the walk was stopped: it has no result")

    def _visit(self, depth: int = -1) -> Iterator[tuple[bool, str, int]]:
        """Yield (True, path, level) as a directory is entered and (False, …) as it is left, in canonical order."""
        records = self._records
        stack: list[tuple[str, Iterator[str]]] = []
        path: str | None = ""
        while path is not None or stack:
            if path is not None:
                yield True, path, len(stack)
                below = depth < 0 or len(stack) < depth
                stack.append((path, iter(records[path].directories if below else ())))
            above, names = stack[-1]
            path = next((f"{above}{name}/" for name in names if f"{above}{name}/" in records), None)
            if path is None:
                stack.pop()
                yield False, above, len(stack)

    def settle(self) -> tuple[int, int, int, int, int, int]:
        """Sum up from the leaves; ``ValueError`` when the walk did not go to its end."""
        self._refuse_part()
        known: set[tuple[int, int]] = set()
        files = links = others = directories = 0
        above: list[DirectoryRecord] = []
        for entered, path, _ in self._visit():
            record = self._records[path]
            if entered:
                record.total, record.entries = 0, 1
                above.append(record)
                continue
            above.pop()
            self._close(path, record, known)
            self._unchanged += record.unchanged
            files, links, others = files + record.file_count, links + len(record.links), others + len(record.others)
            if above and record.vanished and record.entries == 1:
                self._gone.add(path)
                continue
            directories += 1
            if above:
                above[-1].total += record.total
                above[-1].entries += record.entries
        if record.total >= 1 << 63:
            raise OverflowError("the sizes add up to more than 64 bits hold")
        return record.entries, files, directories, links, others, record.total

    def _close(self, path: str, record: DirectoryRecord, known: set[tuple[int, int]]) -> None:
        """Sum up a directory whose children are summed up: what was refused is something else, what is gone is not."""
        if self._refused or self._gone:
            below = {name: f"{path}{name}/" for name in record.directories}
            record.others = sorted([*record.others, *[name for name in below if below[name] in self._refused]])
            record.directories = [n for n in below if below[n] not in self._refused and below[n] not in self._gone]
        if record.files:
            files = []
            for name, size, mtime, blocks, identity in record.files:
                if identity in known:
                    record.own -= size
                    size = 0
                elif identity is not None:
                    known.add(identity)
                files.append((name, size, mtime, blocks, identity))
            record.text, record.files = self._text(files), []
        record.total += record.own
        record.entries += len(record.others) + len(record.links) + record.file_count

    def render(self, form: int, depth: int, room: int) -> bytes:
        """Return the next piece of text; empty at the end."""
        if self._pieces is None:
            self._pieces = self._write(form, depth)
        parts, length = [], 0
        while length < room and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            length += len(piece)
        return "".join(parts).encode("utf-8", "surrogateescape")

    def unchanged(self) -> int:
        """Return how many directories are as the earlier crawl had them."""
        return self._unchanged

    def stamps(self, limit: int, room: int) -> bytes:
        """Return inode, mtime and ctime of the next directories; empty at the end."""
        if self._stamped is None:
            self._stamped = self._write_stamps(limit)
        return b"".join([stamp for _, stamp in zip(range(room // _STAMP.size), self._stamped)])

    def _write_stamps(self, limit: int) -> Iterator[bytes]:
        for entered, path, _ in self._visit():
            record = self._records[path]
            if entered:
                sure = record.stamp is not None and not record.others and max(record.stamp[1:]) < limit
                yield _STAMP.pack(*(record.stamp if sure and record.stamp else (0, 0, 0)))

    def entries(self, which: int, room: int) -> bytes:
        """Return the next entries by name, a letter, the path and a NUL each; empty at the end."""
        if self._listed is None or self._listed[0] != which:
            self._listed = which, self._name_entries(which == REST)
        parts, length = [], 0
        while length < room and (piece := next(self._listed[1], None)) is not None:
            parts.append(piece)
            length += len(piece)
        return b"".join(parts)

    def _name_entries(self, rest: bool) -> Iterator[bytes]:
        for entered, path, _ in self._visit():
            record = self._records[path]
            if entered:
                empty = not (record.directories or record.others or record.links or record.file_count)
                if empty != rest:
                    yield ("e" if empty else "d").encode() + os.fsencode(path[:-1]) + b"\0"
                found = [] if rest else [("o", name) for name in record.others]
            elif rest:
                found = [("f", file[0]) for file in json.loads(f"[{record.text[1:]}]")]
            else:
                found = [("l", name) for name in record.links]
            yield b"".join([kind.encode() + os.fsencode(path + name) + b"\0" for kind, name in found])

    def _write(self, form: int, depth: int) -> Iterator[str]:
        other: Callable[[str], str] = _ncdu_other
        link = _ncdu_other
        if form == TREE:
            other, link = (lambda name: f",[{quote(name)},-1,0]"), (lambda name: f",[{quote(name)},2,0]")
        for entered, path, level in self._visit(depth):
            record, whole = self._records[path], depth < 0 or level < depth
            if entered:
                name = path[:-1].rpartition("/")[2] if path else self._name
                head = f"[{quote(name)},0,{record.total}" if form == TREE else f'[{{"name":{_quote_raw(name)}}}'
                yield ("," if path else "") + head + ("".join(map(other, record.others)) if whole else "")
            else:
                yield f"{record.text}{''.join(map(link, record.links))}]" if whole else "]"
        yield "\n"


def _known_directories(tree: FlatTree, stamps: Iterator[Any]) -> dict[str, DirectoryRecord]:
    """Return the directories of a tree by path with a final ``/``: those that can be compared with today's."""
    found: dict[str, DirectoryRecord] = {}
    above: list[tuple[str, int, DirectoryRecord]] = []
    for node, kind in enumerate(tree.types):
        while above and above[-1][1] <= node:
            above.pop()
        name = tree.name(node)
        if above:
            record = above[-1][2]
            if kind == FILE:
                record.files.append((name, tree.sizes[node], tree.mtimes[node] if tree.mtimes else 0, 0, None))
            else:
                {DIRECTORY: record.directories, LINK: record.links, OTHER: record.others}[kind].append(name)
        if kind == DIRECTORY:
            path = f"{above[-1][0]}{name}/" if above else ""
            stamp = next(stamps)
            record = DirectoryRecord(stamp=stamp if any(stamp) else None)
            above.append((path, tree.ends[node], record))
            found[path] = record
    # What could not be opened or looked at may be readable now, and nothing of its directory would tell.
    return {path: record for path, record in found.items() if record.stamp is not None and not record.others}


def _drop_doubles(record: DirectoryRecord) -> None:
    """A directory that changes while it is read may list a name twice: keep the first in canonical order."""
    seen: set[str] = set()

    def fresh(name: str) -> bool:
        return not (name in seen or seen.add(name))  # type: ignore[func-returns-value]

    record.others = [name for name in record.others if fresh(name)]
    record.directories = [name for name in record.directories if fresh(name)]
    record.files = [file for file in record.files if fresh(file[0])]
    record.links = [name for name in record.links if fresh(name)]


def _quote_raw(name: str) -> str:
    # ncdu wants the bytes of a name as they are, and escapes only where JSON must.
    return "".join([c if ord(c) >= 0x80 else quote(c)[1:-1] for c in name]).join('""')


def _ncdu_other(name: str) -> str:
    return f',{{"name":{_quote_raw(name)},"notreg":true}}'


def _ncdu_file(file: File) -> str:
    name, size, _, blocks, identity = file
    inode = f',"ino":{identity[1]},"hlnkc":true' if identity else ""
    return f',{{"name":{_quote_raw(name)},"asize":{size},"dsize":{blocks * 512}{inode}}}'
