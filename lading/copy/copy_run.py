"""A copy of a release: every object of a manifest at a second place, proven at both ends.

Input: a manifest, its bucket, a second place, the log of earlier runs. Output: objects there, lines of the log, and at
the end the manifest of the second place.
Invariant: an object is copied only where the first place has what the manifest says, and counts only where the second
place was seen to hold it. Nothing that is listed there is replaced but copies of ours, unless that was asked for.
Killed at any moment, the same command goes on. Memory grows with what was withdrawn, not with the manifest's rows.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from lading.copy.copy_job import DAMAGED, FAILED, REFUSED, CopyDestination, CopyFault, CopyJob, CopyOutcome, classify
from lading.copy.copy_log import CopyLog, ProvenCopy
from lading.core.errors import ConsistencyError, LadingError
from lading.core.merging import full_join
from lading.core.named_counts import NamedCounts
from lading.core.progress import Progress, counted, format_bytes, format_count
from lading.core.worker_threads import WorkerPool, WorkersStopped
from lading.objectstore.listing import OutOfOrder, in_order, key_order, list_objects, sort_listing
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.readable_store import ReadableStore
from lading.objectstore.target import FailureKind
from lading.verification.manifest import (
    Manifest,
    ManifestEnd,
    ManifestHeader,
    ManifestRow,
    WithdrawnObject,
    write_manifest,
)
from lading.verification.manifest_audit import compare_listed, roots_of
from lading.verification.object_check import ABSENT
from lading.verification.published import is_of_lading

AHEAD = 4  # objects in flight for each thread
GROUP = 256  # proven objects that are written down together
GROUP_SECONDS = 2.0
TRIES = 4
MISSING = "it is missing"
ASKED = 1000  # objects that a listing lacks, and that are not there either, before the listing is believed


@dataclass
class CopyCounters(NamedCounts):
    """What a run did; ``named`` has the first names of each kind of fault.

    copied    objects, ``bytes`` of them, ``streamed`` bytes through this machine; older: of versions that are not
              the current ones
    present   objects that were right there already: ``known`` by the log, the others looked at now
    source    objects that the first place does not hold as recorded; refused: others are at the second place
    unfit     objects whose names the second place cannot hold
    failed    objects that could not be copied now; unproven: copied, while no digest of them is recorded
    extra     objects at the second place that the manifest does not name; ``kept``: those of them that were withdrawn
    lacking   what of objects' settings could not be kept, by name
    """

    copied: int = 0
    bytes: int = 0
    streamed: int = 0
    older: int = 0
    present: int = 0
    known: int = 0
    source: int = 0
    refused: int = 0
    unfit: int = 0
    failed: int = 0
    unproven: int = 0
    extra: int = 0
    kept: int = 0
    lacking: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CopySettings:
    """``overwrite`` replaces other objects at the second place; ``workers``: objects in flight."""

    workers: int = 16
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class _Looks:
    """What an object needs: ``unlisted`` at the first place, ``pinned`` to its version, ``is_ours`` at the second."""

    unlisted: bool
    pinned: bool
    is_ours: bool


class CopyRun:
    """Copies what a manifest names. ``before``: the manifest of the second place that an earlier copy wrote."""

    def __init__(
        self,
        manifest: Manifest,
        source: ReadableStore,
        destination: CopyDestination,
        log: CopyLog,
        before: Manifest | None,
        settings: CopySettings,
        scratch: Path,
    ) -> None:
        self._manifest, self._source, self._to, self._log = manifest, source, destination, log
        self._before, self._settings, self._scratch = before, settings, scratch
        self._pool = WorkerPool(settings.workers, "copy")
        self._roots = roots_of(manifest)
        self._waiting: deque[tuple[CopyJob, Future[CopyOutcome | CopyFault], bool]] = deque()
        self._group: list[tuple[CopyJob, CopyOutcome, bool]] = []
        self._written = time.monotonic()
        self._missing = 0  # of those that were asked for by themselves
        self.counters = CopyCounters()

    def close(self) -> None:
        """End the threads; what hangs in a socket is left behind."""
        self._to.close()
        self._pool.close()

    def key_at(self, key: str) -> str:
        """Return the key of an object at the second place."""
        return move_key(key, self._manifest.header.prefix, self._to.prefix)

    def copy(self, progress: Progress) -> None:
        """Copy what is not there; raises ``StoreError`` when a place as a whole does not answer."""
        try:
            self._copy(progress, in_order)
        except OutOfOrder as disorder:
            print(f"note: a server lists out of byte order ({disorder}); sorting it on disk", file=sys.stderr)
            self._waiting.clear()
            self.counters = CopyCounters()
            self._copy(progress, lambda listed: sort_listing(listed, self._scratch))

    def _copy(self, progress: Progress, order: Callable[[Iterable[ObjectInfo]], Iterator[ObjectInfo]]) -> None:
        for row, listed, known, there in self._joined(order):
            self._take(row, listed, known, there)
            if progress.due():
                count = self.counters
                progress.show(
                    f"{counted(count.copied, 'object')} copied, {format_bytes(count.bytes)}; "
                    f"{format_count(count.present)} were there"
                )
        while self._waiting:
            self._finish_first()
        self._write_down()

    def _roots_there(self) -> list[str]:
        """Return where the copies are: other releases below the second place's prefix are not this one's."""
        prefix = self._manifest.header.prefix
        if not all(root.startswith(prefix) for root in self._roots):
            return [self._to.prefix]
        return [self.key_at(root) for root in self._roots]

    def _joined(
        self, order: Callable[[Iterable[ObjectInfo]], Iterator[ObjectInfo]]
    ) -> Iterator[tuple[ManifestRow, ObjectInfo | None, ProvenCopy | None, ObjectInfo | None]]:
        """Yield each row with what the first place lists, what is known of the second, and what that lists."""
        rows = self._manifest.rows()
        roots = self._roots
        listed = order(list_objects(self._source, roots, versions=keeps_versions(self._source, roots)))
        there = order(list_objects(self._to.store, self._roots_there(), versions=False))
        first = full_join(rows, listed, lambda row: key_order(row.key), lambda item: key_order(item.key))
        sources = ((row, found) for row, found in first if row is not None)
        known = self._log.read(self._before)
        second = full_join(
            sources, known, lambda pair: key_order(self.key_at(pair[0].key)), lambda copy: key_order(copy.key)
        )
        with_known = ((*pair, copy) for pair, copy in second if pair is not None)
        third = full_join(
            with_known, there, lambda entry: key_order(self.key_at(entry[0].key)), lambda item: key_order(item.key)
        )
        for entry, item in third:
            if entry is not None:
                yield (*entry, item)

    def _take(
        self, row: ManifestRow, listed: ObjectInfo | None, known: ProvenCopy | None, there: ObjectInfo | None
    ) -> None:
        """Decide what becomes of one row."""
        is_same = known is not None and there is not None and (there.size, there.etag) == (known.size, known.etag)
        is_same = is_same and there is not None and self._to.looks_copied(row, there)
        if known is not None and is_same and known.is_of(row):
            self.counters.present += 1
            self.counters.known += 1
            return
        finding = compare_listed(row, listed) if listed is not None else None
        unlisted = finding is None and not row.version_id and self._missing < ASKED
        pinned = not unlisted and (finding is None or finding.kind != "right")
        if pinned and not row.version_id:
            reason = MISSING if finding is None else finding.reason
            self.counters.note("source", f"{row.key} ({reason or 'replaced'})")
            return
        version = row.version_id if row.version_id and (pinned or listed is None or listed.version_id) else None
        job = CopyJob(row, self.key_at(row.key), version, there, listed.storage_class if listed else row.storage_class)
        work = self._pool.submit(self._do, job, looks=_Looks(unlisted, pinned, is_same))
        self._waiting.append((job, work, pinned))
        if len(self._waiting) >= AHEAD * self._settings.workers:
            self._finish_first()

    def _do(self, job: CopyJob, looks: _Looks) -> CopyOutcome | CopyFault:
        """Copy one object, or find it there; what is transient is tried again."""
        for attempt in range(TRIES):
            try:
                return self._try(job, looks)
            except CopyFault as fault:
                return fault
            except StoreError as error:
                if error.failure is FailureKind.STOP:
                    raise
                if error.failure is not FailureKind.TRANSIENT or attempt == TRIES - 1:
                    return CopyFault(FAILED, str(error))
                self._pool.leash.stop.wait(2.0**attempt)
                self._pool.leash.check()
            except WorkersStopped:
                raise
            except (OSError, LadingError) as error:
                return classify(error)
        raise AssertionError("unreachable")

    def _try(self, job: CopyJob, looks: _Looks) -> CopyOutcome | CopyFault:
        row, there = job.row, job.there
        if looks.unlisted and not is_there(self._source, row):
            self._missing += 1
            raise CopyFault(DAMAGED, MISSING)
        if looks.pinned and not is_there(self._source, row):
            raise CopyFault(DAMAGED, "neither it nor its recorded version is there")
        if there is not None:
            if proven := self._to.adopt(job, there):
                return CopyOutcome(proven, held=_PRESENT)
            if not looks.is_ours and not self._settings.overwrite:
                raise CopyFault(REFUSED, "another object is there")
        return self._to.transfer(job)

    def _finish_first(self) -> None:
        job, future, pinned = self._waiting.popleft()
        outcome = future.result()
        if isinstance(outcome, CopyFault):
            self.counters.note(outcome.kind, f"{job.row.key} ({outcome})")
            return
        self._group.append((job, outcome, pinned))
        if len(self._group) >= GROUP or time.monotonic() - self._written > GROUP_SECONDS:
            self._write_down()

    def _write_down(self) -> None:
        """Have what was copied last, then log it."""
        group, self._group = self._group, []
        settled = self._to.settle([outcome for _, outcome, _ in group])
        self._written = time.monotonic()
        proven = []
        for (job, _, pinned), outcome in zip(group, settled):
            if isinstance(outcome, CopyFault):
                self.counters.note(outcome.kind, f"{job.row.key} ({outcome})")
                continue
            proven.append(outcome.proven)
            self._count(job, outcome, pinned)
        self._log.add(proven)

    def _count(self, job: CopyJob, outcome: CopyOutcome, pinned: bool) -> None:
        count = self.counters
        if outcome.held is _PRESENT:
            count.present += 1
            return
        count.copied += 1
        count.bytes += job.row.size
        count.streamed += outcome.streamed
        count.older += pinned
        if outcome.unproven:
            count.note("unproven", job.row.key)
        for name in outcome.lacking:
            count.lacking[name] = count.lacking.get(name, 0) + 1

    def write_place_manifest(self, path: Path, header: ManifestHeader) -> ManifestEnd:
        """List the second place and write its manifest: the objects that it lists as they were proven."""
        try:
            return self._write_manifest(path, header, in_order)
        except OutOfOrder:
            self.counters.extra = self.counters.kept = 0
            return self._write_manifest(path, header, lambda listed: sort_listing(listed, self._scratch))

    def _write_manifest(
        self, path: Path, header: ManifestHeader, order: Callable[[Iterable[ObjectInfo]], Iterator[ObjectInfo]]
    ) -> ManifestEnd:
        found = 0

        def rows() -> Iterator[ManifestRow]:
            nonlocal found
            for row in self._rows_there(order):
                found += 1
                yield row

        end = self._manifest.end
        return write_manifest(
            path,
            header,
            rows(),
            complete=lambda: end.complete and found == end.objects,
            entries=self._manifest.entries(),
            withdrawn=self._withdrawn,
        )

    def _withdrawn(self) -> Iterator[WithdrawnObject]:
        gone = [replace(item, key=self.key_at(item.key), version_id=None) for item in self._manifest.withdrawn()]
        known = {item.key: item for item in gone}
        # What an earlier copy stored there has the ETag of that place, by which it can be withdrawn there, too.
        for old in self._named_before() if known else ():
            if old.key in known and old.etag:
                known[old.key] = replace(known[old.key], etag=old.etag, version_id=old.version_id)
        return iter([known[item.key] for item in gone])

    def _named_before(self) -> Iterator[ManifestRow | WithdrawnObject]:
        if self._before is not None:
            yield from self._before.withdrawn()
            yield from self._before.rows()

    def _rows_there(self, order: Callable[[Iterable[ObjectInfo]], Iterator[ObjectInfo]]) -> Iterator[ManifestRow]:
        store, prefix, roots = self._to.store, self._to.prefix, self._roots_there()
        withdrawn = {self.key_at(item.key) for item in self._manifest.withdrawn()}
        there = order(list_objects(store, roots, versions=keeps_versions(store, roots)))
        first = full_join(
            self._manifest.rows(),
            self._log.read(self._before),
            lambda row: key_order(self.key_at(row.key)),
            lambda copy: key_order(copy.key),
        )
        rows = ((row, copy) for row, copy in first if row is not None)
        second = full_join(
            rows, there, lambda pair: key_order(self.key_at(pair[0].key)), lambda item: key_order(item.key)
        )
        for pair, item in second:
            if pair is None:
                if item is not None and not is_of_lading(item.key, prefix, roots):
                    self.counters.note("extra", item.key)
                    if item.key in withdrawn:
                        self.counters.note("kept", item.key)
                continue
            row, copy = pair
            if copy is not None and item is not None and copy.is_of(row):
                if (item.size, item.etag) == (copy.size, copy.etag):
                    yield row_there(row, copy, item)
                else:
                    self.counters.note("failed", f"{row.key} (it is listed with other bytes since it was copied)")


def is_there(source: ReadableStore, row: ManifestRow) -> bool:
    """Ask for an object, or its recorded version, by itself; raises ``CopyFault`` where it has other bytes."""
    try:
        head = source.head(row.key, row.version_id)
    except StoreError as error:
        if error.code not in ABSENT:
            raise
        return False
    if head.size != row.size or (row.etag and head.etag and head.etag != row.etag):
        raise CopyFault(DAMAGED, f"{'its recorded version' if row.version_id else 'it'} has other bytes")
    return True


_PRESENT = object()


def keeps_versions(store: ReadableStore, roots: list[str]) -> bool:
    """Tell whether a place keeps versions that may be listed."""
    return store.listing.keeps_versions() and store.listing.may_list_versions(roots[0])


def move_key(key: str, prefix: str, to: str) -> str:
    """Return the key of an object below another prefix."""
    if not key.startswith(prefix):
        raise ConsistencyError(f"the manifest names {key!r}, which is not below its prefix {prefix!r}; verify it again")
    return to + key[len(prefix) :]


def row_there(row: ManifestRow, copy: ProvenCopy, item: ObjectInfo) -> ManifestRow:
    """Return the row of the second place's manifest."""
    what = "md5" if copy.method == "etag" else copy.method.partition(":")[0]
    return replace(
        row,
        key=item.key,
        etag=item.etag,
        version_id=item.version_id or copy.version_id,
        checksum=copy.method,
        uploaded_at=item.modified,
        verified_by=f"{what}, copied",
        server_checksum=copy.server_checksum,
        level=None,
        storage_class=item.storage_class,
        attributes=None,
    )
