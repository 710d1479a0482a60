"""Files that may fill what a batch has left.

Input: sizes. Output: the largest file not yet used that fits into a room.
Invariant: a file is handed out at most once.
"""

import numpy as np
from numpy.typing import NDArray

# More than these many would cost more memory than they save batches.
MOST = 2_000_000


class GapFillers:
    """Files of at least ``least`` bytes, by size; places refer to ``sizes``, int64, shape (n,)."""

    def __init__(self, sizes: NDArray[np.int64], least: int) -> None:
        places = np.flatnonzero(sizes >= max(1, least))
        if len(places) > MOST:
            places = places[np.argsort(sizes[places], kind="stable")[-MOST:]]
            places.sort()
        order = np.argsort(sizes[places], kind="stable")
        self._sizes = sizes[places][order]
        self._places = places[order]
        # Ranks by place, to cross off files that a run of the stream took.
        self._by_place = places
        self._rank = np.argsort(order, kind="stable")
        self._passed = 0
        # Union-find: the largest rank not above this one that is still free; shifted by one, 0 means none.
        self._free = list(range(len(places) + 1))

    def _find(self, rank: int) -> int:
        free = self._free
        top = rank
        while free[top] != top:
            top = free[top]
        while free[rank] != top:
            free[rank], rank = top, free[rank]
        return top

    def pass_by(self, place: int) -> None:
        """Cross off every file before ``place``."""
        stop = int(np.searchsorted(self._by_place, place))
        for rank in self._rank[self._passed : stop].tolist():
            self._free[rank + 1] = self._find(rank)
        self._passed = max(self._passed, stop)

    def take(self, room: int, least: int) -> int | None:
        """Return the place of the largest free file of ``least`` to ``room`` bytes and cross it off, or None."""
        top = self._find(int(np.searchsorted(self._sizes, room, side="right")))
        if top == 0 or self._sizes[top - 1] < least:
            return None
        self._free[top] = self._find(top - 1)
        return int(self._places[top - 1])
