"""What the commands over a list have in common: the list, the flags over it, where presets are.

Input: ``argv``. Output: a parser, and the ``Checked`` list that its values make.
Invariant: every command reads a list in one way, so ``check`` refuses what
``run`` would and ``explain`` shows what ``run`` uses.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lading.core.command_line import Parser
from lading.core.errors import LadingError, UsageError
from lading.core.exit_codes import LOCKED, SOME_FAILED
from lading.sessions import presets, table
from lading.sessions.job_model import Checked, Resolved, check
from lading.sessions.jobfile import overlaid, read_job
from lading.sessions.precedence import Context, Flags
from lading.sessions.presets import Presets
from lading.sessions.table import ListError

SSM = "ssm:"
JOB_ENDING = ".json"


def list_parser(command: str, description: str) -> Parser:
    """Return a parser with the list, its flags and its presets."""
    parser = Parser(prog=f"python3 -m jobs {command}", description=description, codes=[SOME_FAILED, LOCKED])
    parser.add_argument("list", nargs="?", type=Path, metavar="LIST", help="job list, .csv or .xlsx")
    parser.add_argument("-j", "--jobs-csv-file", type=Path, metavar="LIST", help="the same, as a flag")
    group = parser.add_argument_group("for the whole list; a flag can only switch on")
    group.add_argument("--dry-run", action="store_true", help="stop before the upload and before every remote step")
    group.add_argument("--compress-raw-data", action="store_true", help="compress every modality")
    group.add_argument("--force-cloud-sync", action="store_true", help="upload even if the prefix exists")
    group.add_argument("--skip-staging", action="store_true", help="upload what is not compressed from its source")
    group.add_argument("--bucket", default="", help="bucket of the rows that name none")
    parser.add_argument(
        "--presets", default="", metavar="WHERE", help="directory of presets, or ssm:/NAME of the parameter store"
    )
    return parser


def list_path(options: argparse.Namespace) -> Path:
    """Return the list, however it was given."""
    # An empty argument (make jobs without jobs_csv) is Path(".").
    given = {path for path in (options.list, options.jobs_csv_file) if path not in (None, Path("."))}
    if len(given) != 1:
        raise UsageError("give one job list: python3 -m jobs COMMAND LIST.csv, or make jobs jobs_csv=LIST.csv")
    path: Path = given.pop()
    return path


def load_presets(where: str) -> Presets:
    """Return the presets of a directory, of the parameter store, or none."""
    if not where:
        return Presets()
    if where.startswith(SSM):
        from lading.sessions.services.parameter_store import ParameterStore

        return presets.load(ParameterStore(where.removeprefix(SSM)), f"the parameter store {where}")
    if not Path(where).is_dir():
        raise UsageError(f"{where} is not a directory of presets; see docs/reference/job-lists.md for their layout")
    return presets.load(presets.PresetDirectory(Path(where)), where)


def flags(options: argparse.Namespace) -> Flags:
    """Return the flags over the whole list."""
    return Flags(
        dry_run=options.dry_run,
        compress_raw_data=options.compress_raw_data,
        force_cloud_sync=options.force_cloud_sync,
        skip_staging=options.skip_staging,
        s3_bucket=options.bucket.removeprefix("s3://").rstrip("/"),
    )


def checked_list(options: argparse.Namespace, *, parameters: bool) -> Checked:
    """Return the list of a command line, its parameters read if ``parameters``."""
    path = list_path(options)
    if path.suffix == JOB_ENDING:
        return _checked_job(options, path, parameters)
    rows = table.read(path)
    names = [row.cells["aws_param_store_name"].value for row in rows.rows if "aws_param_store_name" in row.cells]
    context = _context(options, load_presets(options.presets), map(str, names) if parameters else ())
    return check(rows, context, path.parent)


def _checked_job(options: argparse.Namespace, path: Path, parameters: bool) -> Checked:
    """Return the one job of a file that the portal wrote: validated then, so as it is."""
    presets = load_presets(options.presets)
    job = read_job(path, presets)
    name = job.aws_param_store_name
    context = _context(options, presets, [name] if name and parameters else ())
    faults = [ListError(job.line, 1, "aws_param_store_name", text) for text in context.unreadable.values()]
    row = Resolved(job.line, None if faults else overlaid(job, context), (), tuple(faults))
    return Checked((row,), tuple(faults))


def _context(options: argparse.Namespace, presets: Presets, names: Iterable[str]) -> Context:
    """Return what a list's values are gathered from; each parameter of ``names`` is read once.

    One that cannot be read is a fault of the rows that name it, not of the list.
    """
    stored: dict[str, Mapping[str, Any]] = {}
    unreadable: dict[str, str] = {}
    for name in sorted(set(names)):
        from lading.sessions.services.parameter_store import read_endpoints

        try:
            stored[name] = read_endpoints(name)
        except LadingError as error:
            unreadable[name] = str(error)
    return Context(flags(options), presets, stored, unreadable)
