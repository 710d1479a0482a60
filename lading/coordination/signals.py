"""Signals: end gently after the first, in time whatever hangs, sooner after the second.

Input: signals, as the kernel delivers them. Output: an event that is set, or
the end of the process.
Invariant: the end in time needs neither the main thread nor the interpreter's signal
handlers, which wait for both: a byte comes through a pipe, a thread counts.
What ends so has said and written all it could before: each proof is on disk
when it is made.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

TWICE_SECONDS = 1.0  # the same SIGTERM may come by two ways: from a node's daemon, and from a launcher that had it
LOOK_SECONDS = 0.1
RECORD_SECONDS = 1.0
_ASKS = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """From ``begin`` to ``close``: this long after a signal, the process is gone.

    seconds  after the first SIGTERM or SIGINT; again: after a second one
    last     called then, with a second to write down what can be
    """

    def __init__(self, seconds: float, again: float, last: Callable[[], object] = lambda: None) -> None:
        self._seconds, self._again = seconds, again
        self.last = last
        self._deadline = float("inf")
        self._first = 0.0
        self._pipe = (-1, -1)
        self._before = -1
        self._closed = threading.Event()

    def begin(self) -> "Ending":
        """Watch from now on; for the main thread."""
        reading, writing = self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="ending", daemon=True).start()
        return self

    def close(self) -> None:
        """Watch no more: the end is near by itself."""
        if not self._closed.is_set():
            self._closed.set()
            signal.set_wakeup_fd(self._before)

    def _watch(self, reading: int) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            with suppress(BlockingIOError):
                for number in os.read(reading, 64):
                    self._hear(number)
            if time.monotonic() > self._deadline:
                self._end()

    def _hear(self, number: int) -> None:
        now = time.monotonic()
        if number not in _ASKS:
            return
        if not self._first:
            self._first, self._deadline = now, now + self._seconds
        elif now - self._first > TWICE_SECONDS:
            self._deadline = min(self._deadline, now + self._again)

    def _end(self) -> None:
        def write() -> None:
            with suppress(Exception):
                self.last()

        with suppress(OSError):
            os.write(2, b"something hangs and was left behind; run the same command again to continue\n")
        with suppress(RuntimeError):
            thread = threading.Thread(target=write, daemon=True)
            thread.start()
            thread.join(RECORD_SECONDS)
        os._exit(130)


def follow(parent: int, seconds: float) -> None:
    """End this process at most ``seconds`` after its parent: gently first, for who listens to SIGTERM."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        begun = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(TWICE_SECONDS + 0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # nobody waits for what it could still finish
        time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="launch", daemon=True).start()


def stop_on_signals(stop: threading.Event, *, interrupt: bool = True, insist: bool = True) -> None:
    """Set ``stop`` on SIGTERM, SIGUSR1 and (unless told otherwise) SIGINT: the present item is finished.

    After that a SIGINT ends at once where one may ``insist``.
    """

    if threading.current_thread() is not threading.main_thread():
        return  # Only the main thread may set handlers; its owner decides there.

    def ask(number: int, _frame: object) -> None:
        if insist and number == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, ask)
    # Ctrl-C reaches the whole process group: children leave the answer to their parent.
    signal.signal(signal.SIGINT, ask if interrupt else signal.SIG_IGN)
