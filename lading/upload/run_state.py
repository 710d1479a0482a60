"""What the stages of one upload share: why it stops, what it counted, the journal, the workers.

Input: what stages say of items. Output: records of failures, counters, the
caller's ``settled``.
Invariant: every item that entered the pipeline is settled once, or is left
for the next run because this one stops.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lading.checksums.digest import FileState
from lading.checksums.digest_prefetch import PrefetchedDigest
from lading.core.errors import LadingError
from lading.core.limits import LIMITS
from lading.core.worker_threads import WorkerPool, WorkersStopped
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import VerificationRecord, encode_failure
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind
from lading.plan.planned_object import PlannedObject
from lading.upload.engines.base import Engine, UploadTask
from lading.upload.engines.threads import describe_error

T = TypeVar("T")

GROUP = 1000  # objects in a preparation and in a verification: one listing request
BACKOFF_SECONDS = LIMITS.backoff
WORKERS = 8


@dataclass
class UploadCounters:
    """What a run did; bytes are of the files."""

    sent: int = 0
    sent_bytes: int = 0
    copied: int = 0  # by the server, of what it held already
    copied_bytes: int = 0
    already_present: int = 0
    proven: int = 0
    proven_bytes: int = 0
    failed: int = 0
    retries: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class InFlight:
    """An object between its preparation and its verification."""

    item: PlannedObject
    task: UploadTask
    stamp: FileState
    attempts: int = 0
    digests: PrefetchedDigest | None = None
    engine: Engine | None = None
    is_new: bool = False  # the server holds no object of its content


class RunState:
    """One run: its end, its counters and the fate of its items. ``settled`` is called with each item."""

    def __init__(
        self,
        journal: JournalWriter,
        settled: Callable[[PlannedObject, bool], None],
        note: Callable[[str], None],
        patience: float,
    ) -> None:
        self.journal, self.note = journal, note
        self.counters = UploadCounters()
        self.stopping = ""  # why no more is fed
        self.error: LadingError | None = None
        self.stopped = threading.Event()  # set by the loop, since it holds a lock, which a signal handler must not
        self.workers = WorkerPool(WORKERS, "worker")
        self.tries: dict[str, int] = {}  # of items that failed before, by key
        self._settled, self._patience = settled, patience

    def stop(self, reason: str) -> None:
        """Feed no more; what is in flight is finished and verified. Safe from a signal handler."""
        self.stopping = self.stopping or reason

    def halt(self, error: StoreError) -> None:
        """End the run for a reason that would meet every object."""
        self.error = self.error or error
        self.stop(str(error))

    def attribute(self, error: Exception, items: Sequence[PlannedObject]) -> None:
        """Settle what a worker raised: the bucket's state ends the run, all else is a failure of the items."""
        if isinstance(error, WorkersStopped):
            return  # cut off: for the next run
        if isinstance(error, StoreError):
            self.halt(error)
            return
        for item in items:
            self.give_up(item, FailureKind.OBJECT, describe_error(error))

    def give_up(self, item: PlannedObject, failure: FailureKind, reason: str) -> None:
        """Record the failure of an item for this run."""
        self.counters.failed += 1
        self.counters.reasons[reason] = self.counters.reasons.get(reason, 0) + 1
        tries = self.tries.pop(item.key, 0) + 1
        self.journal.write([encode_failure(item.key, item.path, item.batch, failure.value, reason, tries)])
        self._settled(item, False)

    def count_verified(self, item: PlannedObject, record: VerificationRecord, *, already_present: bool = False) -> None:
        """Count an item whose record is in the journal."""
        self.tries.pop(item.key, None)
        self.counters.already_present += already_present
        self.counters.proven += 1
        self.counters.proven_bytes += record.size
        self._settled(item, True)

    def pause(self, failures: int) -> float:
        """Return how many seconds to wait after this many failures in a row."""
        return min(BACKOFF_SECONDS, 2.0**failures) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter

    def retry(self, work: Callable[[], T]) -> T:
        """Do a job that asks the bucket, again while the bucket is only slow to answer."""
        return self.count_retries(work)[0]

    def count_retries(self, work: Callable[[], T]) -> tuple[T, int]:
        """Do as ``retry``; returns also how often it failed before."""
        deadline = float("inf")  # from the first failure: what the job reads and hashes before it may take hours
        for attempt in range(1000):
            try:
                return work(), attempt
            except StoreError as error:
                deadline = min(deadline, time.monotonic() + self._patience)
                pause = self.pause(attempt)
                if error.failure is not FailureKind.TRANSIENT or time.monotonic() + pause > deadline or self.stopping:
                    raise
                self.stopped.wait(pause)  # a stop leaves one more try
        raise AssertionError("unreachable")
