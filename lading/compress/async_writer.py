"""Many files written fast and durably: flushed beside the work, awaited at the end.

Input: paths and blocks of bytes. Output: files that appear whole.
Invariant: when the ``with`` block ends without an exception, every file
written in it, and its name, is on disk; before that nothing may rely on them.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lading.core.atomic import sync_directory, umask
from lading.core.errors import LadingError

# A few flushes at once hide their latency; more only queue up in the disk.
FLUSHES = 4
MODE = 0o666


class AsyncFsyncWriter:
    """Writes files whose flushing overlaps with whatever the caller does next.

    They are written in ``working``, a directory on their file system, and
    appear by rename.

    >>> with Writer(working) as writer:
    ...     writer.write(path, [data])
    """

    def __init__(self, working: Path) -> None:
        self._working = working
        self._pool = ThreadPoolExecutor(FLUSHES, thread_name_prefix="flush")
        self._waiting: list[tuple[Path, Future[None]]] = []
        self._settled = 0
        self._directories: set[Path] = set()
        self._mode = MODE & ~umask()

    def write(self, path: Path, blocks: Iterable[Any]) -> None:
        """Write a file that appears whole under its name; it is durable only when the ``with`` block ends."""
        name = None
        try:
            if path.parent not in self._directories:
                self._directories.add(path.parent)
                missing = path.parent
                while not missing.exists():  # a new directory is a name in the one above
                    missing = missing.parent
                    self._directories.add(missing)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._working.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._working)
            with open(descriptor, "wb", buffering=0) as stream:
                for block in blocks:
                    view = memoryview(block).cast("B")
                    while view:
                        view = view[stream.write(view) :]
                os.fchmod(stream.fileno(), self._mode)
            os.replace(name, path)
        except BaseException as error:
            if name is not None:
                Path(name).unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename in (None, name, str(path.parent), str(self._working)):
                raise LadingError(f"cannot write {path}: {error.strerror}") from error
            raise
        self._waiting.append((path, self._pool.submit(_flush, path)))

    def drop_cache(self) -> None:
        """Let the files written so far leave memory once they are flushed: the next ones take their pages."""
        for path, flushed in self._waiting[self._settled :]:
            self._pool.submit(_leave, path, flushed)
        self._settled = len(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for _, flushed in self._waiting:
                    flushed.result()
                self.drop_cache()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=error is not None)
        if error is not None:
            return
        for directory in sorted(self._directories):
            sync_directory(directory)


def _flush(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        # Taken back by its writer: verification failed.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise LadingError(f"cannot write {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _leave(path: Path, flushed: Future[None]) -> None:
    """Let the kernel drop a file from memory; flushes come before this in the queue, so it never waits for itself."""
    if flushed.exception() is not None:
        return  # said where it is awaited
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as stream:  # only advice
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
