"""Who works on a plan: a lock for one run, leases for its processes, claims on batches.

Input: the journal directory, which all machines see. Output: permission to
work, or ``LockHeldError`` naming who holds it.
Invariant: a run works only beside runs that were invited (``join``). What
dead processes held is free at once where they can be seen, after
``LADING_LEASE_SECONDS`` of silence elsewhere; a wrong verdict costs work done
twice, never a wrong proof. A process of a launch looks at a few files, never
at those of all its peers.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lading.coordination.claims import Claims
from lading.coordination.heartbeat import Heartbeat, LivenessMonitor
from lading.coordination.lock import Lock
from lading.core.errors import LockHeldError
from lading.core.identity import ProcessId, this_process

RETIRED_SECONDS = 0.2  # between two looks whether the others work still
READER = "reader"


class Lease:
    """This process's place among those that work on one plan; use as a context manager.

    ``join`` works beside others of another group; ``force`` takes the lock of
    a holder that cannot be judged from here; a ``reader`` neither takes the
    lock nor minds it, but keeps others from tidying journals away. Of the
    processes of one launch the first takes the lock, and the others
    ``follow`` when it has it.
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
        self._directory = directory
        self._join, self._force, self._reader = join, force, reader
        self._group = group
        # A reader until it has the lock: it keeps journals from being tidied away, and nobody waits for it.
        process = this_process(group=READER)
        self._heartbeat = Heartbeat(directory / "leases", process, seconds)
        self._monitor = LivenessMonitor(directory / "leases", self._heartbeat)
        self._lock = Lock(directory / "lock", replace(process, group=group).encode())
        self._claims = Claims(directory / "claims", replace(process, group=group), self._monitor)

    @property
    def holder(self) -> ProcessId:
        """Who this process is to the others."""
        return self._heartbeat.process

    def __enter__(self) -> "Lease":
        self.register()
        try:
            if not self._reader:
                self._acquire()
        except BaseException:
            self._heartbeat.__exit__(None, None, None)
            raise
        return self

    def register(self) -> None:
        """Say that this process is there, as a reader yet."""
        (self._directory / "claims").mkdir(parents=True, exist_ok=True)
        self._heartbeat.__enter__()

    def follow(self) -> None:
        """Work in a launch whose first process has the lock."""
        self._heartbeat.join(self._group)

    def __exit__(self, *_: object) -> None:
        self._claims.release_all()
        # While the own lease is there still: who comes meanwhile is refused, and takes nothing that is removed here.
        # A lock that others of the group need stays; its holder has no lease then, and counts as dead.
        if self._lock.held and not self.workers():
            self._lock.release()
        self._heartbeat.__exit__(None, None, None)

    def leave(self, peers: Sequence[str]) -> None:
        """Work no more, and wait until none of the launch does: a rank that ends early ends the others.

        ``peers`` are the writers of the launch. The first waits for all, the
        others for the first alone.
        """
        self._claims.release_all()
        if self.holder.writer == peers[0]:
            self._wait(list(peers[1:]))
            self._heartbeat.join(READER)
        else:
            self._heartbeat.join(READER)
            self._wait(list(peers[:1]))

    def _wait(self, peers: list[str]) -> None:
        while peers:
            if self.works(peers[-1]):
                time.sleep(RETIRED_SECONDS)
            else:
                peers.pop()

    def _acquire(self) -> None:
        """Take the lock, or a place beside who has it; raises ``LockHeldError``."""
        while True:
            link = self._lock.look()
            if link is not None:
                lives, owner = link.lives(self._monitor), link.process
                if lives and owner.group == self._group:
                    self.follow()
                    return
                working = self.workers()
                if not working and lives:
                    working = [owner]  # it has the lock, and says in a moment that it works
                if working and not self._force:
                    if self._join or all(other.group == self._group for other in working):
                        self.follow()
                        return
                    raise self._locked(working[0])
            if self._lock.follow(link):
                break
        self.follow()
        # A free lock does not say that nobody works: who was invited may be left of a run that has ended.
        strangers = [other for other in self.workers() if other.group != self._group]
        if strangers and not self._join and not self._force:
            self._lock.release()
            raise self._locked(strangers[0])

    @staticmethod
    def _locked(other: ProcessId) -> LockHeldError:
        return LockHeldError(
            f"{other} is already uploading this plan (journal/lock); wait for it, or work beside it "
            "with upload_flags=--join; if that machine will not come back: upload_flags=--break-lock"
        )

    def others(self) -> list[ProcessId]:
        """Return the living processes that hold a lease on this plan, this one excepted."""
        return [other for other in self._monitor.find_all() if other.writer != self.holder.writer]

    def workers(self) -> list[ProcessId]:
        """Return the others that send, readers left out."""
        return [other for other in self.others() if other.group != READER]

    def is_there(self, writer: str) -> bool:
        """Tell whether the process of that name lives and holds a lease."""
        return writer == self.holder.writer or self._monitor.find(writer) is not None

    def works(self, writer: str) -> bool:
        """Tell whether the process of that name sends."""
        found = self._monitor.find(writer)
        return found is not None and found.group != READER

    def claim(self, batch: str) -> bool:
        """Take a batch for this process; False while a living process has it."""
        return self._claims.take(batch)

    def release(self, batch: str) -> None:
        """Give a batch back, unless another process took it from one that seemed dead."""
        self._claims.release(batch)
