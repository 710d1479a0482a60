"""Source deletion: off unless asked for, listed first, and only files whose bytes the bucket is seen to hold.

Input: the job's lineages, manifests and journals, and the bucket's listing of
this moment. Output: ``removable.json`` with every file that may go and every
one that stays with its reason; after ``dry_run: false`` the files are gone.
Invariant: a file goes only if it has a record of its own, is a regular file
inside the source of its modality with no link on the way to it, is in the
state of its record or has its SHA-256, and if every object that stands for it
is listed by the bucket now and has, at the level asked for, the SHA-256 that
leads back to the record. An upload that is not proven whole frees nothing.
"""

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from lading.compress.job import COVERAGE
from lading.core.atomic import AppendLog, encode_record, read_log, replacing
from lading.core.bounded import JsonMembers
from lading.core.errors import LadingError, PartialFailure, UsageError
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.object_info import ObjectInfo
from lading.sessions.delivery import ABSENT, contradiction
from lading.sessions.evidence import Evidence, EvidenceLevel, SentObject, parse_level
from lading.sessions.only_copies import OnlyCopies
from lading.sessions.provenance import COPIES, UNSIGNED, Provenance, SourceRecord, below, read_lineages
from lading.sessions.source_tree import (
    ASIDE,
    UNKNOWN,
    Away,
    HeldSource,
    NotPlain,
    RecordedSource,
    SourceTree,
    Stays,
    Stranded,
    Waiting,
    is_same_top,
    restore,
)
from lading.sessions.task_context import TaskContext
from lading.sessions.tasks.checks import store_of
from lading.sessions.tasks.transform import SETTINGS, behavior_folder, read_decisions
from lading.sessions.tasks.upload_tasks import JOURNAL, MANIFEST, STAGED, shipments
from lading.verification.manifest import ManifestRow, read_manifest

# Files of one group: the names under which they wait are written down by one flush, their objects are looked at in one
# request just before.
GROUP = 1000
# All objects of a compression are looked at before each group, so it has more files where they are more than this times
# as many.
OBJECTS_A_FILE = 100
# Directories whose files are looked at side by side.
THREADS = 4
OLD = "in the bucket is of another compression than the last one"
SCRIPT = "its objects were made by a script, and nobody here compared them with it"
UNCOUNTED = "an earlier version of Lading compressed it, which did not account for every byte; compress it again"
VANISHED = "an object that stands for it vanished from the bucket meanwhile"


def sources(work: TaskContext) -> dict[str, object]:
    """List what may go; delete it when the task's ``dry_run`` is false."""
    level = parse_level(work.options.get("level", EvidenceLevel.CHECKSUM))
    with ExitStack() as stack:
        removal = _Removal(work, stack)
        removal.restore()  # whatever comes of the rest
        removal.judge(Evidence(store_of(work), _sent(work), level, work.check_cancelled))
        removal.write(level)
        free = sum(len(part.free) for part in removal.parts)
        if work.options.get("dry_run", True) is not False:  # whatever else is said there is no order to delete
            work.say(
                f"{free} source files could go, {len(removal.kept)} would stay: "
                f"{work.place.directory / 'removable.json'}; "
                "nothing was deleted (set remove_source_folders.dry_run to false)"
            )
            return {"removable": free, "kept": removal.kept[:20], "removed": 0}
        removed = removal.delete()
        removal.write(level)
    for sentence in [*removal.kept, *removal.noted]:
        work.say(sentence)
    kept = removal.kept
    if kept:
        raise PartialFailure(f"{removed} source files were removed, {len(kept)} stay: {'; '.join(kept[:3])}")
    return {"removed": removed, "kept": []}


def preview(work: TaskContext) -> dict[str, object]:
    """Say that nothing was sent, so nothing may go."""
    work.say("would list the source files that the bucket is proven to hold; a dry run sends none, so none may go")
    return {"removed": 0}


def _sent(work: TaskContext) -> dict[str, SentObject]:
    """Return what this job sent, by path below its prefix; ``UsageError`` unless all of it is proven."""
    if not (work.place.directory / SETTINGS).exists():
        raise UsageError(f"{work.job.prefix} has no manifest: only what was uploaded and proven may be deleted")
    found: dict[str, SentObject] = {}
    endpoint = resolve_endpoint(work.settings.endpoint)
    for shipment in shipments(work):
        directory = work.place.shipment(shipment.name)
        path = directory / MANIFEST
        if not path.exists():
            raise UsageError(f"{path} is missing: only what was uploaded and proven may be deleted; upload again")
        manifest = read_manifest(path)
        header = manifest.header
        if (header.bucket, header.prefix) != (work.job.s3_bucket, f"{shipment.prefix}/"):
            raise UsageError(f"{path} is of another job; remove {directory} and upload again")
        if (header.endpoint or "").rstrip("/") != (endpoint or "").rstrip("/"):
            raise UsageError(
                f"{path} speaks of {header.endpoint or 'AWS'}, this run of {endpoint or 'AWS'}; "
                "give the endpoint to which the sources were uploaded"
            )
        if not manifest.end.complete:
            # What is not proven has no row, so that its absence shows nowhere but here.
            raise UsageError(
                f"{path} does not prove every object that was to be sent, so no source may go; upload again"
            )
        # The path below the prefix, not the key: a key may spell odd bytes differently.
        above = "" if shipment.name == STAGED else f"{shipment.name}/"
        found.update((above + row.path, SentObject(row, directory / JOURNAL)) for row in manifest.rows())
    return found


@dataclass
class _Free:
    """A source file that may go: what was seen of it, and the SHA-256 that it and its object have."""

    record: SourceRecord
    seen: RecordedSource
    sha256: str


@dataclass
class _Part:
    """A modality whose source is there."""

    lineage: Provenance
    tree: SourceTree
    free: list[_Free] = field(default_factory=list)
    foreign: bool = False  # another directory than the one that was read
    less: bool = False  # a file of it may have been deleted

    def stays(self, record: SourceRecord, reason: object) -> str:
        """Return the sentence for a file that stays, or that somebody else removed too early."""
        path = self.tree.path(record)
        return f"{path} {'stays' if os.path.lexists(path) else 'is gone, but'}: {reason}"


class _Removal:
    """One deletion: ``parts`` with what may go, ``kept`` with a sentence per file that stays."""

    _evidence: Evidence

    def __init__(self, work: TaskContext, stack: ExitStack) -> None:
        self.parts: list[_Part] = []
        self.kept: list[str] = []
        self.noted: list[str] = []  # what stays as it is meant to
        self._work, self._stack = work, stack
        self._copies = OnlyCopies(work.place.only_copies)
        self._log = _WaitingLog(work.place.removing)
        self._interrupted: set[str] = set()
        self._loss = work.options.get("accept_loss", False) is True

    def restore(self) -> None:
        """Put back what a killed run had renamed; what cannot be is named, and stays known."""
        for waiting in self._log.read(self._work.place.lineage):
            self._interrupted.add(waiting.source)
            if not waiting.name:
                continue
            try:
                restore(waiting)
            except Stays as error:
                self._log.left.append(waiting)
                more = f"; when that is gone for good, remove {self._log.path}" if isinstance(error, Away) else ""
                self.kept.append(f"{waiting.path} stays: {error}{more}")
        self.kept += self._log.damaged
        self._log.finish()

    def judge(self, evidence: Evidence) -> None:
        """Find out what may go."""
        self._evidence = evidence
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
        part = _Part(lineage, tree)
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

    def _keep_all(self, part: _Part, reason: str) -> None:
        self.kept += [part.stays(record, reason) for record in part.lineage.records]
        part.free.clear()

    def _judge_copies(self, part: _Part) -> None:
        """Each file goes or stays by itself: its own object carries it."""
        records = part.lineage.records
        present = self._evidence.present(record.key for record in records)
        expected: dict[str, str] = {}
        doubted: dict[str, str] = {}
        for record in records:
            recorded = self._evidence.recorded(record.key)
            # Through staging, too: what was sent must be what was read.
            reason = contradiction(record.size, record.sha256, self._row(present, record.key))
            if reason:
                self.kept.append(part.stays(record, f"{record.key} {reason}"))
                if self._copies.has(record.key, record.sha256):
                    doubted[record.path] = record.sha256 or ""
            elif record.sha256 or recorded:
                expected[record.path] = record.sha256 or recorded or ""
            else:
                found = self._evidence.confirm({record.key: present[record.key]})[record.key]
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
                self.kept.append(part.stays(record, self._reason(part, outcome)))
        here = [record for record in wanted if isinstance(seen[record.path], RecordedSource)]
        confirmed = self._evidence.confirm({record.key: present[record.key] for record in here})
        for record in here:
            outcome, sha256 = seen[record.path], expected[record.path]
            assert isinstance(outcome, RecordedSource)
            if confirmed[record.key] == sha256:
                part.free.append(_Free(record, outcome, sha256))
            else:
                self.kept.append(part.stays(record, f"{record.key} in the bucket is not what was read from it"))

    def _judge_compressed(self, part: _Part) -> None:
        """All go or none: each object carries some of every file."""
        lineage = part.lineage
        reason = self._lacking(lineage)
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
                part.free.append(_Free(record, outcome, expected[record.path]))
            elif outcome is not None:
                self.kept.append(part.stays(record, self._reason(part, outcome)))

    def _lacking(self, lineage: Provenance) -> str:
        """Return why the bucket does not hold a compression, or an empty string."""
        if lineage.earlier:
            return "an earlier version noted its compression, without what ties it to the bucket"
        if not lineage.outputs:
            return "its compression wrote nothing that could stand for it"
        present = self._evidence.present(output.key for output in lineage.outputs)
        for output in lineage.outputs:
            reason = contradiction(output.size, output.sha256, self._row(present, output.key))
            if reason:
                return f"{output.key} {reason if reason == ABSENT else OLD}"
        confirmed = self._evidence.confirm(present)
        wrong = next((output.key for output in lineage.outputs if confirmed[output.key] != output.sha256), "")
        return f"{wrong} in the bucket does not hold what was sent" if wrong else ""

    def _row(self, present: Mapping[str, ObjectInfo], path: str) -> ManifestRow | None:
        """Return the row of a path whose object the bucket lists now."""
        return self._evidence.row(path) if path in present else None

    def _look(
        self, part: _Part, records: Sequence[SourceRecord], expected: Mapping[str, str]
    ) -> dict[str, RecordedSource | Stays | None]:
        """Return for each record's path what is there: the file that was read, nothing, or why it must stay."""
        answers: dict[str, RecordedSource | Stays | None] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(lambda group: self._look_in(part, group, expected), _by_directory(part, records)):
                answers |= found
        return answers

    def _look_in(
        self, part: _Part, group: tuple[str, list[SourceRecord]], expected: Mapping[str, str]
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

    @staticmethod
    def _reason(part: _Part, error: Stays) -> str:
        if isinstance(error, NotPlain):
            return f"it is no plain file inside the source of {part.lineage.folder}"
        return str(error)

    def write(self, level: EvidenceLevel) -> None:
        """Write the lists; after a deletion ``removable`` holds what is gone, ``kept`` what turned out to stay, too."""
        paths = [part.tree.path(free.record) for part in self.parts for free in part.free]
        with replacing(self._work.place.directory / "removable.json") as stream:
            json.dump({"level": level, "removable": paths, "kept": [*self.kept, *self.noted]}, stream, indent=1)
            stream.write("\n")

    def delete(self) -> int:
        """Delete what may go, then the directories that this left empty, up to the sources themselves."""
        if any(part.free for part in self.parts):
            self._keep_manifests()
        token = os.urandom(8).hex()
        names = (f"{ASIDE}{token}-{number}" for number in itertools.count())
        removed = sum(self._delete_part(part, names) for part in self.parts)
        bare = [part for part in self.parts if self._is_to_prune(part)]
        # No file waits any more: a kill in what follows leaves empty directories, which the next run finds by this.
        self._log.finish(bare=[part.tree for part in bare])
        for part in bare:
            part.tree.prune({part.tree.place(record)[0] for record in part.lineage.records})
        self._log.finish()
        return removed

    def _is_to_prune(self, part: _Part) -> bool:
        return bool(part.free or str(part.tree.source) in self._interrupted) and not part.foreign

    def _keep_manifests(self) -> None:
        """Copy the manifests on which the deletion rests: the next upload of the job has other rows."""
        self._work.place.removed.mkdir(exist_ok=True)
        for shipment in shipments(self._work):
            source = self._work.place.shipment(shipment.name) / MANIFEST
            target = self._work.place.removed / f"{shipment.name}-{read_manifest(source).end.sha256[:16]}.{MANIFEST}"
            if not target.exists():
                with replacing(target, "wb") as stream, open(source, "rb") as reader:
                    shutil.copyfileobj(reader, stream)

    def _delete_part(self, part: _Part, names: Iterator[str]) -> int:
        """Delete what of a modality may go; returns how many files are gone."""
        free = sorted(part.free, key=lambda one: part.tree.place(one.record))
        part.free = []
        if part.lineage.how == COPIES:
            for start in range(0, len(free), GROUP):
                self._work.check_cancelled()
                self._delete_group(part, self._still_there(part, free[start : start + GROUP]), names)
        elif free:
            noted = self._copies.add((output.key, output.sha256) for output in part.lineage.outputs)
            try:
                self._delete_together(part, free, names)
            finally:
                if not part.less:
                    self._copies.release(noted)
        return len(part.free)

    def _delete_together(self, part: _Part, free: Sequence[_Free], names: Iterator[str]) -> None:
        """Delete files for which all objects stand together, until one of either is not what it was."""
        size = max(GROUP, len(part.lineage.outputs) // OBJECTS_A_FILE)
        for start in range(0, len(free), size):
            self._work.check_cancelled()
            if self._lacking(part.lineage):
                self.kept += [part.stays(one.record, VANISHED) for one in free[start:]]
                return
            before = len(self.kept)
            self._delete_group(part, free[start : start + size], names)
            if len(self.kept) > before:
                reason = "another file of its source changed while sources were being deleted"
                self.kept += [part.stays(one.record, reason) for one in free[start + size :]]
                return

    def _still_there(self, part: _Part, group: Sequence[_Free]) -> list[_Free]:
        """Return those whose objects the bucket still lists; judging may have taken hours."""
        present = self._evidence.present(one.record.key for one in group)
        confirmed = self._evidence.confirm(present)
        left = []
        for one in group:
            if confirmed.get(one.record.key) == one.sha256:
                left.append(one)
            else:
                self.kept.append(part.stays(one.record, f"{one.record.key} vanished from the bucket meanwhile"))
        return left

    def _delete_group(self, part: _Part, group: Sequence[_Free], names: Iterator[str]) -> None:
        """Delete files whose names, and those under which they wait, are written down by one flush."""
        if not group:
            return
        copies = part.lineage.how == COPIES
        noted = self._copies.add((one.record.key, one.sha256) for one in group) if copies else []
        waiting = {one.record.path: self._wait(part, one, aside) for one, aside in zip(group, names)}
        self._log.append(waiting.values())
        intact = {one.record.path: one for one in group}  # what is certainly there
        try:
            for folder, some in itertools.groupby(group, key=lambda one: part.tree.place(one.record)[0]):
                files = list(some)
                try:
                    with part.tree.directory(folder) as directory:
                        for one in files:
                            self._delete(part, directory, one, waiting[one.record.path], intact)
                except FileNotFoundError:
                    for one in files:
                        intact.pop(one.record.path, None)  # gone with its directory
                except Stays as error:
                    self.kept += [part.stays(one.record, self._reason(part, error)) for one in files]
        finally:
            part.less |= len(intact) < len(group)
            if copies:
                stay = {(one.record.key, one.sha256) for one in intact.values()}
                self._copies.release(one for one in noted if one in stay)

    @staticmethod
    def _wait(part: _Part, one: _Free, aside: str) -> Waiting:
        directory, name = part.tree.place(one.record)
        return Waiting(str(part.tree.source), directory, name, aside, part.tree.held)

    def _delete(self, part: _Part, directory: int, one: _Free, waiting: Waiting, intact: dict[str, _Free]) -> None:
        del intact[one.record.path]  # from here on nothing is certain
        try:
            if part.tree.remove(directory, waiting.name, one.seen, one.sha256, waiting.aside):
                part.free.append(one)
        except Stays as error:
            if isinstance(error, Stranded):
                self._log.left.append(waiting)
            else:
                intact[one.record.path] = one
            self.kept.append(part.stays(one.record, self._reason(part, error)))
        except OSError as error:
            self.kept.append(part.stays(one.record, f"it cannot be removed: {error.strerror}"))
        except LadingError:  # stopped while it was read once more
            intact[one.record.path] = one
            raise


class _WaitingLog:
    """The log of the files that wait to be unlinked: written before one is renamed, gone when none waits.

    left     what waits still; an entry of a source alone says that its directories may be empty
    damaged  a sentence per line that cannot be read: then the log stays as it is
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left: list[Waiting] = []
        self.damaged: list[str] = []

    def read(self, lineages: Path) -> list[Waiting]:
        """Return what a killed run left; ``lineages`` tell what earlier versions did not note."""
        found: list[Waiting] = []
        for number, entry in enumerate(read_log(self.path) if self.path.exists() else (), start=1):
            try:
                found.append(_decode(entry))
            except ValueError as error:
                self.damaged.append(
                    f"{self.path}, line {number} is damaged ({error}): a source file may wait as {ASIDE}… beside its "
                    f"place; give what is named so its name again, then remove {self.path}"
                )
        if any(waiting.held is None for waiting in found):
            tops = {lineage.source: _held(lineage) for lineage in read_lineages(lineages)}
            found = [replace(waiting, held=waiting.held or tops.get(waiting.source)) for waiting in found]
        return found

    def append(self, waiting: Iterable[Waiting]) -> None:
        """Write down, durably, what is about to be renamed."""
        with AppendLog(self.path) as log:
            log.append(map(_encode, waiting))

    def finish(self, bare: Iterable[SourceTree] = ()) -> None:
        """Forget all but what is left, and the sources whose directories are to be removed when they are empty."""
        if self.damaged:
            return
        left = [*self.left, *(Waiting(str(tree.source), "", "", "", tree.held) for tree in bare)]
        if not left:
            self.path.unlink(missing_ok=True)
            return
        with replacing(self.path, "wb") as stream:
            stream.writelines(encode_record(_encode(waiting)) for waiting in left)


def _encode(waiting: Waiting) -> dict[str, object]:
    held = {"held": waiting.held._asdict()} if waiting.held else {}
    if not waiting.name:
        return {"source": waiting.source, **held}
    place = {"directory": waiting.directory, "name": waiting.name, "aside": waiting.aside}
    return {"source": waiting.source, **place, **held}


def _decode(entry: Mapping[str, object] | None) -> Waiting:
    if entry is None:
        raise ValueError("its checksum is wrong")
    line = JsonMembers(entry, "it")
    held = None
    if "held" in entry:
        top = line.members("held")
        held = HeldSource(top.text("path"), top.number("device", most=UNSIGNED), top.number("inode", most=UNSIGNED))
    if "name" not in entry:
        return Waiting(line.text("source"), "", "", "", held)
    return Waiting(line.text("source"), line.text("directory"), line.text("name"), line.text("aside"), held)


def _held(lineage: Provenance) -> HeldSource | None:
    """Return the directory in which a lineage's source was read, None where it does not say."""
    if lineage.top is None:
        return None
    single = [record.path for record in lineage.records] == ["."]
    return HeldSource(os.path.dirname(lineage.top.real) if single else lineage.top.real, *lineage.top[1:])


def _relative(lineage: Provenance, source: Path) -> Provenance:
    """Return a lineage whose paths are relative to the source, as all but the first format have them."""
    return replace(lineage, records=tuple(below(lineage, source))) if lineage.earlier else lineage


def _by_directory(part: _Part, records: Iterable[SourceRecord]) -> Iterator[tuple[str, list[SourceRecord]]]:
    """Yield the records of each directory, so that it is opened once."""
    ordered = sorted(records, key=part.tree.place)
    for folder, group in itertools.groupby(ordered, key=lambda record: part.tree.place(record)[0]):
        yield folder, list(group)
