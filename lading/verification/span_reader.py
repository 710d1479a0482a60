"""Read the objects of spans with threads.

Input: jobs, each a span's rows and what the listing says of them already. Output: proofs of spans, and counts.
Invariant: a row is in a proof as read, or among what is wrong with it. No write to the bucket. Objects in flight are
bounded, so memory follows the number of threads and not the size of spans.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lading.core.worker_threads import WorkerPool
from lading.objectstore.download import ObjectReader
from lading.verification.fixity_log import DAMAGED, UNREADABLE, OpenFinding, SpanProof
from lading.verification.manifest import ManifestRow
from lading.verification.object_check import AuditFinding, compare_bytes, compare_kept_checksum

if TYPE_CHECKING:
    from lading.objectstore.readable_store import ReadableStore

GONE = "gone"
_KINDS = {"different": DAMAGED, "missing": GONE, "unreadable": UNREADABLE}


@dataclass(frozen=True)
class SpanJob:
    """What is to be read of a span; ``span`` is empty for single objects that were wrong before.

    rows     with their digests; ``wrong``: those that need no reading, since the listing says enough
    """

    span: str
    first: str
    objects: int
    bytes: int
    rows: tuple[tuple[ManifestRow, str], ...]
    wrong: tuple[OpenFinding, ...] = ()


@dataclass(frozen=True)
class SpanResult:
    """What a job came to: a proof of its span, or what became of single objects; and counts of its reading."""

    proof: SpanProof | None
    again: tuple[OpenFinding, ...] = ()
    objects: int = 0
    bytes: int = 0
    unproven: int = 0
    spared: int = 0  # not read, since the server's own checksum differs


@dataclass
class _Running:
    job: SpanJob
    work: list["Future[AuditFinding]"] = field(default_factory=list)


class SpanReader:
    """Reads jobs; ``full`` tells when it has enough of them."""

    def __init__(self, store: "ReadableStore", workers: int) -> None:
        self._store, self._workers = store, workers
        self._reader = ObjectReader(store)
        self._pool = WorkerPool(workers, "scrub")
        self._running: deque[_Running] = deque()
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """True while more objects wait than the threads need to be busy."""
        return self._waiting >= 2 * self._workers

    @property
    def idle(self) -> bool:
        """True when everything was collected."""
        return not self._running

    def submit(self, job: SpanJob) -> None:
        """Take a job."""
        running = _Running(job)
        with self._lock:
            self._waiting += len(job.rows)
        for row, _ in job.rows:
            future = self._pool.submit(self._check, row)
            future.add_done_callback(self._count)
            running.work.append(future)
        self._running.append(running)

    def _count(self, _: object) -> None:
        with self._lock:
            self._waiting -= 1

    def _check(self, row: ManifestRow) -> AuditFinding:
        self._reader.check()
        known = compare_kept_checksum(self._store, row)
        return known or compare_bytes(self._reader, row, row.version_id)

    def finished(self) -> Iterator[SpanResult]:
        """Yield the results of jobs that are done; raises what ended one of them."""
        for running in [running for running in self._running if all(map(Future.done, running.work))]:
            self._running.remove(running)
            yield _settle(running.job, [future.result() for future in running.work])

    def rest(self, seconds: float) -> None:
        """Wait until an object is done, but no longer."""
        left = next((future for running in self._running for future in running.work if not future.done()), None)
        if left is None:
            time.sleep(min(seconds, 0.005))
        else:
            wait_for([left], timeout=seconds)

    def close(self) -> None:
        """End the threads; what hangs in a socket is left behind."""
        self._reader.stop()
        self._pool.close()


def _settle(job: SpanJob, findings: list[AuditFinding]) -> SpanResult:
    """Return what a job came to; its objects in order."""
    wrong: list[OpenFinding] = []
    again: list[OpenFinding] = []
    objects = size = unproven = spared = 0
    for (row, digest), finding in zip(job.rows, findings):
        right = finding.kind in ("right", "unproven")
        read = right or (finding.kind == "different" and not finding.reason.startswith("the server keeps"))
        objects, size = objects + read, size + (row.size if read else 0)
        unproven += finding.kind == "unproven"
        spared += finding.kind == "different" and not read
        kind = "right" if right else _KINDS[finding.kind]
        if not right:
            wrong.append(OpenFinding(row.key, kind, finding.reason, digest, row.size))
        again.append(OpenFinding(row.key, kind, finding.reason, digest, row.size))
    if not job.span:
        return SpanResult(None, tuple(again), objects, size, unproven, spared)
    proof = SpanProof(job.span, job.first, job.objects, job.bytes, objects, (*job.wrong, *wrong))
    return SpanResult(proof, (), objects, size, unproven, spared)
