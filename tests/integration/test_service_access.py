"""What a person needs to see and reach the pages: contrast, labels, parameters; and who else is answered."""

import http.client
import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser import open_page
from tests.conftest import REPOSITORY
from tests.portal import Portal, lab_job, serve

TOKEN = "correct-horse-battery-staple"
STYLES = ("lading/report/templates/base.css",)
# Ink on ground, as the templates put them; 4.5 for text (WCAG 2.2, 1.4.3), 3 for what outlines (1.4.11).
TEXT = [
    *((ink, ground) for ink in ("ink", "faint", "accent", "good", "bad") for ground in ("paper", "panel")),
    ("warn", "panel"),
    ("paper", "accent"),
    ("paper", "bad"),
    ("ink", "bar"),
]
OUTLINES = [("focus", "paper"), ("focus", "panel"), ("bad", "panel")]


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2, definition of relative luminance)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("style", STYLES)
def test_text_and_outlines_have_contrast_in_light_and_dark(style: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (REPOSITORY / style).read_text(), re.DOTALL)
    assert len(blocks) == 2
    low = []
    for name, block in zip(("light", "dark"), blocks, strict=True):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for pairs, least in ((TEXT, 4.5), (OUTLINES, 3.0)):
            for ink, ground in pairs:
                ratio = contrast(colours[ink], colours[ground])
                if ratio < least:
                    low.append(f"{name}: {ink} on {ground} {ratio:.2f} < {least}")
    assert not low, low


@pytest.fixture(scope="module")
def portal(tmp_path_factory) -> Iterator[Portal]:
    directory = tmp_path_factory.mktemp("portal")
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    preset = directory / "presets/job_types/v2/default/tasks/upload_data_to_s3.json"
    preset.parent.mkdir(parents=True)
    preset.write_text('{"job_settings": {"note": "</textarea><script>alert(1)</script>"}}')
    flags = ("--presets", str(directory / "presets"), "--token-file", str(directory / "token"))
    with serve(directory, "--bucket", "lab-bucket", *flags) as running:
        yield running


def sign_in(page: Page) -> None:
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Job submit template").wait_for()


UNNAMED = """
() => [...document.querySelectorAll('a, button, input:not([type=hidden]), select, textarea, summary')]
  .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length)))
  .map(e => e.outerHTML)
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_control_has_a_name_and_is_reached_by_keyboard(portal, tmp_path, dark: bool) -> None:
    portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("1", tmp_path / "gone")]})
    with open_page(dark=dark) as page:
        page.goto(f"{portal.url}/login")
        sign_in(page)
        for path in ("/", "/jobs", "/job_params", "/job_params?key=job_types/v2/default/tasks/upload_data_to_s3"):
            page.goto(portal.url + path)
            assert page.evaluate(UNNAMED) == [], path
            assert page.locator("h1").count() == 1
            assert page.get_attribute("html", "lang") == "en"
            controls = page.locator("a, button, input:not([type=hidden]), select, textarea").count()
            reached = set()
            for _ in range(2 * controls + 10):  # a date field takes four
                page.keyboard.press("Tab")
                reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
            assert len(reached) >= controls, path


def test_parameters_are_edited_in_the_page_with_the_token(portal) -> None:
    key = "job_types/v2/default/tasks/upload_data_to_s3"
    refused = portal.client.post("/job_params", data={"key": key, "value": "{}"})
    assert refused.status_code == 403
    assert portal.client.get("/job_params", params={"key": "nonsense"}).status_code == 200
    with open_page() as page:
        page.on("dialog", lambda _: pytest.fail("a setting ran as a script"))
        page.goto(f"{portal.url}/job_params?key={key}")
        assert page.locator("textarea").count() == 0
        page.get_by_role("link", name="Sign in").click()
        sign_in(page)
        page.goto(f"{portal.url}/job_params?key={key}")
        assert "</textarea><script>" in page.get_by_label("Settings, a JSON object").input_value()
        for wrong, says in (("{", "not JSON"), ("[]", "JSON object"), ('{"a": NaN}', "NaN")):
            page.get_by_label("Settings, a JSON object").fill(wrong)
            page.get_by_role("button", name="Save").click()
            assert says in page.get_by_role("alert").inner_text()
            assert page.get_by_label("Settings, a JSON object").input_value() == wrong
        page.get_by_label("Key, as").fill("job_types/v2/../../etc/tasks/x")
        page.get_by_role("button", name="Save").click()
        assert "A key reads" in page.get_by_role("alert").inner_text()
        page.get_by_label("Key, as").fill("job_types/v2/lab/tasks/upload_data_to_s3")
        page.get_by_label("Settings, a JSON object").fill('{"skip_task": true}')
        page.get_by_role("button", name="Save").click()
        page.get_by_role("link", name="Settings of job_types/v2/lab/tasks/upload_data_to_s3").wait_for()
    written = portal.home.parent / "presets/job_types/v2/lab/tasks/upload_data_to_s3.json"
    assert written.read_text() == '{\n  "skip_task": true\n}\n'


def status(address: tuple[str, int], host: str, **headers: str) -> int:
    with closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
        connection.request("GET", "/jobs", headers={"host": host, **headers})
        return connection.getresponse().status


def test_loopback_of_ip_6(tmp_path) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no ::1: {error}")
    with serve(tmp_path, listen="[::1]") as portal:
        assert portal.client.get("/jobs").status_code == 200
        assert status(("::1", portal.port), "evil.example") == 403


def own_address() -> str:
    """The address under which others see this machine; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError as error:
            pytest.skip(f"this machine has no address but loopback: {error}")
        return str(probe.getsockname()[0])


def test_another_address_gets_nothing_without_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    address = own_address()
    with serve(tmp_path, "--token-file", str(token), "--host", address, listen="0.0.0.0") as portal:
        there, name = (address, portal.port), f"{address}:{portal.port}"
        assert status(there, name) == 401
        assert status(there, "localhost") == 401, "a Host header makes no one local"
        assert status(there, name, authorization=f"Bearer {TOKEN}x") == 401
        assert status(there, name, authorization=f"Bearer {TOKEN}") == 200
        assert status(there, "evil.example", authorization=f"Bearer {TOKEN}") == 403


def test_a_browser_gets_pages_where_a_program_gets_json(tmp_path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    flags = ("--bucket", "lab-bucket", "--token-file", str(tmp_path / "token"), "--host", "portal.example.org")
    browser = {"accept": "text/html,application/xhtml+xml"}
    with serve(tmp_path, *flags) as portal:
        page = portal.client.get("/jobs", headers=browser)
        assert page.status_code == 401
        assert 'type="password"' in page.text
        assert portal.client.get("/jobs").json()["message"].startswith("give the token")
        bearer = {"authorization": f"Bearer {TOKEN}"}
        missing = portal.client.get("/nothing", headers={**browser, **bearer})
        assert (missing.status_code, "No such page" in missing.text) == (404, True)
        assert portal.client.get("/api/nothing", headers={**browser, **bearer}).json()["message"]


def test_who_is_told_is_said_when_a_list_is_submitted(tmp_path) -> None:
    rows = ["subject_id,acq_datetime,platform,modality0,modality0.source", "1,2024-05-27 16:07:59,behavior,behavior,/d"]
    form = {f"c{line}.{n}": cell for line, row in enumerate(rows, 1) for n, cell in enumerate(row.split(","), 1)}
    with serve(tmp_path, "--bucket", "lab-bucket") as portal:
        assert 'name="user_email"' in portal.client.post("/check", data=form).text
        told = {"user_email": "somebody@example.org", "email_notification_types": ["begin", "fail"]}
        assert portal.client.post("/submit", data={**form, **told}).status_code == 303
        with closing(sqlite3.connect(portal.home / "jobs.sqlite")) as connection:
            (job,) = connection.execute("select user_email, job from job").fetchall()
        assert job[0] == "somebody@example.org"
        assert json.loads(job[1])["job"]["email_notification_types"] == ["begin", "fail"]
        # Errors stand above the cells, and lead to them.
        page = portal.client.post("/check", data={**form, "c2.1": "a_b"})
        assert 'href="#cell2-1"' in page.text
        assert 'id="cell2-1"' in page.text
