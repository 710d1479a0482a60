"""The loop of an upload: prepare → send (and hash beside it) → verify, three stages joined by bounded queues.

Input: groups of items, engines, the bucket. Output: verification records in
the journal, and for each item whether it is verified.
Invariant: work in flight is bounded: two groups ahead of the engines, one
window in them, some groups in verification. What a worker raises counts
against the items it worked on, or ends the run when the bucket is the reason.
"""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lading.checksums.digest_prefetch import DigestPrefetch
from lading.core.limits import LIMITS
from lading.journal.journal_writer import JournalWriter
from lading.objectstore.silence import Silence
from lading.objectstore.target import FailureKind
from lading.plan.object_settings import ObjectSettings
from lading.plan.planned_object import PlannedObject
from lading.upload.prepare import Preparation
from lading.upload.prepare_stage import PrepareStage
from lading.upload.run_state import InFlight, RunState, UploadCounters
from lading.upload.send_stage import BucketDoctor, EngineSet, Exits, SendStage
from lading.upload.verify_stage import VerifyStage
from lading.verification.compare import Comparison

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

LAST_SECONDS = LIMITS.last  # after the grace: what is sent is read and verified, if it does not take longer
CUT_SECONDS = 1.5  # then: from the end of the readings to that of the requests


class UploadPipeline:
    """One run of the loop. ``settled`` is called with each item and whether it is verified."""

    def __init__(
        self,
        engines: EngineSet,
        store: "ObjectStore",
        comparison: Comparison,
        journal: JournalWriter,
        reader: DigestPrefetch,
        *,
        prefix: str = "",
        no_overwrite: bool = False,
        objects: ObjectSettings | None = None,
        settled: Callable[[PlannedObject, bool], None] = lambda item, proven: None,
        idle: Callable[[], None] = lambda: None,
        pulse: Callable[[], float] | None = None,
        silence: Silence | None = None,
        patience: float = LIMITS.patience,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.deadline = float("inf")  # by the monotonic clock
        self._state = RunState(journal, settled, note, patience)
        self._reader, self._idle, self._silence = reader, idle, silence
        self._preparation = Preparation(store, comparison, reader, no_overwrite, objects or ObjectSettings())
        self._prepare = PrepareStage(self._state, self._preparation)
        self._verify = VerifyStage(self._state, store, comparison, self._preparation, reader)
        exits = Exits(self._verify.take, self._prepare.recheck, self._prepare.last_of_all)
        doctor = BucketDoctor(self._state, store, prefix)
        self._send = SendStage(
            self._state, engines, reader, self._prepare.ready, exits, doctor, last_activity=pulse, silence=silence
        )
        self._cut = 0.0  # when all that is read was cut off

    @property
    def counters(self) -> UploadCounters:
        """Return what was done so far."""
        return self._state.counters

    @property
    def stopping(self) -> str:
        """Return why no more is fed; empty while it goes on."""
        return self._state.stopping

    def stop(self, reason: str) -> None:
        """Feed no more; what is in flight is finished and verified. Safe from a signal handler."""
        self._state.stop(reason)

    def run(
        self, groups: Iterator[list[PlannedObject]], grace: Callable[[], float] = lambda: float("inf")
    ) -> UploadCounters:
        """Upload all groups; returns what was done. ``grace``: the seconds left for what is in flight after a stop.

        Raises ``LadingError`` for what ends a run, after verifying what was sent.
        """
        if self._silence is not None:
            self._silence.watch(self._send.waits)
        try:
            self._loop(groups, grace)
        finally:
            self._state.stopped.set()
            self._preparation.stop()
            self._reader.stop()
            if self._silence is not None:
                self._silence.unwatch()
            self._state.workers.close()
        if self._state.error:
            raise self._state.error
        return self._state.counters

    def _loop(self, groups: Iterator[list[PlannedObject]], grace: Callable[[], float]) -> None:
        state, prepare, send, verify = self._state, self._prepare, self._send, self._verify
        more = True
        while True:
            if time.monotonic() > self.deadline:
                state.stop("the time limit is reached")
            more = prepare.pull(groups, verify.full, self._busy) if more and not state.stopping else False
            prepare.step()
            send.feed()
            self._reader.begin()
            send.listen(busy=self._busy())
            self._idle()
            send.watch()
            dry = not send.in_flight and not prepare.ready and not prepare.preparing
            verify.begin(flush=dry and (not more or not send.delayed))
            verify.step(self._fail)
            if state.stopping and self._abandon(grace()):
                return
            if not more and not self._busy():
                if not prepare.last or state.stopping:
                    return
                groups, more = prepare.take_last(), True

    def _busy(self) -> bool:
        return not (self._prepare.idle and not self._prepare.ready and self._send.idle and self._verify.idle)

    def _fail(self, flight: InFlight, reason: str) -> None:
        self._send.retry(flight, FailureKind.OBJECT, reason)

    def _abandon(self, seconds: float) -> bool:
        """After a stop: forget what was not begun; cut off what is in flight when the grace is over.

        Returns True when nothing more is waited for.
        """
        self._state.stopped.set()
        self._prepare.forget()
        self._send.drain(cut=seconds <= 0)
        if seconds <= 0:
            self._preparation.stop()
        if seconds > -LAST_SECONDS:
            return False
        self._reader.stop()
        now = time.monotonic()
        self._cut = self._cut or now
        if now - self._cut > CUT_SECONDS:
            self._state.workers.leash.cut()
        return now - self._cut > CUT_SECONDS + 0.5
