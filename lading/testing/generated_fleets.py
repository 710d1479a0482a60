"""Folders of releases as their stages leave them, for tests and benchmarks of the fleet.

Input: where, how many. Output: folders with results of stages and records of runs, and the releases that name them.
Invariant: what a folder holds follows from its number and the time given alone.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

from lading.journal.stage_result import FOLDER, FORMAT, RecentRun, StageFailure, StageResult
from lading.report.fleet import FleetLimits, FleetRelease
from lading.report.proof_age import DAY

RUNS = 20  # of each stage


def make_folder(folder: Path, number: int, now: float) -> None:
    """Make the folder of a release that does well: twenty nights of uploads, a verification, a scrub."""
    (folder / FOLDER).mkdir(parents=True)
    (folder / "runs").mkdir()
    size = 10**9 * (1 + number % 97)
    for stage, counts in {
        "find": {"objects": 1000.0 + number, "size": float(size)},
        "batch": {"objects": 1000.0 + number, "size": float(size)},
        "upload": {"objects": 1000.0 + number, "size": float(size), "objects_left": 0.0, "bytes_left": 0.0},
        "verify": {"objects": 1000.0 + number, "verified": 1000.0 + number},
        "scrub": {"bytes": size / 180, "oldest": now - 90 * DAY, "never_bytes": 0.0, "wrong": 0.0},
    }.items():
        write_stage(folder, done(stage, now - 3600.0, counts, size))
    (folder / "find.meta.json").write_text(
        json.dumps({"format": 1, "kind": "tree-meta", "files": 1000 + number, "bytes": size})
    )


def done(stage: str, ended: float, counts: dict[str, float], size: int = 0) -> StageResult:
    """Return the result of a stage that succeeded every night."""
    recent = tuple(
        RecentRun(ended - 600 - night * DAY, 600.0, 0, size // (20 + night) if stage == "upload" else 0)
        for night in reversed(range(RUNS))
    )
    return StageResult(stage, ended - 600, ended, 0, "", ended, counts=counts, recent=recent)


def failed(stage: str, at: float, code: int, sentence: str, before: float | None = None) -> StageResult:
    """Return the result of a stage whose last run failed; ``before``: when it succeeded last."""
    return StageResult(stage, at - 60, at, code, sentence, before, StageFailure(at, code, sentence))


def write_stage(folder: Path, result: StageResult) -> None:
    """Put the result of a stage into a folder."""
    path = folder / FOLDER / f"{result.stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, "kind": "stage", **asdict(result)}))


def make_fleet(directory: Path, count: int, now: float | None = None) -> list[FleetRelease]:
    """Make so many folders; returns their releases."""
    moment = time.time() if now is None else now
    releases = []
    for number in range(count):
        folder = directory / f"release-{number:05d}"
        make_folder(folder, number, moment)
        limits = FleetLimits(late={"upload": 2 * DAY}, scrubbed=200 * DAY)
        releases.append(FleetRelease(folder.name, folder, f"s3://lab/{folder.name}/", "/data", limits=limits))
    return releases
