"""Who works on a plan: a lock for one run, leases for its processes, claims on batches.

Input: the journal directory, which all machines see. Output: permission to
work, or ``Locked`` naming who holds it.
Invariant: built on files that are made exclusively, since network filesystems
may lack file locks. A process is dead when its host says so (pid and start
time), or, seen from another host or PID namespace, when its lease was not
touched for ``LEASE_SECONDS`` (by the file server's clock: both times are of
files). A wrong verdict costs work done twice, never a wrong proof.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lading.bounded import SMALL_BYTES, decode, read_json
from lading.coordination.exclusive import create_whole, take_away
from lading.coordination.identity import start_ticks, this_host
from lading.errors import Locked
from lading.files import replacing

LEASE_SECONDS = 120.0
RETIRED_SECONDS = 0.2  # between two looks whether the others work still
_READER = "reader"


@dataclass(frozen=True)
class _Record:
    """What a lock, lease or claim says of its holder."""

    writer: str
    host: str
    pid: int
    started: int
    group: str


@dataclass(frozen=True)
class Holder:
    """One process: ``started`` is its start time in clock ticks since boot, ``group`` names the run it belongs to."""

    writer: str
    host: str
    pid: int
    started: int
    group: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split('/')[0]}" if self.host else "a process that cannot be named"


class Lease:
    """This process's place among those that work on one plan; use as a context manager.

    ``join`` works beside others of another group; ``force`` takes the lock of
    a holder that cannot be judged from here; a ``reader`` neither takes the
    lock nor minds it, but keeps others from tidying journals away.
    """

    def __init__(
        self,
        directory: Path,
        group: str,
        *,
        join: bool = False,
        force: bool = False,
        reader: bool = False,
        seconds: float | None = None,
    ) -> None:
        self._leases = directory / "leases"
        self._claims = directory / "claims"
        self._lock = directory / "lock"
        # All processes of a plan must agree; a site whose file server caches attributes for long may need more.
        self._seconds = seconds or float(os.environ.get("LADING_LEASE_SECONDS", LEASE_SECONDS))
        self._join, self._force, self._reader = join, force, reader
        self._stop = threading.Event()
        self._verdicts: dict[str, tuple[float, bool]] = {}
        pid = os.getpid()
        name = f"{socket.gethostname().split('.')[0]}-{pid}-{time.time_ns():x}"
        self._group = group
        # A reader until it has the lock: it keeps journals from being tidied away, and nobody waits for it.
        self.holder = Holder(name, this_host(), pid, start_ticks(pid) or 0, _READER)
        self._mine = self._leases / name
        self._claimed: set[str] = set()

    def __enter__(self) -> "Lease":
        for directory in (self._leases, self._claims):
            directory.mkdir(parents=True, exist_ok=True)
        self._write(self._mine)
        try:
            if not self._reader:
                self._acquire()
        except BaseException:
            self._mine.unlink(missing_ok=True)
            raise
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._give_back()
        # Asked while the own lease still lies there: its time is the clock that others are judged by.
        alone = not self._reader and not self.workers()
        self._mine.unlink(missing_ok=True)
        if alone:
            self._lock.unlink(missing_ok=True)

    def retire(self, peers: Collection[str]) -> None:
        """Work no more, and wait until none of the writers ``peers`` does: a rank that ends early ends the others."""
        self._give_back()
        self._become(_READER)
        while any(other.writer in peers for other in self.workers()):
            time.sleep(RETIRED_SECONDS)

    def _give_back(self) -> None:
        for batch in list(self._claimed):
            self.release(batch)

    def _record(self) -> bytes:
        return json.dumps(asdict(self.holder)).encode()

    def _write(self, path: Path) -> None:
        """Put this process's record at ``path``; raises ``FileExistsError``."""
        create_whole(path, self._record())

    def _acquire(self) -> None:
        """Take the lock, or a place beside who has it; raises ``Locked``."""
        while not self._take_lock():
            seen = _read(self._lock)
            if seen is None:
                continue  # given back meanwhile
            working = self.workers()
            if not working and self._owner_lives(seen):
                working = [Holder(**seen)]  # it has the lock, and says in a moment that it works
            if working and not self._force:
                if self._join or all(other.group == self._group for other in working):
                    break
                raise self._locked(working[0])
            self._steal(self._lock, seen)
        self._become(self._group)
        # Where a lock was taken from the dead and put back, two may have it for an instant. Each said first that it
        # works, then looks: at least one sees the other.
        strangers = [other for other in self.workers() if other.group != self._group]
        if strangers and not self._join and not self._force:
            holder = _read(self._lock)
            if holder is not None and holder["writer"] == self.holder.writer:
                self._lock.unlink(missing_ok=True)
            raise self._locked(strangers[0])

    def _take_lock(self) -> bool:
        try:
            create_whole(self._lock, json.dumps(asdict(replace(self.holder, group=self._group))).encode())
        except FileExistsError:
            return False
        return True

    @staticmethod
    def _locked(other: Holder) -> Locked:
        return Locked(
            f"{other} uploads this plan already (journal/lock); wait for it, or work beside it "
            "with upload_flags=--join; if that machine is gone for good: upload_flags=--break-lock"
        )

    def _become(self, group: str) -> None:
        """Say to others what this process is from now on: of a run, or a reader."""
        self.holder = replace(self.holder, group=group)
        with replacing(self._mine, "wb") as stream:
            stream.write(self._record())

    @staticmethod
    def _steal(path: Path, judged: Mapping[str, Any] | None) -> bool:
        """Remove a dead process's file; False when it was another's by then."""
        return take_away(path, lambda aside: _read(aside) == judged)

    def _beat(self) -> None:
        while not self._stop.wait(self._seconds / 6):
            try:
                os.utime(self._mine)
            except FileNotFoundError:
                self._write(self._mine)  # judged dead by mistake (a long stall): say that we live
            except OSError:
                continue  # a slow or full file server: the next beat may reach it

    def others(self) -> list[Holder]:
        """Return the living processes that hold a lease on this plan, this one excepted."""
        found = []
        for path in sorted(self._leases.iterdir()):
            record = None if path.name.startswith(".") else _read(path)
            if path != self._mine and record is not None:
                if self._lives(path, record):
                    found.append(Holder(**record))
                else:
                    path.unlink(missing_ok=True)
        return found

    def workers(self) -> list[Holder]:
        """Return the others that send, readers left out."""
        return [other for other in self.others() if other.group != _READER]

    def _lives(self, path: Path, record: Mapping[str, Any]) -> bool:
        if record["host"] == self.holder.host:
            return bool(start_ticks(record["pid"]) == record["started"])
        try:
            os.utime(self._mine)
            now = self._mine.stat().st_mtime
        except FileNotFoundError:
            now = time.time()
        try:
            return now - path.stat().st_mtime < self._seconds
        except FileNotFoundError:
            return False

    def claim(self, batch: str) -> bool:
        """Take a batch for this process; False while a living process has it."""
        path = self._claims / batch
        if batch in self._claimed:
            return True
        while True:
            try:
                self._write(path)
            except FileExistsError:
                record = _read(path)
                if record is None:
                    continue  # given back meanwhile
                if self._owner_lives(record):
                    return False
                self._steal(path, record)
                continue
            self._claimed.add(batch)
            return True

    def _owner_lives(self, record: Mapping[str, Any]) -> bool:
        writer = str(record["writer"])
        checked, verdict = self._verdicts.get(writer, (0.0, False))
        if time.monotonic() - checked > min(5.0, self._seconds / 4) or not checked:
            path = self._leases / writer
            verdict = path.exists() and self._lives(path, record)
            self._verdicts[writer] = (time.monotonic(), verdict)
        return verdict

    def release(self, batch: str) -> None:
        """Give a batch back, unless another process took it from one that seemed dead."""
        self._claimed.discard(batch)
        path = self._claims / batch
        record = _read(path)
        if record is not None and record.get("writer") == self.holder.writer:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Return the record of a lock, lease or claim; one that is empty, torn or of another form names nobody."""
    try:
        record = read_json(path, SMALL_BYTES)
        return asdict(decode(_Record, record))
    except FileNotFoundError:
        return None
    except ValueError:
        return {"writer": "", "host": "", "pid": 0, "started": -1, "group": ""}
