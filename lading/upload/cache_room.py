"""How much of large files may be under way at once, so that each is fetched from its disk once.

Input: the files that engines hold, and whether their digests are made. Output: whether another one has room.
Invariant: what an engine and the digests both have to read fits half of the memory that this process may use for the
cache of files, so whoever comes second finds it there. One file always has room: of one that is larger than that, the
disk may be read twice.
"""

from collections.abc import Container

from lading.core.memory import usable_bytes
from lading.upload.run_state import InFlight

LARGE_BYTES = 64 << 20  # smaller ones are read within moments, by both
LEAST_BYTES = 256 << 20


class CacheRoom:
    """Counts large files from their sending to the end of both readings."""

    def __init__(self, budget: int | None = None) -> None:
        self._budget = max(LEAST_BYTES, usable_bytes() // 2) if budget is None else budget
        self._held: list[InFlight] = []

    def takes(self, flight: InFlight, sending: Container[str]) -> bool:
        """Tell whether a file has room beside those that are read still; ``sending``: keys that engines hold."""
        size = flight.task.size
        if size < LARGE_BYTES:
            return True
        self._held = [held for held in self._held if held.item.key in sending or not _is_hashed(held)]
        used = sum(held.task.size for held in self._held)
        return not used or used + size <= self._budget

    def enter(self, flight: InFlight) -> None:
        """Count a file that is sent from now on."""
        if flight.task.size >= LARGE_BYTES:
            self._held.append(flight)


def _is_hashed(flight: InFlight) -> bool:
    return flight.digests is None or flight.digests.done
