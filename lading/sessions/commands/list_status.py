"""``python3 -m jobs status LIST``: how far each job of a list is, read from the journals.

Input: a job list and the state directory. Output: a line per row, ``--tasks``
a line per task, ``--json`` one object; exit 0.
Invariant: reads only; true at any time, also while the jobs run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lading.core.command_line import printable
from lading.core.progress import format_seconds
from lading.sessions.commands.arguments import checked_list, list_parser
from lading.sessions.journal import JobState, read_state
from lading.sessions.state_paths import paths_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print the state of every job."""
    parser = list_parser("status", "Show how much of each job of a list is done.")
    parser.add_argument("--state", type=Path, default=Path("runs"), help="directory of journals and artefacts (runs)")
    parser.add_argument("--tasks", action="store_true", help="show each task too")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    records = []
    checked = checked_list(options, parameters=False)
    for row in checked.rows:
        job = row.job
        if job is None:
            if not options.json:
                print(f"{row.line:>6}  no job     {'; '.join(printable(str(fault)) for fault in row.faults)}")
            continue
        state = read_state(paths_of(options.state, job.s3_bucket, job.prefix, dry_run=job.dry_run).journal)
        if options.json:
            tasks = [asdict(task) for task in state.tasks.values()]
            records.append({"line": job.line, "destination": job.destination, **_summary(state), "tasks": tasks})
        else:
            print(f"{job.line:>6}  {state.state:<9}  {job.destination}  {state.current}".rstrip())
            if state.message:
                print(f"        {printable(state.message)}")
            if options.tasks:
                print(_tasks(state))
    if options.json:
        print(json.dumps({"jobs": records, "faults": [str(fault) for fault in checked.faults]}))
    return 0


def _summary(state: JobState) -> dict[str, object]:
    return {"state": state.state, "message": state.message, "began": state.began, "ended": state.ended}


def _tasks(state: JobState) -> str:
    lines = []
    for task in state.tasks.values():
        name = f"{task.task} {task.part}".strip()
        time = format_seconds(task.seconds) if task.seconds else ""
        lines.append(f"        {task.state:<9}  {name:<48}  {time:>12}  {printable(task.message)}".rstrip())
    return "\n".join(lines)
