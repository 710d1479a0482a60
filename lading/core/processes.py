"""Child processes that never outlive us.

Input: a signal. Output: what ``subprocess.Popen(preexec_fn=…)`` runs in the child.
Invariant: the kernel sends the signal when the thread that started the child
ends, however it ends (prctl(2), PR_SET_PDEATHSIG).
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
# Called with the exit code by who ends this process without unwinding it.
BEFORE_EXIT: list[Callable[[int], None]] = []
DEAD_SECONDS = 2.0  # from SIGKILL to the end of a process that no file system holds up


def set_parent_death_signal(number: signal.Signals = signal.SIGKILL, parent: int | None = None) -> Callable[[], None]:
    """Return a function for the child to call between fork and exec, or first of all in a forked worker.

    The library is loaded before the fork: afterwards only simple calls are
    safe. ``parent`` is the pid of the process that is to be outlived by
    nobody, by default this one.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = parent or os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), number)

    return arrange


def end_child(process: "subprocess.Popen[Any]", *, group: bool = False) -> None:
    """End a child, or its whole process group, at once; one that the kernel does not let go of is left to it."""
    with suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(DEAD_SECONDS)
