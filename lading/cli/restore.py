"""``lading restore``: bring a part of the release back from the bucket.

Input: a manifest, a path inside the release, a directory. Output: files, and a summary.
Invariant: this module knows flags and wiring; ``restorer`` does the work.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from lading.cli.place_store import open_place, read_placed_manifest
from lading.coordination.signals import leave_hanging
from lading.core.command_line import Parser, configure_logging, parse_workers, run_main
from lading.core.exit_codes import DISAGREE, SOME_FAILED
from lading.plan.class_prices import read_table
from lading.restore.restorer import RestoreOptions, run_restore
from lading.restore.thaw import parse_thaw
from lading.verification.manifest_address import add_manifest_arguments, warn_incomplete


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="restore",
        description="Bring files back from the bucket; each is verified by the digest in the manifest.",
        codes=[SOME_FAILED, DISAGREE],
    )
    parser.add_argument(
        "--prefix", default="", help="a file or directory of the release, or a key prefix (default: all)"
    )
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="DIR",
        help="where to restore to; the directory is made if it is absent",
    )
    add_manifest_arguments(parser)
    parser.add_argument(
        "--from", dest="place", metavar="PLACE", help="a place that the manifest lists (default: its own bucket)"
    )
    parser.add_argument("--max-workers", type=parse_workers, default=16, metavar="N", help="files in flight")
    parser.add_argument("--overwrite", action="store_true", help="replace files of other content")
    parser.add_argument("--metadata", action="store_true", help="put back modes, owners, times and extended attributes")
    parser.add_argument(
        "--map-users",
        type=Path,
        metavar="TABLE",
        help="with --metadata: lines 'user OLD NEW' and 'group OLD NEW', names or numbers",
    )
    parser.add_argument(
        "--sparse",
        action=argparse.BooleanOptionalAction,
        help="runs of zeros become holes (default: where the source had holes)",
    )
    parser.add_argument("--outside-links", action="store_true", help="make links that lead out of DIR, too")
    parser.add_argument(
        "--thaw",
        nargs="*",
        metavar="NAME=VALUE",
        help="ask for what is archived: tier=Bulk, Standard or Expedited, days=7; run again when it is there",
    )
    parser.add_argument("--class-prices", default="", metavar="JSON", help="{class: {name: price}} of storage classes")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Restore; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(parse(argv))


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    arguments.thaw = None if arguments.thaw is None else parse_thaw(arguments.thaw)
    arguments.class_prices = read_table(arguments.class_prices)
    manifest = read_placed_manifest(arguments, arguments.place)
    warn_incomplete(manifest, "not restored")
    options = RestoreOptions(**{field.name: getattr(arguments, field.name) for field in fields(RestoreOptions)})
    return run_restore(options, manifest, open_place(manifest.header, arguments)).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
