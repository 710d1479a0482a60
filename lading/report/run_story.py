"""The last run of each stage of a release as a story: begin, counts, each failure once with its count, end.

Input: the folder of a release. Output: lines for a terminal or a page.
Invariant: reads results, records of runs and the ends of logs; names and words of servers are escaped by who prints.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.core.bounded import read_object
from lading.core.exit_codes import MEANINGS
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.journal.run_record import check_run
from lading.journal.stage_result import FOLDER, STAGES, StageResult, read_result

TAIL_BYTES = 1 << 18
MOST_KINDS = 20
_NUMBERS = re.compile(r"\d+")
_BYTES = ("bytes", "size", "bytes_left", "never_bytes", "late_bytes", "wrong_bytes")


@dataclass(frozen=True)
class StageStory:
    """One stage: its result, (sentence, count) of each failure, the lines of its log's end, where that is."""

    stage: str
    result: StageResult
    failures: tuple[tuple[str, int], ...] = ()
    log: Path | None = None

    def lines(self) -> Iterator[str]:
        """Yield the story."""
        found = self.result
        if found.began is None or found.ended is None:
            yield f"{self.stage}  has not run"
        else:
            yield f"{self.stage}  began {_moment(found.began)}"
            for line in describe_counts(found.counts):
                yield f"  {line}"
            for sentence, times in self.failures[:MOST_KINDS]:
                yield f"  {format_count(times)} x {sentence}"
            if len(self.failures) > MOST_KINDS:
                yield f"  and {counted(len(self.failures) - MOST_KINDS, 'more kind')} of failures"
            meaning = MEANINGS.get(found.exit or 0, "unknown")
            yield (
                f"  ended {_moment(found.ended)} after {format_seconds(found.ended - found.began)}, "
                f"exit {found.exit}: {meaning}"
            )
            for line in found.sentence.splitlines():
                yield f"  said: {line}"
        if found.refused and found.refused.at > (found.ended or 0.0):
            yield f"  refused {_moment(found.refused.at)}: {found.refused.sentence.splitlines()[0]}"
        if found.failed and found.exit == 0:
            yield f"  last failure {_moment(found.failed.at)}: {(found.failed.sentence.splitlines() or [''])[0]}"
        if self.log is not None:
            yield f"  log: {self.log}"


def read_story(folder: Path, stages: tuple[str, ...] = STAGES, logs: Path | None = None) -> list[StageStory]:
    """Return the stories of the stages that ran, in the order of their begins.

    ``logs`` is where a fleet keeps what the stages of this release said.
    """
    stories = []
    for stage in stages:
        try:
            found = read_result(folder, stage)
        except (OSError, ValueError):
            found = None
        if found is None:
            continue
        places = [place / f"{stage}.log" for place in (logs, folder / FOLDER) if place is not None]
        log = next((place for place in places if place.is_file()), None)
        failures = _reasons(folder, found) or (_errors(log) if log else ())
        stories.append(StageStory(stage, found, failures, log))
    return sorted(stories, key=lambda story: story.result.began or 0.0)


def describe_counts(counts: Mapping[str, float]) -> list[str]:
    """Return the numbers of a run in one line, none where it counted nothing."""
    parts = []
    for name, value in counts.items():
        if name == "oldest":
            parts.append(f"oldest verification {_moment(value)}")
        elif value or name in ("objects_left", "failed"):
            words = name.replace("_", " ")
            parts.append(f"{words} {format_bytes(value) if name in _BYTES else format_count(value)}")
    return [", ".join(parts)] if parts else []


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _reasons(folder: Path, found: StageResult) -> tuple[tuple[str, int], ...]:
    """Return the failures by their reasons, as the newest record of the stage's run counts them."""
    if found.stage != "upload" or found.began is None:
        return ()
    try:
        names = [name for name in os.listdir(folder / "runs") if name.endswith(".json") and "-verify-" not in name]
        record: dict[str, Any] = check_run(read_object(folder / "runs" / max(names, default="")))
        started = datetime.fromisoformat(str(record["started"])).timestamp()
    except (OSError, ValueError):
        return ()
    if started < found.began - 1:
        return ()
    return tuple((str(reason), int(times)) for reason, times in record.get("reasons", {}).items())


def _errors(log: Path) -> tuple[tuple[str, int], ...]:
    """Return the errors of a log's end, equal ones counted: numbers in them do not make a difference."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = stream.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ()
    first: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    for line in lines:
        if line.startswith(("error: ", "could not read ")):
            kind = _NUMBERS.sub("N", line)
            first.setdefault(kind, line.removeprefix("error: "))
            kinds[kind] += 1
    return tuple((first[kind], times) for kind, times in kinds.most_common())
