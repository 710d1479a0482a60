"""Read ``find.json`` as a stream into a ``FlatTree``, at any depth, naming every fault.

Input: the bytes of a tree file (docs/reference/formats.md), compact or indented, packed
if its name ends in ``.zst``. Output: a ``FlatTree`` and the SHA-256 of the
text, which is the same for both forms.
Invariant: what is returned is canonical: names unique and in order, each
directory's size the sum of its children, no name that leaves its directory.
Memory is the arrays plus one block of the file.
"""

import hashlib
import importlib
import json
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lading.core.errors import LadingError, UsageError, usage_errors
from lading.core.progress import counted
from lading.core.times import parse_time
from lading.tree.size_tree import DIRECTORY, FILE, LINK, OTHER, FlatTree

BLOCK = 1 << 20
# One node's opening is a name (255 bytes, six characters each at worst; a root's may be longer) and three numbers.
LONGEST_NODE = 1 << 16
MOST_FAULTS = 20
_KINDS = (OTHER, DIRECTORY, FILE, LINK)
# The optional group is not possessive: Python 3.11.2 (Debian 12) then loses the comma that it tried in vain.
_NODE = re.compile(
    rb'\s*+(,?)\s*+(\[)\s*+("(?:[^"\\\x00-\x1f]|\\.)*+")\s*+,\s*+(-?[0-9]+)\s*+,\s*+(-?[0-9]+)\s*+'
    rb"(?:,\s*+(-?[0-9]+)\s*+)?((?:\]\s*+)*+)"
)
# What a node looks like when the text ends inside it.
_PARTIAL = re.compile(rb',?\s*+(?:\[\s*+(?:"(?:[^"\\]|\\.)*+(?:\\|"\s*+(?:,\s*+-?[0-9]*+\s*+){0,3})?)?)?', re.DOTALL)


@dataclass(frozen=True)
class ReadTree:
    """A tree as read: the arrays and the SHA-256 (hex) of the text."""

    tree: FlatTree
    sha256: str


TreeReader = Callable[[Path], ReadTree]


def read_tree(path: Path) -> ReadTree:
    """Return the tree of a file.

    Raises ``UsageError`` when the file is missing, or with a line for each
    fault: line, column and byte offset of what is cut short, no tree, out of
    order, double, or a sum that its children contradict.
    """
    try:
        with _open(path) as stream:
            found = _read_compiled(stream)
        if found is not None:
            return found
        # The compiled reader takes only what find.py writes; this one takes any layout and names faults.
        with _open(path) as stream:
            return _Reader(path).read(stream)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run: make find.json") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a directory, not a tree; give the file that find.py wrote") from error


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open the text of a tree file; offsets and digest are those of the text, packed or not."""
    with path.open("rb") as raw:
        if path.suffix != ".zst":
            yield raw
            return
        import zstandard  # here: a crawl rank never reads a tree

        try:
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False) as stream:
                yield stream
        except zstandard.ZstdError as error:
            raise UsageError(f"{path} is damaged, or not packed by zstd ({error}); run find.py again") from error


def _read_compiled(stream: IO[bytes]) -> ReadTree | None:
    """Return the tree by way of the compiled reader; None when it was not built or finds a fault."""
    try:
        reader = importlib.import_module("lading.tree._treefile").Reader()
    except ImportError:
        return None
    digest = hashlib.sha256()
    while block := stream.read(BLOCK):
        digest.update(block)
        if not reader.feed(block):
            return None
    # One column at a time, so that no more than one exists twice.
    columns = reader.finish()
    if columns is None:
        return None
    del reader
    remaining = list(columns)
    del columns
    types = _column("b", remaining.pop(0))
    sizes = _column("q", remaining.pop(0))
    ends = _column("q", remaining.pop(0))
    names = remaining.pop(0)
    offsets = _column("q", remaining.pop(0))
    times = remaining.pop(0)
    return ReadTree(
        FlatTree(types, sizes, ends, names, offsets, None if times is None else _column("q", times)), digest.hexdigest()
    )


def _column(code: str, data: bytearray) -> "array[int]":
    column = array(code)
    column.frombytes(data)
    return column


class _Stop(Exception):
    """The text is no tree from ``offset`` on."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset
        self.what = what


@dataclass(slots=True)
class _OpenDirectory:
    """A directory whose children follow: its byte offset, their sum so far, the last one's (type, name)."""

    node: int
    start: int
    total: int = 0
    last: tuple[int, str] = (-2, "")


class _Reader:
    """One pass over one file; the state is the path of open directories."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._faults: list[tuple[int, str]] = []
        self._fault_count = 0

    def read(self, stream: IO[bytes]) -> ReadTree:
        digest = hashlib.sha256()
        try:
            tree = self._parse(stream, digest.update)
        except _Stop as stop:
            self._fault(stop.offset, stop.what)
            tree = None
        if self._fault_count:
            raise usage_errors(self._describe())
        assert tree is not None
        return ReadTree(tree, digest.hexdigest())

    def _fault(self, offset: int, what: str) -> None:
        self._fault_count += 1
        if len(self._faults) < MOST_FAULTS:
            self._faults.append((offset, what))

    def _describe(self) -> Iterator[str]:
        """Yield a sentence for each fault, with line and column found by reading the file once more."""
        self._faults.sort()
        places = _places(self._path, [offset for offset, _ in self._faults])
        for (offset, what), (line, column) in zip(self._faults, places):
            where = f"{self._path}, line {line}, column {column} (byte {offset})"
            yield f"{where}: {what}; run: rm find.json; make find.json"
        if self._fault_count > len(self._faults):
            yield f"{self._path}: {counted(self._fault_count - len(self._faults), 'more error')}"

    def _parse(self, stream: IO[bytes], update: Callable[[bytes], None]) -> FlatTree:
        types, sizes, ends, mtimes = array("b"), array("q"), array("q"), array("q")
        names, offsets = bytearray(), array("q", [0])
        timed: bool | None = None
        path: list[_OpenDirectory] = []
        buffer, base, position, over = b"", 0, 0, False
        while True:
            found = _NODE.match(buffer, position)
            if found is None or found.end() == len(buffer):
                # The node may go on in the next block: read it before believing the match.
                if block := stream.read(BLOCK):
                    update(block)
                    base += position
                    buffer, position = buffer[position:] + block, 0
                    # Brackets that close directories, indented or not, may follow a node; nothing else that is long.
                    longest = LONGEST_NODE + (4 * len(path) ** 2 if found is not None else 0)
                    if len(buffer) - len(block) < longest:
                        continue
                    raise _Stop(base, _wrong_node(buffer))
                if found is None:
                    _check_end(buffer[position:], base + position, begun=bool(types), inside=bool(path))
                    break
            if over:
                raise _Stop(base + position, "something follows the end of the tree")
            comma, _, token, kind_text, size_text, time_text, closing = found.groups()
            offset, node = base + found.start(2), len(types)
            if bool(comma) != bool(node):
                raise _Stop(base + position, "a comma is missing" if node else "the tree begins with a comma")
            # More digits than Python takes make no size that 64 bits hold either.
            kind, size = (int(number[:24]) for number in (kind_text, size_text))
            closed = closing.count(b"]")
            name, raw = _decode_name(token, offset)
            if kind not in _KINDS or not 0 <= size < 1 << 63 or (kind != DIRECTORY and not closed):
                cut = base + len(buffer) if found.end() == len(buffer) else None
                raise _describe_wrong(offset, name, kind, size, cut)
            if kind == FILE or time_text is not None:
                timed = self._check_time(offset, name, kind, time_text is not None, timed)
            if path:
                self._check_child(offset, name, raw, kind, path[-1].last)
                path[-1].last = (kind, name)
                path[-1].total += size
            types.append(kind)
            sizes.append(size)
            ends.append(node + 1)
            names += raw
            offsets.append(len(names))
            mtimes.append(parse_time(time_text) if time_text else 0)
            if kind == DIRECTORY:
                path.append(_OpenDirectory(node, offset))
            elif not path:
                raise _Stop(offset, f"the tree is the single entry {name!r}, not a directory")
            else:
                closed -= 1
            if closed > len(path):
                raise _Stop(base + found.end() - 1, "a closing bracket has no opening one")
            for _ in range(closed):
                self._close(path.pop(), types, sizes, ends)
            over = not path
            position = found.end()
        return FlatTree(types, sizes, ends, names, offsets, mtimes if timed else None)

    def _close(self, done: _OpenDirectory, types: "array[int]", sizes: "array[int]", ends: "array[int]") -> None:
        ends[done.node] = len(types)
        if done.total != sizes[done.node]:
            self._fault(done.start, f"the directory says {sizes[done.node]} bytes, its children sum to {done.total}")

    def _check_time(self, offset: int, name: str, kind: int, has: bool, timed: bool | None) -> bool:
        """Return whether files have times: all or none of them do, and nothing else has."""
        if kind != FILE:
            raise _Stop(offset, f"{name!r} has a fourth number, which only files may have")
        if timed is not None and timed != has:
            self._fault(offset, f"{name!r} has {'no' if timed else 'a'} time, unlike the files before it")
        return has if timed is None else timed

    def _check_child(self, offset: int, name: str, raw: bytes, kind: int, before: tuple[int, str]) -> None:
        if name in ("", ".", "..") or b"/" in raw or b"\0" in raw:
            self._fault(offset, f"{name!r} is not the name of an entry")
        if (kind, name) <= before:
            if (kind, name) == before:
                self._fault(offset, f"{name!r} appears twice in its directory")
            else:
                self._fault(offset, f"{name!r} (type {kind}) comes after {before[1]!r} (type {before[0]})")


def _check_end(rest: bytes, offset: int, *, begun: bool, inside: bool) -> None:
    """Raise ``_Stop`` unless the tree is whole where no other node follows; ``rest`` is the text that is left."""
    if begun and not inside:
        if rest.strip():
            raise _Stop(offset, "something follows the end of the tree")
        return
    if _PARTIAL.fullmatch(rest.strip()):
        raise _Stop(offset + len(rest), "the file is truncated" if begun or rest else "the file is empty")
    raise _Stop(offset, _wrong_node(rest))


def _describe_wrong(offset: int, name: str, kind: int, size: int, cut: int | None) -> _Stop:
    """Return what is wrong with the numbers of a node; ``cut`` is the end of the text where it ends with the node."""
    if kind not in _KINDS:
        return _Stop(offset, f"{name!r} has the type {kind}, which is not a number of -1, 0, 1, 2")
    if not 0 <= size < 1 << 63:
        return _Stop(offset, f"{name!r} has the impossible size {size}")
    if cut is not None:
        return _Stop(cut, "the file is truncated")
    return _Stop(offset, f"{name!r} is not a directory but does not end after its size")


def _decode_name(token: bytes, offset: int) -> tuple[str, bytes]:
    """Return a JSON string as ``str`` and as file-system bytes."""
    try:
        if b"\\" in token:
            name = str(json.loads(token))
            return name, name.encode("utf-8", "surrogateescape")
        return token[1:-1].decode("utf-8"), token[1:-1]
    except ValueError as error:
        raise _Stop(offset, f"the name {token[:80]!r} is not a file name ({error})") from error


def _wrong_node(rest: bytes) -> str:
    shown = rest[:40].decode("utf-8", "backslashreplace")
    return f'expected a node like ["name",1,size], found {shown!r}'


def _places(path: Path, offsets: list[int]) -> list[tuple[int, int]]:
    """Return (line, column), both from 1, of ascending byte offsets of a file."""
    places: list[tuple[int, int]] = []
    line, line_start, base = 1, 0, 0
    waiting = iter([*offsets, None])
    wanted = next(waiting)
    try:
        with _open(path) as stream:
            while wanted is not None:
                block = stream.read(BLOCK)
                while wanted is not None and (wanted < base + len(block) or not block):
                    inside = block[: wanted - base]
                    before = inside.rfind(b"\n")
                    start = base + before + 1 if before >= 0 else line_start
                    places.append((line + inside.count(b"\n"), wanted - start + 1))
                    wanted = next(waiting)
                line += block.count(b"\n")
                newline = block.rfind(b"\n")
                line_start = base + newline + 1 if newline >= 0 else line_start
                base += len(block)
    except OSError as error:
        raise LadingError(f"cannot read {path}: {error.strerror}") from error
    return places
