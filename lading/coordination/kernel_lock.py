"""Locks that the kernel holds and drops with their process: for files that one machine works on.

Input: an open file or a path. Output: the lock, or who holds it.
Invariant: the kernel knows its processes whatever PID namespace they are in,
so there is nobody to judge. On file systems of several machines only
``posix`` locks mean something; where whole folders are shared,
``lading.coordination.lock`` serves.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lading.core.bounded import SMALL_BYTES, read_bounded
from lading.core.identity import ProcessId, decode_process, this_process


def try_lock(stream: IO[str] | int, *, shared: bool = False, posix: bool = False) -> bool:
    """Take the lock of an open file at once; False while another process has it, ``OSError`` where there are none.

    A child that inherits the file holds the lock with its parent; not a
    ``posix`` one, which ends when this process closes the file anywhere.
    """
    try:
        (fcntl.lockf if posix else fcntl.flock)(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:  # how lockf(3) may say the same
        if posix:
            return False
        raise
    return True


def wait_for_lock(stream: IO[str] | int) -> None:
    """Take the lock of an open file when it is free."""
    fcntl.flock(stream, fcntl.LOCK_EX)


@contextmanager
def sign(stream: IO[str]) -> Iterator[None]:
    """Have this process's record in a file that it has locked; it stays when the block fails, for the next one."""
    stream.truncate(0)
    stream.write(this_process().encode().decode("ascii"))
    stream.flush()
    yield
    stream.truncate(0)


def read_holder(path: Path) -> ProcessId:
    """Return who says in a locked file that it holds it."""
    with suppress(OSError, ValueError):
        return decode_process(read_bounded(path, SMALL_BYTES))
    return decode_process(b"")
