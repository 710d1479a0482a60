"""What the bucket answers of how each object is stored: content type, metadata, encryption, tags …

Input: rows of a manifest. Output: the same rows with ``attributes``, and a
count of those in another class than was asked for.
Invariant: one request an object, two where it has tags, so it is asked only
where somebody wants it; an object that cannot be asked keeps its row, and is counted.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from lading.core.worker_threads import WorkerPool
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind
from lading.verification.manifest import ManifestRow

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

WORKERS = 32
AHEAD = 8  # rows in flight for each thread


class ObjectDescriber:
    """Adds to rows what HEAD and the tags say, or ``wanted`` False: passes them on.

    ``tagged``: tags were set, so they are asked for without a hint.
    """

    def __init__(self, store: "ObjectStore", *, wanted: bool = True, tagged: bool = False) -> None:
        self._store, self._wanted, self._tagged = store, wanted, tagged
        self._pool = WorkerPool(WORKERS, "describe")
        self.asked = 0
        self.failed = 0

    def close(self) -> None:
        """End the threads."""
        self._pool.close()

    def describe(self, rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
        """Yield the rows in order, with ``attributes``."""
        if not self._wanted:
            yield from rows
            return
        waiting: deque[Future[ManifestRow | None]] = deque()
        held: deque[ManifestRow] = deque()
        for row in rows:
            held.append(row)
            waiting.append(self._pool.submit(self._ask, row))
            if len(waiting) >= AHEAD * WORKERS:
                yield self._take(held.popleft(), waiting.popleft())
        while waiting:
            yield self._take(held.popleft(), waiting.popleft())

    def _take(self, row: ManifestRow, answer: "Future[ManifestRow | None]") -> ManifestRow:
        self.asked += 1
        described = answer.result()
        self.failed += described is None
        return described or row

    def _ask(self, row: ManifestRow) -> ManifestRow | None:
        try:
            head = self._store.head(row.key)
            found = dict(head.stored)
            if (self._tagged or head.tags) and (tags := self._store.tags(row.key)):
                found["tags"] = tags
        except StoreError as error:
            if error.failure is FailureKind.STOP:
                raise
            return None
        if (head.size, head.etag) != (row.size, row.etag):
            return None  # replaced since it was listed
        return replace(row, attributes=found or None)
