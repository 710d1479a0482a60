"""The portal in front of a real Slurm: cancelled in the queue and at work; runner and service killed, each job once."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.core.atomic import read_log
from lading.portal.job_process import STATE
from lading.sessions.executors import slurm_arrays as arrays
from lading.sessions.journal import read_state
from lading.sessions.state_paths import paths_of
from tests import oracle
from tests.integration.test_whole_way import client_of
from tests.portal import Portal, lab_job, runner_of, serve

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("slurm")]
FLAGS = ("--executor", "slurm", "--sbatch=--partition=regular", "--sbatch=--time=10")


def squeue(*flags: str) -> list[str]:
    """The elements of the queue."""
    command = ["squeue", "--noheader", "--array", "--format=%i", "--name=lading-jobs", *flags]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def until(wanted: Callable[[], Any], portal: Portal, seconds: float = 120) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < deadline, portal.jobs()
        time.sleep(0.1)
    return found


def waiting_presets(directory: Path, go: Path) -> Path:
    """Presets whose transformation leaves its pid and goes on when a file is there."""
    preset = directory / "presets/job_types/v2/default/tasks/modality_transformation_settings/behavior.json"
    preset.parent.mkdir(parents=True)
    script = f"echo $$ > %OUTPUT_LOCATION/pid; until [ -e '{go}' ]; do sleep 0.1; done"
    preset.write_text(json.dumps({"command_script": script}))
    return directory / "presets"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "behavior"
    folder.mkdir()
    (folder / "trials.csv").write_bytes(os.urandom(1000))
    return folder


def submit(portal: Portal, *jobs: dict) -> list[str]:
    answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": list(jobs)})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["dag_run_ids"]


def pid_of_script(portal: Portal, bucket: str) -> int:
    """The process of a running job's script."""
    (job,) = portal.jobs()
    path = paths_of(portal.home / STATE, bucket, job["name"]).directory / "staged" / "behavior" / "pid"
    return int(until(lambda: path.exists() and path.read_text().strip(), portal))


def test_a_cancelled_job_leaves_the_queue_and_a_released_one_ends(slurm_cluster, s3, bucket, source, tmp_path) -> None:
    s3.make_bucket(bucket)
    others = set(squeue())
    with serve(tmp_path, "--bucket", bucket, "--endpoint-url", s3.endpoint, *FLAGS, "--sbatch=--hold") as portal:
        unwanted, _ = submit(portal, *(lab_job(str(number), source) for number in range(2)))
        until(lambda: len(set(squeue()) - others) == 2, portal)
        assert portal.client.post("/api/v2/cancel_job", json={"dag_run_id": unwanted}).status_code == 200
        until(lambda: len(set(squeue()) - others) == 1, portal)
        (waiting,) = set(squeue()) - others
        subprocess.run(["scontrol", "release", waiting], check=True)
        ended = {job["job_id"]: job for job in portal.wait(240)}
        assert ended.pop(unwanted)["job_state"] == "cancelled"
        (other,) = ended.values()
        log = (portal.home / "jobs" / other["job_id"] / "run.log").read_text()
        assert other["job_state"] == "success", log
        assert len(oracle.objects(client_of(s3), bucket, other["name"] + "/behavior/")) == 1


def test_a_job_in_slurm_ends_once_whoever_is_killed_meanwhile(slurm_cluster, s3, bucket, source, tmp_path) -> None:
    s3.make_bucket(bucket)
    go = tmp_path / "go"
    others = set(squeue("--states=all"))
    flags = ("--presets", str(waiting_presets(tmp_path, go)), "--bucket", bucket, "--endpoint-url", s3.endpoint)
    with serve(tmp_path, *flags, *FLAGS, "--sbatch=--hold") as portal:
        (job_id,) = submit(portal, lab_job("1", source))
        directory = portal.home / "jobs" / job_id
        submission = arrays.submission_directory(portal.home / STATE, f"{job_id}-1")

        def lose_runner(number: int, *, service: bool) -> None:
            runner = until(lambda: runner_of(directory), portal)
            if service:
                portal.kill()
            os.kill(runner, number)
            if service:
                until(lambda: runner_of(directory) is None, portal)
                # As if the runner had died before it could write down what sbatch answered.
                (submission / "array.0.last").unlink()
                portal.start()
            until(lambda: runner_of(directory) not in (None, runner), portal)
            # The new one has found the old submission when it waits for it, without having asked for another.
            until(lambda: (submission / "array.0.last").exists(), portal)
            assert portal.jobs()[0]["job_state"] in ("queued", "running")

        (element,) = until(lambda: set(squeue()) - others, portal)
        until(lambda: (submission / "array.0.last").exists(), portal)
        lose_runner(signal.SIGKILL, service=True)
        lose_runner(signal.SIGTERM, service=False)
        subprocess.run(["scontrol", "release", element], check=True)
        script = pid_of_script(portal, bucket)
        lose_runner(signal.SIGKILL, service=False)
        lose_runner(signal.SIGKILL, service=True)
        assert Path(f"/proc/{script}").exists()
        go.touch()
        (job,) = portal.wait(240)
        assert job["job_state"] == "success", (directory / "run.log").read_text()
        assert set(squeue("--states=all")) - others == {element}
        assert len(list(directory.glob("outcome-*.json"))) == 1
        events = [event["event"] for event in read_log(portal.home / STATE / bucket / job["name"] / "journal.jsonl")]
        assert (events.count("begin"), events.count("end")) == (1, 1)
        assert len(oracle.objects(client_of(s3), bucket, job["name"] + "/behavior/")) >= 1


@pytest.mark.parametrize("trouble", ["none", "runner lost", "job stuck"])
def test_a_running_job_is_cancelled_in_slurm(slurm_cluster, s3, bucket, source, tmp_path, trouble: str) -> None:
    s3.make_bucket(bucket)
    go = tmp_path / "go"
    others = set(squeue("--states=all"))
    flags = ("--presets", str(waiting_presets(tmp_path, go)), "--bucket", bucket, "--endpoint-url", s3.endpoint)
    with serve(tmp_path, *flags, *FLAGS) as portal:
        (job_id,) = submit(portal, lab_job("1", source))
        (element,) = until(lambda: set(squeue("--states=all")) - others, portal)
        script = pid_of_script(portal, bucket)
        if trouble == "job stuck":
            # It sees no wish to stop: Slurm has to wake and end it.
            parent = int(Path(f"/proc/{script}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGSTOP)
        assert portal.client.post("/api/v2/cancel_job", json={"dag_run_id": job_id}).status_code == 200
        if trouble == "runner lost":
            # Nobody is left who could pass the wish on, until the service starts another runner.
            runner = runner_of(portal.home / "jobs" / job_id)
            portal.kill()
            if runner:
                os.kill(runner, signal.SIGKILL)
            portal.start()
        (job,) = portal.wait(120)
        log = (portal.home / "jobs" / job_id / "run.log").read_text()
        assert job["job_state"] == "cancelled", log
        assert not Path(f"/proc/{script}").exists()
        until(lambda: slurm_cluster.state(element) not in ("RUNNING", "COMPLETING"), portal)
        # One that sees the wish ends with its own exit code, perhaps before Slurm is asked.
        ends = ("CANCELLED",) if trouble == "job stuck" else ("CANCELLED", "FAILED")
        assert slurm_cluster.state(element) in ends, log
        assert read_state(paths_of(portal.home / STATE, bucket, job["name"]).journal).state == "cancelled"
        # Wanted after all: the same job again, as another submission, goes on and ends.
        go.touch()
        answer = portal.client.post("/api/v2/retry_job", json={"dag_run_id": job_id})
        assert answer.status_code == 200, answer.text
        (again,) = portal.wait(240)
        assert again["job_state"] == "success", (portal.home / "jobs" / job_id / "run.log").read_text()
        assert len(set(squeue("--states=all")) - others) == 2
