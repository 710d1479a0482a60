"""Locks as files, which all machines see: held by one living process, taken from dead ones.

Input: where the lock is, and who asks. Output: the lock, or who holds it.
Invariant: nothing is ever taken away from anybody. The lock is ``path``; who
takes it from a dead holder makes the file that follows its, named by the
digest of what that one holds, and only one process can. The last of the
chain that begins at ``path`` has the lock. Whoever judged late finds that
its link does not follow from ``path`` any more, and gives up. Only the
holder removes links: those before its own, which are of the dead, then its own.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lading.coordination.exclusive import create_whole
from lading.coordination.heartbeat import Heartbeat, LivenessMonitor, lease_seconds
from lading.core.bounded import SMALL_BYTES, read_bounded
from lading.core.errors import LockHeldError
from lading.core.identity import ProcessId, decode_process, this_host, this_process

POLL = 1.0
JOB_BEATS = 4.0  # times as many heartbeats of who holds a job: others wait for the next one to know that it lives


@dataclass(frozen=True)
class LockLink:
    """A file of the chain: ``process`` made it, ``depth`` lie before it."""

    path: Path
    content: bytes
    depth: int
    root: Path

    @property
    def process(self) -> ProcessId:
        """Who made it."""
        return decode_process(self.content)

    def lives(self, monitor: LivenessMonitor) -> bool:
        """Tell whether its maker lives; one that is torn, or just being written, goes by age."""
        process = self.process
        return monitor.lives(process) if process.writer else monitor.is_fresh(self.path)

    def successor(self) -> Path:
        """Return the file of who takes the lock from this one's maker."""
        digest = hashlib.blake2b(os.fsencode(self.path.name) + b"\0" + self.content, digest_size=12)
        return self.root.with_name(f"{self.root.name}.{digest.hexdigest()}")


class Lock:
    """One lock. ``record`` is what stands in its file: a process, and no two processes have the same."""

    def __init__(self, path: Path, record: bytes) -> None:
        self._path, self._record = path, record
        self._mine: Path | None = None

    @property
    def held(self) -> bool:
        """True from when this object took the lock until it gives it back."""
        return self._mine is not None

    def look(self) -> LockLink | None:
        """Return the link that has the lock, None while it is free."""
        links = self._links()
        return links[-1] if links else None

    def take(self, lives: Callable[[LockLink], bool]) -> LockLink | None:
        """Take the lock if it is free or its holder dead; else return who holds it."""
        while True:
            link = self.look()
            if link is not None and lives(link):
                return link
            if self.follow(link):
                return None

    def follow(self, link: LockLink | None) -> bool:
        """Take the lock from the maker of ``link``, who was judged dead; False when another process was quicker."""
        path = link.successor() if link else self._path
        try:
            create_whole(path, self._record)
        except FileExistsError:
            return False
        if link is not None and not any(other.path == path for other in self._links()):
            with suppress(OSError):
                path.unlink()  # the lock was given back meanwhile, and may be another's
            return False
        self._mine = path
        return True

    def release(self) -> None:
        """Give the lock back, unless another process took it from this one, which seemed dead."""
        mine, self._mine = self._mine, None
        links = self._links() if mine else []
        if links and links[-1].path == mine and links[-1].content == self._record:
            for link in links:
                link.path.unlink(missing_ok=True)

    def _links(self) -> list[LockLink]:
        links: list[LockLink] = []
        path = self._path
        while (content := _read(path)) is not None:
            links.append(LockLink(path, content, len(links), self._path))
            path = links[-1].successor()
        return links


def _read(path: Path) -> bytes | None:
    try:
        return read_bounded(path, SMALL_BYTES)
    except FileNotFoundError:
        return None
    except ValueError:
        return b""  # too much to be ours


@contextmanager
def hold(directory: Path, launch: str, job: str | None = None) -> Iterator[None]:
    """Hold ``directory`` for the block: its file ``lease``, a heartbeat in ``holders``.

    ``launch`` names this holder, ``job`` its scheduler job: a later launch of
    the same job supersedes one on another machine without waiting. Raises
    ``LockHeldError`` (exit 75) while another holder lives; one that cannot be seen
    from here is watched until its next heartbeat, or until it counts as dead.
    """
    seconds = lease_seconds()
    process = this_process(launch, job or "")
    with Heartbeat(directory / "holders", process, seconds / JOB_BEATS) as heartbeat:
        monitor = LivenessMonitor(directory / "holders", heartbeat, seconds)
        # Earlier editions know the holder by "launch" and "job".
        record = {**asdict(process), "launch": launch, "job": job, "since": time.time()}
        lock = Lock(directory / "lease", json.dumps(record).encode())
        while True:
            link = lock.look()
            if link is not None:
                _wait_for_death(link, monitor, job)
            if lock.follow(link):
                break
        try:
            yield
        finally:
            lock.release()


def _wait_for_death(link: LockLink, monitor: LivenessMonitor, job: str | None) -> None:
    """Return when the holder is dead or superseded; raise ``LockHeldError`` as soon as it is seen alive."""
    holder = link.process
    if job is not None and holder.group == job and holder.host != this_host():
        return
    known = monitor.last_beat(holder.writer)
    pause = threading.Event()
    while link.lives(monitor):
        if holder.runs() or monitor.last_beat(holder.writer) != known:
            raise LockHeldError(
                f"another run works on {link.root.parent}: {holder}; wait for it, or end it and run this again"
            )
        pause.wait(POLL)
