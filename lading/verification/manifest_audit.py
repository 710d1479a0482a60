"""Compare a bucket with a manifest: source, plan and journals may be gone.

Input: a manifest that was found whole, and a bucket that can be read. Output: counts and the first names of what
disagrees.
Invariant: nothing is written, neither here nor in the bucket. What could not be looked at is counted as unreadable,
never as right. Memory does not grow with the manifest, but for 16 bytes a row where a sample is drawn.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import merge
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from lading.core.merging import full_join
from lading.core.named_counts import SHOWN, NamedCounts
from lading.core.progress import Progress, counted, format_count
from lading.core.worker_threads import WorkerPool
from lading.objectstore.download import ObjectReader
from lading.objectstore.failures import DENIED
from lading.objectstore.keys import encode_key
from lading.objectstore.listing import OutOfOrder, in_order, key_order, list_objects, sort_listing
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.target import FailureKind
from lading.verification.manifest import Manifest, ManifestRow, WithdrawnObject
from lading.verification.object_check import ABSENT, AuditFinding, compare_bytes
from lading.verification.published import is_of_lading
from lading.verification.sample import FileSample

if TYPE_CHECKING:
    from lading.objectstore.readable_store import ReadableStore

ASKED = 1000  # missing objects that are asked for one by one
MOST_ROOTS = 100
AHEAD = 4  # objects in flight for each thread


class CurrentObjects(StrEnum):
    """How the bucket was asked what it holds."""

    VERSIONS = "list of versions"
    LIST = "list"
    HEAD = "head"


@dataclass
class AuditResult(NamedCounts):
    """What was found; ``named`` holds the first ``SHOWN`` names of each kind.

    right      objects that are as the manifest says; ``bytes`` of them
    missing    rows without an object
    different  objects of other content
    superseded objects that a newer version replaced; ``same`` of these have the recorded size and ETag
    extra      objects that the manifest does not name; ``returned``: those of them that were withdrawn
    unreadable objects that could not be looked at
    weak       right ones of which only the size could be compared
    unproven   objects that were read, and the manifest has no digest to compare with
    archived   objects that were to be read and are archived: the listing alone speaks for them
    """

    source: CurrentObjects
    right: int = 0
    bytes: int = 0
    missing: int = 0
    different: int = 0
    superseded: int = 0
    same: int = 0
    extra: int = 0
    returned: int = 0
    unreadable: int = 0
    weak: int = 0
    unproven: int = 0
    archived: int = 0
    read: int = 0
    bytes_read: int = 0


def key_roots(rows: Iterable[ManifestRow | WithdrawnObject], prefix: str) -> list[str]:
    """Return key prefixes that cover every row, none inside another: where extra objects are looked for.

    A key that ends in the row's path gives the rest of it. A key that was remapped gives what is before the
    components that both have, as far as all keys of that kind share it.
    """
    exact: set[str] = set()
    remapped: dict[str, tuple[str, str]] = {}
    first = last = None
    for row in rows:
        key, path = row.key, encode_key(row.path)
        first, last = first or key, key
        head = key[: -len(path)] if key.endswith(path) else None
        if head is not None and (not head or head.endswith("/")):
            if len(exact) <= MOST_ROOTS:
                exact.add(head)
        else:
            head = _before_common(key, path)
            if head in remapped or len(remapped) <= MOST_ROOTS:
                remapped[head] = remapped.get(head, (key, key))[0], key
    if first is None or last is None:
        return [prefix]
    heads = exact | {_shared(*keys) for keys in remapped.values()}
    if len(heads) > MOST_ROOTS:
        heads = {_shared(first, last)}
    found: list[str] = []
    for head in sorted(heads, key=key_order):
        if not found or not head.startswith(found[-1]):
            found.append(head)
    return found


def roots_of(manifest: Manifest) -> list[str]:
    """Return the key prefixes that cover every row of a manifest, and what was withdrawn."""
    both: list[Iterable[ManifestRow | WithdrawnObject]] = [manifest.rows(), manifest.withdrawn()]
    return key_roots(merge(*both, key=lambda item: key_order(item.key)), manifest.header.prefix)


def _before_common(key: str, path: str) -> str:
    """Return what of a key is before the last components that it shares with a path, at least its directory."""
    keys, paths = key.split("/"), path.split("/")
    count = 0
    while count < min(len(keys), len(paths)) and keys[-1 - count] == paths[-1 - count]:
        count += 1
    return "".join(f"{part}/" for part in keys[: len(keys) - max(count, 1)])


def _shared(one: str, other: str) -> str:
    """Return the directories that two keys share: of a sorted sequence's first and last, those of all."""
    length = 0
    for a, b in zip(one.split("/")[:-1], other.split("/")[:-1]):
        if a != b:
            break
        length += len(a) + 1
    return one[:length]


def compare_listed(row: ManifestRow, listed: ObjectInfo) -> AuditFinding:
    """Compare a row with what the bucket lists under its key."""
    known = {digest for digest in (row.etag, row.md5) if digest}
    same = listed.size == row.size and (not row.etag or not listed.etag or listed.etag in known)
    weak = not (row.etag and listed.etag) and listed.etag not in known
    if listed.size != row.size:
        reason = f"{counted(listed.size, 'byte')}, recorded {format_count(row.size)}"
    else:
        reason = "" if same else "same size, another ETag"
    if row.version_id and listed.version_id and listed.version_id != row.version_id:
        if listed.modified >= row.uploaded_at:
            return AuditFinding("superseded", reason or "by the same bytes", same=same)
        reason = f"an older version is the current one{'; ' if reason else ''}{reason}"
    if reason:
        return AuditFinding("different", reason)
    return AuditFinding("right", weak=weak)


class ManifestAudit:
    """Compares one manifest with one bucket. ``sample``: which objects are read as well."""

    def __init__(
        self,
        manifest: Manifest,
        store: "ReadableStore",
        sample: FileSample,
        workers: int,
        scratch: Path,
        report: Callable[[ManifestRow, AuditFinding], None] = lambda row, finding: None,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """``report`` is told each row that is not right; ``forget``: what it was told so far does not hold."""
        self._manifest, self._store, self._sample, self._scratch = manifest, store, sample, scratch
        self._report, self._forget = report, forget
        self._reader = ObjectReader(store)
        self._workers = workers
        self._pool = WorkerPool(workers, "audit")
        self._waiting: deque[tuple[ManifestRow, Future[AuditFinding]]] = deque()
        self._lacking: list[ManifestRow] = []
        self._withdrawn: set[str] = set()
        self._roots: list[str] = []

    def close(self) -> None:
        """End the threads; what hangs in a socket is left behind."""
        self._reader.stop()
        self._pool.close()

    def run(self, progress: Progress) -> AuditResult:
        """Compare everything; raises ``StoreError`` when the bucket as a whole cannot be read."""
        self._withdrawn = {item.key for item in self._manifest.withdrawn()}
        roots = self._roots = roots_of(self._manifest)
        source = self._choose_source(roots)
        if source is CurrentObjects.HEAD:
            result = AuditResult(source)
            return self._compare(result, self._heads(result), progress)

        def listed() -> Iterator[ObjectInfo]:
            return list_objects(self._store, roots, versions=source is CurrentObjects.VERSIONS)

        try:
            return self._compare(AuditResult(source), self._pairs(in_order(listed())), progress)
        except OutOfOrder as disorder:
            print(f"note: the server lists out of byte order ({disorder}); sorting it on disk", file=sys.stderr)
        self._waiting.clear()
        self._lacking.clear()
        self._forget()
        return self._compare(AuditResult(source), self._pairs(sort_listing(listed(), self._scratch)), progress)

    def _choose_source(self, roots: list[str]) -> CurrentObjects:
        """Return how the bucket can be asked: by its versions where it keeps them, by heads where it lists nothing."""
        try:
            self._store.page(roots[0])
        except StoreError as error:
            if error.failure is FailureKind.TRANSIENT:
                raise
            self._check_one_is_there(error)  # a web server has other words for it, or answers with a page
            return CurrentObjects.HEAD
        listing = self._store.listing
        return (
            CurrentObjects.VERSIONS
            if listing.keeps_versions() and listing.may_list_versions(roots[0])
            else CurrentObjects.LIST
        )

    def _check_one_is_there(self, denied: StoreError) -> None:
        """Raise ``denied`` unless one of the first rows' objects can be looked at: else a 403 says nothing of it."""
        for _, row in zip(range(SHOWN), self._manifest.rows()):
            try:
                self._store.head(row.key)
                return
            except StoreError as error:
                if error.code not in (*ABSENT, *DENIED):
                    break
        raise denied

    def _pairs(self, listed: Iterator[ObjectInfo]) -> Iterator[tuple[ManifestRow | None, ObjectInfo | None]]:
        return full_join(
            self._manifest.rows(),
            listed,
            lambda row: row.key.encode("utf-8", "surrogateescape"),
            lambda item: key_order(item.key),
        )

    def _heads(self, result: AuditResult) -> Iterator[tuple[ManifestRow, ObjectInfo | None]]:
        """Yield each row with its object, asked for by itself; of the bucket's other objects nothing is known."""
        waiting: deque[tuple[ManifestRow, Future[ObjectInfo | StoreError | None]]] = deque()
        for row in chain(self._manifest.rows(), repeat(None)):
            if row is not None:
                waiting.append((row, self._pool.submit(self._head, row)))
                if len(waiting) < AHEAD * self._workers:
                    continue
            if not waiting:
                return
            asked, future = waiting.popleft()
            found = future.result()
            if isinstance(found, StoreError):
                result.note("unreadable", f"{asked.key} ({found})")
                self._report(asked, AuditFinding("unreadable", str(found)))
            else:
                yield asked, found

    def _head(self, row: ManifestRow) -> ObjectInfo | StoreError | None:
        try:
            found = self._store.head(row.key)
        except StoreError as error:
            if error.code in (*ABSENT, *DENIED):  # who may not list is told 403 of what is not there
                return None
            if error.failure is FailureKind.STOP:
                raise
            return error
        # Without a listing nothing says which version is the newer one.
        return ObjectInfo(row.key, found.size, found.etag, row.uploaded_at, found.version_id)

    def _compare(
        self,
        result: AuditResult,
        pairs: Iterable[tuple[ManifestRow | None, ObjectInfo | None]],
        progress: Progress,
    ) -> AuditResult:
        for row, listed in pairs:
            if row is None:
                if listed is not None and not is_of_lading(listed.key, self._manifest.header.prefix, self._roots):
                    again = " (withdrawn, and there again)" if listed.key in self._withdrawn else ""
                    result.note("extra", f"{listed.key}{again}")
                    result.returned += bool(again)
            elif listed is None:
                self._lack(result, row)
            else:
                self._take(result, row, listed)
            if progress.due():
                progress.show(f"{counted(result.right, 'object')} right")
        while self._waiting:
            self._count_read(result)
        self._settle_missing(result)
        if result.source is CurrentObjects.HEAD:
            self._ask_for_withdrawn(result)
        return result

    def _ask_for_withdrawn(self, result: AuditResult) -> None:
        """Ask for each object that was withdrawn: of a bucket that may not be listed nothing else tells."""
        for key, there in zip(self._withdrawn, self._pool.map(self._has, list(self._withdrawn))):
            if there:
                result.note("extra", f"{key} (withdrawn, and there again)")
                result.returned += 1

    def _has(self, key: str) -> bool:
        try:
            self._store.head(key)
        except StoreError as error:
            if error.code in (*ABSENT, *DENIED):
                return False
            raise
        return True

    def _take(self, result: AuditResult, row: ManifestRow, listed: ObjectInfo) -> None:
        finding = compare_listed(row, listed)
        if not self._sample.takes(row.key, row.size) or listed.size != row.size:
            self._count(result, row, finding)
            return
        self._waiting.append((row, self._pool.submit(self._read, row, listed, finding)))
        if len(self._waiting) >= AHEAD * self._workers:
            self._count_read(result)

    def _count_read(self, result: AuditResult) -> None:
        row, future = self._waiting.popleft()
        finding = future.result()
        if finding.archived:
            result.archived += 1
        elif finding.kind not in ("unreadable", "missing"):
            result.read += 1
            result.bytes_read += row.size
        if finding.kind == "unproven":
            result.note("unproven", row.key)
            finding = AuditFinding("right", weak=finding.weak)
        self._count(result, row, finding)

    def _read(self, row: ManifestRow, listed: ObjectInfo, finding: AuditFinding) -> AuditFinding:
        """Return what the object's bytes say: they decide where the listing has another ETag."""
        read = compare_bytes(self._reader, row, listed.version_id)
        if read.archived:
            return replace(finding, archived=True)
        if read.kind == "unproven":
            return replace(read, weak=finding.weak) if finding.kind == "right" else finding
        if read.kind != "right" or (finding.kind == "different" and not finding.reason.startswith("an older version")):
            return read
        return finding

    def _count(self, result: AuditResult, row: ManifestRow, finding: AuditFinding) -> None:
        if finding.kind != "right":
            result.same += finding.same
            result.note(finding.kind, f"{row.key} ({finding.reason})")
            self._report(row, finding)
            return
        result.right += 1
        result.bytes += row.size
        result.weak += finding.weak

    def _lack(self, result: AuditResult, row: ManifestRow) -> None:
        if result.source is CurrentObjects.HEAD or len(self._lacking) >= ASKED:
            result.note("missing", row.key)
            self._report(row, AuditFinding("missing"))
        else:
            self._lacking.append(row)

    def _settle_missing(self, result: AuditResult) -> None:
        """Count what the listing lacks, once the first of them were asked for one by one."""
        there = list(self._pool.map(self._is_there, self._lacking))
        names = result.named.pop("missing", [])
        for row, found in zip(self._lacking, there):
            if found:
                finding = AuditFinding("unreadable", "the listing leaves it out, but a request for it finds it")
                result.note("unreadable", f"{row.key} ({finding.reason})")
            else:
                finding = AuditFinding("missing")
                result.note("missing", row.key)
            self._report(row, finding)
        kept = result.named.setdefault("missing", [])
        kept += names[: SHOWN - len(kept)]
        self._lacking.clear()

    def _is_there(self, row: ManifestRow) -> bool:
        return any(item.key == row.key for item in self._store.page(row.key)[0])


def describe(result: AuditResult) -> Mapping[str, object]:
    """Return a result for machines."""
    kinds = ("right", "missing", "different", "superseded", "extra", "unreadable")
    return {
        "asked_by": str(result.source),
        "objects": {kind: getattr(result, kind) for kind in kinds},
        "superseded_by_same_bytes": result.same,
        "compared_by_size_only": result.weak,
        "without_digest": result.unproven,
        "archived": result.archived,
        "bytes": {"right": result.bytes, "read": result.bytes_read},
        "read": result.read,
        "named": {kind: names for kind, names in result.named.items() if names},
    }
