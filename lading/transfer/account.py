"""What a run did and what is left: the summary, the progress line, the record of the run.

Input: the inventory's counts, then each item as it is settled. Output: lines
on stdout, ``runs/<time>-<writer>.json``.
Invariant: a batch counts as completed when each of its objects is proven, and
for no other reason.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from lading.cli import printable
from lading.errors import LadingError
from lading.files import replacing
from lading.formats.coverage import ADVICE, describe_gap, encode_coverage
from lading.progress import Progress, format_bytes, format_count, format_seconds
from lading.transfer.inventory import Inventory
from lading.transfer.ledger import Ledger
from lading.transfer.proof import Item
from lading.transfer.ship import Tally

SHOWN = 10  # failures named in a summary


class Account:
    """The books of one run."""

    def __init__(self, inventory: Inventory, open_counts: list[int], ledger: Ledger, started: float) -> None:
        self.tally = Tally()
        self._inventory, self._ledger = inventory, ledger
        self._open = list(open_counts)
        self._started = started
        self._number = {batch.id: number for number, batch in enumerate(inventory.batches)}
        self._failed = {failure.batch: 1 for failure in ledger.failures() if self._is_open(failure.batch)}
        self._failures: list[str] = []
        self._mine: set[int] = set()
        self._todo = sum(open_counts)
        self._done = 0
        self.wire: Callable[[], int] | None = None  # bytes that left this machine, where they are counted

    def _is_open(self, batch: str) -> bool:
        return bool(self._open[self._number[batch]]) if batch in self._number else False

    def begin(self, number: int, count: int) -> None:
        """Note that this process works on a batch with ``count`` objects to prove."""
        self._mine.add(number)
        self._open[number] = count
        self._failed.pop(self._inventory.batches[number].id, None)

    def settle(self, item: Item, proven: bool, progress: Progress) -> None:
        """Note the end of one item; shows progress."""
        if proven:
            self._open[self._number[item.batch]] -= 1
            self._done += 1
        else:
            self._failed[item.batch] = self._failed.get(item.batch, 0) + 1
            if len(self._failures) < SHOWN:
                self._failures.append(item.path)
        self.show(progress)

    def show(self, progress: Progress) -> None:
        """Show progress when it is time to: also while nothing settles, as inside a huge file."""
        if progress.due():
            progress.show(self._line(progress.elapsed))

    def _line(self, seconds: float) -> str:
        tally = self.tally
        rate = tally.proven_bytes / seconds if seconds else 0.0
        left = (self._todo - self._done) / (self._done / seconds) if self._done and seconds else 0.0
        return (
            f"{format_count(self._done)}/{format_count(self._todo)} objects proven, "
            f"{format_bytes(tally.proven_bytes)}, {format_bytes(rate)}/s, {tally.failed} failed, "
            f"{format_seconds(left)} left" + (f", {format_bytes(self.wire())} on the wire" if self.wire else "")
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
        tally = self.tally
        if nothing:
            text = f"nothing to send: all {format_count(self._total())} objects are proven"
        else:
            text = (
                f"sent {format_count(tally.sent)} objects, {format_bytes(tally.sent_bytes)} in "
                f"{format_seconds(seconds)} ({format_bytes(tally.sent_bytes / seconds)}/s); "
                f"proven {format_count(tally.proven)}, adopted {format_count(tally.adopted)}, failed {tally.failed}"
            )
        code = 3 if tally.failed and not error else 0
        if not quiet:
            print(f"upload  {text}")
            if not nothing:
                print(describe_batches(self, "end"))
            if stopped and not error:
                print(f"upload  stopped: {stopped}")
            if gap := describe_gap(self._inventory.coverage, printable):
                print(f"incomplete: {gap}; verify will end with 3: {ADVICE}")
            print(f"next: {self._next_step(error is not None)}", flush=True)
        record = {
            "format": 1,
            "kind": "run",
            "stage": "upload",
            "writer": writer,
            "bucket": str(self._inventory.place),
            "root": self._inventory.plan.root,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(seconds, 3),
            "batches": self.counts(),
            "objects": {
                "sent": tally.sent,
                "adopted": tally.adopted,
                "proven": tally.proven,
                "failed": tally.failed,
                "left": self.objects_left,
            },
            "bytes": {"sent": tally.sent_bytes, "proven": tally.proven_bytes},
            "retries": tally.retries,
            "crawl": encode_coverage(self._inventory.coverage),
            "reasons": dict(sorted(tally.reasons.items(), key=lambda entry: -entry[1])[:SHOWN]),
            "stopped": str(error) if error else stopped,
        }
        self._write(record, writer)
        if as_json:
            print(json.dumps(record), flush=True)
        return code

    def _next_step(self, stopped_by_error: bool) -> str:
        if not self.objects_left:
            return "make verify"
        if self.tally.failed >= self.objects_left and not stopped_by_error:
            return "mend what is said below"  # by itself the same command would fail in the same way
        return "make upload"

    def _write(self, record: dict[str, Any], writer: str) -> None:
        directory = self._inventory.directory / "runs"
        directory.mkdir(exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._started))
        with replacing(directory / f"{stamp}-{writer}.json") as stream:
            json.dump(record, stream, indent=1)
            stream.write("\n")

    def _total(self) -> int:
        return sum(batch.files for batch in self._inventory.batches)

    def _recount(self) -> None:
        """Learn how far other processes came with the batches that were theirs."""
        others = [n for n, count in enumerate(self._open) if count and n not in self._mine]
        if others:
            self._ledger.refresh()
            for number in others:
                self._open[number] = len(self._inventory.unproven(number, self._ledger))

    def describe_failures(self) -> str:
        """Return a sentence on what failed."""
        reasons = sorted(self.tally.reasons.items(), key=lambda entry: -entry[1])
        lines = [
            f"{self.tally.failed} objects failed, the rest is proven; mend what is said and run the same command again"
        ]
        lines += [f"  {format_count(count)} x {reason}" for reason, count in reasons[:SHOWN]]
        return "\n".join([*lines, "  first: " + ", ".join(self._failures)])


def describe_batches(account: Account, when: str) -> str:
    """Return the line of counts at the start and the end of a run."""
    counts = account.counts()
    text = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    left = f"; {format_count(account.objects_left)} objects to prove" if account.objects_left else ""
    return f"batches at {when}: {text}{left}"
