"""Write a file so that runs of zeros become holes.

Input: the bytes in order. Output: a file of the same bytes.
Invariant: only whole blocks of zeros, at their place in the file, are left out.
"""

import os

BLOCK = 4096
_RUN = 1 << 16
_ZEROS = bytes(1 << 20)


class FileWriter:
    """Writes an open, empty file; ``sparse``: zeros as holes. ``finish`` sets its length."""

    def __init__(self, descriptor: int, *, sparse: bool) -> None:
        self._descriptor, self._sparse = descriptor, sparse
        self._at = 0

    def write(self, block: bytes) -> None:
        """Take the next bytes."""
        if not self._sparse:
            self._put(memoryview(block), self._at)
            self._at += len(block)
            return
        view, start, length = memoryview(block), 0, len(block)
        first = 0  # of what is not written yet
        while start < length:
            # A run at a time; block by block only where a run has zeros and something else.
            step = min(_RUN if (self._at + start) % _RUN == 0 else BLOCK - (self._at + start) % BLOCK, length - start)
            piece = view[start : start + step]
            if step > BLOCK and piece != _ZEROS[:step] and _ZEROS[:BLOCK] in block[start : start + step]:
                step = BLOCK
                piece = view[start : start + step]
            if step >= BLOCK and piece == _ZEROS[:step]:
                self._put(view[first:start], self._at + first)
                first = start + step
            start += step
        self._put(view[first:length], self._at + first)
        self._at += length

    def _put(self, rest: memoryview, place: int) -> None:
        while rest:
            written = os.pwrite(self._descriptor, rest, place)
            rest, place = rest[written:], place + written

    def finish(self) -> None:
        """Give the file its length, which a hole at its end would not."""
        if self._sparse:
            os.ftruncate(self._descriptor, self._at)
