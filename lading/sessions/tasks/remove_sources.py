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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from lading.core.atomic import atomic_write
from lading.core.errors import LadingError, PartialFailure, UsageError
from lading.core.progress import counted
from lading.objectstore.endpoint import resolve_endpoint
from lading.sessions.evidence import Evidence, EvidenceLevel, SentObject, parse_level
from lading.sessions.only_copies import OnlyCopies
from lading.sessions.provenance import COPIES
from lading.sessions.source_tree import ASIDE, Away, Stays, Stranded, Waiting, restore
from lading.sessions.task_context import TaskContext
from lading.sessions.tasks.checks import store_of
from lading.sessions.tasks.removable_files import FreeFile, SourceJudge, SourcePart
from lading.sessions.tasks.transform import SETTINGS
from lading.sessions.tasks.upload_tasks import JOURNAL, MANIFEST, STAGED, shipments
from lading.sessions.tasks.waiting_log import WaitingLog
from lading.verification.manifest import read_manifest

# Files of one group: the names under which they wait are written down by one flush, their objects are looked at in one
# request just before.
GROUP = 1000
# All objects of a compression are looked at before each group, so it has more files where they are more than this times
# as many.
OBJECTS_A_FILE = 100
VANISHED = "an object that replaces it is gone from the bucket"


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
                f"{counted(free, 'source file')} could be deleted, {len(removal.kept)} would stay: "
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
        raise PartialFailure(
            f"{counted(removed, 'source file was', 'source files were')} deleted, {len(kept)} stay: "
            f"{'; '.join(kept[:3])}"
        )
    return {"removed": removed, "kept": []}


def preview(work: TaskContext) -> dict[str, object]:
    """Say that nothing was sent, so nothing may go."""
    work.say(
        "would list the source files that are verified in the bucket; a dry run sends none, so none may be deleted"
    )
    return {"removed": 0}


def _sent(work: TaskContext) -> dict[str, SentObject]:
    """Return what this job sent, by path below its prefix; ``UsageError`` unless all of it is proven."""
    if not (work.place.directory / SETTINGS).exists():
        raise UsageError(
            f"{work.job.prefix} has no manifest; only files that were uploaded and verified may be deleted"
        )
    found: dict[str, SentObject] = {}
    endpoint = resolve_endpoint(work.settings.endpoint)
    for upload_unit in shipments(work):
        directory = work.place.upload_unit(upload_unit.name)
        path = directory / MANIFEST
        if not path.exists():
            raise UsageError(
                f"{path} is missing; only files that were uploaded and verified may be deleted; upload again"
            )
        manifest = read_manifest(path)
        header = manifest.header
        if (header.bucket, header.prefix) != (work.job.s3_bucket, f"{upload_unit.prefix}/"):
            raise UsageError(f"{path} is of another job; remove {directory} and upload again")
        if (header.endpoint or "").rstrip("/") != (endpoint or "").rstrip("/"):
            raise UsageError(
                f"{path} is for {header.endpoint or 'AWS'}, this run is for {endpoint or 'AWS'}; "
                "give the endpoint to which the sources were uploaded"
            )
        if not manifest.end.complete:
            # What is not proven has no row, so that its absence shows nowhere but here.
            raise UsageError(
                f"{path} does not list every object that was to be sent, so no source may be deleted; upload again"
            )
        # The path below the prefix, not the key: a key may spell odd bytes differently.
        above = "" if upload_unit.name == STAGED else f"{upload_unit.name}/"
        found.update((above + row.path, SentObject(row, directory / JOURNAL)) for row in manifest.rows())
    return found


class _Removal:
    """One deletion: ``kept`` has a sentence per file that stays; ``noted`` what stays as it is meant to."""

    _judge: SourceJudge

    def __init__(self, work: TaskContext, stack: ExitStack) -> None:
        self.parts: list[SourcePart] = []
        self.kept: list[str] = []
        self.noted: list[str] = []
        self._work, self._stack = work, stack
        self._copies = OnlyCopies(work.place.only_copies)
        self._log = WaitingLog(work.place.removing)
        self._interrupted: set[str] = set()

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
                more = f"; when that will not come back, remove {self._log.path}" if isinstance(error, Away) else ""
                self.kept.append(f"{waiting.path} stays: {error}{more}")
        self.kept += self._log.damaged
        self._log.finish()

    def judge(self, evidence: Evidence) -> None:
        """Find out what may go."""
        self._judge = SourceJudge(self._work, self._stack, self._copies, evidence)
        self._judge.judge()
        self.parts, self.noted = self._judge.parts, self._judge.noted
        self.kept += self._judge.kept

    def write(self, level: EvidenceLevel) -> None:
        """Write the lists; after a deletion ``removable`` holds what is gone, ``kept`` what turned out to stay, too."""
        paths = [part.tree.path(free.record) for part in self.parts for free in part.free]
        with atomic_write(self._work.place.directory / "removable.json") as stream:
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

    def _is_to_prune(self, part: SourcePart) -> bool:
        return bool(part.free or str(part.tree.source) in self._interrupted) and not part.foreign

    def _keep_manifests(self) -> None:
        """Copy the manifests on which the deletion rests: the next upload of the job has other rows."""
        self._work.place.removed.mkdir(exist_ok=True)
        for upload_unit in shipments(self._work):
            source = self._work.place.upload_unit(upload_unit.name) / MANIFEST
            target = self._work.place.removed / f"{upload_unit.name}-{read_manifest(source).end.sha256[:16]}.{MANIFEST}"
            if not target.exists():
                with atomic_write(target, "wb") as stream, open(source, "rb") as reader:
                    shutil.copyfileobj(reader, stream)

    def _delete_part(self, part: SourcePart, names: Iterator[str]) -> int:
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

    def _delete_together(self, part: SourcePart, free: Sequence[FreeFile], names: Iterator[str]) -> None:
        """Delete files for which all objects stand together, until one of either is not what it was."""
        size = max(GROUP, len(part.lineage.outputs) // OBJECTS_A_FILE)
        for start in range(0, len(free), size):
            self._work.check_cancelled()
            if self._judge.lacking(part.lineage):
                self.kept += [part.stays(one.record, VANISHED) for one in free[start:]]
                return
            before = len(self.kept)
            self._delete_group(part, free[start : start + size], names)
            if len(self.kept) > before:
                reason = "another file of its source changed while sources were being deleted"
                self.kept += [part.stays(one.record, reason) for one in free[start + size :]]
                return

    def _still_there(self, part: SourcePart, group: Sequence[FreeFile]) -> list[FreeFile]:
        """Return those whose objects the bucket still lists; judging may have taken hours."""
        present = self._judge.evidence.present(one.record.key for one in group)
        confirmed = self._judge.evidence.confirm(present)
        left = []
        for one in group:
            if confirmed.get(one.record.key) == one.sha256:
                left.append(one)
            else:
                self.kept.append(part.stays(one.record, f"{one.record.key} is gone from the bucket"))
        return left

    def _delete_group(self, part: SourcePart, group: Sequence[FreeFile], names: Iterator[str]) -> None:
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
                    self.kept += [part.stays(one.record, part.reason(error)) for one in files]
        finally:
            part.less |= len(intact) < len(group)
            if copies:
                stay = {(one.record.key, one.sha256) for one in intact.values()}
                self._copies.release(one for one in noted if one in stay)

    @staticmethod
    def _wait(part: SourcePart, one: FreeFile, aside: str) -> Waiting:
        directory, name = part.tree.place(one.record)
        return Waiting(str(part.tree.source), directory, name, aside, part.tree.held)

    def _delete(
        self, part: SourcePart, directory: int, one: FreeFile, waiting: Waiting, intact: dict[str, FreeFile]
    ) -> None:
        del intact[one.record.path]  # from here on nothing is certain
        try:
            if part.tree.remove(directory, waiting.name, one.seen, one.sha256, waiting.aside):
                part.free.append(one)
        except Stays as error:
            if isinstance(error, Stranded):
                self._log.left.append(waiting)
            else:
                intact[one.record.path] = one
            self.kept.append(part.stays(one.record, part.reason(error)))
        except OSError as error:
            self.kept.append(part.stays(one.record, f"it cannot be removed: {error.strerror}"))
        except LadingError:  # stopped while it was read once more
            intact[one.record.path] = one
            raise
