"""The first stage of the upload: groups of items become objects that are ready to be sent.

Input: groups of planned objects. Output: ``ready``, a queue of ``InFlight``;
records of what the bucket holds already.
Invariant: at most four groups are in preparation, and none begins while
two groups are ready.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from lading.journal.records import encode_invalidated, encode_verification
from lading.plan.planned_object import PlannedObject
from lading.upload.prepare import Preparation, Prepared
from lading.upload.run_state import GROUP, InFlight, RunState
from lading.verification.compare import planned

GROUP_BYTES = 64 * 10**9  # in a preparation: what already exists is read whole before it is adopted
IN_PREPARATION = 4


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


class PrepareStage:
    """Prepares groups on the run's workers; ``ready`` is what the next stage takes from."""

    def __init__(self, run: RunState, preparation: Preparation) -> None:
        self.ready: deque[InFlight] = deque()
        self.last: list[PlannedObject] = []  # tried again when the queue has ended
        self._run, self._preparation = run, preparation
        self._preparing: deque[tuple[Sequence[PlannedObject], Future[Prepared]]] = deque()
        self._recheck: list[PlannedObject] = []

    @property
    def idle(self) -> bool:
        """Tell whether nothing is being prepared or waits for it."""
        return not self._preparing and not self._recheck

    @property
    def preparing(self) -> bool:
        """Tell whether groups are being prepared."""
        return bool(self._preparing)

    def pull(self, groups: Iterator[list[PlannedObject]], full: bool, busy: Callable[[], bool]) -> bool:
        """Begin to prepare groups while the engines could run dry; False when there are none left.

        ``full``: the last stage has as much as it takes; ``busy``: something is in the pipeline.
        """
        while not full and len(self._preparing) < IN_PREPARATION and len(self.ready) < 2 * GROUP:
            group = next(groups, None)
            if group is None:
                return False
            if not group:  # the source waits for other processes, and they perhaps for what failed here
                if self.last and not busy():
                    for late in self.take_last():
                        self._begin(late)
                    return True
                time.sleep(0.02 if busy() else 0.3)
                return True
            self._begin(group)
        return True

    def take_last(self) -> Iterator[list[PlannedObject]]:
        """Yield what was put to the end of the queue, in groups."""
        last, self.last = self.last, []
        for start in range(0, len(last), GROUP):
            yield last[start : start + GROUP]

    def last_of_all(self, item: PlannedObject) -> None:
        """Put an item to the end of the queue."""
        self.last.append(item)

    def recheck(self, item: PlannedObject) -> None:
        """Prepare an item again: the file, or what the bucket holds, may have changed."""
        self._recheck.append(item)

    def step(self) -> None:
        """Begin what is to be prepared again, and take what was prepared."""
        group, self._recheck = self._recheck[:GROUP], self._recheck[GROUP:]
        if group:
            self._begin(group)
        while self._preparing and self._preparing[0][1].done():
            items, work = self._preparing.popleft()
            try:
                prepared = work.result()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of this group
                self._run.attribute(error, items)
                continue
            self._take(prepared)

    def forget(self) -> None:
        """Drop what was not begun."""
        self._preparing = deque(entry for entry in self._preparing if not entry[1].cancel())
        self.ready.clear()
        self._recheck.clear()

    def _begin(self, group: list[PlannedObject]) -> None:
        for piece in cut_by_bytes(group, GROUP_BYTES):
            prepare = partial(self._preparation.prepare, piece)
            self._preparing.append((piece, self._run.workers.submit(self._run.retry, prepare)))

    def _take(self, prepared: Prepared) -> None:
        run = self._run
        run.journal.write(
            [encode_invalidated(e[0].key, e[0].generation - 1, "changed") for e in prepared.ready if e[0].voids]
        )
        for item, task, stamp in prepared.ready:
            self.ready.append(InFlight(item, task, stamp, run.tries.get(item.key, 0)))
        if prepared.already_present:
            run.journal.write(
                [encode_verification(record, planned(item, record)) for item, record in prepared.already_present]
            )
        for item, record in prepared.already_present:
            run.count_verified(item, record, already_present=True)
        for item, failure, reason in prepared.faults:
            run.give_up(item, failure, reason)
