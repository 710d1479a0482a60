"""The journal of one process: appended and synced per group, with its index now and then.

Input: records (``records.py``). Output: ``journal/WRITER.jsonl`` and the index beside it.
Invariant: records are durable when ``write`` returns; two processes never write one journal.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lading.core.atomic import AppendLog
from lading.core.errors import LadingError
from lading.journal.index_file import write_index
from lading.journal.index_rows import ROW, fold_rows, make_rows, state_of
from lading.journal.records import DONE, FAILED, INVALIDATED

INDEX_EVERY = 200_000  # records of one writer between two writings of its index


def journal_path(directory: Path, writer: str) -> Path:
    """Return where the journal of a process lies."""
    return directory / f"{writer}.jsonl"


class NoJournal:
    """Takes the records of a process that may only look."""

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Forget them."""

    def close(self) -> None:
        """Nothing to do."""


class JournalWriter:
    """The journal of this process: appended and synced per group, with its index now and then."""

    def __init__(self, directory: Path, writer: str, header: Mapping[str, Any]) -> None:
        self.path = journal_path(directory, writer)
        if self.path.exists():
            raise LadingError(f"{self.path} exists already: two processes would write one journal")
        self._log = AppendLog(self.path)
        self._rows = np.empty(0, dtype=ROW)
        self._keys: list[str] = []
        self._found: list[tuple[int, int, int, int, int]] = []
        self._failed: dict[str, Mapping[str, Any]] = {}
        self._end = self._log.append([header])[-1]
        self._log.sync()

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append a group of records; they are durable when this returns."""
        if not records:
            return
        offsets = self._log.append(records)
        self._log.sync()
        self._end = offsets[-1]
        for record, offset in zip(records, offsets):
            if record["kind"] in (DONE, INVALIDATED):
                self._keys.append(record["key"])
                self._found.append((*state_of(record), offset))
            elif record["kind"] == FAILED:
                self._failed[record["key"]] = record
        if len(self._found) >= INDEX_EVERY:
            self._index()

    def _index(self) -> None:
        self._rows = fold_rows(np.concatenate([self._rows, make_rows(self._keys, self._found)]))
        self._keys, self._found = [], []
        # It only says where to look: without it the next run reads the journal. What ails the disk the journal tells.
        with suppress(LadingError, OSError):
            write_index(self.path, self._rows, self._end, self._failed.values())

    def close(self) -> None:
        """Sync, index and close."""
        try:
            self._log.close()
        finally:
            if len(self._rows) or self._found or self._failed:
                self._index()
