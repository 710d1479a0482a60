"""``python3 -m jobs run LIST``: do the jobs of a list.

Input: a job list; flags. Output: objects in the bucket, state under
``--state``, a table on stdout; exit 0 when every row is done, 3 when some
are not (mend what the table names, run the same command again), 2 when the
list itself cannot be used.
Invariant: a row that is wrong or fails never stops the others.
"""

import argparse
import logging
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lading.coordination.signals import stop_on_signals
from lading.core import exit_codes
from lading.core.atomic import atomic_write
from lading.core.command_line import configure_logging, parse_workers, run_main
from lading.core.errors import LadingError, UsageError, usage_errors
from lading.core.progress import format_seconds
from lading.objectstore.endpoint import resolve_endpoint
from lading.parallel.local import usable_cores
from lading.parallel.mpi import World, join_world, leave_world
from lading.sessions import job_runner as workflow
from lading.sessions.commands.arguments import checked_list, list_parser, list_path, load_presets
from lading.sessions.executors import ranks as executors
from lading.sessions.executors import slurm_arrays as arrays
from lading.sessions.job_model import Checked, Job
from lading.sessions.journal import FAILED
from lading.sessions.naming import host_zone
from lading.sessions.resources import directives
from lading.sessions.result import JobResult, exit_code, record, refused, show
from lading.sessions.task_context import REPOSITORY, RunSettings
from lading.sessions.vocabulary import TASKS


def build_parser() -> argparse.ArgumentParser:
    """Return the flags of ``run``."""
    parser = list_parser("run", "Run the jobs of a list; the same command again continues.")
    parser.add_argument("--state", type=Path, default=Path("runs"), help="directory of journals and artefacts (runs)")
    parser.add_argument("--endpoint-url", metavar="URL", help="S3 server, if not AWS")
    parser.add_argument("--max-workers", default="32", metavar="N", help="transfer workers of one upload (32)")
    parser.add_argument("--cores", type=int, help="processes of one compression (default: all of this machine)")
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="jobs that run at the same time on this machine (1)"
    )
    parser.add_argument(
        "--executor", choices=("auto", "local", "slurm", "mpi"), default="auto", help="what runs the jobs"
    )
    parser.add_argument(
        "--row", type=int, action="append", metavar="LINE", help="only the row on this line (repeatable)"
    )
    parser.add_argument("--until", default="", choices=("", *TASKS), metavar="TASK", help="stop after this task")
    parser.add_argument("--json", action="store_true", help="print the results as JSON on stdout")
    parser.add_argument("--list-zone", default="", help=argparse.SUPPRESS)  # of the machine that submitted the list
    group = parser.add_argument_group("with --executor slurm")
    group.add_argument("--sbatch", action="append", default=[], metavar="FLAG", help="flag for sbatch (repeatable)")
    group.add_argument("--at-once", type=int, default=0, metavar="N", help="array elements at a time (no limit)")
    group.add_argument(
        "--transfer-sbatch", action="append", default=[], metavar="FLAG",
        help="do the upload in a second array with this sbatch flag, such as --partition=xfer (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--then", default="", metavar="SCRIPT", help="submit this script after every row succeeded (afterok)"
    )
    group.add_argument("--no-wait", action="store_true", help="return as soon as the jobs are queued")
    group.add_argument(
        "--submission", default="", metavar="NAME",
        help="a name for this submission; with the same name, queued jobs are waited for and not submitted again",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a list; returns the exit code."""
    options = build_parser().parse_args(argv)
    stop = threading.Event()
    stop_on_signals(stop, insist=False)
    if options.submission and options.then:
        raise UsageError("--then goes with a new submission only: leave --submission out, or submit SCRIPT yourself")
    if options.executor == "slurm" and options.submission:
        # The list and the presets may have changed since, or be out of reach: what Slurm has is waited for as it is.
        taken = arrays.resume(_submission(options), options.state.absolute(), stop)
        if taken is not None:
            return _tell(taken.wait(stop), options, stop)
    checked = _checked(options)
    options.endpoint_url = resolve_endpoint(options.endpoint_url)  # here, for all nodes
    world = join_world(finalize=False) if options.executor in ("auto", "mpi") else None
    if world is not None and world.comm is not None:
        # The process ends without unwinding: what went wrong must be said before.
        leave_world(world, run_main(lambda _: _run_as_rank(checked, world, options, stop)))
    executor = _slurm(options, stop) if options.executor == "slurm" else None
    runner = executor or executors.Local(_runner(options, stop), max(1, options.parallel))
    return _conclude(checked, _run_apart(checked.jobs, runner, options), options, stop)


def _run_as_rank(checked: Checked, world: World, options: argparse.Namespace, stop: threading.Event) -> int:
    """Be one rank of an MPI launch; returns the exit code, of the whole list on the first."""
    launch = world.comm.bcast(workflow.new_launch() if world.is_root else None)
    options.list_zone = world.comm.bcast(options.list_zone or host_zone())
    outcomes = executors.Ranks(_runner(options, stop), world, options.state / ".ranks" / str(launch)).run(checked.jobs)
    return _conclude(checked, outcomes, options, stop) if world.is_root else 0


def _checked(options: argparse.Namespace) -> Checked:
    """Return the list, with what the parameter store says; a fault of its form refuses it whole."""
    path = list_path(options)
    checked = checked_list(options, parameters=True)
    header = [fault for fault in checked.faults if fault.line not in {row.line for row in checked.rows}]
    if header:
        raise usage_errors(f"{path}:{fault}" for fault in header)
    kept = tuple(row for row in checked.rows if options.row is None or row.line in options.row)
    missing = set(options.row or ()) - {row.line for row in kept}
    if missing:
        raise UsageError(f"{path} has no row on line {', '.join(map(str, sorted(missing)))}")
    levels = [logging.getLevelNamesMapping()[job.log_level] for row in kept if (job := row.job)]
    configure_logging(logging.getLevelName(min(levels, default=logging.WARNING)))
    return Checked(kept, checked.faults)


def _settings(options: argparse.Namespace) -> RunSettings:
    return RunSettings(
        state_root=options.state.absolute(),
        endpoint=options.endpoint_url,
        workers=parse_workers(options.max_workers),
        cores=options.cores or usable_cores(),
        site=load_presets(options.presets).site,
        list_path=list_path(options).absolute(),
        list_zone=options.list_zone,
    )


def _runner(options: argparse.Namespace, stop: threading.Event) -> executors.Runner:
    settings = _settings(options)

    def run(job: Job) -> JobResult:
        if not stop.is_set():
            _report(f"begins    {job.destination}")
        outcome = workflow.run_job(job, settings, stop, options.until)
        _report(f"{outcome.state:<9} {job.destination}  {format_seconds(outcome.seconds)}")
        return outcome

    return run


def _report(text: str) -> None:
    """Tell on stderr how the list goes; ``jobs status`` tells of each task."""
    print(f"{time.strftime('%H:%M:%S')} jobs  {text}", file=sys.stderr, flush=True)


def _run_apart(jobs: Sequence[Job], runner: executors.Executor, options: argparse.Namespace) -> list[JobResult]:
    """Run what no other submission has in Slurm's queue; the rest is refused by name."""
    free: list[Job] = []
    outcomes: dict[int, JobResult] = {}
    for job in jobs:
        try:
            arrays.refuse_queued(job, options.state.absolute(), _submission(options) if options.submission else None)
        except LadingError as error:
            outcomes[job.line] = JobResult(job.line, job.destination, FAILED, str(error))
        else:
            free.append(job)
    if free:
        outcomes.update((outcome.line, outcome) for outcome in runner.run(free))
    return [outcomes[job.line] for job in jobs]


def _submission(options: argparse.Namespace) -> Path:
    """Return the directory of a submission to Slurm: a new one, unless it has a name."""
    name = options.submission or workflow.new_launch()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise UsageError(f"--submission {name!r}: letters, digits, '.', '_' and '-' only")
    return arrays.submission_directory(options.state.absolute(), name)


def _slurm(options: argparse.Namespace, stop: threading.Event) -> arrays.Slurm:
    state = options.state.absolute()
    directory = _submission(options)
    directory.mkdir(parents=True, exist_ok=bool(options.submission))
    words = [f"--state={state}", "--max-workers", options.max_workers]
    words += ["--endpoint-url", options.endpoint_url] if options.endpoint_url else []
    words += [f"--list-zone={options.list_zone or host_zone()}"]
    words += ["--presets", _absolute(options.presets)] if options.presets else []
    words += ["--bucket", options.bucket] if options.bucket else []
    words += ["--cores", str(options.cores)] if options.cores else []
    switches = ("dry_run", "compress_raw_data", "force_cloud_sync", "skip_staging")
    words += [f"--{name.replace('_', '-')}" for name in switches if getattr(options, name)]
    with atomic_write(directory / "arguments") as stream:
        stream.writelines(f"{word}\n" for word in words)
    return arrays.Slurm(
        script=REPOSITORY / "slurm" / "jobs.sbatch",
        directory=directory,
        environment={
            "LADING": str(REPOSITORY),
            "LADING_LIST": str(list_path(options).absolute()),
            "LADING_ARGUMENTS": str(directory / "arguments"),
            "LADING_PYTHON": sys.executable,
        },
        flags_of=lambda job: [*options.sbatch, *_resources(job)],
        state_root=state,
        stop=stop,
        at_once=options.at_once,
        transfer=options.transfer_sbatch,
        then=options.then,
        wait=not options.no_wait,
    )


def _absolute(presets: str) -> str:
    return presets if presets.startswith("ssm:") else str(Path(presets).absolute())


def _resources(job: Job) -> list[str]:
    """Return sbatch flags of a job: what the resources of its compressions ask for, the last one winning."""
    found: dict[str, str] = {}
    for entry in job.modalities:
        for flag in directives(job.task("compress_data", entry.folder).image_resources):
            found[flag.split("=")[0]] = flag
    return list(found.values())


def _conclude(
    checked: Checked, outcomes: Sequence[JobResult], options: argparse.Namespace, stop: threading.Event
) -> int:
    """Print the table of every row and return the exit code."""
    by_line = {outcome.line: outcome for outcome in outcomes}
    return _tell([by_line.get(row.line) or refused(row.line, row.faults) for row in checked.rows], options, stop)


def _tell(rows: Sequence[JobResult], options: argparse.Namespace, stop: threading.Event) -> int:
    print(record(rows) if options.json else show(rows), flush=True)
    code = exit_code(rows)
    return exit_codes.INTERRUPTED if stop.is_set() and code else code
