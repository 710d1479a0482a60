"""``make verify``: compare the bucket with the release and write the bill of lading.

Input: ROOT, ``batch.json`` and its tree, the journals, the bucket's full
listing. Output: ``manifest.jsonl.zst``; records in the journal of what was
proven here and of proofs that no longer hold.
Every object is compared by its ETag at least, also one of which upload was told
to compare the size alone; ``--level`` asks for more. By default no byte is
read: the listing's size, ETag and time of an object and the file's size, times
and inode are compared with the record; what is in another state than its
record is read. ``--source`` reads files, ``--full`` objects.
Invariant: the manifest has a row for each object that the bucket was seen to
hold now and no other; a difference takes the old proof back, so that the next
upload sends that object.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lading.coordination.lease import Lease
from lading.coordination.signals import leave_hanging
from lading.core.command_line import Parser, configure_logging, run_main
from lading.core.errors import UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.progress import Progress
from lading.journal.journal_index import JournalIndex, JournalWriter, NoJournal
from lading.objectstore.client import ObjectStore, open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.listing import OutOfOrder, in_order, list_objects, sort_listing
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.target import Target
from lading.plan.objects import PlannedObjects, add_arguments, open_inventory
from lading.verification.audit import Audit, Findings, Sample, merge_join, sorted_wanted
from lading.verification.compare import CompareLevel, Comparison
from lading.verification.manifest import ManifestEnd, ManifestHeader, SourceRead, write_manifest
from lading.verification.sample import FileSample, SourceRequest, parse_source
from lading.verification.verify_report import VerifyReport

MANIFEST = "manifest.jsonl.zst"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="verify",
        description=__doc__.split("\n")[0] if __doc__ else "",
        epilog="With --manifest M no plan and no source are needed; see lading verify --manifest M --help.",
        codes=OF_A_TRANSFER,
    )
    add_arguments(parser)
    parser.add_argument("--deep", type=int, default=0, metavar="N", help="download about N objects and compare them")
    parser.add_argument("--full", action="store_true", help="download every object and compare it")
    parser.add_argument(
        "--source",
        type=read_request,
        nargs="?",
        const=SourceRequest(),
        metavar="N|SIZE",
        help="read local files and compare them with their records: all, N of them, or SIZE (like 10G) of bytes",
    )
    parser.add_argument("--level", choices=["etag", "checksum", "crc64"], help="how objects are compared")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the manifest (beside batch.json)")
    return parser.parse_args(argv)


def read_request(text: str) -> SourceRequest:
    """Return what ``--source`` asks for; raises for the command line's parser."""
    try:
        return parse_source(text)
    except (ValueError, UsageError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of files nor a size like 10G (write --source=10G)"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Verify; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(parse(argv))


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    inventory, target = open_inventory(arguments)
    if not is_writable(inventory.directory, inventory.journal, inventory.directory / "runs"):
        return verify(arguments, inventory, target, None)
    inventory.journal.mkdir(exist_ok=True)
    with Lease(inventory.journal, "verify", reader=True) as lease:
        sweep(inventory.directory, arguments.output or inventory.directory / MANIFEST, lease)
        return verify(arguments, inventory, target, lease.holder.writer)


def is_writable(*directories: Path) -> bool:
    """Tell whether this user may write in all of the directories that are there."""
    return all(os.access(directory, os.W_OK | os.X_OK) for directory in directories if directory.exists())


def choose_output(arguments: argparse.Namespace, inventory: PlannedObjects, writer: str | None) -> Path:
    """Return where the manifest goes: beside the plan, or where a reader of it may write."""
    if arguments.output or writer is not None:
        return Path(arguments.output or inventory.directory / MANIFEST)
    if not is_writable(Path.cwd()):
        raise UsageError(f"{inventory.directory} cannot be written by you, nor can this directory; say where: -o FILE")
    return Path.cwd() / MANIFEST


def sweep(directory: Path, output: Path, lease: Lease) -> None:
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


def choose_level(arguments: argparse.Namespace, store: ObjectStore) -> CompareLevel:
    """Return how objects are compared: ETags say nothing of bytes that are encrypted by a key."""
    level = CompareLevel(arguments.level) if arguments.level else CompareLevel.ETAG
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


def describe_settings(arguments: argparse.Namespace, level: CompareLevel, files: FileSample) -> dict[str, Any]:
    """Return what made a manifest, for its header."""
    return {
        "level": str(level),
        "deep": arguments.deep,
        "full": arguments.full,
        "adopt": str(arguments.adopt),
        "source": files.describe(),
    }


def verify(arguments: argparse.Namespace, inventory: PlannedObjects, target: Target, writer: str | None) -> int:
    """Audit the bucket, write the manifest, report; without ``writer`` nothing is written beside the plan."""
    started = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    endpoint = target.endpoint
    ledger = JournalIndex(inventory.journal)
    ledger.check(str(inventory.place), endpoint)
    inventory.check_mount(ledger, agreed=arguments.same_release)
    inventory.audit(ledger)
    store = open_for_reading(target)
    total = sum(batch.files for batch in inventory.batches)
    reader = ObjectReader(store)
    sample = Sample(reader, total, arguments.deep, arguments.full)
    files = FileSample(arguments.source)
    files.choose(inventory)
    level = choose_level(arguments, store)
    output = choose_output(arguments, inventory, writer)
    header = make_header(inventory, endpoint, moment, describe_settings(arguments, level, files))
    journal = open_journal(inventory, writer, endpoint, moment)
    below = inventory.open_root()
    comparison = Comparison(store, level, reader, below, adopt=arguments.adopt)
    roots = inventory.keys.roots()
    copy, prefix = inventory.is_copy, inventory.place.prefix
    audit = Audit(store, comparison, journal, sample, files, below, is_copy=copy, prefix=prefix)
    try:
        with (
            Progress("verify") as progress,
            tempfile.TemporaryDirectory(prefix=".verify-", dir=output.absolute().parent) as scratch,
        ):
            wanted = partial(sorted_wanted, inventory, ledger, Path(scratch))
            versions = store.listing.keeps_versions() and store.listing.may_list_versions(roots[0])
            objects = partial(list_objects, store, roots, versions=versions)
            asked = arguments.source is not None

            def write(listed: Iterator[ObjectInfo]) -> ManifestEnd:
                return write_manifest(
                    output,
                    header,
                    audit.rows(merge_join(wanted(), listed), progress),
                    complete=lambda: audit.findings.proven == total,
                    coverage=inventory.coverage,
                    source=lambda: count_source(audit.findings) if asked else None,
                )

            try:
                end = write(in_order(objects()))
            except OutOfOrder as disorder:
                print(f"note: the server lists out of byte order ({disorder}); sorting it on disk", file=sys.stderr)
                audit.close()
                audit = Audit(store, comparison, journal, sample, files, below, is_copy=copy, prefix=prefix)
                end = write(sort_listing(objects(), Path(scratch)))
    finally:
        reader.stop()  # interrupted, the threads would read on to the end of what they have
        audit.close()
        below.close()
        journal.close()
    took = time.time() - started
    done = VerifyReport(inventory, level, audit.findings, sample, files, end, output, started, took, writer)
    return done.finish(as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
