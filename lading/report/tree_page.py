"""The size-tree browser: a page over find.json that works from ``file://`` and from the bucket.

Input: a ``FlatTree``. Output: ``tree.html`` and a directory of data pieces
that the page loads as it needs them (scripts, since a page on ``file://`` may
not fetch).
Invariant: a piece holds whole directory listings, about ``PIECE_BYTES`` of
them, in depth-first order, so that neighbours travel together and a parent is
never in a later piece than its child; the page replaces an older one only
when all its pieces are on disk.
"""

import json
import re
import shutil
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import jinja2

from lading.core.atomic import atomic_write
from lading.core.identity import STALE_SECONDS
from lading.tree.size_tree import DIRECTORY, FILE, LINK, FlatTree

# A piece parses in a few milliseconds; a directory larger than this is a piece of its own.
PIECE_BYTES = 256 * 1024
# An entry without its name: brackets, size, commas.
ENTRY_BYTES = 16
# A directory of pieces; whatever else lies beside them is another's.
OWN_NAME = re.compile(r"tree-[0-9a-f]{12}")

# How the page tells what is neither file nor directory: the size of such an entry.
SIZE_LINK = -2
SIZE_OTHER = -1


@dataclass(frozen=True)
class Site:
    """Where a public copy of the tree can be fetched.

    ``base`` is the URL before a key ("" for none: the page offers no links),
    ``prefix`` what keys begin with, and ``remap`` the (source, target) rules,
    longest source first, sources relative to the tree's root.
    """

    title: str
    base: str = ""
    prefix: str = ""
    remap: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pieces:
    """Which piece holds the listing of which directory.

    ``piece_of[i]`` belongs to the i-th directory in depth-first order; there
    are ``count`` pieces. ``number`` maps a node to its directory number, -1
    for other nodes, shape (n,).
    """

    piece_of: "array[int]"
    number: "array[int]"
    count: int


def assign_pieces(tree: FlatTree) -> Pieces:
    """Group the directories' listings into pieces, in one pass over the tree."""
    number = array("q", bytes(8 * len(tree)))
    piece_of = array("q")
    piece = filled = 0
    for node, kind in enumerate(tree.types):
        if kind != DIRECTORY:
            number[node] = -1
            continue
        number[node] = len(piece_of)
        size = sum(ENTRY_BYTES + tree.offsets[child + 1] - tree.offsets[child] for child in tree.children(node))
        if filled and filled + size > PIECE_BYTES:
            piece, filled = piece + 1, 0
        piece_of.append(piece)
        filled += size
    return Pieces(piece_of, number, piece + 1 if piece_of else 0)


def encode_pieces(tree: FlatTree, pieces: Pieces) -> Iterator[tuple[int, str]]:
    """Yield (piece, JavaScript) in order.

    A listing is an array of entries in canonical order: a directory is
    ``[name, size, files, number, piece]``, a file ``[name, size]`` or
    ``[name, size, mtime in seconds]``, a link ``[name, -2]``, anything else
    ``[name, -1]``.
    """
    files_before = array("q", [0])
    files_before.extend(accumulate(map(FILE.__eq__, tree.types)))
    listings: dict[int, list[list[object]]] = {}
    current = 0
    for node, kind in enumerate(tree.types):
        if kind != DIRECTORY:
            continue
        directory = pieces.number[node]
        if pieces.piece_of[directory] != current:
            yield current, _encode_piece(current, listings)
            listings, current = {}, pieces.piece_of[directory]
        listings[directory] = [_entry(tree, child, pieces, files_before) for child in tree.children(node)]
    if listings:
        yield current, _encode_piece(current, listings)


def _entry(tree: FlatTree, node: int, pieces: Pieces, files_before: "array[int]") -> list[object]:
    kind, name = tree.types[node], tree.name(node)
    if kind == DIRECTORY:
        files = files_before[tree.ends[node]] - files_before[node]
        directory = pieces.number[node]
        return [name, tree.sizes[node], files, directory, pieces.piece_of[directory]]
    if kind == FILE:
        if tree.mtimes is not None:
            return [name, tree.sizes[node], tree.mtimes[node] // 10**9]
        return [name, tree.sizes[node]]
    return [name, SIZE_LINK if kind == LINK else SIZE_OTHER]


def _encode_piece(piece: int, listings: dict[int, list[list[object]]]) -> str:
    return f"lading({piece},{json.dumps(listings, separators=(',', ':'))})\n"


def write_tree_page(tree: FlatTree, directory: Path, site: Site, digest: str) -> Path:
    """Write the page and its pieces below ``directory``; returns the page's path.

    ``digest`` identifies the tree (the SHA-256 of find.json): pieces of
    another tree are removed after the new page stands.
    """
    directory.mkdir(parents=True, exist_ok=True)
    folder = directory / f"tree-{digest[:12]}"
    partial = directory / f".tree-{digest[:12]}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pieces = assign_pieces(tree)
    for piece, text in encode_pieces(tree, pieces):
        (partial / f"p{piece}.js").write_text(text, encoding="ascii")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    files = sum(map(FILE.__eq__, tree.types))
    root = {"name": tree.name(0), "size": tree.sizes[0], "files": files, "entries": len(tree)}
    page = directory / "tree.html"
    text = (
        environment()
        .get_template("tree.html")
        .render(site=asdict(site), root=root, folder=folder.name, pieces=pieces.count, title=site.title)
    )
    with atomic_write(page, sweep=True) as stream:
        stream.write(escape_surrogates(text))
    for old in directory.glob(".tree-*"):  # of killed runs; a running one is minutes old
        if time.time() - old.stat().st_mtime > STALE_SECONDS and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
    for old in directory.iterdir():
        if OWN_NAME.fullmatch(old.name) and old != folder and old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
    return page


def escape_surrogates(text: str) -> str:
    """Return a page's text as UTF-8 can hold it: a lone surrogate, a byte that is no UTF-8, is shown as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def environment() -> jinja2.Environment:
    """Return the templates of the report, with every value escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
