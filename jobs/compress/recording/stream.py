"""The nouns of a recording, and the only reader of its samples.

Input: a stream description. Output: samples as arrays of shape (frames,
channels).
Invariant: descriptions hold JSON values only; a read returns every frame
that was asked for or raises, naming file and offset.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jobs.compress.base import SourceFault

Samples = NDArray[Any]

NEURAL, ANALOG, DIGITAL = "neural", "analog", "digital"
# µV per unit of the physical quantities that acquisition systems write.
MICROVOLTS = {"uV": 1.0, "µV": 1.0, "mV": 1e3, "V": 1e6, "volts": 1e6}


@dataclass(frozen=True)
class Segment:
    """One uninterrupted part of a stream, in one file.

    file            relative to the source (``.`` when the source is the file)
    offset          bytes before the first frame
    frames          samples per channel
    file_channels   channels interleaved in the file; the stream's begin at ``first_channel``
    dataset         path inside an HDF5 file, empty for raw files
    t_start         seconds, None when the format says nothing
    times           relative path of an .npy, or a dataset, with one float64 time in seconds a frame; or empty
    sample_numbers  relative path of an .npy with one int64 sample number a frame; or empty
    """

    file: str
    frames: int
    file_channels: int
    first_channel: int = 0
    offset: int = 0
    dataset: str = ""
    t_start: float | None = None
    times: str = ""
    sample_numbers: str = ""


@dataclass(frozen=True)
class Stream:
    """Channels that were sampled together, and become one Zarr group.

    name      ``<experiment>_<stream>``, the group's name without ``.zarr``
    dtype     numpy's name with byte order, for example ``<i2``
    gains, offsets  in physical ``units`` per count, one a channel
    content   ``neural``, ``analog`` (NI-DAQ, ADC) or ``digital`` (sync words)
    probe     probeinterface's dictionary of a probe group, contacts in channel order, or None
    """

    name: str
    dtype: str
    sampling_frequency: float
    channel_ids: tuple[str, ...]
    channel_names: tuple[str, ...]
    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    units: tuple[str, ...]
    content: str
    segments: tuple[Segment, ...]
    probe: Mapping[str, Any] | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """How many channels a frame has."""
        return len(self.channel_ids)

    def microvolts(self, values: tuple[float, ...]) -> list[float]:
        """Return gains or offsets in µV; NaN where the unit is no voltage."""
        return [value * MICROVOLTS.get(unit, math.nan) for value, unit in zip(values, self.units)]


def encode_stream(stream: Stream) -> dict[str, Any]:
    """Return a stream as JSON values."""
    return asdict(stream)


def decode_stream(record: Mapping[str, Any]) -> Stream:
    """Return the stream that ``encode_stream`` wrote."""
    values = dict(record)
    values["segments"] = tuple(Segment(**segment) for segment in values["segments"])
    for name in ("channel_ids", "channel_names", "gains", "offsets", "units"):
        values[name] = tuple(values[name])
    return Stream(**values)


def locate(source: Path, file: str) -> Path:
    """Return the path of a segment's file."""
    return source if file == "." else source / file


def count_frames(path: Path, channels: int, item: int, offset: int = 0) -> int:
    """Return the whole frames in a raw file; ``SourceFault`` when bytes are left over."""
    size = path.stat().st_size - offset
    frames, rest = divmod(max(size, 0), channels * item)
    if size < 0 or rest:
        raise SourceFault(
            f"{path}: {rest if size >= 0 else -size} bytes beyond the last whole frame of {channels} channels × "
            f"{item} bytes, at offset {offset + frames * channels * item}: the file is truncated, or its metadata "
            "gives a wrong number of channels; copy it again from the acquisition machine"
        )
    return frames


def read_frames(source: Path, stream: Stream, segment: Segment, start: int, stop: int) -> Samples:
    """Return frames ``start`` to ``stop`` as a new C-contiguous array of shape (stop - start, channels)."""
    path = locate(source, segment.file)
    first, last = segment.first_channel, segment.first_channel + stream.channels
    if segment.dataset:
        with h5py.File(path, "r") as file:
            try:
                values = file[segment.dataset][start:stop]
            except OSError as error:
                raise SourceFault(
                    f"{path}: dataset {segment.dataset}, frames {start} to {stop}, cannot be read ({error}); "
                    "copy the file again from where it was made"
                ) from error
        values = values.reshape(len(values), -1)
    else:
        dtype = np.dtype(stream.dtype)
        count = (stop - start) * segment.file_channels
        offset = segment.offset + start * segment.file_channels * dtype.itemsize
        with open(path, "rb", buffering=0) as raw:
            values = np.fromfile(raw, dtype, count, offset=offset)
        if values.size != count:
            raise SourceFault(
                f"{path}: ends at offset {offset + values.nbytes}, {(count - values.size) * dtype.itemsize} bytes "
                "short of what its metadata says; copy it again from the acquisition machine"
            )
        values = values.reshape(stop - start, segment.file_channels)
    return np.ascontiguousarray(values[:, first:last])


def data_files(streams: list[Stream]) -> set[str]:
    """Return the relative paths of the files that hold samples."""
    return {segment.file for stream in streams for segment in stream.segments}


def find_files(source: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the relative paths below ``source`` with one of the suffixes, sorted."""
    for directory, names, files in os.walk(source):
        names.sort()
        for name in sorted(files):
            if name.endswith(suffixes):
                yield os.path.relpath(os.path.join(directory, name), source)
