"""One crawl from beginning to end, on one rank or many.

Input: a root, settings, the letter box of the other ranks if there are any.
Output: on the first rank a settled walker with counts and faults.
Invariant: the ranks agree on the walk they use and on whether they can see
the root before any of them starts. A walk that lacked memory ends with an
error; it never gives a smaller tree.
"""

import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lading.core.errors import LadingError, UsageError
from lading.crawl.options import SNAPSHOT, Options, Walker
from lading.crawl.since import EarlierCrawl
from lading.crawl.walker import has_core, make_walker
from lading.crawl.work_sharing import SharingChannel, WorkSharing, gather_shards, send_shards
from lading.tree.size_tree import Unreadable

POLL = 0.1
# Of what is listed and not there, only a link that is followed can be the cause.
_LINKS = {errno.ENOENT: "a link that leads nowhere", errno.ELOOP: "a link that leads back to where it is"}
# How long an interrupted walk may take to end before it is left to the end of the process.
GRACE = 0.5
NO_MEMORY = "memory is exhausted; crawl with fewer threads, or on a machine with more memory"
TOO_LARGE = (
    "the sizes of the files add up to more than 8 EiB, which a size tree cannot hold; "
    "leave out the sparse files of such sizes with --exclude"
)


class MessageChannel(SharingChannel, Protocol):
    """A letter box that can also be waited at."""

    def expect(self, pause: float = 0.005) -> tuple[int, Any]:
        """Return the next (sender, message), sleeping until there is one."""


@dataclass(frozen=True)
class CrawlProgress:
    """What the progress line shows."""

    entries: int
    size: int
    waiting: int
    slowest: tuple[bytes, float] | None
    logged: tuple[bytes, ...]


@dataclass(frozen=True)
class SinceRecord:
    """What of an earlier crawl's tree this one took over: what the meta file says of it, directories."""

    record: Mapping[str, Any]
    unchanged: int


@dataclass(frozen=True)
class CrawlResult:
    """A finished crawl on the first rank."""

    walker: Walker
    entries: int
    files: int
    directories: int
    links: int
    others: int
    size: int
    unreadable: tuple[Unreadable, ...]
    snapshots: tuple[str, ...]
    slowest: tuple[bytes, float] | None
    since: SinceRecord | None = None


def find_root_error(root: str) -> str | None:
    """Return why a root cannot be crawled, None when it can."""
    path = os.path.abspath(root)
    advice = "give the directory to crawl (make: release=…)"
    if not os.path.lexists(path):
        return f"{path} does not exist; {advice}"
    try:
        os.scandir(path).close()
    except FileNotFoundError:
        return f"{path} is a link that leads nowhere; {advice}"
    except NotADirectoryError:
        return f"{path} is not a directory; {advice}"
    except PermissionError:
        return f"{path} cannot be read; ask its owner for permission to read and enter it"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}; {advice}"
    if not os.access(path, os.X_OK):
        return f"{path} cannot be entered; ask its owner for permission to read and enter it"
    return None


def agree(root: str, post: MessageChannel | None, fault: str | None = None) -> bool:
    """Return whether all ranks use the compiled walk; ``UsageError`` when one cannot see the root, or has a fault."""
    fault, core = find_root_error(root) or fault, has_core()
    if post is None:
        if fault:
            raise UsageError(fault)
        return core
    if post.rank:
        post.send(0, ("hello", (fault, core, os.uname().nodename)))
        _, (_, (fault, core)) = post.expect()
    else:
        for _ in range(1, post.size):
            sender, (_, (other, other_core, node)) = post.expect()
            core = core and other_core
            if other and not fault:
                fault = f"on rank {sender} ({node}): {other}"
        for rank in range(1, post.size):
            post.send(rank, ("agreed", (fault, core)))
    if fault:
        raise UsageError(fault)
    return bool(core)


def crawl(
    root: str,
    options: Options,
    post: MessageChannel | None,
    show: Callable[[CrawlProgress], None],
    load: Callable[[], EarlierCrawl | None] = lambda: None,
) -> CrawlResult | None:
    """Crawl; the result on the first rank, None on the others.

    ``load`` returns the earlier crawl whose unchanged directories need not be listed, on each rank.

    Raises ``UsageError`` for a root that cannot be crawled, ``LadingError`` when memory is exhausted or the sizes do
    not add up in 64 bits.
    """
    try:
        return _crawl(root, options, post, show, load)
    except MemoryError:
        raise LadingError(NO_MEMORY) from None
    except OverflowError:
        raise LadingError(TOO_LARGE) from None


def _begin(
    root: str, options: Options, post: MessageChannel | None, load: Callable[[], EarlierCrawl | None]
) -> tuple[Walker, Mapping[str, Any] | None]:
    """Return a walk that all ranks agree on and, where it knows an earlier crawl, what is said of that."""
    fault, earlier = None, None
    if find_root_error(root) is None:
        try:
            earlier = load()
        except UsageError as error:
            fault = str(error)
    core = agree(root, post, fault)
    if post and options.rate:
        options = replace(options, rate=options.rate / post.size)
    walker = make_walker(root, options, seed=post is None or post.rank == 0, core=core)
    if earlier is None:
        return walker, None
    try:
        earlier.give_to(walker)
    except ValueError as error:
        raise LadingError(f"{error}; crawl whole: leave --since out") from error
    return walker, earlier.record


def _crawl(
    root: str,
    options: Options,
    post: MessageChannel | None,
    show: Callable[[CrawlProgress], None],
    load: Callable[[], EarlierCrawl | None],
) -> CrawlResult | None:
    walker, record = _begin(root, options, post, load)
    first = post is None or post.rank == 0

    def look(numbers: tuple[int, int, int]) -> None:
        show(CrawlProgress(*numbers, walker.slowest(), tuple(walker.logged())))

    walker.start()
    try:
        if post:
            WorkSharing(walker, post, options.workers).run(look)
        else:
            while not walker.wait(POLL):
                look(walker.state()[:3])
    except MemoryError:
        walker.stop()
        raise
    except BaseException:
        walker.stop()
        until = time.monotonic() + GRACE
        while not walker.wait(POLL / 2) and time.monotonic() < until:
            pass
        raise
    walker.end()
    look(walker.state()[:3])
    if not first:
        assert post is not None
        send_shards(walker, post)
        return None
    faults = walker.faults()
    if post:
        faults += gather_shards(walker, post)
    try:
        counts = walker.settle()
    except ValueError as error:
        raise LadingError(f"work was lost between ranks ({error}); run the same command again") from error
    snapshots = sorted(os.fsdecode(path) for path, number in faults if number == SNAPSHOT)
    faults = [fault for fault in faults if fault[1] != SNAPSHOT]
    since = None if record is None else SinceRecord(record, walker.unchanged())
    return CrawlResult(walker, *counts, _describe(faults), tuple(snapshots), walker.slowest(), since)


def _describe(faults: list[tuple[bytes, int]]) -> tuple[Unreadable, ...]:
    found = {(os.fsdecode(path) or ".", number) for path, number in faults}
    return tuple(Unreadable(path, number, _say(path, number)) for path, number in sorted(found))


def _say(path: str, number: int) -> str:
    return _LINKS.get(number if path != "." else 0) or os.strerror(number or errno.EIO)
