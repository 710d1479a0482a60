"""``lading repair``: bring damaged and missing objects of one place back from another.

Input: a manifest that lists its places. Output: objects that are right again, what could not be repaired, and the
place's manifest where versions changed.
Invariant: this module knows flags and wiring; ``repair_run`` does the work. No copy to the same place runs meanwhile.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from lading.cli.copy import open_writing
from lading.cli.place_store import is_s3, open_place
from lading.cli.verify_manifest import read_amount
from lading.coordination.signals import leave_hanging
from lading.copy.copy_log import CopyLog, open_copy_log
from lading.copy.repair_run import DamageList, RepairCounters, RepairRun
from lading.core.command_line import Parser, configure_logging, parse_workers, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.progress import Progress, counted, format_bytes, format_count, format_seconds
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.manner import add_writing_arguments
from lading.verification.fixity_log import log_path, read_fixity_log
from lading.verification.manifest import Manifest, read_manifest
from lading.verification.manifest_address import add_manifest_arguments, is_address
from lading.verification.manifest_audit import ManifestAudit
from lading.verification.places import ORIGIN, describe_place, find_place, read_places, stem_of, write_places
from lading.verification.sample import FileSample


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="repair",
        description="Bring damaged and missing objects of one place back from another that the manifest lists.",
        codes=OF_A_TRANSFER,
    )
    parser.add_argument("--place", default=ORIGIN, metavar="NAME", help="the place to repair (default: origin)")
    parser.add_argument("--from", dest="source", metavar="NAME", help="the place to take objects from")
    add_manifest_arguments(parser)
    parser.add_argument(
        "--deep", type=read_amount, nargs="?", const=read_amount("all"), metavar="all|N|SIZE",
        help="read objects of the place to find what a listing cannot show",
    )  # fmt: skip
    parser.add_argument("--to-profile", metavar="NAME", help="AWS profile whose credentials write to the place")
    add_writing_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace newer versions of other content, too")
    parser.add_argument("--max-workers", type=parse_workers, default=16, metavar="N", help="objects in flight")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Repair; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(make_parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    started = time.monotonic()
    if is_address(arguments.manifest):
        raise UsageError("repair may write the manifest again; give the path of one on this machine")
    first = Path(arguments.manifest)
    own = read_manifest(first)
    name = choose_source(first, arguments.place, arguments.source)
    damaged, good = (read_manifest(find_place(first, one)) for one in (arguments.place, name))
    gone = frozenset(
        item.key.removeprefix(manifest.header.prefix)
        for manifest in (own, damaged, good)
        for item in manifest.withdrawn()
    )
    with (
        tempfile.TemporaryDirectory(prefix="lading-repair-") as scratch,
        Progress("repair") as progress,
        hold_place(first, arguments.place, Path(scratch)) as log,
    ):
        log.check({"from": describe_place(good.header), "to": describe_place(damaged.header)})
        damage = find_damage(damaged, arguments, Path(scratch), progress)
        source = open_place(good.header, arguments if name == ORIGIN else plain(arguments))
        endpoint = arguments.endpoint_url if arguments.place == ORIGIN else damaged.header.endpoint
        if is_s3(describe_place(damaged.header)):
            endpoint = resolve_endpoint(endpoint or damaged.header.endpoint)
        destination = open_writing(arguments, replace(damaged.header, endpoint=endpoint), source, log)
        run = RepairRun(
            damaged, good, source, destination, arguments.max_workers, Path(scratch), withdrawn=gone,
            overwrite=arguments.overwrite,
        )  # fmt: skip
        try:
            run.run(damage, progress)
        finally:
            run.close()
            if run.changes_manifest:
                rewrite(run, first, damaged, arguments.place)
        log.restart({"from": describe_place(good.header), "to": describe_place(damaged.header)})
    report(arguments, name, run.counters, time.monotonic() - started)
    return conclude(run.counters)


def plain(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the flags without an endpoint, which is that of the manifest's own bucket."""
    return argparse.Namespace(**{**vars(arguments), "endpoint_url": None})


def choose_source(manifest: Path, place: str, named: str | None) -> str:
    """Return the place to take objects from: the one that is named, else the only other one."""
    others = [one for one in (ORIGIN, *(found.name for found in read_places(manifest))) if one != place]
    if named is not None and named == place:
        raise UsageError(f"{place} cannot be repaired from itself; name another place: --from NAME")
    if named is None and len(others) != 1:
        known = ", ".join(others) or "no other one; make a copy first: make copy to=PLACE"
        raise UsageError(f"say which place to take objects from, --from NAME; {manifest} lists {known}")
    return named or others[0]


@contextmanager
def hold_place(manifest: Path, place: str, scratch: Path) -> Iterator[CopyLog]:
    """Hold the locks of a place for the block: no copy and no other repair writes there."""
    stem = stem_of(manifest)
    with ExitStack() as held:
        if place != ORIGIN:
            held.enter_context(open_copy_log(manifest.with_name(f"{stem}.{place}.copy.jsonl"), scratch))
        yield held.enter_context(open_copy_log(manifest.with_name(f"{stem}.{place}.repair.jsonl"), scratch))


def find_damage(manifest: Manifest, arguments: argparse.Namespace, scratch: Path, progress: Progress) -> DamageList:
    """Return what is not right: by the listing, by reading where that was asked for, and by the scrub log."""
    damage = DamageList(scratch)
    flags = arguments if arguments.place == ORIGIN else plain(arguments)
    store = open_place(manifest.header, flags, profile=arguments.to_profile)
    sample = FileSample(arguments.deep)
    sample.draw((row.key, row.size) for row in manifest.rows())
    audit = ManifestAudit(manifest, store, sample, arguments.max_workers, scratch, damage.take, damage.forget)
    try:
        audit.run(progress)
    finally:
        audit.close()
    for found in read_fixity_log(log_path(manifest.path)).open.values():
        damage.add(found.key, found.kind, found.reason)
    return damage


def rewrite(run: RepairRun, first: Path, damaged: Manifest, place: str) -> None:
    """Write the place's manifest again, since repaired objects are other versions."""
    end = run.rewrite(damaged.path, lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    places = read_places(first)
    if place != ORIGIN:
        new = [replace(one, sha256=end.sha256) if one.name == place else one for one in places]
        write_places(first, read_manifest(first).header, new)
    if damaged.path.with_name(damaged.path.name + ".signed").exists():
        print(f"note: {damaged.path} has new versions of objects; sign it again: make sign key=KEY", file=sys.stderr)


def report(arguments: argparse.Namespace, source: str, count: RepairCounters, seconds: float) -> None:
    """Print what was done."""
    if arguments.json:
        names = ("repaired", "bytes", "right", "withdrawn", "lost", "newer", "failed", "named")
        said = {"place": arguments.place, "from": source, "damaged": count.damaged, "seconds": round(seconds, 3)}
        print(json.dumps({"format": 1, "kind": "repair", **said, **{name: getattr(count, name) for name in names}}))
    else:
        more = f"; {format_count(count.right)} were right when they were read again" if count.right else ""
        more += f"; {format_count(count.withdrawn)} were withdrawn" if count.withdrawn else ""
        print(
            f"repair  {format_count(count.repaired)} of {counted(count.damaged, 'object')} came back from {source}, "
            f"{format_bytes(count.bytes)}, in {format_seconds(seconds)}{more}"
        )
    sys.stdout.flush()


def conclude(count: RepairCounters) -> int:
    """Return 0 when all is right; raises with counts and the first names of what is not."""
    wrong = []
    if count.lost:
        wrong.append(count.describe_kind("lost", "not repaired, since the other place has no right object either"))
    if count.newer:
        wrong.append(
            count.describe_kind("newer", "not repaired, since a newer version is there (--overwrite replaces it)")
        )
    failed = [count.describe_kind("failed", "not repaired")] if count.failed else []
    if wrong:
        raise ConsistencyError("\n".join([*wrong, *failed]))
    if failed:
        raise PartialFailure("\n".join(["not all was repaired; run the same command again", *failed]))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
