"""The portal as a person uses it: in a real browser, from the template to the finished job."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import oracle
from tests.browser import open_page
from tests.integration.test_whole_way import client_of
from tests.portal import Portal, lab_job, serve


@pytest.fixture(scope="module")
def idle(tmp_path_factory) -> Iterator[Portal]:
    """A portal for what is answered without running a job."""
    with serve(tmp_path_factory.mktemp("idle"), "--bucket", "lab-bucket") as running:
        yield running


@pytest.fixture
def portal(tmp_path, s3, bucket):
    s3.make_bucket(bucket)
    with serve(tmp_path, "--bucket", bucket, "--endpoint-url", s3.endpoint) as running:
        yield running


def filled_template(portal: Portal, source: Path) -> str:
    """The template as a person fills it in, with three slips."""
    text = portal.client.get("/api/job_upload_template", params={"format": "csv"}).text
    header = next(csv.reader(io.StringIO(text)))
    row = dict.fromkeys(header, "")
    row |= {"job_type": "default", "project_name": "Lab", "platform": "behaviour", "acq_datetime": "27.5.2024"}
    row |= {"subject_id": "123456", "modality0": "behavior", "modality0.input_source": str(source).lstrip("/")}
    out = io.StringIO()
    csv.writer(out).writerows([header, [row[name] for name in header]])
    return out.getvalue()


def test_from_the_template_to_the_bucket(portal, tmp_path, s3, bucket) -> None:
    source = tmp_path / "behavior"
    source.mkdir()
    (source / "trials.csv").write_bytes(os.urandom(5000))
    slow = tmp_path / "slow"
    slow.mkdir()
    for number in range(300):
        (slow / f"frame-{number}").write_bytes(os.urandom(2000))
    path = tmp_path / "list.csv"
    path.write_text(filled_template(portal, source))
    with open_page(1400, 900) as page:
        page.goto(portal.url)
        with page.expect_download() as download:
            page.get_by_text("Job submit template").click()
        assert Path(download.value.path()).read_bytes().startswith(b"PK")
        page.set_input_files("#file", path)
        page.get_by_role("button", name="Check").click()
        page.get_by_text("Nothing was submitted").wait_for()
        assert page.locator("td.fault").count() == 3
        beside = page.locator("td.fault", has_text="did you mean 'behavior'?").locator("input")
        assert beside.input_value() == "behaviour"
        beside.fill("behavior")
        page.locator("td.fault", has_text="is not a date").locator("input").fill("2024-05-27 16:07:59")
        page.locator("td.fault", has_text="absolute path").locator("input").fill(str(source))
        page.get_by_role("button", name="Check again").click()
        page.get_by_text("No errors").wait_for()
        page.get_by_role("button", name="Submit 1 job").click()
        page.get_by_role("heading", name="Jobs").wait_for()
        second = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("999", slow)]})
        assert second.status_code == 200
        page.reload()
        page.get_by_role("link", name="Cancel behavior_999_2024-05-27_16-07-59").click()
        page.get_by_role("button", name="Yes, cancel").click()
        page.goto(f"{portal.url}/jobs")
        # The page follows by itself: nothing is reloaded from here on.
        row = page.locator("tr", has_text="behavior_123456_2024-05-27_16-07-59")
        row.locator("td.state", has_text="success").wait_for(timeout=120_000)
        assert page.locator("nav a[aria-current=page]").inner_text() == "Jobs"
        page.locator("tr", has_text="behavior_999").locator("td.state", has_text="cancelled").wait_for(timeout=120_000)
        page.get_by_role("checkbox", name="cancelled").check()
        page.get_by_role("button", name="Filter").click()
        row.wait_for(state="detached")
        page.get_by_role("checkbox", name="cancelled").uncheck()
        page.get_by_role("button", name="Filter").click()
        row.get_by_role("link", name="Tasks of").click()
        page.get_by_text("upload_data_to_s3").first.wait_for()
        page.get_by_role("link", name="Log of upload_data_to_s3").click()
        assert "objects verified" in page.inner_text("pre")
    stored = oracle.objects(client_of(s3), bucket, "behavior_123456_2024-05-27_16-07-59/behavior/")
    assert list(stored.values()) == list(oracle.files(source).values())


def test_a_script_in_a_cell_is_text(idle, tmp_path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        'job_type,project_name,platform,acq_datetime,subject_id,modality0,modality0.input_source\n'
        '<script>alert(1)</script>,"<img src=x onerror=alert(2)>",ecephys,2024-05-27 16:07:59,1,ecephys,/data\n'
    )  # fmt: skip
    with open_page() as page:
        page.on("dialog", lambda _: pytest.fail("a cell ran as a script"))
        page.goto(idle.url)
        page.set_input_files("#file", path)
        page.get_by_role("button", name="Check").click()
        page.get_by_text("Nothing was submitted").wait_for()
        assert page.locator("input[value='<script>alert(1)</script>']").count() == 1


def test_keyboard_and_dark(idle) -> None:
    with open_page(dark=True) as page:
        page.goto(f"{idle.url}/jobs")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Submit"
        light, dark = "rgb(251, 250, 247)", page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark != light
        for label in page.locator("label").all():
            target = label.get_attribute("for")
            assert page.locator(f"#{target}").count() == 1
