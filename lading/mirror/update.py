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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from lading.errors import Disagreement, LadingError, UsageError
from lading.formats.manifest import Manifest
from lading.mirror.annex import Access, identifier
from lading.mirror.candidates import dataset_config, modules
from lading.mirror.config import Config
from lading.mirror.dataset import MAIN, Counts, Outcome, Rules, epoch_of, update_dataset
from lading.mirror.engine import Engine, FastEngine
from lading.mirror.git import resolve, run, succeeds
from lading.mirror.layout import Dataset, Layout
from lading.mirror.split import Splitter, zarr_roots
from lading.mirror.superdataset import RECORDS, Record, Records, held_zarrs, read_records
from lading.mirror.survey import Rows, RowSource, Survey, gather, survey
from lading.mirror.text import TextSource
from lading.mirror.unchanged import branches, current_refs, read_note
from lading.mirror.zarr import CHECKSUM_FILE, zarr_checksum


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
    remote = identifier("s3", endpoint or "", header.bucket) if config.access == "private" else None
    return Access(header.bucket, endpoint, remote, config.content_url_regex)


def settings_digest(config: Config, access: Access) -> str:
    """Return the digest of every setting that shapes datasets: when it changes, all are compared again."""
    shaping = [
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


def make_engine(config: Config) -> Engine:
    """Return the engine that the settings name."""
    if config.engine == "portable":
        from lading.mirror.portable import PortableEngine

        return PortableEngine()
    return FastEngine()


class Update:
    """The state of one run; ``run`` is the whole of it."""

    def __init__(self, config: Config, manifest: Manifest, report: Callable[[str], None]) -> None:
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
        self.engine = make_engine(config)
        self.summary = Summary(f"ria+file://{self.layout.store('super')}#~super")

    def run(self) -> Summary:
        """Do the update and return its summary."""
        self.rows = RowSource(self.manifest)
        self.held = read_records(self.superdataset)
        zarrs = zarr_roots(self.rows, held_zarrs(self.held, whole=self.whole))
        if zarrs and self.config.zarrs is None:
            raise UsageError(
                f"{len(zarrs)} Zarr stores (first: {min(zarrs)}) but the settings have no zarrs; add zarrs: {{path: …}}"
            )
        self.splitter = Splitter(self.config.split_by, zarrs)
        self.surveys = survey(self.rows, self.splitter, self.only)
        self.layout.create(self.superdataset)
        note = read_note(self.layout.done_file)
        self.known = note.refs if note else {}
        self.records: dict[str, Record] = dict(self.held.datasets)
        self.datasets = {
            path: self.layout.dataset("zarr" if path in zarrs else "session" if path else "super", path)
            for path in {*self.surveys, *(self._parent(path) for path in zarrs & self.surveys.keys())}
        }
        # Stores that this run has nothing of: their sessions go on linking them.
        self.kept = [self.layout.dataset("zarr", path) for path in sorted(zarrs - self.surveys.keys())]
        for path in self.datasets:
            self.surveys.setdefault(path, Survey())
        self._stage("zarr")
        self._stage("session")
        self._drop_vanished()
        self._publish_super()
        return self.summary

    def _parent(self, zarr: str) -> str:
        return self.splitter.parent_of(zarr.rpartition("/")[0])

    def _expected(self, path: str) -> bool:
        """Tell whether a change would be announced by a newer object or another number of them."""
        record, seen = self.held.datasets.get(path), self.surveys[path]
        return record is None or (record.objects, record.bytes, record.newest, record.whole) != (
            seen.objects,
            seen.bytes,
            seen.newest,
            self.whole,
        )

    def _due(self, path: str) -> bool:
        dataset = self.datasets[path]
        record = self.held.datasets.get(path)
        if record is None or self.held.settings != self.digest or self.config.force or self._expected(path):
            return True
        if branches(dataset.repository) != self.known.get(self._where(dataset)):
            return True  # someone else moved a branch, or no run vouches for it
        if resolve(dataset.repository, MAIN) != record.commit:
            return True
        if dataset.kind == "zarr":
            return self.config.zarr_mode in ("force", "checksum")
        if any(self.records.get(c.path) != self.held.datasets.get(c.path) for c in self._by_parent.get(path, ())):
            return True
        return self.config.mode != "timestamp"

    def _stage(self, kind: str) -> None:
        """Bring all datasets of one kind up to date, several at a time."""
        self._by_parent: dict[str, list[Dataset]] = {}
        for dataset in [*self.datasets.values(), *self.kept]:
            if dataset.path:
                parent = self._parent(dataset.path) if dataset.kind == "zarr" else ""
                self._by_parent.setdefault(parent, []).append(dataset)
        paths = [path for path, dataset in self.datasets.items() if dataset.kind == kind]
        due = [path for path in paths if self._due(path)]
        self.summary.unchanged += len(paths) - len(due)
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
        children = [child for child in self._by_parent.get(path, ()) if child.path in self.records]
        extra = {}
        if children or not path:
            extra[b".datalad/config"] = dataset_config(dataset, self.config.candidates)
            extra[b".gitmodules"] = modules(self.layout, dataset, children, self.config.properties)
        if not path:
            extra[RECORDS] = self._records().encode()
        links = {child.below(dataset): self.records[child.path].commit for child in children}
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

    def _drop_vanished(self) -> None:
        """Unlink datasets of which the manifest has nothing left, if it may say so."""
        vanished = [
            path
            for path in self.held.datasets
            if path not in self.datasets and (self.only is None or self.only.search(path + "/"))
        ]
        if self.only is not None or not self.rules.complete:
            vanished = []
        held = sum(record.objects for record in self.held.datasets.values())
        gone = sum(self.held.datasets[path].objects for path in vanished)
        if vanished and gone > self.rules.max_removed * held:
            for path in vanished:
                self.summary.failed[path] = (
                    f"the manifest has nothing of it any more ({gone:,} of {held:,} files in all are gone, more than "
                    f"max_removed allows); if that is right, run again with --gc-assets"
                )
            vanished = []
        for path in vanished:
            del self.records[path]
        self.summary.removed = vanished
        # What stays linked without being in the manifest keeps its place.
        for path, record in self.records.items():
            if path and path not in self.datasets:
                self.datasets[path] = self.layout.dataset(record.kind, path)
                self.surveys[path] = Survey(record.objects, record.bytes, record.newest)

    def _records(self) -> Records:
        seen = self.surveys[""]
        own = Record("super", self.superdataset.id, "", seen.objects, seen.bytes, seen.newest, self.whole)
        return Records(self.digest if not self.summary.failed else self.held.settings, {**self.records, "": own})

    def _publish_super(self) -> None:
        """Write the superdataset last: it names only commits that are there."""
        ((_, rows),) = gather(self.rows, self.splitter, self.surveys, [""], self.only)
        self._stage_children()
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

    def _stage_children(self) -> None:
        self._by_parent = {"": [d for d in self.datasets.values() if d.path and self._top(d)]}

    def _top(self, dataset: Dataset) -> bool:
        return dataset.kind != "zarr" or self._parent(dataset.path) == ""
