"""The nouns of a recording, and the only reader of its samples.

Input: a stream description. Output: samples as arrays of shape (frames,
channels).
Invariant: descriptions hold JSON values only; a read returns every frame
that was asked for or raises, naming file and offset.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lading.compress.buffers import scratch_buffer
from lading.compress.ephys.mtscomp_file import read_header, read_packed
from lading.compress.ephys.neo_reader import read_neo, said
from lading.compress.inventory import Item
from lading.compress.job import SourceFault, walk_files
from lading.compress.sources import Source
from lading.core.progress import counted

Samples = NDArray[Any]

NEURAL, ANALOG, DIGITAL = "neural", "analog", "digital"
# What is read at once: it stays in a core's second cache, beside what it becomes, while it is hashed and compared.
BLOCK = 384 << 10
SQUARE = 32
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
    whole           the clipped copy has all of the file: its end is not that of the samples
    neo             neo's reader of the samples (``neo_bridge``), of its ``neo_path``, ``block``, segment ``part``
                    and ``stream``; empty where they are read from the file itself
    packed          relative path of the .ch of a file that mtscomp packed; or empty
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
    whole: bool = False
    neo: str = ""
    neo_path: str = ""
    block: int = 0
    part: int = 0
    stream: int = 0
    packed: str = ""


@dataclass(frozen=True)
class Stream:
    """Channels that were sampled together, and become one Zarr group.

    name      ``<experiment>_<stream>``, the group's name without ``.zarr``
    dtype     numpy's name with byte order, for example ``<i2``
    gains, offsets  in physical ``units`` per count, one a channel
    content   ``neural``, ``analog`` (NI-DAQ, ADC) or ``digital`` (sync words)
    notes     what a person should know: a probe that cannot be read, gaps in the times
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
    notes: tuple[str, ...] = ()

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
    for name in ("channel_ids", "channel_names", "gains", "offsets", "units", "notes"):
        values[name] = tuple(values.get(name, ()))
    return Stream(**values)


def locate(source: Path, file: str) -> Path:
    """Return the path of a segment's file."""
    return source if file == "." else source / file


@dataclass
class Finding:
    """How the streams of a source are looked for, and what a reader says besides.

    accept_sizes, accept_missing, each, clip  the options of that name
    items  what no output carries, each with its reason
    notes  sentences for people
    """

    accept_sizes: bool = False
    accept_missing: bool = False
    each: bool = False
    clip: bool = True
    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(options: Mapping[str, Any]) -> "Finding":
        """Return what a job's options say; those of a plan of an earlier version lack some."""
        sizes, missing, each, clip = (
            bool(options.get(name)) for name in ("accept_sizes", "accept_missing", "each", "clip")
        )
        return Finding(sizes, missing, each, clip)

    def count_frames(self, source: Path, file: str, channels: int, item: int) -> int:
        """Return the whole frames of a raw file; what is left over is a fault, or named where sizes are accepted."""
        path = locate(source, file)
        if self.accept_sizes:
            frames, rest = divmod(path.stat().st_size, channels * item)
            if rest:
                self.items.append(
                    Item(file, f"the {rest} bytes after the last whole frame", "taken so by --accept-sizes")
                )
            return frames
        return count_frames(path, channels, item)


def session_label(source: Path, folder: Path) -> str:
    """Return what tells a session below a source from another one, as the beginning of a name."""
    below = os.path.relpath(folder, source)
    return "" if below == "." else below.replace("../", "").replace("/", "_") + "_"


def refuse_two(what: str, folders: Iterable[object]) -> str:
    """Return the fault of two sessions below one source that would become one recording."""
    return (
        f"{what} is there more than once, in {' and in '.join(sorted(map(str, folders)))}: two sessions, or a session "
        "and its copy; compress one of them, or pass --each for an output each"
    )


def count_frames(path: Path, channels: int, item: int, offset: int = 0) -> int:
    """Return the whole frames in a raw file; ``SourceFault`` when bytes are left over."""
    size = path.stat().st_size - offset
    frames, rest = divmod(max(size, 0), channels * item)
    if size < 0 or rest:
        raise SourceFault(
            f"{path}: {rest if size >= 0 else -size} bytes beyond the last whole frame of "
            f"{counted(channels, 'channel')} × "
            f"{item} bytes, at offset {offset + frames * channels * item}: the file is truncated, or its metadata "
            "gives a wrong number of channels; copy it again from the acquisition machine, or give --accept-sizes"
        )
    return frames


def read_frames(source: Source, stream: Stream, segment: Segment, start: int, stop: int) -> Samples:
    """Return frames ``start`` to ``stop`` as a new C-contiguous array of shape (stop - start, channels)."""
    blocks = [block.copy() for block in read_blocks(source, stream, segment, start, stop)]
    return np.concatenate(blocks) if blocks else np.empty((0, stream.channels), stream.dtype)


def read_blocks(
    source: Source, stream: Stream, segment: Segment, start: int, stop: int, into: Samples | None = None
) -> Iterator[Samples]:
    """Yield frames ``start`` to ``stop`` in C-contiguous blocks that fit the cache, each valid until the next.

    Where the file's frames are the stream's, they are read into ``into``, when it is given.
    """
    first, last = segment.first_channel, segment.first_channel + stream.channels
    if segment.dataset:
        with source.open(segment.file) as opened, h5py.File(opened.as_file(), "r") as file:
            try:
                values = require_own(opened.name, file[segment.dataset])[start:stop]
            except (OSError, RuntimeError, LookupError, ValueError) as error:
                raise SourceFault(
                    f"{opened.name}: dataset {segment.dataset}, frames {start} to {stop}, cannot be read ({error}); "
                    "copy the file again from where it was made"
                ) from error
        values = values.reshape(len(values), -1)[:, first:last]
        # The stream has the machine's byte order, whatever the file has.
        yield from cut_blocks(np.ascontiguousarray(values, stream.dtype))
        return
    if segment.neo:
        yield from _read_neo(source, stream, segment, start, stop)
        return
    if segment.packed:
        for values in read_packed(source, segment.file, read_header(source, segment.packed), start, stop):
            yield from cut_blocks(np.ascontiguousarray(values[:, first:last], stream.dtype))
        return
    dtype = np.dtype(stream.dtype)
    width = segment.file_channels * dtype.itemsize
    step = max(1, BLOCK // width)
    # Whole squares of samples are turned faster.
    step -= step % SQUARE if step > SQUARE else 0
    whole = segment.file_channels == stream.channels
    with source.open(segment.file) as raw:
        passing = raw.passing(segment.offset + start * width)
        for at in range(start, stop, step):
            if into is not None and whole:
                values = into[at - start : min(at + step, stop) - start]
            else:
                values = scratch_buffer("raw", dtype, (min(step, stop - at), segment.file_channels))
            memory: Any = memoryview(values.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            found = raw.fill(segment.offset + at * width, memory)
            if found != values.nbytes:
                raise SourceFault(
                    f"{raw.name}: ends at offset {segment.offset + at * width + found}, "
                    f"{(stop - at) * width - found} bytes short of what its metadata says; "
                    "copy it again from the acquisition machine"
                )
            passing.feed(memory)
            yield values if whole else np.ascontiguousarray(values[:, first:last])
        passing.close()


def _read_neo(source: Source, stream: Stream, segment: Segment, start: int, stop: int) -> Iterator[Samples]:
    path = source.locate(segment.neo_path)
    place = (segment.block, segment.part, segment.stream)
    try:
        for values in read_neo(segment.neo, path, place, (stop - start, stream.channels), stream.dtype, start):
            yield from cut_blocks(values)
    except Exception as error:
        raise SourceFault(
            f"{path}: neo's {segment.neo} cannot read frames {start} to {stop} ({said(error)}); restore it"
        ) from error


def require_own(name: str, dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset of an HDF5 file; ``SourceFault`` when its samples are in other files."""
    if dataset.is_virtual or dataset.external:
        raise SourceFault(f"{name}: the samples of {dataset.name} are in other files; copy them into this one")
    return dataset


def cut_blocks(values: Samples) -> Iterator[Samples]:
    """Yield parts of an array that fit the cache."""
    step = max(1, BLOCK // max(1, values[:1].nbytes))
    for at in range(0, len(values), step):
        yield values[at : at + step]


def data_files(streams: list[Stream]) -> set[str]:
    """Return the relative paths of the files that units read samples of, in parts."""
    return {segment.file for stream in streams for segment in stream.segments if not segment.neo}


def find_files(source: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the relative paths below ``source`` with one of the suffixes, sorted."""
    for path, _ in walk_files(source):
        if path.endswith(suffixes):
            yield path
