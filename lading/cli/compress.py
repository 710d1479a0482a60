"""``python3 -m jobs compress SOURCE DEST --kind KIND``: plan, share out, prove, report.

Input: flags. Output: the compressed tree in DEST, ``DEST/compress.json`` when
all of it was proven, state and records of every source file in ``DEST.state``.
Invariant: exit code 0 only when every unit's marker is there (or a budget
was reached, and the summary says what is left), whatever a launcher or a
cluster reported; the same command again continues.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lading.compress import launcher as launch
from lading.compress import state as states
from lading.compress.job import KINDS, CompressionJob, Kind, load_kind, walk_files
from lading.compress.launcher import LaunchSettings
from lading.compress.library_watch import LIMIT, watch_libraries
from lading.core.command_line import Parser, configure_logging, parse_duration, printable
from lading.core.errors import UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.progress import counted, format_bytes
from lading.parallel.local import usable_cores


def build_parser(kind: Kind | None) -> Parser:
    """Return the parser, with the flags of a kind once that is known."""
    parser = Parser(
        prog="python3 -m jobs compress",
        description="Compress one data folder and verify what was written; the same command again continues.",
        formatter_class=argparse.RawTextHelpFormatter,
        codes=OF_A_TRANSFER,
    )
    parser.add_argument("source", type=Path, help="what to compress: a directory or a file")
    parser.add_argument(
        "destination", metavar="dest", help="a directory for this job alone, or s3:// where the kind supports it"
    )
    parser.add_argument("--kind", required=True, choices=KINDS, help="what the data are")
    parser.add_argument(
        "--engine",
        choices=("auto", "local", "mpi", "dask"),
        default="auto",
        help="what runs the workers; auto: mpi under a launcher, else local",
    )
    parser.add_argument(
        "--workers", type=int, help="local workers (default: usable cores); under MPI the number of ranks counts"
    )
    parser.add_argument("--state", help="state directory (default: DEST.state, outside what is uploaded)")
    parser.add_argument("--max-time", help="start no unit after this time (8h, 30m); exit 0 and say what is left")
    parser.add_argument(
        "--stall-limit", default="30m", help="a unit that takes longer counts as stuck, and its worker is replaced"
    )
    parser.add_argument("--interface", help="network interface for dask, for example hsn0")
    parser.add_argument("--recheck", action="store_true", help="hash what earlier runs wrote, and redo what changed")
    parser.add_argument("--dry-run", action="store_true", help="check the source and say what would be done")
    parser.add_argument("--json", action="store_true", help="print compress.json on stdout when done")
    parser.add_argument("--log-level", default="WARNING", help="DEBUG, INFO, WARNING or ERROR (WARNING)")
    if kind is not None:
        kind.add_options(parser)
    return parser


def read_settings(argv: Sequence[str]) -> LaunchSettings:
    """Return the settings of a command line; raises ``UsageError``."""
    first = Parser(prog="python3 -m jobs compress", add_help=False)
    first.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    known, _ = first.parse_known_args(argv)
    common = {action.dest for action in build_parser(None)._actions}
    given = vars(build_parser(load_kind(known.kind) if known.kind else None).parse_args(argv))
    configure_logging(given["log_level"])
    source = given["source"].absolute()
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    destination = given["destination"]
    if "://" not in destination:
        destination = os.path.abspath(destination)
        below, above = os.path.realpath(destination), os.path.realpath(source)
        if os.path.commonpath([below, above]) == above:
            raise UsageError(f"{destination} is inside the source {source}; give a destination outside")
    workers = given["workers"] if given["workers"] is not None else usable_cores()
    if not 1 <= workers <= 4096:
        raise UsageError(f"--workers {workers} is not a number of workers; give a whole number from 1 to 4096")
    return LaunchSettings(
        source=source,
        destination=destination,
        kind=given["kind"],
        engine=given["engine"],
        workers=workers,
        state=states.state_directory(destination, given["state"]),
        max_time=parse_duration(given["max_time"]) if given["max_time"] else None,
        stall=parse_duration(given["stall_limit"]),
        interface=given["interface"],
        options={name: value for name, value in given.items() if name not in common},
        json=given["json"],
        recheck=given["recheck"],
        dry_run=given["dry_run"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compress one source; returns the exit code."""
    settings = read_settings(list(argv or ()))
    return describe(settings) if settings.dry_run else launch.run(settings)


def describe(settings: LaunchSettings) -> int:
    """Say what would be done, writing nothing."""
    kind = load_kind(settings.kind)
    job = CompressionJob(settings.source, settings.destination, settings.kind, settings.options)
    with watch_libraries(settings.source, min(settings.stall, LIMIT)):
        lines = kind.estimate(job)
    sizes = [status.st_size for _, status in walk_files(settings.source)]
    print(
        f"would compress {settings.source} ({counted(len(sizes), 'file')}, {format_bytes(sum(sizes))}) "
        f"as {settings.kind} to {settings.destination}"
    )
    for line in lines:
        print(printable(line))
    return 0
