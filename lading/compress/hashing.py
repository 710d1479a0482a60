"""The SHA-256 of files that units read in parts, and the digests of their blocks.

Input: files of a source. Output: a record for each, and a table of block
digests in the state directory.
Invariant: both are of one reading of the whole file, in one state.

These units need no other one and none needs them, so the one reading more that
they cost runs beside the compression. What ties it to what was compressed is
``reads``: when the job ends, the blocks that each unit noted must have the
digests of this table.
"""

import collections
import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from lading.checksums.digest import LANES, sha256_together
from lading.compress.buffers import tune_malloc
from lading.compress.job import CompressionJob, CompressionUnit, Kind, Result, SourceFile, UnitRecord, digest
from lading.compress.reads import BLOCK, Table, count_blocks
from lading.compress.sources import OpenFile, Source, SourceState
from lading.core.atomic import atomic_write
from lading.core.errors import LadingError

FOLDER = "blocks"
# Files of a unit: small ones travel together, since a marker a file would cost more than the file.
_GROUP_BYTES, _GROUP_FILES = 256 << 20, 500
# A byte is hashed this much faster than compressed, by measurement 7 (imaging) to 16 times (ephys). What takes longest
# begins first: a large file's digest begins before the compression where it would otherwise outlast it, else after it.
_LIGHTER = 8
# Of files that are hashed side by side; a larger one is read in pieces, which are whole blocks.
_MEMORY, _PIECE = 128 << 20, 4 * BLOCK


def plan_units(source: Source, paths: Iterable[str]) -> Iterator[CompressionUnit]:
    """Yield units that hash ``paths`` whole, in groups."""
    group: list[str] = []
    size = 0
    for path in paths:
        length = os.stat(source.locate(path)).st_size
        if group and (size + length > _GROUP_BYTES or len(group) >= _GROUP_FILES):
            yield _unit(group, size)
            group, size = [], 0
        group.append(path)
        size += length
    if group:
        yield _unit(group, size)


def _unit(group: Sequence[str], size: int) -> CompressionUnit:
    name = digest(*(path.encode("utf-8", "surrogateescape") + bytes(1) for path in group))
    return CompressionUnit(f"sha256/{name}", size // _LIGHTER, {"files": list(group)})


def run(kind: Kind, job: CompressionJob, unit: CompressionUnit, state: Path) -> Result:
    """Read the files of a unit whole; the table is on disk when this returns."""
    tune_malloc()
    records: list[SourceFile] = []
    tables: list[Table] = []
    left = collections.deque(unit.task["files"])
    with Source.of(job) as source:
        while left:
            with contextlib.ExitStack() as held:
                files = _open_some(source, left, held)
                for file, (sha256, table) in zip(files, _read_all(files)):
                    file.require_unchanged()
                    records.append(file.record(sha256, kind.lossy(job, file)))
                    tables.append(table)
    target = table_path(state, unit)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, "wb") as stream:
        for table in tables:
            stream.write(table.astype("<u8", copy=False).tobytes())
    return Result(0, 0, "", "", "sha256", (), {}, tuple(records))


def _open_some(source: Source, left: collections.deque[str], held: contextlib.ExitStack) -> list[OpenFile]:
    """Open the next files, which are taken from ``left``: as many as are hashed side by side, or one that is large."""
    files: list[OpenFile] = []
    size = 0
    while left and len(files) < LANES and size < _MEMORY:
        files.append(held.enter_context(source.open(left.popleft())))
        size += files[-1].state.size
    if size > _MEMORY and len(files) > 1:
        left.appendleft(files.pop().path)  # alone
    return files


def _read_all(files: Sequence[OpenFile]) -> list[tuple[str, Table]]:
    """Return SHA-256 and block digests of each file; several are read into memory."""
    if len(files) == 1:
        return [_read(files[0])]
    contents: list[memoryview] = []
    for file in files:
        # Not one buffer for all: what the C library got back for others of this size, it has at hand.
        memory: Any = memoryview(np.empty(file.state.size, np.uint8))  # type: ignore[arg-type]
        contents.append(memory[: file.fill(0, memory)])
    return [(sha256, _digest_blocks(content)) for sha256, content in zip(sha256_together(contents), contents)]


def _read(file: OpenFile) -> tuple[str, Table]:
    strong = hashlib.sha256()
    tables = []
    at = 0
    # Digested while it is in the processor's cache.
    memory: Any = memoryview(bytearray(min(_PIECE, file.state.size + 1)))
    while count := file.fill(at, memory):
        at += count
        strong.update(memory[:count])
        tables.append(_digest_blocks(memory[:count]))
    return strong.hexdigest(), np.concatenate([np.empty(0, np.uint64), *tables])


def _digest_blocks(content: memoryview) -> Table:
    starts = range(0, len(content), BLOCK)
    return np.array([xxhash.xxh3_64_intdigest(content[at : at + BLOCK]) for at in starts], np.uint64)


def table_path(state: Path, unit: CompressionUnit) -> Path:
    """Return where a unit's table of block digests lies."""
    name = unit.id.rpartition("/")[2]
    return state / FOLDER / name[:2] / name


def stands(state: Path, unit: CompressionUnit, marker: UnitRecord) -> bool:
    """Tell whether a finished unit's table is there."""
    wanted = sum(count_blocks(record.size) for record in marker.result.sources)
    try:
        return table_path(state, unit).stat().st_size == 8 * wanted
    except FileNotFoundError:
        return False


def read_tables(
    state: Path, unit: CompressionUnit, marker: UnitRecord
) -> Iterator[tuple[SourceFile, tuple[list[int], Table]]]:
    """Yield the record of each file with its state and the digests of its blocks."""
    if not stands(state, unit, marker):
        raise LadingError(f"{table_path(state, unit)} is missing or truncated; run the same command again")
    table = np.fromfile(table_path(state, unit), "<u8")
    at = 0
    for record in marker.result.sources:
        end = at + count_blocks(record.size)
        state_then = SourceState(record.size, record.mtime_ns, record.ctime_ns, record.inode, record.device)
        yield record, (state_then.pinned(), table[at:end])
        at = end
