"""The Zarr group of one stream: format 2 in the layout that SpikeInterface reads, or the same in format 3 with shards.

Input: a stream and its codecs. Output: ``<name>.zarr`` with empty arrays,
then chunk files one by one, then consolidated metadata.
Invariant: a chunk file appears whole, under the name zarr expects; metadata
is made by zarr itself.
Layout: ``ZarrRecordingExtractor`` of spikeinterface 0.105: attributes
``sampling_frequency``, ``num_segments``, ``probegroup``, ``annotations``;
arrays ``channel_ids``, ``traces_seg<i>`` (frames × channels), ``times_seg<i>``
or ``t_starts``, ``properties/<name>``.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from lading.compress.destination import StoredFiles
from lading.compress.ephys.codecs import SampleCodec
from lading.compress.ephys.correction import Correction
from lading.compress.ephys.recording import Samples, Stream

# Chunks in a shard of format 3: a file for half a minute of a recording.
SHARD_CHUNKS = 32
# Frames of the times array in a chunk: 8 MB of float64.
TIMES_CHUNK = 1 << 20
# A chunk of a stream with few channels grows to this many bytes, so that sync words are no flood of tiny files.
SMALLEST_CHUNK = 1_000_000
LONGEST_CHUNK_SECONDS = 100.0


def choose_chunk(stream: Stream, seconds: float) -> int:
    """Return the frames of a chunk: ``seconds`` of all channels, more for a narrow stream."""
    frames = max(1, round(stream.sampling_frequency * seconds))
    width = stream.channels * np.dtype(stream.dtype).itemsize
    wanted = math.ceil(SMALLEST_CHUNK / width)
    longest = max(frames, round(stream.sampling_frequency * LONGEST_CHUNK_SECONDS))
    if frames < wanted:
        frames *= min(math.ceil(wanted / frames), max(1, longest // frames))
    return frames


def shard_chunks(frames: int, chunk_frames: int) -> int:
    """Return how many chunks a shard of an array has: no more than the array."""
    length = max(1, min(chunk_frames, frames))
    return max(1, min(SHARD_CHUNKS, -(-frames // length)))


def count_files(stream: Stream, chunk_frames: int, with_times: tuple[bool, ...], zarr_format: int) -> int:
    """Return how many files the group of a stream has."""
    arrays = [(segment.frames, chunk_frames) for segment in stream.segments]
    arrays += [(segment.frames, TIMES_CHUNK) for segment, timed in zip(stream.segments, with_times) if timed]
    each = [-(-frames // (size * (shard_chunks(frames, size) if zarr_format == 3 else 1))) for frames, size in arrays]
    # Metadata: of the group, of properties, of each array; and the chunks of the eight small ones.
    small = 8
    documents = 2 + len(arrays) + small if zarr_format == 3 else 5 + 2 * (len(arrays) + small)
    return sum(each) + documents + small


@dataclass(frozen=True)
class GroupForm:
    """How the group of a stream is written."""

    codec: SampleCodec
    times_codec: SampleCodec
    chunk_frames: int
    with_times: tuple[bool, ...]
    correction: Correction | None
    zarr_format: Literal[2, 3] = 2


def group_documents(stream: Stream, form: GroupForm) -> dict[str, bytes]:
    """Return the files, relative to the group, of the group and its empty arrays; equal input gives equal bytes."""
    codec, correction = form.codec, form.correction
    files: dict[str, Any] = {}
    root = zarr.open_group(MemoryStore(files), mode="w", zarr_format=form.zarr_format)
    gains, offsets = stream.microvolts(stream.gains), stream.microvolts(stream.offsets)
    physical = [list(stream.gains), list(stream.offsets)]
    if correction:
        # original = corrected × step + median, so gain grows and the median moves into the offset.
        for scale, shift in ((gains, offsets), (physical[0], physical[1])):
            shift[:] = [o + g * m for o, g, m in zip(shift, scale, correction.medians)]
            scale[:] = [g * correction.step for g in scale]
    root.attrs.put(
        {
            "sampling_frequency": stream.sampling_frequency,
            "num_segments": len(stream.segments),
            "annotations": dict(stream.annotations),
            "provenance": None,
            # "probe" is what readers before 0.105 look for.
            **({"probegroup": stream.probe, "probe": stream.probe} if stream.probe else {}),
            "lading": {
                "codec": codec.describe(),
                "lossless": not codec.lossy,
                "correction": {"step": correction.step, "medians": list(correction.medians)} if correction else None,
            },
        }
    )
    put(root, "channel_ids", np.array(stream.channel_ids))
    starts = [math.nan if segment.t_start is None else segment.t_start for segment in stream.segments]
    put(root, "t_starts", np.array(starts, "<f8"))
    properties = root.create_group("properties")
    for name, values in (
        ("channel_name", np.array(stream.channel_names)),
        ("gain_to_uV", np.array(gains, "<f8")),
        ("offset_to_uV", np.array(offsets, "<f8")),
        ("physical_unit", np.array(stream.units)),
        ("gain_to_physical_unit", np.array(physical[0], "<f8")),
        ("offset_to_physical_unit", np.array(physical[1], "<f8")),
    ):
        put(properties, name, values)
    for number, segment in enumerate(stream.segments):
        shape = (segment.frames, stream.channels)
        create_array(root, f"traces_seg{number}", shape, form.chunk_frames, stream.dtype, codec)
        if form.with_times[number]:
            create_array(root, f"times_seg{number}", shape[:1], TIMES_CHUNK, "<f8", form.times_codec)
    return {name: value.to_bytes() for name, value in files.items()}


def put(group: zarr.Group, name: str, values: "np.ndarray[Any, Any]") -> None:
    """Write a small array uncompressed, in one chunk."""
    # Format 3 knows no strings of one length that all readers take.
    dtype: Any = "string" if values.dtype.kind == "U" and group.metadata.zarr_format == 3 else values.dtype
    array = group.create_array(name, shape=values.shape, chunks=values.shape, dtype=dtype, compressors=None)
    array[:] = values


def create_array(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunk_frames: int, dtype: str, codec: SampleCodec
) -> None:
    """Create an empty array with one codec; chunks hold whole frames."""
    chunks = (max(1, min(chunk_frames, shape[0])), *shape[1:])
    if group.metadata.zarr_format == 3:
        filters, serializer, compressors = codec.pipeline(len(shape))
        shards = (chunks[0] * shard_chunks(shape[0], chunks[0]), *chunks[1:])
        group.create_array(
            name, shape=shape, chunks=chunks, shards=shards, dtype=dtype, filters=filters, serializer=serializer,
            compressors=compressors, fill_value=0,
        )  # fmt: skip
        return
    group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        filters=codec.filters(),
        compressors=codec.codec,
        order="F" if codec.order == "F" and len(shape) > 1 else "C",
        fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "."},
    )


def chunk_name(number: int, dimensions: int, zarr_format: int = 2) -> str:
    """Return the file of a chunk, or of a shard, along the first axis."""
    parts = [str(number)] + ["0"] * (dimensions - 1)
    return "/".join(["c", *parts]) if zarr_format == 3 else ".".join(parts)


def consolidate(documents: Mapping[str, bytes], notes: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a group with notes in its own attributes and with consolidated metadata."""
    files = as_store(documents)
    form: Literal[2, 3] = 3 if "zarr.json" in documents else 2
    root = zarr.open_group(MemoryStore(files), mode="r+", zarr_format=form, use_consolidated=False)
    own: Any = root.attrs["lading"]
    root.attrs["lading"] = {**own, **notes}
    with warnings.catch_warnings():
        # Readers of format 3 that do not know consolidated metadata pass over it.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store, zarr_format=form)
    return {name: value.to_bytes() for name, value in files.items()}


def as_store(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return files as the dictionary of a zarr ``MemoryStore``."""
    buffer = default_buffer_prototype().buffer
    return {name: buffer.from_bytes(data) for name, data in files.items()}


def read_frames_stored(
    place: StoredFiles, top: str, name: str, documents: Mapping[str, bytes], frames: tuple[int, int]
) -> Samples:
    """Return frames of an array of a group, decoded by zarr from the files that lie in ``place`` now."""
    start, stop = frames
    files = as_store(documents)
    array: Any = zarr.open_group(MemoryStore(files), mode="r")[name]
    whole = (array.shards or array.chunks)[0]
    chunks = [
        chunk_name(number, array.ndim, array.metadata.zarr_format)
        for number in range(start // whole, -(-stop // whole))
    ]
    files |= as_store({f"{name}/{chunk}": place.read(f"{top}/{name}/{chunk}") for chunk in chunks})
    return np.asarray(array[start:stop])
