"""``lading withdraw LIST --reason TEXT``: delete objects of a release on purpose, and have verify expect them absent.

Input: a list of paths or keys, a manifest, the journals beside it. Output:
objects deleted, records in the journal, the manifest without their rows.
Invariant: exactly the named objects, and only where the bucket shows that
they are the ones that were verified; nothing else of Lading deletes objects of
a release. Killed, the same command goes on.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lading.cli.place_store import is_s3
from lading.coordination.lease import Lease
from lading.coordination.signals import leave_hanging
from lading.copy.copy_log import open_copy_log
from lading.core.bounded import is_name
from lading.core.command_line import Parser, configure_logging, parse_workers, printable, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.progress import Progress, counted, format_bytes, format_count
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import encode_header
from lading.objectstore.client import ObjectStore
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import KeyPrefix
from lading.objectstore.manner import add_payer_argument, add_reading_arguments, read_manner
from lading.objectstore.target import Target
from lading.verification.manifest import Manifest, ManifestRow, WithdrawnObject, read_manifest
from lading.verification.places import ORIGIN, describe_place, find_place, read_places, stem_of, write_places
from lading.verification.wanted_objects import describe_withdrawal
from lading.verification.withdrawal import (
    ObjectRemover,
    WithdrawalResult,
    find_difference,
    rewrite_manifest,
    select_rows,
)

SHOWN = 20
MOST_REASON = 1000


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="withdraw",
        description="Delete named objects where they are the verified ones; verify then expects them absent.",
        codes=OF_A_TRANSFER,
    )
    parser.add_argument(
        "list", metavar="LIST", help="a file of paths in the release, or keys, one per line; - is stdin"
    )
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why: it is in the journal and the manifest")
    parser.add_argument(
        "--manifest", type=Path, default=Path("manifest.jsonl.zst"), metavar="FILE", help="on this disk"
    )
    parser.add_argument("--place", metavar="NAME", help="delete at another place that the manifest lists")
    parser.add_argument("--endpoint-url", metavar="URL", help="another endpoint than the manifest's")
    parser.add_argument("--to-profile", metavar="NAME", help="AWS profile whose credentials write to the place")
    add_reading_arguments(parser)
    add_payer_argument(parser)
    parser.add_argument("--null", action="store_true", help="names in LIST end in NUL, not in a newline")
    parser.add_argument("--max-workers", type=parse_workers, default=16, metavar="N", help="objects in flight")
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted; delete nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(argv)


def read_names(source: str, null: bool) -> list[str]:
    """Return the names of a list; bytes that are no UTF-8 are lone surrogates."""
    try:
        with open(0 if source == "-" else source, "rb", closefd=source != "-") as stream:
            data = stream.read()
    except OSError as error:
        raise UsageError(f"{source} cannot be read ({error.strerror}); name a file with a path per line") from error
    names = [os.fsdecode(line) for line in data.split(b"\0" if null else b"\n")]
    names = [name if null else name.removesuffix("\r") for name in names]
    found = [name for name in names if name]
    if not found:
        raise UsageError(f"{source} names nothing; write a path in the release, or a key, per line")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Withdraw; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(parse(argv))


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    if not arguments.reason.strip() or len(arguments.reason) > MOST_REASON or not is_name(arguments.reason):
        raise UsageError(f"--reason is for people, in at most {MOST_REASON:,} characters; say why the objects go")
    names = read_names(arguments.list, arguments.null)
    manifest = read_manifest(find_place(arguments.manifest, arguments.place or ORIGIN))
    place = describe_place(manifest.header)
    if not is_s3(place):
        raise UsageError(
            f"{printable(place)} is not in S3, where alone objects are withdrawn; delete the files there yourself, "
            "then run the copy again, which writes its manifest: make copy to=PLACE"
        )
    journal = journal_of(manifest)
    journaled = [describe_withdrawal(one) for one in JournalIndex(journal).all_withdrawn()]
    rows = select_rows(manifest, names, journaled)
    endpoint = resolve_endpoint(arguments.endpoint_url or manifest.header.endpoint)
    manner, profile = read_manner(arguments), arguments.to_profile
    target = Target(manifest.header.bucket, endpoint, arguments.max_workers, manner=manner, profile=profile)
    store = ObjectStore(target)
    if arguments.dry_run:
        return rehearse_withdrawal(store, rows)
    journal.mkdir(exist_ok=True)
    with Lease(journal, f"withdraw-{os.getpid()}-{time.time_ns():x}") as lease, hold_copies(manifest):
        result = withdraw(arguments, manifest, rows, store, endpoint, lease)
    report(result, as_json=arguments.json)
    name_what_is_left(arguments.manifest, manifest, result)
    return conclude(result)


def journal_of(manifest: Manifest) -> Path:
    """Return the journals of a manifest: beside that of a second place are those of the first."""
    name = f"{stem_of(manifest.path)}.journal" if "copy" in manifest.header.settings else "journal"
    return manifest.path.absolute().parent / name


@contextmanager
def hold_copies(manifest: Manifest) -> Iterator[None]:
    """Hold the lock of copies to the manifest's place, if it is a second one: they would write its manifest, too."""
    log = manifest.path.with_name(f"{stem_of(manifest.path)}.copy.jsonl")
    if not log.exists():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lading-withdraw-") as scratch, open_copy_log(log, Path(scratch)):
        yield


def name_what_is_left(first: Path, manifest: Manifest, result: WithdrawalResult) -> None:
    """Say where else the objects are: at other places, and in what was signed."""
    if not result.deleted and not result.finished:
        return
    if manifest.path.with_name(manifest.path.name + ".signed").exists():
        print(f"note: {manifest.path} was written again; sign it again: make sign key=KEY", file=sys.stderr)
    others = [place.name for place in read_places(first) if place.manifest != manifest.path.name]
    for name in others if manifest.path == first else ():
        print(f"note: the copies at the place {name} stay; withdraw them there: --place {name}", file=sys.stderr)


def rehearse_withdrawal(store: ObjectStore, rows: Sequence[ManifestRow]) -> int:
    """Print what would become of each object; returns 0."""
    listed = store.find((row.key for row in rows), doubt=SHOWN)
    for row in rows:
        difference = find_difference(row, listed.get(row.key))
        print(f"{'refused' if difference else 'would delete'}  {printable(row.key)}  {printable(difference)}".rstrip())
    return 0


def withdraw(
    arguments: argparse.Namespace,
    manifest: Manifest,
    rows: Sequence[ManifestRow],
    store: ObjectStore,
    endpoint: str | None,
    lease: Lease,
) -> WithdrawalResult:
    """Delete the objects and write down what was done."""
    header, directory = manifest.header, journal_of(manifest)
    place = str(KeyPrefix(header.bucket, header.prefix))
    ledger = JournalIndex(directory)
    ledger.check(place, endpoint)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    writer = lease.holder.writer
    record = encode_header(writer, place, endpoint, header.root, started, roots=ledger.roots)
    journal = JournalWriter(directory, f"withdraw-{writer}", record)
    remover = ObjectRemover(store, ledger, journal, arguments.reason, arguments.max_workers)
    try:
        with Progress("withdraw") as progress:
            remover.run(rows, progress)
    finally:
        remover.close()
        journal.close()
        if remover.gone:
            rewrite_place(arguments.manifest, manifest, remover.gone)
    return remover.result


def rewrite_place(first: Path, manifest: Manifest, gone: dict[str, WithdrawnObject]) -> None:
    """Write the manifest without the rows of what is gone, and its digest where it is listed as a place's."""
    end = rewrite_manifest(manifest, gone, manifest.path)
    if manifest.path == first:
        return
    places = [
        replace(one, sha256=end.sha256, objects=end.objects, bytes=end.bytes)
        if one.manifest == manifest.path.name
        else one
        for one in read_places(first)
    ]
    write_places(first, read_manifest(first).header, places)


def report(result: WithdrawalResult, *, as_json: bool) -> None:
    """Print what was done."""
    if as_json:
        kinds = {name: [list(pair) for pair in getattr(result, name)] for name in ("refused", "failed")}
        counts = {name: getattr(result, name) for name in ("deleted", "bytes", "finished", "before")}
        print(json.dumps({"format": 1, "kind": "withdrawal", **counts, **kinds}), flush=True)
        return
    text = f"withdraw  {counted(result.deleted, 'object')} deleted, {format_bytes(result.bytes)}"
    if result.finished:
        text += f"; {format_count(result.finished)} were deleted by a run that was killed"
    if result.before:
        text += f"; {format_count(result.before)} were withdrawn before"
    print(f"{text}; refused {len(result.refused)}, failed {len(result.failed)}", flush=True)


def conclude(result: WithdrawalResult) -> int:
    """Return 0; raises with the names of what was not withdrawn."""
    lines = []
    for title, found in (("refused", result.refused), ("not withdrawn", result.failed)):
        lines += [f"{title}: {printable(path)}: {printable(reason)}" for path, reason in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"… and {len(found) - SHOWN} more {title}")
    if result.refused:
        raise ConsistencyError("\n".join(["not all are the objects that were verified; run: make verify", *lines]))
    if result.failed:
        raise PartialFailure("\n".join(["not all were withdrawn; run the same command again", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
