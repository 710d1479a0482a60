"""Send the batches of a plan to a bucket and prove each object; run again until nothing is left.

Input: ROOT, ``batch.json`` and the tree beside it, credentials of the AWS
chain. Output: objects, ``journal/`` beside batch.json, ``runs/*.json``.
Invariant: what the bucket says is the only proof. Killed at any moment, the
same command goes on where the proofs end.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lading.checksums.digest_prefetch import DigestPrefetch
from lading.cli.roots import add_yes_root, check_root
from lading.coordination.lease import Lease
from lading.coordination.signals import AGAIN_SECONDS, TWICE_SECONDS, Ending
from lading.core import exit_codes
from lading.core.command_line import (
    Parser,
    configure_logging,
    parse_duration,
    parse_size,
    parse_workers,
    printable,
    run_main,
)
from lading.core.errors import LadingError, LockHeldError, PartialFailure
from lading.core.extras import require
from lading.core.limits import LIMITS
from lading.core.progress import Progress, format_count
from lading.core.version import find_commit, tell_commit
from lading.journal.journal_index import COMPACT_ABOVE, JournalIndex, JournalWriter, journal_path
from lading.journal.records import encode_header
from lading.objectstore.manner import add_writing_arguments, unable
from lading.objectstore.network import choose_way
from lading.objectstore.object_info import StoreError
from lading.objectstore.rate_schedule import RateSchedule, parse_bandwidth
from lading.objectstore.target import Target
from lading.parallel.mpi import MEET_SECONDS, World, gather, join_world, leave_world, spread
from lading.plan.objects import NO_DOUBTS, Doubts, PlannedObjects, add_arguments, open_inventory
from lading.plan.planned_object import PlannedObject
from lading.upload.cleanup import sweep_uploads
from lading.upload.dry_run import rehearse
from lading.upload.engines.base import Engine
from lading.upload.engines.boto import BotoEngine
from lading.upload.engines.multipart import MultipartEngine
from lading.upload.engines.obstore import ObstoreEngine
from lading.upload.engines.s5cmd import S5cmdEngine
from lading.upload.pipeline import GROUP, EngineSet, UploadPipeline
from lading.upload.summary import UploadSummary, describe_batches
from lading.verification.check_bucket import check_bucket
from lading.verification.compare import LEVELS, CompareLevel, Comparison

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore
    from lading.objectstore.rate_limit import Throttle

GRACE_SECONDS = LIMITS.grace  # after SIGTERM: Slurm kills 30 s after it (KillWait)
ENDING_SECONDS = 30.0  # between the ends of the ranks of one launch, the writing of their records included
LOOKED_AT = 100_000  # proven files that a run looks at unasked: a second or so
INTERRUPTED = "interrupted"  # why no more is sent, after a signal
RESERVE_SECONDS = 120.0  # before the end of a Slurm job


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="upload.py", description=__doc__.split("\n")[0] if __doc__ else "", codes=exit_codes.OF_A_TRANSFER
    )
    add_arguments(parser)
    add_writing_arguments(parser)
    parser.add_argument("--engine", choices=["s5cmd", "boto3", "obstore"], default="s5cmd", help="what carries files")
    parser.add_argument(
        "--resume-size", type=parse_size, default=20 * 10**9, metavar="20G", help="from here on a broken file resumes"
    )
    parser.add_argument("--max-workers", type=parse_workers, default=32, metavar="N", help="files in flight")
    parser.add_argument("--max-batches", type=int, default=1000, metavar="N", help="batches in this run")
    parser.add_argument("--max-time", type=parse_duration, metavar="8h", help="begin nothing after this long")
    parser.add_argument("--max-bytes", type=parse_size, metavar="10T", help="begin nothing after this many bytes")
    parser.add_argument(
        "--bandwidth",
        type=parse_bandwidth,
        metavar="200M",
        help="bytes a second, or 08:00,200M;19:00,off",
    )
    parser.add_argument("--level", choices=LEVELS, help="how objects are compared")
    parser.add_argument(
        "--look",
        choices=["auto", "always", "never"],
        default="auto",
        help=f"look at proven files for changes that the tree does not show (auto: up to {LOOKED_AT:,} files)",
    )
    parser.add_argument("--no-overwrite", action="store_true", help="never replace an object of other content")
    parser.add_argument("--join", action="store_true", help="work beside other runs on the same plan")
    parser.add_argument("--break-lock", action="store_true", help="take the lock of a machine that is gone for good")
    add_yes_root(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent; write nothing")
    return parser.parse_args(argv)


def start_engine(name: str, target: Target) -> Engine | None:
    """Return the engine that carries most files, its process on the way; None for boto3, which shares our client.

    One that cannot send what is asked for is named, and boto3 is taken.
    """
    lacks = unable(name, target.manner, choose_way(target).style, target.endpoint)
    if lacks:
        print(f"note: {lacks}, so the slower boto3 sends", file=sys.stderr)
        return None
    if name == "s5cmd":
        sender = S5cmdEngine(target)
        if sender.can_share:
            return sender
        print("note: s5cmd cannot open files through /proc here, so the slower boto3 sends them", file=sys.stderr)
        return None
    if name == "obstore":
        engine = ObstoreEngine(target)
        engine.load()
        return engine
    return None


def build_crew(
    first: Engine | None, target: Target, store: "ObjectStore", journal: Path, resume_bytes: int
) -> EngineSet:
    """Return the engines of a run."""
    second = BotoEngine(target, store)
    # Few at once: each of them sends its parts in parallel.
    huge = MultipartEngine(replace(target, workers=2), store, journal=journal, resume_bytes=resume_bytes)
    return EngineSet(first or BotoEngine(target, store), second, huge, resume_bytes)


class Queue:
    """Hands out the unproven items of batch after batch, within the budgets of the run."""

    def __init__(
        self, inventory: PlannedObjects, ledger: JournalIndex, lease: Lease, account: UploadSummary, own: str
    ) -> None:
        self._inventory, self._ledger, self._lease, self._account = inventory, ledger, lease, account
        self._own = own
        self._unsettled: dict[str, int] = {}

    def settle(self, item: PlannedObject) -> None:
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
                self._ledger.refresh(skip=self._own)
                items = self._inventory.unproven(number, self._ledger)
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


def order_batches(inventory: PlannedObjects, ledger: JournalIndex, open_counts: Sequence[int]) -> list[int]:
    """Return the batches to do: in the plan's order, those that failed before last."""
    failed = {failure.batch for failure in ledger.failures()}
    left = [number for number, count in enumerate(open_counts) if count]
    return sorted(left, key=lambda number: inventory.batches[number].id in failed)


def main(argv: Sequence[str] | None = None) -> int:
    """Upload; returns the exit code of docs/formats.md."""
    arguments = parse(argv)
    if arguments.engine == "obstore":
        require(["obstore"])
    configure_logging()
    world = join_world()
    tell_commit(gather(world, (find_commit() or "") if world.first else "")[0] or None)
    inventory, bare = open_inventory(arguments)
    check_root(arguments.root, arguments.yes_root or arguments.dry_run)
    target = replace(bare, workers=arguments.max_workers, no_overwrite=arguments.no_overwrite)
    if arguments.dry_run:
        return rehearse(inventory, target, as_json=arguments.json) if world.first else 0
    inventory.journal.mkdir(exist_ok=True)
    lease = Lease(inventory.journal, run_group(world), join=arguments.join, force=arguments.break_lock)
    peers = gather(world, lease.holder.writer) if world.comm is not None else []
    ending = Ending(GRACE_SECONDS + LIMITS.last + LIMITS.ending, AGAIN_SECONDS).begin()
    try:
        with hold_plan(lease, world, peers):
            if not peers:
                return ship(arguments, world, inventory, target, lease, ending)
            inventory.doubt(tidy_journals(world, inventory, lease, target, peers, arguments.look))
            # What ails this rank is told at once, but it ends with the others: it would take them with it.
            code = run_main(lambda _: ship(arguments, world, inventory, target, lease, ending, peers))
            lease.retire(peers)
        leave_world(world, code, together=ENDING_SECONDS)
        return code
    finally:
        if not peers:  # a rank that hangs at its very end is ended too
            ending.close()


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
            if world.first:
                held.enter_context(lease)
            else:
                lease.register()
                held.push(lease.__exit__)
        except LadingError as error:
            refusal = error
        answer = gather(world, str(refusal or ""))[0]
        if refusal or answer:
            raise refusal or LockHeldError(answer)
        if not world.first:
            lease.follow()
        yield


def head_journal(inventory: PlannedObjects, target: Target, lease: Lease, started: float) -> Mapping[str, Any]:
    """Return the first record of this process's journal."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    return encode_header(lease.holder.writer, str(inventory.place), target.endpoint, inventory.plan.root, stamp)


def tidy_ledger(ledger: JournalIndex, header: Mapping[str, Any]) -> None:
    """Make one journal of many, or see that each has an index; for who works on the plan alone."""
    if len(ledger.journals) > COMPACT_ABOVE:
        ledger.compact(header)
    else:
        ledger.write_indexes()


def tidy_journals(
    world: World, inventory: PlannedObjects, lease: Lease, target: Target, peers: Sequence[str], looks: str
) -> Doubts:
    """Let the first rank tidy the ledger, and look at proven files, while the others wait; all return what it doubts.

    Not while somebody else than they works on the plan.
    """
    doubts = NO_DOUBTS
    try:
        if world.first and not {other.writer for other in lease.others()}.difference(peers):
            ledger = JournalIndex(inventory.journal)
            ledger.check(str(inventory.place), target.endpoint, inventory.plan.root)
            tidy_ledger(ledger, head_journal(inventory, target, lease, time.time()))
            doubts = look(looks, inventory, ledger)
    except LadingError:
        pass  # what ails it each rank finds by itself in a moment
    finally:
        lives = [AttemptCount(lease, peer) for peer in peers]
        shared: Doubts = spread(world, doubts, lambda rank: lives[rank]())
    return shared or NO_DOUBTS


def look(looks: str, inventory: PlannedObjects, ledger: JournalIndex) -> Doubts:
    """Return the proven files that are in another state than they were read in, if they are to be looked at."""
    if looks == "never" or (looks == "auto" and inventory.files > LOOKED_AT):
        return NO_DOUBTS
    return inventory.look(ledger)


def tell_doubts(looks: str, inventory: PlannedObjects) -> None:
    """Say what looking at the proven files came to."""
    if inventory.doubted:
        print(
            f"note: {format_count(inventory.doubted)} proven files are in another state than they were read in; "
            "they are read again",
            file=sys.stderr,
        )
    if looks == "auto" and inventory.files > LOOKED_AT:
        print("note: proven files were not looked at; make verify does, or upload_flags=--look=always", file=sys.stderr)


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


def tidy(store: "ObjectStore", inventory: PlannedObjects, started: float) -> None:
    """Abort the multipart uploads that killed runs left; a bucket that cannot list them is no reason to stop."""
    try:
        count = sweep_uploads(store, inventory, started)
    except StoreError as error:
        print(f"note: unfinished uploads of earlier runs were not looked for: {error}", file=sys.stderr)
        return
    if count:
        print(f"note: aborted {count} unfinished uploads of earlier runs", file=sys.stderr)


@contextmanager
def shaping(timetable: RateSchedule | None, target: Target, processes: int) -> Iterator["Throttle | None"]:
    """Run the bandwidth cap for the block, if there is one; each process of a launch has its share."""
    if timetable is None:
        yield None
        return
    from lading.objectstore.rate_limit import Throttle  # with asyncio, for those who want it

    with Throttle(timetable.share(processes), target.endpoint) as throttle:
        yield throttle


def note_once(world: World, text: str) -> None:
    """Say what concerns the whole launch; file names and words of servers may be in it."""
    if world.first:
        print(f"note: {printable(text)}", file=sys.stderr)


def read_ahead(groups: Iterator[list[PlannedObject]], reader: DigestPrefetch) -> Iterator[list[PlannedObject]]:
    """Begin to read the files of the first group; returns the groups, that one included."""
    first = next(groups, None)
    if first is None:
        return groups
    reader.ahead((item.local, item.size) for item in first)
    return chain([first], groups)


def run_group(world: World) -> str:
    """Return a name that the processes of one launch share: they work together without being told to."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID") or (os.environ.get("SLURM_JOB_ID") if world.size > 1 else None)
    if array:
        return f"slurm-{array}"
    name = f"{os.getpid()}-{time.time_ns():x}"
    return gather(world, name)[0]


def ship(
    arguments: argparse.Namespace,
    world: World,
    inventory: PlannedObjects,
    target: Target,
    lease: Lease,
    ending: Ending,
    peers: Sequence[str] = (),
) -> int:
    """Send and prove what is left, and say what was done; ``peers`` are the writers of this launch.

    Should it hang after a signal, ``ending`` has the record of the run written, and ends it.
    """
    started = time.time()
    place, endpoint, writer = str(inventory.place), target.endpoint, lease.holder.writer
    ledger = JournalIndex(inventory.journal)
    ledger.check(place, endpoint, inventory.plan.root)
    header = head_journal(inventory, target, lease, started)
    if not peers and not lease.others():
        tidy_ledger(ledger, header)
        inventory.doubt(look(arguments.look, inventory, ledger))
    open_counts = inventory.audit(ledger)
    others = [peer for peer in peers if peer != writer] if world.first else []  # the first speaks for all
    account = UploadSummary(inventory, open_counts, ledger, started, others)
    order = order_batches(inventory, ledger, open_counts)
    if world.first:
        for rule in inventory.keys.unused():
            print(f"note: the remap of {rule!r} took no file", file=sys.stderr)
        tell_doubts(arguments.look, inventory)
        print(describe_batches(account, "start"), flush=True)
    if not order:
        return account.finish(arguments.json, writer, nothing=True)
    queue = Queue(inventory, ledger, lease, account, journal_path(inventory.journal, writer).name)
    # The bounds are those of the launch: each rank has its share.
    most_bytes = arguments.max_bytes if arguments.max_bytes is None else share(arguments.max_bytes, world)
    groups = queue.groups(order, share(arguments.max_batches, world), most_bytes)
    error: LadingError | None = None
    with (
        shaping(arguments.bandwidth, target, world.size) as throttle,
        Progress("upload", enabled=world.first) as progress,
        inventory.open_root() as root,
        DigestPrefetch(root) as reader,
        ExitStack() as engines,
    ):
        target = replace(target, root=root)
        shaped = throttle.through(target) if throttle else target
        first = start_engine(arguments.engine, shaped)
        if first:
            engines.callback(first.close)
        groups = read_ahead(groups, reader)
        # The client of AWS takes a third of a second to load: the first files are read meanwhile.
        from lading.objectstore.client import ObjectStore

        store = ObjectStore(target)
        store.silence.quiet = not world.first
        account.silence = store.silence
        level = check_bucket(store, inventory.place.prefix, CompareLevel(arguments.level) if arguments.level else None)
        if store.region != choose_way(target).region:
            # Followed by our client; engines are told, since not all of them can.
            region = store.region
            note_once(
                world,
                f"the server says that the bucket is in the region {region}; set AWS_REGION={region} to go there "
                "at once",
            )
            target, shaped = replace(target, region=store.region), replace(shaped, region=store.region)
            if first:
                first.close()
                first = start_engine(arguments.engine, shaped)
                engines.callback(first.close if first else lambda: None)
        if level is CompareLevel.SIZE and world.first:
            print("note: --level=size compares no content; verify compares each object")
        if world.first and not lease.others():
            tidy(store, inventory, started)
        carrier = ObjectStore(shaped) if throttle else store
        carrier.silence = store.silence
        crew = build_crew(first, shaped, carrier, inventory.journal, arguments.resume_size)
        for engine in reversed(crew.all()):  # the first ends first: it is quick, and others finish what they have
            engines.callback(engine.close)
        journal = JournalWriter(inventory.journal, writer, header)

        def settled(item: PlannedObject, proven: bool) -> None:
            account.settle(item, proven, progress)
            queue.settle(item)

        shipment = UploadPipeline(
            crew,
            store,
            Comparison(store, level, root=root, adopt=arguments.adopt),
            journal,
            reader,
            prefix=inventory.place.prefix,
            no_overwrite=arguments.no_overwrite,
            settled=settled,
            idle=lambda: account.show(progress),
            pulse=(lambda: throttle.moved) if throttle else None,
            silence=store.silence,
            note=partial(note_once, world),
        )
        account.wire = (lambda: throttle.sent_bytes) if throttle else None
        account.tally = shipment.tally
        signals = Signals(shipment, arguments.max_time)
        hung = LadingError("interrupted; something hung and was left behind")
        ending.last = partial(account.finish, False, writer, error=hung, quiet=True)
        try:
            shipment.run(groups, signals.grace)
        except LadingError as caught:
            error = caught
        finally:
            try:
                engines.close()
            finally:
                try:
                    journal.close()
                except LadingError as caught:
                    error = error or caught  # the first is the reason, and the others follow from it
                finally:
                    signals.restore()
    if peers and world.first:
        lease.retire(peers)  # so that the counts are of what all ranks did
    code = 0
    try:
        code = account.finish(arguments.json, writer, error=error, stopped=shipment.stopping, quiet=not world.first)
    except LadingError as caught:
        error = error or caught
    if error and not (signals.caught and shipment.stopping == INTERRUPTED and isinstance(error, StoreError)):
        raise error
    if error:  # met while it was ending already: the next run will meet it too, or not
        print(f"error: {printable(str(error))}", file=sys.stderr)
    if signals.caught:
        return exit_codes.INTERRUPTED
    if code:
        raise PartialFailure(account.describe_failures())
    return 0


class Signals:
    """Turns SIGTERM, SIGINT, SIGUSR1 and the end of the time budget into a gentle stop.

    After SIGUSR1, which a batch system sends early, what is in flight has
    until shortly before the end of the job. A second SIGTERM ends the grace.
    """

    def __init__(self, shipment: UploadPipeline, most_seconds: float | None) -> None:
        self.caught = 0
        self._shipment = shipment
        self._stopped = 0.0
        self._at_once = False
        if most_seconds is not None:
            shipment.deadline = time.monotonic() + most_seconds
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        self._end = time.monotonic() + float(end) - time.time() - RESERVE_SECONDS if end.isdigit() else 0.0
        if self._end:
            shipment.deadline = min(shipment.deadline, self._end)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._catch) for number in numbers}

    def _catch(self, number: int, _: object) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self.caught and (number == signal.SIGUSR1 or self.caught != signal.SIGUSR1):
            self._at_once |= number == signal.SIGTERM and now - self._stopped > TWICE_SECONDS
            return
        self.caught, self._stopped = number, now
        self._shipment.stop(INTERRUPTED)
        # Not by print: the signal may come inside another one, and who reads may have ended by the same signal.
        with suppress(OSError):
            os.write(2, b"finishing what is in flight; once more to stop at once\n")

    def grace(self) -> float:
        """Return the seconds left for what is in flight."""
        if not self.caught:
            return float("inf")
        if self._at_once:
            return float("-inf")
        until = self._stopped + GRACE_SECONDS
        return (max(until, self._end) if self.caught == signal.SIGUSR1 else until) - time.monotonic()

    def restore(self) -> None:
        """Put the old handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(run_main(main))
