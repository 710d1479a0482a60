"""What the portal's token can do, and what of the portal others on the machine can read."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lading.portal.policy import Policy, address
from lading.portal.store import JobStore
from tests.conftest import REPOSITORY
from tests.portal import Portal, lab_job, serve

TOKEN = "correct-horse-battery-staple"
SITE: dict[str, Any] = {
    "allow_programs": True,
    "secrets": ["env:LISTED", "file:/secrets/listed"],
    "domains": ["https://codeocean.example.org", "docdb.example.org", "http://127.0.0.1:8123"],
}


def serve_with(directory: Path, settings: dict[str, Any] | None) -> Any:
    (directory / "presets").mkdir(parents=True)
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    if settings is not None:
        (directory / "presets" / "site.json").write_text(json.dumps({"portal": settings}))
    return serve(directory, "--bucket", "lab-bucket", "--presets", str(directory / "presets"), "--token-file",
                 str(directory / "token"))  # fmt: skip


@pytest.fixture(scope="module")
def closed(tmp_path_factory) -> Iterator[Portal]:
    """A portal whose site says nothing."""
    with serve_with(tmp_path_factory.mktemp("closed"), None) as running:
        yield running


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Iterator[Portal]:
    """A portal whose site allows programs, two secrets and three addresses."""
    with serve_with(tmp_path_factory.mktemp("opened"), SITE) as running:
        yield running


def faults_of(portal: Portal, **more: Any) -> list[str]:
    """What is said of a job in JSON, and of the same in a csv file where it can be written so."""
    job = lab_job("1", Path("/data"))
    job["tasks"].update(more.pop("tasks", {}))
    answer = portal.client.post("/api/v2/validate_json", json={"upload_jobs": [job | more]})
    assert answer.status_code in (200, 406), answer.text
    return [fault["message"] for fault in answer.json()["data"].get("errors", [])]


HEADER = "job_type,project_name,platform,acq_datetime,subject_id,modality0,modality0.input_source"
ROW = "default,Lab,behavior,2024-05-27 16:07:59,1,behavior,/data"


def faults_of_csv(portal: Portal, column: str, cell: str) -> list[str]:
    quoted = '"' + cell.replace('"', '""') + '"'
    text = f"{HEADER},{column}\n{ROW},{quoted}\n"
    answer = portal.client.post("/api/v2/validate_csv", files={"file": ("list.csv", text.encode())})
    page = portal.client.post("/check", files={"file": ("list.csv", text.encode())})
    assert answer.status_code == page.status_code, (answer.text, page.text)
    return [fault["message"] for fault in answer.json()["data"].get("errors", [])]


PROGRAMS = [
    {"compress_data": {"command_script": "id > /tmp/x"}},
    {"compress_data": {"image": "docker://evil.example/x"}},
    {"upload_data_to_s3": {"Command_Script": "id"}},
    {"compress_data": {"job_settings": {"ffmpeg_arguments": "-f mp4 /home/owner/.bashrc"}}},
]


@pytest.mark.parametrize("tasks", PROGRAMS, ids=str)
def test_a_program_by_rest_needs_the_owner(closed, opened, tasks) -> None:
    said = " ".join(faults_of(closed, tasks=tasks))
    assert "portal.allow_programs" in said or "not known" in said or "is not a column" in said, said
    assert not any("portal.allow_programs" in message for message in faults_of(opened, tasks=tasks))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("compress_data.command_script", "id"),
        ("compress-data.command-script", "id"),
        ("compress_data.image", "evil"),
        ("modality0.ffmpeg_arguments", "-c copy"),
        ("modality0.job_settings.ffmpeg_arguments", "-c copy"),
        ("modality0.extra_configs", "/shared/of-me.yaml"),
    ],
)
def test_a_program_in_a_file_needs_the_owner(closed, column, cell) -> None:
    faults = faults_of_csv(closed, column, cell)
    assert any("portal.allow_programs" in said for said in faults), faults


def test_nothing_of_it_is_queued(closed) -> None:
    job = lab_job("77", Path("/data"))
    job["tasks"]["compress_data"] = {"command_script": "id"}
    assert closed.client.post("/api/v2/submit_jobs", json={"upload_jobs": [job]}).status_code == 406
    assert closed.jobs() == []


@pytest.mark.parametrize("where", ["env:AWS_SECRET_ACCESS_KEY", "file:/root/.aws/credentials", "file:token", "env:"])
@pytest.mark.parametrize("column", ["codeocean_api_token", "video_encryption_password"])
def test_a_secret_that_the_owner_did_not_list_is_not_read(closed, opened, where, column) -> None:
    for portal in (closed, opened):
        assert any("portal.secrets" in said for said in faults_of(portal, **{column: where}))
    assert faults_of(opened, **{column: "env:LISTED"}) == []
    assert faults_of(opened, **{column: "file:/secrets/listed"}) == []


def test_a_secret_of_a_task_too(closed, opened) -> None:
    for settings in ({"api_token": "env:AWS_SECRET_ACCESS_KEY"}, {"more": [{"token": ["file:/etc/shadow"]}]}):
        tasks = {"update_docdb_record": {"job_settings": settings}}
        assert any("portal.secrets" in said for said in faults_of(closed, tasks=tasks)), settings
    tasks = {"update_docdb_record": {"job_settings": {"api_token": "env:LISTED"}}}
    assert faults_of(opened, tasks=tasks) == []


@pytest.mark.parametrize(
    "domain",
    [
        "https://evil.example", "https://codeocean.example.org.evil.example", "https://codeocean.example.org:444",
        "https://codeocean.example.org@evil.example", "https://x:y@codeocean.example.org", "http://127.0.0.1:9999",
    ],
)  # fmt: skip
def test_secrets_go_to_listed_addresses_only(closed, opened, domain) -> None:
    for portal in (closed, opened):
        faults = faults_of(portal, codeocean_domain=domain, codeocean_api_token="env:LISTED")
        assert any("portal.domains" in said or said.startswith("codeocean_domain") for said in faults), faults
        # The document database's token is of the site: another address would get it.
        faults = faults_of(portal, tasks={"update_docdb_record": {"job_settings": {"url": domain}}})
        assert any("portal.domains" in said for said in faults), faults


def test_listed_addresses_are_fine(opened) -> None:
    for domain in ("https://codeocean.example.org", "https://CodeOcean.example.org:443/", "http://127.0.0.1:8123"):
        assert faults_of(opened, codeocean_domain=domain, codeocean_api_token="env:LISTED") == [], domain
    tasks = {"update_docdb_record": {"job_settings": {"url": "https://docdb.example.org/v1"}}}
    assert faults_of(opened, tasks=tasks) == []


@pytest.mark.parametrize(
    ("task", "value", "setting"),
    [
        ("compress_data", {"command_script": "id"}, "portal.allow_programs"),
        ("modality_transformation_settings/behavior", {"image": "x"}, "portal.allow_programs"),
        ("modality_transformation_settings", {"behavior": {"command_script": "id"}}, "portal.allow_programs"),
        ("modality_transformation_settings/behavior", {"job_settings": {"ffmpeg_arguments": "x"}}, "allow_programs"),
        ("update_docdb_record", {"job_settings": {"url": "https://evil.example"}}, "portal.domains"),
        ("update_docdb_record", {"job_settings": {"api_token": "env:HOME"}}, "portal.secrets"),
    ],
)
def test_a_preset_by_rest_is_held_to_the_same(closed, task, value, setting) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = closed.client.put(f"/api/v2/parameters/job_types/evil/tasks/{task}", json=value, headers=headers)
    assert answer.status_code == 406, answer.text
    assert setting in answer.text
    assert not (closed.home.parent / "presets" / "job_types").exists()


def test_a_preset_of_the_owner_may_have_a_program(tmp_path) -> None:
    preset = tmp_path / "presets/job_types/v2/default/tasks/modality_transformation_settings/behavior.json"
    preset.parent.mkdir(parents=True)
    preset.write_text(json.dumps({"command_script": "true", "job_settings": {"extra": 1}}))
    with serve(tmp_path, "--bucket", "lab-bucket", "--presets", str(tmp_path / "presets")) as portal:
        assert faults_of(portal) == []
        assert any("allow_programs" in said for said in faults_of(portal, tasks=PROGRAMS[0]))


def test_the_site_settings_are_judged(tmp_path) -> None:
    (tmp_path / "presets").mkdir()
    for settings, said in (
        ({"allow_programs": "yes"}, "allow_programs is true or false"),
        ({"secrets": "env:X"}, "secrets is a list"),
        ({"secrets": ["hunter2"]}, "never themselves"),
        ({"domains": [1]}, "domains is a list"),
        ({"allow_program": True}, "allow_program is not known"),
    ):
        (tmp_path / "presets" / "site.json").write_text(json.dumps({"portal": settings}))
        done = run_serve(tmp_path, tmp_path / "home", "--presets", str(tmp_path / "presets"))
        assert done.returncode == 2, done
        assert said in done.stderr
        assert "hunter2" not in done.stderr


def test_addresses() -> None:
    assert address("https://H.example/x") == ("h.example", 443)
    assert address("h.example") == ("h.example", None)
    assert address("http://[::1]:8") == ("::1", 8)
    for odd in ("", "https://", "http://h:x", "https://a:b@h", "//"):
        assert address(odd) is None, odd
    assert not Policy.of({"portal": {"allow_programs": "true"}}).programs
    assert not Policy.of({}).programs


# What others on the machine can read


def run_serve(cwd: Path, home: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs", "serve", "--listen", f"unix:{cwd}/s.sock", "--home", str(home), *flags]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def open_to_others(top: Path) -> list[str]:
    return [str(path) for path in [top, *top.rglob("*")]
            if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077]  # fmt: skip


def test_a_folder_that_is_there_is_closed(tmp_path, s3, bucket) -> None:
    s3.make_bucket(bucket)
    source = tmp_path / "behavior"
    source.mkdir()
    (source / "trials.csv").write_bytes(b"1,2,3")
    (tmp_path / "home").mkdir(mode=0o755)
    # As an earlier version left it.
    JobStore(tmp_path / "home" / "jobs.sqlite")
    os.chmod(tmp_path / "home" / "jobs.sqlite", 0o644)
    old = tmp_path / "home" / "jobs" / "old"
    old.mkdir(parents=True)
    (old / "list.csv").write_text("subject_id\n1\n")
    (old / "run.log").write_text("said\n")
    with serve(tmp_path, "--bucket", bucket, "--endpoint-url", s3.endpoint) as portal:
        assert stat.S_IMODE(portal.home.stat().st_mode) == 0o700
        answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("1", source)]})
        assert answer.status_code == 200, answer.text
        (job,) = portal.wait()
        assert job["job_state"] == "success"
        # The two files beside the database are there while somebody has it open.
        with closing(sqlite3.connect(portal.home / "jobs.sqlite")) as connection:
            connection.execute("select count(*) from job").fetchone()
            assert portal.jobs()
            names = {path.name for path in portal.home.rglob("*")}
            assert {"jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm", "job.json", "list.csv", "run.log"} <= names
            assert [path for path in open_to_others(portal.home) if Path(path).is_file()] == []


def test_a_folder_of_other_things_is_refused(tmp_path) -> None:
    home = tmp_path / "shared"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    (home / "thesis.tex").write_text("mine")
    done = run_serve(tmp_path, home)
    assert done.returncode == 2
    assert "holds other files ('thesis.tex')" in done.stderr
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert os.listdir(home) == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(tmp_path) -> None:
    home = tmp_path / "theirs"
    home.mkdir(mode=0o700)
    os.chown(home, 12345, -1)
    done = run_serve(tmp_path, home)
    assert done.returncode == 2
    assert "belongs to another user" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_reads_nothing(tmp_path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "home").mkdir(mode=0o755)
    with serve(tmp_path, "--bucket", "lab-bucket") as portal:
        assert portal.client.get("/openapi.json").status_code == 200
        done = subprocess.run(
            ["cat", str(portal.home / "jobs.sqlite")], capture_output=True, check=False, user=65534, group=65534,
            extra_groups=[],
        )  # fmt: skip
        assert done.returncode != 0
        assert done.stdout == b""
