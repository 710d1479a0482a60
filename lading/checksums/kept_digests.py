"""Digests that a sign-off kept, for the stages after it: sorted lines, looked up by bisection.

Input: ``signoff/digests.jsonl``. Output: the digests of a file that is still in the state in which it was read.
Invariant: what is returned was read from that very state: size, mtime, ctime and inode agree, and the file was not
changed so shortly before that its times could not show a later change. Memory does not grow with the file.
"""

import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.checksums.digest import DigestCount, FileDigests, FileState, digest_files
from lading.core.atomic import decode_record, encode_record
from lading.core.bounded import JsonMembers
from lading.core.errors import LadingError
from lading.core.opening import Root

DIRECTORY, NAME = "signoff", "digests.jsonl"
FORMAT = 1
KIND = "digests"
BLOCK = 1 << 16
MOST_FIRSTS = 100_000  # keys that blocks begin with
MOST_BLOCKS = 64  # held: what a group of files in one part of the tree is in
_HEAD = b'{"path":'
# File systems whose times have whole seconds (FAT: two), and the tick of the kernel's clock on all others.
_COARSE_NS, _TICK_NS = 2 * 10**9, 50 * 10**6

REUSED = DigestCount()


@dataclass(frozen=True, slots=True)
class KeptDigest:
    """The digests of one file and the state in which it was read; ``read_ns``: when that read began."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    etag: str
    md5: str
    sha256: str
    crc64: str
    read_ns: int

    @classmethod
    def of(cls, path: str, digests: FileDigests, read_ns: int) -> "KeptDigest":
        """Return what is kept of a file that was steady while it was read."""
        state = digests.after
        assert digests.sha256 is not None  # a sign-off computes all of them
        return cls(
            path, state.size, state.mtime_ns, state.ctime_ns, state.inode,
            digests.etag, digests.md5, digests.sha256, digests.crc64, read_ns,
        )  # fmt: skip

    def is_of(self, state: FileState) -> bool:
        """Tell whether a file in this state has the bytes that were read."""
        same = (self.size, self.mtime_ns, self.ctime_ns, self.inode)
        if same != (state.size, state.mtime_ns, state.ctime_ns, state.inode):
            return False
        whole = self.mtime_ns % 10**9 == 0 and self.ctime_ns % 10**9 == 0
        return max(self.mtime_ns, self.ctime_ns) + (_COARSE_NS if whole else _TICK_NS) < self.read_ns

    def digests(self, state: FileState) -> FileDigests:
        """Return the digests as of a read that found the file in this state before and after."""
        return FileDigests(self.etag, self.md5, self.sha256, self.crc64, state, state)

    def as_json(self) -> dict[str, str | int]:
        """Return it as it stands in a file; lines in order of bytes are in the order of ``key_of``."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(KeptDigest.__dataclass_fields__)


def decode_kept(line: bytes) -> KeptDigest | None:
    """Return the digests of a line without its newline, None where it is damaged."""
    record = decode_record(line)
    if record is None:
        return None
    try:
        take = JsonMembers(record)
        times = (take.number(name, least=-(1 << 63)) for name in ("mtime_ns", "ctime_ns"))
        mtime_ns, ctime_ns = times
        return KeptDigest(
            take.text("path"), take.number("size"), mtime_ns, ctime_ns, take.number("inode", most=(1 << 64) - 1),
            take.text("etag"), take.text("md5"), take.text("sha256"), take.text("crc64"), take.number("read_ns"),
        )  # fmt: skip
    except ValueError:
        return None


def key_of(path: str) -> bytes:
    """Return how the line of a path begins, its closing quote included: no such beginning is that of another."""
    return _HEAD + json.dumps(path).encode("ascii")


def key_of_line(line: bytes) -> bytes:
    """Return how a line begins, as ``key_of`` gives it."""
    at = len(_HEAD) + 1
    while True:
        at = line.index(b'"', at)
        slashes = at
        while line[slashes - 1 : slashes] == b"\\":
            slashes -= 1
        at += 1
        if (at - 1 - slashes) % 2 == 0:
            return line[:at]


def encode_header(root: str, moment: str, written_by: object) -> bytes:
    """Return the first line of the file."""
    return encode_record({"kind": KIND, "format": FORMAT, "root": root, "created_at": moment, "written_by": written_by})


def sorts_as_row(line: bytes) -> bool:
    """Tell whether a line is of a file, and not the header."""
    return line.startswith(_HEAD)


class KeptDigests:
    """An artefact of digests that is open; safe to use from many threads. ``inner``: what of its paths is left out."""

    def __init__(self, path: Path, release: str | None = None) -> None:
        """Open it for the files of ``release``, a directory; by default of the one that was signed off.

        Raises ``LadingError`` where it cannot be read, is of a newer format, or of another directory.
        """
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LadingError(f"{path} cannot be read: {error.strerror}") from error
        self._size = os.fstat(self._descriptor).st_size
        self._lock = threading.Lock()
        self._firsts: dict[int, bytes | None] = {}
        self._blocks: OrderedDict[int, dict[bytes, bytes]] = OrderedDict()
        try:
            self.root, self._start = self._read_header()
            self._before, self._after = _places(self.root, release or self.root)
        except ValueError as error:
            self.close()
            raise LadingError(f"{path} is not used: {error}") from error
        self._count = max(0, -(-(self._size - self._start) // BLOCK))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def find(self, path: str) -> KeptDigest | None:
        """Return what is kept of a path of the release, None where there is nothing."""
        if self._after:
            if not path.startswith(self._after):
                return None
            path = path[len(self._after) :]
        key = key_of(self._before + path)
        with self._lock:
            line = self._line(key)
        return None if line is None else decode_kept(line)

    def matching(self, path: str, status: os.stat_result) -> FileDigests | None:
        """Return the digests of a path of the release if they are of the state that ``status`` says, else None."""
        kept = self.find(path)
        state = FileState.of(status)
        if kept is None or not kept.is_of(state):
            return None
        found = kept.digests(state)
        REUSED.add([found])
        return found

    def _read_header(self) -> tuple[str, int]:
        line = os.pread(self._descriptor, BLOCK, 0).partition(b"\n")[0]
        record = decode_record(line)
        if record is None or record.get("kind") != KIND:
            raise ValueError("it does not begin as digests of a sign-off do")
        if record.get("format") != FORMAT:
            raise ValueError(f"it is of format {record.get('format')!r}, and this program knows {FORMAT}")
        return JsonMembers(record).text("root"), len(line) + 1

    def _line(self, key: bytes) -> bytes | None:
        low, high = 0, self._count  # the wanted line begins in a block from ``low`` on and before ``high``
        while high - low > 1:
            middle = (low + high) // 2
            first = self._first(middle)
            if first is None or first > key:
                high = middle
            else:
                low = middle
        while low > 0 and self._first(low) is None:
            low -= 1
        return self._block(low).get(key) if self._count else None

    def _first(self, number: int) -> bytes | None:
        """Return the key of the first line that begins in a block, None where none does."""
        if number not in self._firsts:
            if len(self._firsts) >= MOST_FIRSTS:
                self._firsts.clear()
            lines = self._block(number)
            self._firsts[number] = next(iter(lines), None)
        return self._firsts[number]

    def _block(self, number: int) -> dict[bytes, bytes]:
        """Return the lines that begin in a block, by their keys."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        start = self._start + number * BLOCK
        lead = 1 if number else 0  # where the byte before is a newline, a line begins with the block
        data = os.pread(self._descriptor, BLOCK + lead, start - lead)
        end = start - lead + len(data)
        if lead:
            _, newline, data = data.partition(b"\n")
            if not newline:
                data = b""
        while data and not data.endswith(b"\n") and end < self._size:
            more = os.pread(self._descriptor, BLOCK, end)
            if not more:
                break
            end += len(more)
            head, newline, _ = more.partition(b"\n")
            data += head + newline
            if newline:
                break
        lines = {key_of_line(line): line for line in data.split(b"\n") if sorts_as_row(line)}
        self._blocks[number] = lines
        if len(self._blocks) > MOST_BLOCKS:
            self._blocks.popitem(last=False)
        return lines


def _places(root: str, release: str) -> tuple[str, str]:
    """Return what comes before a release's paths in the artefact, and what paths of the release must begin with."""
    ours, theirs = (os.path.realpath(path).rstrip("/") + "/" for path in (root, release))
    if theirs.startswith(ours):
        return theirs[len(ours) :], ""
    if ours.startswith(theirs):
        return "", ours[len(theirs) :]
    raise ValueError(f"it is of {root}, and not of {release}")


def find_kept(directory: Path, release: str) -> KeptDigests | None:
    """Return the digests beside a plan, None without any; says so where they cannot be used."""
    path = directory / DIRECTORY / NAME
    try:
        return KeptDigests(path, release) if path.exists() else None
    except LadingError as error:
        print(f"note: {error}; files are read again", file=sys.stderr)
        return None


class DigestSource:
    """Digests of files below a root: kept ones where the file's state stands, else by reading it.

    ``wants_sha256``: whether SHA-256 is computed of what is read.
    """

    def __init__(self, root: Root | None, kept: KeptDigests | None = None, *, wants_sha256: bool = True) -> None:
        self.root, self._kept, self._wants_sha256 = root, kept, wants_sha256

    def close(self) -> None:
        """Close what is kept; the root is the caller's."""
        if self._kept is not None:
            self._kept.close()

    def digest(self, files: Sequence[tuple[str, int]], stop: bytearray | None = None) -> list[FileDigests | OSError]:
        """Return the digests of each (path, size), or why it cannot be read, as ``digest_files`` does."""
        if self._kept is None or self.root is None:
            return digest_files(files, stop, self.root, wants_sha256=self._wants_sha256)
        found: dict[int, FileDigests | OSError] = {}
        for place, ((path, _), status) in enumerate(zip(files, self.root.statuses(path for path, _ in files))):
            if isinstance(status, OSError):
                continue  # reading it says what ails it
            if kept := self._kept.matching(self.root.name(path), status):
                found[place] = kept
        rest = [place for place in range(len(files)) if place not in found]
        left = [files[place] for place in rest]
        read: Sequence[Any] = digest_files(left, stop, self.root, wants_sha256=self._wants_sha256) if left else ()
        found.update(zip(rest, read))
        return [found[place] for place in range(len(files))]
