"""How the last run of each stage ended: ``.lading-stages/<stage>.json`` in the folder of a release.

Input: when a stage began, its exit code, its sentence, what it counted. Output: one small file a stage, replaced whole.
Invariant: who looks after thousands of releases reads these and no journal. A run that found the lock taken changes
only ``refused``; an interrupted one is neither a success nor a failure. Nothing here is needed to continue a release.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lading.core import exit_codes
from lading.core.atomic import atomic_write
from lading.core.bounded import SMALL_BYTES, read_object
from lading.core.errors import LadingError

FORMAT = 1
FOLDER = ".lading-stages"
STAGES = ("find", "batch", "upload", "verify", "scrub", "mirror")
MOST_RECENT = 30
CLOCK = 86400.0  # seconds that the clocks of two machines may differ
LONG_AGO = 1.0  # seconds since 1970
_NUMBERS = (int, float)
MOST_SENTENCE = 2000
# One of these makes a directory the folder of a release: nothing is written to any other.
MARKS = ("find.meta.json", "batch.json", "manifest.jsonl.zst", "runs", FOLDER)


@dataclass(frozen=True)
class StageFailure:
    """When a stage failed, with which code, and what it said."""

    at: float
    exit: int
    sentence: str


@dataclass(frozen=True)
class RecentRun:
    """An earlier run: begin, seconds, exit code, bytes that it sent or read."""

    began: float
    seconds: float
    exit: int
    bytes: int = 0


@dataclass(frozen=True)
class StageResult:
    """The last run of a stage, and what of earlier ones still matters.

    began, ended, exit, sentence  of the last run that had the lock; ``ended`` None: there was none
    succeeded                     when one ended with 0 last
    failed, refused               the last failure; the last time that another run held the lock
    counts                        numbers of the last run that counted, like ``objects_left``
    recent                        the last runs, oldest first
    """

    stage: str
    began: float | None = None
    ended: float | None = None
    exit: int | None = None
    sentence: str = ""
    succeeded: float | None = None
    failed: StageFailure | None = None
    refused: StageFailure | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    recent: tuple[RecentRun, ...] = ()

    @property
    def failing(self) -> bool:
        """True when the last failure is newer than the last success."""
        return self.failed is not None and self.failed.at > (self.succeeded or 0.0)


@dataclass(frozen=True)
class UploadProgress:
    """What a running upload says of itself every so often; ``eta``: seconds that the rest takes."""

    at: float
    objects_left: int
    bytes_left: int
    rate: float
    eta: float | None = None


# What the stage of this process counted: written at its end.
COUNTS: dict[str, float] = {}


def note_counts(**numbers: float) -> None:
    """Have numbers of this process's stage stand in its result."""
    COUNTS.update(numbers)


def result_path(folder: Path, stage: str) -> Path:
    """Return where the result of a stage is."""
    return folder / FOLDER / f"{stage}.json"


def read_result(folder: Path, stage: str) -> StageResult | None:
    """Return the result of a stage, None when there is none; ``ValueError`` for a file that is none."""
    try:
        # Not by a Path: that would take as long as all the rest.
        record = read_object(f"{folder}/{FOLDER}/{stage}.json", SMALL_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if record.get("format") != FORMAT or record.get("kind") != "stage":
        raise ValueError(f"it is not a stage's result in format {FORMAT}")
    return _decode(record)


def _decode(record: Mapping[str, Any]) -> StageResult:
    """Return the result of a JSON object, each member of its type: by hand, since thousands are read at once."""
    sentence, stage, counts = record.get("sentence", ""), record.get("stage"), record.get("counts", {})
    if type(stage) is not str or type(sentence) is not str or type(counts) is not dict:
        raise ValueError("it is not a stage's result")
    if not all(type(value) in _NUMBERS for value in counts.values()):
        raise ValueError("its counts are not numbers")
    runs = record.get("recent", [])
    if type(runs) is not list or not all(type(run) is dict for run in runs):
        raise ValueError("'recent' is not a list of runs")
    recent = tuple(
        RecentRun(_real(run, "began"), _real(run, "seconds"), _whole(run, "exit"), _whole(run, "bytes")) for run in runs
    )
    began, ended, succeeded = (
        None if record.get(name) is None else _real(record, name) for name in ("began", "ended", "succeeded")
    )
    code = None if record.get("exit") is None else _whole(record, "exit")
    failed, refused = _failure(record.get("failed")), _failure(record.get("refused"))
    return StageResult(stage, began, ended, code, sentence, succeeded, failed, refused, counts, recent)


def _failure(value: Any) -> StageFailure | None:
    if value is None:
        return None
    if type(value) is not dict or type(value.get("sentence")) is not str:
        raise ValueError("a failure is not one")
    return StageFailure(_real(value, "at"), _whole(value, "exit"), value["sentence"])


def _real(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    if type(value) not in _NUMBERS or not -1e300 < value < 1e300:  # type: ignore[operator]
        raise ValueError(f"{name!r} is not a number")
    return float(value)  # type: ignore[arg-type]


def _whole(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name, 0)
    if type(value) is not int:
        raise ValueError(f"{name!r} is not a whole number")
    return value


def heed_clock(found: StageResult, now: float) -> StageResult:
    """Return a result whose times are not still to come, as those are that a wrong clock gave.

    Such a run was an unknown time ago: its success counts as long past, so that the stage is due, and a failure that
    no success followed is one still.
    """
    times = (found.began, found.ended, found.succeeded, found.failed.at if found.failed else None)
    if all(at is None or at <= now + CLOCK for at in times):
        return found
    began, ended, succeeded = (None if at is None else LONG_AGO if at > now + CLOCK else at for at in times[:3])
    failed = found.failed
    if failed is not None:
        failed = replace(failed, at=now if found.failing else min(failed.at, succeeded or LONG_AGO))
    return replace(found, began=began, ended=ended, succeeded=succeeded, failed=failed)


def next_result(
    before: StageResult, began: float, code: int, sentence: str, counts: Mapping[str, float]
) -> StageResult:
    """Return what one more run makes of a result."""
    now = time.time()
    before = heed_clock(before, now)
    sentence = sentence[:MOST_SENTENCE]
    failure = StageFailure(now, code, sentence)
    if code == exit_codes.LOCKED:
        return replace(before, refused=failure)
    run = RecentRun(began, max(0.0, now - began), code, int(counts.get("bytes", 0)))
    found = replace(
        before,
        began=began,
        ended=now,
        exit=code,
        sentence=sentence,
        counts=dict(counts) or before.counts,
        recent=(*before.recent, run)[-MOST_RECENT:],
    )
    if code == exit_codes.DONE:
        return replace(found, succeeded=now)
    return found if code == exit_codes.INTERRUPTED else replace(found, failed=failure)


def write_result(folder: Path, stage: str, began: float, code: int, sentence: str) -> None:
    """Note how a run ended, with what it counted; a folder of no release, or not writable, stays as it is."""
    if not any((folder / mark).exists() for mark in MARKS):
        return
    try:
        before = read_result(folder, stage)
    except (ValueError, OSError):
        before = None  # damaged: it begins again
    found = next_result(before or StageResult(stage), began, code, sentence, COUNTS)
    with suppress(OSError, LadingError):  # it tells about the run, and is no part of it
        path = result_path(folder, stage)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path, sweep=True) as stream:
            json.dump({"format": FORMAT, "kind": "stage", **asdict(found)}, stream)


def progress_path(folder: Path) -> Path:
    """Return where a running upload says how far it is."""
    return folder / FOLDER / "upload.live.json"


def write_progress(folder: Path, progress: UploadProgress) -> None:
    """Say how far a running upload is; where that cannot be written it is not said."""
    with suppress(OSError, LadingError):
        path = progress_path(folder)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as stream:
            json.dump(asdict(progress), stream)


def end_progress(folder: Path) -> None:
    """Take back what a running upload said: it has ended."""
    with suppress(OSError):
        progress_path(folder).unlink(missing_ok=True)


def is_first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process speaks for its launch, by what MPI's launchers and srun set."""
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"):
        if name in environment:
            return environment[name] == "0"
    return environment.get("SLURM_STEP_ID") is None or environment.get("SLURM_PROCID", "0") == "0"
