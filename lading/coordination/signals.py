"""Signals: end gently after the first, in time whatever hangs, sooner after the second.

Input: signals, as the kernel delivers them. Output: an event that is set, or
the end of the process.
Invariant: the end in time needs neither the main thread nor the interpreter's signal
handlers, which wait for both: a byte comes through a pipe, a thread counts.
A main thread that waits for a file server does not even come to write that
byte: the thread looks for signals that nobody took, takes them, and passes
them on.
What ends so has said and written all it could before: each proof is on disk
when it is made.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from lading.core.processes import set_parent_death_signal

TWICE_SECONDS = 1.0  # the same SIGTERM may come by two ways: from a node's daemon, and from a launcher that had it
HANGING_SECONDS = 20.0  # for a command that has nothing in flight to finish, to put away what it began
AGAIN_SECONDS = 3.5  # after a second signal: then the process is gone, whatever hangs
LOOK_SECONDS = 0.2
RECORD_SECONDS = 1.0
_ASKS = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """From ``begin`` to ``close``: this long after a signal, the process is gone.

    seconds  after the first SIGTERM or SIGINT; again: after a second one
    last     called then, with a second to write down what can be

    Only signals that have a handler come here: a SIGTERM that has none ends
    the process by itself, whatever hangs.
    """

    def __init__(self, seconds: float, again: float, last: Callable[[], object] = lambda: None) -> None:
        self._seconds, self._again = seconds, again
        self.last = last
        self._deadline = float("inf")
        self._first = 0.0
        self._writing = self._before = -1
        self._thread: threading.Thread | None = None
        self._passed_on: set[int] = set()

    def begin(self) -> "Ending":
        """Watch from now on; does nothing in another thread than the main one, which alone hears signals."""
        if threading.current_thread() is not threading.main_thread():
            return self
        reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(reading,), name="ending", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Watch no more: the end is near by itself."""
        if self._thread is not None:
            self._thread = None
            signal.set_wakeup_fd(self._before)
            os.close(self._writing)

    def __enter__(self) -> "Ending":
        return self.begin()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self, reading: int) -> None:
        # Blocked in this thread, signals that the main thread did not take yet are seen as pending.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKS)
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        try:
            while True:
                if time.monotonic() > self._deadline:
                    self._end()
                poll.poll(1000 * LOOK_SECONDS)
                with suppress(BlockingIOError):
                    heard = os.read(reading, 64)
                    if not heard:
                        return  # closed
                    for number in heard:
                        if number in self._passed_on:
                            self._passed_on.remove(number)
                        else:
                            self._hear(number)
                self._take_pending()
        finally:
            os.close(reading)

    def _take_pending(self) -> None:
        """Hear what the main thread does not come to hear, and leave it to that thread alone."""
        while signal.sigpending() & set(_ASKS):
            taken = signal.sigtimedwait(_ASKS, 0)
            if taken is None:  # the main thread took it after all
                return
            self._passed_on.add(taken.si_signo)
            signal.pthread_kill(threading.main_thread().ident or 0, taken.si_signo)
            self._hear(taken.si_signo)

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


def leave_hanging() -> Ending:
    """Return what sees to it that a command ends after Ctrl-C, whatever it hangs in: for a ``with`` around it all."""
    return Ending(HANGING_SECONDS, AGAIN_SECONDS)


def follow(parent: int, seconds: float) -> None:
    """End this process at most ``seconds`` after its parent: gently first, for who listens to SIGTERM.

    The kernel sends the first SIGTERM: a thread of this process would wait for
    the interpreter, which MPI holds while it begins and ends.
    """
    set_parent_death_signal(signal.SIGTERM, parent)()

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
