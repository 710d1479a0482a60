"""The size tree: ``find.json``, its flat form in memory, and ``find.meta.json``.

Input and output: a nested JSON array per node (docs/reference/formats.md), at any
depth: reader and writer are iterative, since JSON libraries stop at 254 to
1,024 levels and some refuse the lone surrogates of non-UTF-8 names.
Invariant: ``write`` after ``read`` gives the same bytes; nodes are in
canonical order: a directory before its children, children by (type, name),
names compared as Python ``str``.
"""

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, read_json
from lading.core.errors import UsageError
from lading.core.version import provenance
from lading.tree.not_regular import NotRegular, decode_not_regular, encode_not_regular

FORMAT = 1

DIRECTORY = 0
FILE = 1
LINK = 2
OTHER = -1


@dataclass(frozen=True)
class FlatTree:
    """A tree as parallel arrays in depth-first order; node 0 is the root.

    types   int8, DIRECTORY, FILE, LINK or OTHER, shape (n,)
    sizes   int64, bytes; a directory's is the recursive sum, shape (n,)
    ends    int64, one past the last node of the subtree (i + 1 for a leaf), shape (n,)
    names   the base names as file-system bytes, one after the other
    offsets int64, name i is names[offsets[i]:offsets[i + 1]], shape (n + 1,)
    mtimes  int64, nanoseconds since 1970 of files, 0 for other nodes, shape (n,), or None
    """

    types: "array[int]"
    sizes: "array[int]"
    ends: "array[int]"
    names: bytes | bytearray
    offsets: "array[int]"
    mtimes: "array[int] | None" = None

    def __len__(self) -> int:
        return len(self.types)

    def name(self, node: int) -> str:
        """Return a node's base name; bytes that are no UTF-8 become lone surrogates."""
        return bytes(self.names[self.offsets[node] : self.offsets[node + 1]]).decode("utf-8", "surrogateescape")

    def children(self, node: int) -> Iterator[int]:
        """Yield the indices of a directory's children in canonical order."""
        child, end = node + 1, self.ends[node]
        while child < end:
            yield child
            child = self.ends[child]

    def files(self, node: int = 0) -> Iterator[tuple[str, int]]:
        """Yield (path relative to ``node``, index) of every file below, in canonical order."""
        ends, types = self.ends, self.types
        prefixes, stops = [""], [ends[node]]
        position, stop = node + 1, ends[node]
        while position < stop:
            while position >= stops[-1]:
                prefixes.pop(), stops.pop()
            kind = types[position]
            if kind == DIRECTORY:
                prefixes.append(f"{prefixes[-1]}{self.name(position)}/")
                stops.append(ends[position])
            elif kind == FILE:
                yield prefixes[-1] + self.name(position), position
            position += 1


@dataclass(frozen=True)
class Unreadable:
    """A path that could not be read, relative to the root, with its errno."""

    path: str
    errno: int
    message: str


@dataclass(frozen=True)
class TreeMeta:
    """What ``find.meta.json`` says of a ``find.json``: whence, how, how much, what is missing.

    ``sha256`` is the digest of find.json's bytes: it ties the two together,
    and a plan to the tree it was cut from. ``artefacts`` are files of Lading
    itself that lay inside the root and are not in the tree. ``not_regular``
    counts what is no regular file, None in files of earlier editions;
    ``metadata_file`` is the name of the file with these entries, "" without.
    """

    root: str
    settings: Mapping[str, Any]
    sha256: str
    entries: int
    files: int
    directories: int
    links: int
    others: int
    bytes: int
    started: str
    ended: str
    unreadable: tuple[Unreadable, ...] = field(default=())
    artefacts: tuple[str, ...] = field(default=())
    not_regular: NotRegular | None = None
    metadata_file: str = ""

    @property
    def started_ns(self) -> int | None:
        """When the crawl began, in ns since 1970; None where that cannot be understood."""
        try:
            return int(datetime.fromisoformat(self.started).timestamp() * 10**9)
        except (ValueError, OverflowError):
            return None


_LISTS = ("unreadable", "artefacts", "not_regular")


def tree_stem(tree_path: Path | str) -> str:
    """Return what the names of a tree's files begin with: ``find.json.zst`` → ``find``."""
    return Path(tree_path).name.removesuffix(".zst").removesuffix(".json")


def meta_path(tree_path: Path | str) -> Path:
    """Return where the meta file of a tree lies: ``find.json`` → ``find.meta.json``."""
    return Path(tree_path).with_name(f"{tree_stem(tree_path)}.meta.json")


def write_meta(path: Path, meta: TreeMeta) -> None:
    """Write ``find.meta.json`` atomically."""
    record = {
        "format": FORMAT,
        "kind": "tree-meta",
        **{name: getattr(meta, name) for name in TreeMeta.__dataclass_fields__ if name not in _LISTS},
        "written_by": provenance(),
        "artefacts": list(meta.artefacts),
        **({} if meta.not_regular is None else {"not_regular": encode_not_regular(meta.not_regular)}),
        "unreadable": [{"path": bad.path, "errno": bad.errno, "message": bad.message} for bad in meta.unreadable],
    }
    with atomic_write(path, sweep=True) as stream:
        json.dump(record, stream, indent=1)
        stream.write("\n")


def read_meta(path: Path) -> TreeMeta:
    """Return a tree's meta data; ``UsageError`` when the file is missing, damaged or of another format."""
    try:
        record = read_json(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run: rm find.json; make find.json") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); run: rm find.json; make find.json") from error
    if not isinstance(record, dict) or record.get("kind") != "tree-meta" or record.get("format") != FORMAT:
        raise UsageError(f"{path} is not the metadata of a tree in format {FORMAT}; run: rm find.json; make find.json")
    try:
        take = JsonMembers(record)
        return TreeMeta(
            take.text("root"),
            take.object("settings"),
            take.text("sha256"),
            take.number("entries"),
            take.number("files"),
            take.number("directories"),
            take.number("links"),
            take.number("others"),
            take.number("bytes"),
            take.text("started"),
            take.text("ended"),
            take.items("unreadable", decode_path),
            take.texts("artefacts", ()),
            decode_not_regular(record["not_regular"]) if "not_regular" in record else None,
            take.text("metadata_file", ""),
        )
    except ValueError as error:
        raise UsageError(f"{path} is not the metadata of a tree: {error}; run: rm find.json; make find.json") from error


def decode_path(value: Any) -> Unreadable:
    """Return an unreadable path of its JSON form; ``ValueError`` when it is none."""
    take = JsonMembers(value, "an unreadable path")
    return Unreadable(take.text("path"), take.number("errno", least=-(1 << 31)), take.text("message"))


def encode_node(tree: FlatTree, node: int) -> str:
    """Return the opening of one node's JSON array: no children, no closing bracket."""
    head = f"[{json.dumps(tree.name(node))},{tree.types[node]},{tree.sizes[node]}"
    if tree.mtimes is not None and tree.types[node] == FILE:
        return f"{head},{tree.mtimes[node]}"
    return head
