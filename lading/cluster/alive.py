"""Which workers still live, judged without messages.

Input: one file per worker that its owner touches. Output: a yes or no about
any worker.
Invariant: a worker whose process id can be seen from here is judged by it, at
once; one of another machine or container by its file standing still for
``SILENCE`` seconds of the judge's own clock, so clocks need not agree.
"""

import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lading.bounded import SMALL_BYTES, read_json
from lading.coordination.identity import start_ticks, this_host
from lading.files import naming

BEAT = 5.0
SILENCE = 60.0


class Heartbeat:
    """Says that this process lives, in ``directory/worker``, until the ``with`` block ends."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._path = directory / worker
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        pid = os.getpid()
        with naming(self._path):
            self._path.write_text(json.dumps({"machine": this_host(), "pid": pid, "start": start_ticks(pid)}))
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
        self._host = this_host()
        self._seen: dict[str, tuple[int, float]] = {}

    def dead(self, worker: str) -> bool:
        """Tell whether a worker that was there is gone."""
        path = self._directory / worker
        try:
            beat = path.stat().st_mtime_ns
            record = read_json(path, SMALL_BYTES)
        except FileNotFoundError:
            return True
        except ValueError:
            record = None
        if self._can_see(record):
            return bool(start_ticks(int(record["pid"])) != int(record["start"]))
        now = time.monotonic()
        last, since = self._seen.setdefault(worker, (beat, now))
        if last != beat:
            self._seen[worker] = (beat, now)
            return False
        return now - since > SILENCE

    def _can_see(self, record: Any) -> bool:
        """Tell whether a record's process would be seen from here if it lived."""
        try:
            return bool(record["machine"] == self._host and int(record["pid"]) and int(record["start"]))
        except (KeyError, TypeError, ValueError):
            return False
