"""Threads that can be let go of, whatever they hang in.

Input: work. Output: futures, as ``concurrent.futures`` has them.
Invariant: no thread of a ``WorkerPool`` is waited for longer than was asked, nor by
the end of the interpreter: what hangs in a socket or a file is left behind.
A thread is bound to a ``Leash``; when that is cut, its connections are shut
and it can begin no other request, so one left behind does no harm later.
"""

import queue
import socket
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from lading.core import exit_codes
from lading.core.errors import LadingError

T = TypeVar("T")
CLOSE_SECONDS = 1.0  # for threads to notice that their leash was cut


class WorkersStopped(LadingError):
    """The work was cut off."""

    exit_code = exit_codes.INTERRUPTED


class Connection(Protocol):
    """What is known here of a connection: its socket, and who uses it."""

    sock: socket.socket | None
    leash: "Leash | None"


class Leash:
    """What some threads have in common: they are let go of together. ``moved`` is when their last bytes moved."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.moved = 0.0
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise ``WorkersStopped`` once it was cut."""
        if self.stop.is_set():
            raise WorkersStopped("interrupted")

    def move(self) -> None:
        """Note that bytes move."""
        self.moved = time.monotonic()

    def hold(self, connection: Connection) -> None:
        """Note that a thread of this leash uses a connection now."""
        before = connection.leash
        if before is not self:
            if before is not None:
                before.release(connection)
            connection.leash = self
            with self._lock:
                self._connections.add(connection)
        self.check()

    def release(self, connection: Connection) -> None:
        """Note that a thread of another leash, or of none, uses it now."""
        connection.leash = None
        with self._lock:
            self._connections.discard(connection)

    def cut(self) -> None:
        """Let go: whatever waits for an answer sees its connection end, and no other request begins."""
        self.stop.set()
        with self._lock:
            held = list(self._connections)
        for connection in held:
            with suppress(Exception):  # it ends by itself meanwhile, in the hands of another thread
                if connection.leash is self and connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)


_BOUND = threading.local()


def bound() -> Leash | None:
    """Return the leash of this thread, None for a thread that is on none, as the main one is."""
    leash: Leash | None = getattr(_BOUND, "leash", None)
    return leash


def bind(leash: Leash | None) -> None:
    """Put this thread on a leash."""
    _BOUND.leash = leash


class WorkerPool(Executor):
    """Threads that do what is submitted; like ``ThreadPoolExecutor``, but daemons on a leash."""

    def __init__(self, threads: int, name: str, leash: Leash | None = None) -> None:
        self.leash = leash or Leash()
        self._most, self._name = threads, name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Have ``work`` done; its future tells the result, or what was raised."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise WorkersStopped("interrupted")
            self._work.put((future, partial(work, *arguments, **named)))
            if len(self._threads) < self._most and not self._idle.acquire(blocking=False):
                self._start()
        return future

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a limit on processes or memory
            if not self._threads:
                raise LadingError("no thread can be started here; check ulimit -u and ulimit -v") from error
            self._most = len(self._threads)  # those that are there do it all
            return
        self._threads.append(thread)

    def _run(self) -> None:
        bind(self.leash)
        while (entry := self._work.get()) is not None:
            future, work = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - whoever waits for the future is told
                    future.set_exception(error)
            del entry, future, work
            self._idle.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; ``wait`` for all that was taken, without a limit: see ``close``."""
        with self._lock:
            closed, self._closed = self._closed, True
        if cancel_futures:
            self._cancel()
        if not closed:
            for _ in range(self._most):
                self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _cancel(self) -> None:
        with suppress(queue.Empty):
            while True:
                entry = self._work.get_nowait()
                if entry is None:
                    self._work.put(None)
                    return
                entry[0].cancel()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Cut off what is under way and leave behind what does not notice within ``seconds``."""
        self.leash.cut()
        self.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
