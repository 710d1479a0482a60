"""Which processes still live, judged without messages.

Input: one file per process that its owner touches. Output: a yes or no about
any of them.
Invariant: a process whose id means something here is judged by it, at once;
any other by the age of its file on the file server's clock: both times are
of files there, so clocks of machines need not agree. A file that cannot be
read or holds anything else is judged by its age.
"""

import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.coordination.exclusive import create_whole
from lading.core.atomic import atomic_write
from lading.core.errors import LadingError, UsageError
from lading.core.identity import ProcessId, read_process

LEASE_SECONDS = 120.0
BEATS = 6  # within the time after which silence counts
GLANCE_SECONDS = 5.0  # how old the server's time and a verdict may be


def lease_seconds() -> float:
    """Return after how much silence a process that cannot be seen counts as dead: ``LADING_LEASE_SECONDS``.

    All processes of a plan must agree on it. More is for a file server whose
    clients see each other's writes late.
    """
    text = os.environ.get("LADING_LEASE_SECONDS", "")
    try:
        seconds = float(text or LEASE_SECONDS)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 86_400:
        raise UsageError(f"LADING_LEASE_SECONDS={text!r} is not a number of seconds between 1 and 86400")
    return seconds


class Heartbeat:
    """Says that this process lives, in ``directory/writer``, until the ``with`` block ends."""

    def __init__(self, directory: Path, process: ProcessId, seconds: float | None = None) -> None:
        self.process = process
        self.seconds = seconds or lease_seconds()
        self.path = directory / process.writer
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self.path.unlink()  # of a process of this name that is gone: names of the living are unique
        create_whole(self.path, self.process.encode())
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._writing:
            self._ended.set()
            self.path.unlink(missing_ok=True)

    def join(self, group: str) -> None:
        """Say from now on that this process belongs to another group."""
        self.process = replace(self.process, group=group)
        with self._writing, atomic_write(self.path, "wb") as stream:
            stream.write(self.process.encode())

    def server_time(self) -> float:
        """Return what time it is on the file server."""
        try:
            os.utime(self.path)
            return self.path.stat().st_mtime
        except OSError:
            return time.time()

    def _beat(self) -> None:
        while not self._ended.wait(self.seconds / BEATS):
            with self._writing:
                if self._ended.is_set():
                    return
                try:
                    os.utime(self.path)
                except FileNotFoundError:
                    # Judged dead by mistake, after a long stall: say that we live. Without its directory all is over.
                    with suppress(LadingError, FileExistsError):
                        create_whole(self.path, self.process.encode())
                except OSError:
                    continue  # a slow or full file server: the next beat may reach it


class LivenessMonitor:
    """Judges the processes that have their heartbeats in ``directory``.

    ``clock`` is this process's own heartbeat on the same file server. Who has
    none can only watch a file stand still, for as long as silence must last.
    """

    def __init__(self, directory: Path, clock: Heartbeat | None = None, seconds: float | None = None) -> None:
        self._directory, self._clock = directory, clock
        self._seconds = seconds or (clock.seconds if clock else lease_seconds())
        self._offset = 0.0  # from the monotonic clock to the server's
        self._asked = -math.inf
        self._seen: dict[str, tuple[float, float]] = {}
        self._verdicts: dict[str, tuple[float, bool]] = {}

    def lives(self, process: ProcessId) -> bool:
        """Tell whether a process has a heartbeat, and lives: who has ended well has none."""
        beat = self.last_beat(process.writer)
        if beat is None:
            return False
        runs = process.runs()
        return self._is_fresh(process.writer, beat) if runs is None else runs

    def lived(self, process: ProcessId) -> bool:
        """Answer as ``lives`` did some seconds ago: for what is asked again and again."""
        asked, verdict = self._verdicts.get(process.writer, (-math.inf, False))
        if time.monotonic() - asked > self._glance():
            verdict = self.lives(process)
            self._verdicts[process.writer] = (time.monotonic(), verdict)
        return verdict

    def find(self, writer: str) -> ProcessId | None:
        """Return the living process of that name."""
        process = read_process(self._directory / writer) if _is_plain(writer) else None
        if process is None:
            return None
        # The file says who it is of by its name; of a torn one nothing else is known.
        process = replace(process, writer=writer)
        return process if self.lives(process) else None

    def find_all(self) -> list[ProcessId]:
        """Return all living processes, and remove the heartbeats of the others."""
        found = []
        for name in sorted(os.listdir(self._directory)):
            if name.startswith("."):
                continue
            process = self.find(name)
            if process is not None:
                found.append(process)
            elif self._clock is None or name != self._clock.process.writer:
                with suppress(OSError):
                    (self._directory / name).unlink()
        return found

    def last_beat(self, writer: str) -> float | None:
        """Return when a process was last heard of, on the file server's clock; None when it has no heartbeat."""
        if not _is_plain(writer):
            return None
        try:
            return (self._directory / writer).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_fresh(self, path: Path) -> bool:
        """Tell whether a file is younger than silence may last: one that names nobody is judged so."""
        try:
            return self._is_fresh(str(path), path.stat().st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _is_fresh(self, writer: str, beat: float) -> bool:
        now = time.monotonic()
        if self._clock is None:
            last, since = self._seen.setdefault(writer, (beat, now))
            if last != beat:
                self._seen[writer] = (beat, now)
                return True
            return now - since < self._seconds
        if now - self._asked > self._glance():
            self._offset, self._asked = self._clock.server_time() - now, now
        return self._offset + now - beat < self._seconds

    def _glance(self) -> float:
        return min(GLANCE_SECONDS, self._seconds / 4)


def _is_plain(writer: str) -> bool:
    """Tell whether a name that a record gives is one of a file in the directory."""
    return writer not in ("", ".", "..") and "/" not in writer and "\0" not in writer and len(writer) <= 255
