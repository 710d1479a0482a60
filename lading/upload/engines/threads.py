"""What engines share whose work is done by threads of this process.

Input: tasks, and a function that sends one. Output: the Protocol of
``engine.py``.
Invariant: whatever that function does or raises, its task has exactly one
outcome; what is closed is left behind, with its connections shut, and
answers to nobody.
"""

import os
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable

from lading.checksums.digest import Hash
from lading.core.errors import LadingError
from lading.core.worker_threads import Leash, WorkerPool, WorkersStopped
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind
from lading.upload.engines.base import TransferOutcome, UploadTask

READ_BYTES = 1 << 20


class ChangedFile(OSError):
    """A file is not what its stat said when it was to be sent."""


def transfer(task: UploadTask, send: Callable[[UploadTask], str]) -> TransferOutcome:
    """Return what became of a task that ``send`` sends; never raises."""
    try:
        return TransferOutcome(task, etag=send(task) or None, answered=True)
    except StoreError as error:
        return TransferOutcome(task, error.failure, str(error), answered=bool(error.code))
    except OSError as error:
        return TransferOutcome(task, FailureKind.OBJECT, " ".join((error.strerror or str(error)).split())[:200])
    except WorkersStopped:
        return TransferOutcome(task, FailureKind.TRANSIENT, "it was interrupted")
    except LadingError as error:
        return TransferOutcome(task, FailureKind.TRANSIENT, " ".join(str(error).split())[:200])
    except BaseException as error:  # noqa: BLE001 - a task without an outcome would be waited for without an end
        return TransferOutcome(task, FailureKind.OBJECT, describe_error(error))


def describe_error(error: BaseException) -> str:
    """Return one line for an error that nobody thought of."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Section:
    """Bytes ``start`` to ``start + length`` of a file, read when asked: a body that needs no memory.

    ``fault`` is what kept it from being read. It is raised only while the
    body is ``sent``: who reads it to sign it prints what it raises, and must
    find the fault out in another way before it begins to send.
    """

    def __init__(self, descriptor: int, start: int, length: int, leash: Leash) -> None:
        self._descriptor, self._start, self._length, self._leash = descriptor, start, length, leash
        self._position = 0
        self.sent = False
        self.fault: Exception | None = None

    def __len__(self) -> int:
        return self._length

    def tell(self) -> int:
        """Return the position inside the section."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move inside the section, as a client does that sends it again."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        self.sent = False
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; a file that shrank raises ``OSError``, so that no short body is sent."""
        try:
            return self._read(size)
        except (OSError, WorkersStopped) as error:
            self.fault = error
            if self.sent:
                raise
            return b""

    def _read(self, size: int) -> bytes:
        left = self._length - self._position
        count = left if size is None or size < 0 else min(size, left)
        if count <= 0:
            return b""
        self._leash.check()
        block = os.pread(self._descriptor, count, self._start + self._position)
        if not block:
            raise ChangedFile(0, "the file is shorter than its size says, or became so while it was sent")
        self._leash.move()
        self._position += len(block)
        return block

    def digest(self, *hashes: Hash) -> list[bytes]:
        """Return the digests of the section by hashes that are new; raises what keeps it from being read."""
        self._position = 0
        while block := self._read(READ_BYTES):
            for each in hashes:
                each.update(block)
        self._position = 0
        return [bytes.fromhex(each.hexdigest()) for each in hashes]


class ThreadEngine(ABC):
    """See ``lading.upload.engines.base.Engine``; ``_send`` is what a subclass adds."""

    name = "threads"
    atomic_create = True

    def __init__(self, threads: int) -> None:
        self.window = 2 * threads
        self._threads = threads
        self._pool: WorkerPool | None = None
        self._done: queue.SimpleQueue[TransferOutcome] = queue.SimpleQueue()
        self._outstanding = 0

    @abstractmethod
    def _send(self, task: UploadTask, leash: Leash) -> str:
        """Send one file; returns the ETag that the server named. Raises what it likes."""

    @property
    def outstanding(self) -> int:
        """How many submitted tasks have no outcome yet."""
        return self._outstanding

    @property
    def moved(self) -> float | None:
        """When bytes were last read for sending: threads stop reading when the server takes no more."""
        return self._pool.leash.moved if self._pool else 0.0

    def accepts(self, task: UploadTask) -> str | None:
        """Take every task."""
        return None

    def submit(self, task: UploadTask) -> None:
        """Hand one task to a thread."""
        if self._pool is None:
            self._pool, self._done = WorkerPool(self._threads, self.name), queue.SimpleQueue()
        pool, done = self._pool, self._done
        self._outstanding += 1

        def work() -> None:
            done.put(transfer(task, lambda task: self._send(task, pool.leash)))

        try:
            pool.submit(work)
        except LadingError as error:  # no thread is to be had
            done.put(TransferOutcome(task, FailureKind.TRANSIENT, str(error)))

    def poll(self, timeout: float) -> list[TransferOutcome]:
        """Return what has come, waiting at most ``timeout`` seconds for the first."""
        found: list[TransferOutcome] = []
        wait = timeout if self._outstanding else 0.0
        try:
            found.append(self._done.get(timeout=wait) if wait > 0 else self._done.get_nowait())
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            self._outstanding -= len(found)
            return found

    def drain(self) -> None:  # noqa: B027  # nothing is held back here
        """Know that nothing more will be submitted: it ends when it is closed."""

    def close(self) -> None:
        """End everything now: connections are shut; a thread that does not notice is left behind."""
        pool, self._pool = self._pool, None
        self._done, self._outstanding = queue.SimpleQueue(), 0
        if pool is not None:
            pool.close()
