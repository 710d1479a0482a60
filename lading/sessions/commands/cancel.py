"""``python3 -m jobs cancel LIST --row LINE``: stop jobs, queued or running.

Input: a job list, the lines of the rows (or ``--all``). Output: a request in
each job's state; who works on it ends it within a second, and a queued one
ends when its turn comes, in Slurm too.
Invariant: nothing is deleted; the next ``run`` of the same list goes on. A
row that is no valid job is an error, after the other rows.
"""

from collections.abc import Sequence
from pathlib import Path

from lading.core.bounded import JsonMembers, read_json
from lading.core.errors import UsageError, usage_errors
from lading.sessions.commands.arguments import checked_list, list_parser
from lading.sessions.job_runner import request_cancel
from lading.sessions.journal import CANCELLED, DONE, FAILED, read_state
from lading.sessions.state_paths import paths_of


def main(argv: Sequence[str] | None = None) -> int:
    """Ask for the end of the named jobs."""
    parser = list_parser("cancel", "Stop queued or running jobs of a list.")
    parser.add_argument("--state", type=Path, default=Path("runs"), help="directory of journals and artefacts (runs)")
    parser.add_argument(
        "--row", type=int, action="append", default=[], metavar="LINE", help="only the row on this line (repeatable)"
    )
    parser.add_argument("--all", action="store_true", help="every row")
    options = parser.parse_args(argv)
    if not options.row and not options.all:
        raise UsageError("say which rows to cancel: --row LINE, or --all")
    unknown = []
    for row in checked_list(options, parameters=False).rows:
        job = row.job
        if not options.all and row.line not in options.row:
            continue
        if job is None:
            unknown += [str(fault) for fault in row.faults]
            continue
        place = paths_of(options.state, job.s3_bucket, job.prefix, dry_run=job.dry_run)
        state = read_state(place.journal).state
        if state in (DONE, CANCELLED, FAILED):
            print(f"{job.line:>6}  {state} already  {job.destination}")
            continue
        request_cancel(place)
        print(f"{job.line:>6}  asked to stop  {job.destination}{_queued(place.queued)}")
    if unknown:
        raise usage_errors([*unknown, "no job is known for these rows; give the flags of the run, such as --presets"])
    return 0


def _queued(path: Path) -> str:
    try:
        return f" (Slurm job {JsonMembers(read_json(path)).text('element')})"
    except (FileNotFoundError, ValueError):
        return ""
