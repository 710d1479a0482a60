"""What is proven so far: the fold of all journals, open in seconds at ten million objects.

Input: ``journal/*.jsonl``, one file per writing process, each with an index
beside it (``*.index``) that can be rebuilt from it. Output: for any set of
keys the newest proof.
Invariant: the journals are the truth and the indexes only say where to look;
a missing, stale or damaged index costs time, never a fact. A damaged line is
an unknown object, which is verified again. Memory: 44 bytes per object of
journals written since the last compaction; the rest is mapped.

What a row says: ``index_rows.py``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from lading.core.atomic import atomic_write, decode_record, encode_record
from lading.core.bounded import LINE_BYTES, lines_of
from lading.core.errors import ConsistencyError
from lading.core.progress import counted
from lading.journal.index_file import covered_bytes, index_path, load_index, write_index
from lading.journal.index_rows import (
    ROW,
    WITHDRAWN,
    FoundRecords,
    Hashes,
    Rows,
    fold_rows,
    hash_keys,
    make_rows,
    search_keys,
    state_of,
)
from lading.journal.records import (
    DONE,
    FAILED,
    INVALIDATED,
    VerificationRecord,
    Withdrawal,
    decode_rejected,
    decode_verification,
    decode_withdrawal,
    is_sound,
)

RENEWED = 1 << 20  # bytes of lines: for fewer no index is looked at
COMPACT_ABOVE = 12  # journals
FEW = 32  # journals, of which also smaller indexes are mapped (``index_file.py``)
OPEN = 16  # journals at a time: there may be more of them than files that a process may open
ROWS_AT_ONCE = 200_000  # made of the records of a journal that has no index
COPIED = 100_000  # lines of a compaction at a time


@dataclass
class _Table:
    """One journal file: its folded rows and how far it was read; rows after a mapped index are in ``tail``."""

    path: Path
    rows: Rows
    covered: int
    header: Mapping[str, Any] = field(default_factory=dict)
    failed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    tail: Rows = field(default_factory=lambda: np.empty(0, dtype=ROW))

    def add(self, fresh: Rows) -> None:
        """Add the rows of later lines; what is mapped stays as it is, for the processes of a host have it together."""
        if isinstance(self.rows, np.memmap):
            self.tail = fold_rows(np.concatenate([self.tail, fresh]))
        else:
            self.rows = fold_rows(np.concatenate([self.rows, fresh]))

    def whole(self) -> Rows:
        """Return all rows, folded."""
        return fold_rows(np.concatenate([self.rows, self.tail])) if len(self.tail) else self.rows


def _folds(tables: Iterable[_Table]) -> list[Rows]:
    return [np.asarray(table.whole()) for table in tables]


@dataclass(frozen=True)
class Failed:
    """An object that some run gave up."""

    key: str
    path: str
    batch: str
    failure: str
    message: str
    attempts: int


def _describe_withdrawn(index: "JournalIndex") -> str:
    """Return what is lost with these journals, if anything: nothing else keeps upload from sending it again."""
    count = sum(1 for _ in index.all_withdrawn())
    if not count:
        return ""
    said = counted(count, "file that was", "files that were")
    return f"; but {said} withdrawn would be sent again: take them out of the release first"


class JournalIndex:
    """The fold of a journal directory. Not for use from several threads at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.damaged = 0
        self._tables: dict[str, _Table] = {}
        self.refresh()

    def refresh(self, skip: str = "") -> None:
        """Read what was written since: new journals and what grew; ``skip`` names one not to read."""
        present = {path.name: path for path in sorted(self.directory.glob("*.jsonl")) if path.name != skip}
        merged = {name for path in present.values() for name in self._merged(path)}
        for name in list(self._tables):
            if name not in present or name in merged:
                del self._tables[name]
        for name, path in present.items():
            if name not in merged:
                self._read(name, path)

    def _merged(self, path: Path) -> list[str]:
        if not path.name.startswith("snapshot-"):
            return []
        return list(self._header(path).get("swallowed", ()))

    def _header(self, path: Path) -> Mapping[str, Any]:
        known = self._tables.get(path.name)
        if known and known.header:
            return known.header
        with path.open("rb") as stream:
            record = decode_record(stream.readline(LINE_BYTES)[:-1])
            return record if record and is_sound(record) else {}

    def _read(self, name: str, path: Path) -> None:
        table = self._tables.get(name)
        try:
            length = path.stat().st_size
            if table is None:
                table = self._tables[name] = _Table(path, np.empty(0, dtype=ROW), 0, self._header(path))
            _take_index(table, length, is_few=len(self._tables) <= FEW)
            if length > table.covered:
                fresh, table.covered = self._parse(table)
                if len(fresh):
                    table.add(fresh)
        except FileNotFoundError:  # swallowed by another run's compaction a moment ago
            self._tables.pop(name, None)

    def _parse(self, table: _Table) -> tuple[Rows, int]:
        """Return the rows of what is not covered yet, and where the last whole line ends."""
        found: list[tuple[int, int, int, int, int]] = []
        keys: list[str] = []
        pieces: list[Rows] = []
        position = table.covered
        with table.path.open("rb") as stream:
            stream.seek(position)
            for line, length in lines_of(stream):
                if not line.endswith(b"\n"):
                    break
                record = decode_record(line[:-1])
                if record is None or not is_sound(record):
                    self.damaged += 1
                elif record["kind"] in (DONE, INVALIDATED):
                    keys.append(record["key"])
                    found.append((*state_of(record), position))
                elif record["kind"] == FAILED:
                    table.failed[record["key"]] = record
                position += length
                if len(found) >= ROWS_AT_ONCE:
                    pieces.append(make_rows(keys, found))
                    keys, found = [], []
        pieces.append(make_rows(keys, found))
        return np.concatenate(pieces), position

    def failures(self) -> Iterator[Failed]:
        """Yield each object that the last run to try it gave up, unless it is proven by now."""
        last = {key: record for table in self._tables.values() for key, record in table.failed.items()}
        records = list(last.values())
        proven = self.find(hash_keys(last)).rank % 2 == 0
        for record, done in zip(records, proven.tolist()):
            if not done:
                yield Failed(
                    record["key"],
                    record["path"],
                    record["batch"],
                    record["class"],
                    record["message"],
                    record["attempts"],
                )

    def find(self, hashes: Hashes) -> FoundRecords:
        """Return the newest record of each hashed key."""
        count = len(hashes)
        found = FoundRecords(
            np.full(count, -1, np.int64),
            np.full(count, -1, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
            np.full(count, -1, np.int32),
            np.zeros(count, np.int64),
        )
        tables = enumerate(self._tables.values())
        for number, rows in [(number, rows) for number, table in tables for rows in (table.tail, table.rows)]:
            if not len(rows) or not count:
                continue
            at = search_keys(rows["key"], hashes)
            at[at == len(rows)] = 0
            better = np.flatnonzero((rows["key"][at] == hashes) & (rows["rank"][at].astype(np.int64) > found.rank))
            chosen = rows[at[better]]
            found.rank[better] = chosen["rank"]
            found.size[better] = chosen["size"]
            found.mtime[better] = chosen["mtime"]
            found.offset[better] = chosen["offset"]
            found.state[better] = chosen["state"]
            found.table[better] = number
        return found

    def proofs(self, keys: Sequence[str], found: FoundRecords) -> Iterator[VerificationRecord | None]:
        """Yield the proof of each key, read from its journal; None where it is not proven or its line is damaged."""
        for record in self._records(keys, found, DONE):
            yield None if record is None else decode_verification(record)

    def rejected(self, keys: Sequence[str], found: FoundRecords) -> Iterator[tuple[str, str] | None]:
        """Yield the (etag, modified) of the object that is not to be believed under each key whose proof is void."""
        for record in self._records(keys, found, INVALIDATED):
            yield None if record is None else decode_rejected(record)

    def withdrawals(self, keys: Sequence[str], found: FoundRecords) -> Iterator[Withdrawal | None]:
        """Yield the withdrawal of each key whose newest record is one."""
        for record in self._records(keys, found, INVALIDATED):
            yield None if record is None else decode_withdrawal(record)

    def all_withdrawn(self) -> Iterator[Withdrawal]:
        """Yield every withdrawal that is the newest record of its key."""
        hashes = [np.asarray(rows["key"][rows["state"] == WITHDRAWN]) for rows in _folds(self._tables.values())]
        found = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
        if len(found):
            keys = list(self.names(found))
            yield from (one for one in self.withdrawals(keys, self.find(found)) if one is not None)

    def _records(self, keys: Sequence[str], found: FoundRecords, kind: str) -> Iterator[Mapping[str, Any] | None]:
        """Yield the newest record of each key where it is of this kind."""
        paths = [table.path for table in self._tables.values()]
        odd = kind == INVALIDATED
        with _Streams() as streams:
            current = -1
            for position, key in enumerate(keys):
                record = None
                if found.rank[position] >= 0 and found.rank[position] % 2 == odd:
                    if found.table[position] != current:
                        current = int(found.table[position])
                        stream = streams.open(paths[current])
                    stream.seek(int(found.offset[position]))
                    record = decode_record(stream.readline(LINE_BYTES)[:-1])
                    if record is None or not is_sound(record) or record["kind"] != kind or record["key"] != key:
                        record = None
                yield record

    def check(self, bucket: str, endpoint: str | None) -> None:
        """Raise ``ConsistencyError`` when a journal speaks of another bucket or endpoint."""
        for table in self._tables.values():
            header = table.header
            for name, now in (("bucket", bucket), ("endpoint", _place(endpoint))):
                then = header.get(name, now)
                then = _place(then) if name == "endpoint" else then
                if then != now:
                    raise ConsistencyError(
                        f"{table.path} is for {name} {then or 'AWS'}, this run is for {now or 'AWS'}; use another "
                        f"directory, or move {self.directory} away (objects that are already in the bucket are "
                        f"compared, not sent again{_describe_withdrawn(self)})"
                    )

    @property
    def roots(self) -> set[str]:
        """The paths under which the release was seen so far."""
        headers = [table.header for table in self._tables.values()]
        return {root for header in headers for root in (header.get("root"), *header.get("roots", ())) if root}

    def stored_with(self) -> list[Mapping[str, Any]]:
        """Return what uploads were told to store objects with (``objects`` of their headers), each once."""
        found: list[Mapping[str, Any]] = []
        for name, table in self._tables.items():
            stored = table.header.get("objects", {})
            if not name.startswith("verify-") and isinstance(stored, dict) and stored not in found:
                found.append(stored)
        return found

    def proven_hashes(self) -> Hashes:
        """Return the hashed keys of all that is proven, sorted."""
        rows = fold_rows(np.concatenate([np.empty(0, ROW), *_folds(self._tables.values())]))
        return np.asarray(rows["key"][rows["rank"] % 2 == 0], dtype=np.uint64)

    def names(self, hashes: Hashes) -> Iterator[str]:
        """Yield the key behind each hash of a record."""
        found = self.find(hashes)
        paths = [table.path for table in self._tables.values()]
        for number, offset in zip(found.table.tolist(), found.offset.tolist()):
            if number >= 0:
                with paths[number].open("rb") as stream:
                    stream.seek(offset)
                    record = decode_record(stream.readline(LINE_BYTES)[:-1])
                yield str(record["key"]) if record and is_sound(record) else "a damaged record"

    @property
    def objects(self) -> int:
        """How many rows the tables hold: an upper bound of the objects known."""
        return sum(len(table.rows) + len(table.tail) for table in self._tables.values())

    @property
    def journals(self) -> list[str]:
        """Names of the journal files in use."""
        return list(self._tables)

    def write_indexes(self) -> None:
        """Write the index of each journal that has none or an old one."""
        for table in self._tables.values():
            if len(table.rows) and covered_bytes(table.path) != table.covered:
                write_index(table.path, table.whole(), table.covered, table.failed.values())

    def compact(self, header: Mapping[str, Any]) -> None:
        """Replace all journals by one snapshot: lines copied as they are, superseded ones left out.

        Only for the holder of the lock while no other process writes. A crash
        at any point leaves either the old files, or the snapshot, whose header
        names the files it replaces, so that they are ignored until removed.
        """
        tables = list(self._tables.values())
        everything = _folds(self._tables.values())
        owner = np.concatenate([np.full(len(rows), number, np.int32) for number, rows in enumerate(everything)])
        rows = np.concatenate(everything)
        order = np.lexsort((rows["rank"], rows["key"]))
        keys, last = rows["key"][order], np.ones(len(order), dtype=bool)
        last[:-1] = keys[1:] != keys[:-1]
        kept = order[last]
        kept = kept[np.lexsort((rows["offset"][kept], owner[kept]))]  # read each file front to back
        fresh, owner = rows[kept], owner[kept]
        del everything, rows, keys, order, last, kept  # of ten million objects each is many megabytes
        number = 1 + max((int(name[9:-6]) for name in self._tables if name.startswith("snapshot-")), default=0)
        target = self.directory / f"snapshot-{number}.jsonl"
        head = {**header, "kind": "snapshot", "swallowed": sorted(self._tables)}
        failed = [_failure_record(failure) for failure in self.failures()]
        position = _copy_lines(target, [head, *failed], [table.path for table in tables], fresh, owner)
        fresh = fresh[np.argsort(fresh["key"])]
        write_index(target, fresh, position, failed)
        for table in tables:
            table.path.unlink(missing_ok=True)
            index_path(table.path).unlink(missing_ok=True)
        self._tables = {}
        self.refresh()


def _copy_lines(
    target: Path, first: Iterable[Mapping[str, Any]], sources: Sequence[Path], rows: Rows, owner: NDArray[np.int32]
) -> int:
    """Write records, then the lines of ``rows``, whose offsets become those in ``target``; returns its size."""
    with atomic_write(target, "wb") as stream, _Streams() as streams:
        position, current = sum(stream.write(encode_record(record)) for record in first), -1
        for start in range(0, len(rows), COPIED):  # numbers of Python's own take more than the rows
            piece = slice(start, start + COPIED)
            offsets = []
            for source, offset in zip(owner[piece].tolist(), rows["offset"][piece].tolist()):
                if source != current:
                    current, lines = source, streams.open(sources[source])
                lines.seek(offset)
                offsets.append(position)
                position += stream.write(lines.readline())
            rows["offset"][piece] = offsets
    return position


class _Streams:
    """Journals open for reading, the ``OPEN`` used last."""

    def __init__(self) -> None:
        self._open: dict[Path, BinaryIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._open.values():
            stream.close()

    def open(self, path: Path) -> BinaryIO:
        """Return the journal at a path, opened unless it is."""
        stream = self._open.pop(path, None)
        if stream is None:
            if len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open))).close()
            stream = path.open("rb")
        self._open[path] = stream  # last in line
        return stream


def _failure_record(failure: Failed) -> dict[str, Any]:
    record = {name: getattr(failure, name) for name in ("key", "path", "batch", "message", "attempts")}
    return {"kind": FAILED, **record, "class": failure.failure}


def _place(endpoint: str | None) -> str | None:
    """Return an endpoint for comparison: every name of AWS itself is None."""
    if endpoint is None or endpoint.rstrip("/").endswith(".amazonaws.com"):
        return None
    return endpoint.rstrip("/")


def _take_index(table: _Table, length: int, *, is_few: bool) -> None:
    """Take the index that the writer of a journal made, if much of its ``length`` is not known here.

    Ranks read what the others verify meanwhile: of an index that is mapped a host has one copy, of lines each rank has
    its own.
    """
    if table.covered and (length - table.covered < RENEWED or covered_bytes(table.path) <= table.covered):
        return
    covered, rows, failed = load_index(table.path, is_few=is_few)
    if covered > table.covered:
        table.covered, table.rows, table.tail = covered, rows, rows[:0]
        table.failed.update(failed)
