"""Send the batches of a plan to a bucket and verify each object; run again until nothing is left.

Input: ROOT, ``batch.json`` and the tree beside it, credentials of the AWS
chain. Output: objects, ``journal/`` beside batch.json, ``runs/*.json``.
Invariant: what the bucket says is the only proof. Killed at any moment, the
same command goes on where the proofs end.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from lading.checksums.digest_choice import ALL_DIGESTS, parse_digests
from lading.cli.release_arguments import add_release_arguments, open_to_send
from lading.cli.roots import add_yes_root, check_root
from lading.coordination.lease import Lease
from lading.coordination.signals import AGAIN_SECONDS, Ending
from lading.core import exit_codes
from lading.core.command_line import Parser, configure_logging, parse_duration, parse_size, parse_workers, run_main
from lading.core.errors import LadingError, UsageError
from lading.core.extras import require, require_base
from lading.core.limits import LIMITS
from lading.core.version import find_commit, set_commit
from lading.objectstore.endpoint import server_of
from lading.objectstore.manner import add_writing_arguments, refuse_engine
from lading.objectstore.rate_schedule import parse_bandwidth
from lading.objectstore.target import Target
from lading.parallel.mpi import World, gather, join_world, leave_world
from lading.plan.object_settings import add_object_arguments
from lading.plan.objects import PlannedObjects
from lading.tree.json_reader import TreeReader
from lading.upload.dry_run import run_dry
from lading.upload.stop_signals import GRACE_SECONDS
from lading.upload.upload_launch import (
    LOOKED_AT,
    SharedRefusal,
    agree_on_mount,
    hold_plan,
    launch_name,
    open_together,
    run_rank,
    tidy_journals,
)
from lading.upload.upload_run import UploadOptions, UploadRun
from lading.verification.compare import LEVELS
from lading.verification.content_index import ContentIndex

ENDING_SECONDS = 30.0  # between the ends of the ranks of one launch, the writing of their records included


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="upload.py",
        description="Send the batches of a plan to a bucket and verify each object; repeat until nothing is left.",
        codes=exit_codes.OF_A_TRANSFER,
    )
    add_release_arguments(parser)
    add_writing_arguments(parser)
    add_object_arguments(parser)
    parser.add_argument(
        "--engine", choices=["s5cmd", "crt", "boto3", "obstore"], help="the client that sends files (s5cmd)"
    )
    parser.add_argument(
        "--digests",
        type=parse_digests,
        default=ALL_DIGESTS,
        metavar="NAMES",
        help=f"of each file: {ALL_DIGESTS}, or md5,crc64nvme, which is quicker where nothing needs SHA-256",
    )
    parser.add_argument(
        "--resume-size",
        type=parse_size,
        default=20 * 10**9,
        metavar="20G",
        help="files from this size on resume after a break",
    )
    parser.add_argument("--max-workers", type=parse_workers, default=32, metavar="N", help="files in flight")
    parser.add_argument("--max-batches", type=int, default=1000, metavar="N", help="most batches in this run")
    parser.add_argument("--max-time", type=parse_duration, metavar="8h", help="start nothing new after this time")
    parser.add_argument("--max-bytes", type=parse_size, metavar="10T", help="start nothing new after this many bytes")
    parser.add_argument(
        "--bandwidth",
        type=parse_bandwidth,
        metavar="200M",
        help="most bytes per second, or by time of day: 08:00,200M;19:00,off",
    )
    parser.add_argument("--level", choices=LEVELS, help="how objects are compared with the files")
    parser.add_argument(
        "--look",
        choices=["auto", "always", "never"],
        default="auto",
        help=f"look for changes of verified files that the tree does not show (auto: up to {LOOKED_AT:,} files)",
    )
    parser.add_argument(
        "--reuse",
        action="append",
        metavar="M",
        help="have the server copy what it holds of the same content, by this manifest; may be given again",
    )
    parser.add_argument("--no-overwrite", action="store_true", help="never replace an object that has other content")
    parser.add_argument("--join", action="store_true", help="work beside other runs on the same plan")
    parser.add_argument(
        "--break-lock", action="store_true", help="take over the lock of a machine that will not come back"
    )
    add_yes_root(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent; write nothing")
    return parser.parse_args(argv)


def read_options(arguments: argparse.Namespace) -> UploadOptions:
    """Return the flags that a run is told."""
    return UploadOptions(**{field.name: getattr(arguments, field.name) for field in fields(UploadOptions)})


def read_contents(arguments: argparse.Namespace, endpoint: str | None, scratch: Path) -> ContentIndex:
    """Return what content the server has, by the manifests that are named; ``UsageError`` for one of another server."""
    # Here: it brings the client of AWS, which is to load while the first files are read.
    from lading.verification.manifest_address import read_manifest_of

    manifests = [read_manifest_of(where, arguments) for where in arguments.reuse]
    for manifest in manifests:
        if server_of(manifest.header.endpoint) != server_of(endpoint) or "place" in manifest.header.settings:
            raise UsageError(f"{manifest} is of another server, which cannot copy to this one; leave --reuse out")
    known = ContentIndex(manifests, scratch)
    if known.is_empty and any(manifest.end.objects for manifest in manifests):
        print(
            f"note: no object of {', '.join(arguments.reuse)} has a SHA-256 there, so nothing of it is copied; make "
            "verify verify_flags=--full reads these objects and records it",
            file=sys.stderr,
        )
    return known


def main(argv: Sequence[str] | None = None) -> int:
    """Upload; returns the exit code of docs/reference/formats.md."""
    arguments = parse(argv)
    if arguments.engine == "obstore":
        require(["obstore"])
    if arguments.engine == "crt":
        require_base("awscrt", "--engine=crt")
    configure_logging()
    world = join_world()
    try:
        return send(arguments, world)
    except SharedRefusal as refusal:
        code = run_rank(world, partial(throw, refusal))
    leave_world(world, code, together=ENDING_SECONDS)  # a rank that ends by itself takes the first along, unheard
    return code


def throw(error: LadingError) -> NoReturn:
    """Raise an error, where a function is asked for."""
    raise error


def prepare(arguments: argparse.Namespace, read: TreeReader) -> tuple[PlannedObjects, Target]:
    """Return the objects of the plan, and where they go."""
    inventory, bare, arguments.objects = open_to_send(arguments, read)
    if refusal := refuse_engine(arguments.engine or "", bare.manner, arguments.objects.sets("tags")):
        raise UsageError(refusal)
    if arguments.reuse and not arguments.digests.sha256:
        raise UsageError("--reuse finds content by SHA-256; add sha256 to --digests, or leave --reuse out")
    check_root(arguments.root, arguments.yes_root or arguments.dry_run)
    return inventory, replace(bare, workers=arguments.max_workers, no_overwrite=arguments.no_overwrite)


def send(arguments: argparse.Namespace, world: World) -> int:
    """Upload as one of the processes of ``world``."""
    set_commit(gather(world, (find_commit() or "") if world.is_root else "")[0] or None)
    inventory, target = open_together(world, partial(prepare, arguments))
    agree_on_mount(world, inventory, arguments.same_release)
    if arguments.dry_run:
        if not world.is_root:
            return 0
        looks, objects = arguments.look, arguments.objects
        return run_dry(inventory, target, as_json=arguments.json, looks=looks, objects=objects)
    held = tempfile.TemporaryDirectory(prefix="lading-reuse-")
    arguments.reuse = read_contents(arguments, target.endpoint, Path(held.name)) if arguments.reuse else None
    options = read_options(arguments)
    inventory.journal.mkdir(exist_ok=True)
    lease = Lease(inventory.journal, launch_name(world), join=arguments.join, force=arguments.break_lock)
    peers = gather(world, lease.holder.writer) if world.comm is not None else []
    ending = Ending(GRACE_SECONDS + LIMITS.last + LIMITS.ending, AGAIN_SECONDS).begin()
    try:
        with hold_plan(lease, world, peers):
            if not peers:
                return UploadRun(options, world, inventory, target, lease, ending).run()
            inventory.doubt(tidy_journals(world, inventory, lease, target, peers, arguments.look))
            # What ails this rank is told at once, but it ends with the others: it would take them with it.
            code = run_rank(world, lambda: UploadRun(options, world, inventory, target, lease, ending, peers).run())
            lease.leave(peers)
        leave_world(world, code, together=ENDING_SECONDS)
        return code
    finally:
        if not peers:  # a rank that hangs at its very end is ended too
            ending.close()


if __name__ == "__main__":
    sys.exit(run_main(main))
