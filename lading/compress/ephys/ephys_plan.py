"""Electrophysiology: one lossless Zarr group a stream, and a clipped copy of the rest.

Input: Open Ephys binary, SpikeGLX, NWB or plain samples with a YAML. Output:
``ecephys_compressed/<experiment>_<stream>.zarr`` as SpikeInterface reads it,
``ecephys_clipped/`` as python-neo reads it, and ``ecephys_residue/`` with what
of an HDF5 file is in neither.
Invariant: a chunk counts only after its file was read back, decoded and found
equal, bit by bit, to the source read a second time.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress import inventory
from lading.compress.destination import Destination, add_endpoint, open_destination
from lading.compress.ephys import clip, neo_bridge, nwb, nwb_clip, openephys, residue, spikeglx
from lading.compress.ephys import correction as correct
from lading.compress.ephys import raw_binary as plain
from lading.compress.ephys import zarr_layout as container
from lading.compress.ephys.chunks import write_block
from lading.compress.ephys.codecs import (
    FALLBACK,
    NAMES,
    CodecRefused,
    CorrectionRefused,
    SampleCodec,
    make_codec,
)
from lading.compress.ephys.ephys_preview import Excerpt, preview_path, preview_stream
from lading.compress.ephys.npy import NpyFile
from lading.compress.ephys.recording import (
    DIGITAL,
    NEURAL,
    Finding,
    Samples,
    Stream,
    cut_blocks,
    data_files,
    decode_stream,
    encode_stream,
    find_files,
    locate,
    read_blocks,
    read_frames,
)
from lading.compress.ephys.shards import ShardArray, write_shard
from lading.compress.ephys.transpose import same
from lading.compress.file_copy import send_verified, working_directory
from lading.compress.inventory import Item
from lading.compress.job import (
    COVERAGE,
    CompressionJob,
    CompressionPlan,
    CompressionUnit,
    Refused,
    Result,
    SourceFault,
    UnitRecord,
    VerificationFailed,
    digest,
    walk_files,
)
from lading.compress.preview import pictures
from lading.compress.sources import OpenFile, Source
from lading.core.errors import LadingError, UsageError
from lading.core.progress import counted, format_seconds

FOLDER = "ecephys_compressed"
FORMATS: Mapping[str, Callable[..., list[Stream]]] = {
    "openephys": openephys.find_streams,
    "spikeglx": spikeglx.find_streams,
    "nwb": nwb.find_streams,
    "plain": plain.find_streams,
    "neo": neo_bridge.find_streams,
    **{name: functools.partial(neo_bridge.find_streams, name=name) for name in neo_bridge.READERS},
}
UNITS_PER_RANK = 8  # at least, so that ranks end together
MOST_CHUNKS = 16  # some seconds of work, which a killed worker loses at most
TIMES_CODEC = "pcodec"
# Enough to see whether a codec takes such samples; a whole chunk costs as much as to write one.
TRIED_FRAMES = 3000
# A chunk that is larger when decoded is not decoded once more for a picture.
LARGEST_SHOWN = 1 << 30


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ephys."""
    parser.add_argument("--format", choices=("auto", *FORMATS), default="auto", help="acquisition format")
    parser.add_argument("--codec", choices=NAMES, default="pcodec", help="for neural channels (default pcodec)")
    parser.add_argument("--level", type=int, help="of the codec (default: 8 pcodec, 2 wavpack, 1 blosc-zstd)")
    parser.add_argument(
        "--bits-per-sample", type=float, help="LOSSY: WavPack's hybrid mode with this many bits a sample (2.25 to 24)"
    )
    parser.add_argument("--chunk-seconds", type=float, default=1.0, help="length of a chunk (default 1)")
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=2,
        help="2: what SpikeInterface 0.105 reads; 3: with shards, few files (default 2)",
    )  # fmt: skip
    parser.add_argument(
        "--correct", action="store_true", help="store (sample - median) / step where that is exact; reversible"
    )
    parser.add_argument("--no-clip", dest="clip", action="store_false", help="write no clipped copy of the raw files")
    parser.add_argument("--no-preview", action="store_true", help="draw no picture of each stream")
    add_endpoint(parser)
    parser.add_argument(
        "--accept-sizes", action="store_true", help="accept files whose size contradicts their metadata"
    )
    parser.add_argument(
        "--accept-missing", action="store_true", help="continue without streams whose sample files are missing"
    )
    parser.add_argument(
        "--each", action="store_true", help="write one output for each of several sessions, or copies, below one source"
    )


def plan(job: CompressionJob) -> CompressionPlan:
    """Read the metadata, create the Zarr groups, return blocks of chunks and groups of files."""
    options = job.options
    check_options(options)
    finding = Finding.of(options)
    streams = find_streams(job.source, options["format"], finding)
    names = [stream.name for stream in streams]
    if len(set(names)) != len(names):
        raise SourceFault(f"{job.source}: several streams would be named {max(names, key=names.count)}.zarr")
    if options["clip"]:
        # What would refuse the clipped copy is told before hours of compression.
        for file in sorted({segment.file for stream in streams for segment in stream.segments if segment.dataset}):
            nwb_clip.require_copyable(locate(job.source, file))
    refused = set(job.facts.get("refused", ()))
    described = []
    units: list[CompressionUnit] = []
    chunks = sum(
        -(-segment.frames // container.choose_chunk(stream, options["chunk_seconds"]))
        for stream in streams
        for segment in stream.segments
    )
    # Several chunks a unit even in small jobs: what waits for the disk at a unit's end is shared by them.
    block = max(1, min(MOST_CHUNKS, chunks // (UNITS_PER_RANK * job.ranks)))
    for number, stream in enumerate(streams):
        with Source.of(job) as source:
            facts = plan_stream(job, source, stream, refused)
        described.append(facts)
        units.extend(plan_units(number, stream, facts, block))
    if options["clip"]:
        units.extend(plan_clip(job, streams, described))
    partly = sorted(data_files(streams)) if described else []
    # A plan of an earlier version has no place for pictures.
    previews, lacking = pictures.plan_pictures(options["no_preview"])
    finding.notes += lacking
    facts = {
        "previews": previews,
        "streams": described,
        "refused": sorted(refused),
        "coverage": COVERAGE,
        "notes": finding.notes,
        **account(job, streams, finding),
    }
    facts["notice"] = [*finding.notes, *(f"{one.name}: {note}" for one in streams for note in one.notes)]
    return CompressionPlan(tuple(units), facts, tuple(partly))


def plan_clip(job: CompressionJob, streams: list[Stream], described: list[dict[str, Any]]) -> Iterator[CompressionUnit]:
    """Yield the units of the clipped copy."""
    hdf5 = {segment.file for stream in streams for segment in stream.segments if segment.dataset}
    for number, copies in enumerate(clip.plan_copies(job.source, streams, hdf5)):
        size = sum(copy.length for copy in copies)
        yield CompressionUnit(f"clip/{number:06d}", size, {"do": "clip", "copies": clip.encode_copies(copies)})
    for number, file in enumerate(sorted(hdf5)):
        names = clipped_datasets(job.source, streams, described, file)
        yield CompressionUnit(f"clip/hdf5-{number:06d}", 0, {"do": "clip-hdf5", "file": file, "datasets": names})


def account(job: CompressionJob, streams: list[Stream], finding: Finding) -> dict[str, Any]:
    """Return the inventory of a source: with the clipped copy every file is carried, without it those with samples."""
    files = [path for path, _ in walk_files(job.source)]
    held = data_files(streams)
    reason = "--no-clip: only samples are kept"
    left_out = [] if finding.clip else [Item(path, reason=reason) for path in files if path not in held]
    if not finding.clip:
        hdf5 = {segment.file for stream in streams for segment in stream.segments if segment.dataset}
        left_out += [Item(path, "all but its samples", reason) for path in sorted(hdf5)]
    return inventory.account(job.source, files if finding.clip else held, [*finding.items, *left_out])


def clipped_datasets(source: Path, streams: list[Stream], described: list[dict[str, Any]], file: str) -> list[str]:
    """Return the datasets of an HDF5 file that the Zarr groups hold whole.

    Times are not among them unless they are float64, as they are stored there: other types lose digits.
    """
    names = []
    for stream, facts in zip(streams, described):
        for segment, with_times in zip(stream.segments, facts["times"]):
            if segment.file == file:
                names.append(segment.dataset)
                if with_times and nwb.times_kept(locate(source, file), segment.times):
                    names.append(segment.times)
    return sorted(set(names))


def estimate(job: CompressionJob) -> list[str]:
    """Return what a person is told of the outputs before anything is written; raises as ``plan``."""
    options = job.options
    check_options(options)
    streams = find_streams(job.source, options["format"], Finding.of(options))
    files = seconds = 0.0
    for stream in streams:
        frames = container.choose_chunk(stream, options["chunk_seconds"])
        times = tuple(times_usable(job.source, one.times, one.dataset, one.file) for one in stream.segments)
        files += container.count_files(stream, frames, times, options["zarr_format"])
        seconds = max(seconds, sum(one.frames for one in stream.segments) / stream.sampling_frequency)
    form = "a shard" if options["zarr_format"] == 3 else "a chunk"
    return [
        f"{counted(len(streams), 'stream')} of at most {format_seconds(seconds)}: about "
        f"{counted(int(files), 'file')} in Zarr "
        f"groups, {form} each"
    ]


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other."""
    if options["bits_per_sample"] is not None and options["codec"] != "wavpack":
        raise UsageError("--bits-per-sample is WavPack's: give --codec wavpack too, or leave it out to stay lossless")
    if options["zarr_format"] == 3 and options["codec"] == "wavpack":
        raise UsageError(
            "--zarr-format 3 has no wavpack, which Zarr 3 does not know; give --codec pcodec or blosc-zstd"
        )
    if not 0.01 <= options["chunk_seconds"] <= 600:
        raise UsageError(f"--chunk-seconds {options['chunk_seconds']} is not between 0.01 and 600")


def find_streams(source: Path, name: str, finding: Finding) -> list[Stream]:
    """Return the streams of a source in the format that was asked for, or that the files show."""
    if name == "auto":
        name = detect_format(source)
    try:
        return FORMATS[name](source, finding)
    except LadingError:
        raise
    except Exception as error:
        # Whatever a reader, or a library below it, does not expect is a fault of the source, and no crash.
        raise SourceFault(f"{source}: cannot be read as a recording of {name} ({error!r}); restore it") from error


def detect_format(source: Path) -> str:
    """Return the format of a source by its files."""
    if plain.find_description(source):
        return "plain"
    if source.is_file():
        if source.suffix == nwb.SUFFIX:
            return "nwb"
    elif any(find_files(source, (openephys.STRUCTURE,))):
        return "openephys"
    elif any(find_files(source, (".meta",))):
        return "spikeglx"
    elif any(find_files(source, (nwb.SUFFIX,))):
        return "nwb"
    if neo_bridge.find_recordings(source):
        return "neo"
    raise SourceFault(
        f"{source}: no structure.oebin (Open Ephys), no .meta (SpikeGLX), no .nwb, no {plain.SUFFIX} and no file of a "
        "system that neo reads found; give the directory above them, or --format"
    )


def plan_stream(job: CompressionJob, source: Source, stream: Stream, refused: set[str]) -> dict[str, Any]:
    """Choose codec and correction for a stream, create its group, return what its units need."""

    def read(segment: int, start: int, stop: int) -> Samples:
        return read_frames(source, stream, stream.segments[segment], start, stop)

    options = job.options
    frames = container.choose_chunk(stream, options["chunk_seconds"])
    notes = [*stream.notes]
    notes += [
        f"{what.rpartition('/')[2]} could not store some samples exactly; they are stored without it"
        for what in sorted(refused)
        if what.rpartition("/")[0] == stream.name
    ]
    correction = None
    # NI-DAQ and sync channels carry no noise to model: they stay as they are.
    if options["correct"] and stream.content == NEURAL and f"{stream.name}/correct" not in refused:
        correction = correct.estimate(stream, read)
    name = FALLBACK if stream.content == DIGITAL or f"{stream.name}/codec" in refused else options["codec"]
    settings = {"level": options["level"] if name == options["codec"] else None}
    if name == "wavpack":
        settings["bits_per_sample"] = options["bits_per_sample"]
    try:
        codec = make_codec(name, np.dtype(stream.dtype), settings)
        try_codec(codec, stream, frames, correction, read)
    except CodecRefused as error:
        notes.append(f"{error}; stored with {FALLBACK}")
        name, settings = FALLBACK, {"level": None}
        codec = make_codec(name, np.dtype(stream.dtype), settings)
    times = tuple(times_usable(job.source, segment.times, segment.dataset, segment.file) for segment in stream.segments)
    # A second plan leaves the groups alone that nobody refused: their chunks are done.
    redo = job.facts.get("redo")
    if redo is None or any(what.rpartition("/")[0] == stream.name for what in redo):
        top = f"{FOLDER}/{stream.name}.zarr"
        with open_destination(job) as place:
            place.clear(top)
            form = container.GroupForm(codec, times_codec(), frames, times, correction, options["zarr_format"])
            for document, content in container.group_documents(stream, form).items():
                place.write(f"{top}/{document}", [content])
    return {
        "stream": encode_stream(stream),
        "chunk_frames": frames,
        "codec": name,
        "settings": settings,
        "times": times,
        "correction": {"step": correction.step, "medians": correction.medians} if correction else None,
        "zarr_format": options["zarr_format"],
        "notes": notes,
    }


def times_codec() -> SampleCodec:
    """Return the codec of times."""
    return make_codec(TIMES_CODEC, np.dtype("<f8"), {})


def planned_correction(facts: Mapping[str, Any]) -> correct.Correction | None:
    """Return the correction that the plan chose for a stream."""
    fixed = facts["correction"]
    return correct.Correction(fixed["step"], tuple(fixed["medians"])) if fixed else None


def try_codec(
    codec: SampleCodec,
    stream: Stream,
    frames: int,
    correction: correct.Correction | None,
    read: Callable[[int, int, int], Samples],
) -> None:
    """Encode and decode a part of the middle chunk of the longest segment; raises ``CodecRefused`` when that fails.

    A codec that refuses another chunk is found when that is written, and the stream planned anew.
    """
    longest = max(range(len(stream.segments)), key=lambda number: stream.segments[number].frames)
    length = stream.segments[longest].frames
    if length == 0:
        return
    size = min(frames, length)
    start = (length - size) // 2 // size * size
    size = min(size, TRIED_FRAMES)
    chunk = read(longest, start, start + size)
    if correction:
        chunk = correction.apply(chunk)
    decoded = codec.decode(codec.encode(chunk), chunk.shape, chunk.dtype)
    if not codec.lossy and not same(decoded, chunk):
        raise CodecRefused(f"{codec.name} returns other samples for frames {start} to {start + size}")


def times_usable(source: Path, times: str, dataset: str, file: str) -> bool:
    """Tell whether a segment's times are synchronised: float64 seconds that never stand still or run back."""
    if dataset:
        return bool(times)
    if not times:
        return False
    array = np.load(source / times, mmap_mode="r")
    if array.dtype.kind != "f" or len(array) == 0:
        return False
    # Unsynchronised streams hold -1 throughout (Open Ephys) or NaN.
    return all(
        bool(np.isfinite(block).all() and (np.diff(block) > 0).all())
        for block in (array[start : start + (1 << 20) + 1] for start in range(0, len(array), 1 << 20))
    )


def plan_units(number: int, stream: Stream, facts: Mapping[str, Any], block: int) -> Iterable[CompressionUnit]:
    """Yield blocks of whole chunks; the id names the codec, so that a change of codec redoes them."""
    width = stream.channels * np.dtype(stream.dtype).itemsize
    label = facts["codec"] + ("+correct" if facts["correction"] else "")
    # Ids are bounded; names of nodes and plugins are not.
    short = stream.name if len(stream.name) <= 120 else f"{stream.name[:100]}~{digest(stream.name.encode())[:12]}"
    for index, segment in enumerate(stream.segments):
        for what, frames, item in (("traces", facts["chunk_frames"], width), ("times", container.TIMES_CHUNK, 8)):
            if what == "times" and not facts["times"][index]:
                continue
            chunks = -(-segment.frames // frames)
            step = container.shard_chunks(segment.frames, frames) if facts["zarr_format"] == 3 else block
            for first in range(0, chunks, step):
                last = min(chunks, first + step)
                size = (min(segment.frames, last * frames) - first * frames) * item
                yield CompressionUnit(
                    f"{short}/{what}_seg{index}/{label if what == 'traces' else TIMES_CODEC}/{first:07d}",
                    size,
                    {"do": what, "stream": number, "segment": index, "first": first, "last": last},
                )


def run(job: CompressionJob, unit: CompressionUnit) -> Result:
    """Compress one block of chunks, or copy one group of files."""
    what = unit.task["do"]
    if what == "clip":
        with Source.of(job) as source:
            return clip.copy_files(source, open_destination(job), clip.decode_copies(unit.task["copies"]))
    if what == "clip-hdf5":
        return run_hdf5_clip(job, unit.task)
    facts = job.facts["streams"][unit.task["stream"]]
    stream = decode_stream(facts["stream"])
    return run_times(job, stream, facts, unit.task) if what == "times" else run_traces(job, stream, facts, unit.task)


def run_hdf5_clip(job: CompressionJob, task: Mapping[str, Any]) -> Result:
    """Write the clipped copy of an HDF5 file; to a bucket from a temporary file, which HDF5 needs."""
    path = str(task["file"])
    name = job.source.name if path == "." else path
    relative = f"{clip.FOLDER}/{name}"
    datasets = task["datasets"]
    with open_destination(job) as place, Source.of(job) as source, source.open(path) as file:
        if place.root is not None:
            working, target = working_directory(job), place.root / relative
            result, ranges = nwb_clip.clip_file(file, target, working, relative, datasets, clip.FRAMES)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                target = Path(scratch, "clipped")
                result, ranges = nwb_clip.clip_file(file, target, Path(scratch), relative, datasets, clip.FRAMES)
                with Source(target) as made, made.open(".") as copy:
                    send_verified(copy, place, relative)
        rest = residue.write_residue(file, place, f"{residue.FOLDER}/{name}{residue.SUFFIX}", ranges)
    return replace(result, bytes_out=result.bytes_out + rest.size, outputs=(*result.outputs, rest))


def run_traces(job: CompressionJob, stream: Stream, facts: Mapping[str, Any], task: Mapping[str, Any]) -> Result:
    """Compress chunks ``first`` to ``last`` of a segment's samples."""
    segment = stream.segments[task["segment"]]
    dtype = np.dtype(stream.dtype)
    codec = make_codec(facts["codec"], dtype, facts["settings"])
    correction = planned_correction(facts)
    length = max(1, min(facts["chunk_frames"], segment.frames))
    array = f"{FOLDER}/{stream.name}.zarr/traces_seg{task['segment']}"

    with Source.of(job) as source:

        def read(start: int, stop: int, into: Samples | None) -> Iterator[Samples]:
            return read_blocks(source, stream, segment, start, stop, into)

        shape = (segment.frames, stream.channels)
        try:
            if facts.get("zarr_format") == 3:
                chunks = container.shard_chunks(segment.frames, length)
                return write_shard(job, ShardArray(array, shape, dtype, length, chunks, codec, correction, read), task)
            return write_block(job, array, shape, length, codec, correction, read, dtype, task)
        except CodecRefused as error:
            what = "correct" if isinstance(error, CorrectionRefused) else "codec"
            raise Refused(
                f"{array}: {error}; it is stored otherwise in the next run", f"{stream.name}/{what}"
            ) from error


def run_times(job: CompressionJob, stream: Stream, facts: Mapping[str, Any], task: Mapping[str, Any]) -> Result:
    """Compress chunks of a segment's times."""
    segment = stream.segments[task["segment"]]
    codec = times_codec()
    length = max(1, min(container.TIMES_CHUNK, segment.frames))
    array = f"{FOLDER}/{stream.name}.zarr/times_seg{task['segment']}"

    with Source.of(job) as source:

        def read(start: int, stop: int, _: Samples | None) -> Iterator[Samples]:
            with source.open(segment.file if segment.dataset else segment.times) as file:
                if segment.dataset:
                    times = nwb.read_times(file, segment.times, start, stop)
                else:
                    times = np.array(NpyFile(file).read(start, stop), "<f8")[:, None]
            return cut_blocks(times)

        shape, dtype = (segment.frames,), np.dtype("<f8")
        if facts.get("zarr_format") == 3:
            chunks = container.shard_chunks(segment.frames, length)
            return write_shard(job, ShardArray(array, shape, dtype, length, chunks, codec, None, read), task)
        return write_block(job, array, shape, length, codec, None, read, dtype, task)


def finish(job: CompressionJob, markers: Iterable[UnitRecord]) -> Mapping[str, Any]:
    """Consolidate each group and read one chunk of each array through zarr itself."""
    with Source.of(job) as source:
        streams = [finish_stream(job, source, facts) for facts in job.facts["streams"]]
    return {"streams": streams, "notes": job.facts.get("notes", []), "coverage": job.facts.get("coverage", 0)}


def finish_stream(job: CompressionJob, source: Source, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Consolidate one group and read it; return what compress.json says of it."""
    place = open_destination(job)
    stream = decode_stream(facts["stream"])
    top = f"{FOLDER}/{stream.name}.zarr"
    notes = list(facts["notes"])
    notes += [
        f"segment {number}: times are not synchronised and stay in the clipped copy"
        for number, segment in enumerate(stream.segments)
        if segment.times and not facts["times"][number]
    ]
    notes += [
        f"segment {number}: times are rounded to float64 here, the clipped copy has them as they are"
        for number, segment in enumerate(stream.segments)
        if segment.dataset and segment.times and not nwb.times_kept(locate(job.source, segment.file), segment.times)
    ]
    gaps = {
        str(number): found
        for number, segment in enumerate(stream.segments)
        if (found := find_gaps(source, segment.sample_numbers))
    }
    notes += [f"segment {number}: {counted(len(found), 'gap')}" for number, found in gaps.items()]
    codec = make_codec(facts["codec"], np.dtype(stream.dtype), facts["settings"])
    form = container.GroupForm(
        codec,
        times_codec(),
        facts["chunk_frames"],
        tuple(facts["times"]),
        planned_correction(facts),
        facts.get("zarr_format", 2),
    )
    documents = container.consolidate(container.group_documents(stream, form), {"notes": notes, "gaps": gaps})
    with open_destination(job) as writing:
        for document in ("zarr.json",) if form.zarr_format == 3 else (".zattrs", ".zmetadata"):
            writing.write(f"{top}/{document}", [documents[document]])
    read_through_zarr(source, stream, facts, place, top, documents)
    preview, lacking = write_preview(job, stream, facts, documents) if job.facts.get("previews") else ("", "")
    notes += [lacking] if lacking else []
    return {
        "name": stream.name,
        "content": stream.content,
        "channels": stream.channels,
        "sampling_frequency": stream.sampling_frequency,
        "frames": [segment.frames for segment in stream.segments],
        "dtype": stream.dtype,
        "segments": [vars(segment) for segment in stream.segments],
        "codec": facts["codec"],
        "zarr_format": form.zarr_format,
        "correction": facts["correction"],
        "lossless": job.options["bits_per_sample"] is None or facts["codec"] != "wavpack",
        "probe": stream.probe is not None,
        "notes": notes,
        "gaps": gaps,
        **({"preview": preview} if preview else {}),
    }


def write_preview(
    job: CompressionJob, stream: Stream, facts: Mapping[str, Any], documents: Mapping[str, bytes]
) -> tuple[str, str]:
    """Write the picture of a stream; return its path, or why there is none. It is no reason to fail."""
    width = stream.channels * np.dtype(stream.dtype).itemsize
    if facts["chunk_frames"] * width > LARGEST_SHOWN:
        return "", f"no preview: a chunk is larger than {LARGEST_SHOWN:,} bytes"
    correction = planned_correction(facts)
    with open_destination(job) as place:

        def read(excerpt: Excerpt) -> Samples:
            array = f"{FOLDER}/{stream.name}.zarr", f"traces_seg{excerpt.segment}"
            found = container.read_frames_stored(place, *array, documents, (excerpt.start, excerpt.stop))
            return correction.revert(found) if correction else found

        try:
            picture = preview_stream(stream, facts["chunk_frames"], read)
        except (LadingError, OSError):
            raise  # what was stored cannot be read
        except Exception as error:  # noqa: BLE001 - whatever a picture lacks, the data are whole
            return "", f"no preview: it cannot be drawn ({error!r})"
        if picture is None:
            return "", ""
        place.write(preview_path(stream.name), [picture])
    return preview_path(stream.name), ""


def find_gaps(source: Source, sample_numbers: str, most: int = 1000) -> list[list[int]]:
    """Return up to ``most`` [frame, samples missing before it] of a segment; negative when the counter ran back."""
    if not sample_numbers:
        return []
    gaps: list[list[int]] = []
    with source.open(sample_numbers) as file:
        numbers = NpyFile(file)
        for start in range(0, max(numbers.length - 1, 0), 1 << 20):
            steps = np.diff(numbers.read(start, start + (1 << 20) + 1))
            gaps.extend([start + int(at) + 1, int(steps[at]) - 1] for at in np.flatnonzero(steps != 1))
            if len(gaps) >= most:
                break
    return gaps[:most]


def read_through_zarr(
    source: Source, stream: Stream, facts: Mapping[str, Any], place: Destination, top: str, documents: Iterable[str]
) -> None:
    """Compare the last chunk of every segment, read by zarr with the group's own metadata, with the source."""
    if facts["codec"] == "wavpack" and facts["settings"].get("bits_per_sample") is not None:
        return
    correction = planned_correction(facts)
    files = {document: place.read(f"{top}/{document}") for document in documents}
    length = facts["chunk_frames"]
    for number, segment in enumerate(stream.segments):
        start = max(0, segment.frames - 1) // length * length
        name = f"traces_seg{number}"
        found = container.read_frames_stored(place, top, name, files, (start, segment.frames))
        if correction:
            found = correction.revert(found)
        expected = read_frames(source, stream, segment, start, segment.frames)
        if not same(found, expected):
            raise VerificationFailed(
                f"{place.name}/{top}/{name}: zarr reads other samples than the source holds in frames {start} "
                f"to {segment.frames}"
            )


def lossy(job: CompressionJob, file: OpenFile) -> str:
    """Return what of a file of samples the groups, the clipped copy and the residue do not hold."""
    if job.facts.get("coverage") != COVERAGE:
        return "what an earlier version of Lading did not account for; compress it again"
    ends: dict[int, int] = {}  # of each channel of the file: the byte where its last frame that is held ends
    starts: dict[int, int] = {}
    channels = 1
    for facts in job.facts["streams"]:
        stream = decode_stream(facts["stream"])
        held = [segment for segment in stream.segments if segment.file == file.path and not segment.neo]
        if job.options["clip"] and any(segment.whole for segment in held):
            return ""  # the clipped copy has all of it
        if any(segment.packed for segment in held):
            return "its packed form (no_clip)"
        if held and facts["settings"].get("bits_per_sample") is not None:
            return f"the samples of {stream.name} are stored with loss (bits_per_sample)"
        for segment in held:
            if not job.options["clip"] and (segment.dataset or segment.offset):
                return "everything but samples (no_clip)"
            # What lies around an HDF5 file's values is in the residue.
            width = 0 if segment.dataset else segment.file_channels * np.dtype(stream.dtype).itemsize
            end = segment.offset + segment.frames * width if width else file.state.size
            channels = max(channels, 1 if segment.dataset else segment.file_channels)
            for channel in range(stream.channels):
                number = 0 if segment.dataset else segment.first_channel + channel
                ends[number] = max(ends.get(number, 0), end)
                starts[number] = min(starts.get(number, segment.offset), segment.offset)
    if set(ends) != set(range(channels)) or len(set(starts.values())) != 1:
        return "channels of it that no stream holds"
    if file.state.size > min(ends.values()):
        return f"the {file.state.size - min(ends.values())} bytes after the last whole frame (accept_sizes)"
    return ""


def secret(job: CompressionJob) -> str | None:
    """Return None: no output has a password."""
    return None
