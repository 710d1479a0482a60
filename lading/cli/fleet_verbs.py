"""``lading fleet status|run|report|add``: many releases at once.

Input: ``releases.yaml`` or a directory of releases. Output: a table, JSON or pages; what is due, done; alarms.
Invariant: ``status`` writes nothing but alarms and metrics, when told to. The exit code is that of the worst release.
"""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from lading.core.atomic import atomic_write
from lading.core.command_line import Parser, run_main
from lading.core.errors import UsageError
from lading.core.exit_codes import DISAGREE, LATE, LOCKED, SOME_FAILED
from lading.fleet.alarms import FleetAlarms
from lading.fleet.fleet_run import FleetRun, FleetRunOptions, look_at, run_element
from lading.report.fleet import FleetStatus
from lading.report.fleet_page import write_fleet_page
from lading.report.fleet_table import encode_fleet, list_rows, summarise_fleet
from lading.report.metrics import write_metrics
from lading.report.release_list import RELEASE_FILE, FleetSettings, read_releases

LIST = Path("releases.yaml")


def make_parser() -> Parser:
    """Return the command line."""
    parser = Parser(
        prog="lading fleet",
        description="Look after many releases: what each is at, what is due, who is told.",
        codes=[SOME_FAILED, DISAGREE, LATE, LOCKED],
    )
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="a row for each release, the worst first")
    status.add_argument("--json", action="store_true", help="one JSON object instead")
    status.add_argument("--all", action="store_true", help="list every release, not only those that need a look")
    status.add_argument("--notify", action="store_true", help="send the alarms that are due")
    run = commands.add_parser("run", help="do what is due, side by side, and send alarms; for cron")
    run.add_argument("--release", action="append", default=[], metavar="NAME", help="this one alone (repeatable)")
    run.add_argument("--now", action="store_true", help="run all stages, due or not")
    run.add_argument("--quiet", action="store_true", help="print nothing of what goes well")
    run.add_argument("--executor", choices=["local", "slurm"], help="where stages run, if not as the list says")
    element = commands.add_parser("element", help="one release, in an array of Slurm that run submitted")
    report = commands.add_parser("report", help="a page over all releases")
    report.add_argument("-o", "--output", type=Path, default=Path("fleet-report"), help="its directory (fleet-report)")
    add = commands.add_parser("add", help="put a folder into the list")
    add.add_argument(
        "folder", type=Path, metavar="FOLDER", help="the folder of the release; it is made if it is missing"
    )
    add.add_argument("--name", help="its name, if not that of the folder")
    add.add_argument("--root", required=True, metavar="DIR", help="the directory that maps to the top of the bucket")
    add.add_argument("--bucket", required=True, metavar="S3URL", help="s3://bucket or s3://bucket/prefix")
    add.add_argument("--every", default="1d", metavar="1d", help="how often it runs (1d)")
    for command in (status, run, report):
        command.add_argument(
            "--metrics",
            type=Path,
            metavar="FILE.prom",
            help="write metrics for node exporter's textfile collector, too",
        )
    for command in (status, run, element, report, add):
        command.add_argument(
            "--releases", type=Path, default=LIST, metavar="LIST", help=f"the list, or a directory of releases ({LIST})"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code of the worst release."""
    arguments = make_parser().parse_args(argv)
    if arguments.command == "add":
        return add_release(arguments)
    settings = read_releases(arguments.releases)
    if arguments.command == "element":
        return run_element(settings)
    if arguments.command == "run":
        options = FleetRunOptions(force=arguments.now, quiet=arguments.quiet, executor=arguments.executor)
        code = FleetRun(settings, options, arguments.release).run()
        status = look_at(settings)
        note_metrics(arguments.metrics, status)
        for line in [
            *list_rows(status, [row for row in status.worst_first() if row.problems]),
            summarise_fleet(status),
        ]:
            print(line)
        return code
    if arguments.command == "report":
        return write_report(arguments, settings)
    return show_status(arguments, settings)


def note_metrics(path: Path | None, status: FleetStatus) -> None:
    """Write the metrics of a fleet where they are wanted."""
    if path is not None:
        write_metrics(status, path)


def write_report(arguments: Namespace, settings: FleetSettings) -> int:
    """Write the pages, and the metrics; returns 0 whatever the releases are at."""
    status = look_at(settings)
    note_metrics(arguments.metrics, status)
    page = write_fleet_page(status, arguments.output, settings.logs)
    print(f"report  {page}; {summarise_fleet(status)}")
    return 0


def show_status(arguments: Namespace, settings: FleetSettings) -> int:
    """Print the status; with ``--notify`` the alarms that are due go out."""
    status = look_at(settings)
    note_metrics(arguments.metrics, status)
    if arguments.json:
        print(json.dumps(encode_fleet(status)))
    else:
        rows = [row for row in status.worst_first() if arguments.all or row.problems or row.lock]
        for line in [*(list_rows(status, rows) if rows else []), summarise_fleet(status)]:
            print(line)
    sys.stdout.flush()
    if arguments.notify:
        settings.home.mkdir(parents=True, exist_ok=True)
        alarms = FleetAlarms(settings, lambda sentence: print(f"note: {sentence}", file=sys.stderr))
        alarms.tell(status.rows, status.at, whole=status)
    return status.exit_code


def add_release(arguments: Namespace) -> int:
    """Put a release into the list, or its ``release.yaml`` into its folder; what is there stays as it is."""
    path: Path = arguments.releases
    folder = arguments.folder.absolute()
    name = arguments.name or folder.name
    members = {"root": arguments.root, "bucket": arguments.bucket, "every": arguments.every}
    if path.is_dir():
        if folder.parent != path.absolute():
            raise UsageError(f"{folder} is not in {path}; releases of a directory are its folders")
        target, before = folder / RELEASE_FILE, ""
        if target.exists():
            raise UsageError(f"{target} is there already; change it by hand")
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in members.items())
        folder.mkdir(parents=True, exist_ok=True)
    else:
        target, before = path, path.read_text(encoding="utf-8") if path.exists() else "releases:\n"
        shown = {"name": name, "folder": os.path.relpath(folder, path.absolute().parent), **members}
        lines = [f"{key}: {json.dumps(value)}" for key, value in shown.items()]
        text = "  - " + "\n    ".join(lines) + "\n"
    _replace(target, before if not before or before.endswith("\n") else before + "\n", text, name, path)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"added  {name} to {target}; next: lading fleet run --releases {path} --release {name}")
    return 0


def _replace(target: Path, before: str, text: str, name: str, releases: Path) -> None:
    """Put text at the end of a file, and the old file back where the list cannot be read then."""
    old = target.read_bytes() if target.exists() else None
    known = [entry.name for entry in read_releases(releases).releases] if old is not None or releases.is_dir() else []
    _write(target, before + text)
    try:
        found = [entry.name for entry in read_releases(releases).releases]
        if sorted(found) != sorted([*known, name]):
            raise UsageError(f"{target} does not end in the list of releases; put this there by hand:\n{text}")
    except BaseException:
        if old is None:
            target.unlink()
        else:
            _write(target, old.decode("utf-8"))
        raise


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text)


if __name__ == "__main__":
    sys.exit(run_main(main))
