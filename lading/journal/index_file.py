"""The index that lies beside a journal as a file.

Input: folded rows, and the records of what failed. Output: ``*.index``, and the same read back.
Invariant: an index that is missing, torn, damaged, or of more than the journal has is none: what it says is in the
journal too. Layout: docs/reference/formats.md.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lading.core.atomic import atomic_write, decode_record, encode_record
from lading.journal.index_rows import ROW, Rows
from lading.journal.records import is_sound

# Magic, bytes of the journal that are covered, rows, bytes of failure records after them, CRC-32 of both.
_HEAD = struct.Struct("<8sQQQI")
_MAGIC = b"ldgidx2\n"
# An index from here on is mapped, so that the ranks of a host share it. A map keeps its file open, and ranks leave many
# small journals: of the first few those from the lower size on are mapped.
MAPPED_BYTES, MAPPED_FEW_BYTES = 16 << 20, 1 << 20


def index_path(journal: Path) -> Path:
    """Return where the index of a journal lies."""
    return journal.with_suffix(".index")


def write_index(journal: Path, rows: Rows, covered: int, failed: Iterable[Mapping[str, Any]] = ()) -> None:
    """Write the index of a journal atomically; ``rows`` folded, of its first ``covered`` bytes."""
    data = np.ascontiguousarray(rows).view(np.uint8).data
    records = b"".join(encode_record(_without_crc(record)) for record in failed)
    with atomic_write(index_path(journal), "wb") as stream:
        crc = zlib.crc32(records, zlib.crc32(data))
        stream.write(_HEAD.pack(_MAGIC, covered, len(rows), len(records), crc))
        stream.write(data)
        stream.write(records)


def _without_crc(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "crc"}


def covered_bytes(journal: Path) -> int:
    """Return how many bytes of a journal its index says to cover, -1 without one."""
    try:
        with index_path(journal).open("rb") as stream:
            head = stream.read(_HEAD.size)
    except FileNotFoundError:
        return -1
    magic, covered = _HEAD.unpack(head)[:2] if len(head) == _HEAD.size else (b"", -1)
    return int(covered) if magic == _MAGIC else -1


def _map_rows(index: Path, count: int) -> Rows:
    return np.memmap(index, dtype=ROW, mode="r", offset=_HEAD.size, shape=(count,))


def load_index(journal: Path, *, is_few: bool) -> tuple[int, Rows, dict[str, Mapping[str, Any]]]:
    """Return (bytes covered, rows, failures by key) of a journal's index; nothing when it is absent or damaged.

    ``is_few``: of the first few journals, which may each keep a file open.
    """
    nothing: tuple[int, Rows, dict[str, Mapping[str, Any]]] = (0, np.empty(0, dtype=ROW), {})
    path = index_path(journal)
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD.size)
            length = os.fstat(stream.fileno()).st_size
            if len(head) < _HEAD.size:
                return nothing
            magic, covered, count, extra, crc = _HEAD.unpack(head)
            end = _HEAD.size + count * ROW.itemsize
            if magic != _MAGIC or length != end + extra or covered > journal.stat().st_size:
                return nothing
            stream.seek(end)
            lines = stream.read()
            stream.seek(_HEAD.size)
            maps = count * ROW.itemsize >= (MAPPED_FEW_BYTES if is_few else MAPPED_BYTES)
            rows = _map_rows(path, count) if maps else np.fromfile(stream, ROW, count)
    except FileNotFoundError:
        return nothing
    if zlib.crc32(lines, zlib.crc32(rows.view(np.uint8).data) if count else 0) != crc:
        return nothing
    if count and not 0 <= int(rows["offset"].min()) <= int(rows["offset"].max()) < covered:
        return nothing
    records = [decode_record(line) for line in lines.splitlines()]
    return covered, rows, {record["key"]: record for record in records if record and is_sound(record)}
