"""A row per release: what each kind of trouble looks like, and that the worst gives the exit code."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

from lading.coordination.lease import Lease
from lading.journal.stage_result import (
    COUNTS,
    StageResult,
    UploadProgress,
    end_progress,
    read_result,
    write_progress,
    write_result,
)
from lading.report.fleet import (
    DIFFERENT,
    FAILED,
    LATE,
    NEW,
    RUNNING,
    WELL,
    FleetLimits,
    FleetProblem,
    FleetRelease,
    read_fleet,
)
from lading.report.proof_age import DAY
from lading.testing.generated_fleets import done, failed, make_fleet, write_stage

NOW = time.time()


def row_of(folder: Path, **more):
    release = FleetRelease("dr1", folder, "s3://lab/dr1/", **more)
    return read_fleet([release], NOW).rows[0]


def test_a_fleet_that_does_well(tmp_path: Path) -> None:
    status = read_fleet(make_fleet(tmp_path, 20, NOW), NOW)
    assert status.exit_code == 0
    assert [row.name for row in status.rows] == [f"release-{number:05d}" for number in range(20)]
    first = status.rows[1]
    assert (first.state, first.stage, first.objects, first.objects_left) == (WELL, "done", 1001, 0)
    assert first.last_success == NOW - 3600
    assert len(first.rates) == 20
    assert first.oldest_proof == NOW - 90 * DAY
    assert status.counts()[WELL] == 20


def test_the_worst_row_gives_the_exit_code(tmp_path: Path) -> None:
    releases = make_fleet(tmp_path, 4, NOW)
    write_stage(releases[1].folder, done("upload", NOW - 3 * DAY, {}))
    assert read_fleet(releases, NOW).exit_code == 5
    write_stage(releases[2].folder, failed("upload", NOW, 1, "the credentials expired", NOW - DAY))
    assert read_fleet(releases, NOW).exit_code == 3
    write_stage(releases[3].folder, failed("verify", NOW, 4, "1 object is different", NOW - DAY))
    status = read_fleet(releases, NOW)
    assert status.exit_code == 4
    assert [row.state for row in status.rows] == [WELL, LATE, FAILED, DIFFERENT]
    assert [row.name[-1] for row in status.worst_first()] == ["3", "2", "1", "0"]
    assert status.rows[2].failure == "the credentials expired"
    assert status.rows[2].failed_stage == "upload"
    assert "3 d ago" in status.rows[1].problems[0].sentence


def test_a_later_success_ends_a_failure(tmp_path: Path) -> None:
    (tmp_path / "batch.json").touch()
    COUNTS.clear()
    write_result(tmp_path, "upload", NOW, 1, "no")
    assert row_of(tmp_path).state == FAILED
    write_result(tmp_path, "upload", NOW, 130, "interrupted")
    assert row_of(tmp_path).failure == "no"
    write_result(tmp_path, "upload", NOW, 75, "another run")
    found = read_result(tmp_path, "upload")
    assert found.exit == 130
    assert found.refused.sentence == "another run"
    write_result(tmp_path, "upload", NOW, 0, "")
    assert row_of(tmp_path).state == WELL
    assert [run.exit for run in read_result(tmp_path, "upload").recent] == [1, 130, 0]


def test_nothing_is_written_where_there_is_no_release(tmp_path: Path) -> None:
    write_result(tmp_path, "upload", NOW, 2, "usage")
    assert list(tmp_path.iterdir()) == []


def test_locks(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    assert row_of(tmp_path).state == NEW
    with Lease(tmp_path / "journal", "here"):
        row = row_of(tmp_path)
        assert row.state == RUNNING
        assert row.lock.alive
        assert str(os.getpid()) in row.lock.holder
        limits = FleetLimits(locked=-3600.0)
        late = row_of(tmp_path, limits=limits)
        assert late.state == FAILED
        assert "has held the lock" in late.failure
        record = (tmp_path / "journal" / "lock").read_bytes()
    assert row_of(tmp_path).lock is None
    (tmp_path / "journal" / "lock").write_bytes(record)  # of a process without a heartbeat
    row = row_of(tmp_path)
    assert row.state == FAILED
    assert row.lock.alive is False
    assert "without a result" in row.failure


def test_a_running_upload_says_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    write_stage(tmp_path, done("upload", NOW - DAY, {"objects": 9.0, "objects_left": 9.0, "bytes_left": 90.0}))
    with Lease(tmp_path / "journal", "here"):
        write_progress(tmp_path, UploadProgress(NOW, 4, 40, 20.0, 2.0))
        row = row_of(tmp_path)
        assert (row.state, row.objects_left, row.bytes_left, row.rate, row.eta) == (RUNNING, 4, 40, 20.0, 2.0)
        write_progress(tmp_path, UploadProgress(NOW - 3600, 4, 40, 20.0, 2.0))  # it hangs, or was killed
        assert row_of(tmp_path).objects_left == 9
        end_progress(tmp_path)
    write_progress(tmp_path, UploadProgress(NOW, 4, 40, 20.0, 2.0))
    assert row_of(tmp_path).objects_left == 9  # nobody is at work


def test_missing_and_damaged_folders_are_rows(tmp_path: Path) -> None:
    assert row_of(tmp_path / "gone").state == FAILED
    write_stage(tmp_path, StageResult("upload"))
    (tmp_path / ".lading-stages" / "upload.json").write_text('{"format": 1, "kind": "stage", "stage": 7}')
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "20260101T000000Z-w.json").write_text("{")
    row = row_of(tmp_path)
    assert row.state == FAILED
    assert len(row.problems) == 2


def test_never_succeeded_counts_from_when_it_was_seen(tmp_path: Path) -> None:
    limits = FleetLimits(late={"upload": DAY})
    assert row_of(tmp_path, limits=limits).state == NEW
    assert row_of(tmp_path, limits=limits, since=NOW - 2 * DAY).state == LATE


def test_records_of_runs_serve_where_no_result_is(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    record = {
        "format": 1, "kind": "run", "stage": "upload", "started": "2026-01-02T00:00:00Z", "seconds": 100.0,
        "batches": {"listed": 2, "completed": 1}, "objects": {"sent": 5, "left": 3, "failed": 3},
        "bytes": {"sent": 500},
        "stopped": "",
    }  # fmt: skip
    (runs / "20260102T000000Z-host-1.json").write_text(json.dumps(record))
    (runs / "20260101T000000Z-host-1.json").write_text("{")  # older: not read
    row = row_of(tmp_path)
    assert (row.state, row.objects_left, row.failed_stage, row.failure) == (FAILED, 3, "upload", "3 objects failed")
    newer = replace(done("upload", NOW, {"objects_left": 0.0}), began=0.0)  # the record is of the same run
    write_stage(tmp_path, newer)
    assert row_of(tmp_path).state == WELL


def test_a_headline_names_the_cause_not_a_list_below_it() -> None:
    said = "1 object failed; fix the problems listed below\n  1 x the file is gone; crawl again\n  first: f7"
    assert FleetProblem("failed", "upload", said).headline == "1 x the file is gone; crawl again"
    assert FleetProblem("failed", "find", "it is missing\nand more").headline == "it is missing"
    assert FleetProblem("late", "find", "").headline == ""
