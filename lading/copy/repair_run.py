"""Repair: damaged and missing objects of one place come back from another.

Input: the manifests of both places, what an audit found at the first. Output: objects that are right again, and the
first place's manifest with their new versions.
Invariant: an object is replaced only when it was looked at again and is not right, and only by one that was read whole
at the other place and has the recorded digest. What was withdrawn does not come back. A newer version of other content
is of somebody who wrote it, and stays unless that was asked for.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from lading.copy.copy_job import FAILED, CopyDestination, CopyFault, CopyJob, CopyOutcome, classify
from lading.copy.copy_run import move_key
from lading.core.errors import LadingError
from lading.core.external_sort import ExternalSort, sort_records
from lading.core.merging import full_join
from lading.core.named_counts import NamedCounts
from lading.core.progress import Progress, counted
from lading.core.worker_threads import WorkerPool, WorkersStopped
from lading.objectstore.download import ObjectReader
from lading.objectstore.listing import key_order
from lading.objectstore.object_info import ObjectHead, ObjectInfo, StoreError
from lading.objectstore.readable_store import ReadableStore
from lading.objectstore.target import FailureKind
from lading.tree.coverage import Coverage
from lading.verification.manifest import Manifest, ManifestEnd, ManifestRow, write_manifest
from lading.verification.object_check import ABSENT, AuditFinding, compare_bytes, digest_of

AHEAD = 4
LOST, NEWER = "lost", "newer"


@dataclass
class RepairCounters(NamedCounts):
    """What a run did: objects repaired, right when they were looked at again, withdrawn, and not repaired by kind.

    damaged  objects of the manifest that were on the list, each once: what the others sum to
    lost   the other place does not have the recorded bytes either; newer: a newer version of other content is there
    failed objects that could not be written or read now
    """

    damaged: int = 0
    repaired: int = 0
    bytes: int = 0
    right: int = 0
    withdrawn: int = 0
    lost: int = 0
    newer: int = 0
    failed: int = 0


class DamageList:
    """What an audit says of a place, in any order; ``forget`` drops it all, since the audit begins again."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._found: ExternalSort[tuple[str | int, ...]] = sort_records(scratch, "damage")

    def take(self, row: ManifestRow, finding: AuditFinding) -> None:
        """Take a row that is not right."""
        self.add(row.key, finding.kind, finding.reason)

    def add(self, key: str, kind: str, reason: str) -> None:
        """Take the key of an object that is not right."""
        self._found.add((key_order(key).hex(), key, kind, reason))

    def forget(self) -> None:
        """Drop what was taken."""
        self._found = sort_records(self._scratch, "damage-again")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield (key, kind) by key, each key once."""
        last = None
        for _, key, kind, _ in self._found:
            if key != last:
                yield str(key), str(kind)
            last = key


class RepairRun:
    """Repairs one place from another. ``withdrawn`` are keys below the prefixes, without these."""

    def __init__(
        self,
        damaged: Manifest,
        good: Manifest,
        source: ReadableStore,
        destination: CopyDestination,
        workers: int,
        scratch: Path,
        *,
        withdrawn: frozenset[str] = frozenset(),
        overwrite: bool = False,
    ) -> None:
        self._damaged, self._good, self._to = damaged, good, destination
        self._reader, self._check = ObjectReader(source), ObjectReader(destination.store)
        self._withdrawn, self._overwrite = withdrawn, overwrite
        self._workers = workers
        self._pool = WorkerPool(workers, "repair")
        self._states = sort_records(scratch, "repaired")
        self._changed = 0
        self.counters = RepairCounters()

    def close(self) -> None:
        """End the threads; what hangs in a socket is left behind."""
        self._reader.stop()
        self._check.stop()
        self._to.close()
        self._pool.close()

    def run(self, damage: DamageList, progress: Progress) -> None:
        """Repair what is on the list."""
        waiting: deque[tuple[ManifestRow, Future[CopyOutcome | CopyFault | None]]] = deque()
        for row, kind, other in self._joined(damage):
            self.counters.damaged += 1
            waiting.append((row, self._pool.submit(self._do, row, kind, other)))
            if len(waiting) >= AHEAD * self._workers:
                self._finish(*waiting.popleft())
            if progress.due():
                progress.show(f"{counted(self.counters.repaired, 'object')} repaired")
        while waiting:
            self._finish(*waiting.popleft())

    def _joined(self, damage: DamageList) -> Iterator[tuple[ManifestRow, str, ManifestRow | None]]:
        """Yield each damaged row, how it is damaged, and the other place's row."""
        here, there = self._damaged.header.prefix, self._good.header.prefix
        first = full_join(
            self._damaged.rows(), damage, lambda row: key_order(row.key), lambda entry: key_order(entry[0])
        )
        found = ((row, entry[1]) for row, entry in first if row is not None and entry is not None)
        second = full_join(
            found,
            self._good.rows(),
            lambda pair: key_order(pair[0].key),
            lambda row: key_order(move_key(row.key, there, here)),
        )
        for pair, other in second:
            if pair is not None:
                yield (*pair, other)

    def _do(self, row: ManifestRow, kind: str, other: ManifestRow | None) -> CopyOutcome | CopyFault | None:
        """Repair one object; None where it is right after all."""
        try:
            return self._try(row, kind, other)
        except CopyFault as fault:
            return fault
        except StoreError as error:
            if error.failure is FailureKind.STOP:
                raise
            return CopyFault(FAILED, str(error))
        except WorkersStopped:
            raise
        except (OSError, LadingError) as error:
            return classify(error)

    def _try(self, row: ManifestRow, kind: str, other: ManifestRow | None) -> CopyOutcome | None:
        if row.key.removeprefix(self._damaged.header.prefix) in self._withdrawn:
            raise CopyFault("withdrawn", "it was withdrawn")
        now = self._head(row)
        if now is not None and now.size == row.size and compare_bytes(self._check, row, None).kind == "right":
            return None
        if kind == "superseded" and not self._overwrite:
            raise CopyFault(NEWER, "a newer version of other content is there")
        if other is None or digest_of(row) is None or digest_of(row) != digest_of(other):
            raise CopyFault(LOST, "the other place has no object of the recorded bytes")
        found = compare_bytes(self._reader, other, other.version_id)
        if found.kind == "unreadable":
            raise CopyFault(FAILED, found.reason)
        if found.kind != "right":
            raise CopyFault(LOST, f"at the other place: {found.reason}")
        there = None if now is None else ObjectInfo(row.key, now.size, now.etag, "")
        wanted = replace(other, attributes=row.attributes, storage_class=row.storage_class)
        return self._to.transfer(CopyJob(wanted, row.key, other.version_id, there, row.storage_class))

    def _head(self, row: ManifestRow) -> ObjectHead | None:
        try:
            return self._to.store.head(row.key)
        except StoreError as error:
            if error.code not in ABSENT:
                raise
            return None

    def _finish(self, row: ManifestRow, future: "Future[CopyOutcome | CopyFault | None]") -> None:
        outcome = future.result()
        if outcome is None:
            self.counters.right += 1
            return
        if isinstance(outcome, CopyOutcome):
            outcome = self._to.settle([outcome])[0]
        if isinstance(outcome, CopyFault):
            kind = outcome.kind if outcome.kind in ("withdrawn", LOST, NEWER) else FAILED
            self.counters.note(kind, f"{row.key} ({outcome})")
            return
        self.counters.repaired += 1
        self.counters.bytes += row.size
        head = self._to.store.head(row.key)
        version = head.version_id or ""
        if (head.etag, version) != (row.etag, row.version_id or ""):
            self._changed += 1
        self._states.add((key_order(row.key).hex(), head.etag, version, outcome.proven.method))

    @property
    def changes_manifest(self) -> bool:
        """Tell whether a repaired object has another ETag or version than its row."""
        return self._changed > 0

    def rewrite(self, path: Path, moment: Callable[[], str]) -> ManifestEnd:
        """Write the place's manifest again with the objects that were repaired."""
        end = self._damaged.end
        return write_manifest(
            path,
            self._damaged.header,
            self._rows(moment()),
            complete=end.complete,
            coverage=Coverage(unreadable=end.unreadable, named=end.named, not_regular=end.not_regular),
            source=lambda: end.source,
            entries=self._damaged.entries(),
            withdrawn=self._damaged.withdrawn,
        )

    def _rows(self, moment: str) -> Iterator[ManifestRow]:
        pairs = full_join(
            self._damaged.rows(),
            self._states,
            lambda row: key_order(row.key),
            lambda state: bytes.fromhex(str(state[0])),
        )
        for row, state in pairs:
            if row is None:
                continue
            if state is None:
                yield row
                continue
            etag, version, method = map(str, state[1:])
            what = "md5" if method == "etag" else method.partition(":")[0]
            value = method if ":" in method else None
            yield replace(
                row,
                etag=etag,
                version_id=version or None,
                checksum=method,
                uploaded_at=moment,
                verified_by=f"{what}, copied",
                server_checksum=value,
            )
