"""Six troubles in fifty releases: each is a row, the exit code, an alarm; the other forty-four are done."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lading.coordination.lease import Lease
from lading.journal.stage_result import StageResult
from lading.testing.generated_fleets import write_stage
from lading.testing.s3_server import Server
from tests.conftest import REPOSITORY, need_program
from tests.fleets import Fleet, mail_address, mailbox, text_of, watchdog
from tests.servers import faults

DAY = 86400.0
STUCK, EXPIRED, LATE, DAMAGED, FULL, VANISHED = "r01", "r02", "r03", "r04", "r05", "r06"
COUNT = int(os.environ.get("LADING_TEST_RELEASES", "50"))  # fewer while the test itself is written


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_program("gcc")
    built = tmp_path_factory.mktemp("preload") / "filesystem.so"
    source = REPOSITORY / "tests" / "preload" / "filesystem.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(built), str(source), "-ldl"], check=True)
    return built


def plant(fleet: Fleet, expired: str, now: float) -> None:
    """Plant what is planted before the run."""
    fleet.own[EXPIRED] = {"endpoint": expired}
    fleet.own[STUCK] = {"limits": {"locked": "1s"}}
    # A cron that has not come for eleven days, and whose hours are over.
    fleet.own[LATE] = {"every": "1d", "after": "00:00", "until": "00:00"}
    for stage in ("find", "batch", "upload", "verify"):
        then = now - 11 * DAY
        write_stage(fleet.folder(LATE), StageResult(stage, then - 60, then, 0, "", then))
    fleet.own[DAMAGED] = {"every": {"verify": "1s"}}
    for name in fleet.names[10:]:  # some are verified too: it takes a third of the time
        fleet.own[name] = {"stages": ["find", "batch", "upload"]}
    fleet.root(VANISHED).rename(fleet.directory / "aside")


@pytest.mark.long
def test_six_troubles_in_fifty_releases(
    tmp_path: Path, s3: Server, bucket: str, shim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, s3, bucket).add(COUNT)
    with (
        mailbox() as (port, messages),
        watchdog() as web,
        faults.serve(s3, lambda _: faults.Refuse("ExpiredToken")) as proxy,
    ):
        hook = f"json://{web.url.removeprefix('http://')}/hook"
        fleet.shared = {"at_once": 4, "notify": [mail_address(port), hook], "ping": f"{web.url}/ping"}
        fleet.write()
        assert fleet.call("run", "--release", DAMAGED).returncode == 0
        (sent,) = (s3.directory / bucket / DAMAGED).glob("f1.bin")
        sent.write_bytes(b"X" * sent.stat().st_size)
        plant(fleet, proxy.endpoint, time.time())
        fleet.write()
        (fleet.folder(STUCK) / "journal").mkdir()
        full = {"LD_PRELOAD": str(shim), "LACKS": "space", "LACKS_BELOW": str(fleet.folder(FULL))}
        time.sleep(1.5)  # what is to be verified every second is due again
        with Lease(fleet.folder(STUCK) / "journal", "somebody"):
            done = fleet.call("run", **full)
            check(fleet, done, messages, web)
        web.requests.clear()


def check(fleet: Fleet, done: "subprocess.CompletedProcess[str]", messages: list[Any], web: Any) -> None:
    assert done.returncode == 4, done.stdout + done.stderr
    rows = fleet.rows()
    bad = {name: row for name, row in rows.items() if row["state"] != "well"}
    said = {
        name: (row["state"], row["problems"][0]["stage"], row["problems"][0]["sentence"]) for name, row in bad.items()
    }
    for name, state, stage, words in (
        (STUCK, "failed", "upload", "has held the lock"),
        (EXPIRED, "failed", "upload", "expired"),
        (LATE, "late", "find", "succeeded last 11 d ago; its limit is 2 d"),
        (DAMAGED, "different", "verify", "the bucket does not hold what was sent"),
        (FULL, "failed", "", "No space left on device"),
        (VANISHED, "failed", "find", "does not exist"),
    ):
        assert said[name][:2] == (state, stage), said[name]
        assert words in said[name][2], said[name]
    assert len(bad) == 6, said
    others = [row for name, row in rows.items() if name not in bad]
    assert {(row["stage"], row["objects_left"]) for row in others} == {("done", 0)}
    for name in rows:
        if name not in bad:
            assert len(list((fleet.server.directory / fleet.bucket / name).iterdir())) == 3
    text = "\n".join(text_of(message) for message in messages)
    for name in bad:
        assert name in text
    hooked = json.dumps([request.body for request in web.of("POST", "/hook")])
    assert all(name in hooked for name in bad)
    assert [request.path for request in web.requests if request.path.startswith("/ping")][-2:] == [
        "/ping/start", "/ping/fail",
    ]  # fmt: skip
    for secret in (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]):
        assert secret not in text + hooked + done.stdout + done.stderr
