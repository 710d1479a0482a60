"""Scrub a bucket: list everything, read a part, and remember in a log what was read when.

Input: a manifest, its log, a bucket. Output: what is wrong, and lines in the log.
Invariant: a span is in the log as read only when each of its rows was read and is right, or is named with it as wrong.
What was wrong and was not seen right since is said at each run. Nothing is written to the bucket. Memory follows the
number of spans and of wrong objects.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lading.core.external_sort import sort_records
from lading.core.progress import Progress, counted, format_bytes
from lading.objectstore.readable_store import ReadableStore
from lading.parallel.messages import RankMessages
from lading.verification.fixity_log import DAMAGED, UNREADABLE, FixityLog, OpenFinding
from lading.verification.manifest import Manifest, ManifestRow
from lading.verification.manifest_audit import AuditResult, ManifestAudit
from lading.verification.manifest_audit import describe as describe_audit
from lading.verification.manifest_spans import ManifestSpan, cut_spans, digest_row
from lading.verification.object_check import AuditFinding
from lading.verification.sample import FileSample
from lading.verification.scrub_plan import ScrubPlan, SpanTable, plan_scrub, proof_ages
from lading.verification.span_reader import GONE, SpanJob, SpanReader, SpanResult
from lading.verification.span_sharing import SpanSharing

MOST_AGAIN = 10_000  # objects that were wrong and are looked at again in one run
AGAIN_SHARE = 10  # and they take at most this part of its bytes, so that they hold up no others
READ_KINDS = (DAMAGED, GONE, UNREADABLE)


@dataclass(frozen=True)
class ScrubSettings:
    """``period``: seconds in which everything is read; ``most``: bytes of a run, be ``everything`` due or not."""

    period: float
    most: int
    workers: int
    everything: bool = False


@dataclass
class ScrubResult:
    """What a run came to: ``listed`` by the listing; what was read; ``standing``: wrong by reading, now or before."""

    listed: AuditResult
    plan: ScrubPlan
    objects: int = 0
    bytes: int = 0
    unproven: int = 0
    spared: int = 0
    standing: list[OpenFinding] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ages: Mapping[str, int] = field(default_factory=dict)

    def take(self, result: SpanResult) -> None:
        """Count what a job came to."""
        self.objects += result.objects
        self.bytes += result.bytes
        self.unproven += result.unproven
        self.spared += result.spared


class ScrubRun:
    """One run over one manifest."""

    def __init__(self, manifest: Manifest, log: FixityLog, settings: ScrubSettings, scratch: Path) -> None:
        self._manifest, self._log, self._settings, self._scratch = manifest, log, settings, scratch
        self._began = time.time()
        self._table = SpanTable()
        self._known: set[str] = set()  # of the keys that are open: those whose row is the same still
        self._again: set[str] = set()
        self._wrong = sort_records(scratch, "wrong")

    def run(self, store: ReadableStore, post: RankMessages | None, progress: Progress) -> ScrubResult:
        """List, read, log; raises ``StoreError`` when the bucket as a whole cannot be read."""
        self._survey()
        settings, state = self._settings, self._log.state
        plan = plan_scrub(
            self._table, state, self._began, settings.period, settings.most, everything=settings.everything
        )
        self._log.begin_run(
            self._began,
            {"manifest": self._manifest.end.sha256, "period": settings.period, "most": settings.most},
        )
        result = ScrubResult(self._list(store, progress), plan)
        reader = SpanReader(store, settings.workers)

        def take(results: list[SpanResult]) -> None:
            now = time.time()
            self._log.add_spans([found.proof for found in results if found.proof], now)
            self._log.add_again([item for found in results for item in found.again], now)
            for found in results:
                result.take(found)
            if progress.due():
                progress.show(f"read {counted(result.objects, 'object')}, {format_bytes(result.bytes)}")

        try:
            result.lost = SpanSharing(self._jobs(plan), reader, post, take).run()
        finally:
            reader.close()
        known = self._known
        result.standing = [
            found
            for found in state.open.values()
            if found.kind in READ_KINDS and (found.key in known or found.since >= self._began)
        ]
        result.ages = proof_ages(self._table, state)
        self._log.end_run(time.time(), self._summarise(result))
        return result

    def _summarise(self, result: ScrubResult) -> dict[str, Any]:
        found = dict(describe_audit(result.listed))
        return {
            "began": self._began,
            "listed": found["objects"],
            "read": {"objects": result.objects, "bytes": result.bytes},
            "wrong": {kind: sum(item.kind == kind for item in result.standing) for kind in READ_KINDS},
            "period": self._settings.period,
            "late_bytes": result.plan.late,
            "ages": dict(result.ages),
        }

    def _survey(self) -> None:
        """Read the manifest once: its spans, and which of the known wrong objects it still has."""
        known, budget = self._log.state.open, self._settings.most // AGAIN_SHARE
        for span in cut_spans(self._manifest.rows()):
            self._table.add(span, self._log.state)
            if not known:
                continue
            for row, digest in zip(span.rows, span.digests):
                if (found := known.get(row.key)) is None or found.row != digest.hex():
                    continue
                self._known.add(row.key)
                if len(self._again) < MOST_AGAIN and (not self._again or row.size <= budget):
                    self._again.add(row.key)
                    budget -= row.size

    def _list(self, store: ReadableStore, progress: Progress) -> AuditResult:
        """Compare everything by a listing; what is wrong waits sorted for the spans that it is of."""

        def report(row: ManifestRow, finding: AuditFinding) -> None:
            self._wrong.add((row.key, f"listed as {finding.kind}", finding.reason, row.size, digest_row(row).hex()))

        def forget() -> None:
            self._wrong = sort_records(self._scratch, "wrong-again")

        workers = self._settings.workers
        audit = ManifestAudit(self._manifest, store, FileSample(None), workers, self._scratch, report, forget)
        try:
            return audit.run(progress)
        finally:
            audit.close()

    def _jobs(self, plan: ScrubPlan) -> Iterator[SpanJob]:
        """Yield what is to be read, in the manifest's order."""
        wrong = _WrongRows(self._wrong)
        for number, span in enumerate(cut_spans(self._manifest.rows())):
            found = wrong.take(span.rows[-1].key)
            if number in plan.chosen:
                yield _job(span, found, span.digest)
            elif self._again and (keys := [row.key for row in span.rows if row.key in self._again]):
                yield _job(span, found, "", frozenset(keys))


class _WrongRows:
    """The sorted rows that the listing found wrong, taken span by span."""

    def __init__(self, records: Iterable[tuple[str | int, ...]]) -> None:
        self._rest = iter(records)
        self._next = next(self._rest, None)

    def take(self, last: str) -> dict[str, OpenFinding]:
        """Return those up to a key, by their keys."""
        found: dict[str, OpenFinding] = {}
        while self._next is not None and str(self._next[0]) <= last:
            key, kind, reason, size, digest = self._next
            found[str(key)] = OpenFinding(str(key), str(kind), str(reason), str(digest), int(size))
            self._next = next(self._rest, None)
        return found


def _job(
    span: ManifestSpan, wrong: Mapping[str, OpenFinding], digest: str, only: frozenset[str] | None = None
) -> SpanJob:
    """Return what is read of a span: all that the listing does not find wrong, or ``only`` some of it."""
    rows = tuple(
        (row, name.hex())
        for row, name in zip(span.rows, span.digests)
        if row.key not in wrong and (only is None or row.key in only)
    )
    named = tuple(wrong.values()) if only is None else ()
    return SpanJob(digest, span.rows[0].key, len(span.rows), span.bytes, rows, named)
