"""What one run compares: the manifest's datasets beside those of the last update.

Input: the layout of the stores and the source. Output: a ``MirrorComparison``.
Invariant: it is read once, before anything is written, and does not change;
any doubt makes a dataset due.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lading.core.errors import ConsistencyError, UsageError
from lading.core.progress import counted
from lading.mirror.config import Config
from lading.mirror.dataset import MAIN, Rules
from lading.mirror.git.annex import AnnexAccess, check_address, remote_of
from lading.mirror.git.commands import resolve
from lading.mirror.last_run import branches, read_note
from lading.mirror.layout import Dataset, MirrorLayout
from lading.mirror.source import ManifestSource
from lading.mirror.split import link_parents
from lading.mirror.structure import Rule, Structure, children_of, lay_out
from lading.mirror.superdataset import DatasetRecord, DatasetRecords, read_records
from lading.mirror.text_files import TextSource

# Which names and links this software writes: another one makes the next run compare every dataset again.
_LAYOUT = 3


def access_of(config: Config, source: ManifestSource) -> AnnexAccess:
    """Return how clones reach the bucket; ``ConsistencyError`` when the settings name another bucket."""
    header = source.header
    if config.s3bucket and config.s3bucket != header.bucket:
        raise ConsistencyError(f"s3bucket is {config.s3bucket}, but the manifest describes bucket {header.bucket}")
    endpoint = config.s3endpoint or header.endpoint
    check_address(header.bucket, endpoint)
    remote = remote_of(header.bucket, endpoint) if config.access == "private" else None
    return AnnexAccess(header.bucket, endpoint, remote, config.content_url_regex)


def settings_digest(config: Config, access: AnnexAccess) -> str:
    """Return the digest of every setting that shapes datasets: when it changes, all are compared again."""
    shaping: list[object] = [
        _LAYOUT,
        access.bucket,
        access.endpoint,
        access.remote,
        access.url_regex,
        config.split_by,
        config.text.model_dump(mode="json"),
        config.asset_filter,
        [c.model_dump(mode="json") for c in config.candidates],
        config.properties,
        [sibling.model_dump(mode="json") for sibling in config.siblings if sibling.candidate],
        config.datasets.path,
        config.datasets.github_org,
        config.zarrs and [config.zarrs.path, config.zarrs.github_org],
        config.version if config.enable_tags else None,
    ]
    if config.hosts:
        # Only then: mirrors of before there were any keep their digest.
        shaping.append([host.model_dump(mode="json") for host in config.hosts if host.candidate])
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class MirrorComparison:
    """The two sides of one run.

    source, structure, datasets  what the manifest has, and the repository of each dataset by its path
    held, held_children          what the superdataset recorded at the last update, and which linked which
    known                        where the last run left the branches, as its note says
    digest                       of the settings that shape datasets
    """

    layout: MirrorLayout
    source: ManifestSource
    rules: Rules
    structure: Structure
    datasets: Mapping[str, Dataset]
    children: Mapping[str, list[str]]
    held: DatasetRecords
    held_children: Mapping[str, list[str]]
    known: Mapping[str, list[str | None]]
    digest: str

    def is_kept(self, path: str) -> bool:
        """Tell whether a dataset stays though the manifest has nothing of it: it may not say that it is gone."""
        return path in self.held.datasets and not self.structure.surveys[path].objects and not self.rules.whole(path)

    def announced(self, path: str) -> bool:
        """Tell whether a newer object or another number of them says that a dataset changed."""
        record, seen = self.held.datasets.get(path), self.structure.surveys[path]
        if self.is_kept(path):
            return False
        return record is None or (record.objects, record.bytes, record.newest, record.whole, record.manifest) != (
            seen.objects,
            seen.bytes,
            seen.newest,
            self.rules.whole(path),
            self._own_manifest(path),
        )

    def _own_manifest(self, path: str) -> str:
        manifest = self.source.manifest_of(path)
        return manifest.end.sha256 if manifest else ""

    def is_due(self, path: str, records: Mapping[str, DatasetRecord]) -> bool:
        """Tell whether a dataset must be compared file by file; ``records`` has what it links by now."""
        config, dataset, record = self.layout.config, self.datasets[path], self.held.datasets.get(path)
        if _linked(self.children, records, path) != _linked(self.held_children, self.held.datasets, path):
            return True
        if path in self.structure.refused or self.is_kept(path):
            return False
        if record is None or self.held.settings != self.digest or config.force or self.announced(path):
            return True
        if not self.is_vouched(dataset):
            return True  # someone else moved a branch, or no run vouches for it
        if resolve(dataset.repository, MAIN) != record.commit:
            return True
        if dataset.kind == "zarr":
            return config.zarr_mode in ("force", "checksum")
        return config.mode != "timestamp"

    def is_vouched(self, dataset: Dataset) -> bool:
        """Tell whether the branches of a dataset are where the last run left them."""
        where = os.path.relpath(dataset.repository, self.layout.store("super"))
        return branches(dataset.repository) == self.known.get(where)

    def first_records(self) -> dict[str, DatasetRecord]:
        """Return the records that a run begins with: those of the last, without what vanished."""
        gone = set(self.structure.vanished)
        records = {path: record for path, record in self.held.datasets.items() if path not in gone}
        if self.held.settings != self.digest:
            # What this run cannot compare, the next one that can must.
            kept = [path for path in self.datasets if path and self.is_kept(path)]
            records.update((path, replace(records[path], whole=False)) for path in kept)
        return records

    def record(self, path: str, commit: str) -> DatasetRecord:
        """Return the record of a dataset that is at ``commit`` now."""
        if self.is_kept(path):
            return replace(self.held.datasets[path], commit=commit)
        dataset, seen = self.datasets[path], self.structure.surveys[path]
        return DatasetRecord(
            dataset.kind,
            dataset.id,
            commit,
            seen.objects,
            seen.bytes,
            seen.newest,
            self.rules.whole(path),
            self._own_manifest(path),
        )


def _linked(children: Mapping[str, list[str]], records: Mapping[str, DatasetRecord], path: str) -> dict[str, str]:
    return {child: records[child].commit for child in children.get(path, ()) if child in records}


def compare(layout: MirrorLayout, source: ManifestSource) -> MirrorComparison:
    """Return what a run has to compare; raises before anything is written when a file could not be reached."""
    config, header = layout.config, source.header
    access = access_of(config, source)
    rules = Rules(
        access=access,
        source=f"s3://{header.bucket}/{header.prefix}",
        text=TextSource(config.text, source.local_path, access),
        # Of a directory of manifests, one that is gone says nothing of its objects, unless that is asked for.
        covers=lambda path: source.covers(path) or (config.gc_assets and not source.speaks_of(path)),
        only=re.compile(config.asset_filter) if config.asset_filter else None,
        max_removed=1.0 if config.gc_assets else config.max_removed,
        manifest=source.digest_of,
    )
    held = read_records(layout.dataset("super", ""))
    structure = lay_out(source, held.datasets, Rule(config.split_by, rules.only, rules.whole, rules.max_removed))
    zarrs = sorted(path for path, kind in structure.kinds.items() if kind == "zarr")
    if zarrs and config.zarrs is None:
        raise UsageError(
            f"{counted(len(zarrs), 'Zarr store')} (first: {zarrs[0]}) but the settings have no zarrs; "
            "add zarrs: {path: …}"
        )
    structure.check()
    note = read_note(layout.done_file)
    return MirrorComparison(
        layout=layout,
        source=source,
        rules=rules,
        structure=structure,
        datasets={path: layout.dataset(kind, path) for path, kind in structure.kinds.items()},
        children=structure.children(),
        held=held,
        held_children=children_of(link_parents(held.datasets)),
        known=note.refs if note else {},
        digest=settings_digest(config, access),
    )
