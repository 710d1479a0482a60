"""Which batches a process does, in which order: it claims one after the other, within the budgets of the run.

Input: the plan's objects, the journals' index, a lease. Output: groups of unproven items.
Invariant: a batch is in one process at a time; what others hold is waited for.
A rank of a launch begins with a share of its own, looks only at batches that
its index says are open, and looks at others' claims the more slowly the more
ranks there are: all ranks together cost a file server as much as twenty do.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lading.coordination.lease import Lease
from lading.journal.journal_index import JournalIndex
from lading.parallel.mpi import World
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import PlannedObject
from lading.upload.run_state import GROUP
from lading.upload.summary import UploadSummary

LOOKS = 16  # at claims that others hold, between two pauses; and batches of others that a rank waits for
RANK_SECONDS = 0.001  # of a pause for each rank of the launch: 16,000 looks a second by all of them
FEW_JOURNALS = 64  # so many, or fewer, are read again before every batch
SPARE = 20  # of more, times as long as a reading takes pass before the next: it costs a twentieth of the run at most


@dataclass(frozen=True)
class BatchOrder:
    """Numbers of batches in the order in which a rank looks at them: its share, then that of the others."""

    own: Sequence[int]
    others: Sequence[int] = ()
    ranks: int = 1

    def __len__(self) -> int:
        return len(self.own) + len(self.others)


class BatchQueue:
    """Hands out the unproven items of batch after batch, within the budgets of the run."""

    def __init__(
        self, inventory: PlannedObjects, journal_index: JournalIndex, lease: Lease, account: UploadSummary, own: str
    ) -> None:
        self._inventory, self._journal_index, self._lease, self._account = inventory, journal_index, lease, account
        self._own = own
        self._next_refresh = 0.0
        self._unsettled: dict[str, int] = {}

    def record_result(self, item: PlannedObject) -> None:
        """Note that an item is proven or given up; gives its batch back with the last one.

        Others wait for the batches that this process holds: kept until the
        end, processes that have nothing left would wait for each other.
        """
        self._unsettled[item.batch] -= 1
        if not self._unsettled[item.batch]:
            self._lease.release(item.batch)

    def groups(self, order: BatchOrder, most_batches: int, most_bytes: int | None) -> Iterator[list[PlannedObject]]:
        """Yield groups of items; an empty one while other processes hold what is left."""
        taken, size = 0, 0
        group: list[PlannedObject] = []
        if self._spent(taken, size, most_batches, most_bytes):
            return
        for items in self._claimed(order):
            if items is None:
                if group:
                    yield group
                group = []
                yield []
                continue
            taken += bool(items)
            for item in items:
                size += item.size
                group.append(item)
                if len(group) >= GROUP:
                    yield group
                    group = []
            if self._spent(taken, size, most_batches, most_bytes):
                break
        if group:
            yield group

    @staticmethod
    def _spent(taken: int, size: int, most_batches: int, most_bytes: int | None) -> bool:
        return taken >= most_batches or (most_bytes is not None and size >= most_bytes)

    def _claimed(self, order: BatchOrder) -> Iterator[list[PlannedObject] | None]:
        """Yield the unproven items of each batch as it is claimed; None while there is none to claim."""
        held = []
        for number in order.own:
            items = self._claim(number)
            if items is None:
                held.append(number)
            else:
                yield items
        waiting, known = [*held, *order.others], bool(order.others)
        while waiting:
            held = []
            for number in waiting:
                # What others finished meanwhile is not claimed to find that out.
                if known and not self._is_open(number):
                    continue
                items = self._claim(number)
                if items is not None:
                    yield items
                    continue
                held.append(number)
                if not len(held) % LOOKS:
                    yield from self._pause(order.ranks)
            # Of many ranks, each waits for a few batches, and every batch has ranks that wait for it.
            waiting = held[:LOOKS] if order.ranks > LOOKS else held
            known = order.ranks > LOOKS
            if waiting:
                yield from self._pause(order.ranks)

    @staticmethod
    def _pause(ranks: int) -> Iterator[None]:
        end = time.monotonic() + ranks * RANK_SECONDS
        yield None
        while time.monotonic() < end:
            yield None

    def _claim(self, number: int) -> list[PlannedObject] | None:
        """Claim a batch and return its unproven items; None while another process has it."""
        batch = self._inventory.batches[number]
        if not self._lease.claim(batch.id):
            return None
        self._refresh()
        items = self._inventory.unproven(number, self._journal_index)
        self._account.begin(number, len(items))
        self._unsettled[batch.id] = len(items)
        if not items:
            self._lease.release(batch.id)
        return items

    def _is_open(self, number: int) -> bool:
        """Tell whether a batch has unproven items, as far as is known here: no file is opened for it."""
        self._refresh()
        return self._inventory.count_open(number, self._journal_index) > 0

    def _refresh(self) -> None:
        """Read what others wrote; of many journals, unless that was done a moment ago.

        What one of them verified since is then verified again, which costs a reading, never a wrong record.
        """
        started = time.monotonic()
        if started < self._next_refresh:
            return
        self._journal_index.refresh(skip=self._own)
        if len(self._journal_index.journals) > FEW_JOURNALS:
            self._next_refresh = started + (1 + SPARE) * (time.monotonic() - started)


def share(bound: int, world: World) -> int:
    """Return this rank's part of a bound on the whole launch; the parts sum to it."""
    return bound // world.size + (world.rank < bound % world.size)


def order_batches(
    inventory: PlannedObjects, journal_index: JournalIndex, open_counts: Sequence[int], world: World
) -> BatchOrder:
    """Return the batches to do: in the plan's order, those that failed before last.

    A rank has every ``world.size``-th to itself. The shares of the others it sees from a place of its own on.
    """
    failed = {failure.batch for failure in journal_index.failures()}
    left = [number for number, count in enumerate(open_counts) if count]
    left.sort(key=lambda number: inventory.batches[number].id in failed)
    own = [number for number in left if number % world.size == world.rank]
    others = [number for number in left if number % world.size != world.rank]
    start = world.rank * len(others) // world.size
    return BatchOrder(own, others[start:] + others[:start], world.size)
