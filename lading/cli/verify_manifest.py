"""``lading verify --manifest M``: compare the bucket with a manifest, which is all that is needed.

Input: a manifest, a bucket. Output: counts and names on stdout, or JSON.
Invariant: neither source, plan nor journals are looked at, and nothing is written.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lading.cli.place_store import open_place, read_placed_manifest
from lading.coordination.signals import leave_hanging
from lading.core.command_line import Parser, configure_logging, parse_workers, printable, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import DISAGREE, SOME_FAILED
from lading.core.progress import Progress, counted, format_bytes, format_count, format_seconds
from lading.objectstore.keys import parse_key_prefix
from lading.verification.manifest import Manifest
from lading.verification.manifest_address import add_manifest_arguments, read_signed_manifest
from lading.verification.manifest_audit import AuditResult, CurrentObjects, ManifestAudit, describe
from lading.verification.places import describe_place
from lading.verification.sample import FileSample, SourceRequest, parse_source
from lading.verification.signature import read_key


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="verify",
        description="Compare the bucket with a manifest: what is missing, different, superseded or extra.",
        codes=[SOME_FAILED, DISAGREE],
    )
    parser.add_argument("--bucket", metavar="S3URL", help="refuse a manifest of another bucket or prefix")
    add_manifest_arguments(parser)
    parser.add_argument("--place", metavar="NAME", help="compare another place that the manifest lists")
    parser.add_argument(
        "--deep",
        type=read_amount,
        nargs="?",
        const=SourceRequest(),
        metavar="all|N|SIZE",
        help="read objects and compare their digests: all, N of them, or SIZE (like 10G) of bytes",
    )
    parser.add_argument("--key", type=Path, metavar="PUB", help="refuse a manifest that this public key did not sign")
    parser.add_argument(
        "--allow-extra", action="store_true", help="print extra objects, but do not fail because of them"
    )
    parser.add_argument("--max-workers", type=parse_workers, default=16, metavar="N", help="objects in flight")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def read_amount(text: str) -> SourceRequest:
    """Return what ``--deep`` asks for; raises for the command line's parser."""
    try:
        return parse_source(text)
    except (ValueError, UsageError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither all, a number of objects, nor a size like 10G"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Verify; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(make_parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    started = time.monotonic()
    if arguments.key and arguments.place:
        raise UsageError("--key is of the manifest itself, and --place has one of its own; leave one of them out")
    manifest = (
        read_signed_manifest(arguments.manifest, read_key(arguments.key), arguments)
        if arguments.key
        else read_placed_manifest(arguments, arguments.place)
    )
    check_bucket(manifest, arguments.bucket)
    store = open_place(manifest.header, arguments)
    sample = FileSample(arguments.deep)
    sample.draw((row.key, row.size) for row in manifest.rows())
    with Progress("verify") as progress, tempfile.TemporaryDirectory(prefix="lading-verify-") as scratch:
        audit = ManifestAudit(manifest, store, sample, arguments.max_workers, Path(scratch))
        try:
            result = audit.run(progress)
        finally:
            audit.close()
    seconds = time.monotonic() - started
    if arguments.json:
        head = {"format": 1, "kind": "manifest audit", "manifest": manifest.end.sha256, "seconds": round(seconds, 3)}
        print(json.dumps(head | dict(describe(result))))
    else:
        print_summary(manifest, result, sample, seconds)
    sys.stdout.flush()
    return exit_code(result, allow_extra=arguments.allow_extra)


def check_bucket(manifest: Manifest, bucket: str | None) -> None:
    """Refuse a manifest of another bucket or prefix than was named."""
    header = manifest.header
    if bucket is None:
        return
    place = parse_key_prefix(bucket)
    if (place.bucket, place.prefix) != (header.bucket, header.prefix):
        raise ConsistencyError(
            f"{manifest} describes {describe_place(header)}, not {place}; give that bucket, or leave --bucket out"
        )


def print_summary(manifest: Manifest, result: AuditResult, sample: FileSample, seconds: float) -> None:
    """Print what is right, and notes."""
    print(
        f"verify  {format_count(result.right)} of "
        f"{counted(manifest.end.objects, 'object is', 'objects are')} as the manifest "
        f"says, {format_bytes(result.bytes)}, in {format_seconds(seconds)}; read {format_count(result.read)} of them, "
        f"{format_bytes(result.bytes_read)}"
    )
    notes = describe_audit_notes(manifest, result)
    if sample.too_large:
        notes.append(f"{counted(sample.too_large, 'object is', 'objects are')} larger than the limit of bytes to read")
    for note in notes:
        print(f"note: {note}")


def describe_audit_notes(manifest: Manifest, result: AuditResult) -> list[str]:
    """Return what a reader of a result should know that is no difference."""
    notes = []
    if result.source is CurrentObjects.HEAD:
        notes.append(
            "you may not list the bucket, so each object was requested by HEAD; extra objects were not looked for"
        )
    if not manifest.end.complete:
        notes.append("the manifest is not of a complete release; files that are missing from it were not checked")
    if result.weak:
        why = "no recorded ETag" if result.source is not CurrentObjects.HEAD else "no ETag to compare"
        notes.append(f"{counted(result.weak, 'object has', 'objects have')} {why}, so only sizes were compared")
    if result.unproven:
        notes.append(
            f"{counted(result.unproven, 'object was', 'objects were')} read, but the manifest has no digest of them"
        )
    if result.same:
        notes.append(f"{counted(result.same, 'newer version has', 'newer versions have')} the recorded size and ETag")
    return notes


def exit_code(result: AuditResult, *, allow_extra: bool) -> int:
    """Return 0 when all is right; raises with counts and the first names of what is not."""
    kinds = [kind for kind in ("missing", "different", "superseded", "extra") if getattr(result, kind)]
    if allow_extra and "extra" in kinds:
        kinds.remove("extra")
        print(f"note: {describe_finding(result, 'extra')}", file=sys.stderr)
    unread = [describe_finding(result, "unreadable")] if result.unreadable else []
    if kinds:
        advice = advise(result, kinds, "verify against")
        raise ConsistencyError("\n".join([advice, *(describe_finding(result, kind) for kind in kinds), *unread]))
    if unread:
        raise PartialFailure("\n".join(["some objects could not be compared; run the same command again", *unread]))
    return 0


def advise(result: AuditResult, kinds: Sequence[str], verb: str) -> str:
    """Return what can be done about differences of these kinds."""
    advice = []
    if any(kind != "extra" for kind in kinds) or not kinds:
        advice.append("bring damaged objects back from another copy (lading repair)")
    if "extra" in kinds and result.returned:
        advice.append("delete again what was withdrawn (lading withdraw, of a second place with --place)")
    if "extra" in kinds and result.extra > result.returned:
        advice.append("accept objects that are there beside (--allow-extra)")
    said = ", ".join(advice)
    return f"the bucket does not hold what the manifest says; {said}, or {verb} the newer manifest"


def describe_finding(result: AuditResult, kind: str) -> str:
    """Return a kind's count and first names."""
    count: Any = getattr(result, kind)
    names = result.named.get(kind, [])
    more = " …" if count > len(names) else ""
    return f"{kind}: {format_count(count)}: {', '.join(map(printable, names))}{more}"


if __name__ == "__main__":
    sys.exit(run_main(main))
