"""The last stage of the upload: what engines say they stored is looked for in the bucket and compared.

Input: ``InFlight`` objects that were sent. Output: verification records in
the journal; what did not match, for another try.
Invariant: only ``step`` writes ``done`` for what was sent, and only for what
the bucket was seen to hold after it was sent, of a file that did not change.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lading.checksums.digest import FileDigests, FileState
from lading.checksums.digest_prefetch import DigestPrefetch
from lading.journal.records import VerificationRecord, encode_verification
from lading.upload.prepare import Preparation
from lading.upload.run_state import GROUP, InFlight, RunState
from lading.verification.compare import Comparison, make_record, planned

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

WAIT_SECONDS = 3.0  # what was sent waits at most this long for others to be listed with
MOST_SENT = 4 * GROUP  # that wait here; then no more is prepared
ASKED = 20  # keys asked for by themselves before the listing that lacks them is believed


@dataclass(frozen=True)
class _Compared:
    flight: InFlight
    record: VerificationRecord | None
    reason: str = ""


class VerifyStage:
    """Compares what was sent, a group at a time, on the run's workers."""

    def __init__(
        self,
        run: RunState,
        store: "ObjectStore",
        comparison: Comparison,
        preparation: Preparation,
        reader: DigestPrefetch,
    ) -> None:
        self._run, self._store, self._comparison = run, store, comparison
        self._preparation, self._reader = preparation, reader
        self._sent: list[InFlight] = []
        self._since = 0.0
        self._comparing: list[tuple[Sequence[InFlight], Future[list[_Compared]]]] = []

    @property
    def idle(self) -> bool:
        """Tell whether nothing is here."""
        return not self._sent and not self._comparing

    @property
    def full(self) -> bool:
        """Tell whether the stages before should wait."""
        return len(self._sent) >= MOST_SENT

    def take(self, flight: InFlight) -> None:
        """Take an object that an engine says it stored."""
        if not self._sent:
            self._since = time.monotonic()
        self._sent.append(flight)

    def begin(self, *, flush: bool) -> None:
        """Begin to compare, where there is enough or it waited long enough; ``flush``: whatever there is."""
        waited = time.monotonic() - self._since > WAIT_SECONDS
        if self._sent and (len(self._sent) >= GROUP or waited or flush):
            group, self._sent = self._sent, []
            self._reader.begin(flush=True)
            compare = partial(self._compare, group)
            self._comparing.append((group, self._run.workers.submit(self._run.retry, compare)))

    def step(self, fail: Callable[[InFlight, str], None]) -> None:
        """Record what was compared; ``fail`` is told what did not match, and why."""
        run, running = self._run, []
        for flights, work in self._comparing:
            if not work.done():
                running.append((flights, work))
                continue
            try:
                compared = work.result()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of this group
                run.attribute(error, [flight.item for flight in flights])
                continue
            records = [(one.flight.item, one.record) for one in compared if one.record]
            run.journal.write([encode_verification(record, planned(item, record)) for item, record in records])
            for item, record in records:
                run.count_verified(item, record)
            for one in compared:
                if one.record is None and not run.stopping:
                    fail(one.flight, one.reason)
        self._comparing = running

    def _compare(self, flights: Sequence[InFlight]) -> list[_Compared]:
        """Return the result for each object that an engine says it stored."""
        digests: dict[str, FileDigests | OSError] = {}
        for flight in flights:
            assert flight.digests is not None
            digests[flight.item.key] = flight.digests.result()
        statuses = self._preparation.statuses(flight.item.local for flight in flights)
        listed = self._store.find((flight.item.key for flight in flights), doubt=ASKED)
        compared = []
        for flight, status in zip(flights, statuses):
            item, known = flight.item, digests[flight.item.key]
            there = listed.get(item.key)
            if isinstance(known, OSError) or isinstance(status, OSError):
                compared.append(_Compared(flight, None, "it disappeared or became unreadable while it was sent"))
            elif not (flight.stamp == known.before == known.after == FileState.of(status)):
                compared.append(_Compared(flight, None, "it changed while it was sent"))
            elif there is None:
                compared.append(_Compared(flight, None, "the bucket does not list it after it was sent"))
            else:
                method = self._comparison.match(item.local, there, known)
                record = make_record(item, there, known, method) if method else None
                reason = f"the bucket holds other bytes (size {there.size}, ETag {there.etag})"
                compared.append(_Compared(flight, record, "" if record else reason))
        return compared
