"""The middle stage of the upload: engines carry what is ready to the bucket.

Input: a queue of ``InFlight`` objects. Output: those that an engine says it
stored; the others wait for another try, are prepared again or given up.
Invariant: engines hold at most their window each; an object is in one engine
at a time; nothing is waited for longer than ``limits.py`` says.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lading.checksums.digest_prefetch import DigestPrefetch
from lading.core.limits import LIMITS
from lading.objectstore.bucket_probe import BucketProbe
from lading.objectstore.object_info import StoreError
from lading.objectstore.silence import Silence
from lading.objectstore.target import FailureKind
from lading.plan.planned_object import PlannedObject
from lading.upload.cache_room import CacheRoom
from lading.upload.engines.base import Engine, TransferOutcome, UploadTask
from lading.upload.engines.reuse import ReuseEngine
from lading.upload.engines.threads import describe_error
from lading.upload.run_state import GROUP, InFlight, RunState

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

GATHER_SECONDS = 0.003  # with work in hand for all: take outcomes of many small files at a time, not each alone
ATTEMPTS = 5
STALL_SECONDS = LIMITS.stall
STALL_BYTES = 200_000  # bytes/s: a slower transfer counts as stalled
MANY_ERRORS = 8  # one after the other: the bucket is asked what is wrong


@dataclass(frozen=True)
class EngineSet:
    """The engines: ``first`` carries what it accepts; ``second`` the rest; ``last`` what both failed or do not accept.

    Without ``last``, second does its work. ``huge`` takes files of at least ``huge_bytes``, with resumable parts.
    ``reuse`` has the server copy what it holds.
    """

    first: Engine
    second: Engine
    huge: Engine | None = None
    huge_bytes: int = 20 * 10**9
    reuse: ReuseEngine | None = None
    last: Engine | None = None

    def choose(self, task: UploadTask, attempts: int) -> Engine:
        """Return the engine for a task at its n-th attempt, counted from 0."""
        if self.huge is not None and task.size >= self.huge_bytes:
            return self.huge
        if attempts < 2 and self.first.accepts(task) is None:
            return self.first
        if self.last is not None and (attempts >= 2 or self.second.accepts(task) is not None):
            return self.last
        return self.second

    def all(self) -> list[Engine]:
        """Return the engines."""
        more = (self.huge, self.reuse, self.last)
        return [self.first, self.second, *(engine for engine in more if engine is not None)]

    def choose_for(self, flight: InFlight) -> Engine:
        """Return the engine for an object: the server itself while it may hold its content."""
        if self.reuse is not None and not flight.is_new and not flight.attempts and self.reuse.takes(flight.task):
            return self.reuse
        return self.choose(flight.task, flight.attempts)


@dataclass(frozen=True)
class Exits:
    """Where an object goes from here: ``sent``; ``recheck`` prepares it again, ``last`` at the end of the queue."""

    sent: Callable[[InFlight], None]
    recheck: Callable[[PlannedObject], None]
    last: Callable[[PlannedObject], None]


class BucketDoctor:
    """Asks, after errors that would meet every object, what is wrong with the bucket."""

    def __init__(self, run: RunState, store: "ObjectStore", prefix: str) -> None:
        self._run, self._store, self._prefix = run, store, prefix
        self._asking: Future[tuple[None, int]] | None = None

    @property
    def asking(self) -> bool:
        """Tell whether it waits for an answer."""
        return self._asking is not None

    def ask(self, *, write: bool) -> None:
        """Ask, unless it does already; ``write``: whether objects can be written."""
        if self._asking is None and not self._run.stopping:
            check = BucketProbe(self._store, self._prefix).run if write else partial(self._look, self._prefix)
            self._asking = self._run.workers.submit(self._run.count_retries, check)

    def _look(self, prefix: str) -> None:
        self._store.page(prefix)

    def receive(self) -> bool | None:
        """Return None while nothing was answered, else whether the bucket was out for a while; a fault ends the run."""
        if self._asking is None or not self._asking.done():
            return None
        answer, self._asking = self._asking, None
        try:
            return answer.result()[1] > 0
        except StoreError as error:
            self._run.halt(error)
        except Exception as error:  # noqa: BLE001 - the bucket cannot even be asked
            self._run.halt(StoreError(FailureKind.STOP, describe_error(error)))
        return False


class SendStage:
    """Feeds the engines and hears them."""

    def __init__(
        self,
        run: RunState,
        engines: EngineSet,
        reader: DigestPrefetch,
        ready: deque[InFlight],
        exits: Exits,
        doctor: BucketDoctor,
        *,
        last_activity: Callable[[], float] | None = None,
        silence: Silence | None = None,
    ) -> None:
        self._run, self._engines, self._reader = run, engines, reader
        self._ready, self._exits, self._doctor = ready, exits, doctor
        self._last_activity, self._silence = last_activity, silence
        self._cache = CacheRoom()
        self._delayed: list[tuple[float, InFlight]] = []
        self._in_flight: dict[str, InFlight] = {}
        self._reports = Reports(engines, run.note)
        self._consecutive_errors = 0
        self._concurrency = float("inf")  # how much may be outstanding, once the server asked for less
        self._heard = [time.monotonic() for _ in engines.all()]  # of each engine

    @property
    def idle(self) -> bool:
        """Tell whether no engine has anything, nothing waits for another try and the bucket is not being asked."""
        return not self._in_flight and not self._delayed and not self._doctor.asking

    @property
    def in_flight(self) -> int:
        """Return how many objects the engines hold."""
        return len(self._in_flight)

    @property
    def delayed(self) -> bool:
        """Tell whether objects wait for another try."""
        return bool(self._delayed)

    def feed(self) -> None:
        """Hand to the engines what they have room for."""
        now = time.monotonic()
        if self._delayed:
            due = [entry for entry in self._delayed if entry[0] <= now]
            if due:
                self._delayed = [entry for entry in self._delayed if entry[0] > now]
                self._ready.extendleft(flight for _, flight in due)
        if self._run.stopping or self._doctor.asking:
            return
        engines, first = self._engines.all(), self._engines.first
        blocked: list[InFlight] = []
        while self._ready:
            flight = self._ready[0]
            engine = self._engines.choose_for(flight)
            limit = min(engine.window, self._concurrency) if engine is first else engine.window
            if engine.outstanding >= limit:
                if engine is first or len(blocked) > GROUP:
                    break
                blocked.append(self._ready.popleft())  # the other engine is full: others may pass
                continue
            if not self._cache.takes(flight, self._in_flight):
                if len(blocked) > GROUP:
                    break
                blocked.append(self._ready.popleft())  # smaller ones may pass
                continue
            self._ready.popleft()
            self._cache.enter(flight)
            if not engine.outstanding:
                self._heard[engines.index(engine)] = now
            self._in_flight[flight.item.key] = flight
            flight.engine = engine
            if engine in (self._engines.second, self._engines.last):
                self._reports.swap(flight, engine)
            if flight.digests is None or not flight.is_new:
                flight.digests = self._reader.add(flight.item.local, flight.task.size)
            if isinstance(engine, ReuseEngine):
                engine.expect(flight.task, flight.digests)
                self._reader.begin(flush=True)  # it waits for them
            engine.submit(flight.task)
        self._ready.extendleft(reversed(blocked))

    def listen(self, *, busy: bool) -> None:
        """Take what the engines report; waits a moment when there is nothing else to do."""
        engines = self._engines.all()
        active = [engine for engine in engines if engine.outstanding]
        if not active and busy:
            time.sleep(0.005)
        if any(engine.outstanding > engine.window // 2 for engine in active):
            time.sleep(GATHER_SECONDS)
        for engine in active:
            for outcome in engine.poll(0.05 if len(active) == 1 else 0.02):
                self._heard[engines.index(engine)] = time.monotonic()
                if self._silence is not None and (outcome.ok or outcome.answered):
                    self._silence.answered()
                self._complete(outcome)

    def watch(self) -> None:
        """Restart an engine that went silent: some would wait for ever, and what it sends is sent anew."""
        now = time.monotonic()
        for place, engine in enumerate(self._engines.all()):
            if not engine.outstanding or now - self._heard[place] < STALL_SECONDS:
                continue
            flights = [flight for flight in self._in_flight.values() if flight.engine is engine]
            # Where bytes are counted, silence is known; else it is guessed from the largest file in flight.
            moved = engine.moved
            if moved is None and self._last_activity is not None:
                moved = self._last_activity()
            guess = max((flight.task.size for flight in flights), default=0) / STALL_BYTES if moved is None else 0.0
            if now - max(self._heard[place], moved or 0.0) < STALL_SECONDS + guess:
                continue
            engine.close()
            self._heard[place] = time.monotonic()
            for flight in flights:
                del self._in_flight[flight.item.key]
                self.retry(flight, FailureKind.TRANSIENT, f"no data moved for {STALL_SECONDS:.0f} s")
            self._doctor.ask(write=False)
        outage = self._doctor.receive()
        if outage is not None:
            self._consecutive_errors = 0
        if outage:
            self._run.tries.clear()
            for _, flight in self._delayed:
                flight.attempts = 0

    def waits(self) -> tuple[bool, float]:
        """Tell whether an engine waits for the server, and when the last byte moved; asked by another thread."""
        active = [engine for engine in self._engines.all() if engine.outstanding]
        moved = [engine.moved for engine in active]
        return bool(active), max((time.monotonic() if when is None else when for when in moved), default=0.0)

    def drain(self, *, cut: bool) -> None:
        """Begin nothing more; ``cut``: end what the engines are sending too."""
        self._delayed.clear()
        for engine in self._engines.all():
            engine.drain()
        if cut and self._in_flight:
            for engine in self._engines.all():
                engine.close()
            self._in_flight.clear()

    def retry(self, flight: InFlight, failure: FailureKind, reason: str) -> None:
        """Look at the file again after a pause, and send it again; given up after ``ATTEMPTS``."""
        run, item = self._run, flight.item
        tries = run.tries[item.key] = flight.attempts + 1
        run.counters.retries += 1
        if tries == ATTEMPTS - 1 and not run.stopping:
            self._exits.last(item)
        elif tries >= ATTEMPTS:
            run.give_up(item, failure, reason)
        elif failure is FailureKind.TRANSIENT:
            flight.attempts = tries
            self._delayed.append((time.monotonic() + run.pause(tries - 1), flight))
        else:
            # One more try by the second client; what ails the file itself shows in the preparation.
            run.tries[item.key] = max(tries, 2)
            self._exits.recheck(item)

    def _complete(self, outcome: TransferOutcome) -> None:
        flight = self._in_flight.pop(outcome.task.key, None)
        if flight is None:
            return
        self._reports.receive(flight, outcome)
        if outcome.ok:
            counters = self._run.counters
            self._consecutive_errors = 0
            self._concurrency += 0.1
            if flight.engine is self._engines.reuse and self._engines.reuse is not None:
                counters.copied += 1
                counters.copied_bytes += flight.task.size
            else:
                counters.sent += 1
                counters.sent_bytes += flight.task.size
            self._exits.sent(flight)
            return
        if isinstance(flight.engine, ReuseEngine) and outcome.failure is not FailureKind.STOP:
            flight.is_new = True  # it is sent, whatever keeps it from being copied
            self._ready.appendleft(flight)
            return
        self._consecutive_errors += 1
        if "SlowDown" in outcome.message or "503" in outcome.message:
            self._concurrency = max(4.0, min(self._concurrency, self._engines.first.outstanding + 1) * 0.7)
        many = outcome.failure is FailureKind.TRANSIENT and self._consecutive_errors >= MANY_ERRORS
        if outcome.failure is FailureKind.STOP or many:
            self._doctor.ask(write=outcome.failure is FailureKind.STOP)
            self._delay(flight, outcome, 0.5)
        elif outcome.failure is FailureKind.REFUSED:
            self._run.give_up(flight.item, FailureKind.REFUSED, "the bucket holds another object under its key")
        else:
            self.retry(flight, outcome.failure or FailureKind.OBJECT, outcome.message)

    def _delay(self, flight: InFlight, outcome: TransferOutcome, seconds: float) -> None:
        """Send again after the endpoint was asked what is wrong; counts as an attempt all the same."""
        flight.attempts = self._run.tries[flight.item.key] = flight.attempts + 1
        if flight.attempts > 2 * ATTEMPTS:
            self._run.give_up(flight.item, outcome.failure or FailureKind.OBJECT, outcome.message)
        else:
            self._delayed.append((time.monotonic() + seconds, flight))


class Reports:
    """Says once why another engine has to do what the first was asked to."""

    def __init__(self, engines: EngineSet, note: Callable[[str], None]) -> None:
        self._engines, self._note = engines, note
        self._succeeded: set[str] = set()  # names of engines
        self._said: set[str] = set()
        self._last_error = ""  # of the first engine

    def receive(self, flight: InFlight, outcome: TransferOutcome) -> None:
        """Note what an engine reported."""
        if flight.engine is self._engines.first:
            self._last_error = outcome.message or self._last_error
        if outcome.ok and flight.engine is not None:
            self._succeeded.add(flight.engine.name)

    def swap(self, flight: InFlight, engine: Engine) -> None:
        """Say why ``engine`` gets this object."""
        first, kind = self._engines.first, engine.name
        if first.name == engine.name:
            return
        unfit = first.accepts(flight.task)
        if unfit is not None:
            kind += " unfit"
            text = f"{first.name} cannot send every file, so {engine.name} sends the others ({unfit})"
        elif first.name not in self._succeeded and self._last_error:
            text = f"{first.name} has sent nothing so far, so {engine.name} sends what it could not: {self._last_error}"
        else:
            return
        if kind not in self._said:
            self._said.add(kind)
            self._note(text)
