"""Which workers still live, judged without messages.

Input: one file per worker that its owner touches. Output: a yes or no about
any worker.
Invariant: a worker of this machine is judged by its process, at once; one of
another machine by its file standing still for ``SILENCE`` seconds of the
judge's own clock, so clocks need not agree.
"""

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

BEAT = 5.0
SILENCE = 60.0


def this_machine() -> str:
    """Return what two processes share exactly when they can see each other's process ids."""
    return f"{socket.gethostname()}:{os.stat('/proc/self/ns/pid').st_ino}"


def process_start(pid: int) -> str | None:
    """Return a process's start time in clock ticks, or None when there is none (or only a zombie)."""
    try:
        # The command, field 2, may hold spaces and parentheses: count after its end (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


class Heartbeat:
    """Says that this process lives, in ``directory/worker``, until the ``with`` block ends."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._path = directory / worker
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        pid = os.getpid()
        self._path.write_text(json.dumps({"machine": this_machine(), "pid": pid, "start": process_start(pid)}))
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                return
            except OSError:
                # A file system that hiccups is no reason to die; silence says enough.
                continue


class Watch:
    """Judges workers by their files in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._machine = this_machine()
        self._seen: dict[str, tuple[int, float]] = {}

    def dead(self, worker: str) -> bool:
        """Tell whether a worker that was there is gone."""
        path = self._directory / worker
        try:
            beat = path.stat().st_mtime_ns
            record = json.loads(path.read_text())
        except FileNotFoundError:
            return True
        except ValueError:
            record = {}
        if record.get("machine") == self._machine:
            start = process_start(record["pid"])
            return start is None or start != record["start"]
        now = time.monotonic()
        last, since = self._seen.setdefault(worker, (beat, now))
        if last != beat:
            self._seen[worker] = (beat, now)
            return False
        return now - since > SILENCE
