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
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lading.coordination.lease import Lease
from lading.coordination.signals import leave_hanging
from lading.core.atomic import replacing
from lading.core.command_line import Parser, configure_logging, printable, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.progress import Progress, format_bytes, format_count, format_seconds
from lading.core.version import provenance
from lading.journal.journal_index import JournalIndex, JournalWriter, NoJournal
from lading.objectstore.client import open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.listing import OutOfOrder, in_order, list_objects, sort_listing
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.target import Target
from lading.plan.objects import PlannedObjects, add_arguments, open_inventory
from lading.tree.coverage import ADVICE, describe_gap, describe_rest, encode_coverage
from lading.verification.audit import SHOWN, Audit, Findings, Sample, merge_join, sorted_wanted
from lading.verification.compare import CompareLevel, Comparison
from lading.verification.manifest import ManifestEnd, ManifestHeader, SourceRead, write_manifest
from lading.verification.sample import FileSample, SourceRequest, parse_source

CONTRADICTED = (
    "the disk here or the record is damaged, and nothing is sent over the object; compare each with its object "
    "(make restore prefix=… to=…), put the right one in place, or touch the file to send it"
)
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
    """Verify; returns the exit code of docs/formats.md."""
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


def verify(arguments: argparse.Namespace, inventory: PlannedObjects, target: Target, writer: str | None) -> int:
    """Audit the bucket, write the manifest, report; without ``writer`` nothing is written beside the plan."""
    started = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    place, endpoint, root = str(inventory.place), target.endpoint, inventory.release
    ledger = JournalIndex(inventory.journal)
    ledger.check(place, endpoint)
    inventory.check_mount(ledger, agreed=arguments.same_release)
    inventory.audit(ledger)
    store = open_for_reading(target)
    total = sum(batch.files for batch in inventory.batches)
    reader = ObjectReader(store)
    sample = Sample(reader, total, arguments.deep, arguments.full)
    files = FileSample(arguments.source)
    files.choose(inventory)
    level = CompareLevel(arguments.level) if arguments.level else CompareLevel.ETAG
    level = CompareLevel.CRC64 if level is CompareLevel.ETAG and store.is_encrypted_by_key() else level
    output = choose_output(arguments, inventory, writer)
    settings = {
        "level": str(level),
        "deep": arguments.deep,
        "full": arguments.full,
        "adopt": str(arguments.adopt),
        "source": files.describe(),
    }
    header = ManifestHeader(
        inventory.place.bucket, inventory.place.prefix, endpoint, root, inventory.plan_digest, moment, settings
    )
    journal: JournalWriter | NoJournal = NoJournal()
    if writer is not None:
        head = inventory.head(writer, endpoint, moment)
        journal = JournalWriter(inventory.journal, f"verify-{writer}", head)
    below = inventory.open_root()
    comparison = Comparison(store, level, reader, below, adopt=arguments.adopt)
    roots = inventory.keys.roots()
    audit = Audit(store, comparison, journal, sample, files, below, is_copy=inventory.is_copy)
    try:
        with (
            Progress("verify") as progress,
            tempfile.TemporaryDirectory(prefix=".verify-", dir=output.absolute().parent) as scratch,
        ):
            wanted = partial(sorted_wanted, inventory, ledger, Path(scratch))
            versions = store.listing.keeps_versions() and store.listing.may_list_versions(roots[0])
            objects = partial(list_objects, store, roots, versions=versions)

            def read_source() -> SourceRead | None:
                found = audit.findings
                asked = arguments.source is not None
                return SourceRead(found.source_asked, found.source_read, found.source_gone) if asked else None

            def write(listed: Iterator[ObjectInfo]) -> ManifestEnd:
                return write_manifest(
                    output,
                    header,
                    audit.rows(merge_join(wanted(), listed), progress),
                    complete=lambda: audit.findings.proven == total,
                    coverage=inventory.coverage,
                    source=read_source,
                )

            try:
                end = write(in_order(objects()))
            except OutOfOrder as disorder:
                print(f"note: the server lists out of byte order ({disorder}); sorting it on disk", file=sys.stderr)
                audit.close()
                audit = Audit(store, comparison, journal, sample, files, below, is_copy=inventory.is_copy)
                end = write(sort_listing(objects(), Path(scratch)))
    finally:
        reader.stop()  # interrupted, the threads would read on to the end of what they have
        audit.close()
        below.close()
        journal.close()
    return report(arguments, inventory, level, audit.findings, sample, files, end, output, started, writer)


def report(
    arguments: argparse.Namespace,
    inventory: PlannedObjects,
    level: CompareLevel,
    findings: Findings,
    sample: Sample,
    files: FileSample,
    end: ManifestEnd,
    output: Path,
    started: float,
    writer: str | None,
) -> int:
    """Print the findings and write the run's record; raises for differences and for what was never sent."""
    seconds = time.time() - started
    total = sum(batch.files for batch in inventory.batches)
    print(
        f"verify  {format_count(end.objects)} of {format_count(total)} objects proven, {format_bytes(end.bytes)}, "
        f"in {format_seconds(seconds)}; level {'checksum' if level is CompareLevel.CRC64 else level}, "
        f"read again {format_count(findings.reread)}, downloaded {format_count(sample.downloaded)}; "
        f"{os.path.relpath(output)}"
    )
    if findings.extra:
        names = _some(findings, "extra")
        print(f"note: {format_count(findings.extra)} objects in the bucket are not of this plan: {names}")
    coverage = inventory.coverage
    gap, rest = describe_gap(coverage, printable), describe_rest(coverage)
    incomplete = [f"the manifest is not complete: {gap}; {ADVICE}"] if gap else []
    if rest:
        print(f"note: in no batch, so not in the bucket: {rest}")
    if findings.weak:
        print(
            f"note: {format_count(findings.weak)} objects were there before and were matched by less than SHA-256; "
            "verify_flags=--adopt=download reads these, and only these"
        )
    if end.source:
        print(
            f"source  {format_count(end.source.asked)} files were to be read: {format_count(end.source.read)} were, "
            f"{format_count(end.source.gone)} are gone"
        )
    if files.too_large:
        print(f"note: {format_count(files.too_large)} files are larger than the sample of bytes and cannot be in it")
    if findings.gone_here:
        print(f"note: {format_count(findings.gone_here)} proven files no longer exist here")
    record: dict[str, Any] = {
        "format": 1,
        "kind": "run",
        "stage": "verify",
        "writer": writer,
        "written_by": provenance(),
        "bucket": str(inventory.place),
        "root": inventory.release,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(seconds, 3),
        "level": str(level),
        "complete": end.complete,
        "crawl": encode_coverage(coverage),
        "objects": {
            "listed": total,
            "proven": end.objects,
            "missing": findings.missing,
            "differing": findings.differing,
            "contradicted": findings.contradicted,
            "unreadable": findings.unreadable,
            "unjudged": findings.unjudged,
            "unsent": findings.unsent,
            "extra": findings.extra,
            "read": findings.reread,
            "downloaded": sample.downloaded,
        },
        "bytes": {"proven": end.bytes},
    }
    if end.source:
        record["source"] = asdict(end.source)
    if writer is None:
        print(f"note: {inventory.directory} cannot be written by you, so nothing was recorded there")
    else:
        runs = inventory.directory / "runs"
        runs.mkdir(exist_ok=True)
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}-verify-{writer}.json"
        with replacing(runs / name) as stream:
            json.dump(record, stream, indent=1)
            stream.write("\n")
    if arguments.json:
        print(json.dumps(record))
    sys.stdout.flush()
    unread = f"unreadable: {format_count(findings.unreadable)}: {_some(findings, 'unreadable')}"
    if findings.unjudged:
        unread += (
            f"\nof these, not judged: {format_count(findings.unjudged)}; the bucket's listing leaves out objects that "
            "are there, so no more were asked for one by one; have the server's index repaired"
        )
    contradicted = [f"{CONTRADICTED}: {_some(findings, 'contradicted')}"] if findings.contradicted else []
    absent = (
        [
            f"--source was to read {format_count(findings.source_gone)} files that are gone: "
            f"{_some(findings, 'source_gone')}; mount or restore the source, or verify without --source"
        ]
        if findings.source_gone
        else []
    )
    incomplete = absent + incomplete
    if findings.missing or findings.differing:
        lines = ["the bucket does not hold what was sent; make upload sends these again"]
        for kind, count in (("missing", findings.missing), ("differing", findings.differing)):
            if count:
                lines.append(f"{kind}: {format_count(count)}: {_some(findings, kind)}")
        lines += contradicted
        lines += [unread] if findings.unreadable else []
        lines += incomplete
        raise ConsistencyError("\n".join(lines))
    if contradicted:
        raise ConsistencyError("\n".join(contradicted + ([unread] if findings.unreadable else []) + incomplete))
    if findings.unreadable:
        lines = ["not all could be compared; mend these, then run: make verify", unread, *incomplete]
        raise PartialFailure("\n".join(lines))
    unsent = [f"{format_count(findings.unsent)} objects were never sent; run: make upload"] if findings.unsent else []
    if unsent or incomplete:
        raise PartialFailure("\n".join(unsent + incomplete))
    return 0


def _some(findings: Findings, kind: str) -> str:
    names = findings.names.get(kind, [])
    more = " …" if getattr(findings, kind) > SHOWN else ""
    return ", ".join(map(printable, names)) + more


if __name__ == "__main__":
    sys.exit(run_main(main))
