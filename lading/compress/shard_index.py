"""The index at the end of a shard of Zarr format 3.

Input: where each chunk of a shard begins and how long it is, or the bytes of a shard. Output: the other one.
Invariant: the bytes are those that zarr writes; an index is only returned when its CRC is right and every chunk lies
before it.
"""

import importlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What the index says of a chunk that is not in the shard.
ABSENT = (1 << 64) - 1

Places = NDArray[np.uint64]


def empty_index(chunks: int) -> Places:
    """Return (start, length) of so many chunks, none of which is there yet."""
    return np.full((chunks, 2), ABSENT, np.uint64)


def pack_index(places: Places) -> bytes:
    """Return the bytes of an index of (start, length), in the order of the chunks along the axes."""
    index = places.astype("<u8", copy=False).tobytes()
    return index + struct.pack("<I", _crc(index))


def unpack_index(shard: Any, chunks: int) -> Places:
    """Return (start, length) of each chunk of a shard; ``ValueError`` when its index is damaged."""
    body = len(shard) - 16 * chunks - 4
    if body < 0:
        raise ValueError(f"it has {len(shard)} bytes, fewer than its index")
    index = bytes(memoryview(shard)[body:-4])
    if struct.unpack("<I", bytes(memoryview(shard)[-4:]))[0] != _crc(index):
        raise ValueError("its index has another CRC than it says")
    places = np.frombuffer(index, "<u8").reshape(chunks, 2)
    there = places[(places != ABSENT).any(axis=1)]
    if (there > body).any() or (there.sum(axis=1) > body).any():
        raise ValueError("its index points beyond its end")
    return places


def _crc(data: bytes) -> int:
    # Not at the start: of a job's processes few see a shard, and zarr brings it.
    return int(importlib.import_module("google_crc32c").value(data))
