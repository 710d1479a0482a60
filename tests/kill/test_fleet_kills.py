"""``lading fleet run`` killed at ten points, two at once: no release is worked on twice, and none is forgotten."""

import itertools
import json
import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from lading.testing.s3_server import Server
from tests.fleets import Fleet

POINTS = range(2, 12)  # records in the log of a run after which it is killed
GRACE = 0.5  # clocks are one; a record is written a moment before and after


def start(fleet: Fleet) -> "subprocess.Popen[bytes]":
    with open(fleet.directory / "runs.log", "ab") as output:
        return subprocess.Popen(fleet.command("run"), stdout=output, stderr=output, stdin=subprocess.DEVNULL)


def records_of(fleet: Fleet, pid: int) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (fleet.home / "runs").glob(f"*-{pid}-*.jsonl"))


def wait_for(fleet: Fleet, run: "subprocess.Popen[bytes]", records: int) -> None:
    deadline = time.monotonic() + 120
    while run.poll() is None and records_of(fleet, run.pid) < records:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def spans(fleet: Fleet, killed: dict[int, float]) -> dict[str, list[tuple[float, float, str]]]:
    """Return when each release was worked on, by the logs of all runs; a killed one worked until then at most."""
    found = defaultdict(list)
    for path in (fleet.home / "runs").glob("*.jsonl"):
        pid = int(path.name.rsplit("-", 2)[1])
        begun: dict[tuple[str, str], float] = {}
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["kind"] == "begin":
                begun[record["release"], record["stage"]] = record["at"]
            elif record["kind"] == "end":
                at = begun.pop((record["release"], record["stage"]))
                found[record["release"]].append((at, record["at"], path.name))
        for (release, _), at in begun.items():
            found[release].append((at, killed[pid], path.name))
    return found


@pytest.mark.long
def test_killed_at_ten_points_and_two_at_once(tmp_path: Path, s3: Server, bucket: str) -> None:
    fleet = Fleet(tmp_path, s3, bucket)
    fleet.shared = {"at_once": 2}
    killed: dict[int, float] = {}
    for point in POINTS:
        fleet.add(2)
        for name in fleet.names:  # every second one is uploaded too
            fleet.own[name] = {"stages": ["find", "batch", "upload"] if int(name[1:]) % 2 else ["find", "batch"]}
        fleet.write()
        runs = [start(fleet), start(fleet)]
        wait_for(fleet, runs[0], point)
        for run in runs if point % 2 else runs[:1]:
            run.send_signal(signal.SIGKILL)
            run.wait()
            killed[run.pid] = time.time()
        if point % 2 == 0:  # the other one is stopped gently
            runs[1].send_signal(signal.SIGTERM)
            assert runs[1].wait(60) in (130, 0, -signal.SIGTERM)  # it may not have begun to listen
    last = [start(fleet), start(fleet)]
    assert [run.wait(300) for run in last] == [0, 0], (tmp_path / "runs.log").read_text()
    assert {row["stage"] for row in fleet.rows().values()} == {"done"}
    for name in fleet.names[1::2]:
        assert len(list((s3.directory / bucket / name).iterdir())) == 3
    for release, worked in spans(fleet, killed).items():
        worked.sort()
        for (_, end, one), (begin, _, other) in itertools.pairwise(worked):
            assert one == other or begin > end - GRACE, (release, worked)
    done = Counter((r["release"], r["stage"]) for r in fleet.log() if r["kind"] == "end" and r["exit"] == 0)
    assert max(done.values()) == 1
    assert len(done) >= sum(len(own["stages"]) for own in fleet.own.values()) - len(
        killed
    )  # the end of a killed run's stage is not in its log
    fleet.call("run")
    for place in ("slots/0", "slots/1", "telling"):
        assert not os.listdir(fleet.home / place / "holders")
