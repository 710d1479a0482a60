"""Compression under a real Slurm of four nodes: ranks lost, nodes lost, time over, no hang."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import numpy as np
import pytest
import tifffile

from lading.cli import compress as command
from lading.coordination.claims import CompletionRecords, file_name
from lading.core.atomic import read_log
from lading.testing.ephys_data import make_samples
from lading.testing.s3_server import Server
from tests.conftest import REPOSITORY
from tests.images import light_sheet
from tests.kinds import tree_bytes
from tests.servers.slurm import Cluster, make_ready

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("slurm")]
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of some sixty units: a few seconds of one core."""
    directory = tmp_path_factory.mktemp("slurm") / "in"
    directory.mkdir()
    np.tile(make_samples(30_000, 64, 1, units=20), (60, 1)).tofile(directory / "data.bin")
    fields = {"files": "data.bin", "channels": 64, "sampling_frequency": 30_000}
    (directory / "r.recording.yaml").write_text(json.dumps(fields))
    return directory


@pytest.fixture
def sbatch(slurm_cluster: Cluster, tmp_path: Path) -> Callable[..., str]:
    """Submit slurm/compress.sbatch; returns the job id. The environment counts as ready."""
    ready = make_ready(tmp_path / "venv")

    def submit(
        source: Path,
        out: Path | str,
        *flags: str,
        engine: str = "mpi",
        kind: str = "ephys",
        more: tuple[str, ...] = (),
        settings: dict[str, str] | None = None,
    ) -> str:
        environment = {
            **os.environ,
            "lading": str(REPOSITORY),
            "lading_engine": engine,
            "venv": str(ready),
            "python": sys.executable,
            **(settings or {}),
        }
        command = ["sbatch", "--parsable", f"--output={tmp_path}/job.log", *flags]
        command += [str(REPOSITORY / "slurm/compress.sbatch"), str(source), str(out), kind, *more]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return result.stdout.strip()

    return submit


def log(tmp_path: Path) -> str:
    return (tmp_path / "job.log").read_text() if (tmp_path / "job.log").exists() else ""


def wait_for_markers(state: Path, count: int, timeout: float = 120) -> set[str]:
    deadline = time.monotonic() + timeout
    while True:
        names = CompletionRecords(state / "done").names()
        if len(names) >= count:
            return names
        assert time.monotonic() < deadline, f"{len(names)} markers after {timeout} s"
        time.sleep(0.05)


def finished_by(state: Path, known: set[str]) -> set[str]:
    """Return the items finished in logs that are not ``known``, by marker name."""
    return {
        file_name(record["item"])
        for path in (state / "log").glob("*.jsonl")
        if path.name not in known
        for record in read_log(path)
        if record and record["event"] == "done"
    }


def is_whole(out: Path) -> None:
    """Assert that a job is done and proven."""
    record = json.loads((out / "compress.json").read_text())
    assert record["source_checksum"] == record["decoded_checksum"]
    assert len(CompletionRecords(out.with_name(f"{out.name}.state") / "done").names()) == record["units"] + 1


def test_four_nodes_two_tasks_each_and_no_idling(
    source: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    job = sbatch(source, tmp_path / "out", "--nodes=4", "--ntasks-per-node=2", "--time=10")
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    is_whole(tmp_path / "out")
    workers = {path.name.split(".")[1] for path in (tmp_path / "out.state" / "log").glob("*.jsonl")}
    assert workers == {f"r{number}" for number in range(8)}
    # A second job finds everything done and ends at once.
    started = time.monotonic()
    job = sbatch(source, tmp_path / "out", "--nodes=4", "--ntasks-per-node=2", "--time=10")
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    print(f"a job without work ended after {time.monotonic() - started:.1f} s")


def test_dask_gets_two_ranks_more(
    source: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    job = sbatch(source, tmp_path / "out", "--nodes=1", "--ntasks-per-node=2", "--time=10", engine="dask")
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    assert "4 ranks on nodes: 1" in log(tmp_path)
    is_whole(tmp_path / "out")


@pytest.mark.parametrize("kind", ["ephys", "imaging"])
def test_to_a_bucket_from_two_nodes(
    kind: str,
    source: Path,
    sbatch: Callable[..., str],
    slurm_cluster: Cluster,
    s3: Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The objects are, byte for byte, the files of one local worker."""
    flags: tuple[str, ...] = ()
    if kind == "imaging":
        source = tmp_path / "stack.tif"
        tifffile.imwrite(source, light_sheet((96, 160, 166)))
        flags = ("--levels", "3", "--chunk", "8,16,16", "--shard", "16,32,32")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    s3.make_bucket(bucket)
    state, url = tmp_path / "state", f"s3://{bucket}/lab/session"
    two = ("--nodes=2", "--ntasks-per-node=2", "--time=10")
    job = sbatch(source, url, *two, kind=kind, more=flags)
    slurm_cluster.wait(job, *ENDED, timeout=60)
    assert slurm_cluster.state(job) == "FAILED"
    assert "set lading_state to a directory that all nodes see" in log(tmp_path)
    job = sbatch(source, url, *two, kind=kind, more=flags, settings={"lading_state": str(state)})
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    assert slurm_cluster.fact(job, "NumNodes") == "2"
    workers = {path.name.split(".")[1] for path in (state / "log").glob("*.jsonl")}
    assert workers == {f"r{number}" for number in range(4)}
    out = tmp_path / "out"
    assert command.main([str(source), str(out), "--kind", kind, "--engine", "local", "--workers", "1", *flags]) == 0
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    sent = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            sent[item["Key"].removeprefix("lab/session/")] = body
    report, wanted = json.loads(sent.pop("compress.json")), tree_bytes(out)
    assert report["source_checksum"] == report["decoded_checksum"]
    wanted.pop("compress.json")  # its checksums are over units, which are others for one worker
    assert len(sent) > 10
    assert sent == wanted


def test_a_wrong_launcher_is_refused(source: Path, slurm_cluster: Cluster, tmp_path: Path) -> None:
    command = ["srun", "--mpi=none", "-n", "2", sys.executable, "-m", "jobs", "compress", str(source)]
    result = subprocess.run(
        [*command, str(tmp_path / "out"), "--kind", "ephys"], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode != 0
    assert "the launcher started 2 tasks but MPI sees 1" in result.stderr
    assert not (tmp_path / "out").exists()


def ranks_of(out: Path) -> list[int]:
    """Return the process ids of the MPI ranks that work on ``out``."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(out) in words and b"mpi4py" in words and b"srun" not in words[0]:
            found.append(int(process.name))
    return found


def test_a_killed_rank_costs_no_data(
    source: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    out, state = tmp_path / "out", tmp_path / "out.state"
    job = sbatch(source, out, "--nodes=2", "--ntasks-per-node=2", "--time=10")
    wait_for_markers(state, 5)
    python = [pid for pid in ranks_of(out) if "python" in os.readlink(f"/proc/{pid}/exe")]
    os.kill(python[-1], signal.SIGKILL)
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    is_whole(out)


def test_a_node_that_goes_down_requeues_the_job(
    source: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    out, state = tmp_path / "out", tmp_path / "out.state"
    job = sbatch(source, out, "--nodes=2", "--ntasks-per-node=2", "--time=10", "--nodelist=n3,n4")
    wait_for_markers(state, 5)
    slurm_cluster.ask("scontrol", "update", "nodename=n4", "state=down", "reason=test")
    done = CompletionRecords(state / "done").names()
    logs = {path.name for path in (state / "log").glob("*.jsonl")}
    # The daemon lives, so the node may come back by itself (ReturnToService) before it is resumed here.
    deadline = time.monotonic() + 60
    while (
        "down" in slurm_cluster.ask("sinfo", "--noheader", "--nodes=n4", "--format=%T") and time.monotonic() < deadline
    ):
        subprocess.run(["scontrol", "update", "nodename=n4", "state=resume"], check=False, capture_output=True)
        time.sleep(0.5)
    slurm_cluster.wait(job, "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    assert slurm_cluster.fact(job, "Restarts") == "1"
    is_whole(out)
    assert not finished_by(state, logs) & done


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those processes that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until(holds: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, why()
        time.sleep(0.5)


def test_the_time_limit_continues_in_the_next_job(
    source: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    out, state = tmp_path / "out", tmp_path / "out.state"
    # The signal comes half a minute after the job began, or later: Slurm sends it up to a minute early. On a busy
    # machine the first chunks take that long.
    flags = ["--nodes=1", "--ntasks-per-node=1", "--time=2", "--signal=B:USR1@30"]
    job = sbatch(source, out, *flags)
    wait_for_markers(state, 2)
    ranks = [pid for pid in ranks_of(out) if "python" in os.readlink(f"/proc/{pid}/exe")]
    signal_all(ranks, signal.SIGSTOP)  # they shall not be done before the signal comes
    wait_until(lambda: "asked to end" in log(tmp_path), 200, lambda: log(tmp_path))
    signal_all(ranks, signal.SIGCONT)
    wait_until(
        lambda: slurm_cluster.fact(job, "Restarts") != "0" or slurm_cluster.state(job) in ENDED,
        200,
        lambda: log(tmp_path),
    )
    assert slurm_cluster.fact(job, "Restarts") != "0", "the job was done before its time was over: " + log(tmp_path)
    assert "the job is queued again" in log(tmp_path)
    before = CompletionRecords(state / "done").names()
    assert before
    assert not (out / "compress.json").exists()
    logs = {path.name for path in (state / "log").glob("*.jsonl")}
    # The rest with more room, as the user would: the requeued job is cancelled, a longer one continues.
    slurm_cluster.ask("scancel", job)
    slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED", timeout=60)
    time.sleep(1)
    before = CompletionRecords(state / "done").names()
    logs = {path.name for path in (state / "log").glob("*.jsonl")}
    job = sbatch(source, out, "--nodes=4", "--ntasks-per-node=1", "--time=10")
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    is_whole(out)
    assert not finished_by(state, logs) & before


@pytest.mark.parametrize("how", ["term", "requeue"])
def test_preemption_keeps_what_is_done(
    how: str, source: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    """SIGTERM to the batch script checkpoints and queues again; a job that Slurm itself takes back continues."""
    out, state = tmp_path / "out", tmp_path / "out.state"
    job = sbatch(source, out, "--nodes=2", "--ntasks-per-node=1", "--time=10")
    wait_for_markers(state, 3)
    ranks = [pid for pid in ranks_of(out) if "python" in os.readlink(f"/proc/{pid}/exe")]
    signal_all(ranks, signal.SIGSTOP)  # they shall not be done before the signal comes
    if how == "term":
        slurm_cluster.ask("scancel", "--signal=TERM", "--batch", job)
        time.sleep(1)  # the script hands it on to the ranks
        signal_all(ranks, signal.SIGCONT)
    else:
        slurm_cluster.ask("scontrol", "requeue", job)
    deadline = time.monotonic() + 60
    while slurm_cluster.fact(job, "Restarts") == "0" and slurm_cluster.state(job) not in ENDED:
        assert time.monotonic() < deadline, log(tmp_path)
        time.sleep(0.05)
    before = CompletionRecords(state / "done").names()
    logs = {path.name for path in (state / "log").glob("*.jsonl")}
    assert not (out / "compress.json").exists(), "the job was done before it was taken back"
    slurm_cluster.wait(job, "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    assert slurm_cluster.fact(job, "Restarts") == "1"
    assert ("the job is queued again" in log(tmp_path)) == (how == "term")
    is_whole(out)
    assert not finished_by(state, logs) & before
