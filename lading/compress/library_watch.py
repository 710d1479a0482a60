"""End a process that a library does not come back from: ``watch_libraries(source, limit)``, ``note_reading(path)``.

Input: what is read, and for how many seconds it may be silent. Output: none; or one sentence on stderr, and
SIGKILL for this process.
Invariant: a damaged HDF5 file can make libhdf5 loop for ever while it holds the interpreter's lock, so that neither a
thread nor a handler of a signal runs any more. A thread says once a second that Python still runs; a process of its
own (``library_watcher``) listens. Seconds in which that process itself was stopped do not count.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

LIMIT = 300.0  # seconds without any Python: a file system that hangs in a call of the library is seen too
_WATCHER = Path(__file__).with_name("library_watcher.py")
_MOST_NAME = 1000  # bytes; what goes into a pipe in one piece
_pipes: list[int] = []


def note_reading(path: str | os.PathLike[str]) -> None:
    """Say which file a library is given next: the sentence names it."""
    for pipe in _pipes:
        _tell(pipe, os.fsencode(path)[-_MOST_NAME:])


def _tell(pipe: int, name: bytes) -> None:
    with contextlib.suppress(OSError):  # somebody ended the watcher: the work goes on without
        os.write(pipe, name + b"\0")


@contextlib.contextmanager
def watch_libraries(source: str | os.PathLike[str], limit: float = LIMIT) -> Iterator[None]:
    """End this process when no Python runs in it for ``limit`` seconds inside the block."""
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", os.fspath(_WATCHER), str(os.getpid()), str(limit)], stdin=subprocess.PIPE
    )
    assert watcher.stdin is not None
    pipe, done = watcher.stdin.fileno(), threading.Event()

    def beat() -> None:
        while not done.wait(1.0):
            _tell(pipe, b"")

    thread = threading.Thread(target=beat, name="library watch", daemon=True)
    _pipes.append(pipe)
    try:
        note_reading(source)
        thread.start()
        yield
    finally:
        _pipes.remove(pipe)
        done.set()
        thread.join()
        with contextlib.suppress(OSError):
            watcher.stdin.close()
        watcher.wait()
