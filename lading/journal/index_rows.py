"""The rows of an index: one for each key, by which its newest record is found.

Input: keys and records of journals. Output: rows, and for any set of keys what the rows say of them.
Invariant: one row per key in a folded set, sorted by a 64-bit hash of the key: the row of highest rank (generation,
then void over done). A hash alone never proves: size and mtime are compared too. A row also has a mark of the state in
which the file was read, so that a stat tells whether it still is.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.core.times import saturate
from lading.journal.records import INVALIDATED

ROW = np.dtype(
    [("key", "<u8"), ("size", "<i8"), ("mtime", "<i8"), ("rank", "<u4"), ("offset", "<i8"), ("state", "<i8")]
)
Rows = NDArray[np.void]
Hashes = NDArray[np.uint64]

_WORD = (1 << 64) - 1
WITHDRAWN = -1  # in place of the mark of a state, in the row of a void record that withdraws
SEARCHED = 16  # times as many keys as are asked for: of more it would cost more to copy than to look each one up


def hash_keys(keys: Iterable[str]) -> Hashes:
    """Return the 64-bit BLAKE2b of each key, shape (n,), dtype uint64."""
    blake = hashlib.blake2b
    return np.frombuffer(
        b"".join(blake(key.encode("utf-8", "surrogateescape"), digest_size=8).digest() for key in keys), dtype="<u8"
    )


def rank_of(kind: str, generation: int) -> int:
    """Return what decides between two records of a key: the higher counts."""
    return generation * 2 + (kind == INVALIDATED)


def mark_state(size: int, mtime: int, ctime: int, inode: int) -> int:
    """Return a mark of a file's state (times in ns), 63 bits and never 0.

    Two states of one mark are as unlikely as two keys of one hash.
    """
    mixed = (size * 0x9E3779B97F4A7C15 + mtime * 0xBF58476D1CE4E5B9 + ctime * 0x94D049BB133111EB + inode) & _WORD
    mixed = ((mixed ^ mixed >> 31) * 0xD6E8FEB86659FD93) & _WORD
    return (mixed ^ mixed >> 32) & (_WORD >> 1) or 1


def fold_rows(rows: Rows) -> Rows:
    """Return one row per key, the one of highest rank (the later on a tie), sorted by key."""
    order = np.lexsort((np.arange(len(rows)), rows["rank"], rows["key"]))
    rows = rows[order]
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = rows["key"][1:] != rows["key"][:-1]
    return rows[last]


def search_keys(keys: Hashes, hashes: Hashes) -> NDArray[np.int64]:
    """Return where among sorted ``keys`` each hash is, or would be.

    ``np.searchsorted`` copies keys that are no aligned array, all of them at each call: of a billion, for each batch.
    """
    count = len(keys)
    if count <= SEARCHED * len(hashes):
        return np.searchsorted(keys, hashes)
    low, high = np.zeros(len(hashes), np.int64), np.full(len(hashes), count, np.int64)
    for _ in range(count.bit_length()):
        middle = (low + high) >> 1
        less = (keys[np.minimum(middle, count - 1)] < hashes) & (low < high)
        low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
    return low


@dataclass(frozen=True)
class FoundRecords:
    """The newest record of each key asked for; arrays of shape (n,).

    rank is -1 where there is none; even: proven; odd: void. ``table`` and
    ``offset`` say where the record lies. ``state`` is the ``mark_state`` of
    the file as it was read, 0 where that is not known, and ``WITHDRAWN`` of what was deleted on purpose.
    """

    rank: NDArray[np.int64]
    size: NDArray[np.int64]
    mtime: NDArray[np.int64]
    offset: NDArray[np.int64]
    table: NDArray[np.int32]
    state: NDArray[np.int64]

    def proven(self, sizes: Any, mtimes: Any = None) -> NDArray[np.bool_]:
        """Return which are proven at these sizes and, where not None, mtimes (ns)."""
        known = (self.rank >= 0) & (self.rank % 2 == 0) & (self.size == np.asarray(sizes, dtype=np.int64))
        if mtimes is not None:
            known &= self.mtime == np.asarray(mtimes, dtype=np.int64)
        return np.asarray(known, dtype=np.bool_)

    def withdrawn(self, sizes: Any, mtimes: Any = None) -> NDArray[np.bool_]:
        """Return which are withdrawn, or about to be, at these sizes and, where not None, mtimes (ns)."""
        known = (self.rank >= 0) & (self.rank % 2 == 1) & (self.state == WITHDRAWN)
        known &= self.size == np.asarray(sizes, dtype=np.int64)
        if mtimes is not None:
            known &= self.mtime == np.asarray(mtimes, dtype=np.int64)
        return np.asarray(known, dtype=np.bool_)

    def generation(self, position: int) -> int:
        """Return the generation a new ``done`` of this key must have."""
        return int(self.rank[position]) // 2 + 1 if self.rank[position] >= 0 else 0


def state_of(record: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return (size, mtime, rank, mark) of a record; size and mtime as planned, where the file was in another state."""
    size, mtime = record.get("plan", (record.get("size", -1), record.get("mtime", 0)))
    ctime, inode = record.get("ctime"), record.get("inode")
    mark = WITHDRAWN if "withdrawn" in record else 0
    if ctime is not None and inode is not None:
        mark = mark_state(record["size"], saturate(record["mtime"]), saturate(ctime), inode)
    return size, saturate(mtime), rank_of(record["kind"], record.get("gen", 0)), mark


def make_rows(keys: Sequence[str], found: Sequence[tuple[int, int, int, int, int]]) -> Rows:
    """Return rows, in the order given, of keys and (size, mtime, rank, mark of the state or 0, offset)."""
    rows = np.empty(len(keys), dtype=ROW)
    if keys:
        rows["key"] = hash_keys(keys)
        rows["size"], rows["mtime"], rows["rank"], rows["state"], rows["offset"] = np.array(found, dtype=np.int64).T
    return rows
