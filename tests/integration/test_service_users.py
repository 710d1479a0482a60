"""Other users at the portal, of this machine and named by a proxy: each may do what the settings say."""

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lading.core.atomic import read_log
from lading.portal.store import FAILED, JobStore, NewJob
from tests.browser import open_page
from tests.portal import Portal, lab_job, relay, serve

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

TOKEN = "correct-horse-battery-staple"
ALICE, BOB, EVE, PROXY, LOOKER = 41_001, 41_002, 41_003, 41_004, 41_005
PARAMETER = "job_types/v2/default/tasks/upload_data_to_s3"
SITE = {
    "portal": {
        "users": {
            f"unix:{ALICE}": ["submit", "cancel_own"],
            f"unix:{BOB}": ["submit", "see_all", "cancel_own", "cancel_all", "edit_parameters"],
            f"unix:{LOOKER}": [],
            "proxy:carol": ["submit", "see_all", "cancel_own"],
        },
        "proxy": {"header": "X-Remote-User", "from": [f"unix:{PROXY}"]},
    }
}


class Users:
    """A portal on a socket file, and clients of it as users of the machine."""

    def __init__(self, portal: Portal, socket_file: Path, stack: ExitStack) -> None:
        self.portal, self.socket_file, self._stack = portal, socket_file, stack
        self.ports: dict[int, int] = {}

    def port(self, user: int) -> int:
        if user not in self.ports:
            self.ports[user] = self._stack.enter_context(relay(self.socket_file, user))
        return self.ports[user]

    def client(self, user: int, **headers: str) -> httpx.Client:
        address = f"http://localhost:{self.port(user)}"
        return self._stack.enter_context(httpx.Client(base_url=address, timeout=60, trust_env=False, headers=headers))

    def audit(self) -> list[dict[str, Any]]:
        return [record for record in read_log(self.portal.home / "audit.jsonl") if record]


@contextmanager
def served(directory: Path, site: dict[str, Any]) -> Iterator[Users]:
    """The socket file is in a directory that others may enter."""
    (directory / "presets" / PARAMETER).parent.mkdir(parents=True)
    (directory / "presets" / f"{PARAMETER}.json").write_text('{"skip_task": false}')
    (directory / "presets" / "site.json").write_text(json.dumps(site))
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    open_to_all = Path(tempfile.mkdtemp(prefix="portal-"))
    open_to_all.chmod(0o755)
    socket_file = open_to_all / "portal.sock"
    flags = ("--bucket", "lab-bucket", "--presets", str(directory / "presets"))
    flags += ("--token-file", str(directory / "token"))
    try:
        with serve(directory, *flags, listen=f"unix:{socket_file}") as portal, ExitStack() as stack:
            yield Users(portal, socket_file, stack)
    finally:
        shutil.rmtree(open_to_all)


@pytest.fixture(scope="module")
def users(tmp_path_factory) -> Iterator[Users]:
    with served(tmp_path_factory.mktemp("portal"), SITE) as found:
        yield found
        assert "Traceback" not in found.portal.home.with_suffix(".log").read_text()


def submit(client: httpx.Client, subject: str, tmp_path: Path) -> str:
    answer = client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job(subject, tmp_path / "gone")]})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"]["dag_run_ids"][0])


def listed(client: httpx.Client) -> set[str]:
    answer = client.get("/api/v1/get_job_status_list", params={"page_limit": 500})
    assert answer.status_code == 200, answer.text
    return {job["job_id"] for job in answer.json()["data"]["job_status_list"]}


def cancel(client: httpx.Client, job: str) -> tuple[int, str]:
    answer = client.post("/api/v2/cancel_job", json={"dag_run_id": job})
    return answer.status_code, answer.json()["message"]


def test_each_user_sees_and_may_do_what_the_settings_say(users: Users, tmp_path: Path) -> None:
    alice, bob = users.client(ALICE), users.client(BOB)
    carol = users.client(PROXY, **{"X-Remote-User": "carol"})
    of_alice, of_bob, of_carol = (
        submit(alice, "a1", tmp_path),
        submit(bob, "b1", tmp_path),
        submit(carol, "c1", tmp_path),
    )
    # What is seen: the list, a job, its tasks and its log.
    assert listed(alice) == {of_alice}
    assert {of_alice, of_bob, of_carol} <= listed(bob) & listed(carol) & listed(users.portal.client)
    for path in ("/api/v1/get_tasks_list", "/api/v1/get_task_logs", "/job_tasks_table", "/task_logs", "/confirm"):
        more = {"action": "cancel"} if path == "/confirm" else {}
        assert alice.get(path, params={"dag_run_id": of_alice, **more}).status_code == 200, path
        assert alice.get(path, params={"dag_run_id": of_bob, **more}).status_code == 404, path
    answer = alice.get("/api/v1/get_job_status_list", params={"owner": f"unix:{BOB}"})
    assert answer.json()["data"]["total_entries"] == 0
    # What is cancelled: of others only by who may.
    assert cancel(alice, of_bob) == (404, f"no job {of_bob}")
    status, says = cancel(carol, of_bob)
    assert (status, says) == (
        403,
        "proxy:carol may not cancel behavior_b1_2024-05-27_16-07-59: the right cancel_all in portal.users "
        "of the site's settings",
    )
    assert cancel(bob, of_alice)[0] in (200, 406)
    assert cancel(alice, of_alice)[0] in (200, 406)
    looker = users.client(LOOKER)
    assert listed(looker) == set()
    refused = looker.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("l1", tmp_path)]})
    assert (refused.status_code, "may not submit or check lists" in refused.json()["message"]) == (403, True)
    assert looker.post("/api/v2/validate_csv", files={"file": ("list.csv", b"subject_id\n1\n")}).status_code == 403
    assert looker.post("/check", files={"file": ("list.csv", b"subject_id\n1\n")}).status_code == 403
    # A retry is a submission of somebody's job.
    users.portal.wait()
    assert carol.post("/api/v2/retry_job", json={"dag_run_id": of_bob}).status_code == 403
    assert bob.post("/api/v2/retry_job", json={"dag_run_id": of_carol}).status_code == 200
    # Parameters.
    for client, status in ((alice, 403), (carol, 403), (looker, 403), (users.portal.client, 403), (bob, 200)):
        answer = client.put(f"/api/v2/parameters/{PARAMETER.replace('/v2/', '/')}",
                            json={"skip_task": False})  # fmt: skip
        assert answer.status_code == status, answer.text
        assert client.post("/job_params", data={"key": PARAMETER, "value": '{"skip_task": false}'}).status_code == (
            303 if status == 200 else 403
        )
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert {of_alice, of_bob, of_carol} <= listed(users.client(EVE, **bearer))


def test_strangers_are_not_answered(users: Users) -> None:
    eve = users.client(EVE)
    for path in ("/jobs", "/api/v1/get_job_status_list", "/openapi.json", "/live.js"):
        answer = eve.get(path)
        assert answer.status_code == 403
        assert answer.json()["message"].startswith(f"unix:{EVE} may not use this portal")
    page = eve.get("/jobs", headers={"accept": "text/html"})
    assert (page.status_code, f"unix:{EVE} may not use this portal" in page.text) == (403, True)
    for user in (EVE, ALICE):
        forged = users.client(user, **{"X-Remote-User": "carol"}).get("/jobs")
        assert (forged.status_code, "believed only from" in forged.text) == (403, True)
    assert users.client(PROXY).get("/jobs").status_code == 401
    assert users.client(PROXY, **{"X-Remote-User": "mallory"}).get("/jobs").status_code == 403
    for name in (b"carol, unix:root", b"\xff", b"<script>", b"", b"unix:%d" % BOB):
        client = users.client(PROXY)
        request = client.build_request("GET", "/jobs", headers=[(b"X-Remote-User", name)])
        assert client.send(request).status_code == 403, name
    assert stat.S_IMODE(users.socket_file.stat().st_mode) == 0o666


def test_who_did_what_is_in_the_log(users: Users, tmp_path: Path) -> None:
    alice = users.client(ALICE)
    before = len(users.audit())
    job = submit(alice, "log1", tmp_path)
    cancel(users.client(PROXY, **{"X-Remote-User": "carol"}), job)
    users.client(EVE).post("/login", data={"token": TOKEN})
    found = users.audit()[before:]
    asked = [record for record in found if record["kind"] == "asked"]
    assert [(record["who"], record["way"], record["do"]) for record in asked] == [
        (f"unix:{ALICE}", "socket", "submit"), ("proxy:carol", "proxy", "cancel"), ("token", "token", "sign in")
    ]  # fmt: skip
    assert [record["peer"] for record in asked] == [f"unix:{user}" for user in (ALICE, PROXY, EVE)]
    answers = {record["id"]: record for record in found if record["kind"] == "answered"}
    outcomes = [answers[record["id"]]["outcome"] for record in asked]
    assert outcomes == ["done", "forbidden", "done"]
    assert answers[asked[0]["id"]]["jobs"] == [job]
    path = users.portal.home / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TOKEN not in path.read_text()
    assert users.audit()[0]["kind"] == "audit"


def test_the_pages_show_each_user_what_may_be_done(users: Users) -> None:
    """In a real browser, over a socket file that the user's own process opened."""
    store = JobStore(users.portal.home / "jobs.sqlite")
    for job, owner in ((of_alice := "page1", f"unix:{ALICE}"), (of_bob := "page2", f"unix:{BOB}")):
        store.add([NewJob(job, f"behavior_{job}", "lab-bucket", "default", None, "{}", owner=owner)])
        store.end(job, FAILED, "planted")
    with open_page() as page:
        page.goto(f"http://localhost:{users.port(ALICE)}/jobs")
        assert page.locator(".who").inner_text() == f"You are unix:{ALICE}"
        assert page.locator(f"a[href*='{of_bob}']").count() == 0
        assert page.get_by_role("link", name="Retry behavior_page1").count() == 1
        assert page.locator(f"tr:has(a[href*='{of_alice}']) td.owner").inner_text() == f"unix:{ALICE}"
        page.goto(f"http://localhost:{users.port(ALICE)}/job_params")
        assert page.get_by_role("button", name="Save").count() == 0
        page.goto(f"http://localhost:{users.port(BOB)}/jobs")
        assert page.get_by_role("link", name="Retry behavior_page1").count() == 1
        page.goto(f"http://localhost:{users.port(BOB)}/job_params")
        assert page.get_by_role("button", name="Save").count() == 1
        page.goto(f"http://localhost:{users.port(LOOKER)}/")
        page.get_by_role("heading", name="Jobs").wait_for()
        assert page.get_by_role("link", name="Submit", exact=True).count() == 0
        page.get_by_text("No job matches").wait_for()


def test_without_users_the_socket_is_the_owners(tmp_path: Path) -> None:
    with served(tmp_path, {}) as users:
        assert stat.S_IMODE(users.socket_file.stat().st_mode) == 0o600
        assert users.portal.client.get("/jobs").status_code == 200
        command = ["curl", "-sS", "--max-time", "10", "--unix-socket", str(users.socket_file), "http://localhost/jobs"]
        done = subprocess.run(command, capture_output=True, user=ALICE, group=ALICE, extra_groups=[], check=False)
        assert done.returncode == 7, done
