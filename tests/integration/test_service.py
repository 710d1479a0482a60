"""The portal: REST, access, durability; the pages are in test_service_pages.py."""

import csv
import http.client
import io
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Thread

import httpx
import pytest
from openpyxl import Workbook

from lading.portal.job_process import STATE, hold, outcome_path
from lading.portal.service import PortalService
from lading.portal.store import (
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCESS,
    DuplicatePrefixError,
    Filter,
    JobStore,
    NewJob,
)
from lading.portal.supervisor import Supervisor
from lading.sessions.journal import JobJournal
from lading.sessions.state_paths import DRY_RUN, paths_of
from tests import oracle
from tests.conftest import REPOSITORY
from tests.integration.test_whole_way import client_of
from tests.portal import Portal, lab_job, list_text, runner_of, serve

TOKEN = "correct-horse-battery-staple"


def new(number: int, prefix: str | None = None) -> NewJob:
    return NewJob(f"j{number}", prefix or f"p{number}", "b", "default", None, "subject_id\n1\n")


def test_an_open_prefix_is_taken_once_and_a_list_whole_or_not_at_all(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add([new(1)])
    with pytest.raises(DuplicatePrefixError):
        store.add([new(2), new(3, "p1")])
    assert store.get("j2") is None
    store.end("j1", SUCCESS, "")
    store.add([new(3, "p1")])
    assert [job.id for job in store.in_state(QUEUED)] == ["j3"]


def test_a_job_ends_once(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add([new(1)])
    assert store.start("j1")
    assert not store.start("j1")
    assert store.end("j1", SUCCESS, "")
    assert not store.end("j1", CANCELLED, "")
    assert not store.ask_cancel("j1")
    assert not store.retry("j1")
    job = store.get("j1")
    assert job
    assert job.state == SUCCESS


def test_a_job_that_cannot_be_started_holds_up_no_other(tmp_path, caplog) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add([new(1), new(2)])
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "j1").touch()  # where its directory should be
    supervisor = Supervisor(store, tmp_path, 2)
    thread = Thread(target=supervisor.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while store.in_state(QUEUED) != [store.get("j1")] or store.in_state(RUNNING):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        ended = store.get("j2")
        assert ended
        assert (ended.state, ended.comment[:13]) == (FAILED, "the job list ")
        assert "job j1 (p1) could not be checked" in caplog.text
        # What was in the way is gone: the job goes on without a restart.
        (tmp_path / "jobs" / "j1").unlink()
        while store.in_state(QUEUED) or store.in_state(RUNNING):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        supervisor.stop()
        thread.join()


def test_the_reason_of_an_earlier_attempt_is_not_told_again(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add([new(1)])
    supervisor = Supervisor(store, tmp_path, 0)
    directory = supervisor.directory("j1")
    directory.mkdir(parents=True)
    for attempt, told_now in ((1, True), (2, False)):
        store.start("j1")
        if told_now:
            with JobJournal(paths_of(tmp_path / STATE, "b", "p1").create().journal) as journal:
                journal.begin()
                journal.task("upload_data_to_s3", "", "failed", message="the bucket is gone")
                journal.write("end", state="failed", message="the bucket is gone")
        outcome_path(directory, attempt).write_text('{"exit": 3}')
        supervisor.step()
        job = store.get("j1")
        assert job
        assert job.state == FAILED
        assert ("the bucket is gone" in job.comment) is told_now, job.comment
        assert store.retry("j1")
        time.sleep(0.01)


def test_a_dry_run_is_followed_and_cancelled_in_its_own_place(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    real = paths_of(tmp_path / STATE, "b", "p1").create()
    with JobJournal(real.journal) as journal:
        journal.begin()
        journal.task("upload_data_to_s3", "", "finished")
    store.add([NewJob("j1", "p1", "b", "default", None, "subject_id\n1\n", dry_run=True)])
    dry = paths_of(tmp_path / STATE, "b", "p1", dry_run=True).create()
    desk, supervisor = PortalService(store, tmp_path), Supervisor(store, tmp_path, 0)
    assert [task["task_state"] for task in desk.tasks("j1") or () if task["task_state"]] == []
    assert desk.logs("j1", "upload_data_to_s3") == ""
    with JobJournal(dry.journal) as journal:
        journal.begin()
        journal.task("gather_preliminary_metadata", "", "finished")
    begun = [task["task_id"] for task in desk.tasks("j1") or () if task["task_state"]]
    assert begun == ["gather_preliminary_metadata"]
    store.start("j1")
    desk.cancel("j1")
    with hold_runner(supervisor.directory("j1")):
        supervisor.step()
    assert dry.cancel.exists()
    assert not real.cancel.exists()


@contextmanager
def hold_runner(directory: Path) -> Iterator[None]:
    """A runner's lock in this process: the job runs."""
    directory.mkdir(parents=True)
    with hold(directory):
        yield


def test_a_dry_run_is_noted_when_it_is_taken_in(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    desk = PortalService(store, tmp_path, bucket="lab-bucket")
    jobs = [lab_job("1", Path("/data"), dry_run=True), lab_job("2", Path("/data"))]
    found = [store.get(job_id) for job_id in desk.submit(desk.take_json(jobs))]
    assert [job.dry_run for job in found if job] == [True, False]
    assert desk.place(found[0]).directory.name.endswith(DRY_RUN)  # type: ignore[arg-type]


def test_a_table_of_before_is_taken_over(tmp_path) -> None:
    path = tmp_path / "jobs.sqlite"
    JobStore(path).add([new(1)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("alter table job drop column dry_run")
    store = JobStore(path)
    store.add([NewJob("j2", "p2", "b", "default", None, "subject_id\n1\n", dry_run=True)])
    assert [(job.id, job.dry_run) for job in store.in_state(QUEUED)] == [("j1", False), ("j2", True)]


def test_filters_select(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add([new(number) for number in range(30)])
    store.start("j7")
    assert store.select(Filter(states=(RUNNING,)))[0] == 1
    assert store.select(Filter(name="P1"))[0] == 11
    assert store.select(Filter(name="%"))[0] == 0
    total, page = store.select(Filter(), offset=10, limit=5)
    assert (total, len(page)) == (30, 5)
    assert store.select(Filter(since="2999"))[0] == 0


def test_dates_compare_as_time(idle, tmp_path) -> None:
    store = JobStore(idle.home / "jobs.sqlite")
    store.add([new(90)])
    job = store.get("j90")
    assert job
    moment = datetime.fromisoformat(job.submitted)
    elsewhere = moment.astimezone(timezone(timedelta(hours=5)))
    store.end("j90", CANCELLED, "")
    for date, found in (
        (elsewhere.isoformat(), True),
        ((elsewhere + timedelta(seconds=1)).isoformat(), False),
        (moment.replace(tzinfo=None).isoformat(sep=" "), True),
        ("2999-01-01", False),
    ):
        answer = idle.client.get("/api/v1/get_job_status_list", params={"execution_date_gte": date, "name": "p90"})
        assert answer.status_code == 200, answer.text
        assert bool(answer.json()["data"]["total_entries"]) is found, date
    for wrong in ({"execution_date_lte": "yesterday"}, {"state": "finished"}):
        answer = idle.client.get("/api/v1/get_job_status_list", params=wrong)
        assert answer.status_code == 406
        assert next(iter(wrong.values())) in answer.json()["message"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "behavior"
    folder.mkdir()
    for number in range(3):
        (folder / f"trial-{number}.csv").write_bytes(os.urandom(1000))
    return folder


@pytest.fixture(scope="module")
def idle(tmp_path_factory) -> Iterator[Portal]:
    """A portal for what is answered without running a job; its site lists one secret."""
    folder = tmp_path_factory.mktemp("idle")
    (folder / "presets").mkdir()
    (folder / "presets" / "site.json").write_text('{"portal": {"secrets": ["env:NAME_OF_IT"]}}')
    with serve(folder, "--bucket", "lab-bucket", "--presets", str(folder / "presets")) as running:
        yield running


@pytest.fixture
def portal(tmp_path, s3, bucket):
    s3.make_bucket(bucket)
    with serve(tmp_path, "--bucket", bucket, "--endpoint-url", s3.endpoint) as running:
        yield running


def test_a_job_by_rest_ends_in_the_bucket(portal, source, s3, bucket) -> None:
    answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("123456", source)]})
    assert answer.status_code == 200, answer.text
    again = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("123456", source)]})
    assert again.status_code == 406
    assert "behavior_123456_2024-05-27_16-07-59" in again.json()["data"]["errors"][0]["message"]
    (job,) = portal.wait()
    log = portal.client.get("/api/v1/get_task_logs", params={"dag_run_id": job["job_id"]}).json()["data"]["logs"]
    assert job["job_state"] == "success", log
    stored = oracle.objects(client_of(s3), bucket, job["name"] + "/behavior/")
    assert sorted(stored.values()) == sorted(oracle.files(source).values())
    tasks = portal.client.get("/api/v1/get_tasks_list", params={"dag_run_id": job["job_id"]}).json()["data"]
    assert {"upload_data_to_s3", "check_source_folders_exist"} <= {task["task_id"] for task in tasks["job_tasks_list"]}


def test_faults_come_back_by_line_and_column(idle) -> None:
    text = list_text(
        [
            {"job_type": "default", "project_name": "Lab", "platform": "ecefys", "acq_datetime": "2024-05-27 16:07:59",
             "subject_id": "1", "modality0": "ecephys", "modality0.input_source": "relative/path"},
        ]
    )  # fmt: skip
    answer = idle.client.post("/api/v2/validate_csv", files={"file": ("list.csv", text.encode())})
    assert answer.status_code == 406
    places = {(fault["line"], fault["column"]) for fault in answer.json()["data"]["errors"]}
    assert places == {(2, 3), (2, 7)}


def test_what_is_no_list_is_refused(idle, tmp_path) -> None:
    client = idle.client
    for name, content in (
        ("a.txt", b"x"),
        ("a.csv", b"\xff\xfe"),
        ("a.xlsx", b"PK\x03\x04"),
        ("a.csv", b""),
        ("a.csv", b'"'),
    ):
        answer = client.post("/api/v2/validate_csv", files={"file": (name, content)})
        assert answer.status_code == 406, (name, content, answer.text)
        assert answer.json()["data"]["errors"]
    rows = "subject_id\n" + "1\n" * 100_000
    answer = client.post("/api/v2/validate_csv", files={"file": ("rows.csv", rows.encode())})
    assert answer.status_code == 406
    huge = client.post("/api/v2/validate_csv", content=b"x" * 11_000_000, headers={"content-type": "text/csv"})
    assert huge.status_code == 413


def test_a_failed_job_says_why_in_its_row(portal, tmp_path) -> None:
    answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("1", tmp_path / "gone")]})
    assert answer.status_code == 200, answer.text
    (job,) = portal.wait()
    assert job["job_state"] == "failed"
    assert job["comment"] == f"check_source_folders_exist: modality0: {tmp_path}/gone does not exist"


def test_secrets_are_not_taken_in(portal, source, tmp_path) -> None:
    job = lab_job("1", source, video_encryption_password="planted-secret-value")
    answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [job]})
    assert answer.status_code == 406
    assert "planted-secret-value" not in answer.text
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"planted-secret-value" not in path.read_bytes(), path


HEADER = "job_type,project_name,platform,acq_datetime,subject_id,modality0,modality0.input_source"
ROW = "default,Lab,behavior,2024-05-27 16:07:59,{},behavior,{}"
SECRETS = [
    ("update_docdb_record.api_token", "{}"),
    ("modality0.password", "{}"),
    ("update_docdb_record.token.value", "{}"),
    ("update_docdb_record.more", '{{"login": [{{"api_token": "{}"}}]}}'),
    ("update_docdb_record.more", '[["env:X", {{"secret": ["{}"]}}]]'),
]


@pytest.mark.parametrize(("column", "cell"), SECRETS)
def test_a_setting_that_is_a_secret_is_not_taken_in(idle, tmp_path, column: str, cell: str) -> None:
    client, planted = idle.client, "planted-secret-value"
    quoted = '"' + cell.format(planted).replace('"', '""') + '"'
    text = f"{HEADER},{column}\n" + ROW.format("1", "/data") + f",{quoted}\n"
    answer = client.post("/api/v2/validate_csv", files={"file": ("list.csv", text.encode())})
    assert answer.status_code == 406
    faults = answer.json()["data"]["errors"]
    assert {(fault["line"], fault["column"]) for fault in faults} == {(2, 8)}
    assert any("ssm:NAME" in fault["message"] for fault in faults)
    assert planted not in answer.text
    page = client.post("/check", files={"file": ("list.csv", text.encode())})
    assert page.status_code == 406
    assert "ssm:NAME" in page.text
    assert planted not in page.text
    grid = {f"c{line}.{n}": value for line, row in enumerate(csv.reader(text.splitlines()), 1)
            for n, value in enumerate(row, 1)}  # fmt: skip
    assert planted not in client.post("/submit", data=grid).text
    named = text.replace(planted, "env:NAME_OF_IT")
    answer = client.post("/api/v2/validate_csv", files={"file": ("list.csv", named.encode())})
    # Of these only the first is a setting that anything reads.
    assert answer.status_code == (200 if column == SECRETS[0][0] else 406), answer.text
    assert "ssm:NAME" not in answer.text


@pytest.mark.parametrize(
    "value", ["planted-secret-value", 4711, ["planted-secret-value"], {"of": "planted-secret-value"}]
)
def test_a_secret_in_json_is_not_taken_in(idle, value: object) -> None:
    job = lab_job("1", Path("/data"))
    job["tasks"]["update_docdb_record"] = {"job_settings": {"api_token": value}}
    answer = idle.client.post("/api/v2/submit_jobs", json={"upload_jobs": [job]})
    assert answer.status_code == 406, answer.text
    assert "api_token" in answer.json()["data"]["errors"][0]["message"]
    assert "planted" not in answer.text
    for path in idle.home.glob("jobs.sqlite*"):
        assert b"planted-secret-value" not in path.read_bytes()
    for harmless in ("ssm:/lab/token", "", None):
        job["tasks"]["update_docdb_record"]["job_settings"]["api_token"] = harmless
        assert idle.client.post("/api/v2/validate_json", json={"upload_jobs": [job]}).status_code == 200, harmless


def test_a_secret_in_a_workbook_is_not_sent_around(idle) -> None:
    book, content = Workbook(), io.BytesIO()
    assert book.active
    book.active.append([*HEADER.split(","), "update_docdb_record.api_token"])
    book.active.append([])
    book.active.append([*ROW.format("1", "/data").split(","), "planted-secret-value"])
    book.save(content)
    page = idle.client.post("/check", files={"file": ("list.xlsx", content.getvalue())})
    assert page.status_code == 406
    assert "ssm:NAME" in page.text
    assert "planted-secret-value" not in page.text


@pytest.mark.parametrize(("blank", "name"), [(2, "one"), (0, "two\nlines"), (1, "two\nlines")])
def test_the_faults_of_a_workbook_stand_in_their_cells(idle, blank: int, name: str) -> None:
    book, content = Workbook(), io.BytesIO()
    assert book.active
    book.active.append([*HEADER.split(","), "processor_name"])
    for _ in range(blank):
        book.active.append([])
    # With one blank row and one line break too many, a wrong count would come out right: hence two of these.
    for subject in ("1", "2"):
        book.active.append([*ROW.format(subject, f"/{subject}").split(","), name])
    book.active.append([*ROW.format("3", "relative").split(","), "one"])
    book.save(content)
    page = idle.client.post("/check", files={"file": ("list.xlsx", content.getvalue())})
    assert page.status_code == 406
    (fault,) = re.findall(r'<td class="fault">.*?</td>', page.text, re.DOTALL)
    assert f'name="c{blank + 4}.7" value="relative"' in fault
    assert "is not an absolute path" in fault


def test_the_secret_of_a_preset_is_not_shown_in_an_answer(tmp_path) -> None:
    preset = tmp_path / "presets/job_types/v2/default/tasks/update_docdb_record.json"
    preset.parent.mkdir(parents=True)
    preset.write_text('{"job_settings": {"api_token": "planted-secret-value", "collection": "assets"}}')
    with serve(tmp_path, "--bucket", "lab-bucket", "--presets", str(tmp_path / "presets")) as portal:
        answer = portal.client.post("/api/v2/validate_json", json={"upload_jobs": [lab_job("1", Path("/data"))]})
    assert answer.status_code == 200, answer.text
    assert "planted-secret-value" not in answer.text


def test_a_cell_cannot_leave_its_place(idle, source) -> None:
    for subject in ("../../etc", "a/b", "<script>", "a\nb", "a" * 300, "=cmd|' /C calc'!A0"):
        answer = idle.client.post("/api/v2/validate_json", json={"upload_jobs": [lab_job(subject, source)]})
        assert answer.status_code == 406, subject
    for key in ("..%2f..%2fetc", "a%2fb", "%2e%2e"):
        answer = idle.client.get(f"/api/v2/parameters/job_types/{key}/tasks/compress_data")
        assert answer.status_code in (404, 422), key


def test_other_sites_and_names_are_refused(idle) -> None:
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}, {"origin": "null"}):
        assert idle.client.get("/jobs", headers=headers).status_code == 403, headers
        assert idle.client.post("/api/v2/submit_jobs", json={}, headers=headers).status_code == 403


def fetch_as(user: int, portal: Portal, path: str, **headers: str) -> int:
    """The status that another user of this machine gets: a child that becomes that user and asks."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(user)
            os.setuid(user)
            connection = http.client.HTTPConnection("127.0.0.1", portal.port, timeout=30)
            connection.request("GET", path, headers=headers)
            os.write(writing, str(connection.getresponse().status).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as answer:
        return int(answer.read())


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_of_this_machine_gets_nothing_without_the_token(tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with serve(tmp_path, "--token-file", str(token)) as portal:
        for path in (
            "/",
            "/jobs",
            "/openapi.json",
            "/live.js",
            "/api/v2/parameters",
            "/api/job_upload_template",
            "/nothing",
        ):
            assert fetch_as(65534, portal, path) in (401, 403), path
            assert fetch_as(65534, portal, path, Authorization=f"Bearer {TOKEN}x") == 401
        assert fetch_as(65534, portal, "/jobs", Authorization=f"Bearer {TOKEN}") == 200
        assert portal.client.get("/jobs").status_code == 200
        signed = httpx.Client(base_url=portal.url, trust_env=False)
        assert signed.post("/login", data={"token": "wrong"}).status_code == 401
        assert signed.post("/login", data={"token": TOKEN}).status_code == 303
        assert TOKEN not in str(signed.cookies)
        assert TOKEN not in (tmp_path / "home.log").read_text()


def test_the_socket_is_the_owners_and_others_are_not_listened_to(tmp_path, run) -> None:
    path = tmp_path / "portal.sock"
    command = [sys.executable, "-m", "jobs", "serve", "--listen", f"unix:{path}", "--home", str(tmp_path / "home")]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost")
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert client.get("/jobs").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        rebound = {"host": "evil.example:8080", "origin": "http://evil.example:8080"}
        assert client.post("/api/v2/submit_jobs", json={"upload_jobs": []}, headers=rebound).status_code == 403
        second = run("-m", "jobs", "serve", "--listen", f"unix:{path}", "--home", tmp_path / "home2", cwd=tmp_path)
        assert second.returncode == 1
        assert "another portal" in second.stderr
    finally:
        client.close()
        process.terminate()
        process.wait(30)
    refused = run("-m", "jobs", "serve", "--listen", "0.0.0.0:0", "--home", tmp_path / "home3", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--token-file" in refused.stderr


def test_a_busy_port_is_a_sentence(tmp_path, run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("-m", "jobs", "serve", "--listen", address, "--home", tmp_path / "home", cwd=tmp_path)
    assert result.returncode == 1
    assert address in result.stderr
    assert "Traceback" not in result.stderr


def told(portal: Portal, jobs: list[dict]) -> str:
    """What the first job that did not succeed says."""
    job = next(job for job in jobs if job["job_state"] != "success")
    return f"{job}\n{(portal.home / 'jobs' / job['job_id'] / 'run.log').read_text()[-4000:]}"


@pytest.mark.long
def test_killed_with_twenty_jobs_every_job_ends_once(portal, source, s3, bucket) -> None:
    jobs = [lab_job(str(number), source) for number in range(20)]
    assert portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": jobs}).status_code == 200
    for _ in range(3):
        time.sleep(4)
        portal.kill()
        portal.start()
    ended = portal.wait(600)
    assert [job["job_state"] for job in ended] == ["success"] * 20, told(portal, ended)
    for job in ended:
        outcomes = list((portal.home / "jobs" / job["job_id"]).glob("outcome-*.json"))
        assert len(outcomes) == 1
        ends = (portal.home / "state" / bucket / job["name"] / "journal.jsonl").read_text().count('"event":"end"')
        assert ends == 1
        assert len(oracle.objects(client_of(s3), bucket, job["name"] + "/behavior/")) == 3


@pytest.mark.long
def test_a_killed_runner_is_started_again_and_its_job_ends_once(portal, source, s3, bucket) -> None:
    jobs = [lab_job(str(number), source) for number in range(3)]
    assert portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": jobs}).status_code == 200
    killed: dict[str, set[int]] = {job["job_id"]: set() for job in portal.jobs()}
    deadline = time.monotonic() + 240
    # Each job loses its runner twice: at once, and in the midst of its tasks. The service itself goes once.
    while any(len(pids) < 2 for pids in killed.values()) and time.monotonic() < deadline:
        for job_id, pids in killed.items():
            pid = runner_of(portal.home / "jobs" / job_id)
            if pid and pid not in pids and len(pids) < 2:
                time.sleep(0.8 * len(pids))
                os.kill(pid, signal.SIGKILL)
                pids.add(pid)
        if portal.process and sum(map(len, killed.values())) == 3:
            portal.kill()
            portal.start()
        time.sleep(0.05)
    assert all(len(pids) == 2 for pids in killed.values()), killed
    ended = portal.wait(240)
    assert [job["job_state"] for job in ended] == ["success"] * 3, told(portal, ended)
    for job in ended:
        directory = portal.home / "jobs" / job["job_id"]
        assert (directory / "deaths-1").read_text() == "2"
        assert len(list(directory.glob("outcome-*.json"))) == 1
        assert (portal.home / "state" / bucket / job["name"] / "journal.jsonl").read_text().count('"event":"end"') == 1
        assert len(oracle.objects(client_of(s3), bucket, job["name"] + "/behavior/")) == 3


@pytest.mark.long
def test_the_interface_keeps_its_own_description(portal) -> None:
    """schemathesis: no 500 and no answer that /openapi.json does not describe, whatever is sent."""
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        str(program),
        "run",
        f"{portal.url}/openapi.json",
        "--max-examples",
        os.environ.get("LADING_EXAMPLES", "15"),
    ]
    command += [
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False, cwd=portal.home)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
