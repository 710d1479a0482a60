"""A bound on the bytes that many threads hold in memory together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ByteGate:
    """Admits transfers while the bytes they hold in memory fit the budget; one always fits."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held = 0
        self._changed = threading.Condition()

    def enter(self, count: int) -> None:
        """Wait until ``count`` bytes fit."""
        with self._changed:
            while self._held and self._held + count > self._budget:
                self._changed.wait()
            self._held += count

    def leave(self, count: int) -> None:
        """Give ``count`` bytes back."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Hold ``count`` bytes for the block."""
        self.enter(count)
        try:
            yield
        finally:
            self.leave(count)
