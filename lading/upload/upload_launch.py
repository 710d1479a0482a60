"""What the processes of one launch do together: hold the plan, tidy its journals, look at proven files once.

Input: the world of ranks, a lease on the plan. Output: journals in order, and what all ranks doubt.
Invariant: the first rank does what one must do, and the others wait for it; nobody else's work is touched.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from lading.coordination.lease import Lease
from lading.core.command_line import printable, run_main
from lading.core.errors import LadingError, LockHeldError
from lading.core.progress import counted
from lading.journal.journal_index import COMPACT_ABOVE, JournalIndex
from lading.objectstore.target import Target
from lading.parallel.mpi import MEET_SECONDS, SHARED, SHARED_AUDIT, World, gather, spread
from lading.plan.objects import NO_DOUBTS, Doubts, PlannedObjects
from lading.tree.json_reader import TreeReader, read_tree
from lading.upload.tree_sharing import TreeSharing

Opened = TypeVar("Opened")

OPEN_SECONDS = 3600.0  # in which each rank reads plan and tree: of a billion files for ten minutes or more
MOUNT_SECONDS = 3600.0  # in which the first rank compares a release that lies under another path
LOOKED_AT = 100_000  # proven files that a run looks at unasked: a second or so


class SharedRefusal(LadingError):
    """What every rank of a launch raises at the same point: the first one says it, and they end together."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = code


def run_rank(world: World, work: Callable[[], int]) -> int:
    """Run ``work`` as ``run_main`` does; what all ranks refuse is said by the first alone."""

    def quietly(_: Sequence[str] | None) -> int:
        try:
            return work()
        except SharedRefusal as refusal:
            if world.is_root:
                raise
            return refusal.exit_code

    return run_main(quietly)


def open_together(world: World, prepare: Callable[[TreeReader], Opened]) -> Opened:
    """Return what ``prepare`` opens; it is given the way to read the tree, which the ranks of a host have together.

    If any rank cannot open it, all raise what the first of these says.
    """
    if world.comm is None:
        return prepare(read_tree)
    opened: Opened | None = None
    refusal: LadingError | None = None
    sharing = TreeSharing(world)
    try:
        with sharing:
            opened = prepare(sharing.read)
    except LadingError as error:
        refusal = error
    told = json.dumps([str(refusal), refusal.exit_code] if refusal else [])
    answers = [json.loads(answer) for answer in gather(world, told, OPEN_SECONDS, sharing.lost)]
    for text, code in filter(None, answers):
        raise SharedRefusal(text, code)
    assert opened is not None
    return opened


@contextmanager
def hold_plan(lease: Lease, world: World, peers: Sequence[str]) -> Iterator[None]:
    """Hold the plan for the block; of a launch the first rank takes the lock, and tells the others.

    They look at nobody's lease: thousands of ranks would read thousands each.
    """
    if not peers:
        with lease:
            yield
        return
    refusal: LadingError | None = None
    with ExitStack() as held:
        try:
            if world.is_root:
                held.enter_context(lease)
            else:
                lease.register()
                held.push(lease.__exit__)
        except LadingError as error:
            refusal = error
        answer = gather(world, str(refusal or ""))[0]
        if answer:
            raise SharedRefusal(answer, refusal.exit_code if refusal else LockHeldError.exit_code)
        if refusal:
            raise refusal
        if not world.is_root:
            lease.follow()
        yield


def agree_on_mount(world: World, inventory: PlannedObjects, agreed: bool) -> None:
    """Have the first rank see whether the release is the plan's under its path of today; all raise what it found."""
    refusal: LadingError | None = None
    if world.is_root:
        try:
            inventory.check_mount(JournalIndex(inventory.journal), agreed=agreed)
        except LadingError as error:
            refusal = error
    code = refusal.exit_code if refusal else 0
    told = json.dumps([str(refusal or ""), code, sorted(inventory.seen_roots), inventory.is_copy])
    answer, code, roots, inventory.is_copy = json.loads(gather(world, told, MOUNT_SECONDS)[0])
    inventory.seen_roots = set(roots)
    if answer:
        raise SharedRefusal(answer, code)


def audit_once(
    world: World, inventory: PlannedObjects, journal_index: JournalIndex, lease: Lease, peers: Sequence[str]
) -> list[int]:
    """Let the first rank check every key; all return what it counted as open in each batch, or raise what it found.

    The others may see more in the journals by now. These counts only say which
    batches are worth a claim, and a claim is followed by a look at the journals.
    """
    if not peers:
        return inventory.audit(journal_index)
    found: tuple[list[int], int] | LadingError | None = None
    try:
        if world.is_root:
            found = inventory.audit(journal_index), inventory.open_bytes
    except LadingError as error:
        found = error
    finally:
        found = _spread(world, found, lease, peers, SHARED_AUDIT)
    if found is None:  # the first rank is gone
        return inventory.audit(journal_index)
    if isinstance(found, LadingError):
        raise SharedRefusal(str(found), found.exit_code)
    open_counts, inventory.open_bytes = found
    return open_counts


def _spread(world: World, value: Any, lease: Lease, peers: Sequence[str], tag: int) -> Any:
    """Return the first rank's value, None where it ended before."""
    lives = [AttemptCount(lease, peer) for peer in peers]
    if not world.is_root:
        lives[0]()  # once it was seen, its end is seen as well
    return spread(world, value, lambda rank: lives[rank](), tag)


def head_journal(inventory: PlannedObjects, target: Target, lease: Lease, started: float) -> Mapping[str, Any]:
    """Return the first record of this process's journal."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    return inventory.head(lease.holder.writer, target.endpoint, stamp)


def tidy_index(journal_index: JournalIndex, header: Mapping[str, Any]) -> None:
    """Make one journal of many, or see that each has an index; for who works on the plan alone."""
    if len(journal_index.journals) > COMPACT_ABOVE:
        journal_index.compact(header)
    else:
        journal_index.write_indexes()


def tidy_journals(
    world: World, inventory: PlannedObjects, lease: Lease, target: Target, peers: Sequence[str], looks: str
) -> Doubts:
    """Let the first rank tidy the journals and look at verified files while the others wait; all return what it doubts.

    Not while somebody else than they works on the plan.
    """
    doubts = NO_DOUBTS
    try:
        if world.is_root and not {other.writer for other in lease.others()}.difference(peers):
            journal_index = JournalIndex(inventory.journal)
            journal_index.check(str(inventory.place), target.endpoint)
            tidy_index(journal_index, head_journal(inventory, target, lease, time.time()))
            doubts = look(looks, inventory, journal_index)
    except LadingError:
        pass  # what ails it each rank finds by itself in a moment
    finally:
        shared: Doubts = _spread(world, doubts, lease, peers, SHARED)
    return shared or NO_DOUBTS


def look(looks: str, inventory: PlannedObjects, journal_index: JournalIndex) -> Doubts:
    """Return the proven files that are in another state than they were read in, if they are to be looked at."""
    if looks == "never" or (looks == "auto" and inventory.files > LOOKED_AT):
        return NO_DOUBTS
    return inventory.look(journal_index)


def report_doubts(looks: str, inventory: PlannedObjects) -> None:
    """Say what looking at the proven files came to."""
    if inventory.doubted:
        print(
            "note: "
            + counted(
                inventory.doubted,
                "verified file changed since it was read; it is read again",
                "verified files changed since they were read; they are read again",
            ),
            file=sys.stderr,
        )
    if looks == "auto" and inventory.files > LOOKED_AT:
        print(
            "note: verified files were not checked for changes; make verify does that, or upload_flags=--look=always",
            file=sys.stderr,
        )


def report_changed_settings(inventory: PlannedObjects, journal_index: JournalIndex, open_counts: Sequence[int]) -> None:
    """Say that objects are to be stored with other settings than before: those that are verified keep theirs."""
    verified = inventory.files - sum(open_counts)
    earlier = [found for found in journal_index.stored_with() if found != inventory.stored_with]
    if not verified or not earlier:
        return
    names = sorted({name for found in [*earlier, inventory.stored_with] for name in found})
    changed = [name for name in names if any(found.get(name) != inventory.stored_with.get(name) for found in earlier)]
    kept = counted(
        verified,
        "object that is verified keeps what it was stored with, and is not sent again",
        "objects that are verified keep what they were stored with, and are not sent again",
    )
    print(f"note: {', '.join(changed)} changed since an earlier run; {kept}", file=sys.stderr)


class AttemptCount:
    """Tells, asked again and again, whether a writer may still come: not seen yet for long, or there and not gone."""

    def __init__(self, lease: Lease, writer: str) -> None:
        self._lease, self._writer = lease, writer
        self._seen = writer == lease.holder.writer
        self._until = time.monotonic() + MEET_SECONDS

    def __call__(self) -> bool:
        """Look."""
        there = self._lease.is_there(self._writer)
        self._seen |= there
        return there or (not self._seen and time.monotonic() < self._until)


def note_once(world: World, text: str) -> None:
    """Say what concerns the whole launch; file names and words of servers may be in it."""
    if world.is_root:
        print(f"note: {printable(text)}", file=sys.stderr)


def launch_name(world: World) -> str:
    """Return a name that the processes of one launch share: they work together without being told to."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID") or (os.environ.get("SLURM_JOB_ID") if world.size > 1 else None)
    if array:
        return f"slurm-{array}"
    name = f"{os.getpid()}-{time.time_ns():x}"
    return gather(world, name)[0]
