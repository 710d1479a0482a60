"""A verification: compare the bucket with the release and write the manifest.

Input: the objects of a plan, the journals, the bucket's full listing, options.
Output: ``manifest.jsonl.zst``; records in the journal of what was verified here
and of records that no longer hold.
Every object is compared by its ETag at least, also one of which upload was told
to compare the size alone; ``--level`` asks for more. By default no byte is
read: the listing's size, ETag and time of an object and the file's size, times
and inode are compared with the record; what is in another state than its
record is read. ``--source`` reads files, ``--full`` objects.
Invariant: the manifest has a row for each object that the bucket was seen to
hold now and no other; a difference takes the old proof back, so that the next
upload sends that object.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lading.checksums.kept_digests import find_kept
from lading.coordination.lease import Lease
from lading.core.errors import UsageError
from lading.core.progress import Progress, counted
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter, NoJournal
from lading.objectstore.client import ObjectStore, open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.listing import OutOfOrder, in_order, list_objects, sort_listing
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.target import Target
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import AdoptLevel
from lading.verification.audit import Audit
from lading.verification.compare import CompareLevel, Comparison
from lading.verification.findings import Findings
from lading.verification.manifest import ManifestEnd, ManifestHeader, SourceRead, write_manifest
from lading.verification.object_description import ObjectDescriber
from lading.verification.read_sample import Sample
from lading.verification.recorded_entries import RecordedEntries
from lading.verification.sample import FileSample, SourceRequest
from lading.verification.verify_report import VerifyReport
from lading.verification.wanted_objects import WithdrawnObjects, describe_withdrawal, merge_join, sorted_wanted

MANIFEST = "manifest.jsonl.zst"
MOST_DESCRIBED = 100_000  # objects that are asked for unasked: some minutes


@dataclass(frozen=True)
class VerifyOptions:
    """What a verification was asked to do.

    deep          download about so many objects and compare them
    full          read back every object and compare it
    source        which local files to read and compare with their records
    level         how objects are compared; None: as the bucket allows
    output        where the manifest goes; None: beside the plan
    adopt         how an object that is already in the bucket is compared before it counts as verified
    attributes    whether how each object is stored is asked for: auto, always or never
    same_release  take what is below the root for the plan's release, though it differs
    json          end with the run's record as one JSON line
    """

    deep: int = 0
    full: bool = False
    source: SourceRequest | None = None
    level: str | None = None
    output: Path | None = None
    adopt: AdoptLevel = AdoptLevel.MD5
    attributes: str = "auto"
    same_release: bool = False
    json: bool = False


def run_verification(options: VerifyOptions, inventory: PlannedObjects, target: Target) -> int:
    """Audit the bucket, write the manifest, report; returns the exit code.

    Where nothing may be written beside the plan, the manifest goes elsewhere.
    """
    if not is_writable(inventory.directory, inventory.journal, inventory.directory / "runs"):
        return verify(options, inventory, target, None).finish(as_json=options.json)
    inventory.journal.mkdir(exist_ok=True)
    with Lease(inventory.journal, "verify", reader=True) as lease:
        cleanup_stale(inventory.directory, options.output or inventory.directory / MANIFEST, lease)
        return verify(options, inventory, target, lease.holder.writer).finish(as_json=options.json)


def is_writable(*directories: Path) -> bool:
    """Tell whether this user may write in all of the directories that are there."""
    return all(os.access(directory, os.W_OK | os.X_OK) for directory in directories if directory.exists())


def choose_output(options: VerifyOptions, inventory: PlannedObjects, writer: str | None) -> Path:
    """Return where the manifest goes: beside the plan, or where a reader of it may write."""
    if options.output or writer is not None:
        return Path(options.output or inventory.directory / MANIFEST)
    if not is_writable(Path.cwd()):
        raise UsageError(
            f"{inventory.directory} is not writable for you, and neither is this directory; say where to write with "
            "-o FILE"
        )
    return Path.cwd() / MANIFEST


def cleanup_stale(directory: Path, output: Path, lease: Lease) -> None:
    """Remove what killed runs of verify left beside the plan, unless another process works on it."""
    mark = r"(?:\w{8}|[0-9a-f]{8}-\d+-\d+-[0-9a-f]{8})"
    names = [(directory, r"\.verify-\w{8}"), (directory / "runs", rf"\.\d{{8}}T\d{{6}}Z-verify-.*\.json\.{mark}")]
    if output.absolute().parent == directory:  # elsewhere, runs of other plans may write the same
        names.append((directory, rf"\.{re.escape(output.name[:150])}\.{mark}"))
    # Listed before the leases are looked at: whose file is there by then has had its lease longer still.
    left = [
        path for place, name in names if place.is_dir() for path in place.iterdir() if re.fullmatch(name, path.name)
    ]
    if not left or lease.others():
        return
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another user's; the next run of that one may
        else:
            with suppress(FileNotFoundError, PermissionError):
                path.unlink()


def choose_level(options: VerifyOptions, store: ObjectStore) -> CompareLevel:
    """Return how objects are compared: ETags say nothing of bytes that are encrypted by a key."""
    level = CompareLevel(options.level) if options.level else CompareLevel.ETAG
    return CompareLevel.CRC64 if level is CompareLevel.ETAG and store.is_encrypted_by_key() else level


def make_header(
    inventory: PlannedObjects, endpoint: str | None, moment: str, settings: dict[str, Any]
) -> ManifestHeader:
    """Return the first line of the manifest."""
    place = inventory.place
    return ManifestHeader(
        place.bucket, place.prefix, endpoint, inventory.release, inventory.plan_digest, moment, settings
    )


def open_journal(
    inventory: PlannedObjects, writer: str | None, endpoint: str | None, moment: str
) -> JournalWriter | NoJournal:
    """Return the journal of a verification; without ``writer`` one that takes nothing."""
    if writer is None:
        return NoJournal()
    return JournalWriter(inventory.journal, f"verify-{writer}", inventory.head(writer, endpoint, moment))


def count_source(findings: Findings) -> SourceRead:
    """Return what reading local files came to."""
    return SourceRead(findings.source_asked, findings.source_read, findings.source_gone)


def choose_describer(wish: str, store: ObjectStore, journal_index: JournalIndex, total: int) -> ObjectDescriber:
    """Return who asks how each object is stored, if that is wanted; says so where it would take many requests."""
    told = [name for found in journal_index.stored_with() for name in found if name != "storage_class"]
    if wish == "never" or (wish == "auto" and not told):
        return ObjectDescriber(store, wanted=False)
    if wish == "auto" and total > MOST_DESCRIBED:
        print(
            f"note: how each of {counted(total, 'object')} is stored was not asked for; "
            f"verify_flags=--attributes=always does",
            file=sys.stderr,
        )
        return ObjectDescriber(store, wanted=False)
    return ObjectDescriber(store, tagged="tags" in told)


def find_withdrawn(journal_index: JournalIndex) -> WithdrawnObjects:
    """Return what the journals say was withdrawn."""
    return WithdrawnObjects(describe_withdrawal(one) for one in journal_index.all_withdrawn() if one.done)


def describe_settings(options: VerifyOptions, level: CompareLevel, files: FileSample) -> dict[str, Any]:
    """Return what made a manifest, for its header."""
    return {
        "level": str(level),
        "deep": options.deep,
        "full": options.full,
        "adopt": str(options.adopt),
        "source": files.describe(),
    }


def verify(options: VerifyOptions, inventory: PlannedObjects, target: Target, writer: str | None) -> VerifyReport:
    """Audit the bucket and write the manifest; without ``writer`` nothing is written beside the plan."""
    started, endpoint = time.time(), target.endpoint
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    journal_index = JournalIndex(inventory.journal)
    journal_index.check(str(inventory.place), endpoint)
    inventory.check_mount(journal_index, agreed=options.same_release)
    inventory.audit(journal_index)
    store = open_for_reading(target)
    total = sum(batch.files for batch in inventory.batches)
    reader, files = ObjectReader(store), FileSample(options.source)
    sample = Sample(reader, total, options.deep, options.full)
    files.choose(inventory)
    level = choose_level(options, store)
    output = choose_output(options, inventory, writer)
    header = make_header(inventory, endpoint, moment, describe_settings(options, level, files))
    journal = open_journal(inventory, writer, endpoint, moment)
    below, kept = inventory.open_root(), find_kept(inventory.directory, inventory.release)
    comparison = Comparison(store, level, reader, below, adopt=options.adopt)
    roots, describer = inventory.keys.roots(), choose_describer(options.attributes, store, journal_index, total)
    copy, prefix = inventory.is_copy, inventory.place.prefix
    make_audit = partial(
        Audit, store, comparison, journal, sample, files, below, is_copy=copy, prefix=prefix, roots=roots, kept=kept
    )
    audit = make_audit(gone=find_withdrawn(journal_index))
    try:
        with (
            Progress("verify") as progress,
            tempfile.TemporaryDirectory(prefix=".verify-", dir=output.absolute().parent) as scratch,
        ):
            wanted = partial(sorted_wanted, inventory, journal_index, Path(scratch))
            versions = store.listing.keeps_versions() and store.listing.may_list_versions(roots[0])
            objects = partial(list_objects, store, roots, versions=versions)
            recorded = RecordedEntries(inventory, Path(scratch))

            def write(listed: Iterator[ObjectInfo]) -> ManifestEnd:
                return write_manifest(
                    output,
                    header,
                    describer.describe(recorded.attach(audit.rows(merge_join(wanted(), listed), progress))),
                    complete=lambda: audit.findings.proven + audit.findings.withdrawn == total,
                    coverage=inventory.coverage,
                    source=lambda: None if options.source is None else count_source(audit.findings),
                    entries=recorded.entries(),
                    withdrawn=lambda: audit.gone.all(),
                )

            try:
                end = write(in_order(objects()))
            except OutOfOrder as disorder:
                print(f"note: the server lists out of byte order ({disorder}); sorting it on disk", file=sys.stderr)
                audit.close()
                audit = make_audit(gone=find_withdrawn(journal_index))
                end = write(sort_listing(objects(), Path(scratch)))
    finally:
        reader.stop()  # interrupted, the threads would read on to the end of what they have
        for ended in (audit, describer, below, journal, *([kept] if kept else [])):
            ended.close()
    seconds = time.time() - started
    return VerifyReport(inventory, level, audit.findings, sample, files, end, output, started, seconds, writer)
