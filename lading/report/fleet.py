"""What many releases are at, a row each: who is done, who failed, who differs, who is late.

Input: releases with their limits; of each folder the results of its stages, the newest records of runs, the lock.
Output: ``FleetStatus``, its rows in the order of the releases.
Invariant: reads small files only (or the ends of large ones) and writes nothing; a folder that is missing or damaged is
a row that says so, never an error. Times are seconds since 1970, None where something never happened.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.coordination.heartbeat import lease_seconds
from lading.coordination.lock import Lock
from lading.core import exit_codes
from lading.core.atomic import decode_record
from lading.core.bounded import SMALL_BYTES, JsonMembers, decode, read_object
from lading.core.progress import counted, format_seconds
from lading.journal.run_record import check_run
from lading.journal.stage_result import (
    FOLDER,
    STAGES,
    StageFailure,
    StageResult,
    UploadProgress,
    heed_clock,
    progress_path,
    read_result,
)
from lading.report.proof_age import DAY, NEVER

READERS = 8  # folders looked at at once: a file server answers many as fast as one
TAIL_BYTES = 1 << 16  # of a scrub log
LIVE_SECONDS = 120.0  # how old what a running upload says of itself may be
DIFFERENT, FAILED, LATE, RUNNING, WELL, NEW = "different", "failed", "late", "running", "well", "new"
# The worst first: the order of a page, and which exit code wins.
STATES = (DIFFERENT, FAILED, LATE, RUNNING, NEW, WELL)
CODES = {DIFFERENT: exit_codes.DISAGREE, FAILED: exit_codes.SOME_FAILED, LATE: exit_codes.LATE}
_WRONG_BYTES = "wrong"


@dataclass(frozen=True)
class FleetLimits:
    """What a release may take before it is late, in seconds; None: no limit.

    late      since the last success of a stage, by stage
    scrubbed  age of the oldest proof by a scrub
    mirrored  age of the mirror
    locked    how long one run may hold the lock
    """

    late: Mapping[str, float] = field(default_factory=dict)
    scrubbed: float | None = None
    mirrored: float | None = None
    locked: float | None = DAY


@dataclass(frozen=True)
class FleetRelease:
    """A release by its name, as far as a look at it needs: where its folder is, which stages it has, what is late.

    ``since``: when it was first seen; what never succeeded counts from there.
    """

    name: str
    folder: Path
    bucket: str = ""  # s3://name/prefix
    root: str = ""
    stages: tuple[str, ...] = ("find", "batch", "upload", "verify")
    limits: FleetLimits = field(default_factory=FleetLimits)
    contacts: tuple[str, ...] = ()
    since: float | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class LockState:
    """Who holds the lock of a release's upload: since when, and whether it lives (None: not seen from here)."""

    holder: str
    since: float
    alive: bool | None


@dataclass(frozen=True)
class RatePoint:
    """Bytes a second of one upload, for a sparkline."""

    at: float
    rate: float
    exit: int


@dataclass(frozen=True)
class FleetProblem:
    """One thing that is wrong: ``kind`` is a state (different, failed, late); when, in which stage, a sentence."""

    kind: str
    stage: str
    sentence: str
    at: float | None = None
    exit: int | None = None

    @property
    def headline(self) -> str:
        """The sentence in one line: of one that leads to a list below it, the first of the list."""
        lines = [line.strip() for line in self.sentence.splitlines()] or [""]
        return lines[1] if "listed below" in lines[0] and len(lines) > 1 else lines[0]


@dataclass(frozen=True)
class FleetRow:
    """One release.

    state            the worst of its problems, else running, new (nothing was done) or well
    stage            the first stage that is not done, "done" when all are
    objects, bytes   of the plan; left: of these
    rate, eta        bytes a second of the running upload or of the last one; seconds that the rest takes at that rate
    last_success     of the latest stage; last_failure with its stage and sentence: until that stage succeeds
    oldest_proof     when the bytes were read that were read longest ago; never_read: bytes that no scrub has read yet
    mirrored         when the mirror was last brought up to date
    """

    name: str
    folder: str
    bucket: str
    state: str
    stage: str
    objects: int | None = None
    bytes: int | None = None
    objects_left: int | None = None
    bytes_left: int | None = None
    rate: float | None = None
    eta: float | None = None
    last_success: float | None = None
    last_failure: float | None = None
    failed_stage: str = ""
    failure: str = ""
    oldest_proof: float | None = None
    never_read: int = 0
    mirrored: float | None = None
    lock: LockState | None = None
    problems: tuple[FleetProblem, ...] = ()
    contacts: tuple[str, ...] = ()
    stages: Mapping[str, StageResult] = field(default_factory=dict)
    rates: tuple[RatePoint, ...] = ()

    @property
    def exit_code(self) -> int:
        """What this row alone ends a command with."""
        return CODES.get(self.state, exit_codes.DONE)


@dataclass(frozen=True)
class FleetStatus:
    """All rows, when they were read, how long that took, and errors in the list of releases."""

    rows: tuple[FleetRow, ...]
    at: float
    seconds: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """4 when anything differs, else 3 when anything failed, else 5 when anything is late, else 0."""
        codes = {row.exit_code for row in self.rows}
        return next((CODES[state] for state in (DIFFERENT, FAILED, LATE) if CODES[state] in codes), exit_codes.DONE)

    def counts(self) -> dict[str, int]:
        """Return how many rows are in each state."""
        return {state: sum(row.state == state for row in self.rows) for state in STATES}

    def worst_first(self) -> list[FleetRow]:
        """Return the rows, failures first, else in the order of the releases."""
        return sorted(self.rows, key=lambda row: STATES.index(row.state))


def read_fleet(
    releases: Iterable[FleetRelease], now: float | None = None, *, faults: Sequence[str] = ()
) -> FleetStatus:
    """Look at every release; raises nothing for what is missing or damaged."""
    started = time.monotonic()
    moment = time.time() if now is None else now
    with ThreadPoolExecutor(READERS) as pool:
        rows = tuple(pool.map(lambda release: read_row(release, moment), releases, chunksize=1))
    return FleetStatus(rows, moment, time.monotonic() - started, tuple(faults))


def read_row(release: FleetRelease, now: float) -> FleetRow:
    """Look at one release."""
    problems = [FleetProblem(FAILED, "", sentence) for sentence in release.faults]
    try:
        names = set(os.listdir(release.folder))
    except OSError as error:
        sentence = f"the folder {release.folder} cannot be read ({error.strerror})"
        problems.append(FleetProblem(FAILED, "", sentence))
        return FleetRow(
            release.name, str(release.folder), release.bucket, FAILED, "", failure=sentence,
            problems=tuple(problems), contacts=release.contacts,
        )  # fmt: skip
    results = _results(release.folder, names, problems, now)
    lock = _lock(release.folder, lease_seconds()) if "journal" in names else None
    problems += _problems(release, results, lock, now)
    row = _row(release, results, lock, tuple(problems))
    row = _live(release.folder, row, now) if lock and lock.alive is not False and FOLDER in names else row
    return replace(row, mirrored=row.mirrored or _mirrored(release.folder, names))


def _row(
    release: FleetRelease,
    results: Mapping[str, StageResult],
    lock: LockState | None,
    problems: tuple[FleetProblem, ...],
) -> FleetRow:
    upload = results.get("upload")
    counts = upload.counts if upload else {}
    sizes = _sizes(release.folder, results)
    done = [found.succeeded for found in results.values() if found.succeeded]
    failures = [(found.failed, name) for name, found in results.items() if found.failed and found.failing]
    failed, stage = max(failures, key=lambda pair: pair[0].at, default=(None, ""))
    rates = tuple(
        RatePoint(run.began, run.bytes / run.seconds, run.exit)
        for run in (upload.recent if upload else ())
        if run.seconds > 0 and run.bytes
    )
    left, size_left = _whole(counts, "objects_left"), _whole(counts, "bytes_left")
    if upload is None and sizes[0] is not None:
        left, size_left = sizes
    scrub, mirror = results.get("scrub"), results.get("mirror")
    rate = rates[-1].rate if rates else None
    return FleetRow(
        release.name,
        str(release.folder),
        release.bucket,
        _state(problems, lock, results),
        next((name for name in release.stages if not _is_done(name, results, left)), "done"),
        *sizes,
        objects_left=left,
        bytes_left=size_left,
        rate=rate,
        eta=size_left / rate if rate and size_left else None,
        last_success=max(done, default=None),
        last_failure=failed.at if failed else None,
        failed_stage=stage,
        failure=failed.sentence if failed else next((found.sentence for found in problems), ""),
        oldest_proof=(scrub.counts.get("oldest") or None) if scrub else None,
        never_read=int(scrub.counts.get("never_bytes", 0)) if scrub else 0,
        mirrored=mirror.succeeded if mirror else None,
        lock=lock,
        problems=problems,
        contacts=release.contacts,
        stages=results,
        rates=rates,
    )


def _state(problems: Sequence[FleetProblem], lock: LockState | None, results: Mapping[str, StageResult]) -> str:
    kinds = {found.kind for found in problems}
    for state in (DIFFERENT, FAILED, LATE):
        if state in kinds:
            return state
    if lock is not None and lock.alive is not False:
        return RUNNING
    return WELL if any(found.succeeded for found in results.values()) else NEW


def _is_done(name: str, results: Mapping[str, StageResult], left: int | None) -> bool:
    found = results.get(name)
    return found is not None and found.succeeded is not None and not found.failing and not (name == "upload" and left)


def _whole(counts: Mapping[str, float], name: str) -> int | None:
    return int(counts[name]) if name in counts else None


def _sizes(folder: Path, results: Mapping[str, StageResult]) -> tuple[int | None, int | None]:
    """Return objects and bytes of the release: of its plan, else of its crawl."""
    for name in ("upload", "batch", "find"):
        counts = results[name].counts if name in results else {}
        if "size" in counts:
            return _whole(counts, "objects"), _whole(counts, "size")
    try:
        take = JsonMembers(read_object(folder / "find.meta.json"))
        return take.number("files"), take.number("bytes")
    except (OSError, ValueError):
        return None, None


def _problems(
    release: FleetRelease, results: Mapping[str, StageResult], lock: LockState | None, now: float
) -> Iterator[FleetProblem]:
    """Yield what is wrong, stage by stage."""
    for name, found in results.items():
        if found.failed and found.failing:
            kind = DIFFERENT if found.failed.exit == exit_codes.DISAGREE else FAILED
            yield FleetProblem(kind, name, found.failed.sentence, found.failed.at, found.failed.exit)
    if lock is not None:
        yield from _lock_problems(release, results, lock, now)
    for name, most in release.limits.late.items():
        at = results[name].succeeded if name in results else None
        since = at if at is not None else release.since
        if since is not None and now - since > most:
            said = "has not succeeded yet" if at is None else f"succeeded last {_age(now - at)} ago"
            yield FleetProblem(LATE, name, f"{name} {said}; its limit is {_age(most)}", at)
    scrub, mirror = results.get("scrub"), results.get("mirror")
    oldest = scrub.counts.get("oldest") if scrub else None
    if release.limits.scrubbed is not None and oldest and now - oldest > release.limits.scrubbed:
        said = f"bytes were verified last {_age(now - oldest)} ago; its limit is {_age(release.limits.scrubbed)}"
        yield FleetProblem(LATE, "scrub", said, oldest)
    mirrored = mirror.succeeded if mirror else None
    if release.limits.mirrored is not None and mirrored and now - mirrored > release.limits.mirrored:
        said = f"the mirror is {_age(now - mirrored)} old; its limit is {_age(release.limits.mirrored)}"
        yield FleetProblem(LATE, "mirror", said, mirrored)


def _lock_problems(
    release: FleetRelease, results: Mapping[str, StageResult], lock: LockState, now: float
) -> Iterator[FleetProblem]:
    upload = results.get("upload")
    if lock.alive is False:
        if upload is None or (upload.ended or 0.0) < lock.since:
            began = _age(max(0.0, now - lock.since))
            said = f"the run of {lock.holder} that began {began} ago ended without a result; run it again"
            yield FleetProblem(FAILED, "upload", said, lock.since)
    elif release.limits.locked is not None and now - lock.since > release.limits.locked:
        said = (
            f"{lock.holder} has held the lock for {_age(now - lock.since)}; its limit is {_age(release.limits.locked)}"
        )
        yield FleetProblem(FAILED, "upload", f"{said}; look whether it still works", lock.since, exit_codes.LOCKED)


def _age(seconds: float) -> str:
    return f"{seconds / DAY:.0f} d" if seconds >= 2 * DAY else format_seconds(seconds)


def format_age(at: float | None, now: float) -> str:
    """Return how long ago something was, ``never`` for None."""
    return "never" if at is None else _age(max(0.0, now - at))


# What each file says.


def _results(folder: Path, names: set[str], problems: list[FleetProblem], now: float) -> dict[str, StageResult]:
    """Return the result of every stage that left one, newer records of runs taken in."""
    found: dict[str, StageResult] = {}
    for stage in STAGES if FOLDER in names else ():
        try:
            result = read_result(folder, stage)
        except (OSError, ValueError) as error:
            problems.append(FleetProblem(FAILED, stage, f"{folder / FOLDER / stage}.json cannot be read ({error})"))
            continue
        if result is not None:
            found[stage] = heed_clock(result, now)
    if "runs" in names:
        for stage, path in _newest_records(folder / "runs").items():
            began = _stamp(path.name)
            if began is None or (stage in found and (found[stage].ended or 0.0) >= began):
                continue
            try:
                found[stage] = _of_record(stage, check_run(read_object(path)), began, found.get(stage))
            except (OSError, ValueError) as error:
                problems.append(FleetProblem(FAILED, stage, f"{path} is not the record of a run ({error})"))
    scrub = _scrubbed(folder) if "scrub" not in found and "manifest.scrub.jsonl" in names else None
    if scrub is not None:
        found["scrub"] = scrub
    return {stage: found[stage] for stage in STAGES if stage in found}


def _newest_records(runs: Path) -> dict[str, Path]:
    """Return the newest record of upload and of verify: a name begins with the time at which its run did."""
    newest: dict[str, str] = {}
    try:
        for name in os.listdir(runs):
            if name.endswith(".json") and not name.startswith("."):
                stage = "verify" if "-verify-" in name else "upload"
                newest[stage] = max(newest.get(stage, ""), name)
    except OSError:
        return {}
    return {stage: runs / name for stage, name in newest.items()}


def _stamp(name: str) -> float | None:
    try:
        return datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _of_record(stage: str, record: Mapping[str, Any], began: float, before: StageResult | None) -> StageResult:
    """Return the result of a run by its record: of an earlier edition, or started under its own name."""
    objects, size = record["objects"], record.get("bytes", {})
    ended = began + record["seconds"]
    sentence = str(record["stopped"] or "")
    if stage == "upload":
        counts = {"objects_left": objects["left"], "sent": objects["sent"], "bytes": size["sent"]}
        wrong = objects.get("failed", 0)
        sentence = sentence or (f"{counted(wrong, 'object')} failed" if wrong else "")
        code = exit_codes.SOME_FAILED if wrong else exit_codes.DONE
    else:
        counts = {"objects": objects["listed"], "verified": objects["proven"]}
        wrong = sum(objects.get(name, 0) for name in ("missing", "differing", "contradicted"))
        code = exit_codes.DISAGREE if wrong else exit_codes.DONE if record["complete"] else exit_codes.SOME_FAILED
        sentence = f"{counted(wrong, 'object is', 'objects are')} missing or different" if wrong else sentence
        sentence = sentence or ("" if record["complete"] else "not all objects are verified")
    known = before or StageResult(stage)
    return replace(
        known,
        began=began,
        ended=ended,
        exit=code,
        sentence=sentence,
        counts=counts,
        succeeded=ended if code == exit_codes.DONE else known.succeeded,
        failed=known.failed if code == exit_codes.DONE else StageFailure(ended, code, sentence),
    )


def _scrubbed(folder: Path) -> StageResult | None:
    """Return what the end of a scrub log says, where no result does."""
    path = folder / "manifest.scrub.jsonl"
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = stream.read(TAIL_BYTES).split(b"\n")[:-1]
        for line in reversed(lines):
            record = decode_record(line)
            if record and record.get("kind") == "end":
                return _of_scrub(record)
    except (OSError, ValueError):
        pass
    return None


def _of_scrub(record: Mapping[str, Any]) -> StageResult:
    ended = datetime.fromisoformat(JsonMembers(record).text("at")).timestamp()
    counts = count_scrub(JsonMembers(record).object("summary"))
    wrong = int(counts["wrong"])
    sentence = f"{counted(wrong, 'object is', 'objects are')} wrong" if wrong else ""
    failure = StageFailure(ended, exit_codes.DISAGREE, sentence) if wrong else None
    code = exit_codes.DISAGREE if wrong else exit_codes.DONE
    return StageResult(
        "scrub", ended=ended, exit=code, sentence=sentence, succeeded=None if wrong else ended,
        failed=failure, counts=counts,
    )  # fmt: skip


def count_scrub(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a scrub's summary: bytes by the day of their reading come to the oldest of these days."""
    take = JsonMembers(summary, "the summary")
    ages = take.object("ages", {})
    days = [int(name) for name in ages if name.isascii() and name.lstrip("-").isdigit()]
    listed, wrong = take.object("listed", {}), take.object("wrong", {})
    bad = [wrong.get(name, 0) for name in wrong] + [listed.get(name, 0) for name in ("missing", "different")]
    counts = {
        "bytes": float(take.members("read", {}).number("bytes", 0)),
        "never_bytes": float(ages.get(NEVER, 0)),
        "wrong_bytes": float(ages.get(_WRONG_BYTES, 0)),
        "wrong": float(sum(value for value in bad if type(value) is int)),
    }
    return counts | ({"oldest": min(days) * DAY} if days else {})


def _mirrored(folder: Path, names: set[str]) -> float | None:
    """Return when the mirror's last run ended, where no result says it."""
    if "mirror" not in names:
        return None
    try:
        return (folder / "mirror" / ".lading" / "done.json").stat().st_mtime
    except OSError:
        return None


def _lock(folder: Path, seconds: float) -> LockState | None:
    """Return who holds the lock of the journals, None while it is free."""
    journal = folder / "journal"
    link = Lock(journal / "lock", b"").look()
    if link is None:
        return None
    process = link.process
    try:
        since = link.path.stat().st_mtime
    except OSError:
        return None  # given back meanwhile
    try:
        heartbeat = (journal / "leases" / process.writer).stat().st_mtime if process.writer else since
    except OSError:
        return LockState(str(process), since, False)
    runs = process.runs()
    fresh = time.time() - heartbeat < 2 * seconds
    return LockState(str(process), since, runs if runs is not None else fresh or None)


def _live(folder: Path, row: FleetRow, now: float) -> FleetRow:
    """Return the row with what the running upload says of itself."""
    try:
        found = decode(UploadProgress, read_object(progress_path(folder), SMALL_BYTES))
    except (OSError, ValueError):
        return row
    if now - found.at > LIVE_SECONDS:
        return row
    return replace(row, objects_left=found.objects_left, bytes_left=found.bytes_left, rate=found.rate, eta=found.eta)
