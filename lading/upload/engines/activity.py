"""Whether a child process moves bytes, seen from outside, as the kernel counts them.

Input: a process id. Output: when something moved last, by the monotonic clock.
Invariant: costs some reads of /proc, at most once in ``LOOK_SECONDS``; where
the kernel does not say, the answer is None, and the caller guesses.
"""

import os
import time

LOOK_SECONDS = 1.0
_ESTABLISHED = b"01"  # TCP_ESTABLISHED of the kernel's include/net/tcp_states.h


class Activity:
    """Watches one process: the bytes it read and wrote, and what waits in its sockets."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last: tuple[bytes, ...] | None = None
        self._looked = 0.0
        self._moved: float | None = time.monotonic()
        self._connected = False

    def moved(self) -> float | None:
        """Return when bytes moved last; None when that cannot be known."""
        now = time.monotonic()
        if self._moved is not None and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            state = self._state()
            if state is None:
                self._moved = None
            elif state != self._last:
                # Without a connection it tries to get one: what it reads and writes then is its own affair.
                self._last, self._moved = state, now if self._connected else self._moved
        return self._moved

    def _state(self) -> tuple[bytes, ...] | None:
        place = f"/proc/{self._pid}"
        try:
            with open(f"{place}/io", "rb") as stream:
                counts = stream.read()
            sockets = _sockets(place)
            queues = []
            self._connected = False
            for name in ("tcp", "tcp6") if sockets else ():
                with open(f"{place}/net/{name}", "rb") as stream:
                    next(stream, None)
                    # Fields of proc_net_tcp(5): queues are the fifth, the inode is the tenth. Bytes that the other
                    # side has not taken yet become fewer while a transfer moves; those of a dead one stay.
                    for line in stream:
                        words = line.split()
                        if len(words) > 9 and words[9] in sockets:
                            self._connected |= words[3] == _ESTABLISHED
                            queues.append(words[1] + words[4])
        except OSError:
            return None
        return (counts, *sorted(queues))


def _sockets(place: str) -> set[bytes]:
    found = set()
    for name in os.listdir(f"{place}/fd"):
        try:
            target = os.readlink(f"{place}/fd/{name}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(target[8:-1].encode())
    return found
