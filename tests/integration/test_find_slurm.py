"""slurm/find.sbatch under a real Slurm of four nodes: the oracle's bytes, and nothing when a rank dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lading.tree.size_tree import read_meta
from tests import crawling
from tests.conftest import REPOSITORY
from tests.servers.slurm import Cluster, make_ready

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("slurm")]
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    crawling.make_hostile(root / "odd", 3)
    for i in range(30):
        for j in range(10):
            (root / f"d{i}" / f"e{j}").mkdir(parents=True)
            (root / f"d{i}" / f"e{j}" / "file").write_bytes(b"x" * i)
    return root


@pytest.fixture
def sbatch(slurm_cluster: Cluster, tmp_path: Path) -> Callable[..., str]:
    """Submit slurm/find.sbatch from ``tmp_path``; returns the job id. The environment counts as ready."""
    ready = make_ready(tmp_path / "venv")

    def submit(release: Path, *flags: str, find_flags: str) -> str:
        environment = {
            **os.environ,
            "lading": str(REPOSITORY),
            "release": str(release),
            "find_flags": find_flags,
            "venv": str(ready),
            "python": sys.executable,
        }
        command = ["sbatch", "--parsable", f"--output={tmp_path}/job.log", "--time=10", *flags]
        result = subprocess.run(
            [*command, str(REPOSITORY / "slurm/find.sbatch")],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return result.stdout.strip()

    return submit


def log(tmp_path: Path) -> str:
    return (tmp_path / "job.log").read_text() if (tmp_path / "job.log").exists() else ""


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_the_oracles_bytes(
    tree: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path, nodes: int
) -> None:
    # A cap on the rate stands for a slow file system, so that the ranks have something to share.
    job = sbatch(tree, f"--nodes={nodes}", find_flags=f"--max-rate {1500 * nodes}")
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    assert slurm_cluster.fact(job, "NumNodes") == str(nodes)
    assert (tmp_path / "find.json").read_bytes() == crawling.oracle(tree)
    meta = read_meta(tmp_path / "find.meta.json")
    assert meta.root == str(tree)
    assert meta.unreadable == ()
    # One rank a node in one MPI world: N worlds of one rank would each have said this.
    assert log(tmp_path).count(" entries: ") == 1


def test_the_hint_of_a_login_node_works_as_printed(
    tree: Path, slurm_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another directory, with a path that a shell would split, and without a word on where the checkout is."""
    odd = tmp_path / "it's $odd"
    tree.rename(odd)
    work = tmp_path / "work dir"
    work.mkdir()
    ready = make_ready(tmp_path / "venv")
    monkeypatch.delenv("lading", raising=False)
    command = ["make", "-C", str(work), "-f", str(REPOSITORY / "makefile"), "find.json", f"release={odd}"]
    asked = subprocess.run(
        [*command, f"venv={ready}", f"python={sys.executable}"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    (line,) = [line.strip() for line in asked.stderr.splitlines() if line.strip().startswith("sbatch ")]
    monkeypatch.setenv("SBATCH_OUTPUT", f"{tmp_path}/job.log")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "10")
    done = subprocess.run(["sh", "-c", line], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]
    slurm_cluster.wait(job, *ENDED, timeout=300)
    assert slurm_cluster.state(job) == "COMPLETED", log(tmp_path)
    assert (work / "find.json").read_bytes() == crawling.oracle(odd)


def test_a_rank_that_dies_ends_the_job(
    tree: Path, sbatch: Callable[..., str], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "find.json").write_text("old")
    job = sbatch(tree, "--nodes=2", find_flags="--max-rate 20")
    slurm_cluster.wait(job, "RUNNING", timeout=60)
    deadline = time.monotonic() + 60
    while (victim := _rank(job, "1")) is None:
        assert time.monotonic() < deadline, log(tmp_path)
        time.sleep(0.1)
    time.sleep(2)
    os.kill(victim, signal.SIGKILL)
    slurm_cluster.wait(job, *ENDED, timeout=120)
    assert slurm_cluster.state(job) == "FAILED", log(tmp_path)
    # make takes an unfinished target away; what must not be there is half of a tree.
    assert not (tmp_path / "find.json").exists() or (tmp_path / "find.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".find.json")] == []


def _rank(job: str, rank: str) -> int | None:
    """Return the process of one rank of a job's find.py."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode(), b"PMI_RANK=" + rank.encode()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if b"\0find\0" not in (entry / "cmdline").read_bytes():
                continue
            if wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                return int(entry.name)
        except OSError:
            continue
    return None
