"""SIGKILL of a worker, the client or the whole job at many points: the next run completes, and redoes nothing.

``LADING_KILLS`` sets the number of points for each victim (default 2).
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lading.coordination.claims import CompletionRecords, file_name
from lading.core.atomic import read_log
from lading.testing.ephys_data import make_samples
from tests.conftest import need_program

KILLS = int(os.environ.get("LADING_KILLS", "2"))
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of about eighty units."""
    directory = tmp_path_factory.mktemp("kills") / "in"
    directory.mkdir()
    samples = np.tile(make_samples(30_000, 64, 1, units=20), (6, 1))
    samples.tofile(directory / "data.bin")
    fields = {"files": "data.bin", "channels": 64, "sampling_frequency": 30_000}
    (directory / "r.recording.yaml").write_text(json.dumps(fields))
    return directory


def command(source: Path, destination: Path) -> list[str]:
    flags = ["--kind", "ephys", "--workers", "2", "--chunk-seconds", "0.02"]
    return [sys.executable, "-m", "jobs", "compress", str(source), str(destination), *flags]


def tree(directory: Path) -> dict[str, str]:
    """Return path → digest of everything but the report, which holds times."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "compress.json"
    }


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], int]:
    """The output of a run that nobody killed, and its number of units."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    subprocess.run(command(source, out), check=True, timeout=300, capture_output=True)
    return tree(out), json.loads((out / "compress.json").read_text())["units"]


def children(pid: int) -> Iterator[int]:
    """Yield the worker processes of a client."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield int(child)
        except OSError:
            continue


def done_events(state: Path) -> list[tuple[str, str]]:
    """Return (log name, item) of every item that was finished."""
    return [
        (path.name, record["item"])
        for path in sorted((state / "log").glob("*.jsonl"))
        for record in read_log(path)
        if record and record["event"] == "done"
    ]


@pytest.mark.parametrize("point", range(KILLS))
@pytest.mark.parametrize("victim", ["worker", "client", "job"])
def test_kill(victim: str, point: int, source: Path, undisturbed: tuple[dict[str, str], int], tmp_path: Path) -> None:
    expected, units = undisturbed
    out, state = tmp_path / "out", tmp_path / "out.state"
    process = subprocess.Popen(
        command(source, out), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # Points spread from the first marker to the last.
    wanted = 1 + point * (units - 2) // max(1, KILLS - 1) if KILLS > 1 else units // 2
    while len(CompletionRecords(state / "done").names()) < wanted and process.poll() is None:
        time.sleep(0.002)
    if victim == "worker":
        victims = list(children(process.pid))
        if victims:
            os.kill(victims[point % len(victims)], signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    else:
        if victim == "client":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        time.sleep(0.3)  # The kernel ends the client's workers.
        finished_before = CompletionRecords(state / "done").names()
        logs_before = {path.name for path in (state / "log").glob("*.jsonl")}
        again = subprocess.run(command(source, out), check=False, timeout=300, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        redone = {file_name(item) for log, item in done_events(state) if log not in logs_before}
        assert not redone & finished_before
    assert tree(out) == expected
    assert (out / "compress.json").exists()
    record = json.loads((out / "compress.json").read_text())
    assert record["units"] == units
    assert len(CompletionRecords(state / "done").names()) == units + 1


def descendants(pid: int) -> Iterator[int]:
    """Yield every process below one."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield int(child)
            yield from descendants(int(child))


def is_dask_worker(pid: int) -> bool:
    """Tell whether a process is a nanny's child."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_killed_dask_worker_is_replaced(
    source: Path, undisturbed: tuple[dict[str, str], int], tmp_path: Path
) -> None:
    expected, units = undisturbed
    out, state = tmp_path / "out", tmp_path / "out.state"
    need_program("mpiexec")
    mpiexec = Path(sys.executable).parent / "mpiexec"
    launcher = [str(mpiexec if mpiexec.exists() else "mpiexec"), "-n", "4", sys.executable, "-m", "mpi4py"]
    run = [*launcher, *command(source, out)[1:], "--engine", "dask"]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(CompletionRecords(state / "done").names()) < units // 4 and process.poll() is None:
        time.sleep(0.005)
    victims = [pid for pid in descendants(process.pid) if is_dask_worker(pid)]
    assert victims or process.poll() is not None
    os.kill(victims[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=300)
    # What the launcher returns after a kill is its own affair; the program's last word counts.
    assert "done:" in output, errors
    assert tree(out) == expected
    record = json.loads((out / "compress.json").read_text())
    assert record["source_checksum"] == record["decoded_checksum"]


def test_a_signal_ends_after_the_present_unit_and_the_next_run_continues(
    source: Path, undisturbed: tuple[dict[str, str], int], tmp_path: Path
) -> None:
    expected, units = undisturbed
    out, state = tmp_path / "out", tmp_path / "out.state"
    process = subprocess.Popen(command(source, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(CompletionRecords(state / "done").names()) < units // 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command again to continue" in errors
    left = units - len(CompletionRecords(state / "done").names())
    assert 0 < left < units
    again = subprocess.run(command(source, out), check=True, timeout=300, capture_output=True, text=True)
    assert "done:" in again.stdout
    assert tree(out) == expected


def test_a_second_run_beside_a_living_one_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not CompletionRecords(tmp_path / "out.state" / "done").names() and process.poll() is None:
            time.sleep(0.01)
        # Stopped, not ended: it still holds the job, however slowly the second one starts.
        process.send_signal(signal.SIGSTOP)
        second = subprocess.run(command(source, out), check=False, timeout=60, capture_output=True, text=True)
        assert second.returncode == 75, second.stderr
        assert "another run works on" in second.stderr
    finally:
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=300) == 0


def test_a_full_disk_leaves_nothing_that_looks_finished(source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        run = [*command(source, small / "out"), "--state", str(tmp_path / "state")]
        first = subprocess.run(run, check=False, timeout=300, capture_output=True, text=True)
        assert first.returncode == 3, first.stderr
        assert "No space left on device" in first.stderr
        assert "Traceback" not in first.stderr
        assert not (small / "out" / "compress.json").exists()
        subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
        subprocess.run(run, check=True, timeout=300, capture_output=True)
        assert (small / "out" / "compress.json").exists()
    finally:
        subprocess.run(["umount", small], check=False)
