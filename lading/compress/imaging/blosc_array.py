"""The files of arrays whose chunks are Blosc and nothing else: made and decoded without zarr.

Input: the metadata document of an array of axes t, c, z, y, x, and voxels or the bytes of a file. Output: the bytes of
a shard (Zarr format 3) or of a chunk (format 2), or the voxels.
Invariant: the bytes are those that zarr writes (the tests compare them). An array that says anything that is not known
here is no ``BloscArray``, and zarr serves it. What is decoded was written now, every voxel of it.
Why: zarr gathers each shard, and each chunk of it, in fresh memory, which cost half as much as Blosc itself.
"""

import functools
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
from numcodecs import blosc

from lading.compress.buffers import scratch_buffer
from lading.compress.imaging.volume import Array, Window, as_shape
from lading.compress.shard_index import ABSENT, empty_index, pack_index, unpack_index

Lengths = tuple[int, int, int]
Place = tuple[int, int, int]
Inside = tuple[slice, slice, slice]

_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_KEYS = {"name": "default", "configuration": {"separator": "/"}}


@dataclass(frozen=True)
class BloscArray:
    """An array of one channel and time a chunk.

    chunk  voxels of a chunk along z, y, x
    file   voxels of a file: a shard of whole chunks, or a chunk
    """

    lengths: Lengths
    dtype: "np.dtype[Any]"
    chunk: Lengths
    file: Lengths
    sharded: bool
    codec: Any

    def has_whole_files(self, window: Window) -> bool:
        """Tell whether a window begins and ends where files do, or at the array's end."""
        ends = (window.z, window.y, window.x)
        return all(
            start % size == 0 and (end % size == 0 or end == length)
            for (start, end), size, length in zip(ends, self.file, self.lengths)
        )

    def files(self, window: Window) -> Iterator[tuple[str, Window]]:
        """Yield the name, relative to the array, of each file of such a window, and what it holds."""
        head = "c/" if self.sharded else ""
        ends = (window.z, window.y, window.x)
        spans = [range(start // size, -(-end // size)) for (start, end), size in zip(ends, self.file)]
        for place in itertools.product(*spans):
            z, y, x = (
                (at * size, min((at + 1) * size, length)) for at, size, length in zip(place, self.file, self.lengths)
            )
            yield f"{head}{window.t}/{window.c}/" + "/".join(map(str, place)), Window(window.t, window.c, z, y, x)

    def encode(self, voxels: Array) -> list[bytes]:
        """Return the bytes of a file of ``voxels`` in parts; none when it holds nothing but the fill value."""
        parts: list[bytes] = []
        grid = tuple(size // inner for size, inner in zip(self.file, self.chunk))
        places, at = empty_index(math.prod(grid)), 0
        for place in _written_order(grid):
            data = self._encode_chunk(voxels[self._inside(place)])
            if data is not None:
                places[_number(place, grid)] = (at, len(data))
                at += len(data)
                parts.append(data)
        return [*parts, pack_index(places)] if parts and self.sharded else parts

    def _encode_chunk(self, voxels: Array) -> bytes | None:
        """Return the bytes of a chunk, which is whole beyond the array's end too; None for nothing but zeros."""
        if not voxels.size:
            return None
        whole = scratch_buffer("blosc", self.dtype, self.chunk)
        if voxels.shape != whole.shape:
            whole[...] = 0
        z, y, x = (slice(0, length) for length in voxels.shape)
        whole[z, y, x] = voxels
        raw = whole.reshape(-1).view(np.uint8)
        # The first voxels tell most chunks from empty ones.
        if not raw[:64].any() and not raw.any():
            return None
        return bytes(self.codec.encode(raw))

    @property
    def halves_alone(self) -> bool:
        """Whether no window of two voxels along an axis lies in two chunks."""
        return all(size % 2 == 0 or size >= length for size, length in zip(self.chunk, self.lengths))

    def decode(self, data: bytes | None, out: Array) -> None:
        """Fill ``out`` with the voxels of a file, zeros where there is none; raises as ``chunks``."""
        for inside, voxels in self.chunks(data, out.shape):
            out[inside] = voxels

    def chunks(self, data: bytes | None, shape: tuple[int, ...]) -> Iterator[tuple[Inside, Array]]:
        """Yield where each chunk is in a file of ``shape``, and its voxels, which are valid until the next.

        ``data`` is None for a file that is not there. Raises ``ValueError`` or ``RuntimeError`` when it is damaged.
        """
        grid = tuple(size // inner for size, inner in zip(self.file, self.chunk))
        whole = scratch_buffer("blosc", self.dtype, self.chunk)
        places = unpack_index(data, math.prod(grid)).tolist() if data is not None and self.sharded else None
        for place in _written_order(grid):
            size = [min(inner, length - at * inner) for at, inner, length in zip(place, self.chunk, shape)]
            if min(size) <= 0:
                continue
            start, length = places[_number(place, grid)] if places else (0, len(data or b""))
            if data is None or start == ABSENT:
                whole[...] = 0
            else:
                self._decode_chunk(memoryview(data)[start : start + length], whole)
            yield self._inside(place), whole[: size[0], : size[1], : size[2]]

    @staticmethod
    def _decode_chunk(data: Any, whole: Array) -> None:
        # The header holds the decoded size in its bytes 4 to 7 (c-blosc, README_CHUNK_FORMAT).
        if int.from_bytes(data[4:8], "little") != whole.nbytes:
            raise ValueError(f"it does not hold the {whole.size} voxels of a chunk")
        blosc.decompress(data, whole)

    def _inside(self, place: Place) -> Inside:
        z, y, x = (slice(at * size, (at + 1) * size) for at, size in zip(place, self.chunk))
        return z, y, x


def read_document(name: str, content: bytes) -> BloscArray | None:
    """Return the array of a metadata document ``zarr.json`` or ``.zarray``, None when it is of another form."""
    try:
        document = json.loads(content)
        return _of_format_3(document) if name == "zarr.json" else _of_format_2(document)
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _of_format_3(document: Any) -> BloscArray | None:
    (sharding,) = document["codecs"]
    inner = sharding["configuration"]
    packed, compressed = inner["codecs"]
    settings = compressed["configuration"]
    dtype = np.dtype(document["data_type"]).newbyteorder("<")
    order = {"endian": "little"} if dtype.itemsize > 1 else {}
    known = (
        (document["zarr_format"], document["node_type"], document["fill_value"]) == (3, "array", 0)
        and document["chunk_key_encoding"] == _KEYS
        and document["chunk_grid"]["name"] == "regular"
        and not document.get("storage_transformers")
        and (sharding["name"], inner["index_location"], inner["index_codecs"])
        == ("sharding_indexed", "end", _INDEX_CODECS)
        and (packed["name"], packed.get("configuration", {})) == ("bytes", order)
        and compressed["name"] == "blosc"
    )
    codec = numcodecs.Blosc(
        settings["cname"],
        settings["clevel"],
        _SHUFFLES[settings["shuffle"]],
        settings["blocksize"],
        typesize=settings["typesize"],
    )
    shard = document["chunk_grid"]["configuration"]["chunk_shape"]
    return _checked(document["shape"], dtype, inner["chunk_shape"], shard, codec, sharded=True) if known else None


def _of_format_2(document: Any) -> BloscArray | None:
    settings = document["compressor"]
    dtype = np.dtype(document["dtype"])
    known = (
        (document["zarr_format"], document["order"], document["fill_value"]) == (2, "C", 0)
        and not document["filters"]
        and document["dimension_separator"] == "/"
        and settings["id"] == "blosc"
    )
    # In this format the size of a voxel, of which Blosc makes planes, is that of the array's type.
    codec = numcodecs.Blosc(
        settings["cname"], settings["clevel"], settings["shuffle"], settings["blocksize"], typesize=dtype.itemsize
    )
    chunk = document["chunks"]
    return _checked(document["shape"], dtype, chunk, chunk, codec, sharded=False) if known else None


def _checked(
    shape: list[int], dtype: "np.dtype[Any]", chunk: list[int], file: list[int], codec: Any, *, sharded: bool
) -> BloscArray | None:
    """Return the array when its axes, type and sizes are such as are written here."""
    if any(tuple(box[:2]) != (1, 1) or len(box) != 5 for box in (chunk, file)) or not dtype.isnative:
        return None
    lengths, inner, outer = (as_shape(box)[2:] for box in (shape, chunk, file))
    if min(*inner, *lengths) < 1 or any(whole % size for whole, size in zip(outer, inner)) or dtype.hasobject:
        return None
    return BloscArray(lengths, dtype, inner, outer, sharded, codec)


def _number(place: Place, grid: tuple[int, ...]) -> int:
    """Return the place of a chunk in a shard's index."""
    return (place[0] * grid[1] + place[1]) * grid[2] + place[2]


@functools.cache
def _written_order(grid: tuple[int, ...]) -> tuple[Place, ...]:
    """Return the chunks of a shard in the order in which zarr writes them: bits of z, y and x in turn, lowest first."""

    def key(place: Place) -> int:
        code = shift = 0
        for bit in range(max(grid).bit_length()):
            for at, size in zip(place, grid):
                if bit < (size - 1).bit_length():
                    code |= (at >> bit & 1) << shift
                    shift += 1
        return code

    z, y, x = grid
    return tuple(sorted(itertools.product(range(z), range(y), range(x)), key=key))
