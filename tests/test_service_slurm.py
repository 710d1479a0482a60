"""The portal in front of a real Slurm: a job waits, is cancelled in the queue; another is released and ends."""

import os
import subprocess
import time

import pytest

from tests import oracle
from tests.portal import lab_job, serve
from tests.test_whole_way import client_of


def squeue() -> list[str]:
    """The elements of the queue."""
    command = ["squeue", "--noheader", "--array", "--format=%i", "--name=lading-jobs"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.long
@pytest.mark.xdist_group("slurm")
def test_a_cancelled_job_leaves_the_queue_and_a_released_one_ends(slurm_cluster, s3, bucket, tmp_path) -> None:
    source = tmp_path / "behavior"
    source.mkdir()
    (source / "trials.csv").write_bytes(os.urandom(1000))
    s3.make_bucket(bucket)
    others = set(squeue())
    slurm = ("--executor", "slurm", "--sbatch=--hold", "--sbatch=--partition=regular", "--sbatch=--time=10")
    with serve(tmp_path, "--bucket", bucket, "--endpoint-url", s3.endpoint, *slurm) as portal:
        jobs = [lab_job(str(number), source) for number in range(2)]
        answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": jobs})
        assert answer.status_code == 200, answer.text
        unwanted, _ = answer.json()["data"]["dag_run_ids"]
        deadline = time.monotonic() + 120
        while len(set(squeue()) - others) < 2:
            assert time.monotonic() < deadline, portal.jobs()
            time.sleep(0.5)
        assert portal.client.post("/api/v2/cancel_job", json={"dag_run_id": unwanted}).status_code == 200
        while len(mine := set(squeue()) - others) > 1:
            assert time.monotonic() < deadline, portal.jobs()
            time.sleep(0.5)
        (waiting,) = mine
        subprocess.run(["scontrol", "release", waiting], check=True)
        ended = {job["job_id"]: job for job in portal.wait(240)}
        assert ended.pop(unwanted)["job_state"] == "cancelled"
        (other,) = ended.values()
        log = (portal.home / "jobs" / other["job_id"] / "run.log").read_text()
        assert other["job_state"] == "success", log
        assert len(oracle.objects(client_of(s3), bucket, other["name"] + "/behavior/")) == 1
