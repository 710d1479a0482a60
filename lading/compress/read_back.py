"""The files that a unit wrote, as they were read back: their sizes and digests.

Input: paths and bytes, file by file. Output: ``Output`` records in that order.
Invariant: the digests are of the very bytes that were decoded and compared. SHA-256 of some files is computed side by
side, for which their bytes are kept a while.
"""

from typing import Any

from lading.checksums.digest import LANES, sha256_together
from lading.compress.job import Output, digest

# What is kept at most, but for the last file.
_KEPT_BYTES = 64 << 20


class ReadBack:
    """Records of files in the order in which they were added."""

    def __init__(self) -> None:
        self._done: list[Output] = []
        self._waiting: list[tuple[str, Any]] = []
        self._bytes = 0

    def add(self, path: str, data: Any) -> None:
        """Add a file by its bytes, which must not change any more."""
        self._waiting.append((path, data))
        self._bytes += len(data)
        if len(self._waiting) == LANES or self._bytes >= _KEPT_BYTES:
            self._sum()

    def extend(self, others: "ReadBack") -> None:
        """Add the files of another one."""
        self._sum()
        self._done.extend(others.outputs())

    def outputs(self) -> list[Output]:
        """Return the records of all that were added."""
        self._sum()
        return self._done

    def _sum(self) -> None:
        sums = sha256_together([data for _, data in self._waiting])
        self._done += [
            Output(path, len(data), digest(data), sha256) for (path, data), sha256 in zip(self._waiting, sums)
        ]
        self._waiting.clear()
        self._bytes = 0
