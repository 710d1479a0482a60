"""The second client: boto3 in threads, for names s5cmd cannot carry and for what it failed to send.

Input: tasks. Output: outcomes (``lading.transfer.engine.Engine``).
Invariant: each body carries its Content-MD5 or a signed SHA-256, so the
server refuses other bytes than were read; a multipart upload that fails is
aborted.
"""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lading.transfer.checksum import part_bytes
from lading.transfer.engine import Failure, Outcome, Target, Task
from lading.transfer.listed import StoreError

if TYPE_CHECKING:
    from lading.transfer.store import Store

THREADS = 8


class Client:
    """See ``lading.transfer.engine.Engine``."""

    name = "boto3"
    atomic_create = True

    def __init__(self, target: Target, store: "Store") -> None:
        self._store, self._target = store, target
        self._create = target.no_overwrite
        threads = min(THREADS, target.workers)
        self.window = 2 * threads
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._closing = threading.Event()
        self.outstanding = 0

    def accepts(self, task: Task) -> str | None:
        """Carry anything."""
        return None

    def submit(self, task: Task) -> None:
        """Hand one task to a thread."""
        if self._pool is None:
            self._closing = threading.Event()
            self._done = queue.SimpleQueue()
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="client")
        self.outstanding += 1
        self._pool.submit(self._carry, task)

    def poll(self, timeout: float) -> list[Outcome]:
        """Return what the threads finished."""
        outcomes: list[Outcome] = []
        try:
            if self.outstanding:
                outcomes.append(self._done.get(timeout=max(timeout, 0.001)))
                while True:
                    outcomes.append(self._done.get_nowait())
        except queue.Empty:
            pass
        self.outstanding -= len(outcomes)
        return outcomes

    def drain(self) -> None:
        """Know that nothing more will be submitted: it ends when it is closed."""

    def close(self) -> None:
        """Stop after the request each thread is in."""
        self._closing.set()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self.outstanding = 0

    def _carry(self, task: Task) -> None:
        try:
            outcome = Outcome(task, etag=self._send(task))
        except StoreError as error:
            outcome = Outcome(task, error.failure, str(error))
        except OSError as error:
            outcome = Outcome(task, Failure.OBJECT, f"{error.strerror or error}")
        self._done.put(outcome)

    def _send(self, task: Task) -> str:
        size = part_bytes(task.size)
        with open(self._target.open(task), "rb") as stream:
            if task.size <= size:
                return self._store.put(task.key, stream, task.content_type, create=self._create)
            upload = self._store.begin_upload(task.key, task.content_type)
            try:
                parts: list[str] = []
                while block := stream.read(size):
                    if self._closing.is_set():
                        raise StoreError(Failure.TRANSIENT, "stopped")
                    parts.append(self._store.put_part(task.key, upload, len(parts) + 1, block))
                return self._store.finish_upload(task.key, upload, parts, create=self._create)
            except BaseException:
                self._store.abort_upload(task.key, upload)
                raise
