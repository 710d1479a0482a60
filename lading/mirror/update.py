"""One update of the whole mirror: Zarr stores, then datasets, then the superdataset that names them.

Input: settings and a manifest. Output: the stores at what the manifest says,
and a ``Summary``.
Invariant: a dataset is published before the superdataset that names its
commit; one that fails keeps its old commit there; an unchanged mirror is not
touched, and a killed run is finished by the next with the same commits.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from lading.errors import Disagreement, LadingError, UsageError
from lading.formats.manifest import Manifest
from lading.mirror.annex import Access, check_address, identifier
from lading.mirror.candidates import dataset_config, modules
from lading.mirror.config import Config
from lading.mirror.dataset import MAIN, Counts, Link, Outcome, Rules, epoch_of, update_dataset
from lading.mirror.engine import Engine, write_by_import
from lading.mirror.git import resolve, run, succeeds
from lading.mirror.layout import Dataset, Layout
from lading.mirror.split import link_parents, parents_of
from lading.mirror.structure import Rule, children_of, lay_out
from lading.mirror.superdataset import RECORDS, Record, Records, read_records
from lading.mirror.survey import Rows, RowSource, gather
from lading.mirror.text import TextSource
from lading.mirror.unchanged import branches, current_refs, read_note
from lading.mirror.zarr import CHECKSUM_FILE, zarr_checksum

# Which names and links this software writes: another one makes the next run compare every dataset again.
_LAYOUT = 2
_MOST_SHOWN = 20


@dataclass
class Summary:
    """What one run did."""

    address: str
    changed: dict[str, Counts] = field(default_factory=dict)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    moved: bool = False

    def total(self) -> Counts:
        """Return the files of all datasets."""
        counts = list(self.changed.values())
        return Counts(sum(c.added for c in counts), sum(c.changed for c in counts), sum(c.removed for c in counts))


def access_of(config: Config, manifest: Manifest) -> Access:
    """Return how clones reach the bucket; ``Disagreement`` when the settings name another bucket."""
    header = manifest.header
    if config.s3bucket and config.s3bucket != header.bucket:
        raise Disagreement(f"s3bucket is {config.s3bucket}, but {manifest.path} is of bucket {header.bucket}")
    endpoint = config.s3endpoint or header.endpoint
    check_address(header.bucket, endpoint)
    remote = identifier("s3", endpoint or "", header.bucket) if config.access == "private" else None
    return Access(header.bucket, endpoint, remote, config.content_url_regex)


def settings_digest(config: Config, access: Access) -> str:
    """Return the digest of every setting that shapes datasets: when it changes, all are compared again."""
    shaping = [
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
        config.datasets.path,
        config.datasets.github_org,
        config.zarrs and [config.zarrs.path, config.zarrs.github_org],
        config.version if config.enable_tags else None,
    ]
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


class Update:
    """The state of one run; ``run`` is the whole of it."""

    def __init__(
        self, config: Config, manifest: Manifest, report: Callable[[str], None], engine: Engine = write_by_import
    ) -> None:
        self.config = config
        self.manifest = manifest
        self.report = report
        self.layout = Layout(config, manifest.header)
        self.access = access_of(config, manifest)
        self.digest = settings_digest(config, self.access)
        self.superdataset = self.layout.dataset("super", "")
        self.only = re.compile(config.asset_filter) if config.asset_filter else None
        header = manifest.header
        self.rules = Rules(
            access=self.access,
            source=f"s3://{header.bucket}/{header.prefix}",
            text=TextSource(config.text, Path(header.root), self.access),
            complete=manifest.end.complete,
            only=self.only,
            max_removed=1.0 if config.gc_assets else config.max_removed,
            manifest=manifest.end.sha256,
        )
        # Removals were left undone when the manifest was not complete or a filter was on.
        self.whole = manifest.end.complete and self.only is None
        self.engine = engine
        self.summary = Summary(f"ria+file://{self.layout.store('super')}#~super")

    def run(self) -> Summary:
        """Do the update and return its summary."""
        self.rows = RowSource(self.manifest)
        self.held = read_records(self.superdataset)
        rule = Rule(self.config.split_by, self.only, self.whole, self.rules.max_removed)
        self.structure = lay_out(self.rows, self.held.datasets, rule)
        self.splitter, self.surveys = self.structure.splitter, self.structure.surveys
        zarrs = sorted(path for path, kind in self.structure.kinds.items() if kind == "zarr")
        if zarrs and self.config.zarrs is None:
            raise UsageError(
                f"{len(zarrs)} Zarr stores (first: {zarrs[0]}) but the settings have no zarrs; add zarrs: {{path: …}}"
            )
        self.structure.check()
        self.children = self.structure.children()
        self.held_children = children_of(link_parents(self.held.datasets))
        self.layout.create(self.superdataset)
        note = read_note(self.layout.done_file)
        self.known = note.refs if note else {}
        self.datasets = {path: self.layout.dataset(kind, path) for path, kind in self.structure.kinds.items()}
        self.summary.failed.update(self.structure.refused)
        self.summary.removed = self.structure.vanished
        self.records: dict[str, Record] = {
            path: record for path, record in self.held.datasets.items() if path not in self.structure.vanished
        }
        if self.held.settings != self.digest:
            # What this run cannot compare, the next one that can must.
            kept = [path for path in self.datasets if path and self._is_kept(path)]
            self.records.update((path, replace(self.records[path], whole=False)) for path in kept)
        for level in self.structure.levels():
            self._stage(level)
        self._publish_super()
        return self.summary

    def _is_kept(self, path: str) -> bool:
        """Tell whether a dataset stays though the manifest has nothing of it: it may not say that it is gone."""
        return path in self.held.datasets and not self.surveys[path].objects and not self.whole

    def _linked(self, children: Mapping[str, list[str]], records: Mapping[str, Record], path: str) -> dict[str, str]:
        return {child: records[child].commit for child in children.get(path, ()) if child in records}

    def _expected(self, path: str) -> bool:
        """Tell whether a change would be announced by a newer object or another number of them."""
        record, seen = self.held.datasets.get(path), self.surveys[path]
        if self._is_kept(path):
            return False
        return record is None or (record.objects, record.bytes, record.newest, record.whole) != (
            seen.objects,
            seen.bytes,
            seen.newest,
            self.whole,
        )

    def _due(self, path: str) -> bool:
        dataset = self.datasets[path]
        record = self.held.datasets.get(path)
        linked = self._linked(self.children, self.records, path)
        if linked != self._linked(self.held_children, self.held.datasets, path):
            return True
        if path in self.structure.refused or self._is_kept(path):
            return False
        if record is None or self.held.settings != self.digest or self.config.force or self._expected(path):
            return True
        if branches(dataset.repository) != self.known.get(self._where(dataset)):
            return True  # someone else moved a branch, or no run vouches for it
        if resolve(dataset.repository, MAIN) != record.commit:
            return True
        if dataset.kind == "zarr":
            return self.config.zarr_mode in ("force", "checksum")
        return self.config.mode != "timestamp"

    def _stage(self, paths: list[str]) -> None:
        """Bring datasets that link none of each other up to date, several at a time."""
        due = {path for path in paths if self._due(path)}
        self.summary.unchanged += sum(1 for path in paths if path not in due and not self._is_kept(path))
        for path, outcome in self._work(gather(self.rows, self.splitter, self.surveys, due, self.only)):
            if isinstance(outcome, Exception):
                self.summary.failed[path] = str(outcome)
                self.report(f"{path}: failed: {outcome}")
                continue
            self._record(path, outcome)
            if outcome.moved:
                self.summary.changed[path] = outcome.counts
                self.report(f"{path}: {outcome.counts}")
            else:
                self.summary.unchanged += 1

    def _record(self, path: str, outcome: Outcome) -> None:
        seen, dataset = self.surveys[path], self.datasets[path]
        self.records[path] = Record(
            dataset.kind, dataset.id, outcome.commit if path else "", seen.objects, seen.bytes, seen.newest, self.whole
        )
        if self._is_kept(path):
            self.records[path] = replace(self.held.datasets[path], commit=outcome.commit)
        self.summary.moved |= outcome.moved

    def _work(self, jobs: Iterable[tuple[str, Rows]]) -> Iterator[tuple[str, Outcome | Exception]]:
        """Run ``_one`` over jobs with few of them in memory; yield results as they come."""
        with ThreadPoolExecutor(self.config.workers) as pool:
            running: dict[Future[Outcome], str] = {}

            def finished() -> Iterator[tuple[str, Outcome | Exception]]:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    path = running.pop(future)
                    try:
                        yield path, future.result()
                    except (LadingError, OSError) as error:
                        yield path, error

            for path, rows in jobs:
                running[pool.submit(self._one, path, rows)] = path
                if len(running) >= 2 * self.config.workers:
                    yield from finished()
            while running:
                yield from finished()

    def _one(self, path: str, rows: Rows) -> Outcome:
        """Update one dataset from its rows."""
        dataset = self.datasets[path]
        self.layout.create(dataset)
        current = self._zarr_is_current(dataset, rows)
        if current:
            return Outcome(current, Counts(), False)
        children = [self.datasets[child] for child in self.children.get(path, ()) if child in self.records]
        extra = {}
        if children or not path:
            extra[b".datalad/config"] = dataset_config(dataset, self.config.candidates)
            extra[b".gitmodules"] = modules(self.layout, dataset, children, self.config.properties)
        if not path:
            extra[RECORDS] = self._records().encode()
        links = {child.below(dataset): Link(self.records[child.path].commit, child.repository) for child in children}
        verify = self.config.mode == "verify" and path in self.held.datasets and dataset.kind != "zarr"
        return update_dataset(
            dataset,
            rows,
            self.rules,
            self.engine,
            extra=extra,
            links=links,
            since=self._since(path, children),
            expected=not verify or self._expected(path),
        )

    def _since(self, path: str, children: Iterable[Dataset]) -> int:
        """Return the latest time of what a dataset links; a session of nothing but Zarr stores has none of its own."""
        below = [self.records[child.path] for child in children]
        if not all(record.newest for record in below):
            below = [record for held, record in self.records.items() if held != path]
        return max((epoch_of(record.newest) for record in below if record.newest), default=0)

    def _zarr_is_current(self, dataset: Dataset, rows: Rows) -> str | None:
        """Return the commit of a Zarr dataset whose checksum says that nothing changed, if zarr_mode asks for it."""
        if dataset.kind != "zarr" or self.config.zarr_mode not in ("checksum", "asset-checksum"):
            return None
        commit = resolve(dataset.repository, MAIN)
        if branches(dataset.repository) != self.known.get(self._where(dataset)):
            return None
        if commit is None or any(row.md5 is None for _, row in rows):
            return None
        name = f"{commit}:{CHECKSUM_FILE.decode()}"
        if not succeeds(["cat-file", "-e", name], dataset.repository):
            return None  # as an incomplete or filtered run leaves a store
        held = run(["cat-file", "blob", name], dataset.repository).strip().decode()
        return commit if held == zarr_checksum((p, row.md5 or "", row.size) for p, row in rows) else None

    def _records(self) -> Records:
        seen = self.surveys[""]
        own = Record("super", self.superdataset.id, "", seen.objects, seen.bytes, seen.newest, self.whole)
        return Records(self.digest if not self.summary.failed else self.held.settings, {**self.records, "": own})

    def _publish_super(self) -> None:
        """Write the superdataset last: it names only commits that are there."""
        ((_, rows),) = gather(self.rows, self.splitter, self.surveys, [""], self.only)
        self._check_links()
        outcome = self._one("", rows)
        self.summary.moved |= outcome.moved
        if outcome.moved:
            self.summary.changed[""] = outcome.counts

    def refs(self) -> dict[str, list[str | None]]:
        """Return where the branches of every dataset are now, for the note of this run."""
        failed = [self.datasets[path].repository for path in self.summary.failed if path in self.datasets]
        linked = [d.repository for path, d in self.datasets.items() if not path or path in self.records]
        return current_refs(self.layout.store("super"), linked, failed, self.known)

    def _where(self, dataset: Dataset) -> str:
        return os.path.relpath(dataset.repository, self.layout.store("super"))

    def _check_links(self) -> None:
        """Raise ``Disagreement`` unless every dataset that did not fail is linked, link by link from the top."""
        lost = []
        for path, parent in sorted(self.structure.links.items()):
            above = [path, *parents_of(path)]
            if any(part in self.summary.failed for part in above):
                continue  # its failure is told, and what is linked stays
            if path not in self.records:
                lost.append(f"{path}: it has no commit to link")
            elif parent and parent not in self.records:
                lost.append(f"{path}: {parent}, which links it, has no commit")
        if lost:
            raise Disagreement("\n".join([*lost[:_MOST_SHOWN], "the superdataset was not published; run again"]))
