"""The lines and cells of the page of releases."""

from dataclasses import replace
from pathlib import Path

import pytest

from lading.report.fleet import FleetProblem, FleetRow, FleetStatus, LockState
from lading.report.fleet_page import MOST_CELLS, describe_fleet, describe_row, sparkline, write_fleet_page
from lading.report.proof_age import DAY

NOW = 1_764_300_000.0
ROW = FleetRow("dr1", "/f", "s3://b/dr1/", "well", "done", bytes=10, last_success=NOW - 60)


def line(row: FleetRow):
    return describe_row(row, NOW, "x")


def test_an_age_beyond_its_limit_is_that_of_the_stage_that_is_late() -> None:
    problems = (
        FleetProblem("late", "upload", "upload succeeded last 11 d ago", NOW - 11 * DAY),
        FleetProblem("late", "scrub", "the oldest proof is 300 d old", NOW - 300 * DAY),
    )
    found = line(replace(ROW, state="late", problems=problems))
    assert (found.success, found.verified, found.mirror) == ("11 d", "300 d", "")
    assert found.late == ("success", "verified")
    assert found.sentence == "upload succeeded last 11 d ago (and 1 more)"
    never = replace(ROW, problems=(FleetProblem("late", "mirror", "mirror has not succeeded yet", None),))
    assert (line(never).mirror, line(never).late) == ("never", ("mirror",))
    assert line(replace(ROW, last_success=None)).success == "never"


def test_who_is_at_work_is_said_where_nothing_is_wrong() -> None:
    lock = LockState("writer on login1\x1b[2J", NOW - 7200, True)
    said = line(replace(ROW, state="running", lock=lock)).sentence
    assert said.startswith("writer on login1\\x1b[2J at work for 2 h")
    wrong = replace(ROW, lock=lock, problems=(FleetProblem("failed", "upload", "the disk is full\nand more"),))
    assert line(wrong).sentence == "the disk is full"


def test_sparklines_stay_in_their_picture() -> None:
    assert sparkline([]) == sparkline([5.0]) == ""
    assert sparkline([0.0, 0.0]) == "M0 13L60 13"
    assert sparkline([1.0, 4.0, 2.0]) == "M0 10L30 1L60 7"


def test_what_needs_a_look_has_a_cell_of_its_own() -> None:
    rows = [replace(ROW, name=f"r{number}", bytes=1000 + number) for number in range(MOST_CELLS + 50)]
    rows.append(replace(ROW, name="small", bytes=1, state="failed", problems=(FleetProblem("failed", "", "no"),)))
    view = describe_fleet(FleetStatus(tuple(rows), NOW), lambda place, _: str(place))
    assert [cell.title for cell in view.cells if cell.state == "failed"] == ["small: 1 B, failed"]
    assert [cell.name for cell in view.cells if "others" in cell.name] == ["51 others"]
    assert len(view.cells) == MOST_CELLS + 1
    assert view.lines[0].name == "small"
    assert view.counts == (("failed", 1), ("well", MOST_CELLS + 50))
    assert describe_fleet(FleetStatus((), NOW), lambda *_: "").cells == ()


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\udcff", "a\x1b[2J", '"><img src=x>', "{{ 7*7 }}"])
def test_hostile_names_and_sentences_are_text(tmp_path: Path, name: str) -> None:
    problem = FleetProblem("failed", "upload", name)
    row = replace(
        ROW, name=name, state="failed", folder=str(tmp_path), bucket=name, problems=(problem,), contacts=(name,)
    )
    page = write_fleet_page(FleetStatus((row,), NOW, faults=(name,)), tmp_path / "page")
    for path in (page, next(page.parent.glob("runs-*")) / "0.html"):
        text = path.read_text(encoding="utf-8")
        assert "<script>alert(1)" not in text
        assert "<img" not in text
        assert "\x1b" not in text
        assert ("{{ 7*7 }}" in text) == ("{{" in name)
