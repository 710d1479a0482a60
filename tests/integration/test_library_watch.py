"""A library that does not come back from a damaged file ends as a sentence, not as a job that hangs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lading.compress.library_watch import watch_libraries

REPOSITORY = Path(__file__).resolve().parents[2]
LOOP = REPOSITORY / "tests" / "data" / "damaged" / "loop.nwb"  # ten bits flipped: libhdf5 loops over an attribute
SILENT = """
import sys
from collections import deque
from itertools import count
from lading.compress.library_watch import note_reading, watch_libraries
with watch_libraries("a source", 3.0):
    note_reading("a\\nfile")
    {before}
    deque(count(), maxlen=0)  # holds the interpreter's lock, as a call of libhdf5 does
"""


def run(*words: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=seconds, check=False
    )


def test_a_process_without_any_python_is_ended_with_a_sentence() -> None:
    ended = run("-c", SILENT.format(before="import time; time.sleep(1.5)"))
    assert ended.returncode == -signal.SIGKILL
    assert ended.stderr == (
        "'a\\nfile': the library that reads it has not come back for 3 s; restore the file or leave it out, "
        "then run again\n"
    )


def test_what_is_slow_in_python_is_left_alone() -> None:
    with watch_libraries("a source", 2.0):
        time.sleep(4)


def test_a_watcher_that_somebody_ended_stops_nothing() -> None:
    with watch_libraries("a source", 60.0):
        (watcher,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1:]
        os.kill(int(watcher), signal.SIGKILL)
        time.sleep(1.5)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_file_that_libhdf5_loops_over(tmp_path: Path, more: list[str]) -> None:
    words = ["-m", "lading", "compress", str(LOOP), str(tmp_path / "out"), "--kind", "ephys", "--stall-limit", "4s"]
    ended = run(*words, *more)
    assert ended.returncode not in (0, 70)
    assert str(LOOP) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not [path for path in tmp_path.rglob("*") if path.name == "compress.json" or path.suffix == ".zarr"]
