"""One upload from its journals to its summary: what is left is sent and verified.

Input: the plan's objects, the journals, the target, a lease on the plan.
Output: objects, this process's journal, a record of the run, an exit code.
Invariant: what the bucket says is the only proof. Whatever ends the run, the
engines end first, then the journal is closed, then the summary is written.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from lading.checksums.digest_choice import ALL_DIGESTS, DigestChoice
from lading.checksums.digest_prefetch import DigestPrefetch
from lading.checksums.kept_digests import find_kept
from lading.coordination.lease import Lease
from lading.coordination.signals import Ending
from lading.core import exit_codes
from lading.core.command_line import printable
from lading.core.errors import LadingError, PartialFailure
from lading.core.opening import Root
from lading.core.progress import Progress, counted
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter, journal_path
from lading.objectstore.network import choose_way
from lading.objectstore.object_info import StoreError
from lading.objectstore.rate_schedule import RateSchedule
from lading.objectstore.target import Target
from lading.parallel.mpi import World
from lading.plan.object_settings import ObjectSettings
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import AdoptLevel, PlannedObject
from lading.upload.batch_queue import BatchOrder, BatchQueue, order_batches, share
from lading.upload.cleanup import abort_stale_uploads
from lading.upload.engine_choice import build_engines, start_engine
from lading.upload.engines.base import Engine
from lading.upload.pipeline import UploadPipeline
from lading.upload.stop_signals import INTERRUPTED, StopSignals
from lading.upload.summary import UploadSummary, describe_batches
from lading.upload.upload_launch import (
    audit_once,
    head_journal,
    look,
    note_once,
    report_changed_settings,
    report_doubts,
    tidy_index,
)
from lading.verification.check_bucket import check_bucket
from lading.verification.compare import CompareLevel, Comparison
from lading.verification.content_index import ContentIndex

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore
    from lading.objectstore.rate_limit import Throttle

HUNG = "interrupted; a process hung and was left behind"


@dataclass(frozen=True)
class UploadOptions:
    """What a run may be told: the flags of ``lading upload`` by their names. ``engine`` None: s5cmd, or what can."""

    engine: str | None = None
    digests: DigestChoice = ALL_DIGESTS
    level: str | None = None
    adopt: AdoptLevel = AdoptLevel.MD5
    look: str = "auto"
    resume_size: int = 20 * 10**9
    max_batches: int = 1000
    max_bytes: int | None = None
    max_time: float | None = None
    bandwidth: RateSchedule | None = None
    no_overwrite: bool = False
    json: bool = False
    reuse: ContentIndex | None = None
    objects: ObjectSettings = field(default_factory=ObjectSettings)


def tidy(store: "ObjectStore", inventory: PlannedObjects, started: float) -> None:
    """Abort the multipart uploads that killed runs left; a bucket that cannot list them is no reason to stop."""
    try:
        count = abort_stale_uploads(store, inventory, started)
    except StoreError as error:
        print(f"note: unfinished multipart uploads of earlier runs were not looked for: {error}", file=sys.stderr)
        return
    if count:
        print(f"note: aborted {counted(count, 'unfinished multipart upload')} of earlier runs", file=sys.stderr)


@contextmanager
def shaping(timetable: RateSchedule | None, target: Target, processes: int) -> Iterator["Throttle | None"]:
    """Run the bandwidth cap for the block, if there is one; each process of a launch has its share."""
    if timetable is None:
        yield None
        return
    from lading.objectstore.rate_limit import Throttle  # with asyncio, for those who want it

    with Throttle(timetable.share(processes), target.endpoint) as throttle:
        yield throttle


@contextmanager
def prefetching(inventory: PlannedObjects, root: Root, digests: DigestChoice) -> Iterator[DigestPrefetch]:
    """Read files below ``root`` for their digests, but for those whose digests a sign-off kept beside the plan."""
    kept = find_kept(inventory.directory, inventory.release)
    try:
        with DigestPrefetch(root, kept, wants_sha256=digests.sha256) as reader:
            yield reader
    finally:
        if kept is not None:
            kept.close()


def read_ahead(groups: Iterator[list[PlannedObject]], reader: DigestPrefetch) -> Iterator[list[PlannedObject]]:
    """Begin to read the files of the first group; returns the groups, that one included."""
    first = next(groups, None)
    if first is None:
        return groups
    reader.ahead((item.local, item.size) for item in first)
    return chain([first], groups)


class UploadRun:
    """A run of one process; ``peers`` are the writers of its launch.

    Should it hang after a signal, ``ending`` has the record of the run written, and ends it.
    """

    def __init__(
        self,
        options: UploadOptions,
        world: World,
        inventory: PlannedObjects,
        target: Target,
        lease: Lease,
        ending: Ending,
        peers: Sequence[str] = (),
    ) -> None:
        self._options, self._world, self._inventory, self._target = options, world, inventory, target
        self._lease, self._ending, self._peers = lease, ending, peers
        self._writer = lease.holder.writer
        self._started = time.time()
        self._header = head_journal(inventory, target, lease, self._started)
        self._journal_index = JournalIndex(inventory.journal)
        self._error: LadingError | None = None

    def run(self) -> int:
        """Send and verify what is left, and say what was done; returns the exit code."""
        options, world, inventory = self._options, self._world, self._inventory
        journal_index = self._journal_index
        journal_index.check(str(inventory.place), self._target.endpoint)
        if not self._peers and not self._lease.others():
            tidy_index(journal_index, self._header)
            inventory.doubt(look(options.look, inventory, journal_index))
        open_counts = audit_once(world, inventory, journal_index, self._lease, self._peers)
        others = (
            [peer for peer in self._peers if peer != self._writer] if world.is_root else []
        )  # the first speaks for all
        summary = UploadSummary(inventory, open_counts, journal_index, self._started, others)
        summary.live = world.is_root
        order = order_batches(inventory, journal_index, open_counts, world)
        if world.is_root:
            for rule in inventory.keys.unused():
                print(f"note: the remap of {rule!r} matches no file", file=sys.stderr)
            report_doubts(options.look, inventory)
            report_changed_settings(inventory, journal_index, open_counts)
            print(describe_batches(summary, "start"), flush=True)
        if not order:
            if world.is_root and inventory.seen_roots and inventory.release not in inventory.seen_roots:
                # So that the next run knows the path.
                JournalWriter(inventory.journal, self._writer, self._header).close()
            return summary.finish(options.json, self._writer, nothing=True)
        pipeline, signals = self._transfer(summary, order)
        if self._peers and world.is_root:
            self._lease.leave(self._peers)  # so that the counts are of what all ranks did
        return self._conclude(summary, pipeline, signals)

    def _transfer(self, summary: UploadSummary, order: BatchOrder) -> tuple[UploadPipeline, StopSignals]:
        """Send and verify the batches; what ended it is in ``_error``."""
        options, world, inventory = self._options, self._world, self._inventory
        own = journal_path(inventory.journal, self._writer).name
        queue = BatchQueue(inventory, self._journal_index, self._lease, summary, own)
        # The bounds are those of the launch: each rank has its share.
        most_bytes = options.max_bytes if options.max_bytes is None else share(options.max_bytes, world)
        groups = queue.groups(order, share(options.max_batches, world), most_bytes)
        with (
            shaping(options.bandwidth, self._target, world.size) as throttle,
            Progress("upload", enabled=world.is_root) as progress,
            inventory.open_root() as root,
            prefetching(inventory, root, options.digests) as reader,
            ExitStack() as engines,
        ):
            target = replace(self._target, root=root)
            shaped = throttle.through(target) if throttle else target
            first = start_engine(options.engine, shaped)
            if first:
                engines.callback(first.close)
            groups = read_ahead(groups, reader)
            # The client of AWS takes a third of a second to load: the first files are read meanwhile.
            from lading.objectstore.client import ObjectStore

            store = ObjectStore(target)
            summary.silence = store.silence
            level, shaped, first = self._meet(store, shaped, first, engines)
            carrier = ObjectStore(shaped) if throttle else store
            carrier.silence = store.silence
            engine_set = build_engines(first, shaped, carrier, inventory.journal, options.resume_size, options.reuse)
            for engine in reversed(engine_set.all()):  # the first ends first: it is quick, and others finish
                engines.callback(engine.close)
            journal = JournalWriter(inventory.journal, self._writer, self._header)

            def settled(item: PlannedObject, proven: bool) -> None:
                summary.record_result(item, proven, progress)
                queue.record_result(item)

            pipeline = UploadPipeline(
                engine_set,
                store,
                Comparison(store, level, root=root, adopt=options.adopt),
                journal,
                reader,
                prefix=inventory.place.prefix,
                no_overwrite=options.no_overwrite,
                objects=options.objects,
                settled=settled,
                idle=lambda: summary.show(progress),
                pulse=(lambda: throttle.moved) if throttle else None,
                silence=store.silence,
                note=partial(note_once, world),
            )
            summary.wire = (lambda: throttle.sent_bytes) if throttle else None
            summary.counters = pipeline.counters
            signals = StopSignals(pipeline, options.max_time)
            hung = LadingError(HUNG)
            self._ending.last = partial(summary.finish, False, self._writer, error=hung, quiet=True)
            self._drive(pipeline, groups, signals, engines, journal)
        return pipeline, signals

    def _meet(
        self, store: "ObjectStore", shaped: Target, first: Engine | None, engines: ExitStack
    ) -> tuple[CompareLevel, Target, Engine | None]:
        """Ask the bucket what it is like, tidy it, and go to its region; returns level, target and engine for it."""
        options, world, inventory = self._options, self._world, self._inventory
        store.silence.quiet = not world.is_root
        level = check_bucket(store, inventory.place.prefix, CompareLevel(options.level) if options.level else None)
        if store.region != choose_way(shaped).region:
            # Followed by our client; engines are told, since not all of them can.
            region = store.region
            advice = f"set AWS_REGION={region} to go there directly"
            note_once(world, f"the server says that the bucket is in the region {region}; {advice}")
            shaped = replace(shaped, region=region)
            if first:
                first.close()
                first = start_engine(options.engine, shaped)
                engines.callback(first.close if first else lambda: None)
        if level is CompareLevel.SIZE and world.is_root:
            print("note: --level=size compares no content; verify compares each object")
        if world.is_root and not self._lease.others():
            tidy(store, inventory, self._started)
        return level, shaped, first

    def _drive(
        self,
        pipeline: UploadPipeline,
        groups: Iterator[list[PlannedObject]],
        signals: StopSignals,
        engines: ExitStack,
        journal: JournalWriter,
    ) -> None:
        """Run the pipeline; ends the engines, then closes the journal, whatever happens."""
        try:
            pipeline.run(groups, signals.grace)
        except LadingError as caught:
            self._error = caught
        finally:
            try:
                engines.close()
            finally:
                try:
                    journal.close()
                except LadingError as caught:
                    self._error = self._error or caught  # the first is the reason, and the others follow from it
                finally:
                    signals.restore()

    def _conclude(self, summary: UploadSummary, pipeline: UploadPipeline, signals: StopSignals) -> int:
        """Write the summary, and return the exit code or raise what ended the run."""
        code, error, world = 0, self._error, self._world
        stopped = pipeline.stopping
        try:
            code = summary.finish(
                self._options.json, self._writer, error=error, stopped=stopped, quiet=not world.is_root
            )
        except LadingError as caught:
            error = error or caught
        if error and not (signals.caught and stopped == INTERRUPTED and isinstance(error, StoreError)):
            raise error
        if error:  # met while it was ending already: the next run will meet it too, or not
            print(f"error: {printable(str(error))}", file=sys.stderr)
        if signals.caught:
            return exit_codes.INTERRUPTED
        if code:
            raise PartialFailure(summary.describe_failures())
        return 0
