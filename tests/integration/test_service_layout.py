"""The portal's pages on a laptop and on a phone, by day and by night: nothing is cut off, and axe finds nothing."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page

from lading.core.extras import is_there
from lading.portal.job_pages import span
from tests.browser import open_page
from tests.conftest import need
from tests.portal import Portal, serve

TOKEN = "correct-horse-battery-staple"
REASON = (
    "upload_data_to_s3: the bucket refuses s3://lab-bucket/behavior_123459_2024-05-27_16-07-59/behavior/" + "x" * 90
)
JOBS = [
    # id, prefix, state, comment, submitted, started, ended, attempt
    ("a1", "behavior_123456_2024-05-27_16-07-59", "success", "", "01:00:00", "01:00:10", "03:02:10", 1),
    ("b2", "ecephys_123457_2024-05-27_16-07-59", "failed", REASON, "02:00:00", "02:00:10", "02:00:30", 2),
    ("c3", "SmartSPIM_123458_2024-05-27_16-07-59", "cancelled", "cancelled", "03:00:00", None, "03:05:00", 1),
]
LIST = (
    "job_type,project_name,platform,acq_datetime,subject_id,modality0,modality0.source,processor_name\n"
    "default,Lab,behavior,{},123456,behavior,{},somebody with a long name\n"
)
PARAMETER = "job_types/v2/default/tasks/upload_data_to_s3"
# What a page needs to be looked at: its address, or how one gets there.
PAGES = (
    *(
        "/",
        "errors of a list",
        "a list that is ready",
        "/jobs",
        "/jobs?state=nonsense",
        "/job_tasks_table?dag_run_id=b2",
    ),
    *("/task_logs?dag_run_id=b2", "/confirm?dag_run_id=b2&action=retry", "/job_params", f"/job_params?key={PARAMETER}"),
    *("/rest", "/nothing", "/login"),
)
LOOKS = {(1280, False), (390, True), (1280, True), (390, False)}
SHORT = {(390, True)}


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    directory = tmp_path_factory.mktemp("portal")
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    preset = directory / f"presets/{PARAMETER}.json"
    preset.parent.mkdir(parents=True)
    preset.write_text('{"skip_task": false}')
    flags = ("--presets", str(directory / "presets"), "--token-file", str(directory / "token"))
    with serve(directory, "--bucket", "lab-bucket", *flags) as running:
        with closing(sqlite3.connect(running.home / "jobs.sqlite")) as connection, connection:
            for name, prefix, state, comment, submitted, started, ended, attempt in JOBS:
                times = [f"2026-03-04T{time}.000Z" if time else None for time in (submitted, started, ended)]
                connection.execute(
                    "insert into job (id, prefix, bucket, job_type, row, state, comment, submitted, started, ended, "
                    "attempt) values (?, ?, 'lab-bucket', 'default', '', ?, ?, ?, ?, ?, ?)",
                    (name, prefix, state, comment, *times, attempt),
                )
        yield running


def sign_in(page: Page, portal: Portal) -> None:
    page.goto(f"{portal.url}/login")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Job submit template").wait_for()


def show(page: Page, portal: Portal, name: str, directory: Path) -> None:
    """Bring a page up."""
    if name.startswith("/"):
        page.goto(portal.url + name)
        return
    (directory / "data").mkdir(exist_ok=True)
    good = name == "a list that is ready"
    path = directory / "list.csv"
    path.write_text(LIST.format(*(("2024-05-27 16:07:59", directory / "data") if good else ("27.5.2024", "data"))))
    page.goto(portal.url)
    page.set_input_files("#file", path)
    page.get_by_role("button", name="Check").click()
    page.get_by_text("No errors" if good else "Nothing was submitted").wait_for()


@pytest.mark.parametrize(
    ("width", "dark"),
    [pytest.param(*look, marks=[] if look in SHORT else [pytest.mark.long]) for look in sorted(LOOKS)],
)
def test_nothing_is_cut_off_and_axe_finds_nothing(portal, tmp_path: Path, width: int, dark: bool) -> None:
    need(None if is_there("axe_playwright_python") else "not installed: axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    with open_page(width, 800, dark=dark) as page:
        sign_in(page, portal)
        for name in PAGES:
            show(page, portal, name, tmp_path)
            found = axe.run(page).response["violations"]
            assert [(item["id"], item["impact"], item["nodes"][0]["html"][:200]) for item in found] == [], name
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.long
def test_what_can_be_done_and_why_something_failed_are_on_the_screen(portal, width: int) -> None:
    with open_page(width, 800) as page:
        page.goto(f"{portal.url}/jobs")
        row = page.locator("tr", has_text="ecephys_123457")
        shown = [row.get_by_role("link", name=word) for word in ("Tasks of", "Retry")]
        shown += [row.locator("td.name a"), row.locator("td.reason"), row.get_by_text("20 s")]
        for part in shown:
            box = part.first.bounding_box()
            assert box
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        assert row.locator("td.reason").inner_text().endswith("x" * 90)
        # "cancelled" is said once.
        assert page.locator("tr", has_text="SmartSPIM").inner_text().count("cancelled") == 1
        row.locator("td.name a").click()
        page.get_by_role("heading", name="ecephys_123457").wait_for()


def test_times_are_those_of_the_browser_and_days_too(portal) -> None:
    with open_page(zone="Asia/Tokyo") as page:
        page.goto(f"{portal.url}/jobs")
        page.get_by_text("Times are those of Asia/Tokyo").wait_for()
        row = page.locator("tr", has_text="ecephys_123457")
        assert "2026-03-04 11:00:00" in row.inner_text()
        assert row.locator("time").first.get_attribute("title") == "2026-03-04T02:00:00.000Z"
    # In Los Angeles all of them were submitted on the 3rd of March.
    for zone, day, count in (("", "2026-03-04", 3), ("America/Los_Angeles", "2026-03-04", 0)):
        text = portal.client.get("/jobs", params={"since": day, "zone": zone}).text
        assert len(re.findall('<td class="name"', text)) == count
    with open_page(zone="America/Los_Angeles") as page:
        page.goto(f"{portal.url}/jobs")
        page.get_by_label("to", exact=True).fill("2026-03-03")
        page.get_by_role("button", name="Filter").click()
        page.get_by_text("3 jobs, page 1 of 1").wait_for()
        assert "zone=America%2FLos_Angeles" in page.url


def test_the_list_is_sorted_and_filtered(portal) -> None:
    def names(**query: str) -> list[str]:
        text = portal.client.get("/jobs", params=query).text
        return re.findall(r'<td class="name"[^>]*><a [^>]*><span class="piece">([A-Za-z]+)_', text)

    assert names() == ["SmartSPIM", "ecephys", "behavior"]
    assert names(order="submitted") == ["behavior", "ecephys", "SmartSPIM"]
    assert names(order="-duration")[:2] == ["behavior", "ecephys"]
    assert names(order="-try_number")[0] == "ecephys"
    assert names(dag_run_id="c3") == ["SmartSPIM"]
    assert names(state="failed") == ["ecephys"]
    for query in ({"state": "nonsense"}, {"order": "submitted; drop"}, {"since": "27.5.2024"}, {"zone": "Nowhere/X"}):
        answer = portal.client.get("/jobs", params=query)
        assert (answer.status_code, 'role="alert"' in answer.text) == (406, True), query
    with open_page() as page:
        page.goto(f"{portal.url}/jobs")
        page.get_by_role("link", name="Duration").click()
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("Duration")
        page.get_by_role("link", name="Duration").click()
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Duration")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0.4, "0 s"), (80, "1 min 20 s"), (7320, "2 h 02 min"), (180_000, "2 d 02 h")]
)
def test_spans_are_read_at_a_glance(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_the_interface_is_described_without_anything_from_elsewhere(portal) -> None:
    described = json.loads(portal.client.get("/openapi.json").text)
    asked: list[str] = []
    with open_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{portal.url}/jobs")
        page.get_by_role("link", name="REST").click()
        page.get_by_role("heading", name="REST interface").wait_for()
        text = page.inner_text("main")
    for path in described["paths"]:
        assert path in text
    for words in ("states", "order_by", "user_email", "JSON body", "transform_and_upload_v2", "required"):
        assert words in text
    assert {url.split("/")[2] for url in asked} == {portal.url.split("/")[2]}


def test_a_browser_gets_a_page_whatever_goes_wrong(portal) -> None:
    browser = {"accept": "text/html"}
    for path, code in (("/nothing", 404), ("/jobs?page=0", 422), ("/act", 405), ("/job_tasks_table", 422)):
        answer = portal.client.get(path, headers=browser)
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (code, "text/html"), path
        assert 'aria-label="Pages"' in answer.text
        assert portal.client.get(path).json()["message"]
    refused = portal.client.get("/jobs", headers={**browser, "host": "evil.example"})
    assert (refused.status_code, "<h1>Not let in</h1>" in refused.text) == (403, True)


def test_a_preset_that_cannot_work_is_refused(portal) -> None:
    for value, words in (({"nonsense": 1}, "is not a field of a task"), ({"skip_task": "maybe"}, "neither true nor")):
        answer = portal.client.put(
            "/api/v2/parameters/job_types/default/tasks/upload_data_to_s3",
            json=value,
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        assert answer.status_code == 406, answer.text
        assert words in answer.json()["message"]


def test_what_was_typed_for_the_mail_stays_when_something_else_is_refused(portal, tmp_path: Path) -> None:
    with open_page(390) as page:
        show(page, portal, "a list that is ready", tmp_path)
        page.get_by_label("E-mail").fill("somebody@example.org")
        page.get_by_label("ends", exact=True).check()
        page.get_by_label("fails", exact=True).uncheck()
        page.get_by_label("line 2, column 1", exact=False).fill("nonsense type")
        page.get_by_role("button", name="Check again").click()
        page.get_by_text("Nothing was submitted").wait_for()
        # From the error to its cell.
        page.locator(".errors a").first.click()
        assert page.evaluate("document.activeElement.id") == "cell2-1"
        page.keyboard.press("Control+A")
        page.keyboard.type("default")
        page.get_by_role("button", name="Check again").click()
        page.get_by_text("No errors").wait_for()
        assert page.get_by_label("E-mail").input_value() == "somebody@example.org"
        assert page.get_by_label("ends", exact=True).is_checked()
        assert not page.get_by_label("fails", exact=True).is_checked()
