"""The residue of an HDF5 file: every byte of it that is not the values of a dataset known to be carried.

Input: an open HDF5 file, the datasets whose values are carried elsewhere and
were compared. Output: ``ecephys_residue/<path of the file>.residue``.
Invariant: a byte of the file is in a range of values that were decoded and
compared, or it is in the residue. What nobody knows the meaning of (user
block, free space, heaps, bytes after the end, unusual types) is in the residue.

Format: a line of JSON (``format`` 1, ``kind`` ``hdf5-residue``, ``size`` of the
source, ``ranges``: ``[offset, length]`` in rising order), then the bytes of
these ranges one after the other.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import h5py

from lading.compress.destination import Destination
from lading.compress.job import Output, SourceFault, VerificationFailed, digest
from lading.compress.sources import BLOCK, OpenFile

FOLDER = "ecephys_residue"
SUFFIX = ".residue"  # it is no HDF5 file, and must not be taken for one
FORMAT, KIND = 1, "hdf5-residue"

Range = tuple[int, int]


def is_plain(dataset: h5py.Dataset) -> bool:
    """Tell whether numpy holds a dataset's values bit by bit: usual integers and floats, in this file."""
    if dataset.shape is None or dataset.is_virtual or dataset.external or dataset.dtype.kind not in "iuf":
        return False
    stored = dataset.id.get_type()
    # HDF5 has numbers with padding bits and of odd precision, which are widened when they are read.
    return stored.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and stored == h5py.h5t.py_create(dataset.dtype)


def find_ranges(file: h5py.File, size: int, carried: Iterable[str]) -> list[Range]:
    """Return (start, end) of the bytes that are not values of the datasets ``carried``, which are plain."""
    held: list[Range] = []
    # Where chunks are told from, the file's start or the user block's end, depends on HDF5's version.
    if not file.userblock_size:
        for path in carried:
            held += _values(file[path])
    ranges: list[Range] = []
    at = 0
    for start, end in sorted(held):
        if start > at:
            ranges.append((at, min(start, size)))
        at = max(at, end)
    if at < size:
        ranges.append((at, size))
    return [(start, end) for start, end in ranges if start < end]


def _values(dataset: h5py.Dataset) -> Iterator[Range]:
    """Yield where values lie that are all inside the dataset's extent."""
    stored: Any = dataset.id
    if dataset.chunks is None:
        offset = stored.get_offset()
        if offset is not None and stored.get_storage_size() == dataset.size * stored.get_type().get_size():
            yield offset, offset + dataset.size * stored.get_type().get_size()
        return
    found: list[Range] = []

    def take(chunk: Any) -> None:
        # A chunk that reaches over the edge holds bytes that no reading shows.
        places = zip(chunk.chunk_offset, dataset.chunks, dataset.shape)
        if all(first + length <= most for first, length, most in places):
            found.append((chunk.byte_offset, chunk.byte_offset + chunk.size))

    stored.chunk_iter(take)
    yield from found


def write_residue(file: OpenFile, place: Destination, path: str, ranges: list[Range]) -> Output:
    """Write the ranges of a file to ``path`` and compare what was written with the file, read again."""
    head = {
        "format": FORMAT, "kind": KIND, "size": file.state.size,
        "ranges": [[start, end - start] for start, end in ranges],
    }  # fmt: skip
    line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    place.write(path, _blocks(file, line, ranges))
    again = digest(*_blocks(file, line, ranges))
    found = place.size_and_digest(path)
    if again != found.hash:
        place.remove(path)
        raise VerificationFailed(f"{place.name}/{path} differs from what {file.name} holds; run again")
    return Output(path, *found)


def _blocks(file: OpenFile, line: bytes, ranges: list[Range]) -> Iterator[bytes]:
    stream: Any = file.as_file()
    yield line
    for start, end in ranges:
        stream.seek(start)
        while start < end:
            block = stream.read(min(BLOCK, end - start))
            if not block:
                raise SourceFault(f"{file.name} ends at offset {start}, earlier than before; run again")
            start += len(block)
            yield bytes(block)
