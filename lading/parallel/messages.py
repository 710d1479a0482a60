"""Messages between ranks without spinning: send and look, never wait inside MPI.

Input: a ``World`` of more than one rank. Output: pickled messages, in order
between any two ranks.
Invariant: no call blocks; who waits sleeps between looks, since MPI libraries
burn a core while they wait.
"""

import time
from typing import Any

from lading.parallel.mpi import World

_TAG = 7


class RankMessages:
    """This rank's letter box."""

    def __init__(self, world: World) -> None:
        self.rank, self.size = world.rank, world.size
        self._comm = world.comm
        self._leaving: list[Any] = []

    def send(self, rank: int, message: Any) -> None:
        """Send without waiting; the message leaves while this rank looks at its mail."""
        self._leaving.append(self._comm.isend((self.rank, message), dest=rank, tag=_TAG))

    def unsent(self) -> int:
        """Return how many messages have not left yet."""
        self._leaving = [request for request in self._leaving if not request.test()[0]]
        return len(self._leaving)

    def receive(self) -> tuple[int, Any] | None:
        """Return the next (sender, message), None when there is none."""
        self.unsent()
        found = self._comm.improbe(tag=_TAG)
        if found is None:
            return None
        mail: tuple[int, Any] = found.recv()
        return mail

    def expect(self, pause: float = 0.005) -> tuple[int, Any]:
        """Return the next (sender, message), sleeping until there is one."""
        while (mail := self.receive()) is None:
            time.sleep(pause)
        return mail
