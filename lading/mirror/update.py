"""One update of the whole mirror: Zarr stores, then datasets, then the superdataset that names them.

Input: a ``MirrorComparison``. Output: the stores at what the manifest says, and a ``Summary``.
Invariant: a dataset is published before the superdataset that names its
commit; one that fails keeps its old commit there; an unchanged mirror is not
touched, and a killed run is finished by the next with the same commits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from lading.checksums.zarr_checksum import zarr_checksum
from lading.core.errors import ConsistencyError, LadingError
from lading.core.progress import counted
from lading.mirror.candidates import all_candidates, dataset_config, modules
from lading.mirror.comparison import MirrorComparison
from lading.mirror.dataset import (
    MAIN,
    Content,
    DatasetCounts,
    DatasetOutcome,
    Rules,
    SubdatasetLink,
    epoch_of,
    lacks_sha256,
    update_dataset,
)
from lading.mirror.dataset_note import attached_files
from lading.mirror.engine import DatasetEngine, write_by_import
from lading.mirror.git.commands import resolve, run, succeeds
from lading.mirror.group_rows import Rows
from lading.mirror.known_failures import read_failures
from lading.mirror.last_run import current_refs
from lading.mirror.layout import Dataset
from lading.mirror.published_versions import VersionPublisher
from lading.mirror.split import parents_of
from lading.mirror.structure import rows_by_dataset
from lading.mirror.superdataset import RECORDS, DatasetRecord, DatasetRecords
from lading.mirror.zarr import CHECKSUM_FILE

_MOST_SHOWN = 20


@dataclass
class Summary:
    """What one run did.

    ``lost`` are versions that cannot be published, as DATASET@VERSION, those of earlier runs too: each is a failure
    once, when it is met first. Nobody can do anything about it.
    """

    address: str
    changed: dict[str, DatasetCounts] = field(default_factory=dict)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    moved: bool = False
    tagged: int = 0
    lost: dict[str, str] = field(default_factory=dict)

    def total(self) -> DatasetCounts:
        """Return the files of all datasets."""
        counts = list(self.changed.values())
        return DatasetCounts(
            sum(c.added for c in counts), sum(c.changed for c in counts), sum(c.removed for c in counts)
        )


class Update:
    """One run: ``records`` and ``summary`` grow as datasets are published; all else is the comparison."""

    def __init__(
        self, found: MirrorComparison, report: Callable[[str], None], engine: DatasetEngine = write_by_import
    ) -> None:
        self._found = found
        self._report = report
        self._engine = engine
        self._versions = VersionPublisher(found.layout, found.rules, engine, self._own_files)
        self._unhashed: dict[str, int] = {}  # of each dataset: files that digests= gave no SHA-256
        self._records: dict[str, DatasetRecord] = found.first_records()
        self._summary = Summary(
            f"ria+file://{found.layout.store('super')}#~super",
            failed={**found.source.failed, **found.structure.refused},
            removed=found.structure.vanished,
            lost={
                name: known.reason
                for name, known in read_failures(found.layout.lost_file).items()
                if name.rpartition("@")[0] in found.datasets
            },
        )

    def run(self) -> Summary:
        """Do the update and return its summary."""
        self._found.layout.create(self._found.datasets[""])
        for level in self._found.structure.levels():
            self._publish(level)
        self._publish_super()
        return self._summary

    def refs(self) -> dict[str, list[str | None]]:
        """Return where the branches of every dataset are now, for the note of this run."""
        found = self._found
        failed = [found.datasets[path].repository for path in self._summary.failed if path in found.datasets]
        linked = [d.repository for path, d in found.datasets.items() if not path or path in self._records]
        return current_refs(found.layout.store("super"), linked, failed, found.known)

    def _publish(self, paths: list[str]) -> None:
        """Bring datasets that link none of each other up to date, several at a time."""
        found, summary = self._found, self._summary
        due = {path for path in paths if found.is_due(path, self._records)}
        summary.unchanged += sum(1 for path in paths if path not in due and not found.is_kept(path))
        for path, outcome in self._work(self._rows_of(due)):
            if isinstance(outcome, Exception):
                summary.failed[path] = str(outcome)
                self._report(f"{path}: failed: {outcome}")
                continue
            self._records[path] = found.record(path, outcome.commit)
            if outcome.failed:  # these versions are tried again
                self._records[path] = replace(self._records[path], manifest="")
            self._note_lost(path, outcome.lost)
            for version, reason in outcome.failed.items():
                summary.failed[f"{path}@{version}"] = reason
                self._report(f"{path}: version {version}: failed: {reason}")
            summary.moved |= outcome.moved
            summary.tagged += outcome.tagged
            if outcome.moved:
                summary.changed[path] = outcome.counts
                self._report(f"{path}: {outcome.counts}")
                if count := self._unhashed.pop(path, 0):
                    what = counted(count, "file has a key by MD5", "files have keys by MD5")
                    self._report(
                        f"{path}: {what}, since the manifest has no SHA-256 of them; make verify "
                        "verify_flags=--full records it, and the next update then gives them other keys"
                    )
            else:
                summary.unchanged += 1

    def _note_lost(self, path: str, lost: Mapping[str, str]) -> None:
        """Name versions that are lost, each once; forget what was published after all."""
        summary = self._summary
        before = {name: summary.lost.pop(name) for name in list(summary.lost) if name.rpartition("@")[0] == path}
        for version, reason in lost.items():
            name = f"{path}@{version}"
            summary.lost[name] = reason
            if name not in before:
                summary.failed[name] = f"{reason}, so it has no tag; this is noted, and later runs do not name it"
                self._report(f"{path}: version {version}: {reason}")

    def _rows_of(self, datasets: Iterable[str]) -> Iterator[tuple[str, Rows]]:
        found = self._found
        return rows_by_dataset(found.source, found.structure, set(datasets), found.rules.only)

    def _work(self, jobs: Iterable[tuple[str, Rows]]) -> Iterator[tuple[str, DatasetOutcome | Exception]]:
        """Run ``_one`` over jobs with few of them in memory; yield results as they come."""
        workers = self._found.layout.config.workers
        with ThreadPoolExecutor(workers) as pool:
            running: dict[Future[DatasetOutcome], str] = {}

            def finished() -> Iterator[tuple[str, DatasetOutcome | Exception]]:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    path = running.pop(future)
                    try:
                        yield path, future.result()
                    except (LadingError, OSError) as error:
                        yield path, error

            for path, rows in jobs:
                running[pool.submit(self._one, path, rows)] = path
                if len(running) >= 2 * workers:
                    yield from finished()
            while running:
                yield from finished()

    def _one(self, path: str, rows: Rows) -> DatasetOutcome:
        """Update one dataset from its rows."""
        found = self._found
        dataset = found.datasets[path]
        found.layout.create(dataset)
        if dataset.kind != "zarr":
            self._unhashed[path] = sum(lacks_sha256(row) for _, row in rows)
        current = self._zarr_is_current(dataset, rows)
        if current:
            return DatasetOutcome(current, DatasetCounts(), False)
        children = [found.datasets[child] for child in found.children.get(path, ()) if child in self._records]
        links = {
            child.below(dataset): SubdatasetLink(self._records[child.path].commit, child.repository)
            for child in children
        }
        verify = found.layout.config.mode == "verify" and path in found.held.datasets and dataset.kind != "zarr"
        extra, versions = self._own_files(dataset, children), None
        note, manifest = found.source.notes.get(path), found.source.manifest_of(path)
        if note is not None and manifest is not None:
            versions = self._versions.publish(dataset, note, manifest)
            extra |= attached_files(manifest, note, manifest.path.parent)
        content = Content(
            rows, extra, links, since=self._since(path, children), expected=not verify or found.announced(path)
        )
        if versions is None or not (versions.tagged or versions.failed):
            outcome = update_dataset(dataset, content, self._rules_of(dataset), self._engine)
            return replace(outcome, lost=versions.lost) if versions else outcome
        # What the branch had before the version is not what it has now, so there is nothing to compare the size with.
        outcome = update_dataset(dataset, content, replace(found.rules, max_removed=1.0), self._engine)
        return replace(
            outcome,
            counts=versions.counts + outcome.counts,
            moved=outcome.moved or versions.tagged > 0,
            tagged=versions.tagged,
            failed=versions.failed,
            lost=versions.lost,
        )

    def _rules_of(self, dataset: Dataset) -> Rules:
        """Return the rules; ``content_url_regex`` is of blobs, as the reference has it, and binds no Zarr chunk."""
        rules = self._found.rules
        if dataset.kind != "zarr" or rules.access.url_regex is None:
            return rules
        return replace(rules, access=replace(rules.access, strict=False))

    def _own_files(self, dataset: Dataset, children: list[Dataset]) -> dict[bytes, bytes]:
        """Return what a dataset says of its subdatasets."""
        files = {}
        layout = self._found.layout
        if children or not dataset.path:
            files[b".datalad/config"] = dataset_config(dataset, all_candidates(layout))
            files[b".gitmodules"] = modules(layout, dataset, children)
        if not dataset.path:
            lacking = any(path in self._found.datasets for path in self._summary.failed)
            settings = self._found.held.settings if lacking else self._found.digest
            files[RECORDS] = DatasetRecords(settings, {**self._records, "": self._found.record("", "")}).encode()
        return files

    def _since(self, path: str, children: Iterable[Dataset]) -> int:
        """Return the latest time of what a dataset links; a session of nothing but Zarr stores has none of its own."""
        if path in self._found.source.notes:
            return epoch_of(self._found.source.notes[path].newest)
        below = [self._records[child.path] for child in children]
        if not all(record.newest for record in below):
            below = [record for held, record in self._records.items() if held != path]
        return max((epoch_of(record.newest) for record in below if record.newest), default=0)

    def _zarr_is_current(self, dataset: Dataset, rows: Rows) -> str | None:
        """Return the commit of a Zarr dataset whose checksum says that nothing changed, if zarr_mode asks for it."""
        mode = self._found.layout.config.zarr_mode
        if dataset.kind != "zarr" or mode not in ("checksum", "asset-checksum"):
            return None
        commit = resolve(dataset.repository, MAIN)
        if not self._found.is_vouched(dataset):
            return None
        if commit is None or any(row.md5 is None for _, row in rows):
            return None
        name = f"{commit}:{CHECKSUM_FILE.decode()}"
        if not succeeds(["cat-file", "-e", name], dataset.repository):
            return None  # as an incomplete or filtered run leaves a store
        held = run(["cat-file", "blob", name], dataset.repository).strip().decode()
        return commit if held == zarr_checksum((p, row.md5 or "", row.size) for p, row in rows) else None

    def _publish_super(self) -> None:
        """Write the superdataset last: it names only commits that are there."""
        ((_, rows),) = self._rows_of([""])
        self._check_links()
        outcome = self._one("", rows)
        self._summary.moved |= outcome.moved
        if outcome.moved:
            self._summary.changed[""] = outcome.counts

    def _check_links(self) -> None:
        """Raise ``ConsistencyError`` unless every dataset that did not fail is linked, link by link from the top."""
        lost = []
        for path, parent in sorted(self._found.structure.links.items()):
            above = [path, *parents_of(path)]
            if any(part in self._summary.failed for part in above):
                continue  # its failure is told, and what is linked stays
            if path not in self._records:
                lost.append(f"{path}: it has no commit to link")
            elif parent and parent not in self._records:
                lost.append(f"{path}: {parent}, which links it, has no commit")
        if lost:
            raise ConsistencyError("\n".join([*lost[:_MOST_SHOWN], "the superdataset was not published; run again"]))
