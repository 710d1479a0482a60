"""Run one command and measure it: wall time, CPU of its whole process tree, peak memory.

Invariant: memory is the sum over the living tree, sampled every 100 ms (proportional share, so that pages shared by
parent and child count once); CPU is what the kernel charged to the tree's processes that were waited for.
"""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time and CPU, bytes of memory, the exit code and what was printed."""

    wall: float
    cpu: float
    memory: int
    code: int
    output: str


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _tree(int(child))
    return found


def _memory(pid: int) -> int:
    total = 0
    for one in _tree(pid):
        try:
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def run(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> Cost:
    """Run a command to its end."""
    log = cwd / "bench.log"
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        peak = 0
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            # Often enough for what grows steadily, seldom enough to cost nothing.
            while not ended.wait(0.1):
                peak = max(peak, _memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
    text = log.read_text(errors="replace")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(wall, cpu, max(peak, usage.ru_maxrss * 1024), process.returncode, text)
