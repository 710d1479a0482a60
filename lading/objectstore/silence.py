"""Tell a person that a server does not answer any more, and that it does again.

Input: who waits, what answered, what moved. Output: lines on stderr, and the
sentence for a progress line.
Invariant: nothing is said while bytes move or nobody waits; who pauses before
the next try waits too. What was said is taken back by an answer alone, since a
client that tries again moves bytes too.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lading.core.limits import LIMITS
from lading.core.worker_threads import bound

LOOK_SECONDS = 0.5
PAUSE_SECONDS = 1.0  # between two tries of a question that may be repeated
LONGEST_JITTER = 1.5  # a pause is at most so many times the backoff
IDLE_LOOKS = 4  # then its thread ends; the next request begins another


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # who read may be gone
        print(line, file=sys.stderr, flush=True)


class Silence:
    """Watches over the answers of one server; safe to use from many threads.

    ``watch`` adds somebody who waits without asking through the client, as an
    engine's process does: called now and then, it returns whether it waits
    and when its last byte moved.
    """

    def __init__(self, server: str, *, seconds: float | None = None, again: float | None = None) -> None:
        self._server = server
        self._seconds = LIMITS.silence if seconds is None else seconds
        self._again = LIMITS.again if again is None else again
        self._heard = 0.0
        self._since = 0.0  # when the silence began that is or may come to be told
        self._told = 0.0
        self._waiting = 0
        self._owed = 0.0  # until then an answer is owed: the last try got none, and another one is on its way
        self._watches: list[Callable[[], tuple[bool, float]]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.quiet = False  # among many processes one speaks

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody waits for an answer during the block."""
        with self._lock:
            if not self._waiting and not self._told and time.monotonic() > self._owed:
                self._since = max(self._since, time.monotonic())
            self._waiting += 1
            self._begin()
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            leash = bound()
            let_go = leash is not None and leash.stop.is_set()  # and so asks no more
            if self._heard < begun and not let_go:
                self._owed = time.monotonic() + max(LONGEST_JITTER * LIMITS.backoff, PAUSE_SECONDS) + LOOK_SECONDS
            raise
        finally:
            with self._lock:
                self._waiting -= 1

    def watch(self, who: Callable[[], tuple[bool, float]]) -> None:
        """See above."""
        with self._lock:
            self._watches.append(who)
            self._begin()

    def unwatch(self) -> None:
        """Forget all who were to be watched."""
        with self._lock:
            self._watches.clear()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="silence", daemon=True)
            with suppress(RuntimeError):  # no thread to be had: nobody is told, which ends no run
                self._thread.start()

    def answered(self) -> None:
        """Note an answer, whatever it says."""
        now = time.monotonic()
        self._heard, self._owed = now, 0.0
        if self._told:
            with self._lock:
                told, self._told, self._since = self._told, 0.0, now
            if told and not self.quiet:
                _say(f"{_clock(now)} {self._server} answers again")

    @property
    def has_answered(self) -> bool:
        """Whether the server answered at least once."""
        return self._heard > 0

    def sentence(self) -> str:
        """Return what is to be said of the server now; empty when it answers."""
        return f"no answer from {self._server} since {_clock(self._since)}" if self._told else ""

    def _look(self) -> None:
        idle = 0
        while True:
            time.sleep(LOOK_SECONDS)
            self.check(time.monotonic())
            with self._lock:
                owed = time.monotonic() < self._owed
                idle = 0 if self._waiting or self._watches or owed else idle + 1
                if idle >= IDLE_LOOKS:
                    self._thread = None
                    return

    def check(self, now: float) -> None:
        """Say what is to be said at this moment."""
        with self._lock:
            waiting, moved = self._waiting > 0 or now < self._owed, 0.0
            for who in self._watches:
                waits, moving = who()
                waiting |= waits
                moved = max(moved, moving)
            if not waiting:
                if not self._told:
                    self._since = now
                return
            if not self._told:
                self._since = max(self._since, self._heard, moved)
                if now - self._since < self._seconds:
                    return
            elif now - self._told < self._again:
                return
            self._told = now
        if not self.quiet:
            _say(f"{_clock(now)} {self.sentence()}")


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time.time() - time.monotonic() + moment))
