"""Samples that mtscomp packed: a ``.cbin`` and its ``.ch``.

Input: both files, open. Output: samples as they were before.
Invariant: a chunk gives exactly the frames that the ``.ch`` says, or raises
``SourceFault`` with its number and offset.

Format: the ``.ch`` is JSON with ``algorithm`` zlib, ``dtype``, ``n_channels``,
``chunk_bounds`` in frames, ``chunk_offsets`` in bytes, ``chunk_order`` of a chunk in
memory, and ``do_time_diff`` and ``do_spatial_diff``: whether frames, channels, are
stored as differences.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.compress.job import SourceFault
from lading.compress.sources import Source
from lading.core.bounded import FILE_BYTES, JsonMembers, parse_json

SUFFIX, ABOUT = ".cbin", ".ch"


@dataclass(frozen=True)
class MtscompHeader:
    """What a ``.ch`` says."""

    dtype: "np.dtype[Any]"
    channels: int
    bounds: tuple[int, ...]
    offsets: tuple[int, ...]
    order: str
    time: bool
    spatial: bool

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return self.bounds[-1]


def read_header(source: Source, path: str) -> MtscompHeader:
    """Return what a ``.ch`` says; ``SourceFault`` when it makes no sense."""
    with source.open(path) as file:
        if file.state.size > FILE_BYTES:
            raise SourceFault(f"{file.name}: has {file.state.size} bytes, which no .ch has")
        try:
            take = JsonMembers(parse_json(b"".join(file.blocks())))
            if take.text("algorithm") != "zlib" or take.text("chunk_order") not in ("C", "F"):
                raise ValueError("it was packed by an algorithm that is not known")
            found = MtscompHeader(
                np.dtype(take.text("dtype")).newbyteorder("<"), take.number("n_channels"),
                take.items("chunk_bounds", int), take.items("chunk_offsets", int), take.text("chunk_order"),
                take.flag("do_time_diff"), take.flag("do_spatial_diff"),
            )  # fmt: skip
            steps = np.diff(found.bounds), np.diff(found.offsets)
            if found.dtype.kind not in "iu" or found.bounds[:1] != (0,) or len(found.bounds) != len(found.offsets):
                raise ValueError("its chunks do not begin at 0, or are of no whole numbers")
            if found.channels < 1 or any((step < 0).any() for step in steps) or found.offsets[0] < 0:
                raise ValueError("its chunks do not rise")
        except (ValueError, TypeError) as error:
            raise SourceFault(
                f"{file.name}: is not a description of samples by mtscomp ({error}); restore it"
            ) from error
    return found


def read_packed(source: Source, path: str, header: MtscompHeader, start: int, stop: int) -> Iterator[NDArray[Any]]:
    """Yield frames ``start`` to ``stop``, a chunk at a time."""
    first = int(np.searchsorted(header.bounds, start, "right")) - 1
    with source.open(path) as file:
        stream = file.as_file()
        for number in range(max(first, 0), len(header.bounds) - 1):
            begin, end = header.bounds[number : number + 2]
            if begin >= stop:
                return
            offset, following = header.offsets[number : number + 2]
            stream.seek(offset)
            values = _unpack(file.name, header, number, offset, stream.read(following - offset))
            yield values[max(start, begin) - begin : min(stop, end) - begin]


def _unpack(name: str, header: MtscompHeader, number: int, offset: int, data: bytes) -> NDArray[Any]:
    frames = header.bounds[number + 1] - header.bounds[number]
    size = frames * header.channels * header.dtype.itemsize
    try:
        decoder = zlib.decompressobj()
        raw = decoder.decompress(data, size + 1)
        if len(raw) != size or not decoder.eof:
            raise ValueError(f"it holds {len(raw)} bytes where {size} were expected")
    except (zlib.error, ValueError) as error:
        raise SourceFault(
            f"{name}: chunk {number} (offset {offset}) cannot be unpacked ({error}); restore it"
        ) from error
    values = np.frombuffer(raw, header.dtype).reshape((frames, header.channels), order=header.order)  # type: ignore[call-overload]
    # Sums wrap around, as the differences did.
    if header.spatial:
        values = np.cumsum(values, axis=1, dtype=header.dtype)
    if header.time:
        values = np.cumsum(values, axis=0, dtype=header.dtype)
    return np.ascontiguousarray(values)
