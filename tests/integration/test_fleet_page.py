"""The page of many releases in a real browser, static and in the portal: first paint, keyboard, contrast."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from lading.core.extras import is_there
from lading.portal.store import FAILED, SUCCESS, JobStore, NewJob
from tests.browser import open_page
from tests.conftest import REPOSITORY, need
from tests.fleet_list import make_list
from tests.portal import Portal, serve

TOKEN = "correct-horse-battery-staple"
LOOKS = [(1280, False), (390, True), (1280, True), (390, False)]


def lading(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "lading", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        timeout=300, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def paint(page: Page) -> float:
    """When the first content was painted, ms after the address was opened."""
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def look_over(page: Page, width: int) -> None:
    """Nothing is cut off, axe finds nothing, and each control has a name and is reached by Tab."""
    need(None if is_there("axe_playwright_python") else "not installed: axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    assert [(item["id"], item["nodes"][0]["html"][:200]) for item in found] == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width
    kinds = ("a", "button", "input", "summary", "pre[tabindex]")
    controls = page.locator(", ".join(f"main {kind}:visible" for kind in kinds)).count()
    reached = set()
    for _ in range(controls + 12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('main *')].indexOf(document.activeElement)"))
    assert len(reached - {-1}) == controls


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fleet")
    make_list(directory, 12)
    for _ in range(2):
        written = lading("fleet", "report", "--metrics", "lading.prom", cwd=directory)
        assert written.returncode == 0, written.stderr
    assert "12 releases: 1 different, 1 failed, 1 late, 9 well" in written.stdout
    assert (directory / "lading.prom").read_bytes().endswith(b"# EOF\n")
    # What the run before left is gone.
    assert len(list((directory / "fleet-report").glob("runs-*"))) == 1
    return directory / "fleet-report" / "index.html"


@pytest.mark.parametrize(
    ("width", "dark"), [pytest.param(*look, marks=[] if look == (390, True) else [pytest.mark.long]) for look in LOOKS]
)
def test_the_page_is_for_everybody(pages: Path, width: int, dark: bool) -> None:
    with open_page(width, 800, dark=dark) as page:
        page.goto(pages.as_uri())
        look_over(page, width)
        page.goto((next(pages.parent.glob("runs-*")) / "3.html").as_uri())
        look_over(page, width)


def test_failures_come_first_and_lead_to_the_last_runs(pages: Path) -> None:
    asked: list[str] = []
    with open_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda _: pytest.fail("a sentence ran as a script"))
        page.goto(pages.as_uri())
        rows = page.locator("#fleet tbody tr")
        assert [rows.nth(place).locator("td.st").inner_text() for place in range(4)] == [
            "different", "failed", "late", "well"
        ]  # fmt: skip
        assert "<script>alert(1)</script>" in rows.nth(1).inner_text()
        # An age says with a word what its colour says, and a rate has its picture.
        late = rows.nth(2)
        assert late.locator("td.late").nth(1).inner_text() == "11 d, late"
        assert late.locator("td.late").nth(1).evaluate("e => getComputedStyle(e).color") == "rgb(138, 90, 0)"
        assert late.locator("svg path").get_attribute("d").count("L") == 19
        cells = page.locator(".map div")
        assert cells.count() == 12
        assert cells.first.get_attribute("title").startswith("release-00005: 200 GB, late")
        # Filters and sorting, by the keyboard.
        page.get_by_label("Name").fill("00004")
        assert page.locator("#fleet tbody tr:visible").count() == 1
        assert page.get_by_role("status").inner_text() == "1 of 12 shown"
        page.get_by_label("Name").fill("")
        page.get_by_label("well").uncheck()
        assert page.locator("#fleet tbody tr:visible").count() == 3
        page.get_by_role("button", name="Left", exact=True).focus()
        page.keyboard.press("Enter")
        assert page.locator("th[aria-sort=descending]").inner_text() == "Left"
        rows.first.locator("td.n", has_text="release-00005").wait_for()  # a moved row has no text until it is drawn
        page.get_by_role("link", name="release-00003").click()
        page.get_by_role("heading", name="release-00003").wait_for()
        assert page.get_by_text("exit 3: some items failed").count() == 1
        page.get_by_text("End of the log").click()
        log = page.locator("pre").inner_text()
        assert log.startswith("upload  begins\nerror: 12 objects failed: <script>")
        assert "\\x1b[2J" in log
        page.get_by_role("link", name="All releases").click()
        page.get_by_role("heading", name="Releases").wait_for()
    assert all(url.startswith("file:") for url in asked), asked


def test_without_scripts_all_rows_are_there(pages: Path) -> None:
    text = pages.read_text()
    assert text.count("<tr data-k=") == 12
    assert "<script>alert" not in text
    assert 'id="fleet-tools" hidden' in text


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    directory = tmp_path_factory.mktemp("portal")
    (directory / "presets").mkdir()
    settings = {"users": {"proxy:looker": ["submit"]}, "proxy": {"header": "X-User", "from": ["192.0.2.1"]}}
    (directory / "presets" / "site.json").write_text(json.dumps({"portal": settings}))
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    flags = ("--fleet", str(make_list(directory, 12)), "--presets", str(directory / "presets"))
    with serve(directory, *flags, "--token-file", str(directory / "token")) as running:
        store = JobStore(running.home / "jobs.sqlite")
        for job, state in (("j1", FAILED), ("j2", SUCCESS)):
            store.add([NewJob(job, f"behavior_{job}", "lab-bucket", "default", None, "{}", owner="owner")])
            store.end(job, state, "the disk is full" if state == FAILED else "")
        yield running


def test_jobs_and_releases_are_in_one_place(portal: Portal) -> None:
    with open_page(390, 800, dark=True) as page:
        page.goto(f"{portal.url}/jobs")
        page.get_by_role("link", name="Releases").click()
        page.get_by_role("heading", name="Releases and jobs").wait_for()
        rows = page.locator("#fleet tbody tr")
        names = [rows.nth(place).locator("td.n").inner_text() for place in range(4)]
        assert names == ["release-00004", "behavior_j1 job", "release-00003", "release-00005"]
        assert "the disk is full" in rows.nth(1).inner_text()
        look_over(page, 390)
        page.get_by_role("link", name="behavior_j1").click()
        page.get_by_role("heading", name="behavior_j1").wait_for()
        page.goto(f"{portal.url}/fleet")
        page.get_by_role("link", name="release-00003").click()
        page.get_by_text("exit 3: some items failed").wait_for()
        assert page.get_by_text("End of the log").count() == 1
        look_over(page, 390)
    assert portal.client.get("/fleet_runs", params={"release": "../../etc"}).status_code == 404


def test_prometheus_reads_the_portal(portal: Portal) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    answer = portal.client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0;q=0.9,*/*"})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    jobs = {sample.labels["state"]: sample.value for sample in families["lading_portal_jobs"].samples}
    assert jobs == {"queued": 0, "running": 0, "success": 1, "failed": 1, "cancelled": 0}
    codes = {sample.labels["release"]: sample.value for sample in families["lading_release_exit_code"].samples}
    assert codes["release-00003"] == 3
    assert codes["release-00004"] == 4
    assert portal.client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    # An outsider gets neither, and the header of a user is believed from nobody here.
    assert portal.client.get("/metrics", headers={"x-user": "looker"}).status_code == 403


def test_a_list_with_errors_is_said_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "releases.yaml").write_text("releases:\n  - {name: 'a b', folder: x}\n")
    with serve(tmp_path, "--fleet", str(tmp_path / "releases.yaml")) as running:
        page = running.client.get("/fleet").text
        assert "line 2" in page
        assert "must be letters" in page
        found = running.client.get("/metrics")
        assert found.status_code in (200, 406)
        if found.status_code == 200:
            assert "lading_fleet_faults 0" not in found.text


def test_one_release_writes_its_metrics_by_itself(tmp_path: Path) -> None:
    (tmp_path / "dr1").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"1234")
    command = [sys.executable, "-m", "lading", "find", str(tmp_path / "data"), "-o", "find.json"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8"}
    for name, says in (("one.prom", ""), ("one.txt", "does not end in .prom"), ("no/x.prom", "no metrics")):
        found = subprocess.run(
            command, cwd=tmp_path / "dr1", capture_output=True, text=True, check=False,
            env={**environment, "LADING_METRICS": str(tmp_path / name)},
        )  # fmt: skip
        # What goes wrong with the metrics is a note, and the stage ends as it would alone.
        assert found.returncode == 0, found.stderr
        assert says in found.stderr
    text = (tmp_path / "one.prom").read_text()
    assert 'lading_stage_exit_code{release="dr1",stage="find"} 0.0' in text
    assert 'lading_release_bytes{release="dr1"} 4.0' in text


def measure(directory: Path, count: int) -> dict[str, Any]:
    """Figures of many releases: how long each step takes, how large the page is, when its first content is painted."""
    make_list(directory, count)
    figures: dict[str, Any] = {"releases": count}
    for step, arguments in (("status", ("status",)), ("report", ("report", "--metrics", "lading.prom"))):
        began = time.monotonic()
        lading("fleet", *arguments, cwd=directory)
        figures[f"{step} s"] = round(time.monotonic() - began, 2)
    page_file = directory / "fleet-report" / "index.html"
    figures["page bytes"] = page_file.stat().st_size
    figures["metrics bytes"] = (directory / "lading.prom").stat().st_size
    for width in (1280, 390):
        with open_page(width, 800) as page:
            page.goto(page_file.as_uri())
            figures[f"first paint ms, {width} px"] = round(paint(page))
            figures["rows"] = page.locator("#fleet tbody tr").count()
    return figures


@pytest.mark.long
def test_five_thousand_releases_are_painted_in_two_seconds(tmp_path: Path) -> None:
    figures = measure(tmp_path, 5000)
    print(json.dumps(figures))
    assert figures["rows"] == 5000
    assert figures["page bytes"] < 6_000_000
    assert figures["first paint ms, 1280 px"] <= 2000
    assert figures["first paint ms, 390 px"] <= 2000
    assert (tmp_path / "lading.prom").read_bytes().count(b"lading_release_exit_code{") == 5000
