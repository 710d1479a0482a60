"""Find one's way in a ``FlatTree``: from a path to nodes and from a node to its path.

Input: a tree and paths or nodes. Output: index ranges, paths.
Invariant: the children of a directory are listed once and kept, so a
thousand lookups in a directory of a million entries cost one pass and a
thousand bisections.
"""

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from lading.tree.size_tree import DIRECTORY, FILE, OTHER, FlatTree


@dataclass(frozen=True)
class Listing:
    """The children of one directory: nodes of its directories, and its files as the range [first, last)."""

    directories: "array[int]"
    first: int
    last: int


class TreeIndex:
    """Lookups in one tree, remembered per directory."""

    def __init__(self, tree: FlatTree) -> None:
        self.tree = tree
        self._listings: dict[int, Listing] = {}

    def listing(self, directory: int) -> Listing:
        """Return the children of a directory node."""
        known = self._listings.get(directory)
        if known is None:
            known = self._listings[directory] = self._list(directory)
        return known

    def _list(self, directory: int) -> Listing:
        types, ends = self.tree.types, self.tree.ends
        position, end = directory + 1, ends[directory]
        while position < end and types[position] == OTHER:
            position += 1
        directories = array("q")
        while position < end and types[position] == DIRECTORY:
            directories.append(position)
            position = ends[position]
        # From here on all are leaves, files before links.
        return Listing(directories, position, bisect_right(types, FILE, position, end))

    def directory(self, path: str, below: int = 0) -> int | None:
        """Return the node of the directory ``a/b`` or ``a/b/`` ("" and "./": ``below``), or None."""
        node = below
        for name in path.split("/"):
            if name in ("", "."):
                continue
            directories = self.listing(node).directories
            place = bisect_left(directories, name, key=self.tree.name)
            if place == len(directories) or self.tree.name(directories[place]) != name:
                return None
            node = directories[place]
        return node

    def path(self, node: int) -> str:
        """Return a node's path relative to the root: ``dir/file``, ``dir/`` for a directory, ``./`` for the root."""
        if node == 0:
            return "./"
        parts: list[str] = []
        at = 0
        while True:
            directories = self.listing(at).directories
            place = bisect_right(directories, node) - 1
            if place < 0 or self.tree.ends[directories[place]] <= node:
                parts.append(self.tree.name(node))
                return "/".join(parts)
            at = directories[place]
            parts.append(self.tree.name(at))
            if at == node:
                return "/".join(parts) + "/"
