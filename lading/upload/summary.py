"""What a run did and what is left: the summary, the progress line, the record of the run.

Input: the inventory's counts, then each item as it is settled. Output: lines
on stdout, ``runs/<time>-<writer>.json``.
Invariant: a batch counts as completed when each of its objects is proven, and
for no other reason.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from typing import Any

from lading.checksums.digest import DIGESTED
from lading.checksums.kept_digests import REUSED
from lading.core.atomic import atomic_write
from lading.core.command_line import printable
from lading.core.errors import LadingError
from lading.core.progress import Progress, counted, format_bytes, format_count, format_seconds
from lading.core.version import provenance
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import journal_path
from lading.journal.stage_result import UploadProgress, end_progress, note_counts, write_progress
from lading.objectstore.silence import Silence
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import PlannedObject
from lading.tree.coverage import ADVICE, describe_gap, describe_rest, encode_coverage
from lading.upload.pace import REQUEST_BYTES, ChildBytes, OtherRanks, Pace
from lading.upload.run_state import UploadCounters

OBJECTS_ARE = ("object is", "objects are")
SHOWN = 10  # failures named in a summary
LOOK_SECONDS = 2.0  # between two measurements of the pace
LIVE_SECONDS = 15.0  # between two words on the progress, for who looks after many releases


def describe_all(inventory: PlannedObjects) -> str:
    """Return what became of a plan's objects, where none is left."""
    gone = inventory.withdrawn_files
    if not gone:
        return f"all {counted(inventory.files, *OBJECTS_ARE)} verified"
    return f"{counted(inventory.files - gone, *OBJECTS_ARE)} verified, {counted(gone, 'was', 'were')} withdrawn"


class UploadSummary:
    """The books of one run; ``peers`` are the writers of the other ranks of its launch."""

    def __init__(
        self,
        inventory: PlannedObjects,
        open_counts: list[int],
        journal_index: JournalIndex,
        started: float,
        peers: Sequence[str] = (),
    ) -> None:
        self.counters = UploadCounters()
        self._inventory, self._journal_index = inventory, journal_index
        self._open = list(open_counts)
        self._started = started
        self._number = {batch.id: number for number, batch in enumerate(inventory.batches)}
        self._failed = {failure.batch: 1 for failure in journal_index.failures() if self._is_open(failure.batch)}
        self._failures: list[str] = []
        self._mine: set[int] = set()
        self._todo, self._todo_bytes = sum(open_counts), inventory.open_bytes
        self._done = self._done_bytes = self._failed_bytes = 0
        self._peers = peers
        self._others = OtherRanks(journal_path(inventory.journal, peer) for peer in peers)
        self._others.look()  # what lies there already was done before
        self._others.objects = self._others.bytes = 0
        self._pace, self._children = Pace(), ChildBytes()
        self._looked = time.monotonic()
        self._seen = (0, 0)
        self._moving = 0
        self._records = 1  # of ranks, found at the end
        self.silence: Silence | None = None  # whether the server answers
        self.wire: Callable[[], int] | None = None  # bytes that left this machine, where they are counted
        self.live, self._told = False, time.monotonic()  # whether this process says how far its launch is, and when

    def _is_open(self, batch: str) -> bool:
        return bool(self._open[self._number[batch]]) if batch in self._number else False

    def begin(self, number: int, count: int) -> None:
        """Note that this process works on a batch with ``count`` objects to verify."""
        self._mine.add(number)
        self._open[number] = count
        self._failed.pop(self._inventory.batches[number].id, None)

    def record_result(self, item: PlannedObject, proven: bool, progress: Progress) -> None:
        """Note the end of one item; shows progress."""
        if proven:
            self._open[self._number[item.batch]] -= 1
            self._done += 1
            self._done_bytes += item.size
        else:
            self._failed_bytes += item.size
            self._failed[item.batch] = self._failed.get(item.batch, 0) + 1
            if len(self._failures) < SHOWN:
                self._failures.append(item.path)
        self.show(progress)

    def show(self, progress: Progress) -> None:
        """Show progress when it is time to: also while nothing settles, as inside a huge file."""
        self._look()
        if progress.due():
            progress.show(self._line(progress.elapsed))

    def _look(self) -> None:
        """Learn, every some seconds, how fast objects and bytes go."""
        now = time.monotonic()
        if self.live and now - self._told >= LIVE_SECONDS:
            self._told = now
            moved = self.counters.proven_bytes + self._others.bytes + self._moving
            counts = self._todo - self._done - self._others.objects, moved, self.bytes_left
            say_progress(self._inventory, self._started, counts, self.seconds_left())
        if now - self._looked < LOOK_SECONDS:
            return
        self._others.look()
        sent = self.counters.sent_bytes
        counted = self.wire() if self.wire else self._children.count(sent)
        # Of what is under way, beyond what is known to be sent: of a huge file nothing else tells.
        self._moving = max(0, min(counted - sent - REQUEST_BYTES * self.counters.sent, self._todo_bytes - sent))
        objects = self.counters.sent + self.counters.already_present + self._others.objects
        size = max(self._seen[1], sent + self._moving + self._others.bytes)
        if (objects, size) == self._seen:
            return  # nothing moved: this span becomes part of the next
        self._pace.learn(now - self._looked, objects - self._seen[0], size - self._seen[1])
        self._looked, self._seen = now, (objects, size)

    @property
    def bytes_left(self) -> int:
        """Bytes of the plan that are not proven, as far as this process knows."""
        return max(0, self._todo_bytes - self._done_bytes - self._others.bytes) if self.objects_left else 0

    def seconds_left(self) -> float | None:
        """Return how long what is left of the plan will take the launch; None while nothing was measured."""
        if not self._pace.seconds:
            return None
        failed = self.counters.failed
        objects = self._todo - self._done - failed - self._others.objects
        size = self._todo_bytes - self._done_bytes - self._failed_bytes - self._others.bytes
        landed = self.counters.sent_bytes - self._done_bytes  # stored, not proven yet
        return self._pace.left(max(0, objects), max(0, size - max(0, landed) - self._moving))

    def _line(self, seconds: float) -> str:
        counters = self.counters
        done, size = self._done + self._others.objects, counters.proven_bytes + self._others.bytes
        rate = (size + self._moving) / seconds if seconds else 0.0
        left = self.seconds_left()
        return (
            f"{format_count(done)}/{counted(self._todo, 'object')} verified, "
            f"{format_bytes(size)} of {format_bytes(self._todo_bytes)}, "
            f"{format_count(done / seconds if seconds else 0)} objects/s, {format_bytes(rate)}/s, "
            f"{counters.failed} failed, "
            + (f"{format_seconds(left)} left" if left is not None else "time left unknown")
            + (f", {format_bytes(self.wire())} on the wire" if self.wire else "")
            + (f"; {said}" if self.silence and (said := self.silence.sentence()) else "")
        )

    def counts(self) -> dict[str, int]:
        """Return batches listed, completed, queued and failed."""
        batches = self._inventory.batches
        open_ids = [batch.id for number, batch in enumerate(batches) if self._open[number]]
        failed = sum(batch in self._failed for batch in open_ids)
        return {
            "listed": len(batches),
            "completed": len(batches) - len(open_ids),
            "queued": len(open_ids) - failed,
            "failed": failed,
        }

    @property
    def objects_left(self) -> int:
        """Objects of the plan that are not proven."""
        return sum(self._open)

    def finish(
        self,
        as_json: bool,
        writer: str,
        *,
        error: LadingError | None = None,
        stopped: str = "",
        nothing: bool = False,
        quiet: bool = False,
    ) -> int:
        """Print the summary and write the run's record; returns 3 when objects failed, else 0."""
        if not nothing:
            self._recount()
        seconds = time.time() - self._started
        counters = self.counters
        launch = None if quiet or not self._peers else self._gather()
        whole = launch or counters
        code = 3 if counters.failed and not error else 0
        if not quiet:
            if nothing:
                print(f"upload  complete: nothing to send: {describe_all(self._inventory)}")
            else:
                ranks = f"; {counted(len(self._peers) + 1, 'rank')}" if launch else ""
                print(f"upload  {self._state()}: {describe_counters(whole, seconds)}{ranks}")
            if not nothing:
                print(describe_batches(self, "end"))
            if stopped and not error:
                print(f"upload  stopped: {stopped}")
            if gap := describe_gap(self._inventory.coverage, printable):
                print(f"incomplete: {gap}; verify will end with 3: {ADVICE}")
            if rest := describe_rest(self._inventory.coverage, printable):
                print(f"note: in no batch, so not in the bucket: {rest}")
            print(f"next: {self._next_step(error is not None)}", flush=True)
        record = {
            "format": 1,
            "kind": "run",
            "stage": "upload",
            "writer": writer,
            "written_by": provenance(),
            "bucket": str(self._inventory.place),
            "root": self._inventory.release,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(seconds, 3),
            "batches": self.counts(),
            **_encode_counters(counters),
            "retries": counters.retries,
            "digested": {"files": DIGESTED.files, "bytes": DIGESTED.bytes},
            "digests_reused": {"files": REUSED.files, "bytes": REUSED.bytes},
            "crawl": encode_coverage(self._inventory.coverage),
            "reasons": dict(sorted(counters.reasons.items(), key=lambda entry: -entry[1])[:SHOWN]),
            "stopped": str(error) if error else stopped,
        }
        record["objects"]["left"], record["bytes"]["left"] = self.objects_left, self.bytes_left
        note_upload(record, whole, self._inventory)
        if launch:
            record["launch"] = {"ranks": len(self._peers) + 1, "records": self._records, **_encode_counters(launch)}
        self._write(record, writer)
        if as_json:
            print(json.dumps(record), flush=True)
        return code

    def _gather(self) -> UploadCounters:
        """Return what all ranks of the launch did, by the records that they wrote at their end."""
        whole, self._records = replace(self.counters, reasons=dict(self.counters.reasons)), 1
        for peer in self._peers:
            paths = sorted((self._inventory.directory / "runs").glob(f"*-{escape(peer)}.json"))
            try:
                record = json.loads(paths[-1].read_bytes())
                _add_counters(whole, record["objects"], record["bytes"])
                self._records += 1
            except (IndexError, OSError, ValueError, KeyError, TypeError):
                print(f"note: rank {peer} left no record; what it did is in the journal alone", file=sys.stderr)
        return whole

    def _state(self) -> str:
        left = self.objects_left
        return f"incomplete, {counted(left, *OBJECTS_ARE)} left" if left else "complete"

    def _next_step(self, stopped_by_error: bool) -> str:
        if not self.objects_left:
            return "make verify"
        if self.counters.failed >= self.objects_left and not stopped_by_error:
            return "fix the problems listed below, then make upload"  # by itself it would fail in the same way
        return "make upload"

    def _write(self, record: dict[str, Any], writer: str) -> None:
        directory = self._inventory.directory / "runs"
        directory.mkdir(exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._started))
        with atomic_write(directory / f"{stamp}-{writer}.json") as stream:
            json.dump(record, stream, indent=1)
            stream.write("\n")

    def _recount(self) -> None:
        """Learn how far other processes came with the batches that were theirs."""
        others = [n for n, count in enumerate(self._open) if count and n not in self._mine]
        if others:
            self._journal_index.refresh()
            for number in others:
                self._open[number] = self._inventory.count_open(number, self._journal_index)

    def describe_failures(self) -> str:
        """Return a sentence on what failed."""
        reasons = sorted(self.counters.reasons.items(), key=lambda entry: -entry[1])
        lines = [
            f"{counted(self.counters.failed, 'object')} failed, the others are verified; "
            "fix the problems listed below, then run the same command again"
        ]
        lines += [f"  {format_count(count)} x {reason}" for reason, count in reasons[:SHOWN]]
        return "\n".join([*lines, "  first: " + ", ".join(self._failures)])


def note_upload(record: dict[str, Any], whole: UploadCounters, inventory: PlannedObjects) -> None:
    """Say to who looks after many releases what the launch did, ``whole``, and what is left."""
    note_counts(
        objects=sum(batch.files for batch in inventory.batches),
        size=sum(batch.size for batch in inventory.batches),
        objects_left=record["objects"]["left"],
        bytes_left=record["bytes"]["left"],
        sent=whole.sent,
        bytes=whole.sent_bytes,
        verified=whole.proven,
        failed=whole.failed,
        retries=whole.retries,
    )
    end_progress(inventory.directory)


def say_progress(
    inventory: PlannedObjects, started: float, counts: tuple[int, int, int], seconds_left: float | None
) -> None:
    """Write down how far a launch is: objects left, bytes moved, bytes left."""
    objects, moved, left = counts
    rate = moved / max(1e-9, time.time() - started)
    told = UploadProgress(time.time(), max(0, objects), left, rate, seconds_left)
    write_progress(inventory.directory, told)


def describe_counters(done: UploadCounters, seconds: float) -> str:
    """Return what was done in ``seconds``, as a sentence."""
    copied = (
        f"copied {format_count(done.copied)} by the server, {format_bytes(done.copied_bytes)}; " if done.copied else ""
    )
    return (
        f"{copied}sent {counted(done.sent, 'object')}, {format_bytes(done.sent_bytes)} in "
        f"{format_seconds(seconds)} ({format_bytes(done.sent_bytes / seconds)}/s); "
        f"verified {format_count(done.proven)}, already present {format_count(done.already_present)}, failed "
        f"{done.failed}"
    )


def _add_counters(whole: UploadCounters, objects: Mapping[str, int], size: Mapping[str, int]) -> None:
    """Add what the record of another rank says."""
    whole.sent += objects["sent"]
    whole.already_present += objects["adopted"]
    whole.proven += objects["proven"]
    whole.failed += objects["failed"]
    whole.copied += objects.get("copied", 0)
    whole.sent_bytes += size["sent"]
    whole.copied_bytes += size.get("copied", 0)
    whole.proven_bytes += size["proven"]


def _encode_counters(counters: UploadCounters) -> dict[str, Any]:
    objects = {
        "sent": counters.sent,
        "adopted": counters.already_present,
        "proven": counters.proven,
        "failed": counters.failed,
    }
    size = {"sent": counters.sent_bytes, "proven": counters.proven_bytes}
    if counters.copied:
        objects["copied"], size["copied"] = counters.copied, counters.copied_bytes
    return {"objects": objects, "bytes": size}


def describe_batches(account: UploadSummary, when: str) -> str:
    """Return the line of counts at the start and the end of a run."""
    counts = account.counts()
    text = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    left = f"; {counted(account.objects_left, 'object')} to verify" if account.objects_left else ""
    return f"batches at {when}: {text}{left}"
