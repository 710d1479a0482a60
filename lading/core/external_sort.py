"""Sort more items than memory holds.

Input: items in any order, their key, and how one becomes JSON and comes back. Output: the same in order.
Invariant: at most ``PIECE`` of them are held; the rest is in files below a directory that the caller removes.
"""

import dataclasses
import heapq
import json
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from lading.core.atomic import naming

PIECE = 200_000
LINES = 1_000_000  # of some hundred bytes each
T = TypeVar("T")
Record = tuple[str | int, ...]


class ExternalSort(Generic[T]):
    """Takes items in any order and yields them sorted by ``key``; ``name`` is of its files below ``scratch``."""

    def __init__(
        self,
        scratch: Path,
        name: str,
        key: Callable[[T], Any],
        encode: Callable[[T], Any],
        decode: Callable[[Any], T],
    ) -> None:
        self._scratch, self._name = scratch, name
        self._key, self._encode, self._decode = key, encode, decode
        self._held: list[T] = []
        self._pieces: list[Path] = []

    def add(self, item: T) -> None:
        """Take one item."""
        self._held.append(item)
        if len(self._held) >= PIECE:
            self._spill()

    def _spill(self) -> None:
        self._held.sort(key=self._key)
        path = self._scratch / f"{self._name}-{len(self._pieces)}.jsonl"
        with naming(path), path.open("w", encoding="ascii") as stream:
            stream.writelines(json.dumps(self._encode(item)) + "\n" for item in self._held)
        self._pieces.append(path)
        self._held.clear()

    def __iter__(self) -> Iterator[T]:
        self._held.sort(key=self._key)
        if not self._pieces:
            return iter(self._held)
        return heapq.merge(*map(self._read, self._pieces), self._held, key=self._key)

    def _read(self, path: Path) -> Iterator[T]:
        with path.open(encoding="ascii") as stream:
            for line in stream:
                yield self._decode(json.loads(line))


def values_of(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gives the values of a dataclass as they are: ``dataclasses.astuple`` copies each, for 20 µs."""
    getter: Callable[[Any], tuple[Any, ...]] = attrgetter(*(field.name for field in dataclasses.fields(kind)))
    return getter


def sort_records(scratch: Path, name: str) -> ExternalSort[Record]:
    """Return a sort of rows of texts and numbers by themselves."""
    return ExternalSort(scratch, name, lambda record: record, lambda record: record, tuple)


class LineSort:
    """Sorts lines of bytes, which are themselves their key: no JSON, for tens of millions. A line holds no newline."""

    def __init__(self, scratch: Path, name: str) -> None:
        self._scratch, self._name = scratch, name
        self._held: list[bytes] = []
        self._pieces: list[Path] = []

    def add(self, line: bytes) -> None:
        """Take one line."""
        self._held.append(line)
        if len(self._held) >= LINES:
            self._spill()

    def _spill(self) -> None:
        self._held.sort()
        path = self._scratch / f"{self._name}-{len(self._pieces)}.lines"
        with naming(path), path.open("wb") as stream:
            stream.writelines(line + b"\n" for line in self._held)
        self._pieces.append(path)
        self._held.clear()

    def __iter__(self) -> Iterator[bytes]:
        self._held.sort()
        return heapq.merge(*map(self._read, self._pieces), self._held) if self._pieces else iter(self._held)

    @staticmethod
    def _read(path: Path) -> Iterator[bytes]:
        with path.open("rb") as stream:
            for line in stream:
                yield line[:-1]
