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
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.delivery import ABSENT, contradiction
from jobs.evidence import Evidence, Level, Sent, parse_level
from jobs.lineage import COPIES, Lineage, SourceRecord, below, read_lineages
from jobs.sourcetree import ASIDE, UNKNOWN, NotPlain, Seen, SourceTree, Stays, Stranded, is_same_top
from jobs.steps.checks import store_of
from jobs.steps.ship import JOURNAL, MANIFEST, STAGED, shipments
from jobs.steps.transform import SETTINGS, behavior_folder, read_decisions
from jobs.work import Work
from lading.errors import ItemsFailed, UsageError
from lading.files import AppendLog, read_log, replacing
from lading.formats.manifest import Row, read_manifest
from lading.transfer.endpoint import resolve_endpoint
from lading.transfer.listed import Listed

# Files of one group: the names under which they wait are written down by one flush, their objects are looked at in one
# request.
GROUP = 1000
# Directories whose files are looked at side by side.
THREADS = 4
OLD = "in the bucket is of another compression than the last one"
SCRIPT = "its objects were made by a script, and nobody here compared them with it"


def sources(work: Work) -> dict[str, object]:
    """List what may go; delete it when the task's ``dry_run`` is false."""
    level = parse_level(work.options.get("level", Level.CHECKSUM))
    with ExitStack() as stack:
        removal = _Removal(work, Evidence(store_of(work), _sent(work), level, work.check_cancelled), stack)
        removal.restore()
        removal.judge()
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
        raise ItemsFailed(f"{removed} source files were removed, {len(kept)} stay: {'; '.join(kept[:3])}")
    return {"removed": removed, "kept": []}


def preview(work: Work) -> dict[str, object]:
    """Say that nothing was sent, so nothing may go."""
    work.say("would list the source files that the bucket is proven to hold; a dry run sends none, so none may go")
    return {"removed": 0}


def _sent(work: Work) -> dict[str, Sent]:
    """Return what this job sent, by path below its prefix; ``UsageError`` unless all of it is proven."""
    if not (work.place.directory / SETTINGS).exists():
        raise UsageError(f"{work.job.prefix} has no manifest: only what was uploaded and proven may be deleted")
    found: dict[str, Sent] = {}
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
        found.update((above + row.path, Sent(row, directory / JOURNAL)) for row in manifest.rows())
    return found


@dataclass
class _Free:
    """A source file that may go: what was seen of it, and the SHA-256 that it and its object have."""

    record: SourceRecord
    seen: Seen
    sha256: str


@dataclass
class _Part:
    """A modality whose source is there."""

    lineage: Lineage
    tree: SourceTree
    free: list[_Free] = field(default_factory=list)

    def stays(self, record: SourceRecord, reason: object) -> str:
        """Return the sentence for a file that stays, or that somebody else removed too early."""
        path = self.tree.path(record)
        return f"{path} {'stays' if os.path.lexists(path) else 'is gone, but'}: {reason}"


class _Removal:
    """One deletion: ``parts`` with what may go, ``kept`` with a sentence per file that stays."""

    def __init__(self, work: Work, evidence: Evidence, stack: ExitStack) -> None:
        self.parts: list[_Part] = []
        self.kept: list[str] = []
        self.noted: list[str] = []  # what stays as it is meant to
        self._work, self._evidence, self._stack = work, evidence, stack
        self._log = work.place.removing
        self._interrupted: set[str] = set()
        self._stranded = False  # a file waits under another name
        self._loss = work.options.get("accept_loss", False) is True

    def restore(self) -> None:
        """Put back what a killed run had renamed; what cannot be is named, and stays known."""
        waiting = [entry for entry in read_log(self._log) if entry] if self._log.exists() else []
        for source, group in itertools.groupby(waiting, key=lambda entry: str(entry["source"])):
            self._interrupted.add(source)
            try:
                tree = SourceTree(Path(source), self._work.check_cancelled)
            except OSError:
                self._stranded = True  # perhaps not mounted here
                continue
            with closing(tree):
                for entry in group:
                    try:
                        tree.restore(entry["directory"], entry["name"], entry["aside"])
                    except (Stays, OSError) as error:
                        self._stranded = True
                        reason = error if isinstance(error, Stays) else f"it cannot be looked at: {error.strerror}"
                        path = os.path.join(source, entry["directory"], entry["name"])
                        self.kept.append(f"{path} stays: {reason}")
        if not self._stranded:
            self._log.unlink(missing_ok=True)

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

    def _judge(self, lineage: Lineage, source: Path) -> None:
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
        for record in records:
            recorded = self._evidence.recorded(record.key)
            # Through staging, too: what was sent must be what was read.
            reason = contradiction(record.size, record.sha256, self._row(present, record.key))
            if reason:
                self.kept.append(part.stays(record, f"{record.key} {reason}"))
            elif record.sha256 or recorded:
                expected[record.path] = record.sha256 or recorded or ""
            else:
                found = self._evidence.confirm({record.key: present[record.key]})[record.key]
                expected[record.path] = found or ""
        wanted = [record for record in records if record.path in expected]
        seen = self._look(part, wanted, expected)
        for record in wanted:
            outcome = seen[record.path]
            if isinstance(outcome, Stays):
                self.kept.append(part.stays(record, self._reason(part, outcome)))
        here = [record for record in wanted if isinstance(seen[record.path], Seen)]
        confirmed = self._evidence.confirm({record.key: present[record.key] for record in here})
        for record in here:
            outcome, sha256 = seen[record.path], expected[record.path]
            assert isinstance(outcome, Seen)
            if confirmed[record.key] == sha256:
                part.free.append(_Free(record, outcome, sha256))
            else:
                self.kept.append(part.stays(record, f"{record.key} in the bucket is not what was read from it"))

    def _judge_compressed(self, part: _Part) -> None:
        """All go or none: each object carries some of every file."""
        lineage = part.lineage
        reason = self._lacking(lineage)
        lossy = next((record.lossy for record in lineage.records if record.lossy), "")
        if not reason and lossy and not self._loss:
            reason = f"{lossy} (remove_source_folders.accept_loss = TRUE lets it go)"
        if reason:
            self._keep_all(part, reason)
            return
        expected = {record.path: record.sha256 or "" for record in lineage.records}
        seen = self._look(part, lineage.records, expected)
        # One file that moved means that the compressed whole is no longer that of this source.
        for record in lineage.records:
            outcome = seen[record.path]
            if isinstance(outcome, Stays) and not isinstance(outcome, NotPlain):
                self._keep_all(part, f"{part.tree.path(record)}: {outcome}")
                return
        for record in lineage.records:
            outcome = seen[record.path]
            if isinstance(outcome, Seen):
                part.free.append(_Free(record, outcome, expected[record.path]))
            elif outcome is not None:
                self.kept.append(part.stays(record, self._reason(part, outcome)))

    def _lacking(self, lineage: Lineage) -> str:
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

    def _row(self, present: Mapping[str, Listed], path: str) -> Row | None:
        """Return the row of a path whose object the bucket lists now."""
        return self._evidence.row(path) if path in present else None

    def _look(
        self, part: _Part, records: Sequence[SourceRecord], expected: Mapping[str, str]
    ) -> dict[str, Seen | Stays | None]:
        """Return for each record's path what is there: the file that was read, nothing, or why it must stay."""
        answers: dict[str, Seen | Stays | None] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(lambda group: self._look_in(part, group, expected), _by_directory(part, records)):
                answers |= found
        return answers

    def _look_in(
        self, part: _Part, group: tuple[str, list[SourceRecord]], expected: Mapping[str, str]
    ) -> dict[str, Seen | Stays | None]:
        folder, records = group
        self._work.check_cancelled()
        answers: dict[str, Seen | Stays | None] = dict.fromkeys(record.path for record in records)
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

    def write(self, level: Level) -> None:
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
        if not self._stranded:
            self._log.unlink(missing_ok=True)
        return removed

    def _keep_manifests(self) -> None:
        """Copy the manifests on which the deletion rests: the next upload of the job has other rows."""
        self._work.place.removed.mkdir(exist_ok=True)
        for shipment in shipments(self._work):
            source = self._work.place.shipment(shipment.name) / MANIFEST
            target = self._work.place.removed / f"{shipment.name}-{read_manifest(source).end.sha256[:16]}.{MANIFEST}"
            if not target.exists():
                with replacing(target, "wb") as stream, open(source, "rb") as reader:
                    shutil.copyfileobj(reader, stream)

    def _protect(self, objects: Iterable[tuple[str, str]]) -> None:
        """Note (path below the prefix, SHA-256) of objects that are to be the only copies."""
        with AppendLog(self._work.place.only_copies) as log:
            log.append({"path": path, "sha256": sha256} for path, sha256 in objects)

    def _delete_part(self, part: _Part, names: Iterator[str]) -> int:
        """Delete what of a modality may go; returns how many files are gone."""
        together = part.lineage.how != COPIES
        if together and part.free and self._lacking(part.lineage):
            self._keep_all(part, "an object that stands for it vanished from the bucket meanwhile")
        free = sorted(part.free, key=lambda one: part.tree.place(one.record))
        part.free = []
        if together and free:
            self._protect((output.key, output.sha256) for output in part.lineage.outputs)
        for start in range(0, len(free), GROUP):
            self._work.check_cancelled()
            group = free[start : start + GROUP]
            before = len(self.kept)
            part.free += self._delete_group(part, group if together else self._still_there(part, group), names)
            if together and len(self.kept) > before:
                reason = "another file of its source changed while sources were being deleted"
                self.kept += [part.stays(one.record, reason) for one in free[start + GROUP :]]
                break
        if part.free or str(part.tree.source) in self._interrupted:
            part.tree.prune({part.tree.place(record)[0] for record in part.lineage.records})
        return len(part.free)

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

    def _delete_group(self, part: _Part, group: Sequence[_Free], names: Iterator[str]) -> list[_Free]:
        """Delete files whose names, and those under which they wait, are written down by one flush; return them."""
        if not group:
            return []
        if part.lineage.how == COPIES:
            self._protect((one.record.key, one.sha256) for one in group)
        asides = dict(zip((one.record.path for one in group), names))
        with AppendLog(self._log) as log:
            log.append(
                {
                    "source": str(part.tree.source),
                    "directory": part.tree.place(one.record)[0],
                    "name": part.tree.place(one.record)[1],
                    "aside": asides[one.record.path],
                }
                for one in group
            )
        removed: list[_Free] = []
        for folder, some in itertools.groupby(group, key=lambda one: part.tree.place(one.record)[0]):
            files = list(some)
            try:
                with part.tree.directory(folder) as directory:
                    removed += [one for one in files if self._delete(part, directory, one, asides[one.record.path])]
            except FileNotFoundError:
                continue  # gone with its directory
            except Stays as error:
                self.kept += [part.stays(one.record, self._reason(part, error)) for one in files]
        return removed

    def _delete(self, part: _Part, directory: int, one: _Free, aside: str) -> bool:
        try:
            return part.tree.remove(directory, part.tree.place(one.record)[1], one.seen, one.sha256, aside)
        except Stays as error:
            self._stranded |= isinstance(error, Stranded)
            self.kept.append(part.stays(one.record, self._reason(part, error)))
        except OSError as error:
            self.kept.append(part.stays(one.record, f"it cannot be removed: {error.strerror}"))
        return False


def _relative(lineage: Lineage, source: Path) -> Lineage:
    """Return a lineage whose paths are relative to the source, as all but the first format have them."""
    return replace(lineage, records=tuple(below(lineage, source))) if lineage.earlier else lineage


def _by_directory(part: _Part, records: Iterable[SourceRecord]) -> Iterator[tuple[str, list[SourceRecord]]]:
    """Yield the records of each directory, so that it is opened once."""
    ordered = sorted(records, key=part.tree.place)
    for folder, group in itertools.groupby(ordered, key=lambda record: part.tree.place(record)[0]):
        yield folder, list(group)
