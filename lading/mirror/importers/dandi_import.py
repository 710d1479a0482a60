"""Imports a DANDI instance: a manifest for each dandiset, each Zarr store and each published version.

Input: the instance's API, its bucket, and the directory of the last import.
Output: the directory (``dataset_directory.py``), brought up to date; a ``DandiSummary``.
Invariant: only dandisets that the archive says have changed are read. One
that cannot be read, or not wholly, is named and keeps its last manifest; all
others are done. With ``access`` public nothing of an embargoed dandiset is
written, nor kept.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.core.errors import LadingError, UsageError
from lading.core.progress import counted
from lading.core.yaml_file import write_yaml
from lading.mirror.dataset import epoch_of
from lading.mirror.dataset_note import DatasetNote, ReleaseNote
from lading.mirror.importers.claimed_rows import ClaimedObject, ClaimedRows
from lading.mirror.importers.dandi_api import DRAFT, DandiApi, Record, is_identifier
from lading.mirror.importers.dandi_assets import ContentRule, SortedAssets, ZarrAsset, sort_assets
from lading.mirror.importers.dandi_zarr import ZarrEntries
from lading.mirror.importers.dataset_directory import DatasetDirectory, read_state, write_dataset, write_state
from lading.objectstore.client import ObjectStore
from lading.verification.manifest import ManifestEnd, ManifestHeader

# Of a blob that GitHub takes at all: 100 MB.
LARGEST_TEXT = 90_000_000
_SAVE_SECONDS = 10.0
_MOST_FAILURES = 1000
_OPEN = "OPEN"


@dataclass(frozen=True)
class DandiRequest:
    """What to import.

    directory   where to; only: identifiers, all when empty
    rule        which content; header: what every manifest says of the bucket
    access      public: open dandisets; private: embargoed ones
    accept      as ``--accept``; mode, zarr_mode: as in the settings of the mirror
    since       only what changed at or after this time (ISO 8601, UTC), or None
    versions    ask the bucket for the version of each object
    tags        import published versions, too (``enable_tags``); never with a filter, for a tag has the whole
    """

    directory: Path
    only: tuple[str, ...]
    rule: ContentRule
    header: ManifestHeader
    access: str = "public"
    accept: str = "digest"
    mode: str = "timestamp"
    zarr_mode: str = "timestamp"
    workers: int = 5
    since: str | None = None
    versions: bool = False
    tags: bool = True


@dataclass
class DandiSummary:
    """What an import did: ``failed`` are dandisets, versions and assets that were not taken, and why."""

    dandisets: int = 0
    changed: list[str] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)
    others: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class DandiImport:
    """One import."""

    def __init__(
        self,
        api: DandiApi,
        store: ObjectStore,
        zarrs: ZarrEntries,
        request: DandiRequest,
        report: Callable[[str], None],
    ) -> None:
        self._api, self._store, self._zarrs, self._request, self._report = api, store, zarrs, request, report
        self._summary = DandiSummary()
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {}
        self._saved = 0.0

    def run(self) -> DandiSummary:
        """Bring the directory up to date."""
        request = self._request
        request.directory.mkdir(parents=True, exist_ok=True)
        self._state = read_state(request.directory)
        self._check_state()
        due = []
        seen: set[str] = set()
        for record in self._listed():
            identifier = str(record.get("identifier"))
            if not is_identifier(identifier):
                raise LadingError(f"the archive lists the dandiset {identifier[:40]!r}, which is none")
            if not self._is_ours(record):
                self._summary.others += 1
                continue
            seen.add(identifier)
            if self._is_due(identifier, record):
                due.append(record)
        self._summary.dandisets = len(seen)
        if request.since is None:
            self._remove_vanished(seen)
        # Whole only once everything that is listed has been looked at: a killed run leaves nothing that says so.
        self._state["complete"] = bool(self._state["complete"] and not due)
        self._save()
        self._read_all(due)
        self._state["complete"] = request.since is None or bool(self._state["whole"])
        self._state["whole"] = self._state["complete"]
        self._state["failures"] = dict(sorted(self._summary.failed.items())[:_MOST_FAILURES])
        self._save()
        return self._summary

    def _check_state(self) -> None:
        """Give the state of a new directory; ``UsageError`` when the directory is of another import."""
        request = self._request
        wanted = {"api": self._api.address, "bucket": request.header.bucket, "access": request.access}
        wanted["endpoint"] = request.header.endpoint or ""
        wanted["only"] = ",".join(request.only)
        if not self._state:
            empty: dict[str, Any] = {"datasets": {}, "gone": {}, "complete": False, "whole": False}
            self._state = {"format": 1, "source": wanted, **empty}
        if self._state.get("source") != wanted:
            raise UsageError(
                f"{self._request.directory} holds an import of {self._state.get('source')}, not of {wanted}; "
                "give each a directory of its own"
            )

    def _listed(self) -> Iterator[Record]:
        request = self._request
        if request.only:
            for identifier in request.only:
                if not self._api.is_gone(identifier):
                    yield self._api.get(f"/dandisets/{identifier}/")
            return
        for record in self._api.dandisets(newest_first=request.since is not None):
            draft = record.get("draft_version") or {}
            moment = draft.get("modified") or record.get("modified")
            if request.since is not None and moment and epoch_of(str(moment)) < epoch_of(request.since):
                return
            yield record

    def _is_ours(self, record: Record) -> bool:
        public = bool(record.get("embargo_status", _OPEN) == _OPEN)
        return public == (self._request.access == "public")

    def _is_due(self, identifier: str, record: Record) -> bool:
        held = self._state["datasets"].get(identifier)
        if held is None or self._request.mode != "timestamp" or self._request.since is not None:
            return True
        if held.get("failed") or not DatasetDirectory(self._request.directory / identifier).manifest.exists():
            return True  # what the archive had no digest of then it may have now
        return bool(held["seen"] != _seen(record) or self._request.zarr_mode in ("checksum", "force"))

    def _remove_vanished(self, seen: set[str]) -> None:
        """Delete the manifests of dandisets that the archive says are gone, or are not of this access any more."""
        gone = self._state["gone"]
        for identifier in sorted(set(self._state["datasets"]) - seen):
            if self._api.is_gone(identifier):
                reason = "the archive has no such dandiset, or none that may be read"
            elif not self._is_ours(self._api.get(f"/dandisets/{identifier}/")):
                reason = "it is embargoed" if self._request.access == "public" else "it is public now"
            else:
                continue  # it came back while the list was read
            DatasetDirectory(self._request.directory / identifier).remove()
            del self._state["datasets"][identifier]
            gone[identifier] = self._summary.removed[identifier] = reason
            self._report(f"{identifier}: removed: {reason}")
        for identifier in seen & gone.keys():
            del gone[identifier]

    def _read_all(self, due: list[Record]) -> None:
        with ThreadPoolExecutor(self._request.workers) as pool:
            running = {pool.submit(self._one, record): str(record["identifier"]) for record in due}
            try:
                for future in as_completed(running):
                    identifier = running[future]
                    try:
                        state, changed = future.result()
                    except (LadingError, OSError) as error:
                        self._fail(identifier, str(error))
                        # It is there, whatever is known of it: a mirror must not take it for gone.
                        nothing = {"seen": None, "failed": True, "objects": 0}
                        self._state["datasets"].setdefault(identifier, nothing)["failed"] = True
                        continue
                    self._state["datasets"][identifier] = state
                    if changed:
                        self._summary.changed.append(identifier)
                        self._report(f"{identifier}: {counted(state['objects'], 'object')}")
                    if time.monotonic() - self._saved > _SAVE_SECONDS:
                        self._save()
            except BaseException:
                for waiting in running:
                    waiting.cancel()
                raise

    def _save(self) -> None:
        write_state(self._request.directory, self._state)
        self._saved = time.monotonic()

    def _fail(self, name: str, reason: str) -> None:
        with self._lock:
            self._summary.failed[name] = reason

    def _one(self, record: Record) -> tuple[dict[str, Any], bool]:
        """Read one dandiset and write its manifests; returns its state and whether anything is new."""
        identifier = str(record["identifier"])
        held = self._state["datasets"].get(identifier)
        work = _Dandiset(self._api, self._store, self._zarrs, self._request, identifier)
        before = work.directory.note()
        objects = work.write(held)
        for name, reason in work.failed.items():
            self._fail(name, reason)
        state = {"seen": _seen(record), "failed": bool(work.failed), "objects": objects}
        return state, before != work.directory.note() or held is None


class _Dandiset:
    """One dandiset on its way into its directory; ``failed`` are its assets and versions that were not taken."""

    def __init__(
        self, api: DandiApi, store: ObjectStore, zarrs: ZarrEntries, request: DandiRequest, identifier: str
    ) -> None:
        self._api, self._store, self._zarrs, self._request = api, store, zarrs, request
        self._id = identifier
        self.directory = DatasetDirectory(request.directory / identifier)
        self.failed: dict[str, str] = {}

    def write(self, held: Mapping[str, Any] | None) -> int:
        """Write what the archive has of it now; returns how many objects that is."""
        versions = self._api.versions(self._id)
        draft = next((version for version in versions if version.get("version") == DRAFT), None)
        if draft is None:
            raise LadingError("the archive has no draft of it" if versions else "it has no versions")
        modified = str(draft["modified"])
        self._check_time(modified)
        imported = ClaimedRows(self._request.accept)
        found = self._assets(DRAFT, imported)
        files = self._files(self._api.metadata(self._id, DRAFT), modified, found)
        note = DatasetNote(
            self._id, "session", max(utc(modified), found.newest), title=str(draft.get("name", ""))[:200]
        )
        note = replace(note, attached=self.directory.attach(files))
        self._check_announced(held, draft, note)
        kept = self._write_zarrs(found.zarrs)
        tags = self._request.tags and self._request.rule.only is None
        published = [version for version in versions if tags and version.get("version") != DRAFT]
        note = replace(note, releases=tuple(self._releases(published, self.directory.note())))
        end = self._write(self.directory.manifest, note, found.objects, imported)
        for path in imported.reasons:
            self.failed[f"{self._id}/{path}"] = imported.reasons[path]
        self.directory.clean(kept, [release.version for release in note.releases])
        return end.objects

    def _check_time(self, modified: str) -> None:
        before = self.directory.note()
        if before is not None and epoch_of(utc(modified)) < epoch_of(before.newest) - _CLOCKS:
            raise LadingError(f"its draft was changed at {before.newest}, and now the archive says {modified}")

    def _check_announced(self, held: Mapping[str, Any] | None, draft: Record, note: DatasetNote) -> None:
        """In mode verify: ``LadingError`` when something changed that no newer time announces."""
        before = self.directory.note()
        if self._request.mode != "verify" or held is None or before is None:
            return
        same = bool(held["seen"]) and held["seen"][0] == draft.get("modified")
        if same and before.attached != note.attached:
            raise LadingError("mode verify: it changed, but the archive says that it did not; run with mode force")

    def _assets(self, version: str, imported: ClaimedRows) -> SortedAssets:
        found = sort_assets(self._api.assets(self._id, version), self._request.rule, imported.refuse)
        if self._request.versions:
            found.objects = [self._with_version(item) for item in found.objects]
        return found

    def _with_version(self, item: ClaimedObject) -> ClaimedObject:
        if item.version_id is not None:
            return item
        return replace(item, version_id=self._store.head(item.key).version_id)

    def _files(self, metadata: Record, modified: str, found: SortedAssets) -> dict[str, bytes]:
        """Return what the reference writes into git: metadata, the list of assets, and its time."""
        assets = json.dumps(found.records, indent=4, ensure_ascii=True).encode() + b"\n"
        files = {
            "dandiset.yaml": write_yaml(dict(metadata)).encode(),
            ".dandi/assets-state.json": json.dumps({"timestamp": modified}, indent=4).encode() + b"\n",
        }
        if len(assets) <= LARGEST_TEXT:
            files[".dandi/assets.json"] = assets
        return files

    def _write_zarrs(self, zarrs: list[ZarrAsset]) -> list[str]:
        """Write the manifest of each Zarr store; returns the ids of those that stay."""
        ids = [asset.id for asset in zarrs]
        for asset in zarrs:
            if ids.count(asset.id) > 1:
                self.failed[f"{self._id}/{asset.path}"] = "another asset is the same Zarr store"
                continue
            target = self.directory.zarr(asset.id)
            note = DatasetNote(f"{self._id}/{asset.path}", "zarr", asset.modified, title=asset.checksum)
            again = self._request.zarr_mode in ("checksum", "force") or self._request.mode == "force"
            if not again and target.note() == note:
                continue
            try:
                imported = ClaimedRows("digest")
                self._write(target.manifest, note, self._zarrs.of(asset), imported)
            except LadingError as error:
                self.failed[f"{self._id}/{asset.path}"] = str(error)
                continue
            for path, reason in imported.reasons.items():
                self.failed[f"{self._id}/{asset.path}/{path}"] = reason
        return ids

    def _releases(self, published: list[Record], before: DatasetNote | None) -> Iterator[ReleaseNote]:
        """Yield the published versions that are whole, after writing the manifest of each that is new."""
        held = {release.version: release for release in before.releases} if before else {}
        for version in published:
            name = str(version.get("version"))
            if name in held and self._request.mode != "force" and self.directory.release(name).exists():
                yield held[name]  # what was published does not change
                continue
            try:
                yield self._release(name, version)
            except (LadingError, ValueError, KeyError) as error:
                self.failed[f"{self._id}@{name}"] = str(error)

    def _release(self, name: str, version: Record) -> ReleaseNote:
        created, file = utc(str(version["created"])), self.directory.release(name)
        imported = ClaimedRows(self._request.accept)
        found = self._assets(name, imported)
        metadata = self._api.metadata(self._id, name)
        files = self._files(metadata, str(version["modified"]), found)
        note = DatasetNote(self._id, "session", created, title=name, attached=self.directory.attach(files))
        note = replace(note, links={asset.path: asset.checksum for asset in found.zarrs})
        end = self._write(file, note, found.objects, imported)
        if imported.refused:
            file.unlink()
            path, reason = next(iter(imported.reasons.items()))
            raise LadingError(f"{imported.refused:,} of its assets cannot be mirrored; {path}: {reason}")
        return ReleaseNote(name, created, str(metadata.get("doi") or ""), end.sha256)

    def _write(
        self, target: Path, note: DatasetNote, objects: list[ClaimedObject], imported: ClaimedRows
    ) -> ManifestEnd:
        # What a filter left out is not gone.
        whole = self._request.rule.only is None or note.kind == "zarr"
        return write_dataset(target, self._request.header, note, objects, imported, whole=whole)


# Clocks of an archive's machines differ.
_CLOCKS = 60


def _seen(record: Record) -> list[Any]:
    """Return what changes when a dandiset does."""
    draft, published = record.get("draft_version") or {}, record.get("most_recent_published_version") or {}
    return [
        draft.get("modified"),
        draft.get("asset_count"),
        draft.get("size"),
        published.get("version"),
        record.get("embargo_status"),
    ]


def utc(text: str) -> str:
    """Return a time as ISO 8601 in UTC; ``ValueError`` when it is none."""
    when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
