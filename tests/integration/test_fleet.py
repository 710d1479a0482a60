"""The fleet on a real server: what is due is run, what goes wrong is a row, an exit code and an alarm."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lading.journal.stage_result import read_result
from lading.testing.generated_fleets import make_fleet
from lading.testing.s3_server import Server
from tests.fleets import COMMAND, Fleet, mail_address, mailbox, text_of, watchdog
from tests.shipping import REPOSITORY, make_site, write_files


@pytest.fixture
def fleet(tmp_path: Path, s3: Server, bucket: str) -> Fleet:
    return Fleet(tmp_path, s3, bucket)


def test_a_run_does_what_is_due_and_no_more(fleet: Fleet) -> None:
    fleet.add(2).own["r01"] = {"every": "1d", "flags": {"upload": ["--engine", "boto3"]}}
    fleet.write()
    assert fleet.call("status").returncode == 0
    done = fleet.call("run")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "find done, batch done, upload done, verify done" in done.stdout
    rows = fleet.rows()
    assert {name: (row["state"], row["stage"], row["objects"], row["objects_left"]) for name, row in rows.items()} == {
        "r00": ("well", "done", 3, 0),
        "r01": ("well", "done", 3, 0),
    }
    assert len(list((fleet.server.directory / fleet.bucket / "r01").iterdir())) == 3
    before = len(fleet.log())
    assert fleet.call("run").returncode == 0
    assert [record["kind"] for record in fleet.log()[before:]] == ["run", "done"]
    logs = subprocess.run(
        [*COMMAND[:-1], "logs", "r01", "--releases", str(fleet.path)], capture_output=True, text=True, check=True
    )
    for words in ("find  began", "upload  began", "sent 3", "exit 0: done", "log: "):
        assert words in logs.stdout, logs.stdout


@pytest.mark.long
def test_a_failure_is_told_once_and_so_is_the_first_success_after_it(fleet: Fleet) -> None:
    fleet.add(2)
    with mailbox() as (port, messages), watchdog() as web:
        secret = "T0psecret-hook-token"
        fleet.shared = {"notify": ["env:FLEET_MAIL", f"json://{web.url.removeprefix('http://')}/hook/{secret}"]}
        fleet.own["r01"] = {"ping": f"{web.url}/ping/r01?create=1"}
        fleet.shared["ping"] = f"{web.url}/ping/all"
        fleet.write()
        aside = fleet.root("r01").rename(fleet.directory / "aside")
        mail = {"FLEET_MAIL": mail_address(port)}
        done = fleet.call("run", **mail)
        assert done.returncode == 3, done.stderr
        assert len(messages) == 1, done.stderr
        assert messages[0]["Subject"] == "lading: r01 failed"
        text = text_of(messages[0])
        assert f"{fleet.root('r01')} does not exist" in text
        assert str(fleet.folder("r01")) in text
        assert [request.path for request in web.requests if request.path.startswith("/ping")] == [
            "/ping/all/start", "/ping/r01/start?create=1", "/ping/r01/fail?create=1", "/ping/all/fail",
        ]  # fmt: skip
        assert len(web.of("POST", f"/hook/{secret}")) == 1
        assert fleet.call("run", **mail).returncode == 3
        assert len(messages) == 1  # the same trouble: not again
        aside.rename(fleet.root("r01"))
        done = fleet.call("run", **mail)
        assert done.returncode == 0, done.stdout
        assert messages[1]["Subject"] == "lading: r01 works again"
        assert secret not in done.stdout + done.stderr + "".join(map(json.dumps, fleet.log()))


@pytest.mark.long
def test_a_dead_notifier_costs_little_and_fails_nothing(fleet: Fleet) -> None:
    fleet.add(1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        fleet.shared = {
            "notify": [f"json://127.0.0.1:{port}/hook/T0psecret", "env:NOT_SET", "nonsense://T0psecret"],
            "ping": f"http://127.0.0.1:{port}/T0psecret",
        }
        fleet.write()
        fleet.call("run")
        fleet.root("r00").rename(fleet.directory / "aside")
        fleet.own["r00"] = {"every": "1s"}
        fleet.write()
        began = time.monotonic()
        done = fleet.call("run")
        assert done.returncode == 3
        assert time.monotonic() - began < 60
        for sentence in (
            "the variable NOT_SET is not set",
            "is not an address that apprise knows",
            "did not",
            "ping URL",
        ):
            assert sentence in done.stderr
        assert "T0psecret" not in done.stderr + done.stdout
        assert any(record["kind"] == "notifier" for record in fleet.log())
    with mailbox() as (port, messages):  # what got through to nobody is told by the next run
        fleet.shared = {"notify": [mail_address(port)]}
        fleet.write()
        fleet.call("status", "--notify")
        assert [message["Subject"] for message in messages] == ["lading: r00 failed"]


@pytest.mark.long
def test_a_signal_stops_all_gently_and_the_next_run_goes_on(fleet: Fleet) -> None:
    fleet.add(4)
    fleet.shared = {"at_once": 2}
    fleet.write()
    run = subprocess.Popen(fleet.command("run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(record["kind"] == "begin" for record in fleet.log()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert fleet.log()[-1]["kind"] == "stopped"
    assert fleet.call("run").returncode == 0
    assert {row["stage"] for row in fleet.rows().values()} == {"done"}


def test_the_scripts_leave_what_the_commands_leave(tmp_path: Path, s3: Server, bucket: str) -> None:
    """``find.py``, ``batch.py`` and ``upload.py`` are the stages by other names, and ``status`` sees their runs."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"a": 10})
    site.plan()
    scripts = {"find": (site.release,), "batch": (site.release, "--file-tree", "find.json"), "upload": site.arguments()}
    for stage, arguments in scripts.items():
        command = [sys.executable, REPOSITORY / f"{stage}.py", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert read_result(tmp_path, stage).succeeded
    assert read_result(tmp_path, "upload").counts["objects_left"] == 0
    command = [sys.executable, REPOSITORY / "upload.py", *site.arguments("--engine", "none")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "engine" in read_result(tmp_path, "upload").failed.sentence


@pytest.mark.long
def test_one_release_tells_by_itself(tmp_path: Path, s3: Server, bucket: str, make) -> None:
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"a": 10})
    site.plan()
    with mailbox() as (port, messages), watchdog() as web:
        environment = {
            **os.environ,
            "LADING_NOTIFY": mail_address(port),
            "LADING_PING": f"{web.url}/ping",
            "AWS_SECRET_ACCESS_KEY": "wrong-secret-key-of-nobody",
        }
        upload = [sys.executable, "-m", "lading", "upload", *site.arguments()]
        bad = subprocess.run(upload, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert bad.returncode == 1, bad.stderr
        assert [request.path for request in web.requests] == ["/ping/start", "/ping/fail"]
        assert len(messages) == 1, bad.stderr
        assert "upload failed" in messages[0]["Subject"]
        assert "wrong-secret" not in text_of(messages[0])
        result = read_result(tmp_path, "upload")
        assert result.failed.exit == 1
        assert "wrong-secret" not in result.failed.sentence
        environment["AWS_SECRET_ACCESS_KEY"] = s3.secret_key
        good = subprocess.run(upload, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert good.returncode == 0, good.stderr
        assert [request.path for request in web.requests][2:] == ["/ping/start", "/ping"]
        assert "upload works again" in messages[1]["Subject"]
    assert read_result(tmp_path, "upload").counts["objects_left"] == 0


def test_add_writes_a_list_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "releases.yaml"
    for name in ("dr1", "dr2"):
        words = [
            "add",
            str(tmp_path / name),
            "--root",
            "/data",
            "--bucket",
            f"s3://lab/{name}",
            "--releases",
            str(path),
        ]
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    shown = subprocess.run([*COMMAND, "status", "--json", "--releases", str(path)], capture_output=True, check=True)
    assert [row["name"] for row in json.loads(shown.stdout)["releases"]] == ["dr1", "dr2"]
    again = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "dr2" in again.stderr
    text = path.read_text() + "at_once: 3\n"
    path.write_text(text)
    words[1], words[5] = str(tmp_path / "dr3"), "s3://lab/dr3"
    odd = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert odd.returncode == 2
    assert path.read_text() == text


@pytest.mark.long
def test_five_thousand_folders_take_seconds(tmp_path: Path) -> None:
    """By the time of the processor, of which other work on this machine takes nothing; twice what is promised."""
    releases = make_fleet(tmp_path, 5000)
    entries = [{"name": one.name, "folder": one.name, "bucket": one.bucket} for one in releases]
    shared = {"defaults": {"root": "/data", "every": "1d", "stages": ["find", "batch", "upload", "verify", "scrub"]}}
    (tmp_path / "releases.yaml").write_text(json.dumps({**shared, "releases": entries}, indent=1))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["status", "--json", "--releases", str(tmp_path / "releases.yaml")]
    shown = subprocess.run([*COMMAND, *words], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads(shown.stdout)["counts"]["well"] == 5000
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
