"""Which source files may go: each is looked at, and each object that stands for it.

Input: the job's lineages, the evidence of this moment. Output: a
``SourcePart`` per modality with the files that may go, and a sentence for
every one that stays.
Invariant: nothing is changed here, but for marks of an earlier run that
nothing rests on any more.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from lading.compress.job import COVERAGE
from lading.objectstore.object_info import ObjectInfo
from lading.sessions.delivery import ABSENT, contradiction
from lading.sessions.evidence import Evidence
from lading.sessions.only_copies import OnlyCopies
from lading.sessions.provenance import COPIES, Provenance, SourceRecord, below, read_lineages
from lading.sessions.source_tree import UNKNOWN, NotPlain, RecordedSource, SourceTree, Stays, is_same_top
from lading.sessions.task_context import TaskContext
from lading.sessions.tasks.transform import behavior_folder, read_decisions
from lading.verification.manifest import ManifestRow

# Directories whose files are looked at side by side.
THREADS = 4
OLD = "in the bucket is of another compression than the last one"
SCRIPT = "its objects were made by a script, and were not compared with it"
UNCOUNTED = "an earlier version of Lading compressed it, which did not account for every byte; compress it again"


@dataclass
class FreeFile:
    """A source file that may go: what was seen of it, and the SHA-256 that it and its object have."""

    record: SourceRecord
    seen: RecordedSource
    sha256: str


@dataclass
class SourcePart:
    """A modality whose source is there."""

    lineage: Provenance
    tree: SourceTree
    free: list[FreeFile] = field(default_factory=list)
    foreign: bool = False  # another directory than the one that was read
    less: bool = False  # a file of it may have been deleted

    def stays(self, record: SourceRecord, reason: object) -> str:
        """Return the sentence for a file that stays, or that somebody else removed too early."""
        path = self.tree.path(record)
        return f"{path} {'stays' if os.path.lexists(path) else 'is gone, but'}: {reason}"

    def reason(self, error: Stays) -> str:
        """Return why a file of it stays, as a person reads it."""
        if isinstance(error, NotPlain):
            return f"it is not a regular file inside the source of {self.lineage.folder}"
        return str(error)


class SourceJudge:
    """Judges the sources of one job: ``parts`` with what may go, ``kept`` with a sentence per file that stays.

    noted  what stays as it is meant to
    """

    def __init__(self, work: TaskContext, stack: ExitStack, copies: OnlyCopies, evidence: Evidence) -> None:
        self.parts: list[SourcePart] = []
        self.kept: list[str] = []
        self.noted: list[str] = []
        self.evidence = evidence
        self._work, self._stack, self._copies = work, stack, copies
        self._loss = work.options.get("accept_loss", False) is True

    def judge(self) -> None:
        """Find out what may go."""
        roots = {entry.folder: entry.source for entry in self._work.job.modalities if entry.source}
        if self._work.job.behavior_dir:
            roots[behavior_folder(self._work.job)] = self._work.job.behavior_dir
        lineages = {lineage.folder: lineage for lineage in read_lineages(self._work.place.lineage)}
        for folder, source in sorted(roots.items()):
            if folder in lineages:
                self._judge(lineages[folder], source)
            elif source.exists():
                self._without_record(folder, source)
        known = {part.tree.real_path(record) for part in self.parts for record in part.lineage.records}
        for part in self.parts:
            self.kept += [f"{path} stays: {why}" for path, why in part.tree.others(known)]

    def _without_record(self, folder: str, source: Path) -> None:
        decisions = read_decisions(self._work)
        if decisions.get(folder, {}).get("action") == "script":
            self.noted.append(f"{source} stays: {SCRIPT}")
        else:
            self.kept.append(f"{source} stays: {UNKNOWN}")

    def _judge(self, lineage: Provenance, source: Path) -> None:
        lineage = _relative(lineage, source)
        try:
            tree = SourceTree(source, self._work.check_cancelled)
        except FileNotFoundError:
            return  # gone already, or not mounted: there is nothing to delete
        except OSError as error:
            self.kept.append(f"{source} stays: it cannot be opened: {error.strerror}")
            return
        self._stack.callback(tree.close)
        part = SourcePart(lineage, tree)
        self.parts.append(part)
        if source.is_symlink() and not (lineage.linked or lineage.earlier):
            self._keep_all(part, "its source is a link now, and was none when it was read")
        elif lineage.top is not None and not is_same_top(lineage.top, tree.top):
            part.foreign = True
            self._keep_all(part, f"its source was read as {lineage.top.real}, and another directory is there now")
        elif lineage.how == COPIES:
            self._judge_copies(part)
        else:
            self._judge_compressed(part)

    def _keep_all(self, part: SourcePart, reason: str) -> None:
        self.kept += [part.stays(record, reason) for record in part.lineage.records]
        part.free.clear()

    def _judge_copies(self, part: SourcePart) -> None:
        """Each file goes or stays by itself: its own object carries it."""
        records = part.lineage.records
        present = self.evidence.present(record.key for record in records)
        expected: dict[str, str] = {}
        doubted: dict[str, str] = {}
        for record in records:
            recorded = self.evidence.recorded(record.key)
            # Through staging, too: what was sent must be what was read.
            reason = contradiction(record.size, record.sha256, self._row(present, record.key))
            if reason:
                self.kept.append(part.stays(record, f"{record.key} {reason}"))
                if self._copies.has(record.key, record.sha256):
                    doubted[record.path] = record.sha256 or ""
            elif record.sha256 or recorded:
                expected[record.path] = record.sha256 or recorded or ""
            else:
                found = self.evidence.confirm({record.key: present[record.key]})[record.key]
                expected[record.path] = found or ""
        wanted = [record for record in records if record.path in expected]
        seen = self._look(
            part, [one for one in records if one.path in expected or one.path in doubted], expected | doubted
        )
        # Of what an earlier run meant to delete, and did not.
        known = (
            (one.key, (expected | doubted).get(one.path, ""))
            for one in records
            if isinstance(seen.get(one.path), RecordedSource)
        )
        self._copies.release(known)
        for record in wanted:
            outcome = seen[record.path]
            if isinstance(outcome, Stays):
                self.kept.append(part.stays(record, part.reason(outcome)))
        here = [record for record in wanted if isinstance(seen[record.path], RecordedSource)]
        confirmed = self.evidence.confirm({record.key: present[record.key] for record in here})
        for record in here:
            outcome, sha256 = seen[record.path], expected[record.path]
            assert isinstance(outcome, RecordedSource)
            if confirmed[record.key] == sha256:
                part.free.append(FreeFile(record, outcome, sha256))
            else:
                self.kept.append(part.stays(record, f"{record.key} in the bucket is not what was read from it"))

    def _judge_compressed(self, part: SourcePart) -> None:
        """All go or none: each object carries some of every file."""
        lineage = part.lineage
        reason = self.lacking(lineage)
        lossy = next((record.lossy for record in lineage.records if record.lossy), "")
        if not lossy and lineage.coverage != COVERAGE and not lineage.earlier:
            again = f"remove {self._work.place.journal} and run the list with --force-cloud-sync"
            lossy = f"{UNCOUNTED}: {again}"
        if not reason and lossy and not self._loss:
            reason = f"{lossy} (remove_source_folders.accept_loss = TRUE lets it go)"
        noted = any(self._copies.has(output.key, output.sha256) for output in lineage.outputs)
        if reason:
            self._keep_all(part, reason)
        if reason and not noted:
            return
        expected = {record.path: record.sha256 or "" for record in lineage.records}
        seen = self._look(part, lineage.records, expected)
        if noted and all(isinstance(outcome, RecordedSource) for outcome in seen.values()):
            # An earlier run meant to delete, and deleted nothing.
            self._copies.release((output.key, output.sha256) for output in lineage.outputs)
        if reason:
            return
        # One file that moved means that the compressed whole is no longer that of this source.
        for record in lineage.records:
            outcome = seen[record.path]
            if isinstance(outcome, Stays) and not isinstance(outcome, NotPlain):
                self._keep_all(part, f"{part.tree.path(record)}: {outcome}")
                return
        for record in lineage.records:
            outcome = seen[record.path]
            if isinstance(outcome, RecordedSource):
                part.free.append(FreeFile(record, outcome, expected[record.path]))
            elif outcome is not None:
                self.kept.append(part.stays(record, part.reason(outcome)))

    def lacking(self, lineage: Provenance) -> str:
        """Return why the bucket does not hold a compression, or an empty string."""
        if lineage.earlier:
            return "an earlier version noted its compression, without its link to the bucket"
        if not lineage.outputs:
            return "its compression wrote nothing that could replace it"
        present = self.evidence.present(output.key for output in lineage.outputs)
        for output in lineage.outputs:
            reason = contradiction(output.size, output.sha256, self._row(present, output.key))
            if reason:
                return f"{output.key} {reason if reason == ABSENT else OLD}"
        confirmed = self.evidence.confirm(present)
        wrong = next((output.key for output in lineage.outputs if confirmed[output.key] != output.sha256), "")
        return f"{wrong} in the bucket does not hold what was sent" if wrong else ""

    def _row(self, present: Mapping[str, ObjectInfo], path: str) -> ManifestRow | None:
        """Return the row of a path whose object the bucket lists now."""
        return self.evidence.row(path) if path in present else None

    def _look(
        self, part: SourcePart, records: Sequence[SourceRecord], expected: Mapping[str, str]
    ) -> dict[str, RecordedSource | Stays | None]:
        """Return for each record's path what is there: the file that was read, nothing, or why it must stay."""
        answers: dict[str, RecordedSource | Stays | None] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(lambda group: self._look_in(part, group, expected), _by_directory(part, records)):
                answers |= found
        return answers

    def _look_in(
        self, part: SourcePart, group: tuple[str, list[SourceRecord]], expected: Mapping[str, str]
    ) -> dict[str, RecordedSource | Stays | None]:
        folder, records = group
        self._work.check_cancelled()
        answers: dict[str, RecordedSource | Stays | None] = dict.fromkeys(record.path for record in records)
        try:
            with part.tree.directory(folder) as directory:
                for record in records:
                    try:
                        name = part.tree.place(record)[1]
                        answers[record.path] = part.tree.look(directory, name, record, expected[record.path])
                    except Stays as error:
                        answers[record.path] = error
        except FileNotFoundError:
            pass  # gone with its directory
        except Stays as error:  # its directory, not a file
            return dict.fromkeys(answers, error)
        return answers


def _relative(lineage: Provenance, source: Path) -> Provenance:
    """Return a lineage whose paths are relative to the source, as all but the first format have them."""
    return replace(lineage, records=tuple(below(lineage, source))) if lineage.earlier else lineage


def _by_directory(part: SourcePart, records: Iterable[SourceRecord]) -> Iterator[tuple[str, list[SourceRecord]]]:
    """Yield the records of each directory, so that it is opened once."""
    ordered = sorted(records, key=part.tree.place)
    for folder, group in itertools.groupby(ordered, key=lambda record: part.tree.place(record)[0]):
        yield folder, list(group)
