"""Walk a release once, on the threads of one rank: look at every entry, read every file.

Input: a ``TaskReader``. Output: records in a ``RunLog``, counts.
Invariant: every entry is looked at by one thread of one rank, and every byte is read once; what could not be read is a
finding. Directories and pieces of their files that wait can be taken by other ranks (``lading.crawl.work_sharing``).
"""

import threading
import time
from collections import deque
from collections.abc import Sequence

from lading.signoff.run_log import RunLog
from lading.signoff.task_reader import SignoffCounts, TaskFindings, TaskReader, WalkTask


class ReleaseWalk:
    """One walk; what a ``lading.crawl.work_sharing.SharedWalk`` can do, and no more."""

    def __init__(
        self,
        reader: TaskReader,
        log: RunLog,
        workers: int,
        *,
        seed: bool = True,
    ) -> None:
        self.counts = SignoffCounts()
        self._reader, self._log = reader, log
        self._waiting: deque[WalkTask] = deque([WalkTask("")] if seed else [])
        self._changed = threading.Condition()
        self._workers, self._resting = workers, 0
        self._ended = False
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    # -- what the ranks share by --

    def start(self) -> None:
        """Begin."""
        for number in range(self._workers):
            thread = threading.Thread(target=self._run, name=f"signoff-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self, seconds: float) -> bool:
        """Return after ``seconds``, or with True once nothing is left to do here; raises what ended a thread."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._error or self._is_done(), seconds)
            if self._error:
                raise self._error
            return bool(done)

    def _is_done(self) -> bool:
        return not self._waiting and self._resting == self._workers

    def state(self) -> tuple[int, int, int, int]:
        """Return (entries, bytes, tasks waiting, threads without work)."""
        with self._changed:
            counts = self.counts
            entries = counts.directories + counts.files + counts.links + counts.others
            return entries, counts.bytes, len(self._waiting), self._resting

    def take(self, most: int) -> list[tuple[int, bytes, int, bytes]]:
        """Lend what waits longest: the largest parts of the tree, at most half of all."""
        with self._changed:
            count = min(most, (len(self._waiting) + 1) // 2)
            return [self._waiting.popleft().pack() for _ in range(count)]

    def give(self, rank: int, number: int, path: bytes, depth: int, names: bytes) -> None:
        """Borrow a task."""
        self._push([WalkTask.unpack(path, depth, names)])

    def stop(self) -> None:
        """Drop what is left."""
        self._reader.stop[0] = 1
        with self._changed:
            self._waiting.clear()
            self._ended = True
            self._changed.notify_all()

    def end(self, seconds: float | None = None) -> None:
        """Join the threads; with ``seconds``, those that hang are left behind."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        until = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._reader.close()

    # -- the threads --

    def _run(self) -> None:
        try:
            while (task := self._next()) is not None:
                found = TaskFindings()
                more = self._reader.do(task, found)
                if self._reader.stop[0]:
                    return
                self._log.write(found.digests, found.findings, found.claims)
                with self._changed:
                    self.counts.add(found.counts)
                self._push(more)
        except BaseException as error:  # noqa: BLE001 - raised where the walk is waited for
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _next(self) -> WalkTask | None:
        with self._changed:
            self._resting += 1
            if not self._waiting:
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._reader.stop[0] or not self._waiting:
                return None
            self._resting -= 1
            return self._waiting.pop()

    def _push(self, tasks: Sequence[WalkTask]) -> None:
        if tasks:
            with self._changed:
                self._waiting.extend(tasks)
                self._changed.notify(len(tasks))
