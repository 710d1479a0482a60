"""How far a job is, read from its own journal and logs.

Input: the place of a job's state. Output: rows for the task table, text for
the log page.
Invariant: reads only; works while the job runs. A log is shown from its end
and never in full length.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lading.sessions.journal import read_state
from lading.sessions.state_paths import JobPaths


def read_tasks(place: JobPaths) -> list[dict[str, Any]]:
    """Return the tasks that have an event, in the order in which they began."""
    rows = []
    for number, task in enumerate(read_state(place.journal).tasks.values()):
        over = task.state != "started"
        rows.append(
            {
                "task_id": task.task,
                "part": task.part,
                "map_index": number if task.part else -1,
                "task_state": {"started": "running", "finished": "success"}.get(task.state, task.state),
                "try_number": task.attempts,
                "start_time": _begin(task.at, task.seconds) if over else task.at,
                "end_time": task.at if over else None,
                "duration": task.seconds if over else None,
                "comment": task.message or None,
            }
        )
    return rows


def _begin(end: str, seconds: float) -> str:
    """Return when a task began, from its end (ISO 8601 UTC) and how long it took."""
    begin = datetime.fromisoformat(end) - timedelta(seconds=seconds)
    return begin.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_log(whole: Path, place: JobPaths, task: str, most: int) -> str:
    """Return the end of the job's log, or of all logs of one task, at most ``most`` bytes."""
    if not task:
        return _tail(whole, most)
    paths = [place.log(task), *sorted(place.directory.glob(f"logs/{task}.*.log"))]
    texts = [(path.name.removesuffix(".log"), _tail(path, most)) for path in paths if path.is_file()]
    lines = [
        f"{item.at} {item.state} {item.message}".rstrip()
        for item in read_state(place.journal).tasks.values()
        if item.task == task
    ]
    return "\n".join([*lines, *(f"== {name}\n{text}" for name, text in texts)])


def _tail(path: Path, most: int) -> str:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - most))
            text = stream.read().decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return ""
    return text if size <= most else f"… the first {size - most} bytes are left out …\n{text}"
