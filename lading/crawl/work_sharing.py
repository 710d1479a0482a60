"""One crawl over many ranks: directories that wait are lent to ranks without work.

Input: a walker on each rank, the first of them with the root. Output: on the
first rank a walker that holds everything.
Invariant: the first rank alone decides who lends to whom, so it knows without
guessing when all work is done; no rank ever spins: between looks it sleeps.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from lading.crawl.options import Walker

# Seconds between looks at the mail. A look costs some 40 µs, so they become rarer while nobody has anything to say.
PAUSE, LONGEST_PAUSE, SLOWER = 0.002, 0.01, 1.2
# Directories lent at a time, and how long a lender waits for its threads to give some up.
MOST, PATIENCE = 256, 0.02
# Bytes of shards in one message, and messages under way at a time.
BATCH, WINDOW = 4 << 20, 4
TELL_SECONDS = 0.5


class SharingChannel(Protocol):
    """What the ranks say to each other with: ``lading.parallel.messages.RankMessages``."""

    rank: int
    size: int

    def send(self, rank: int, message: Any) -> None: ...  # noqa: D102
    def receive(self) -> tuple[int, Any] | None:
        """Return the next (sender, message), None when there is none."""

    def unsent(self) -> int:
        """Return how many messages have not left yet."""


class SharedWalk(Protocol):
    """What of a walk the ranks share by; see ``lading.crawl.options.Walker`` for the methods."""

    def wait(self, seconds: float, /) -> bool: ...  # noqa: D102
    def state(self) -> tuple[int, int, int, int]: ...  # noqa: D102
    def take(self, most: int, /) -> list[tuple[int, bytes, int, bytes]]: ...  # noqa: D102
    def give(self, rank: int, number: int, path: bytes, depth: int, ancestors: bytes, /) -> None: ...  # noqa: D102


@dataclass
class _Rank:
    """What the first rank knows of one rank."""

    wants_work: bool = False
    idle: bool = False
    received: int = 0
    expected: int = 0
    asking: bool = False
    told: tuple[int, int, int] = (0, 0, 0)


@dataclass
class WorkSharing:
    """The state of one rank while it shares."""

    walker: SharedWalk
    post: SharingChannel
    workers: int
    ranks: list[_Rank] = field(default_factory=list)
    received: int = 0
    last: tuple[bool, bool, int] | None = None
    owed: list[tuple[int, float]] = field(default_factory=list)
    over: bool = False
    turn: int = 0

    def run(self, show: Callable[[tuple[int, int, int]], None]) -> None:
        """Walk until all ranks are done; ``show`` is told (entries, bytes, directories waiting) of all ranks."""
        first = self.post.rank == 0
        if first:
            self.ranks = [_Rank() for _ in range(self.post.size)]
        told, pause = 0.0, PAUSE
        while not self.over:
            done = self.walker.wait(pause)
            if done:
                time.sleep(PAUSE)
            busy = done
            while (mail := self.post.receive()) is not None:
                self.handle(*mail)
                busy = True
            self.transfer_directories()
            self.report()
            now = time.monotonic()
            if now - told >= TELL_SECONDS:
                told = now
                self.tell(("state", self.walker.state()[:3]))
                if first:
                    show(tuple(map(sum, zip(*(rank.told for rank in self.ranks)))))  # type: ignore[arg-type]
            if first:
                self.arrange()
            busy = busy or bool(self.owed) or any(rank.wants_work for rank in self.ranks)
            pause = PAUSE if busy else min(SLOWER * pause, LONGEST_PAUSE)

    def tell(self, message: Any) -> None:
        """Send to the first rank, which may be this one."""
        if self.post.rank == 0:
            self.handle(0, message)
        else:
            self.post.send(0, message)

    def report(self) -> None:
        """Tell the first rank when this one runs out of work, or has some again."""
        done = self.walker.wait(0)
        _, _, waiting, resting = self.walker.state()
        state = (done or (waiting == 0 and resting > self.workers // 2), done, self.received)
        if state != self.last:
            self.last = state
            self.tell(("report", state))

    def handle(self, sender: int, message: Any) -> None:
        """Act on one message."""
        kind, content = message
        if kind == "work":
            for item in content:
                self.walker.give(sender, *item)
            self.received += 1
            self.last = None
        elif kind == "lend":
            self.owed.append((content, time.monotonic() + PATIENCE))
        elif kind == "over":
            self.over = True
        elif kind == "report":
            rank = self.ranks[sender]
            rank.wants_work, rank.idle, rank.received = content
        elif kind == "state":
            self.ranks[sender].told = content
        elif kind == "lent":
            taker, count = content
            self.ranks[taker].asking = False
            if count:
                self.ranks[taker].expected += 1
                self.ranks[taker].wants_work = False

    def transfer_directories(self) -> None:
        """Give the ranks that asked what this one can spare."""
        while self.owed:
            taker, until = self.owed[0]
            items = self.walker.take(MOST)
            if not items and time.monotonic() < until and not self.walker.wait(0):
                return
            self.owed.pop(0)
            if items:
                self.post.send(taker, ("work", items))
            self.tell(("lent", (taker, len(items))))
            if not self.owed:
                self.walker.take(0)

    def arrange(self) -> None:
        """On the first rank: find a lender for each rank without work, or see that all is done."""
        ranks = self.ranks
        if all(rank.idle and not rank.asking and rank.received == rank.expected for rank in ranks):
            for other in range(1, self.post.size):
                self.post.send(other, ("over", None))
            self.over = True
            return
        for taker, rank in enumerate(ranks):
            if not rank.wants_work or rank.asking or rank.received != rank.expected:
                continue
            for _ in ranks:
                self.turn = (self.turn + 1) % len(ranks)
                lender = ranks[self.turn]
                if self.turn != taker and not lender.wants_work and not lender.idle:
                    rank.asking = True
                    if self.turn == 0:
                        self.handle(0, ("lend", taker))
                    else:
                        self.post.send(self.turn, ("lend", taker))
                    break


def send_shards(walker: Walker, post: SharingChannel) -> None:
    """On the other ranks, after the walk: send what was found to the first rank."""
    post.send(0, ("faults", walker.faults()))
    for batch in _batches(walker):
        while post.unsent() >= WINDOW:
            time.sleep(PAUSE / 4)
        post.send(0, ("shards", batch))
    post.send(0, ("sent", None))
    while post.unsent():
        time.sleep(PAUSE)


def _batches(walker: Walker) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = index = 0
    while (shard := walker.shard(index)) is not None:
        batch.append(shard)
        size += len(shard)
        index += 1
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def gather_shards(walker: Walker, post: SharingChannel) -> list[tuple[bytes, int]]:
    """On the first rank, after the walk: take in what the others found; returns their faults."""
    faults: list[tuple[bytes, int]] = []
    for batch in _batches(walker):
        for shard in batch:
            walker.add_shard(0, shard)
    missing = post.size - 1
    while missing:
        mail = post.receive()
        if mail is None:
            time.sleep(PAUSE / 4)
            continue
        sender, (kind, content) = mail
        if kind == "faults":
            faults += content
        elif kind == "shards":
            for shard in content:
                walker.add_shard(sender, shard)
        elif kind == "sent":
            missing -= 1
    return faults
