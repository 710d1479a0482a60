"""The loop that ships and proves: prepare → send → hash beside it → list and compare → journal.

Input: groups of items, engines, the bucket. Output: proofs in the journal and
a verdict per item.
Invariant: only ``_settle_proofs`` writes ``done``, and only for what the
bucket was seen to hold after it was sent. Work in flight is bounded: two
groups ahead of the engines, one window in them, some groups in proof. What a
worker raises counts against the items it worked on, or ends the run when the
bucket is the reason; nothing is waited for longer than ``limits.py`` says.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from lading.checksums.digest import FileDigests, FileState
from lading.checksums.digest_prefetch import DigestPrefetch, PrefetchedDigest
from lading.core.errors import LadingError
from lading.core.limits import LIMITS
from lading.core.worker_threads import WorkerPool, WorkersStopped
from lading.journal.journal_index import JournalWriter
from lading.journal.records import VerificationRecord, encode_failure, encode_proof, encode_void
from lading.objectstore.bucket_probe import BucketProbe
from lading.objectstore.object_info import StoreError
from lading.objectstore.silence import Silence
from lading.objectstore.target import FailureKind
from lading.plan.planned_object import PlannedObject
from lading.upload.engines.base import Engine, TransferOutcome, UploadTask
from lading.upload.engines.threads import describe_error
from lading.upload.prepare import Preparation, Prepared
from lading.verification.compare import Comparison, make_proof, planned

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

T = TypeVar("T")

GROUP = 1000  # objects in a preparation and in a proof: one listing request
GROUP_BYTES = 64 * 10**9  # in a preparation: what is there already is read whole before it is adopted
PROOF_SECONDS = 3.0  # what was sent waits at most this long for others to be listed with
GATHER_SECONDS = 0.003  # with work in hand for all: take outcomes of many small files at a time, not each alone
ATTEMPTS = 5
BACKOFF_SECONDS = LIMITS.backoff
LAST_SECONDS = LIMITS.last  # after the grace: what is sent is read and proven, if it does not take longer
CUT_SECONDS = 1.5  # then: from the end of the readings to that of the requests
STALL_SECONDS = LIMITS.stall
ASKED = 20  # keys asked for by themselves before the listing that lacks them is believed
STALL_BYTES = 200_000  # bytes/s: a slower transfer counts as stalled


@dataclass
class UploadCounters:
    """What a run did; bytes are of the files."""

    sent: int = 0
    sent_bytes: int = 0
    adopted: int = 0
    proven: int = 0
    proven_bytes: int = 0
    failed: int = 0
    retries: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineSet:
    """The engines: ``first`` carries what it accepts; ``second`` the rest and what first failed.

    ``huge`` takes files of at least ``huge_bytes``, with resumable parts.
    """

    first: Engine
    second: Engine
    huge: Engine | None = None
    huge_bytes: int = 20 * 10**9

    def choose(self, task: UploadTask, attempts: int) -> Engine:
        """Return the engine for a task at its n-th attempt, counted from 0."""
        if self.huge is not None and task.size >= self.huge_bytes:
            return self.huge
        if self.first.accepts(task) is not None or attempts >= 2:
            return self.second
        return self.first

    def all(self) -> list[Engine]:
        """Return the engines."""
        return [self.first, self.second, *([self.huge] if self.huge is not None else [])]


@dataclass
class _Flight:
    """An item on its way."""

    item: PlannedObject
    task: UploadTask
    stamp: FileState
    attempts: int = 0
    digests: PrefetchedDigest | None = None
    engine: Engine | None = None


@dataclass(frozen=True)
class _Verdict:
    flight: _Flight
    proof: VerificationRecord | None
    reason: str = ""
    again: bool = True


def cut_by_bytes(items: Sequence[PlannedObject], most: int) -> Iterator[Sequence[PlannedObject]]:
    """Yield the items in order, in pieces of at most this many bytes, but of one item at least."""
    first = held = 0
    for place, item in enumerate(items):
        if held + item.size > most and place > first:
            yield items[first:place]
            first, held = place, 0
        held += item.size
    if first < len(items):
        yield items[first:]


class UploadPipeline:
    """One run of the loop. ``settled`` is called with each item and whether it is proven."""

    def __init__(
        self,
        crew: EngineSet,
        store: "ObjectStore",
        comparison: Comparison,
        journal: JournalWriter,
        reader: DigestPrefetch,
        *,
        prefix: str = "",
        no_overwrite: bool = False,
        settled: Callable[[PlannedObject, bool], None] = lambda item, proven: None,
        idle: Callable[[], None] = lambda: None,
        pulse: Callable[[], float] | None = None,
        silence: Silence | None = None,
        patience: float = LIMITS.patience,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.tally = UploadCounters()
        self.stopping = ""  # why no more is fed
        self.error: LadingError | None = None
        self.deadline = float("inf")  # by the monotonic clock
        self._crew, self._store, self._comparison, self._journal = crew, store, comparison, journal
        self._prefix, self._settled, self._patience = prefix, settled, patience
        self._idle, self._pulse, self._silence = idle, pulse, silence
        self._clerks = WorkerPool(8, "clerk")
        self._reader = reader
        self._preparation = Preparation(store, comparison, reader, no_overwrite)
        self._ready: deque[_Flight] = deque()
        self._delayed: list[tuple[float, _Flight]] = []
        self._flying: dict[str, _Flight] = {}
        self._landed: list[_Flight] = []
        self._landed_since = 0.0
        self._preparing: deque[tuple[Sequence[PlannedObject], Future[Prepared]]] = deque()
        self._proving: list[tuple[Sequence[_Flight], Future[list[_Verdict]]]] = []
        self._tries: dict[str, int] = {}
        self._tail: list[PlannedObject] = []
        self._note = note
        self._succeeded: set[str] = set()  # names of engines
        self._told: set[str] = set()
        self._last_fault = ""  # of the first engine
        self._probe: Future[tuple[StoreError | None, bool]] | None = None
        self._misses = 0
        self._credit = float("inf")  # how much may be outstanding, once the server asked for less
        self._heard = [time.monotonic() for _ in crew.all()]  # of each engine
        self._cut = 0.0  # when all that is read was cut off
        self._revisit: list[PlannedObject] = []
        self._stopped = threading.Event()  # set by the loop, since it holds a lock, which a signal handler must not

    def stop(self, reason: str) -> None:
        """Feed no more; what is in flight is finished and proven. Safe from a signal handler."""
        self.stopping = self.stopping or reason

    def run(
        self, groups: Iterator[list[PlannedObject]], grace: Callable[[], float] = lambda: float("inf")
    ) -> UploadCounters:
        """Ship all groups; returns what was done. ``grace`` tells the seconds left for what is in flight after a stop.

        Raises ``LadingError`` for what ends a run, after proving what was sent.
        """
        if self._silence is not None:
            self._silence.watch(self._waits)
        try:
            more = True
            while True:
                if time.monotonic() > self.deadline:
                    self.stop("the time given is used up")
                more = self._pull(groups) if more and not self.stopping else False
                self._look_again()
                self._settle_prepared()
                self._feed()
                self._reader.begin()
                self._listen()
                self._prove(flush=not more)
                self._settle_proofs()
                if self.stopping and self._abandon(grace()):
                    break
                if not more and not self._busy():
                    if not self._tail or self.stopping:
                        break
                    groups, more = self._again(), True
        finally:
            self._stopped.set()
            self._preparation.stop()
            self._reader.stop()
            if self._silence is not None:
                self._silence.unwatch()
            self._clerks.close()
        if self.error:
            raise self.error
        return self.tally

    def _busy(self) -> bool:
        waiting = self._preparing or self._revisit or self._ready or self._delayed
        return bool(waiting or self._flying or self._landed or self._proving) or self._probe is not None

    # -- prepare ---------------------------------------------------------------------------------------------------

    def _pull(self, groups: Iterator[list[PlannedObject]]) -> bool:
        """Begin to prepare groups while the engines could run dry; False when there are none left."""
        while len(self._preparing) < 4 and len(self._ready) < 2 * GROUP and len(self._landed) < 4 * GROUP:
            group = next(groups, None)
            if group is None:
                return False
            if not group:  # the source waits for other processes, and they perhaps for what failed here
                if self._tail and not self._busy():
                    for late in self._again():
                        self._begin(late)
                    return True
                time.sleep(0.02 if self._busy() else 0.3)
                return True
            self._begin(group)
        return True

    def _begin(self, group: list[PlannedObject]) -> None:
        for piece in cut_by_bytes(group, GROUP_BYTES):
            prepare = partial(self._preparation.prepare, piece)
            self._preparing.append((piece, self._clerks.submit(self._patiently, prepare)))

    def _look_again(self) -> None:
        group, self._revisit = self._revisit[:GROUP], self._revisit[GROUP:]
        if group:
            self._begin(group)

    def _settle_prepared(self) -> None:
        while self._preparing and self._preparing[0][1].done():
            items, work = self._preparing.popleft()
            try:
                prepared = work.result()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of this group
                self._blame(error, items)
                continue
            voids = [encode_void(e[0].key, e[0].generation - 1, "changed") for e in prepared.ready if e[0].voids]
            self._journal.write(voids)
            for item, task, stamp in prepared.ready:
                flight = _Flight(item, task, stamp, self._tries.get(item.key, 0))
                self._ready.append(flight)
            if prepared.adopted:
                self._journal.write([encode_proof(proof, planned(item, proof)) for item, proof in prepared.adopted])
            for item, proof in prepared.adopted:
                self._count_proof(item, proof, adopted=True)
            for item, failure, reason in prepared.faults:
                self._give_up(item, failure, reason)

    def _blame(self, error: Exception, items: Sequence[PlannedObject]) -> None:
        """Settle what a clerk raised: the bucket's state ends the run, all else is a failure of the items."""
        if isinstance(error, WorkersStopped):
            return  # cut off: for the next run
        if isinstance(error, StoreError):
            self._halt(error)
            return
        for item in items:
            self._give_up(item, FailureKind.OBJECT, describe_error(error))

    def _pause(self, failures: int) -> float:
        return min(BACKOFF_SECONDS, 2.0**failures) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do a job that asks the bucket, again while the bucket is only slow to answer."""
        deadline = float("inf")  # from the first failure: what the job reads and hashes before it may take hours
        for attempt in range(1000):
            try:
                return work()
            except StoreError as error:
                deadline = min(deadline, time.monotonic() + self._patience)
                pause = self._pause(attempt)
                if error.failure is not FailureKind.TRANSIENT or time.monotonic() + pause > deadline or self.stopping:
                    raise
                self._stopped.wait(pause)  # a stop leaves one more try
        raise AssertionError("unreachable")

    # -- send ------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        now = time.monotonic()
        if self._delayed:
            due = [entry for entry in self._delayed if entry[0] <= now]
            if due:
                self._delayed = [entry for entry in self._delayed if entry[0] > now]
                self._ready.extendleft(flight for _, flight in due)
        engines = self._crew.all()
        if self.stopping or self._probe is not None:
            return
        blocked: list[_Flight] = []
        while self._ready:
            flight = self._ready[0]
            engine = self._crew.choose(flight.task, flight.attempts)
            limit = min(engine.window, self._credit) if engine is self._crew.first else engine.window
            if engine.outstanding >= limit:
                if engine is self._crew.first or len(blocked) > GROUP:
                    break
                blocked.append(self._ready.popleft())  # the other engine is full: others may pass
                continue
            self._ready.popleft()
            if not engine.outstanding:
                self._heard[engines.index(engine)] = now
            self._flying[flight.item.key] = flight
            flight.engine = engine
            if engine is self._crew.second:
                self._tell_swap(flight)
            flight.digests = self._reader.add(flight.item.local, flight.task.size)
            engine.submit(flight.task)
        self._ready.extendleft(reversed(blocked))

    def _tell_swap(self, flight: _Flight) -> None:
        """Say once why the second engine has to do what the first was asked to."""
        first, second = self._crew.first, self._crew.second
        if first.name == second.name:
            return
        unfit = first.accepts(flight.task)
        if unfit is not None:
            kind, text = "unfit", f"{first.name} cannot carry every file, so {second.name} does ({unfit})"
        elif first.name not in self._succeeded and self._last_fault:
            kind = "failing"
            text = f"{first.name} sent nothing so far, so {second.name} sends what fails by it: {self._last_fault}"
        else:
            return
        if kind not in self._told:
            self._told.add(kind)
            self._note(text)

    def _listen(self) -> None:
        """Take what the engines report; waits a moment when there is nothing else to do."""
        engines = self._crew.all()
        active = [engine for engine in engines if engine.outstanding]
        if not active and self._busy():
            time.sleep(0.005)
        if any(engine.outstanding > engine.window // 2 for engine in active):
            time.sleep(GATHER_SECONDS)
        for engine in active:
            for outcome in engine.poll(0.05 if len(active) == 1 else 0.02):
                self._heard[engines.index(engine)] = time.monotonic()
                if self._silence is not None and (outcome.ok or outcome.answered):
                    self._silence.answered()
                self._land(outcome)
        self._idle()
        self._watch()
        if self._probe is not None and self._probe.done():
            try:
                error, outage = self._probe.result()
            except Exception as fault:  # noqa: BLE001 - the bucket cannot even be asked
                error, outage = StoreError(FailureKind.STOP, describe_error(fault)), False
            self._probe, self._misses = None, 0
            if error:
                self._halt(error)
            elif outage:
                self._tries.clear()
                for _, flight in self._delayed:
                    flight.attempts = 0

    def _waits(self) -> tuple[bool, float]:
        """Tell whether an engine waits for the server, and when the last byte moved; asked by another thread."""
        active = [engine for engine in self._crew.all() if engine.outstanding]
        moved = [engine.moved for engine in active]
        return bool(active), max((time.monotonic() if when is None else when for when in moved), default=0.0)

    def _watch(self) -> None:
        """Restart an engine that went silent: some would wait for ever, and what it sends is sent anew."""
        now = time.monotonic()
        for place, engine in enumerate(self._crew.all()):
            if not engine.outstanding or now - self._heard[place] < STALL_SECONDS:
                continue
            flights = [flight for flight in self._flying.values() if flight.engine is engine]
            # Where bytes are counted, silence is known; else it is guessed from the largest file in flight.
            moved = engine.moved if engine.moved is not None or self._pulse is None else self._pulse()
            guess = max((flight.task.size for flight in flights), default=0) / STALL_BYTES if moved is None else 0.0
            if now - max(self._heard[place], moved or 0.0) < STALL_SECONDS + guess:
                continue
            engine.close()
            self._heard[place] = time.monotonic()
            for flight in flights:
                del self._flying[flight.item.key]
                self._retry(flight, FailureKind.TRANSIENT, f"nothing moved for {STALL_SECONDS:.0f} s")
            if self._probe is None and not self.stopping:
                self._probe = self._clerks.submit(self._ask, False)

    def _land(self, outcome: TransferOutcome) -> None:
        flight = self._flying.pop(outcome.task.key, None)
        if flight is None:
            return
        if flight.engine is self._crew.first:
            self._last_fault = outcome.message or self._last_fault
        if outcome.ok:
            if flight.engine is not None:
                self._succeeded.add(flight.engine.name)
            self._misses = 0
            self._credit += 0.1
            self.tally.sent += 1
            self.tally.sent_bytes += flight.task.size
            if not self._landed:
                self._landed_since = time.monotonic()
            self._landed.append(flight)
            return
        self._misses += 1
        if "SlowDown" in outcome.message or "503" in outcome.message:
            self._credit = max(4.0, min(self._credit, self._crew.first.outstanding + 1) * 0.7)
        if outcome.failure is FailureKind.STOP or (outcome.failure is FailureKind.TRANSIENT and self._misses >= 8):
            if self._probe is None and not self.stopping:
                self._probe = self._clerks.submit(self._ask, outcome.failure is FailureKind.STOP)
            self._delay(flight, outcome, 0.5)
        elif outcome.failure is FailureKind.REFUSED:
            self._give_up(flight.item, FailureKind.REFUSED, "the bucket holds another object under its key")
        else:
            self._retry(flight, outcome.failure or FailureKind.OBJECT, outcome.message)

    def _delay(self, flight: _Flight, outcome: TransferOutcome, seconds: float) -> None:
        """Send again after the endpoint was asked what is wrong; counts as an attempt all the same."""
        flight.attempts = self._tries[flight.item.key] = flight.attempts + 1
        if flight.attempts > 2 * ATTEMPTS:
            self._give_up(flight.item, outcome.failure or FailureKind.OBJECT, outcome.message)
        else:
            self._delayed.append((time.monotonic() + seconds, flight))

    def _ask(self, write: bool) -> tuple[StoreError | None, bool]:
        """Return (what is wrong with the bucket or None, whether it was out for a while)."""
        deadline = time.monotonic() + self._patience
        for attempt in range(1000):
            try:
                if write:
                    BucketProbe(self._store, self._prefix).sing()
                else:
                    self._store.page(self._prefix)
                return None, attempt > 0
            except StoreError as error:
                pause = self._pause(attempt)
                if error.failure is not FailureKind.TRANSIENT or time.monotonic() + pause > deadline or self.stopping:
                    return error, True
                self._stopped.wait(pause)
        raise AssertionError("unreachable")

    def _retry(self, flight: _Flight, failure: FailureKind, reason: str) -> None:
        """Look at the file again after a pause, and send it again; the last word after ``ATTEMPTS``."""
        item = flight.item
        tries = self._tries[item.key] = flight.attempts + 1
        self.tally.retries += 1
        if tries == ATTEMPTS - 1 and not self.stopping:
            self._tail.append(item)  # the end of the queue
        elif tries >= ATTEMPTS:
            self._give_up(item, failure, reason)
        elif failure is FailureKind.TRANSIENT:
            flight.attempts = tries
            self._delayed.append((time.monotonic() + self._pause(tries - 1), flight))
        else:
            # One more try by the second client; what ails the file itself shows in the preparation.
            self._tries[item.key] = max(tries, 2)
            self._revisit.append(item)

    def _again(self) -> Iterator[list[PlannedObject]]:
        tail, self._tail = self._tail, []
        for start in range(0, len(tail), GROUP):
            yield tail[start : start + GROUP]

    def _give_up(self, item: PlannedObject, failure: FailureKind, reason: str) -> None:
        self.tally.failed += 1
        self.tally.reasons[reason] = self.tally.reasons.get(reason, 0) + 1
        tries = self._tries.pop(item.key, 0) + 1
        self._journal.write([encode_failure(item.key, item.path, item.batch, failure.value, reason, tries)])
        self._settled(item, False)

    def _halt(self, error: StoreError) -> None:
        """End the run for a reason that would meet every object."""
        self.error = self.error or error
        self.stop(str(error))

    def _abandon(self, seconds: float) -> bool:
        """After a stop: forget what was not begun; cut off what is in flight when the grace is over.

        Returns True when nothing more is waited for.
        """
        self._stopped.set()
        self._preparing = deque(entry for entry in self._preparing if not entry[1].cancel())
        self._ready.clear()
        self._delayed.clear()
        self._revisit.clear()
        for engine in self._crew.all():
            engine.drain()
        if seconds <= 0 and self._flying:
            for engine in self._crew.all():
                engine.close()
            self._flying.clear()
        if seconds <= 0:
            self._preparation.stop()
        if seconds > -LAST_SECONDS:
            return False
        self._reader.stop()
        now = time.monotonic()
        self._cut = self._cut or now
        if now - self._cut > CUT_SECONDS:
            self._clerks.leash.cut()
        return now - self._cut > CUT_SECONDS + 0.5

    # -- prove -----------------------------------------------------------------------------------------------------

    def _prove(self, *, flush: bool) -> None:
        idle = not self._flying and not self._ready and not self._preparing
        waited = time.monotonic() - self._landed_since > PROOF_SECONDS
        if self._landed and (len(self._landed) >= GROUP or waited or (idle and (flush or not self._delayed))):
            group, self._landed = self._landed, []
            self._reader.begin(flush=True)
            self._proving.append((group, self._clerks.submit(self._patiently, lambda: self._compare(group))))

    def _compare(self, flights: Sequence[_Flight]) -> list[_Verdict]:
        """Return a verdict for each item that an engine says it stored."""
        digests: dict[str, FileDigests | OSError] = {}
        for flight in flights:
            assert flight.digests is not None
            digests[flight.item.key] = flight.digests.result()
        statuses = self._preparation.statuses(flight.item.local for flight in flights)
        listed = self._store.find((flight.item.key for flight in flights), doubt=ASKED)
        verdicts = []
        for flight, status in zip(flights, statuses):
            item, known = flight.item, digests[flight.item.key]
            there = listed.get(item.key)
            if isinstance(known, OSError) or isinstance(status, OSError):
                verdicts.append(_Verdict(flight, None, "it vanished or became unreadable while it was sent"))
            elif not (flight.stamp == known.before == known.after == FileState.of(status)):
                verdicts.append(_Verdict(flight, None, "it changed while it was sent"))
            elif there is None:
                verdicts.append(_Verdict(flight, None, "the bucket does not list it after it was sent"))
            else:
                method = self._comparison.match(item.local, there, known)
                proof = make_proof(item, there, known, method) if method else None
                reason = f"the bucket holds other bytes (size {there.size}, ETag {there.etag})"
                verdicts.append(_Verdict(flight, proof, "" if proof else reason))
        return verdicts

    def _settle_proofs(self) -> None:
        running = []
        for flights, work in self._proving:
            if not work.done():
                running.append((flights, work))
                continue
            try:
                verdicts = work.result()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of this group
                self._blame(error, [flight.item for flight in flights])
                continue
            proofs = [(verdict.flight.item, verdict.proof) for verdict in verdicts if verdict.proof]
            self._journal.write([encode_proof(proof, planned(item, proof)) for item, proof in proofs])
            for item, proof in proofs:
                self._count_proof(item, proof)
            for verdict in verdicts:
                if verdict.proof is None and not self.stopping:
                    self._retry(verdict.flight, FailureKind.OBJECT, verdict.reason)
        self._proving = running

    def _count_proof(self, item: PlannedObject, proof: VerificationRecord, *, adopted: bool = False) -> None:
        self._tries.pop(item.key, None)
        self.tally.adopted += adopted
        self.tally.proven += 1
        self.tally.proven_bytes += proof.size
        self._settled(item, True)
