"""The journal of a job: each start and end of each task, and the state that follows from them.

Input: events. Output: ``journal.jsonl``, append-only and durable event by
event; its fold, a ``JobState``, at any time, also while the job runs.
Invariant: a task counts as finished only when its ``finished`` event is on
disk; state is never edited, only followed by another event.

Events (docs/reference/formats.md): ``begin`` (attempt, host, pid), ``task`` (task,
part, state started | finished | failed | skipped, seconds, message, facts),
``reset`` (task or "" for all: what was finished counts no more), ``end``
(state done | failed | cancelled, message).
"""

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.core.atomic import AppendLog, read_log

STARTED, FINISHED, FAILED, SKIPPED = "started", "finished", "failed", "skipped"
QUEUED, RUNNING, DONE, CANCELLED = "queued", "running", "done", "cancelled"


@dataclass(frozen=True)
class TaskState:
    """The last event of a task (of one part of a mapped task) and how often it was started."""

    task: str
    part: str
    state: str
    at: str
    attempts: int = 0
    seconds: float = 0.0
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """True when the task need not be done again."""
        return self.state in (FINISHED, SKIPPED)


@dataclass(frozen=True)
class JobState:
    """What a journal says: ``state`` is queued (nothing yet), running, done, failed or cancelled."""

    state: str = QUEUED
    message: str = ""
    began: str = ""
    ended: str = ""
    attempts: int = 0
    host: str = ""
    pid: int = 0
    tasks: Mapping[tuple[str, str], TaskState] = field(default_factory=dict)
    damaged: int = 0

    def task(self, name: str, part: str = "") -> TaskState:
        """Return a task's state; ``queued`` when it has none."""
        return self.tasks.get((name, part), TaskState(name, part, QUEUED, ""))

    @property
    def current(self) -> str:
        """The task that was started last, as ``task`` or ``task part``."""
        started = [task for task in self.tasks.values() if task.state in (STARTED, FAILED)]
        last = max(started, key=lambda task: task.at, default=None)
        return f"{last.task} {last.part}".strip() if last else ""


def read_state(path: Path) -> JobState:
    """Return the fold of a journal; of one that is not there yet, the state ``queued``."""
    state: dict[str, Any] = {"tasks": {}}
    damaged = 0
    try:
        for event in read_log(path):
            if event is None:
                damaged += 1  # the task it told of has no end, so it is done again
                continue
            _fold(state, event)
    except FileNotFoundError:
        return JobState()
    return JobState(**state, damaged=damaged)


def _fold(state: dict[str, Any], event: Mapping[str, Any]) -> None:
    kind = event["event"]
    if kind == "begin":
        attempts = state.get("attempts", 0) + 1
        known = {"host": event["host"], "pid": event["pid"], "began": state.get("began") or event["at"]}
        state.update(known, state=RUNNING, message="", ended="", attempts=attempts)
    elif kind == "task":
        key = (event["task"], event["part"])
        before = state["tasks"].get(key)
        attempts = (before.attempts if before else 0) + (event["state"] == STARTED)
        rest = {name: event[name] for name in ("state", "at", "seconds", "message", "facts") if name in event}
        state["tasks"] = {**state["tasks"], key: TaskState(*key, attempts=attempts, **rest)}
    elif kind == "reset":
        wanted = event["task"]
        state["tasks"] = {key: task for key, task in state["tasks"].items() if wanted not in ("", key[0])}
    elif kind == "end":
        state.update(state=event["state"], message=event["message"], ended=event["at"])


class JobJournal:
    """Writes a job's events; one process at a time (the job's lease), any of its threads."""

    def __init__(self, path: Path) -> None:
        self._log = AppendLog(path)
        self._lock = threading.Lock()

    def __enter__(self) -> "JobJournal":
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; it is on disk when this returns."""
        with self._lock:
            self._log.append([{"event": event, "at": now(), **fields}])
            self._log.sync()

    def begin(self) -> None:
        """Note that this process works on the job."""
        self.write("begin", host=socket.gethostname(), pid=os.getpid())

    def task(self, task: str, part: str, state: str, **fields: Any) -> None:
        """Note what became of a task."""
        self.write("task", task=task, part=part, state=state, **fields)


def now() -> str:
    """Return the time as ISO 8601 UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
