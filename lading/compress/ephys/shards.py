"""The work of one ephys unit in Zarr format 3: one shard of one array, written chunk by chunk and proven.

Input: readers of the source, a codec, a place. Output: a shard file and its record.
Invariant: as in ``chunks``: what is compared was read back from the place and decoded, and the source is read a second
time for it. Memory is that of a chunk, whatever the size of the shard.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lading.compress.buffers import tune_malloc
from lading.compress.destination import Destination, open_destination
from lading.compress.ephys import zarr_layout as container
from lading.compress.ephys.chunks import check_chunk, encode_chunk
from lading.compress.ephys.codecs import SampleCodec
from lading.compress.ephys.correction import Correction
from lading.compress.ephys.recording import Samples
from lading.compress.job import BlockDigest, CompressionJob, Output, Result, VerificationFailed, digest
from lading.compress.shard_index import empty_index, pack_index


@dataclass(frozen=True)
class ShardArray:
    """An array whose shards are written.

    length  frames of a chunk
    chunks  of a shard
    read    ``read(start, stop, into)`` yields the source's frames in blocks, and may put them into ``into``
    """

    path: str
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    length: int
    chunks: int
    codec: SampleCodec
    correction: Correction | None
    read: Callable[[int, int, Samples | None], Iterator[Samples]]

    @property
    def whole(self) -> tuple[int, int]:
        """Frames and channels of a chunk."""
        return self.length, self.shape[1] if len(self.shape) > 1 else 1

    def span(self, number: int) -> tuple[int, int]:
        """Return the frames of a chunk."""
        return number * self.length, min(self.shape[0], (number + 1) * self.length)


def encode_index(sizes: list[int], chunks: int) -> bytes:
    """Return the index at a shard's end, for chunks that lie one after the other from its beginning."""
    places = empty_index(chunks)
    places[: len(sizes), 0] = np.cumsum([0, *sizes])[:-1]
    places[: len(sizes), 1] = sizes
    return pack_index(places)


def write_shard(job: CompressionJob, array: ShardArray, task: Mapping[str, Any]) -> Result:
    """Write and prove chunks ``first`` to ``last``, which are a whole shard or all that the array has of it."""
    tune_malloc()
    numbers = range(task["first"], task["last"])
    path = f"{array.path}/{container.chunk_name(task['first'] // array.chunks, len(array.shape), 3)}"
    written: list[tuple[int, str, str]] = []  # size and digest of each chunk, digest of its source

    def blocks() -> Iterator[bytes]:
        for number in numbers:
            start, stop = array.span(number)
            arranged = array.codec.arrange(array.dtype, array.whole)
            into = arranged[: stop - start] if array.codec.order == "C" and not array.correction else None
            frames = array.read(start, stop, into)
            encoded, before = encode_chunk(array.codec, array.correction, arranged, array.length, frames, digested=True)
            written.append((len(encoded), digest(encoded), before))
            yield encoded
        yield encode_index([size for size, _, _ in written], array.chunks)

    with open_destination(job) as place:
        place.write(path, blocks())
        output, hashes = _check(place, path, array, numbers, written)
    size = sum(stop - start for start, stop in map(array.span, numbers)) * array.whole[1] * array.dtype.itemsize
    # What was decoded equals the second reading bit by bit.
    checksum = digest(*(one.encode() for one in hashes))
    return Result(size, output.size, checksum, checksum, array.codec.describe(), (output,))


def _check(
    place: Destination, path: str, array: ShardArray, numbers: range, written: list[tuple[int, str, str]]
) -> tuple[Output, list[str]]:
    """Read a shard back, decode each chunk and compare it; returns the file and the digests of the second reading."""
    found, hashes = _Sequence(place.blocks(path)), []
    arranged = array.codec.arrange(array.dtype, array.whole)  # its type; what was encoded is gone
    for number, (size, known, before) in zip(numbers, written):
        stored = found.take(size)
        start, stop = array.span(number)
        what = f"frames {start} to {stop}"
        again = array.read(start, stop, None)
        intact = digest(stored) == known
        one, _ = check_chunk(
            place, path, stored, intact, array.codec, array.correction, arranged, array.whole, again, before, what
        )
        hashes.append(one)
    if found.rest() != encode_index([size for size, _, _ in written], array.chunks):
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: does not read back as it was written; check the disk and run again"
        )
    return Output(path, found.whole.size, found.whole.hash, found.whole.sha256), hashes


class _Sequence:
    """Blocks of bytes as one sequence, taken in parts; ``whole`` is the digest of all that was taken."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._held = blocks, bytearray()
        self.whole = BlockDigest()

    def take(self, size: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        while len(self._held) < size and (block := next(self._blocks, b"")):
            self._held += block
        found = bytes(self._held[:size])
        del self._held[:size]
        self.whole.update(found)
        return found

    def rest(self) -> bytes:
        """Return all that is left."""
        found = bytes(self._held) + b"".join(self._blocks)
        self._held.clear()
        self.whole.update(found)
        return found
