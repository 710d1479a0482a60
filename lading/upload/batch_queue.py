"""Which batches a process does, in which order: it claims one after the other, within the budgets of the run.

Input: the plan's objects, the journals' index, a lease. Output: groups of unproven items.
Invariant: a batch is in one process at a time; what others hold is waited for.
"""

from collections.abc import Iterator, Sequence

from lading.coordination.lease import Lease
from lading.journal.journal_index import JournalIndex
from lading.parallel.mpi import World
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import PlannedObject
from lading.upload.run_state import GROUP
from lading.upload.summary import UploadSummary


class BatchQueue:
    """Hands out the unproven items of batch after batch, within the budgets of the run."""

    def __init__(
        self, inventory: PlannedObjects, journal_index: JournalIndex, lease: Lease, account: UploadSummary, own: str
    ) -> None:
        self._inventory, self._journal_index, self._lease, self._account = inventory, journal_index, lease, account
        self._own = own
        self._unsettled: dict[str, int] = {}

    def record_result(self, item: PlannedObject) -> None:
        """Note that an item is proven or given up; gives its batch back with the last one.

        Others wait for the batches that this process holds: kept until the
        end, processes that have nothing left would wait for each other.
        """
        self._unsettled[item.batch] -= 1
        if not self._unsettled[item.batch]:
            self._lease.release(item.batch)

    def groups(self, order: Sequence[int], most_batches: int, most_bytes: int | None) -> Iterator[list[PlannedObject]]:
        """Yield groups of items; an empty one while other processes hold what is left."""
        waiting, taken, size = list(order), 0, 0
        group: list[PlannedObject] = []
        while waiting:
            held: list[int] = []
            for number in waiting:
                if taken >= most_batches or (most_bytes is not None and size >= most_bytes):
                    held.clear()
                    break
                batch = self._inventory.batches[number]
                if not self._lease.claim(batch.id):
                    held.append(number)
                    continue
                self._journal_index.refresh(skip=self._own)
                items = self._inventory.unproven(number, self._journal_index)
                self._account.begin(number, len(items))
                taken += bool(items)
                self._unsettled[batch.id] = len(items)
                if not items:
                    self._lease.release(batch.id)
                for item in items:
                    size += item.size
                    group.append(item)
                    if len(group) >= GROUP:
                        yield group
                        group = []
            if group:
                yield group
                group = []
            waiting = held
            if waiting:
                yield []


def share(bound: int, world: World) -> int:
    """Return this rank's part of a bound on the whole launch; the parts sum to it."""
    return bound // world.size + (world.rank < bound % world.size)


def order_batches(inventory: PlannedObjects, journal_index: JournalIndex, open_counts: Sequence[int]) -> list[int]:
    """Return the batches to do: in the plan's order, those that failed before last."""
    failed = {failure.batch for failure in journal_index.failures()}
    left = [number for number, count in enumerate(open_counts) if count]
    return sorted(left, key=lambda number: inventory.batches[number].id in failed)
