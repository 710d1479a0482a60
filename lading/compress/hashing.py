"""The SHA-256 of files that units read in parts, and the digests of their blocks.

Input: files of a source. Output: a record for each, and a table of block
digests in the state directory.
Invariant: both are of one reading of the whole file, in one state.

These units need no other one and none needs them, so the one reading more that
they cost runs beside the compression. What ties it to what was compressed is
``reads``: when the job ends, the blocks that each unit noted must have the
digests of this table.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from lading.compress.job import CompressionJob, CompressionUnit, Kind, Result, SourceFile, UnitRecord, digest
from lading.compress.reads import BLOCK, Table, count_blocks
from lading.compress.sources import OpenFile, Source, SourceState
from lading.core.atomic import atomic_write
from lading.core.errors import LadingError

FOLDER = "blocks"
# Files of a unit: small ones travel together, since a marker a file would cost more than the file.
_GROUP_BYTES, _GROUP_FILES = 256 << 20, 500


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
    return CompressionUnit(f"sha256/{name}", size, {"files": list(group)})


def run(kind: Kind, job: CompressionJob, unit: CompressionUnit, state: Path) -> Result:
    """Read the files of a unit whole; the table is on disk when this returns."""
    records: list[SourceFile] = []
    tables: list[Table] = []
    with Source.of(job) as source:
        for path in unit.task["files"]:
            with source.open(path) as file:
                sha256, table = _read(file)
                file.require_unchanged()
                records.append(file.record(sha256, kind.lossy(job, file)))
                tables.append(table)
    target = table_path(state, unit)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, "wb") as stream:
        for table in tables:
            stream.write(table.astype("<u8", copy=False).tobytes())
    return Result(0, 0, "", "", "sha256", (), {}, tuple(records))


def _read(file: OpenFile) -> tuple[str, Table]:
    strong = hashlib.sha256()
    digests: list[int] = []
    for block in file.blocks():
        strong.update(block)
        view = memoryview(block)
        digests += [xxhash.xxh3_64_intdigest(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]
    return strong.hexdigest(), np.array(digests, np.uint64)


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
