"""slurm/upload.sbatch under a real Slurm of four nodes: tasks and array elements share a plan, the next job goes on.

The server is the sink of the benchmarks: its log tells how often each object was sent, and it can be as slow as a test
needs it.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lading.core.atomic import read_log
from lading.testing import sink_server
from lading.verification.manifest import read_manifest
from tests import labtree
from tests.conftest import REPOSITORY, need
from tests.servers.slurm import Cluster, make_ready

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("slurm")]
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
BROKEN = "mpi/pmi2: invalid client request"
OBJECTS = 4000


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Path]:
    """A release in some hundred batches, and the directory of its plan."""
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, OBJECTS, odd=False, most_bytes=2000)
    labtree.make_plan(root, directory, largest="15k")
    return root, directory


@contextmanager
def slow_server(directory: Path, rule: str) -> Iterator[sink_server.Sink]:
    """Run the sink; ``rule`` says how slow it is."""
    need(sink_server.missing())
    with sink_server.serve(directory, faults=[rule], log=True) as server:
        yield server


@pytest.fixture
def sbatch(
    slurm_cluster: Cluster, tmp_path: Path, release: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Submit slurm/upload.sbatch from the plan's directory; returns the job id. The environment counts as ready."""
    ready = make_ready(tmp_path / "venv")
    root, directory = release

    def submit(server: sink_server.Sink, *flags: str) -> str:
        for name, value in server.environment().items():  # of the test, too: it verifies
            monkeypatch.setenv(name, value)
        environment = {
            **os.environ,
            "lading": str(REPOSITORY),
            "root": str(root),
            "release": str(root),
            "bucket": "s3://bucket",
            "endpoint": server.endpoint,
            "max_workers": "8",
            "venv": str(ready),
            "python": sys.executable,
        }
        command = ["sbatch", "--parsable", f"--output={tmp_path}/job.log", *flags]
        for _ in range(5):
            before = log(tmp_path)
            result = subprocess.run(
                [*command, str(REPOSITORY / "slurm/upload.sbatch")],
                cwd=directory, env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            job = result.stdout.strip()
            # Slurm 22.05's PMI-2 sometimes loses its place in a rank's long lines: MPI_Init fails or never ends.
            deadline = time.monotonic() + 60
            while BROKEN not in (fresh := log(tmp_path)[len(before) :]):
                if "batches at start" in fresh or slurm_cluster.state(job) in ENDED or time.monotonic() > deadline:
                    return job
                time.sleep(0.1)
            print("Slurm's PMI-2 failed; submitted again")
            slurm_cluster.ask("scancel", job)
            slurm_cluster.wait(job, *ENDED)
        raise AssertionError(log(tmp_path))

    return submit


def log(tmp_path: Path) -> str:
    return (tmp_path / "job.log").read_text() if (tmp_path / "job.log").exists() else ""


def journals(directory: Path) -> dict[str, list[str]]:
    """Return the proven keys by journal of an upload."""
    return {
        path.name: [record["key"] for record in read_log(path) if record and record["kind"] == "done"]
        for path in (directory / "journal").glob("*.jsonl")
        if not path.name.startswith("verify-")
    }


def proven(directory: Path) -> "Counter[str]":
    return Counter(key for keys in journals(directory).values() for key in keys)


def sent(server: sink_server.Sink, start: int = 0) -> "Counter[str]":
    """Return how often each object was stored, canaries left out, from the ``start``-th request on."""
    puts = (key for method, status, key in server.requests()[start:] if method == "PUT" and status == 200)
    return Counter(key.removeprefix("bucket/") for key in puts if "canary" not in key)


def check_all_there(server: sink_server.Sink, root: Path, directory: Path) -> None:
    """Assert that everything is proven, by the journals and by a verification of its own."""
    assert set(proven(directory)) == set(labtree.expected(root))
    checked = labtree.verify(root, directory, server, "bucket")
    assert checked.returncode == 0, checked.stderr
    assert read_manifest(directory / "manifest.jsonl.zst").end.complete
    for kind in ("claims", "leases"):
        assert not list((directory / "journal" / kind).iterdir()), f"{kind} of a finished run go"


@pytest.mark.parametrize(("flags", "elements"), [(("--nodes=3",), [""]), (("--array=0-2",), ["_0", "_1", "_2"])])
def test_tasks_and_array_elements_share_a_plan(
    flags: tuple[str, ...],
    elements: list[str],
    release: tuple[Path, Path],
    sbatch: Callable[..., str],
    slurm_cluster: Cluster,
    tmp_path: Path,
) -> None:
    root, directory = release
    # Slow enough that the last to start still finds something to do.
    with slow_server(tmp_path, "stall=0.03 every=1 *") as server:
        job = sbatch(server, "--time=30", *flags)
        for element in elements:
            slurm_cluster.wait(job + element, *ENDED, timeout=300)
            assert slurm_cluster.state(job + element) == "COMPLETED", log(tmp_path)
        check_all_there(server, root, directory)
        assert set(sent(server).values()) == {1}, "an object was sent twice"
        assert set(sent(server)) == set(proven(directory))
    shares = journals(directory)
    assert len(shares) == 3, "one journal a task"
    # A task reads some thousand objects ahead, so the last to start may find nothing left.
    assert sum(map(bool, shares.values())) >= 2, {name: len(keys) for name, keys in shares.items()}
    assert set(proven(directory).values()) == {1}, "two tasks proved the same object"


def stop(cluster: Cluster, how: str, job: str) -> None:
    """Stop a job as its user or Slurm does; the time's end needs no more than waiting."""
    if how == "asked":
        cluster.ask("scancel", "--signal=USR1", job)
    elif how == "cancelled":
        cluster.ask("scancel", job)
    elif how == "killed":  # scancel --signal=KILL is a cancel, which begins with SIGTERM
        for process in ranks_of(job):
            os.kill(process, signal.SIGKILL)


def ranks_of(job: str) -> list[int]:
    """Return the processes of a job's ranks."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:3] == [b"-m", b"mpi4py"] and f"SLURM_JOB_ID={job}".encode() in environment:
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("how", ["asked", "cancelled", "time", "killed"])
def test_a_stopped_job_is_finished_by_the_next(
    how: str, release: tuple[Path, Path], sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    root, directory = release
    # Slurm looks every 30 s which jobs are near their end: this one is told at the first look, or the second.
    slow = 1500 if how == "time" else 700
    with slow_server(tmp_path, f"stall=1 first={slow} *") as server:
        flags = ["--time=12", "--signal=USR1@690"] if how == "time" else ["--time=30"]
        job = sbatch(server, "--nodes=2", *flags)
        deadline = time.monotonic() + 120
        while sum(proven(directory).values()) < 20 and slurm_cluster.state(job) not in ENDED:
            assert time.monotonic() < deadline, log(tmp_path)
            time.sleep(0.2)
        stop(slurm_cluster, how, job)
        slurm_cluster.wait(job, *ENDED, timeout=120)
        assert slurm_cluster.state(job) != "COMPLETED", log(tmp_path)
        before, requests = proven(directory), len(server.requests())
        assert 0 < len(before) < OBJECTS
        if how != "killed":
            assert log(tmp_path).count("finishing what is in flight") == 2, "a rank was not told"
        if how in ("asked", "time"):  # Slurm sends SIGTERM to s5cmd too, which drops what it is sending
            assert set(sent(server)) == set(before), "what was in flight was not proven"
        job = sbatch(server, "--nodes=2", "--time=30")
        slurm_cluster.wait(job, *ENDED, timeout=300)
        assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
        check_all_there(server, root, directory)
        assert not sent(server, requests).keys() & before.keys(), "what was proven was sent again"
        if how in ("asked", "time"):
            assert set(sent(server).values()) == {1}
    assert set(proven(directory).values()) == {1}
