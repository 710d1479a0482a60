"""Read an object's bytes through answers that break.

Input: a store and an object of known size. Output: its bytes, block by block.
Invariant: nothing is yielded twice, and what broke goes on where it stopped.
Patience is bounded: it begins anew only when a good piece has come since.
Whether the bytes are the right ones is for the caller's digest to say.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lading.core import exit_codes
from lading.core.errors import LadingError
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind

if TYPE_CHECKING:
    from lading.objectstore.readable_store import ReadableStore

ATTEMPTS = 6
PIECE = 1 << 20  # bytes that must come between two breaks for the patience to begin anew
LONGEST_PAUSE = 30.0


class DownloadStopped(LadingError):
    """The run is being interrupted."""

    exit_code = exit_codes.INTERRUPTED


class ObjectReader:
    """Reads bodies of one store until it is told to stop; safe to use from many threads."""

    def __init__(self, store: "ReadableStore") -> None:
        self._store = store
        self._stopping = threading.Event()
        self.mark = bytearray(1)  # set beside it, for what digests local files

    def stop(self) -> None:
        """Let every reading end at its next block, by ``DownloadStopped``."""
        self._stopping.set()
        self.mark[0] = 1

    def check(self) -> None:
        """Raise ``DownloadStopped`` once it was told to stop."""
        if self._stopping.is_set():
            raise DownloadStopped("interrupted")

    def blocks(self, key: str, size: int, version_id: str | None = None) -> Iterator[bytes]:
        """Yield the bytes of an object; raises ``StoreError`` when patience ends.

        Fewer bytes than ``size`` may come where the bucket's object is shorter, more where it is longer.
        """
        count = mark = failed = 0
        while True:
            self.check()
            fault: StoreError | None = None
            try:
                for block in self._store.blocks(key, version_id, start=count):
                    count += len(block)
                    yield block
                    self.check()
            except StoreError as error:
                if count and error.code in ("InvalidRange", "416"):
                    return  # there is nothing behind what came: the object is shorter now
                if error.failure is not FailureKind.TRANSIENT:
                    raise
                fault = error
            if count >= size:
                return
            if count - mark >= PIECE:
                mark, failed = count, 0
            failed += 1
            if failed >= ATTEMPTS:
                if fault is not None:
                    raise fault
                return
            if fault is not None:
                self._stopping.wait(min(LONGEST_PAUSE, 0.5 * 2**failed))
