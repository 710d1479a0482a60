"""Digests of files while they are being sent: read from the page cache, in calls of many files.

Input: paths and sizes as files set out. Output: a ``PrefetchedDigest`` for each, whose
result comes when its call is done.
Invariant: files are read in the order they were added, and after
``begin(flush=True)`` each is read or being read. What ``ahead`` read is used
once: a file that is sent again is read again.
"""

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Self

from lading.checksums.digest import (
    CHUNK_BYTES,
    CHUNK_FILES,
    CORES,
    FileDigests,
    chunk_slices,
    digest_path,
    in_chunks,
)
from lading.checksums.kept_digests import DigestSource, KeptDigests
from lading.core.memory import usable_bytes
from lading.core.opening import Root
from lading.core.worker_threads import WorkerPool

AHEAD_BYTES = 1 << 30  # read before anything is sent: what a second or two are enough for, and of
AHEAD_FILE = 256 << 20  # each file, since large ones share a call and go on at its pace


class PrefetchedDigest:
    """The digests of one file, to come; ``begin`` of its reader starts the call."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size
        self._call: Future[list[FileDigests | OSError]] | None = None
        self._place = 0

    def start(self, call: "Future[list[FileDigests | OSError]]", place: int) -> None:
        """Note the call that reads the file, and the file's place in it."""
        self._call, self._place = call, place

    @property
    def done(self) -> bool:
        """Tell whether the file was read."""
        return self._call is not None and self._call.done()

    def result(self) -> FileDigests | OSError:
        """Wait for the digests, or for why the file cannot be read."""
        assert self._call is not None
        return self._call.result()[self._place]


class DigestPrefetch:
    """Gathers files into calls that fill the lanes of the digests; one call a core at a time.

    ``root``: below which the files are opened (``lading.core.opening``). ``kept``: digests of a sign-off, which spare
    the reading of files that did not change since. ``wants_sha256``: whether SHA-256 is computed of what is read.
    """

    def __init__(self, root: Root | None = None, kept: KeptDigests | None = None, *, wants_sha256: bool = True) -> None:
        self.root = root
        digest_path()  # a path that is not possible here is said before anything runs
        self.digest = DigestSource(root, kept, wants_sha256=wants_sha256).digest
        self._cores = CORES
        self.pool = WorkerPool(self._cores, "hash")
        self._stop = bytearray(1)
        self._waiting: deque[PrefetchedDigest] = deque()
        self._calls: list[Future[list[FileDigests | OSError]]] = []
        self._ahead: dict[str, PrefetchedDigest] = {}

    def __enter__(self) -> Self:
        """Nothing to do: threads begin with the first call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut off what runs still, which nobody waits for any more; a file system that hangs is left behind."""
        self.stop()
        self.pool.close()

    def stop(self) -> None:
        """Cut off what is read: the results not there yet are ``OSError``s of ``ECANCELED``."""
        self._stop[0] = 1

    def ahead(self, files: Iterable[tuple[str, int]]) -> None:
        """Begin to read (path, size), the largest first, while there is nothing to send yet.

        Chosen are as many as make ``AHEAD_BYTES``, each counted as ``AHEAD_FILE`` at most; fewer where memory is short,
        since what is forgotten before it is sent would be read from its disk twice.
        """
        chosen: list[tuple[str, int]] = []
        held, most = 0, min(AHEAD_BYTES, usable_bytes() // 4)
        for path, size in sorted(files, key=lambda file: -file[1]):
            counted = min(size, AHEAD_FILE)
            if held + counted <= most:  # one that does not fit keeps no smaller one out
                held += counted
                chosen.append((path, size))
        for chunk in in_chunks(chosen, self._cores):
            readings = [PrefetchedDigest(path, size) for path, size in chunk]
            self._call(readings)
            self._ahead.update((reading.path, reading) for reading in readings)

    def take(self, path: str, size: int) -> PrefetchedDigest | None:
        """Return what was read ahead of a file, once. Safe to call from any thread."""
        reading = self._ahead.pop(path, None)
        return reading if reading is not None and reading.size == size else None

    def add(self, path: str, size: int) -> PrefetchedDigest:
        """Note a file to be read soon, unless it was read ahead."""
        reading = self.take(path, size)
        if reading is None:
            reading = PrefetchedDigest(path, size)
            self._waiting.append(reading)
        return reading

    def begin(self, *, flush: bool = False) -> None:
        """Start calls while cores are free and enough waits; ``flush`` starts all."""
        self._calls = [call for call in self._calls if not call.done()]
        while self._waiting and (flush or (len(self._calls) < self._cores and self._is_worth_a_call())):
            free = max(1, self._cores - len(self._calls))
            first = [reading.size for reading in islice(self._waiting, free * CHUNK_FILES)]
            count = next(chunk_slices(first, free)).stop
            self._calls.append(self._call([self._waiting.popleft() for _ in range(count)]))

    def _call(self, chunk: list[PrefetchedDigest]) -> "Future[list[FileDigests | OSError]]":
        files = [(reading.path, reading.size) for reading in chunk]
        call = self.pool.submit(self.digest, files, self._stop)
        for place, reading in enumerate(chunk):
            reading.start(call, place)
        return call

    def _is_worth_a_call(self) -> bool:
        if len(self._waiting) >= CHUNK_FILES // 2:
            return True
        return sum(reading.size for reading in self._waiting) >= CHUNK_BYTES // 4
