"""``make scrub``: list a bucket, read a part of it, and remember what was read when.

Input: a manifest, its scrub log, a bucket that may be read. Output: the log beside the manifest, what is wrong.
Invariant: nothing is written to the bucket. The first rank lists and writes the log; all ranks read.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lading.cli.place_store import is_s3, open_place
from lading.cli.verify_manifest import advise, check_bucket, describe_audit_notes, describe_finding
from lading.coordination.signals import leave_hanging
from lading.core.command_line import (
    Parser,
    configure_logging,
    parse_duration,
    parse_size,
    parse_workers,
    printable,
    run_main,
)
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.progress import Progress, counted, format_bytes, format_count, format_seconds
from lading.journal.stage_result import note_counts
from lading.objectstore.client import open_for_reading
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.manner import read_manner
from lading.objectstore.target import Target
from lading.parallel.messages import RankMessages
from lading.parallel.mpi import join_world, leave_world
from lading.report.fleet import count_scrub
from lading.verification.fixity_log import DAMAGED, UNREADABLE, FixityLog, log_path, open_fixity_log
from lading.verification.manifest import Manifest
from lading.verification.manifest_address import add_manifest_arguments, local_name, read_manifest_of
from lading.verification.manifest_audit import describe as describe_audit
from lading.verification.places import describe_place
from lading.verification.scrub_run import ScrubResult, ScrubRun, ScrubSettings
from lading.verification.span_reader import GONE, SpanReader
from lading.verification.span_sharing import SpanServant, begin_peers, end_peers

SHOWN = 20
ENDING_SECONDS = 60.0  # between the ends of the ranks of one launch
DAY = 86400.0


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="scrub",
        description="List a bucket, read a part of it, and remember what was read when.",
        codes=OF_A_TRANSFER,
    )
    parser.add_argument("--bucket", metavar="S3URL", help="refuse a manifest of another bucket or prefix")
    add_manifest_arguments(parser)
    parser.add_argument(
        "--period", type=parse_duration, default=180 * DAY, metavar="180d", help="read every byte once in this time"
    )
    parser.add_argument("--bytes", type=parse_size, default=2 * 10**12, metavar="2T", help="read so much in this run")
    parser.add_argument(
        "--all", action="store_true", help="read all that --bytes allows now, the least recently verified first"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="the scrub log (NAME.scrub.jsonl beside the manifest)")
    parser.add_argument(
        "--allow-extra", action="store_true", help="print extra objects, but do not fail because of them"
    )
    parser.add_argument("--max-workers", type=parse_workers, default=16, metavar="N", help="objects in flight")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    arguments = make_parser().parse_args(argv)
    if arguments.period <= 0 or arguments.bytes <= 0:
        raise UsageError("--period and --bytes must be above 0; write them like --period 180d --bytes 2T")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Scrub; returns the exit code of docs/reference/formats.md."""
    arguments = parse(argv)
    configure_logging()
    world = join_world()
    if world.comm is None:
        with leave_hanging():
            return scrub(arguments, None)
    post = RankMessages(world)
    if world.is_root:
        code = run_main(lambda _: scrub(arguments, post))
        end_peers(post)
    else:
        servant = SpanServant(post)
        code = run_main(lambda _: serve(arguments, servant))
        servant.leave()
    leave_world(world, code, together=ENDING_SECONDS)
    return code


def serve(arguments: argparse.Namespace, servant: SpanServant) -> int:
    """Read what the first rank hands out."""
    place = servant.await_place()
    if place is None:
        return 0
    bucket, endpoint = place
    store = open_for_reading(Target(bucket, endpoint, arguments.max_workers, manner=read_manner(arguments)))
    reader = SpanReader(store, arguments.max_workers)
    try:
        servant.serve(reader)
    finally:
        reader.close()
    return 0


def scrub(arguments: argparse.Namespace, post: RankMessages | None) -> int:
    """List, read, and write the log."""
    started = time.monotonic()
    manifest = read_manifest_of(arguments.manifest, arguments)
    check_bucket(manifest, arguments.bucket)
    header = manifest.header
    endpoint = resolve_endpoint(arguments.endpoint_url or header.endpoint)
    if post is not None and not is_s3(describe_place(header)):
        raise UsageError(f"{describe_place(header)} is read by one rank; leave ranks= out")
    settings = ScrubSettings(arguments.period, arguments.bytes, arguments.max_workers, arguments.all)
    with (
        open_fixity_log(arguments.log or log_path(local_name(arguments.manifest)), header) as log,
        Progress("scrub") as progress,
        tempfile.TemporaryDirectory(prefix="lading-scrub-") as scratch,
    ):
        store = open_place(header, arguments)
        log.begin(header)
        if post is not None:
            begin_peers(post, (header.bucket, endpoint))
        result = ScrubRun(manifest, log, settings, Path(scratch)).run(store, post, progress)
        note_counts(**count_scrub(log.state.end))
    seconds = time.monotonic() - started
    if arguments.json:
        print(json.dumps(describe(manifest, log, result, seconds)))
    else:
        print_summary(manifest, log, result, settings, seconds)
    sys.stdout.flush()
    return conclude(result, allow_extra=arguments.allow_extra)


def describe(manifest: Manifest, log: FixityLog, result: ScrubResult, seconds: float) -> dict[str, Any]:
    """Return a result for machines."""
    return {
        "format": 1,
        "kind": "scrub",
        "manifest": manifest.end.sha256,
        "seconds": round(seconds, 3),
        "log": {"path": str(log.path), "lines": log.state.lines, "head": log.state.head},
        "listed": describe_audit(result.listed),
        "read": {"objects": result.objects, "bytes": result.bytes, "spared": result.spared},
        "without_digest": result.unproven,
        "late_bytes": result.plan.late,
        "ages": dict(result.ages),
        "wrong": [
            {"key": found.key, "kind": found.kind, "reason": found.reason, "since": found.since}
            for found in result.standing
        ],
    }


def print_summary(
    manifest: Manifest, log: FixityLog, result: ScrubResult, settings: ScrubSettings, seconds: float
) -> None:
    """Print what was listed and read, and notes."""
    end, listed = manifest.end, result.listed
    print(
        f"scrub  {format_count(listed.right)} of {counted(end.objects, 'object is', 'objects are')} listed "
        f"as the manifest says; "
        f"read {format_count(result.objects)} of them, {format_bytes(result.bytes)} of {format_bytes(end.bytes)}, "
        f"in {format_seconds(seconds)}"
    )
    days = sorted(int(day) for day in result.ages if day.isdigit())
    age = (
        f"the oldest verification is {max(0, int(time.time() // DAY) - days[0])} d old"
        if days
        else "nothing is verified yet"
    )
    never = result.ages.get("never", 0)
    print(f"log    {printable(str(log.path))}: {age}; never read: {format_bytes(never)}; head {log.state.head[:16]}")
    notes = describe_audit_notes(manifest, listed)
    if result.unproven:
        notes.append(
            f"{counted(result.unproven, 'object was', 'objects were')} read, but the manifest has no digest of them"
        )
    if result.spared:
        notes.append(
            f"{counted(result.spared, 'object was', 'objects were')} not read, since the server's own checksum differs"
        )
    if result.plan.needed > settings.most:
        notes.append(
            f"a run may read {format_bytes(settings.most)}, and {format_bytes(result.plan.needed)} would be needed "
            "to read everything in time; raise scrub_bytes or scrub_period, or run it more often"
        )
    if result.plan.late:
        notes.append(f"{format_bytes(result.plan.late)} were not read within the period and wait for the next run")
    for note in notes:
        print(f"note: {note}")


def conclude(result: ScrubResult, *, allow_extra: bool) -> int:
    """Return 0 when all is right; raises with counts and the first names of what is not."""
    listed = result.listed
    kinds = [kind for kind in ("missing", "different", "superseded", "extra") if getattr(listed, kind)]
    if allow_extra and "extra" in kinds:
        kinds.remove("extra")
        print(f"note: {describe_finding(listed, 'extra')}", file=sys.stderr)
    wrong = [_standing(result, kind) for kind in (DAMAGED, GONE) if _count(result, kind)]
    unread = [describe_finding(listed, "unreadable")] if listed.unreadable else []
    unread += [_standing(result, UNREADABLE)] if _count(result, UNREADABLE) else []
    unread += [f"not all ranks came to their end: {sentence}" for sentence in result.lost]
    if kinds or wrong:
        advice = advise(listed, [*kinds, *(kind for kind in (DAMAGED, GONE) if _count(result, kind))], "scrub by")
        raise ConsistencyError(
            "\n".join([advice, *(describe_finding(listed, kind) for kind in kinds), *wrong, *unread])
        )
    if unread:
        raise PartialFailure("\n".join(["not all could be read; run the same command again", *unread]))
    return 0


def _count(result: ScrubResult, kind: str) -> int:
    return sum(found.kind == kind for found in result.standing)


def _standing(result: ScrubResult, kind: str) -> str:
    found = [item for item in result.standing if item.kind == kind]
    names = ", ".join(f"{printable(item.key)} ({printable(item.reason)})" for item in found[:SHOWN])
    return f"{kind}: {format_count(len(found))}: {names}{' …' if len(found) > SHOWN else ''}"


if __name__ == "__main__":
    sys.exit(run_main(main))
