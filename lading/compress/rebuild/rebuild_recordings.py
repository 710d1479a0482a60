"""The raw files of a recording, made again from its Zarr groups and the clipped copy.

Input: a stored compression of kind ephys. Output: the bytes of its source files.
Invariant: a file that is whole in the clipped copy is that copy; a raw file is
its header there, and then the frames of the groups; an HDF5 file is its residue
with the values put back (``rebuild_hdf5``). Memory: one chunk of each group.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lading.compress.ephys import clip
from lading.compress.ephys.correction import Correction
from lading.compress.ephys.ephys_plan import FOLDER
from lading.compress.ephys.recording import Samples, Segment
from lading.compress.job import SourceFile
from lading.compress.rebuild.rebuild_hdf5 import CarriedValues, rebuild_hdf5
from lading.compress.rebuild.stored_array import StoredArray
from lading.compress.rebuild.stored_compression import CopyDamaged, NotPromised, StoredCompression
from lading.core.bounded import decode


@dataclass(frozen=True)
class _Part:
    """Channels of one file in one array."""

    array: str
    times: str
    dtype: str
    channels: int
    segment: Segment
    correction: Correction | None
    lossless: bool


class RecordingRebuilder:
    """Source files of one recording."""

    def __init__(self, stored: StoredCompression) -> None:
        self._stored = stored
        self._parts: dict[str, list[_Part]] = defaultdict(list)
        self._noted = True
        for stream in stored.facts.get("streams", ()):
            self._noted = self._noted and "segments" in stream
            for number, segment in enumerate(stream.get("segments", ())):
                part = _read_part(stream, number, segment)
                if not (part.segment.whole or part.segment.neo):  # the clipped copy has all of such a file
                    self._parts[part.segment.file].append(part)

    def close(self) -> None:
        """Let go of what is held."""
        self._parts.clear()

    def blocks(self, record: SourceFile) -> Iterator[bytes]:
        """Yield the bytes of a source file; ``NotPromised`` before the first where not all are held."""
        stored = self._stored
        parts = self._parts.get(record.path, ())
        copy = f"{clip.FOLDER}/{stored.source_name if record.path == '.' else record.path}"
        if not parts and stored.size(copy) == record.size:
            return stored.blocks(copy)
        if not self._noted:
            raise NotPromised("an earlier version of Lading compressed it, which did not note where its samples lay")
        if not parts:
            raise NotPromised(record.lossy or "no output holds it")
        if record.lossy:
            raise NotPromised(record.lossy)
        if parts[0].segment.dataset:
            values = [CarriedValues(part.segment.dataset, part.array, part.correction) for part in parts]
            values += [CarriedValues(part.segment.times, part.times, None) for part in parts if part.segment.times]
            return rebuild_hdf5(stored, record, copy, values)
        return self._raw(record, copy, sorted(parts, key=lambda part: part.segment.first_channel))

    def _raw(self, record: SourceFile, copy: str, parts: Sequence[_Part]) -> Iterator[bytes]:
        first = parts[0].segment
        item = np.dtype(parts[0].dtype).itemsize
        covered = [channel for part in parts for channel in _channels(part)]
        if covered != list(range(first.file_channels)) or {part.segment.offset for part in parts} != {first.offset}:
            raise NotPromised("channels of it are in no output")
        if record.size != first.offset + first.frames * first.file_channels * item:
            raise NotPromised("bytes of it that are not samples are in no output")
        if not all(part.lossless for part in parts):
            raise NotPromised("its samples are stored with loss (bits_per_sample)")
        return self._interleave(copy, parts, first)

    def _interleave(self, copy: str, parts: Sequence[_Part], first: Segment) -> Iterator[bytes]:
        if first.offset:
            yield from _beginning(self._stored, copy, first.offset)
        dtype = np.dtype(parts[0].dtype)
        sources = [_Frames(self._stored, part) for part in parts]
        done = 0
        while done < first.frames:
            step = min(source.ready() for source in sources)
            block: Any = np.empty((step, first.file_channels), dtype)
            for part, source in zip(parts, sources):
                start = part.segment.first_channel
                block[:, start : start + part.channels] = source.take(step)
            done += step
            yield memoryview(block).cast("B").tobytes()


def _channels(part: _Part) -> range:
    return range(part.segment.first_channel, part.segment.first_channel + part.channels)


def _read_part(stream: Mapping[str, Any], number: int, segment: Any) -> _Part:
    try:
        fixed = stream["correction"]
        top = f"{FOLDER}/{stream['name']}.zarr"
        return _Part(
            f"{top}/traces_seg{number}",
            f"{top}/times_seg{number}",
            str(np.dtype(stream["dtype"]).str),
            int(stream["channels"]),
            decode(Segment, segment),
            Correction(int(fixed["step"]), tuple(map(int, fixed["medians"]))) if fixed else None,
            stream["lossless"] is True,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CopyDamaged(f"its compress.json says no stream that can be read ({error!r}); restore it") from error


class _Frames:
    """The frames of one part, taken in any steps."""

    def __init__(self, stored: StoredCompression, part: _Part) -> None:
        array = StoredArray(stored, part.array, part.correction)
        if array.shape != (part.segment.frames, part.channels) or array.dtype != np.dtype(part.dtype):
            raise CopyDamaged(f"{stored.name}/{part.array}: has another shape or type than compress.json says")
        self._blocks = array.frames()
        self._block: Samples = np.empty((0, part.channels), array.dtype)

    def ready(self) -> int:
        """Return how many frames can be taken now, reading more when there are none."""
        while not len(self._block):
            self._block = next(self._blocks)
        return len(self._block)

    def take(self, count: int) -> Samples:
        """Return the next frames."""
        found, self._block = self._block[:count], self._block[count:]
        return found


def _beginning(stored: StoredCompression, path: str, length: int) -> Iterator[bytes]:
    """Yield the first bytes of an output, all of which is read so that its digest is checked."""
    left = length
    for block in stored.blocks(path):
        if left:
            yield block[:left]
            left -= len(block[:left])
    if left:
        raise CopyDamaged(f"{stored.name}/{path}: is shorter than the header of its file; restore it")
