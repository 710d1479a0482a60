"""The upload: crawl, cut, ship and prove, by the scripts of ``make upload``, under the job's prefix.

Input: the staging folder, and each modality that is sent from its source.
Output: objects in the bucket; per shipment a size tree, a plan, a journal
and a manifest in the job's state, and records of what was sent from its source.
Invariant: the task ends only when every manifest is complete: each file's
object was read back from the bucket's own listing. A second start continues
where the journals stand. What was sent is what the tasks before had made, file
by file (``lading.sessions.delivery``): the task that made anything else is done again.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lading.checksums.digest import FileState, digest_file
from lading.core.atomic import atomic_write, read_record
from lading.core.bounded import JsonMembers
from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.core.opening import open_plain
from lading.core.progress import counted, format_bytes
from lading.journal.index_rows import hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.records import SENT, VerificationRecord, is_state
from lading.objectstore.client import ObjectStore
from lading.objectstore.keys import encode_key
from lading.sessions.delivery import SHOWN, Delivery, Expected, Outdated
from lading.sessions.journal import FINISHED
from lading.sessions.only_copies import OnlyCopies
from lading.sessions.provenance import COPIES, Provenance, SourceRecord, Top, read_lineages, write_provenance
from lading.sessions.source_tree import is_same_top
from lading.sessions.task_context import REPOSITORY, TaskContext
from lading.sessions.tasks.checks import store_of
from lading.sessions.tasks.metadata_tasks import INVENTORY
from lading.sessions.tasks.staging import DERIVATIVES
from lading.sessions.tasks.transform import parts_of, read_decisions
from lading.verification.compare import CompareLevel, Comparison
from lading.verification.manifest import Manifest, ManifestRow, read_manifest

STAGED = "staged"
MANIFEST, JOURNAL = "manifest.jsonl.zst", "journal"
# When the first upload of a shipment began: none of its files was read for it before.
BEGAN = "began"
# Rows whose journal records are looked up in one go.
GROUP = 1000
NAMED = 10  # of what cannot be read


@dataclass(frozen=True)
class UploadUnit:
    """A directory on its way to ``prefix`` (without slashes at its ends); ``name`` is unique in the job."""

    name: str
    root: Path
    prefix: str


def shipments(work: TaskContext) -> Iterator[UploadUnit]:
    """Yield what is to be sent: modalities from their source first, the staging folder with the metadata last."""
    decisions = read_decisions(work)
    for folder, decision in decisions.items():
        if decision["action"] == "direct":
            yield UploadUnit(folder, Path(decision["source"]), f"{work.job.prefix}/{folder}")
    yield UploadUnit(STAGED, work.staging, work.job.prefix)


def upload(work: TaskContext) -> dict[str, object]:
    """Send and prove every shipment."""
    objects = size = 0
    names = []
    lineages, inventories = _made(work)
    _note_first(work)
    for upload_unit in shipments(work):
        if upload_unit.name != STAGED:
            _require_same_top(work, upload_unit, inventories)
        manifest = _send_unit(work, upload_unit)
        if upload_unit.name != STAGED:
            _compare(work, upload_unit, manifest, {}, inventories)
            _note_direct(work, upload_unit, manifest, inventories.get(upload_unit.name))
        else:
            _compare(work, upload_unit, manifest, lineages, inventories)
        objects += manifest.end.objects
        size += manifest.end.bytes
        names.append(upload_unit.name)
    return {"objects": objects, "bytes": size, "shipments": names, "destination": work.job.destination}


def _send_unit(work: TaskContext, upload_unit: UploadUnit) -> Manifest:
    directory = work.place.upload_unit(upload_unit.name)
    if not directory.exists():
        directory.mkdir(parents=True)
        (directory / BEGAN).write_text(str(time.time_ns()))
    _spare_only_copies(work, upload_unit)
    _spare_others(work, upload_unit)
    work.say(f"sending {upload_unit.root} to s3://{work.job.s3_bucket}/{upload_unit.prefix}/")
    target = ["--bucket", f"s3://{work.job.s3_bucket}/{upload_unit.prefix}", "--batch", "batch.json"]
    if work.settings.endpoint:
        target += ["--endpoint-url", work.settings.endpoint]
    root = str(upload_unit.root)
    script = REPOSITORY.joinpath
    work.run_python(script("find.py"), root, "--max-workers", 4, "-o", "find.json", directory=directory)
    work.run_python(script("batch.py"), root, "--file-tree", "find.json", "-o", "batch.json", directory=directory)
    work.run_python(script("upload.py"), root, *target, "--max-workers", work.settings.workers, directory=directory)
    work.run_python("-m", "lading", "verify", root, *target, directory=directory)
    manifest = read_manifest(directory / MANIFEST)
    if not manifest.end.complete:
        raise ConsistencyError(f"{directory / MANIFEST} does not list every file of {root}; run again")
    return manifest


def _spare_only_copies(work: TaskContext, upload_unit: UploadUnit) -> None:
    """Refuse what would replace an object whose sources were deleted by one of other content."""
    above = "" if upload_unit.name == STAGED else f"{upload_unit.name}/"
    kept = {path: sha256 for path, sha256 in OnlyCopies(work.place.only_copies).items() if path.startswith(above)}
    spelled = {key: path for path in kept if "%" in (key := encode_key(path))}
    names = {path: path for path in kept}
    if spelled:
        # A byte that no key holds and its spelling are two names for one object.
        here = (above + os.path.relpath(path, upload_unit.root) for path in _files_below(upload_unit.root))
        names |= {name: spelled[key] for name in here if (key := encode_key(name)) in spelled}
    for name, path in names.items():
        work.check_cancelled()
        try:
            with open(open_plain(str(upload_unit.root / name.removeprefix(above))), "rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            continue  # nothing of that name is sent
        if found != kept[path]:
            raise UsageError(
                f"{work.job.prefix}/{path} is the only copy of deleted sources and would be replaced by other "
                "content; upload it under another subject, date or platform"
            )


def _files_below(top: Path) -> Iterator[str]:
    """Yield the path of each regular file below a directory that a crawl would find."""

    def refuse(error: OSError) -> None:
        raise LadingError(
            f"{error.filename} cannot be read: {error.strerror}; make it readable, then run again"
        ) from error

    for directory, names, files in os.walk(top, onerror=refuse if os.path.lexists(top) else None):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            if not os.path.islink(path) and os.path.isfile(path):
                yield path


def _note_first(work: TaskContext) -> None:
    """Write down which folders held objects before this state root sent anything: those are not its own to replace."""
    path = work.place.occupied
    known = read_record(path, _folders, f"remove {path}") if path.exists() else {}
    # What an earlier version began, it began alone.
    begun = not path.exists() and (work.place.only_copies.exists() or work.place.directory.joinpath("upload").exists())
    new = [folder for folder in parts_of(work.job) if folder not in known]
    if not new:
        return
    store = store_of(work)
    for folder in new:
        known[folder] = not begun and bool(store.page(f"{work.job.prefix}/{encode_key(folder)}/")[0])
    with atomic_write(path) as stream:
        json.dump({"format": 1, "kind": "occupied", "folders": known}, stream, indent=1)
        stream.write("\n")


def _folders(record: dict[str, Any]) -> dict[str, bool]:
    take = JsonMembers(record)
    if (take.number("format"), take.text("kind")) != (1, "occupied"):
        raise ValueError("it is of another format")
    folders = take.members("folders")
    return {name: folders.flag(name) for name in take.object("folders")}


def _spare_others(work: TaskContext, upload_unit: UploadUnit) -> None:
    """Refuse to replace objects that were there before by other content: whoever put them there may have nothing else.

    Another state root deletes sources, too, and only its own state tells which. Metadata and derivatives are replaced:
    their sources are never deleted.
    """
    path = work.place.occupied
    if work.job.task("upload_data_to_s3").job_settings.get("replace_others", False) is True:
        return
    occupied = read_record(path, _folders, f"remove {path}")
    others = [folder for folder in parts_of(work.job) if occupied.get(folder)]
    store = store_of(work)
    found: list[str] = []
    for folder in others:
        if upload_unit.name not in (STAGED, folder):
            continue
        top = upload_unit.root if upload_unit.name == folder else upload_unit.root / folder
        paths = iter([str(top)] if top.is_file() else _files_below(top))
        while group := list(islice(paths, GROUP)):
            work.check_cancelled()
            found += _replaced(work, upload_unit, store, group)
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UsageError(
            f"{', '.join(found[:SHOWN])}{more} would be replaced by other content, but this list did not put it there: "
            "it may be the only copy of deleted sources; upload under another subject, date or platform, or set "
            "upload_data_to_s3.replace_others = TRUE if what is there may be replaced"
        )


def _replaced(work: TaskContext, upload_unit: UploadUnit, store: ObjectStore, paths: Iterable[str]) -> list[str]:
    """Return the keys, of files below a shipment's root, of objects of other content that this job did not send."""
    keys = {encode_key(f"{upload_unit.prefix}/{os.path.relpath(path, upload_unit.root)}"): path for path in paths}
    listed = store.find(keys)
    journal = work.place.upload_unit(upload_unit.name) / JOURNAL
    proofs: dict[str, VerificationRecord | None] = {}
    if listed and journal.exists():
        journal_index = JournalIndex(journal)
        proofs = dict(zip(listed, journal_index.proofs(list(listed), journal_index.find(hash_keys(list(listed))))))
    comparison = Comparison(store, CompareLevel.ETAG)
    found = []
    for key, there in listed.items():
        proof = proofs.get(key)
        if proof and proof.origin == SENT and (proof.size, proof.etag) == (there.size, there.etag):
            continue
        try:
            if os.path.getsize(keys[key]) == there.size:
                digests = digest_file(keys[key])
                if comparison.match(keys[key], there, digests, found=True):
                    continue
        except OSError as error:
            raise LadingError(
                f"{keys[key]} cannot be read: {error.strerror}; make it readable, then run again"
            ) from error
        found.append(printable(key))
    return found


def _made(work: TaskContext) -> tuple[dict[str, Provenance], dict[str, Provenance]]:
    """Return the records of what is in the staging folder, and the inventories of all else that is to be sent."""
    decisions = read_decisions(work)
    staged = [part for part in parts_of(work.job) if decisions.get(part, {}).get("action") in ("copy", "compress")]
    lineages = {one.folder: one for one in read_lineages(work.place.lineage) if one.folder in staged}
    lacking = [
        part for part in staged if part not in lineages and work.state.task("compress_data", part).state == FINISHED
    ]
    if lacking:
        raise _outdated(work, {part: ["no record says what it made"] for part in lacking})
    return lineages, {one.folder: one for one in read_lineages(work.place.inventory)}


def _require_same_top(work: TaskContext, upload_unit: UploadUnit, inventories: Mapping[str, Provenance]) -> None:
    """Refuse a source that is another directory than the one that was looked at: a mount point without its mount."""
    noted = inventories.get(upload_unit.name)
    if noted is None or noted.top is None:
        return
    try:
        same = is_same_top(noted.top, Top.of(upload_unit.root))
    except OSError as error:
        raise LadingError(
            f"{upload_unit.root} cannot be read: {error.strerror}; make it readable, then run again"
        ) from error
    if not same:
        reason = f"{upload_unit.root} is another directory now than it was then; is its file system mounted here?"
        raise _outdated(work, {upload_unit.name: [reason]})


def _compare(
    work: TaskContext,
    upload_unit: UploadUnit,
    manifest: Manifest,
    lineages: Mapping[str, Provenance],
    inventories: Mapping[str, Provenance],
) -> None:
    """Raise ``Outdated`` unless a shipment brought each file that the tasks before had made for it."""
    direct = {folder for folder, one in read_decisions(work).items() if one["action"] == "direct"}
    here = {upload_unit.name} if upload_unit.name != STAGED else inventories.keys() - direct
    expected = {folder: dict(_expected(lineage)) for folder, lineage in lineages.items()}
    for name in here & inventories.keys():
        # A file that was sent as it stands is known by its state alone: nobody read it before.
        files = {record.key: Expected(record.size, record.sha256, record.state) for record in inventories[name].records}
        expected[name] = {**expected.get(name, {}), **files}
    delivery = Delivery(expected)
    above = "" if upload_unit.name == STAGED else f"{upload_unit.name}/"
    journal_index = JournalIndex(work.place.upload_unit(upload_unit.name) / JOURNAL)
    stated = []
    for row in manifest.rows():
        work.check_cancelled()
        if delivery.state(above + row.path) is not None:
            stated.append(row)
            if len(stated) == GROUP:
                _take_stated(delivery, above, stated, journal_index)
                stated.clear()
        else:
            delivery.take(above + row.path, row, unmoved=True)
    _take_stated(delivery, above, stated, journal_index)
    faults = dict(delivery.faults())
    if faults:
        raise _outdated(work, faults)


def _take_stated(delivery: Delivery, above: str, rows: Iterable[ManifestRow], journal_index: JournalIndex) -> None:
    for row, proof in _with_proofs(rows, journal_index):
        state = delivery.state(above + row.path)
        assert state is not None
        same = is_state(proof, state) if proof is not None else row.mtime_ns == state.mtime_ns
        delivery.take(above + row.path, row, unmoved=same)


def _expected(lineage: Provenance) -> Iterator[tuple[str, Expected]]:
    """Yield the objects that carry a modality, by path below the prefix."""
    for record in lineage.records:
        if record.key:
            yield record.key, Expected(record.size, record.sha256)
    for output in lineage.outputs:
        yield output.key, Expected(output.size, output.sha256)


def _outdated(work: TaskContext, faults: Mapping[str, list[str]]) -> Outdated:
    """Return the error for files, by who made them, that were not sent as they were made."""
    again: dict[tuple[str, str], None] = {}
    for maker in faults:
        if maker == DERIVATIVES:
            again["copy_derivatives_folder", ""] = None
        elif maker == INVENTORY:
            again["gather_preliminary_metadata", ""] = None
        else:
            again["compress_data", maker] = None
    if set(again) != {("copy_derivatives_folder", "")}:
        again |= dict.fromkeys([("gather_final_metadata", ""), ("check_metadata_files", "")])
    sentences = [f"{maker}: {one}" if maker not in one else one for maker, some in faults.items() for one in some]
    more = f"; and {len(sentences) - SHOWN} more" if len(sentences) > SHOWN else ""
    makers = ", ".join(dict.fromkeys(task for task, _ in again if not task.endswith("_files") and "final" not in task))
    return Outdated(
        f"what was sent is not what had been prepared ({'; '.join(sentences[:SHOWN])}{more}); "
        f"nothing was removed; run again, and {makers} will be repeated",
        again,
    )


def _note_direct(work: TaskContext, upload_unit: UploadUnit, manifest: Manifest, noted: Provenance | None) -> None:
    """Write the records of a modality that is sent from its source: what its rows and journals say was sent."""
    directory = work.place.upload_unit(upload_unit.name)
    journal_index = JournalIndex(directory / JOURNAL)
    began = int((directory / BEGAN).read_text()) if (directory / BEGAN).exists() else 0
    write_provenance(
        work.place.lineage,
        upload_unit.name,
        upload_unit.root,
        COPIES,
        (
            SourceRecord(
                row.path,
                row.size,
                row.sha256 or row.file_sha256,
                _state_of(proof, row) if proof else None,
                began,
                f"{upload_unit.name}/{row.path}",
            )
            for row, proof in _with_proofs(manifest.rows(), journal_index)
        ),
        top=noted.top if noted else None,
    )


def _with_proofs(
    rows: Iterable[ManifestRow], journal_index: JournalIndex
) -> Iterator[tuple[ManifestRow, VerificationRecord | None]]:
    rows = iter(rows)
    while some := list(islice(rows, GROUP)):
        keys = [row.key for row in some]
        yield from zip(some, journal_index.proofs(keys, journal_index.find(hash_keys(keys))))


def _state_of(proof: VerificationRecord, row: ManifestRow) -> FileState | None:
    """Return the state in which a file was read for its row; None where the journal does not tell."""
    if (proof.size, proof.mtime_ns) != (row.size, row.mtime_ns) or proof.sha256 != (row.sha256 or row.file_sha256):
        return None
    if proof.ctime_ns is None or proof.inode is None or proof.device is None:
        return None
    return FileState(proof.size, proof.mtime_ns, proof.ctime_ns, proof.inode, proof.device)


def _count(root: Path) -> tuple[int, int, list[str], list[str]]:
    """Return how many files a crawl would find, their bytes, what is not sent, and what cannot be read and why."""
    count = size = 0
    faults: list[str] = []
    left_out: list[str] = []

    def note(error: OSError) -> None:
        faults.append(f"{printable(os.fsdecode(error.filename))} ({error.strerror})")

    for directory, folders, names in os.walk(root, onerror=note):
        paths = [os.path.join(directory, name) for name in folders]
        left_out += [printable(path) for path in paths if os.path.islink(path)]
        for name in names:
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError as error:
                note(error)
                continue
            if stat.S_ISREG(status.st_mode):
                count += 1
                size += status.st_size
            else:
                left_out.append(printable(os.path.join(directory, name)))
    return count, size, left_out, faults


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return f"{', '.join(paths[:NAMED])}{more}"


def preview(work: TaskContext) -> dict[str, object]:
    """Say what would be sent where."""
    total = 0
    lines, unreadable = [], []
    for upload_unit in shipments(work):
        count, size, left_out, faults = _count(upload_unit.root)
        total += count
        unreadable += faults
        lines.append(
            f"would send {counted(count, 'file')}, {format_bytes(size)}, from {upload_unit.root} "
            f"to s3://{work.job.s3_bucket}/{upload_unit.prefix}/"
        )
        if left_out:
            lines.append(f"would leave out {counted(len(left_out), 'link')} and special files: {_named(left_out)}")
    if unreadable:
        raise LadingError(
            f"the upload would end with an error, for these cannot be read: {_named(unreadable)}; make them readable"
        )
    if not total:
        raise LadingError(f"{work.job.prefix} has no file to send")
    for line in lines:
        work.say(line)
    return {"would_send": total}
