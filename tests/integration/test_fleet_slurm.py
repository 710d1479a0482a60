"""The fleet as an array of a real Slurm: an element a release; a run after a dead one submits nothing again."""

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from lading.testing.s3_server import Server
from tests.fleets import Fleet
from tests.servers.slurm import Cluster


@pytest.mark.long
@pytest.mark.xdist_group("slurm")
def test_an_array_does_the_releases_and_survives_its_run(
    tmp_path: Path, s3: Server, bucket: str, slurm_cluster: Cluster
) -> None:
    fleet = Fleet(tmp_path, s3, bucket).add(3)
    fleet.shared = {"at_once": 2, "executor": "slurm"}
    fleet.own = {name: {"stages": ["find", "batch", "upload"]} for name in fleet.names}
    aside = fleet.root("r02").rename(tmp_path / "aside")
    fleet.write()
    first = subprocess.Popen(fleet.command("run"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not any(record["kind"] == "begin" for record in fleet.log()):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)  # the array goes on
    first.communicate()
    done = fleet.call("run")
    assert done.returncode == 3, done.stdout + done.stderr
    rows = fleet.rows()
    assert {name: row["state"] for name, row in rows.items()} == {"r00": "well", "r01": "well", "r02": "failed"}
    assert "does not exist" in rows["r02"]["failure"]
    for name in ("r00", "r01"):
        assert len(list((s3.directory / bucket / name).iterdir())) == 3
    ended = Counter((record["release"], record["stage"]) for record in fleet.log() if record["kind"] == "end")
    assert set(ended.values()) == {1}
    aside.rename(fleet.root("r02"))
    assert fleet.call("run").returncode == 0
    assert fleet.rows()["r02"]["stage"] == "done"
