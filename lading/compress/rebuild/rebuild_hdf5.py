"""An HDF5 file made again: its residue, and the values of its datasets put where they were.

Input: the residue, and the arrays that carry values. Output: the bytes of the file.
Invariant: where values were stored as they are, their bytes are certain; where
filters had packed them (shuffle, deflate), they are packed again by the same
steps, and the digest of the file says whether the same bytes came out. Other
filters promise nothing. A temporary file of the original's size is written.
"""

import bisect
import contextlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import h5py
import numpy as np

from lading.compress.ephys import residue
from lading.compress.ephys.correction import Correction
from lading.compress.ephys.recording import Samples
from lading.compress.job import SourceFile
from lading.compress.rebuild.stored_array import StoredArray
from lading.compress.rebuild.stored_compression import CopyDamaged, NotPromised, StoredCompression
from lading.core.bounded import JsonMembers, parse_json

_BLOCK = 8 << 20
_SHUFFLE, _DEFLATE = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE


@dataclass(frozen=True)
class CarriedValues:
    """A dataset of the file and the array that has its values."""

    dataset: str
    array: str
    correction: Correction | None


def rebuild_hdf5(
    stored: StoredCompression, record: SourceFile, copy: str, values: Sequence[CarriedValues]
) -> Iterator[bytes]:
    """Yield the bytes of an HDF5 file."""
    path = f"{residue.FOLDER}/{copy.partition('/')[2]}{residue.SUFFIX}"
    with tempfile.NamedTemporaryFile() as file:
        try:
            holes = _write_residue(stored, path, record, file)
        except FileNotFoundError as error:
            raise NotPromised("an earlier version of Lading compressed it, which kept no residue of it") from error
        file.flush()
        try:
            with h5py.File(file.name, "r", locking=False) as opened:
                for value in values:
                    _fill(stored, file, opened[value.dataset], value, holes)
                with _fetched(stored, copy) as clipped:
                    _fill_rest(file, opened, clipped, {value.dataset for value in values}, holes)
        except (OSError, LookupError, ValueError, RuntimeError) as error:
            raise CopyDamaged(f"{stored.name}/{path}: describes no HDF5 file that can be read ({error})") from error
        file.flush()
        file.seek(0)
        while block := file.read(_BLOCK):
            yield block


class _BlockReader:
    """Bytes that come in blocks, taken in other lengths."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""

    def line(self) -> bytes:
        """Return the bytes up to the first newline, without it."""
        while b"\n" not in self._held and (block := next(self._blocks, b"")):
            self._held += block
        line, _, self._held = self._held.partition(b"\n")
        return line

    def take(self, count: int) -> Iterator[bytes]:
        """Yield ``count`` bytes; ``ValueError`` when there are fewer."""
        while count:
            self._held = self._held or next(self._blocks, b"")
            if not self._held:
                raise ValueError("it ends early")
            part, self._held = self._held[:count], self._held[count:]
            count -= len(part)
            yield part


class _Holes:
    """Ranges of a file that its residue does not have: values are there, of one dataset after the other."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add a range behind the others."""
        self._starts.append(start)
        self._ends.append(end)

    def __contains__(self, offset: int | None) -> bool:
        number = bisect.bisect_right(self._starts, -1 if offset is None else offset) - 1
        return number >= 0 and offset is not None and offset < self._ends[number]


def _write_residue(stored: StoredCompression, path: str, record: SourceFile, file: IO[bytes]) -> _Holes:
    """Put the residue's ranges into a file; return what lies between them."""
    blocks = stored.blocks(path)
    reader = _BlockReader(blocks)
    try:
        take = JsonMembers(parse_json(reader.line()), "its head")
        if take.text("kind") != residue.KIND or take.number("size") != record.size:
            raise ValueError("it is of another file")
        file.truncate(record.size)
        holes, at = _Holes(), 0
        for start, length in take.items("ranges", tuple):
            holes.add(at, start)
            file.seek(start)
            for part in reader.take(length):
                file.write(part)
            at = start + length
    except (ValueError, TypeError) as error:
        raise CopyDamaged(f"{stored.name}/{path}: is damaged ({error}); restore it") from error
    for _ in blocks:
        pass  # whether it is what was written shows at its end
    holes.add(at, record.size)
    return holes


def _fill(stored: StoredCompression, file: IO[bytes], dataset: Any, value: CarriedValues, holes: _Holes) -> None:
    """Put the values of a dataset where the residue has nothing."""
    frames = StoredArray(stored, value.array, value.correction).frames()
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if offset not in holes:
            return
        file.seek(offset)
        for block in frames:
            file.write(np.ascontiguousarray(block, dataset.dtype).tobytes())
        return
    chunks = _chunks(dataset)
    pack = _packer(dataset)
    for start, band in _bands(frames, dataset.chunks[0]):
        # Frames × channels, or frames alone.
        wide = dataset.chunks[1] if dataset.ndim > 1 else 1
        for column in range(0, band.shape[1] if band.ndim > 1 else 1, wide):
            chunk = chunks.get((start, column) if dataset.ndim > 1 else (start,))
            if chunk is None or chunk.byte_offset not in holes:
                continue  # it reaches over the edge: the residue has it
            part = band[:, column : column + wide] if dataset.ndim > 1 else band
            packed = pack(np.ascontiguousarray(part, dataset.dtype).tobytes(), chunk.filter_mask)
            if len(packed) != chunk.size:
                raise NotPromised(
                    f"the packed form of the values of {dataset.name} (their values are held, and were compared)"
                )
            file.seek(chunk.byte_offset)
            file.write(packed)


@contextlib.contextmanager
def _fetched(stored: StoredCompression, copy: str) -> Iterator[h5py.File]:
    """Open the clipped copy, wherever it is."""
    with tempfile.NamedTemporaryFile() as file:
        for block in stored.blocks(copy):
            file.write(block)
        file.flush()
        with h5py.File(file.name, "r", locking=False) as opened:
            yield opened


def _fill_rest(file: IO[bytes], opened: h5py.File, clipped: h5py.File, done: set[str], holes: _Holes) -> None:
    """Put the values of all other datasets where the residue has nothing: the copy has them as they were stored."""
    names: list[str] = []
    opened.visit(names.append)
    for name in names:
        dataset = opened[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.name in done or not residue.is_plain(dataset):
            continue
        if dataset.chunks is None:
            offset = dataset.id.get_offset()
            if offset in holes:
                file.seek(offset)
                file.write(np.asarray(clipped[dataset.name][()]).tobytes())
            continue
        kept = clipped[dataset.name].id
        for chunk in _chunks(dataset).values():
            if chunk.byte_offset in holes:
                file.seek(chunk.byte_offset)
                file.write(kept.read_direct_chunk(chunk.chunk_offset)[1])


def _chunks(dataset: h5py.Dataset) -> dict[tuple[int, ...], Any]:
    """Return the stored chunks of a dataset by where each begins."""
    found: dict[tuple[int, ...], Any] = {}

    def take(chunk: Any) -> None:
        found[chunk.chunk_offset] = chunk

    dataset.id.chunk_iter(take)
    return found


def _bands(frames: Iterator[Samples], length: int) -> Iterator[tuple[int, Samples]]:
    """Yield frames again in blocks of ``length``, with where each begins; what is left at the end is no block."""
    held: list[Samples] = []
    count, at = 0, 0
    for block in frames:
        held.append(block)
        count += len(block)
        if count >= length:
            whole = np.concatenate(held)
            for start in range(0, count - length + 1, length):
                yield at, whole[start : start + length]
                at += length
            rest = whole[count // length * length :]
            held, count = [rest], len(rest)


def _packer(dataset: Any) -> Callable[[bytes, int], bytes]:
    """Return what packs a chunk as the dataset's filters do; ``NotPromised`` for filters that are not known here."""
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(number) for number in range(settings.get_nfilters())]
    for code, _, _, name in filters:
        if code not in (_SHUFFLE, _DEFLATE):
            raise NotPromised(
                f"the packed form of the values of {dataset.name} (filter {os.fsdecode(name)}; their values are held, "
                "and were compared)"
            )

    def pack(data: bytes, skipped: int) -> bytes:
        for number, (code, _, values, _) in enumerate(filters):
            if skipped >> number & 1:
                continue
            if code == _SHUFFLE:
                data = np.frombuffer(data, np.uint8).reshape(-1, dataset.dtype.itemsize).T.tobytes()
            else:
                data = zlib.compress(data, values[0])
        return data

    return pack
