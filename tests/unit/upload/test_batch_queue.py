"""Batches among ranks: each is done once, and looks at claims do not grow with batches times ranks."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from lading.parallel.mpi import World
from lading.upload import batch_queue
from lading.upload.batch_queue import BatchOrder, BatchQueue, order_batches


@dataclass(frozen=True)
class Item:
    batch: str
    size: int = 1


@dataclass(frozen=True)
class Batch:
    id: str


@dataclass
class Site:
    """All that ranks share: what is done, who holds what, and how often claims were looked at."""

    count: int
    done: set[int] = field(default_factory=set)
    holder: dict[str, int] = field(default_factory=dict)
    looks: Counter[str] = field(default_factory=Counter)
    journal: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.batches = [Batch(str(number)) for number in range(self.count)]

    def unproven(self, number: int, index: Any) -> list[Item]:
        return [] if number in self.done else [Item(str(number))] * 3

    def count_open(self, number: int, index: Any) -> int:
        return 0 if number in self.done else 3

    def failures(self) -> list[Any]:
        return []

    journals: list[str] = field(default_factory=lambda: ["one"])

    def refresh(self, skip: str) -> None:
        self.looks["refresh"] += 1

    def begin(self, number: int, count: int) -> None: ...


@dataclass
class Rank:
    """A rank's lease."""

    site: Site
    number: int

    def claim(self, batch: str) -> bool:
        self.site.looks["claim"] += 1
        return self.site.holder.setdefault(batch, self.number) == self.number

    def release(self, batch: str) -> None:
        assert self.site.holder.pop(batch) == self.number


def queue_of(site: Site, rank: int, ranks: int) -> tuple[BatchQueue, BatchOrder]:
    fake: Any = site
    order = order_batches(fake, fake, [1] * site.count, World(rank, ranks, None))
    lease: Any = Rank(site, rank)
    return BatchQueue(fake, fake, lease, fake, ""), order


def drive(site: Site, ranks: int, dead: tuple[int, ...] = (), slow: tuple[int, ...] = ()) -> Counter[str]:
    """Let ranks take turns until none has anything left; returns who did each batch. The dead keep what they took."""
    queues = {rank: queue_of(site, rank, ranks) for rank in range(ranks)}
    running = {rank: queue.groups(order, site.count, None) for rank, (queue, order) in queues.items()}
    did: Counter[str] = Counter()
    turn = 0
    while running:
        turn += 1
        assert turn < 100_000
        for rank in list(running):
            if rank in dead and turn > 1:
                for batch in [name for name, holder in site.holder.items() if holder == rank]:
                    del site.holder[batch]  # as whoever finds a dead holder does
                del running[rank]
                continue
            if rank in slow and turn % 7:
                continue
            group = next(running[rank], None)
            if group is None:
                del running[rank]
                continue
            if rank in dead:
                continue
            for item in group:
                if int(item.batch) not in site.done and item is group[-1]:
                    did[item.batch] += 1
            for item in group:
                site.done.add(int(item.batch))
                queues[rank][0].record_result(item)
    return did


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_queue, "RANK_SECONDS", 0.0)
    monkeypatch.setattr(batch_queue, "GROUP", 1)


def test_every_rank_begins_with_a_share_of_its_own() -> None:
    site = Site(20)
    shares = [queue_of(site, rank, 3)[1] for rank in range(3)]
    assert sorted(number for order in shares for number in order.own) == list(range(20))
    assert all(sorted([*order.own, *order.others]) == list(range(20)) for order in shares)
    assert shares[0].own == [0, 3, 6, 9, 12, 15, 18]
    assert len({order.others[0] for order in shares}) == 3, "each looks at the others from another place"
    alone = queue_of(site, 0, 1)[1]
    assert (list(alone.own), list(alone.others)) == (list(range(20)), [])


def test_all_is_done_when_ranks_die_or_are_slow() -> None:
    for dead, slow in (((), ()), ((1, 4), ()), ((), (0, 5)), ((0,), (1,))):
        site = Site(60)
        drive(site, 6, dead, slow)
        assert site.done == set(range(60)), (dead, slow)
        assert not site.holder


def test_claims_looked_at_grow_with_batches_not_with_batches_times_ranks() -> None:
    ranks, batches = 200, 1_000
    site = Site(batches)
    drive(site, ranks)
    assert site.done == set(range(batches))
    assert site.looks["claim"] <= 3 * batches, "not ranks x batches, which is 200,000"


def test_many_journals_are_not_read_before_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def refresh(self: Site, skip: str) -> None:
        self.looks["refresh"] += 1
        now[0] += 1.0  # the second that a reading takes

    monkeypatch.setattr(batch_queue.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Site, "refresh", refresh)
    for journals, readings in ((batch_queue.FEW_JOURNALS, 50), (batch_queue.FEW_JOURNALS + 1, 1)):
        site, now[0] = Site(50, journals=[""] * journals), 0.0
        drive(site, 1)
        assert (len(site.done), site.looks["refresh"]) == (50, readings)


def test_a_rank_of_many_waits_for_few_batches_at_a_time() -> None:
    site = Site(500)
    for number in range(500):
        site.holder[str(number)] = -1  # somebody else has them all
    queue, order = queue_of(site, 7, 100)
    groups = queue.groups(order, 500, None)
    looks = []
    for _ in range(200):
        before = site.looks["claim"]
        assert next(groups) == []
        looks.append(site.looks["claim"] - before)
    assert max(looks[1:]) <= batch_queue.LOOKS
    site.holder.clear()
    left = set()
    for group in groups:
        for item in group:
            left.add(item.batch)
            site.done.add(int(item.batch))
            queue.record_result(item)
    assert len(left) == batch_queue.LOOKS, "the others are for the ranks that wait for them"
