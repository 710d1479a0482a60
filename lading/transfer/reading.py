"""Digests of files while they are being sent: read from the page cache, in calls of many files.

Input: paths and sizes as files set out. Output: a ``Reading`` for each, whose
result comes when its call is done.
Invariant: files are read in the order they were added, and after
``begin(flush=True)`` each is read or being read.
"""

from collections import deque
from concurrent.futures import Executor, Future

from lading.transfer.checksum import CHUNK_BYTES, CHUNK_FILES, Digests, digest_files


class Reading:
    """The digests of one file, to come; ``begin`` of its reader starts the call."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size
        self._call: Future[list[Digests | OSError]] | None = None
        self._place = 0

    def start(self, call: "Future[list[Digests | OSError]]", place: int) -> None:
        """Note the call that reads the file, and the file's place in it."""
        self._call, self._place = call, place

    def result(self) -> Digests | OSError:
        """Wait for the digests, or for why the file cannot be read."""
        assert self._call is not None
        return self._call.result()[self._place]


class Reader:
    """Gathers files into calls that fill the lanes of the digests; one call a core at a time."""

    def __init__(self, pool: Executor, cores: int) -> None:
        self._pool, self._cores = pool, cores
        self._waiting: deque[Reading] = deque()
        self._calls: list[Future[list[Digests | OSError]]] = []

    def add(self, path: str, size: int) -> Reading:
        """Note a file to be read soon."""
        self._waiting.append(Reading(path, size))
        return self._waiting[-1]

    def begin(self, *, flush: bool = False) -> None:
        """Start calls while cores are free and enough waits; ``flush`` starts all."""
        self._calls = [call for call in self._calls if not call.done()]
        while self._waiting and (flush or (len(self._calls) < self._cores and self._is_worth_a_call())):
            chunk: list[Reading] = []
            held = 0
            while self._waiting and len(chunk) < CHUNK_FILES and held < CHUNK_BYTES:
                chunk.append(self._waiting.popleft())
                held += chunk[-1].size
            call = self._pool.submit(digest_files, [(reading.path, reading.size) for reading in chunk])
            for place, reading in enumerate(chunk):
                reading.start(call, place)
            self._calls.append(call)

    def _is_worth_a_call(self) -> bool:
        if len(self._waiting) >= CHUNK_FILES // 2:
            return True
        return sum(reading.size for reading in self._waiting) >= CHUNK_BYTES // 4
