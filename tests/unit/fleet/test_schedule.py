"""What is due: by results alone, whatever run came before."""

import time
from pathlib import Path

import pytest

from lading.fleet.schedule import due_stages, is_open
from lading.fleet.stage_commands import UploadShare, format_bandwidth, make_command, share_of
from lading.journal.stage_result import StageFailure, StageResult, heed_clock
from lading.objectstore.rate_schedule import parse_bandwidth
from lading.report.release_list import FleetFile, ReleaseEntry

DAY = 86400.0
NOW = time.mktime((2026, 11, 25, 12, 0, 0, 0, 0, -1))  # a Wednesday
ALL = ["find", "batch", "upload", "verify"]


def entry(**members) -> ReleaseEntry:
    return ReleaseEntry.model_validate(
        {"name": "dr1", "folder": "/f", "root": "/data", "bucket": "s3://lab/dr1", **members}
    )


def results(**ages: float) -> dict[str, StageResult]:
    """Return results by how long ago each stage succeeded."""
    return {stage: StageResult(stage, NOW - age - 1, NOW - age, 0, "", NOW - age) for stage, age in ages.items()}


def fresh(age: float = 100.0) -> dict[str, StageResult]:
    return results(find=age, batch=age - 10, upload=age - 20, verify=age - 30)


def test_what_never_ran_is_due() -> None:
    assert due_stages(entry(), {}, NOW) == ALL
    assert due_stages(entry(stages=["upload", "scrub"]), {}, NOW) == ["upload", "scrub"]


def test_what_is_done_is_not() -> None:
    assert due_stages(entry(), fresh(), NOW) == []
    assert due_stages(entry(), fresh(), NOW, force=True) == ALL


def test_a_run_goes_on_where_it_was_stopped() -> None:
    found = results(find=50, batch=40, upload=200, verify=190)
    assert due_stages(entry(), found, NOW) == ["upload", "verify"]


def test_a_failure_is_tried_again_and_what_follows_it() -> None:
    found = fresh()
    found["upload"] = StageResult("upload", NOW - 60, NOW - 50, 1, "no", NOW - 80, StageFailure(NOW - 50, 1, "no"))
    assert due_stages(entry(), found, NOW) == ["upload", "verify"]


def test_a_success_that_is_still_to_come_keeps_no_stage_from_running() -> None:
    """A clock that was ten years ahead for one night."""
    ahead = {stage: heed_clock(found, NOW) for stage, found in fresh(-10 * 365 * DAY).items()}
    assert due_stages(entry(every={"find": "1d"}), ahead, NOW) == ALL
    soon = {stage: heed_clock(found, NOW) for stage, found in fresh(-3600).items()}
    assert soon == fresh(-3600), "clocks of two machines differ by little"
    failed = StageResult("upload", 1, 2, 1, "no", NOW - 9, StageFailure(NOW + 9 * DAY, 1, "no"))
    assert heed_clock(failed, NOW).failing
    assert due_stages(entry(), {**fresh(), "upload": heed_clock(failed, NOW)}, NOW) == ["upload", "verify"]
    healed = StageResult("upload", 1, 2, 0, "", NOW + 10 * DAY, StageFailure(NOW + 9 * DAY, 1, "no"))
    assert not heed_clock(healed, NOW).failing


def test_what_is_left_is_sent() -> None:
    found = fresh()
    found["upload"] = StageResult("upload", NOW - 60, NOW - 50, 0, "", NOW - 50, counts={"objects_left": 3.0})
    assert due_stages(entry(), found, NOW) == ["upload", "verify"]


def test_a_crawl_with_gaps_did_its_work() -> None:
    found = fresh()
    found["find"] = StageResult("find", NOW - 101, NOW - 100, 3, "1 path", None, StageFailure(NOW - 100, 3, "1 path"))
    assert due_stages(entry(), found, NOW) == []


@pytest.mark.parametrize(
    ("every", "age", "due"),
    [
        ("1d", DAY - 7200, []),
        ("1d", DAY - 1800, ALL),  # cron is not punctual
        ({"scrub": "7d", "": "2d"}, DAY, []),
        ({"upload": "1h"}, 2 * 3600, ["upload", "verify"]),
    ],
)
def test_periods(every: object, age: float, due: list[str]) -> None:
    assert due_stages(entry(every=every), fresh(age), NOW) == due


def test_a_scrub_has_its_own_period() -> None:
    release = entry(stages=[*ALL, "scrub"], every={"": "1d", "scrub": "7d"})
    found = {**fresh(DAY / 2), **results(scrub=8 * DAY)}
    assert due_stages(release, found, NOW) == ["scrub"]
    assert due_stages(release, {**fresh(2 * DAY), **results(scrub=DAY)}, NOW) == ALL


def test_nightly_runs_begin_once_a_night() -> None:
    release = entry(every="1d", after="22:00")
    assert due_stages(release, fresh(13.5 * 3600), NOW) == []  # last night at 22:30
    assert due_stages(release, fresh(37 * 3600), NOW) == ALL  # the night before last
    assert due_stages(release, fresh(14.5 * 3600), NOW + 10.5 * 3600) == ALL  # it is 22:30 again


@pytest.mark.parametrize(
    ("members", "hour", "is_it"),
    [
        ({"after": "22:00", "until": "06:00"}, 23, True),
        ({"after": "22:00", "until": "06:00"}, 5, True),
        ({"after": "22:00", "until": "06:00"}, 12, False),
        ({"after": "08:00", "until": "18:00"}, 12, True),
        ({"after": "08:00", "until": "18:00"}, 18, False),
        ({"days": ["wed"]}, 12, True),
        ({"days": ["thu"]}, 12, False),
        ({"days": ["tue"], "after": "22:00", "until": "06:00"}, 5, True),  # the night that began on Tuesday
        ({"days": ["wed"], "after": "22:00", "until": "06:00"}, 5, False),
    ],
)
def test_hours_and_days(members: dict[str, object], hour: int, is_it: bool) -> None:
    assert is_open(entry(**members), NOW + (hour - 12) * 3600) is is_it


def test_uploads_share_bandwidth_and_workers() -> None:
    shared = FleetFile(at_once=4, bandwidth="08:00,200M;19:00,off", workers=64)
    share = share_of(shared, entry(limits={"bandwidth": "80M", "workers": 8}))
    assert share.workers == 8
    assert format_bandwidth(share.bandwidth) == "00:00,80000000;08:00,50000000;19:00,80000000"
    assert parse_bandwidth(format_bandwidth(share.bandwidth)) == share.bandwidth
    assert format_bandwidth(share_of(FleetFile(at_once=2, bandwidth="10M"), entry()).bandwidth) == "5000000"
    assert share_of(FleetFile(), entry()) == UploadShare()


def test_commands_are_words() -> None:
    release = entry(
        endpoint="https://s3.lab",
        remap={"a": "b"},
        prefix="x/",
        flags={"upload": ["--engine", "boto3"]},
        subdir="sub d",
    )
    upload = make_command("upload", release, UploadShare(parse_bandwidth("1M"), 4))
    assert upload[2:] == [
        "lading", "upload", "/data", "--bucket", "s3://lab/dr1/x", "--batch", "batch.json", "--remap", '{"a": "b"}',
        "--endpoint-url", "https://s3.lab", "--bandwidth", "1000000", "--max-workers", "4", "--engine", "boto3",
    ]  # fmt: skip
    assert "sub d" in make_command("batch", release, UploadShare())
    assert make_command("mirror", entry(folder=Path("/nowhere")), UploadShare())[-3:] == ["--store", "mirror", "update"]
