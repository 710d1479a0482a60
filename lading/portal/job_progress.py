"""How far a job is, read from its own journal and logs.

Input: the place of a job's state. Output: rows for the task table, text for
the log page.
Invariant: reads only; works while the job runs. A log is shown from its end
and never in full length.
"""

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lading.sessions.journal import read_state
from lading.sessions.state_paths import JobPaths
from lading.sessions.vocabulary import TASKS

# The line that begins a try in a task's log.
TRY = re.compile(r"^-- try (\d+)$\n?", re.MULTILINE)


def read_tasks(place: JobPaths, *, waiting: bool = False) -> list[dict[str, Any]]:
    """Return the tasks that have an event, in the order in which they began; with ``waiting``, those still to come."""
    rows = []
    seen: Counter[str] = Counter()
    for task in read_state(place.journal).tasks.values():
        over = task.state != "started"
        rows.append(
            {
                "task_id": task.task,
                "part": task.part,
                "map_index": seen[task.task] if task.part else -1,
                "priority_weight": _weight(task.task),
                "task_state": {"started": "running", "finished": "success"}.get(task.state, task.state),
                "try_number": task.attempts,
                "start_time": _begin(task.at, task.seconds) if over else task.at,
                "end_time": task.at if over else None,
                "duration": task.seconds if over else None,
                "comment": task.message or None,
            }
        )
        seen[task.task] += bool(task.part)
    begun = {row["task_id"] for row in rows}
    nothing = dict.fromkeys(("task_state", "start_time", "end_time", "duration", "comment"))
    for name in TASKS if waiting else ():
        if name not in begun:
            about = {"part": "", "map_index": -1, "priority_weight": _weight(name), "try_number": 0}
            rows.append({"task_id": name, **about, **nothing})
    return rows


def _weight(task: str) -> int:
    """Return a number that grows in the order of the tasks."""
    return TASKS.index(task) + 1 if task in TASKS else 0


def _begin(end: str, seconds: float) -> str:
    """Return when a task began, from its end (ISO 8601 UTC) and how long it took."""
    begin = datetime.fromisoformat(end) - timedelta(seconds=seconds)
    return begin.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class LogRequest:
    """Which log: of a task ("" for the job), of one try (0 for all), of one part (-1 for all)."""

    task: str = ""
    attempt: int = 0
    part: int = -1


def read_log(whole: Path, place: JobPaths, wanted: LogRequest, most: int) -> str | None:
    """Return the end of the job's log, or of the logs of one task, at most ``most`` bytes each; None for no such."""
    if not wanted.task:
        return _tail(whole, most)
    found = [item for item in read_state(place.journal).tasks.values() if item.task == wanted.task]
    parts = [item for item in found if item.part]
    if wanted.part >= 0:
        found = parts[wanted.part : wanted.part + 1]
    if (wanted.part >= 0 and not found) or (wanted.attempt and not any(wanted.attempt <= i.attempts for i in found)):
        return None
    names = {item.part for item in found} | {""} if wanted.part < 0 else {item.part for item in found}
    paths = [place.log(wanted.task), *sorted(place.directory.glob(f"logs/{wanted.task}.*.log"))]
    if wanted.part >= 0:
        paths = [place.log(wanted.task, name) for name in names]
    texts = [(path.name.removesuffix(".log"), _tail(path, most)) for path in paths if path.is_file()]
    if wanted.attempt:
        texts = [(name, _of_attempt(text, wanted.attempt)) for name, text in texts]
    lines = [f"{item.at} {item.state} {item.message}".rstrip() for item in found]
    return "\n".join([*lines, *(f"== {name}\n{text}" for name, text in texts)])


def _of_attempt(text: str, attempt: int) -> str:
    """Return what a log holds of one try: from the line that begins it to the next one's."""
    pieces = TRY.split(text)
    # What comes before the first such line is of an earlier version, which wrote none.
    found = [body for number, body in zip(pieces[1::2], pieces[2::2]) if int(number) == attempt]
    return "".join(found) if found else (text if len(pieces) == 1 else "")


def _tail(path: Path, most: int) -> str:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - most))
            text = stream.read().decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return ""
    return text if size <= most else f"… the first {size - most} bytes are left out …\n{text}"
