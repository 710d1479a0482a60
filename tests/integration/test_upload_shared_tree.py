"""Ranks of one host hold one copy of the tree, and one of them checks the keys: by counts, and when ranks are lost."""

import hashlib
import json
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

from benchmarks.scale.further_ranks import RankCost, find_ranks, look
from lading.core.atomic import read_log
from lading.tree.size_tree import TreeMeta, write_meta
from tests import labtree
from tests.conftest import REPOSITORY, need_program
from tests.servers import faults

FEW, MANY = 1_000, 150_000
# Runs upload as a rank; what must go wrong in which rank stands in the environment.
RANK = """
import os, sys, time
from pathlib import Path
rank = os.environ["PMI_RANK"]
if "SAID" in os.environ:  # where what is said does not go through a launcher that is stopped
    for stream in (1, 2):
        os.dup2(os.open(os.environ["SAID"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
if rank == os.environ.get("FAR"):
    os.environ["LADING_HOST"] = "elsewhere"
from lading.cli.upload import main
from lading.core.command_line import run_main
from lading.plan.objects import PlannedObjects
from lading.tree import sealed_tree
import lading.upload.tree_sharing as tree_sharing

audit, read, opened = PlannedObjects.audit, tree_sharing.read_tree, tree_sharing.open_tree

def watched(name, function):
    def call(*given):
        found = function(*given)
        os.write(2, f"{rank} {name} {'none' if found is None else 'done'}\\n".encode())
        return found
    return call

def hang(*given):
    Path("hangs").touch()
    time.sleep(1000)

tree_sharing.read_tree = watched("read", read)
tree_sharing.open_tree = watched("opened", opened)
PlannedObjects.audit = hang if rank == os.environ.get("HANGS") else watched("audited", audit)
if rank == os.environ.get("BLIND"):
    def refuse(path, *more, **named):
        if str(path).startswith("/proc/"):
            raise PermissionError(path)
        return os_open(path, *more, **named)
    os_open, os.open = os.open, refuse
sys.exit(run_main(main))
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}


def launch(ranks: int, words: list[str], directory: Path, *flags: str, **more: str) -> "subprocess.Popen[str]":
    """Start a launch whose output is in ``out`` and ``err`` of the directory."""
    with (directory / "out").open("w") as out, (directory / "err").open("w") as err:
        return subprocess.Popen(
            ["mpiexec", *flags, "-n", str(ranks), sys.executable, "-m", "mpi4py", *words],
            cwd=directory, env=environment(**more), stdout=out, stderr=err, text=True,
        )  # fmt: skip


@contextmanager
def watched_script(tmp_path: Path) -> Iterator[Path]:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    yield script


def write_release(directory: Path, count: int) -> Path:
    """Write tree and plan of ``count`` files that nobody made; the name of the last is long."""
    root = directory / "data"
    root.mkdir(parents=True)
    names = [f"f{number:09d}" for number in range(count - 1)] + ["z" * 99]
    directories = [
        [f"d{first:09d}", 0, 7 * len(some), *([name, 1, 7] for name in some)]
        for first in range(0, count, 1000)
        if (some := names[first : first + 1000])
    ]
    tree = json.dumps(["data", 0, 7 * count, *directories], separators=(",", ":")) + "\n"
    (directory / "find.json").write_text(tree)
    counts, moment = (
        (1 + len(directories) + count, count, 1 + len(directories), 0, 0, 7 * count),
        "2026-01-01T00:00:00Z",
    )
    digest = hashlib.sha256(tree.encode()).hexdigest()
    write_meta(directory / "find.meta.json", TreeMeta(str(root), {}, digest, *counts, moment, moment))
    cut = [sys.executable, str(REPOSITORY / "batch.py"), str(root), "--file-tree", "find.json", "-o", "batch.json"]
    cut += ["--min-batch-size", "1", "--max-batch-size", str(7 * 2000)]
    done = subprocess.run(cut, cwd=directory, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


def ranks_of(process: "subprocess.Popen[str]") -> dict[int, int]:
    """Return {rank: process id} of a launch."""
    return {rank: pid for pid, rank in find_ranks(process.pid).items()}


def lose_first(ranks: dict[int, int]) -> None:
    """SIGKILL for the first rank, as under ``srun``, which lets the others live: Hydra is stopped, or it would not."""
    parents = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] for pid in ranks.values()}
    (proxy,) = map(int, parents)
    os.kill(proxy, signal.SIGSTOP)
    os.kill(ranks[0], signal.SIGKILL)
    ranks[-1] = proxy


def end(process: "subprocess.Popen[str]", ranks: dict[int, int], is_done: Callable[[], bool]) -> None:
    """Wait until it is done, then for the launcher: ranks that ended wait for it."""
    try:
        ends = time.monotonic() + 60
        while not is_done():
            assert time.monotonic() < ends, "a rank waits for one that is gone"
            time.sleep(0.1)
    finally:
        os.kill(ranks[-1], signal.SIGCONT)
        assert process.wait(60) != 0


def upload_words(root: Path, *more: str) -> list[str]:
    words = [str(REPOSITORY / "upload.py"), str(root), "--bucket", "s3://bucket", "--batch", "batch.json"]
    return [*words, "--endpoint-url", "http://127.0.0.1:9", *more]  # nothing listens there, and nothing is asked


def refused(directory: Path, count: int) -> list[RankCost]:
    """Launch two ranks over ``count`` files, one with a key too long; returns what each rank took."""
    root = write_release(directory, count)
    process = launch(2, upload_words(root, "--max-key-bytes", "80"), directory)
    costs, found = [RankCost() for _ in range(2)], {}
    while process.poll() is None:
        found = found if len(found) == 2 else found | find_ranks(process.pid)
        for pid, rank in found.items():
            look(pid, costs[rank])
        time.sleep(0.02)
    errors = (directory / "err").read_text()
    assert process.returncode == 2, errors
    assert errors.count("error: nothing was sent:") == 1, errors
    assert errors.count("zzz': its key has ") == 1, errors
    assert len(errors.splitlines()) == 2, "said by one rank alone: " + errors
    return costs


def planned_release(tmp_path: Path, files: int) -> tuple[Path, Path]:
    """Make a release of small files and its plan; returns the root, and the directory of the plan."""
    need_program("mpiexec")
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, files, most_bytes=2000)
    labtree.make_plan(root, directory, largest="20k")
    return root, directory


def test_a_further_rank_takes_no_memory_by_the_file(tmp_path: Path) -> None:
    """A copy of the tree takes 41 bytes a file, and a check of the keys another hundred."""
    need_program("mpiexec")
    few, many = refused(tmp_path / "few", FEW), refused(tmp_path / "many", MANY)
    grown = [(after.own - before.own) / (MANY - FEW) for before, after in zip(few, many)]
    assert grown[0] > 8, "the first rank reads the tree, and checks the keys: else this measures nothing"
    assert max(grown[1:]) < 8, grown


def test_ranks_send_each_object_once_whether_they_share_or_not(s3, bucket: str, tmp_path: Path) -> None:
    """Rank 2 cannot look into /proc, and rank 3 is on another host."""
    root, directory = planned_release(tmp_path, 120)
    s3.make_bucket(bucket)
    with faults.serve(s3, lambda request: None) as proxy, watched_script(tmp_path) as script:
        words = labtree.upload_command(root, proxy, bucket, "--max-workers", "4")[2:]
        process = launch(4, [str(script), *words], directory, BLIND="2", FAR="3")
        code, errors = process.wait(100), (directory / "err").read_text()
        assert code == 0, errors
        sent = Counter(request.key for request in proxy.requests if request.put and "canary" not in request.key)
    seen = sorted(line for line in errors.splitlines() if line[:1].isdigit())
    assert seen == ["0 audited done", "0 read done", "1 opened done", "2 opened none", "2 read done", "3 read done"]
    journals = [list(read_log(path)) for path in (directory / "journal").glob("*.jsonl")]
    proven = Counter(record["key"] for records in journals for record in records if record and record["kind"] == "done")
    assert set(proven) == set(labtree.expected(root))
    assert set(proven.values()) == {1}
    assert sum(sent.values()) - len(sent) < 10, "s5cmd repeats what the server dropped, never a batch"
    assert labtree.differences(s3, bucket, root) == []


def test_a_tree_of_another_state_is_refused_once(tmp_path: Path) -> None:
    need_program("mpiexec")
    root = write_release(tmp_path, FEW)
    tree = tmp_path / "find.json"
    tree.write_text(tree.read_text().replace("f000000001", "f0000000015", 1))
    process = launch(3, upload_words(root), tmp_path, "-l")
    assert process.wait(60) == 4
    said = (tmp_path / "err").read_text().splitlines()
    assert len(said) == 1, said
    assert "is not the tree that the plan was made from: it changed since; run: make batch.json" in said[0]


def test_who_waits_for_the_tree_ends_with_the_rank_that_reads_it(tmp_path: Path) -> None:
    """SIGKILL for the reader, where the launcher lets the others live: they say one thing each, and leave nothing."""
    need_program("mpiexec")
    root = write_release(tmp_path, FEW)
    tree, kept = tmp_path / "find.json", tmp_path / "kept"
    tree.rename(kept)
    os.mkfifo(tree)
    with watched_script(tmp_path) as script:
        process = launch(3, [str(script), *upload_words(root)[1:]], tmp_path, SAID="said")
    writer = None
    ends = time.monotonic() + 60
    while writer is None:
        assert time.monotonic() < ends, (tmp_path / "err").read_text()
        try:
            writer = os.open(tree, os.O_WRONLY | os.O_NONBLOCK)  # fails while nobody reads
        except OSError:
            time.sleep(0.05)
    ranks = ranks_of(process)
    kept.rename(tree)
    lose_first(ranks)
    os.close(writer)
    said = tmp_path / "said"
    end(process, ranks, lambda: said.read_text().count("run the same command again") == 2)
    errors = [line for line in said.read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, errors
    assert {line.split(" answered")[0] for line in errors} == {"error: not all of the 3 ranks"}
    assert errors[0].endswith("; run the same command again")


@pytest.mark.long
def test_who_waits_for_the_check_of_keys_goes_on_without_the_rank_that_made_it(s3, bucket: str, tmp_path: Path) -> None:
    root, directory = planned_release(tmp_path, 60)
    s3.make_bucket(bucket)
    with watched_script(tmp_path) as script:
        words = labtree.upload_command(root, s3, bucket, "--max-workers", "4")[2:]
        process = launch(3, [str(script), *words], directory, HANGS="0", SAID="said")
        ends = time.monotonic() + 60
        while not (directory / "hangs").exists():
            assert time.monotonic() < ends, (directory / "err").read_text()
            time.sleep(0.05)
        time.sleep(1)  # the others begin to wait
        ranks = ranks_of(process)
        lose_first(ranks)
        end(process, ranks, lambda: len(list((directory / "runs").glob("*.json"))) == 2)
    errors = (directory / "said").read_text()
    assert "1 audited done" in errors, errors
    assert "2 audited done" in errors
    assert labtree.differences(s3, bucket, root) == []
    again = labtree.upload(root, directory, s3, bucket)
    assert again.returncode == 0, again.stderr
    assert "nothing to send" in again.stdout
