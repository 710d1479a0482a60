"""Workers as child processes of one machine.

Input: how many, and what each one runs. Output: nothing; the work leaves
markers.
Invariant: a worker that dies is replaced, and no worker outlives its parent.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

from lading.coordination.signals import stop_on_signals
from lading.core.errors import LadingError
from lading.core.processes import set_parent_death_signal
from lading.core.safe_streams import protect_streams

# Deaths beyond this many per worker mean that the machine, not an item, is at fault.
DEATHS_PER_WORKER = 5

# A worker: (name, index among its peers, event that asks it to stop) → None. Must be importable by name.
Worker = Callable[[str, int, threading.Event], None]


def usable_cores() -> int:
    """Return the cores this process may run on (respects taskset, cpusets and Slurm's binding)."""
    return len(os.sched_getaffinity(0))


def run_locally(worker: Worker, count: int, stop: threading.Event) -> None:
    """Run ``count`` workers to their end, replacing those that are killed.

    When ``stop`` is set they are asked to end after their present item.
    Raises ``LadingError`` when workers keep dying.
    """
    context = multiprocessing.get_context("spawn")
    born = 0

    def start(index: int) -> SpawnProcess:
        nonlocal born
        name = f"w{index}" if born < count else f"w{index}.{born}"
        born += 1
        process = context.Process(target=_live, args=(worker, name, index, os.getpid()), name=name)
        process.start()
        return process

    running = {index: start(index) for index in range(count)}
    asked = False
    try:
        while running:
            wait([process.sentinel for process in running.values()], timeout=0.2)
            if stop.is_set() and not asked:
                asked = True
                for process in running.values():
                    process.terminate()
            for index, process in list(running.items()):
                if process.is_alive():
                    continue
                process.join()
                del running[index]
                if process.exitcode == 0 or stop.is_set():
                    continue
                print(f"worker {process.name} ended with {describe_exit(process.exitcode)}", file=sys.stderr)
                if born > count * (1 + DEATHS_PER_WORKER):
                    raise LadingError("workers keep dying; see the lines above")
                running[index] = start(index)
    finally:
        for process in running.values():
            process.kill()
            process.join()


def describe_exit(code: int | None) -> str:
    """Return ``signal SIGKILL`` for -9, ``exit code 1`` for 1."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _live(worker: Worker, name: str, index: int, parent: int) -> None:
    protect_streams()
    set_parent_death_signal(parent=parent)()
    stop = threading.Event()
    stop_on_signals(stop, interrupt=False)
    worker(name, index, stop)
