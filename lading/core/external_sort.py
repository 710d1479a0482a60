"""Sort more records than memory holds.

Input: rows of texts and numbers. Output: the same in order.
Invariant: at most ``PIECE`` of them are held; the rest is in files below a directory that the caller removes.
"""

import heapq
import json
from collections.abc import Iterator
from pathlib import Path

from lading.core.atomic import naming

PIECE = 200_000
Record = tuple[str | int, ...]


class SortedRecords:
    """Takes records in any order and yields them sorted; ``name`` is of its files below ``scratch``."""

    def __init__(self, scratch: Path, name: str) -> None:
        self._scratch, self._name = scratch, name
        self._held: list[Record] = []
        self._pieces: list[Path] = []

    def add(self, record: Record) -> None:
        """Take one record."""
        self._held.append(record)
        if len(self._held) >= PIECE:
            self._spill()

    def _spill(self) -> None:
        self._held.sort()
        path = self._scratch / f"{self._name}-{len(self._pieces)}.jsonl"
        with naming(path), path.open("w", encoding="ascii") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in self._held)
        self._pieces.append(path)
        self._held.clear()

    def __iter__(self) -> Iterator[Record]:
        self._held.sort()
        return heapq.merge(*map(_read_piece, self._pieces), self._held)


def _read_piece(path: Path) -> Iterator[Record]:
    with path.open(encoding="ascii") as stream:
        for line in stream:
            yield tuple(json.loads(line))
