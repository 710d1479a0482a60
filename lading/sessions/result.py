"""What became of a job, and of a list: the table at the end and the exit code.

Input: outcomes. Output: text, JSON, an exit code.
Invariant: a row that was not done is named with its reason.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lading.core.command_line import printable
from lading.core.progress import format_seconds
from lading.sessions.table import ListError


@dataclass(frozen=True)
class JobResult:
    """What became of one row: ``state`` is done, failed, cancelled, queued or refused; ``task`` where it ended."""

    line: int
    destination: str
    state: str
    message: str = ""
    task: str = ""
    seconds: float = 0.0


def refused(line: int, faults: Sequence[ListError]) -> JobResult:
    """Return the outcome of a row that is no job."""
    return JobResult(line, "", "refused", "; ".join(str(fault) for fault in faults))


def show(outcomes: Sequence[JobResult]) -> str:
    """Return the table: a line per row and one with the counts."""
    lines = []
    for outcome in outcomes:
        time = format_seconds(outcome.seconds) if outcome.seconds else ""
        where = outcome.destination or "-"
        reason = f"{outcome.task}: {outcome.message}" if outcome.task and outcome.message else outcome.message
        lines.append(f"{outcome.line:>6}  {outcome.state:<9}  {where}  {time}".rstrip())
        if outcome.message:
            lines.append(f"        {printable(reason)}")
    counts = Counter(outcome.state for outcome in outcomes)
    return "\n".join(
        ["  line  state      job", *lines, ", ".join(f"{count} {state}" for state, count in counts.items())]
    )


def record(outcomes: Sequence[JobResult]) -> str:
    """Return the outcomes as one JSON object."""
    return json.dumps({"jobs": [asdict(outcome) for outcome in outcomes]})


def exit_code(outcomes: Sequence[JobResult]) -> int:
    """Return 0 when every row is done (or queued, where nobody waits), else 3: mend and run again."""
    return 0 if all(outcome.state in ("done", "queued") for outcome in outcomes) else 3
