"""What a unit reads of its source's files, block by block, so that it can be compared with the whole files.

Input: bytes as they are read. Output: per file a digest over the blocks that
were touched, and which these are.
Invariant: every byte that a unit takes from a file that it does not read whole
is in a block that was noted, with the file's state at that time: size, mtime,
ctime and inode. Device numbers are each machine's own and not in it.

``hashing`` digests the same blocks of the whole file in one pass with its
SHA-256; when both agree, what was compressed is what has that SHA-256.
"""

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from lading.compress.job import SourceFault

BLOCK = 256 << 10
# Blocks that a library's small reads are served from.
_KEPT = 8

Table = NDArray[np.uint64]


class FileReads:
    """What was read of one file in one state."""

    def __init__(self, state: Sequence[int]) -> None:
        self.state = list(state)
        self.blocks: dict[int, int] = {}

    def note(self, number: int, block: Any) -> None:
        """Note the bytes of a whole block; of a block that is read again, what it was last."""
        self.blocks[number] = xxhash.xxh3_64_intdigest(block)

    def encode(self) -> list[Any]:
        """Return [[first, end] of each run of blocks, digest over them] as JSON values."""
        numbers = sorted(self.blocks)
        runs: list[list[int]] = []
        for number in numbers:
            if runs and runs[-1][1] == number:
                runs[-1][1] += 1
            else:
                runs.append([number, number + 1])
        return [runs, _fold(self.state, np.array([self.blocks[number] for number in numbers], "<u8"))]


def agrees(reads: Sequence[Any], state: Sequence[int], table: Table) -> bool:
    """Tell whether an encoded ``FileReads`` is of a file in that state whose blocks have the digests in ``table``."""
    runs, digest = reads
    if any(end > len(table) for _, end in runs):
        return False
    parts = [table[first:end] for first, end in runs]
    return _fold(state, np.concatenate(parts) if parts else table[:0]) == str(digest)


def _fold(state: Sequence[int], table: Table) -> str:
    digest = xxhash.xxh3_128(json.dumps(list(state)).encode())
    digest.update(table.astype("<u8", copy=False).tobytes())
    return str(digest.hexdigest())


def count_blocks(size: int) -> int:
    """Return how many blocks a file has."""
    return -(-size // BLOCK)


class Reads:
    """What one unit reads, by paths relative to the source."""

    def __init__(self) -> None:
        self._files: dict[str, FileReads] = {}
        self._lock = threading.Lock()

    def of(self, path: str, name: str, state: Sequence[int]) -> FileReads:
        """Return the notes of a file; ``SourceFault`` when it is not in the state in which the unit saw it before."""
        with self._lock:
            found = self._files.setdefault(path, FileReads(state))
        if found.state != list(state):
            raise SourceFault(f"{name}: changed while it was read; let its writer finish, then run again")
        return found

    def encode(self) -> dict[str, list[Any]]:
        """Return the notes of every file of which something was read, as JSON values."""
        return {path: reads.encode() for path, reads in self._files.items() if reads.blocks}


_current: list[Reads] = []


@contextlib.contextmanager
def recorded() -> Iterator[Reads]:
    """Note what this process reads of its source inside the block; one unit at a time does so."""
    found = Reads()
    _current.append(found)
    try:
        yield found
    finally:
        _current.remove(found)


def current() -> Reads | None:
    """Return the notes of the unit at work, None where nobody wants any."""
    return _current[-1] if _current else None


class Passing:
    """Notes what passes by from ``offset`` on, without another copy: the rest of the first and last block is read."""

    def __init__(self, reads: FileReads | None, read_at: Callable[[int, int], bytes], offset: int) -> None:
        self._reads, self._read_at = reads, read_at
        self._at = offset
        self._state = xxhash.xxh3_64()
        start = offset - offset % BLOCK
        if reads is not None and start < offset:
            self._state.update(read_at(start, offset - start))

    def feed(self, view: memoryview) -> None:
        """Take the bytes that follow."""
        if self._reads is None:
            return
        while view:
            part = view[: BLOCK - self._at % BLOCK]
            self._state.update(part)
            self._at += len(part)
            view = view[len(part) :]
            if self._at % BLOCK == 0:
                self._end(self._at // BLOCK - 1)

    def close(self) -> None:
        """Complete the last block."""
        if self._reads is not None and self._at % BLOCK:
            self._state.update(self._read_at(self._at, BLOCK - self._at % BLOCK))
            self._end(self._at // BLOCK)

    def _end(self, number: int) -> None:
        assert self._reads is not None
        self._reads.blocks[number] = self._state.intdigest()
        self._state = xxhash.xxh3_64()


class RecordedFile(io.RawIOBase):
    """An open file for libraries that take a file object; what they read is noted.

    ``fill(offset, view)`` fills a view from the file and returns how many
    bytes there were.
    """

    def __init__(self, name: str, size: int, fill: Callable[[int, memoryview], int], reads: FileReads | None) -> None:
        super().__init__()
        self.name = name
        self._size, self._fill, self._reads = size, fill, reads
        self._at = 0
        self._kept: dict[int, memoryview] = {}

    def forget(self) -> None:
        """Read from the file again what was read before."""
        self._kept.clear()

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It has positions."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to ``size`` bytes, all that are left when it is negative."""
        left = max(0, self._size - self._at)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        return bytes(memoryview(data)[: self.readinto(data)])

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position on; return how many bytes there were."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        done = 0
        while done < len(view):
            count = self._part(view[done:])
            if not count:
                break
            done += count
            self._at += count
        return done

    def _part(self, view: memoryview) -> int:
        if self._reads is None:
            return self._fill(self._at, view)
        number, skip = divmod(self._at, BLOCK)
        start = number * BLOCK
        length = min(BLOCK, self._size - start)
        block = self._kept.get(number)
        if block is None:
            direct = skip == 0 and len(view) >= length
            block = view[:length] if direct else memoryview(bytearray(length))
            block = block[: self._fill(start, block)]
            self._reads.note(number, block)
            if direct:
                return len(block)
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[number] = block
        part = block[skip : skip + len(view)]
        view[: len(part)] = part
        return len(part)
