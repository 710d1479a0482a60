"""What can be one side of a comparison: a manifest, a tree, digests of a sign-off, a directory, a bucket's listing.

Input: one of these. Output: its rows in the order of keys, as often as they are asked for, and what it is called.
Invariant: rows of every side have one form (``lading.verification.manifest_scan.ScannedRow``); what a side does not
know is null there. A manifest is found whole by the time that its rows end. Memory does not grow with a side, but for
the arrays of a size tree.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Protocol

from lading.checksums.kept_digests import KIND, decode_kept, sorts_as_row
from lading.core.atomic import decode_record
from lading.core.bounded import lines_of
from lading.core.external_sort import LineSort
from lading.core.times import mtime_of
from lading.objectstore.keys import encode_key
from lading.objectstore.listing import newest
from lading.objectstore.object_info import ObjectInfo
from lading.tree.json_reader import read_tree
from lading.verification.manifest_address import LocatedManifest
from lading.verification.manifest_scan import KEY, PATH, SIZE, ManifestScan, ScannedRow, inside_quotes, text_of

BLOCK_ROWS = 4096
# In the last field of a row that is not of a manifest: where it is from, and a file's time where that is known.
OF_TREE, OF_LISTING = b"tree ", b"listing"
Description = Mapping[str, str | int | None]
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
_LOW = re.compile(rb"[\x01-\x0a]")
_ESCAPED = re.compile(rb"\x01(.)", re.DOTALL)


class DiffSide(Protocol):
    """One side.

    prefix  what all keys begin with before the paths that are compared
    by_md5  no other digest of its content is known
    of_tree  its keys are paths alone: nothing of a bucket is known
    """

    prefix: bytes
    by_md5: bool
    of_tree: bool

    def rows(self) -> Iterator[list[ScannedRow]]:
        """Yield the rows in key order, some thousands at once."""

    def describe(self) -> Description:
        """Return what names the side; of a manifest once its rows were read to their end."""

    def by_path(self, scratch: Path, name: str) -> "DiffSide":
        """Return the same with keys that are paths, for a comparison with a tree."""


class ManifestSide:
    """A manifest. ``bucket`` is the one that it describes, ``endpoint`` its server; None is AWS."""

    by_md5 = of_tree = False

    def __init__(self, located: LocatedManifest) -> None:
        self._located = located
        self._described: dict[str, str | int | None] = {}
        with closing(self._scan()) as scan:
            self.bucket, self.endpoint = scan.header.bucket, scan.header.endpoint
            row = next((block[0] for block in scan.blocks() if block), None)
        self.prefix = _prefix(row)

    def _scan(self) -> ManifestScan:
        return ManifestScan(self._located.path, self._located.shown)

    def rows(self) -> Iterator[list[ScannedRow]]:
        """Yield the rows; ends only where the manifest is sound."""
        with closing(self._scan()) as scan:
            yield from scan.rows()
            header, end = scan.header, scan.end
        found: dict[str, str | int | None] = {
            "bucket": header.bucket, "prefix": header.prefix, "created_at": header.created_at,
        }  # fmt: skip
        if end:
            found |= {"manifest": end.sha256, "objects": end.objects, "bytes": end.bytes}
            found |= {"complete": end.complete, "withdrawn": end.withdrawn}
        self._described = found

    def describe(self) -> Description:
        """Return bucket, prefix, moment, digest and sums."""
        return self._described

    def by_path(self, scratch: Path, name: str) -> "SortedSide":
        """Return the rows by their paths: keys may be others, where directories were remapped."""
        side = SortedSide(scratch, name, self._described)
        for block in self.rows():
            for row in block:
                side.add_row(row)
        side.named = self._described
        return side


def is_path_key(row: ScannedRow, prefix: bytes) -> bool:
    """Tell whether a key is the row's path behind a prefix."""
    key, path = row[KEY], row[PATH]
    if len(key) == len(prefix) + len(path) and key.endswith(path):
        return True
    return key == prefix + encode_key(text_of(path)).encode("utf-8", "surrogateescape")


def _prefix(row: ScannedRow | None) -> bytes:
    """Return what the first key has before the row's path, empty where it does not end in that."""
    path = encode_key(text_of(row[PATH])).encode("utf-8", "surrogateescape") if row else b""
    head = row[KEY][: -len(path)] if row and row[KEY].endswith(path) else b""
    return head if head.endswith(b"/") else b""


class SortedSide:
    """Rows that were sorted on disk; ``named`` says what they are of."""

    def __init__(self, scratch: Path, name: str, named: Description, prefix: str = "", *, by_md5: bool = False) -> None:
        self.by_md5 = by_md5
        self.prefix = prefix.encode("utf-8", "surrogateescape")
        self._lines = LineSort(scratch, name)
        self.named = named
        self.of_tree = "bucket" not in named
        self._objects = self._bytes = 0

    def add(self, path: str, key: str, size: int, *values: bytes) -> None:
        """Take a row: md5, sha256 and etag as JSON has them, and where it is from."""
        self._objects += 1
        self._bytes += size
        fields = [_escape(key.encode("utf-8", "surrogateescape")), inside_quotes(path), b"%d" % size, *values]
        self._lines.add(b"\0".join(fields))

    def add_row(self, row: ScannedRow) -> None:
        """Take a manifest's row by its path."""
        self._objects += 1
        self._bytes += int(row[SIZE])
        key = encode_key(text_of(row[PATH])).encode("utf-8", "surrogateescape")
        self._lines.add(b"\0".join((_escape(key), row[PATH], *row[SIZE:])))

    def by_path(self, _scratch: Path, _name: str) -> "SortedSide":
        """Return it as it is."""
        return self

    def rows(self) -> Iterator[list[ScannedRow]]:
        """Yield the rows."""
        lines = _once(self._lines)
        while block := list(islice(lines, BLOCK_ROWS)):
            yield [_row(line) for line in block]

    def describe(self) -> Description:
        """Return what the rows are of, and their sums."""
        return {**self.named, "objects": self._objects, "bytes": self._bytes}


def _once(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield sorted lines, of several with one key the last: a server may list an object twice."""
    held = key = b""
    for line in lines:
        following = line.partition(b"\0")[0]
        if held and following != key:
            yield held
        held, key = line, following
    if held:
        yield held


def _escape(key: bytes) -> bytes:
    """Return a key without newlines whose order among all others is the same."""
    return _LOW.sub(lambda found: bytes((1, found[0][0] + 16)), key)


def _row(line: bytes) -> ScannedRow:
    key, path, size, md5, sha256, etag, more = line.split(b"\0")
    return path, _ESCAPED.sub(lambda found: bytes((found[1][0] - 16,)), key), size, md5, sha256, etag, more


def read_tree_side(path: Path, scratch: Path, name: str) -> SortedSide:
    """Return the files of a ``find.json``."""
    found = read_tree(path)
    tree = found.tree
    side = SortedSide(scratch, name, {"tree": str(path), "sha256": found.sha256})
    for inner, node in tree.files():
        time = b"" if tree.mtimes is None else b"%d" % tree.mtimes[node]
        side.add(inner, encode_key(inner), tree.sizes[node], b"null", b"null", b'""', OF_TREE + time)
    return side


def read_digests_side(path: Path, scratch: Path, name: str) -> SortedSide:
    """Return the files of the digests that a sign-off kept."""
    side = SortedSide(scratch, name, {"digests": str(path)})
    with path.open("rb") as stream:
        for line, _ in lines_of(stream):
            kept = decode_kept(line.rstrip(b"\n")) if sorts_as_row(line) else None
            if kept is not None:
                digests = (b'"%b"' % kept.md5.encode(), b'"%b"' % kept.sha256.encode(), b'"%b"' % kept.etag.encode())
                side.add(kept.path, encode_key(kept.path), kept.size, *digests, OF_TREE + b"%d" % kept.mtime_ns)
    return side


def list_directory_side(top: Path, scratch: Path, name: str) -> tuple[SortedSide, list[str]]:
    """Return the regular files below a directory, and what of it could not be read; links are not followed."""
    side = SortedSide(scratch, name, {"directory": str(top)})
    unread: list[str] = []

    def note(error: OSError) -> None:
        unread.append(os.path.relpath(os.fsdecode(error.filename or top), top))

    for folder, _, names in os.walk(top, onerror=note):
        inner = os.path.relpath(folder, top)
        for each in names:
            path = os.path.normpath(os.path.join(inner, each))
            try:
                status = os.lstat(os.path.join(folder, each))
            except OSError:
                unread.append(path)
                continue
            if stat.S_ISREG(status.st_mode):
                more = OF_TREE + b"%d" % mtime_of(status)
                side.add(path, encode_key(path), status.st_size, b"null", b"null", b'""', more)
    return side, unread


def listing_side(listed: Iterable[ObjectInfo], named: Description, prefix: str, scratch: Path, name: str) -> SortedSide:
    """Return the objects of a bucket's listing; an ETag that has the form of an MD5 counts as one."""
    side = SortedSide(scratch, name, named, prefix, by_md5=True)
    for item in newest(listed):
        etag = b'"%b"' % item.etag.encode("utf-8", "surrogateescape")
        md5 = etag if _PLAIN_MD5.fullmatch(item.etag) else b"null"
        side.add(item.key.removeprefix(prefix), item.key, item.size, md5, b"null", etag, OF_LISTING)
    return side


def find_kind(path: Path) -> str:
    """Return what a file is: ``manifest``, ``tree`` or ``digests``."""
    if path.name.removesuffix(".zst").endswith(".json"):
        return "tree"
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    line = head.partition(b"\n")[0]
    record = decode_record(line) if line.startswith(b"{") else None
    if record is not None and record.get("kind") == KIND:
        return "digests"
    if head.lstrip().startswith(b"["):
        return "tree"
    return "manifest"
