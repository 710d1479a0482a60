"""One worker's life: claim, work, mark, until nothing is left that anybody can do.

Input: items, a function that does one and returns its record, the shared
state. Output: markers; failures as records of the attempt.
Invariant: the same loop runs in a child process, an MPI rank and a dask task;
it needs no message from anybody, so any peer may die at any time.
"""

import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.coordination.claims import (
    EVERYTHING,
    MOST_DEATHS,
    ClaimGroup,
    ClaimItem,
    Claims,
    CompletionRecords,
    LaunchState,
    disk_is_full,
    explain,
    file_name,
    group_items,
)
from lading.coordination.heartbeat import Heartbeat
from lading.core.atomic import AppendLog
from lading.core.identity import this_process

# How long a worker without work sleeps between looks at the directories.
SHORTEST_NAP, LONGEST_NAP = 0.02, 2.0
STALLED_EXIT = 70


@dataclass(frozen=True)
class WorkerContext:
    """Where one worker works.

    state   directory shared by all; markers lie in ``done``, this launch in ``attempts/<attempt>``
    worker  a name that no other worker of the attempt has
    index, ranks  its place among the workers, to start where the others do not
    stall   seconds after which an item counts as stuck and its process ends itself
    """

    state: Path
    attempt: str
    worker: str
    index: int
    ranks: int
    stall: float = 1800.0

    def markers(self) -> CompletionRecords:
        """Return the markers that outlive every launch."""
        return CompletionRecords(self.state / "done")

    def launch(self) -> LaunchState:
        """Return the claims and failures of this launch."""
        return LaunchState(self.state / "attempts" / self.attempt)


def worker_loop(
    context: WorkerContext,
    items: Sequence[ClaimItem],
    work: Callable[[ClaimItem], Mapping[str, Any]],
    stop: threading.Event,
) -> None:
    """Work until every item is done, failed or out of reach, or ``stop`` is set."""
    attempt, markers = context.launch(), context.markers()
    (context.state / "log").mkdir(exist_ok=True)
    processor = time.process_time()
    with (
        Heartbeat(attempt.alive, this_process(context.worker)) as heartbeat,
        AppendLog(context.state / "log" / f"{context.attempt}.{context.worker}.jsonl") as log,
    ):
        claims = attempt.claims(heartbeat)
        for group in _claimed_groups(context, group_items(items, context.ranks), attempt, markers, claims, stop):
            for item in group.items:
                if stop.is_set() or attempt.stopped() is not None:
                    break
                if markers.read(item.id) is not None:
                    continue
                started = time.time()
                try:
                    with _watched(context, item.id):
                        record = work(item)
                    seconds = time.time() - started
                    markers.mark(item.id, {"worker": context.worker, "seconds": round(seconds, 6), "result": record})
                except Exception as error:
                    message, code = explain(error)
                    if disk_is_full(error):
                        attempt.stop(message)
                    attempt.fail(item.id, message, code)
                    log.append([{"event": "failed", "item": item.id, "time": started, "message": message}])
                    if os.environ.get("LADING_DEBUG"):
                        raise
                else:
                    log.append([{"event": "done", "item": item.id, "time": started, "seconds": round(seconds, 6)}])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        spent = time.process_time() - processor
        log.append([{"event": "left", "time": time.time(), "peak_bytes": peak, "cpu_seconds": round(spent, 3)}])


def _claimed_groups(
    context: WorkerContext,
    groups: Sequence[ClaimGroup],
    attempt: LaunchState,
    markers: CompletionRecords,
    claims: Claims,
    stop: threading.Event,
) -> Iterator[ClaimGroup]:
    """Yield groups after claiming them: own share first, then what others left, then what the dead held."""
    nap = SHORTEST_NAP
    own = list(range(context.index, len(groups), max(1, context.ranks)))
    first = True
    while not stop.is_set() and attempt.stopped() is None:
        done = markers.names()
        over = done | _hopeless(groups, attempt.failed_names() - done)
        left = {number for number, group in enumerate(groups) if not _all_in(group.items, over)}
        if not left:
            return
        claimed = attempt.claimed()
        progress = False
        # Later rounds start at a place of this worker's own, so that hundreds do not race for one file.
        order = own if first else sorted(left, key=lambda number: (number - context.index * 7919) % len(groups))
        first = False
        for number in order:
            group = groups[number]
            if number not in left or not _ready(group, done, groups):
                continue
            link = claims.look(group.name) if group.name in claimed else None
            if link is not None:
                if claims.is_held(link):
                    continue
                # It may have ended well just after the listing above.
                if _all_in(group.items, markers.names() | attempt.failed_names()):
                    continue
                if link.depth + 1 >= MOST_DEATHS:
                    _give_up(group, markers, attempt)
                    continue
            if claims.follow(group.name, link):
                progress = True
                yield group
                if stop.is_set() or attempt.stopped() is not None:
                    return
        if progress:
            nap = SHORTEST_NAP
            continue
        stop.wait(nap)
        nap = min(LONGEST_NAP, nap * 1.5)


def _all_in(items: Sequence[ClaimItem], names: set[str]) -> bool:
    return all(file_name(item.id) in names for item in items)


def _ready(group: ClaimGroup, done: set[str], groups: Sequence[ClaimGroup]) -> bool:
    if EVERYTHING in group.after:
        return all(_all_in(other.items, done) for other in groups if EVERYTHING not in other.after)
    return all(file_name(need) in done for need in group.after)


def _hopeless(groups: Sequence[ClaimGroup], failed: set[str]) -> set[str]:
    """Return the failed items and all that wait for them; one pass, since groups come shallow before deep."""
    lost = set(failed)
    if failed:
        for group in groups:
            if EVERYTHING in group.after or any(file_name(need) in lost for need in group.after):
                lost.update(file_name(item.id) for item in group.items)
    return lost


def _give_up(group: ClaimGroup, markers: CompletionRecords, attempt: LaunchState) -> None:
    done = markers.names()
    for item in group.items:
        if file_name(item.id) not in done:
            attempt.fail(
                item.id,
                f"{item.id}: {MOST_DEATHS} workers died on it, most likely because memory ran out; "
                "start fewer workers per node, or smaller units, and run the same command again",
                1,
            )


@contextmanager
def _watched(context: WorkerContext, item_id: str) -> Iterator[None]:
    """End the process when the block takes longer than the context allows: another worker then takes over."""

    def expire() -> None:
        print(
            f"error: {context.worker}: {item_id} took more than {context.stall:.0f} s and counts as stuck; "
            "this worker ends and another one tries",
            file=sys.stderr,
            flush=True,
        )
        os._exit(STALLED_EXIT)

    timer = threading.Timer(context.stall, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
