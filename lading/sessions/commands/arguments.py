"""What the commands over a list have in common: the list, the flags over it, where presets are.

Input: ``argv``. Output: a parser, and the ``Checked`` list that its values make.
Invariant: every command reads a list in one way, so ``check`` refuses what
``run`` would and ``explain`` shows what ``run`` uses.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lading.core.command_line import Parser
from lading.core.errors import LadingError, UsageError
from lading.core.exit_codes import LOCKED, SOME_FAILED
from lading.sessions import presets, table
from lading.sessions.job_model import Checked, check
from lading.sessions.precedence import Context, Flags
from lading.sessions.presets import Presets
from lading.sessions.table import Table

SSM = "ssm:"


def list_parser(command: str, description: str) -> Parser:
    """Return a parser with the list, its flags and its presets."""
    parser = Parser(prog=f"python3 -m jobs {command}", description=description, codes=[SOME_FAILED, LOCKED])
    parser.add_argument("list", nargs="?", type=Path, metavar="LIST", help="job list, .csv or .xlsx")
    parser.add_argument("-j", "--jobs-csv-file", type=Path, metavar="LIST", help="the same, as a flag")
    group = parser.add_argument_group("over the whole list; a flag can only switch on")
    group.add_argument("--dry-run", action="store_true", help="stop short of the upload and of every remote step")
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
        raise UsageError(f"{where} is not a directory of presets; see docs/jobs.md for their layout")
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


def context_of(options: argparse.Namespace, rows: Table, *, parameters: bool) -> Context:
    """Return what a list's values are gathered from; each parameter is read once, if ``parameters``.

    One that cannot be read is a fault of the rows that name it, not of the list.
    """
    names = {str(row.cells["aws_param_store_name"].value) for row in rows.rows if "aws_param_store_name" in row.cells}
    stored: dict[str, Mapping[str, Any]] = {}
    unreadable: dict[str, str] = {}
    if parameters and names:
        from lading.sessions.services.parameter_store import read_endpoints

        for name in sorted(names):
            try:
                stored[name] = read_endpoints(name)
            except LadingError as error:
                unreadable[name] = str(error)
    return Context(flags(options), load_presets(options.presets), stored, unreadable)


def checked_list(options: argparse.Namespace, *, parameters: bool) -> Checked:
    """Return the list of a command line, its parameters read if ``parameters``."""
    path = list_path(options)
    rows = table.read(path)
    return check(rows, context_of(options, rows, parameters=parameters), path.parent)
