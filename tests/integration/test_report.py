"""The status table and the page over a release, from real artefacts."""

import json
import os
from pathlib import Path

import pytest

from lading.report.facts import gather, read_journals
from lading.report.run_page import Chart, batch_chart, rate_chart
from tests.browser import open_page


@pytest.fixture
def finished(make, s3, bucket, tmp_path) -> Path:
    """A release of 40 files that was crawled, cut, sent and verified."""
    release = tmp_path / "data" / "dr1"
    for number in range(40):
        path = release / f"night-{number % 4}" / f"exposure-{number}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(20_000))
    s3.make_bucket(bucket)
    settings = {"root": release.parent, "release": release, "bucket": f"s3://{bucket}", "endpoint": s3.endpoint}
    for target in ("find.json", "batch.json", "upload", "verify"):
        result = make(target, **settings, min_batch="50k", max_batch="200k")
        assert result.returncode == 0, result.stdout + result.stderr
    return tmp_path


def test_status_tells_what_happened(make, run, finished) -> None:
    table = make("status")
    assert table.returncode == 0, table.stdout + table.stderr
    assert "40 of 40 objects verified" in " ".join(table.stdout.split())
    status = json.loads(make("status", json=1).stdout)
    assert status["crawl"]["files"] == status["plan"]["files"] == status["manifest"]["objects"] == 40
    assert status["upload"]["batches"]["queued"] == 0
    assert status["failures"] == []


def test_status_of_nothing_says_what_to_run(make) -> None:
    table = make("status")
    assert table.returncode == 0
    for command in ("make find.json", "make batch.json", "make upload", "make verify"):
        assert command in table.stdout
    page = make("report")
    assert page.returncode == 2
    assert "make find.json" in page.stderr


def test_damaged_artefacts_are_reported_not_hidden(make, finished) -> None:
    manifest = finished / "manifest.jsonl.zst"
    manifest.write_bytes(manifest.read_bytes()[:-30])
    (finished / "batch.json").write_text("{")
    table = make("status")
    assert table.returncode == 2  # make's own code for the 3 of the command
    text = " ".join(table.stdout.split())
    assert "run: make verify" in text
    assert "run: make batch.json" in text
    assert make("report").returncode == 0


def test_failures_stand_until_proven(tmp_path) -> None:
    from lading.core.atomic import AppendLog
    from lading.journal.records import VerificationRecord, encode_failure, encode_verification

    proof = VerificationRecord("dr1/b", 7, 0, "e", "2026-01-02T03:04:05Z", None, None, None, "etag", "batch")
    with AppendLog(tmp_path / "one.jsonl") as log:
        log.append([encode_failure(f"dr1/{name}", name, "batch", "object", "unreadable", 3) for name in "abc\udcff"])
    with AppendLog(tmp_path / "another.jsonl") as log:
        log.append([encode_verification(proof)])
    failures, timeline = read_journals(tmp_path)
    assert [failure.path for failure in failures] == ["a", "c", "\udcff"]
    assert [(moment.at, moment.objects, moment.bytes) for moment in timeline] == [("2026-01-02T03:04:05", 1, 7)]


def test_failures_of_an_earlier_plan_are_over_with_a_complete_upload(tmp_path) -> None:
    from lading.core.atomic import AppendLog
    from lading.journal.records import encode_failure

    (tmp_path / "journal").mkdir()
    (tmp_path / "runs").mkdir()
    with AppendLog(tmp_path / "journal" / "one.jsonl") as log:
        log.append([encode_failure("dr1/a", "a", "batch", "object", "it is gone", 1)])

    def run(name: str, completed: int) -> None:
        record = {"stage": "upload", "started": name, "batches": {"listed": 2, "completed": completed}}
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps(record))

    run("2026-01-01T00:00:00Z", 1)
    assert [failure.path for failure in gather(tmp_path).failures] == ["a"]
    run("2026-01-02T00:00:00Z", 2)
    assert gather(tmp_path).failures == ()


def test_the_page_opens_from_a_file_and_leads_to_the_tree(make, finished) -> None:
    assert make("report", index="https://data.example.org", root=finished / "data").returncode == 0
    with open_page(1100, 900) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((finished / "report" / "index.html").as_uri())
        assert "40 verified" in page.inner_text("main")
        assert page.locator("svg rect").count() >= 4
        page.get_by_role("link", name="browse the tree").click()
        page.get_by_role("option", name="night-2").click()
        page.get_by_role("option", name="exposure-10.fits").click()
        page.wait_for_function("document.getElementById('path').textContent === 'dr1/night-2/exposure-10.fits'")
        link = page.evaluate("linkOf(currentPath())")
        assert link == "https://data.example.org/dr1/night-2/exposure-10.fits"
    assert all(url.startswith(("file:", "data:")) for url in requests)


def test_charts_keep_their_sums() -> None:
    from lading.report.facts import Moment

    timeline = [
        Moment(f"2026-01-01T{hour:02d}:{minute:02d}:00", 1, 60_000) for hour in range(10) for minute in range(60)
    ]
    bars = rate_chart(timeline).bars
    assert 100 <= len(bars) <= 120
    assert {round(bar.height) for bar in bars} == {160}
    assert len(batch_chart([5] * 1000).bars) <= 120
    assert batch_chart([]) == rate_chart([]) == Chart()


def test_nothing_is_written_by_looking(make, finished) -> None:
    def snapshot() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in finished.rglob("*") if "report" not in path.parts}

    before = snapshot()
    gather(finished)
    make("status")
    make("report")
    assert snapshot() == before
