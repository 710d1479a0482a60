"""Say in a few entries which files a batch holds.

Input: a run of files in canonical order, and what other batches hold firmly.
Output: whole subtrees, runs of subdirectories and runs of files that claim
exactly this run (by the rule of the nearest entry, docs/reference/formats.md).
Invariant: without history at most one run of directories and one of files
for each directory that the run enters without holding it whole: the list
grows with the depth of its two ends, never with the number of files.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lading.plan.batch_plan import Entry, NameRange
from lading.tree.tree_index import TreeIndex


def _nothing() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Boundaries:
    """What an entry of a new batch must not reach over; both ascending, int64.

    files  nodes of files that stay with another batch by an entry that lies around them
    edges  first and last nodes of entries that would win over an entry around them
    """

    files: NDArray[np.int64] = field(default_factory=_nothing)
    edges: NDArray[np.int64] = field(default_factory=_nothing)


class EntryBuilder:
    """Entries for runs of ``files``: ascending file nodes, int64, shape (n,), all below ``tops``.

    ``tops`` are the selected directories, in canonical order.
    """

    def __init__(
        self, tree_index: TreeIndex, files: NDArray[np.int64], tops: Sequence[int], obstacles: Boundaries | None = None
    ) -> None:
        self._tree_index = tree_index
        self._ends = tree_index.tree.ends
        self._files = files
        self._tops = tops
        self._obstacles = obstacles or Boundaries()

    def entries(self, low: int, high: int) -> tuple[Entry, ...]:
        """Return the entries of the files at places [low, high)."""
        first, last = int(self._files[low]), int(self._files[high - 1])
        touched = [top for top in self._tops if top <= last and self._ends[top] > first]
        return tuple(entry for top in touched for entry in self._below(top, first, last))

    def _below(self, top: int, first: int, last: int) -> Iterator[Entry]:
        """Yield the entries for the files in [first, last] under a selected directory that holds some of them."""
        path = self._tree_index.path(top)
        if self._whole(top, first, last):
            yield path
            return
        # A directory still to open, or an entry to yield as it comes.
        waiting: list[tuple[int, str] | Entry] = [(top, "" if top == 0 else path)]
        while waiting:
            item = waiting.pop()
            if not isinstance(item, tuple):
                yield item
                continue
            node, prefix = item
            found = [*self._directories(node, prefix, first, last), *self._runs_of_files(node, prefix, first, last)]
            waiting.extend(reversed(found))

    def _directories(self, node: int, prefix: str, first: int, last: int) -> Iterator[tuple[int, str] | Entry]:
        """Yield runs of whole subdirectories, and (node, path) of those to open."""
        nodes, name = self._tree_index.listing(node).directories, self._tree_index.tree.name
        place = 0
        while True:
            # The next subdirectory that holds a file of the run.
            file = self._first(max(first, nodes[place] if place < len(nodes) else last + 1))
            place = bisect_right(nodes, file) - 1
            if file > last or place < 0 or file >= self._ends[nodes[place]]:
                return
            child = nodes[place]
            if not self._whole(child, first, last):
                yield child, f"{prefix}{name(child)}/"
                place += 1
                continue
            stop = self._stop(nodes, place, first, last)
            final = bisect_right(nodes, self._last(self._ends[nodes[stop - 1]])) - 1
            if final == place:
                yield f"{prefix}{name(child)}/"
            else:
                yield NameRange(prefix or "./", f"{name(child)}/", f"{name(nodes[final])}/")
            place = stop

    def _stop(self, nodes: Sequence[int], place: int, first: int, last: int) -> int:
        """Return one past the last subdirectory that one entry from ``place`` may hold."""
        stop = bisect_right(nodes, last)
        obstacle = _at_or_after(self._obstacles.files, nodes[place])
        if obstacle is not None:
            holder = bisect_right(nodes, obstacle) - 1
            if obstacle < self._ends[nodes[holder]]:
                stop = min(stop, holder)
        edge = _at_or_after(self._obstacles.edges, nodes[place] + 1)
        if edge is not None and edge < self._ends[nodes[-1]]:
            following = bisect_left(nodes, edge)
            inside = following == len(nodes) or nodes[following] != edge
            stop = min(stop, following - 1 if inside else following)
        if stop - 1 > place and not self._whole(nodes[stop - 1], first, last):
            stop -= 1
        return stop

    def _runs_of_files(self, node: int, prefix: str, first: int, last: int) -> Iterator[Entry]:
        listing, name = self._tree_index.listing(node), self._tree_index.tree.name
        low, high = np.searchsorted(self._files, [max(first, listing.first), min(last + 1, listing.last)]).tolist()
        while low < high:
            start = int(self._files[low])
            bounds = [_at_or_after(self._obstacles.files, start), _at_or_after(self._obstacles.edges, start + 1)]
            stop = min((bound for bound in bounds if bound is not None), default=None)
            following = high if stop is None else min(high, int(np.searchsorted(self._files, stop)))
            end = int(self._files[following - 1])
            yield f"{prefix}{name(start)}" if start == end else NameRange(prefix or "./", name(start), name(end))
            low = following

    def _first(self, node: int) -> int:
        """Return the first of the files at or behind ``node``; a number behind all nodes when there is none."""
        found = _at_or_after(self._files, node)
        return len(self._tree_index.tree) if found is None else found

    def _last(self, node: int) -> int:
        """Return the last of the files before ``node``."""
        return int(self._files[np.searchsorted(self._files, node) - 1])

    def _whole(self, node: int, first: int, last: int) -> bool:
        """True when one entry may hold the subtree: all its files are in [first, last] and no obstacle is inside."""
        end = self._ends[node]
        low, high = np.searchsorted(self._files, [node, end]).tolist()
        if low == high or self._files[low] < first or self._files[high - 1] > last:
            return False
        obstacle = _at_or_after(self._obstacles.files, node)
        edge = _at_or_after(self._obstacles.edges, node + 1)
        return (obstacle is None or obstacle >= end) and (edge is None or edge >= end)


def _at_or_after(ascending: NDArray[np.int64], node: int) -> int | None:
    place = int(np.searchsorted(ascending, node))
    return int(ascending[place]) if place < len(ascending) else None
