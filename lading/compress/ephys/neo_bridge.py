"""Recordings of other acquisition systems, by python-neo's raw readers.

Input: a file or a directory. Output: streams, one for each block and stream of
neo, its segments as segments; samples as neo returns them.
Invariant: what neo says lies in a file as plain interleaved samples is read
from there by ``recording.read_blocks``, like any raw file; all else is read by
neo. The clipped copy cuts a file only where its samples are plain and all that
follows their beginning; it has every other file whole.
"""

import importlib.util
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress.ephys.neo_reader import open_neo, said
from lading.compress.ephys.recording import (
    ANALOG,
    MICROVOLTS,
    NEURAL,
    Finding,
    Segment,
    Stream,
    locate,
)
from lading.compress.job import SourceFault, walk_files
from lading.compress.sources import Source
from lading.core.errors import UsageError, usage_errors
from lading.core.extras import require


@dataclass(frozen=True)
class NeoReader:
    """One of neo's readers: its class, the ends of the names that show it, and what it is given.

    of     ``file``; ``stem``: the path without its end, one for all files that share it; ``folder``: that of such files
    needs  the package that neo loads for it and does not bring
    """

    name: str
    ends: tuple[str, ...]
    of: str = "file"
    needs: str = ""


# By the names of --format. Each reads in pieces.
READERS: Mapping[str, NeoReader] = {
    "alphaomega": NeoReader("AlphaOmegaRawIO", (".mpx",), "folder"),
    "axograph": NeoReader("AxographRawIO", (".axgx", ".axgd")),
    "axon": NeoReader("AxonRawIO", (".abf",)),
    "axona": NeoReader("AxonaRawIO", (".set",)),
    "biocam": NeoReader("BiocamRawIO", (".brw", ".bxr")),
    "blackrock": NeoReader("BlackrockRawIO", tuple(f".ns{number}" for number in range(1, 7)), "stem"),
    "brainvision": NeoReader("BrainVisionRawIO", (".vhdr",)),
    "ced": NeoReader("CedRawIO", (".smrx",), needs="sonpy"),
    "edf": NeoReader("EDFRawIO", (".edf", ".bdf"), needs="pyedflib"),
    "elan": NeoReader("ElanRawIO", (".eeg",)),
    "intan": NeoReader("IntanRawIO", (".rhd", ".rhs")),
    "maxwell": NeoReader("MaxwellRawIO", (".raw.h5",)),
    "mcsraw": NeoReader("RawMCSRawIO", (".raw",)),
    "med": NeoReader("MedRawIO", (".medd",), "folder", "dhn_med_py"),
    "micromed": NeoReader("MicromedRawIO", (".trc",)),
    "neuralynx": NeoReader("NeuralynxRawIO", (".ncs",), "folder"),
    "neuroexplorer": NeoReader("NeuroExplorerRawIO", (".nex",)),
    "neuronexus": NeoReader("NeuroNexusRawIO", (".xdat.json",)),
    "neuroscope": NeoReader("NeuroScopeRawIO", (".xml",)),
    "openephys-classic": NeoReader("OpenEphysRawIO", (".continuous",), "folder"),
    "plexon": NeoReader("PlexonRawIO", (".plx",)),
    "plexon2": NeoReader("Plexon2RawIO", (".pl2",), needs="zugbruecke"),
    "spike2": NeoReader("Spike2RawIO", (".smr",)),
    "spikegadgets": NeoReader("SpikeGadgetsRawIO", (".rec",)),
    "tdt": NeoReader("TdtRawIO", (".tsq",)),
    "winedr": NeoReader("WinEdrRawIO", (".edr",)),
    "winwcp": NeoReader("WinWcpRawIO", (".wcp",)),
}
# Ends that others have too: taken only where the format is named, or what belongs to it lies beside the file.
_BESIDE = {".xml": (".dat", ".eeg"), ".eeg": (".eeg.ent",)}
# Files whose readers look for .eeg themselves.
_OWNERS = {".eeg": (".vhdr", ".xml")}


def find_recordings(source: Path, name: str = "") -> list[tuple[NeoReader, str]]:
    """Return the recordings below a source: each reader with the path, relative to the source, that it is given."""
    readers = [READERS[name]] if name else list(READERS.values())
    found: dict[tuple[str, str], NeoReader] = {}
    for path, _ in walk_files(source):
        low = (source.name if path == "." else path).lower()
        for reader in readers:
            end = next((end for end in reader.ends if low.endswith(end)), "")
            if not end or not (name or _is_owned(source, path, end)):
                continue
            given = path
            if reader.of == "folder":
                given = os.path.dirname(path) or "."
            elif reader.of == "stem" and path != ".":
                given = path[: -len(end)]
            found.setdefault((reader.name, given), reader)
    return [(reader, given) for (_, given), reader in found.items()]


def _is_owned(source: Path, path: str, end: str) -> bool:
    """Tell whether a file with an end that several systems use is of the reader that has it here."""
    if end not in _BESIDE:
        return True
    stem = str(locate(source, path))[: -len(end)]
    if any(os.path.exists(stem + other) for other in _OWNERS.get(end, ())):
        return False
    return any(os.path.exists(stem + other) for other in _BESIDE[end])


def find_streams(source: Path, finding: Finding, name: str = "") -> list[Stream]:
    """Return the streams of every recording below a source; raises all faults at once."""
    require(("neo",))
    streams: list[Stream] = []
    faults: list[str] = []
    for reader, given in find_recordings(source, name):
        if reader.needs and importlib.util.find_spec(reader.needs) is None:
            package = reader.needs.replace("_", "-")
            raise UsageError(
                f"{locate(source, given)}: neo needs the package {package} to read it; install it, or compress it with "
                "--kind generic"
            )
        try:
            streams += _describe(source, reader.name, given, finding)
        except SourceFault as error:
            faults.append(str(error))
        except ImportError as error:
            raise UsageError(f"{locate(source, given)}: neo needs a package more to read it ({error})") from error
        except Exception as error:  # noqa: BLE001 - whatever neo does not expect is a fault of the file, by name
            faults.append(f"{locate(source, given)}: neo's {reader.name} cannot read it ({said(error)}); restore it")
    if faults:
        raise usage_errors(faults)
    if not streams:
        raise SourceFault(f"{source}: neo finds no signal in it; name the system with --format, or give the directory")
    return _apart(_one_file_parts(streams))


def _apart(streams: list[Stream]) -> list[Stream]:
    """Return streams whose names differ: those of one name are told apart by the folders of their files."""
    counts = Counter(stream.name for stream in streams)
    return [
        replace(
            stream,
            name=f"{re.sub(r'[^A-Za-z0-9.#-]+', '_', os.path.dirname(stream.segments[0].neo_path))}_{stream.name}",
        )
        if counts[stream.name] > 1
        else stream
        for stream in streams
    ]


def _describe(source: Path, reader: str, given: str, finding: Finding) -> Iterator[Stream]:
    path = str(locate(source, given))
    open_neo.cache_clear()  # a file that was written anew since
    neo = open_neo(reader, path)
    label = re.sub(r"\.(raw|xdat)$", "", Path(path).name if os.path.isdir(path) else Path(path).stem)
    streams = neo.header["signal_streams"]
    for block in range(neo.block_count()):
        for index in range(len(streams)):
            title = str(streams["name"][index]) if len(streams) > 1 or streams["name"][index] else ""
            name = re.sub(r"[^A-Za-z0-9.#-]+", "_", "_".join(filter(None, (label, title)))).strip("_")
            if neo.block_count() > 1:
                name += f"_block{block}"
            stream = _describe_stream(source, reader, given, block, index, name)
            if any(segment.frames for segment in stream.segments):
                yield stream
            else:
                finding.notes.append(f"{path}: stream {name} holds no sample")


def _describe_stream(source: Path, reader: str, given: str, block: int, index: int, name: str) -> Stream:
    neo = open_neo(reader, str(locate(source, given)))
    channels = neo.header["signal_channels"]
    channels = channels[channels["stream_id"] == neo.header["signal_streams"]["id"][index]]
    units = tuple(str(unit) for unit in channels["units"])
    segments = []
    dtype = ""
    for number in range(neo.segment_count(block)):
        segment, kind = _segment(source, neo, reader, given, block, number, index, len(channels))
        if segment.frames and dtype and kind != dtype:
            raise SourceFault(f"{locate(source, given)}: segments of {name} are of two types, {dtype} and {kind}")
        dtype = dtype if not segment.frames else kind
        segments.append(segment)
    ids = tuple(str(one) for one in channels["id"])
    return Stream(
        name=name,
        dtype=dtype or "<i2",
        sampling_frequency=float(neo.get_signal_sampling_rate(stream_index=index)),
        channel_ids=ids if len(set(ids)) == len(ids) else tuple(f"{one}#{place}" for place, one in enumerate(ids)),
        channel_names=tuple(str(one) for one in channels["name"]),
        gains=tuple(float(one) for one in channels["gain"]),
        offsets=tuple(float(one) for one in channels["offset"]),
        units=units,
        content=NEURAL if units and all(MICROVOLTS.get(unit, 1e9) <= 1e3 for unit in units) else ANALOG,
        segments=tuple(segments),
        annotations={"neo_reader": reader},
    )


def _segment(
    source: Path, neo: Any, reader: str, given: str, block: int, number: int, index: int, channels: int
) -> tuple[Segment, str]:
    """Return a segment and the type of its samples, little-endian."""
    frames = int(neo.get_signal_size(block, number, index))
    start = float(neo.get_signal_t_start(block, number, index))
    found = Segment(
        file=given, frames=frames, file_channels=channels, t_start=start if np.isfinite(start) else None,
        neo=reader, neo_path=given, block=block, part=number, stream=index, whole=True,
    )  # fmt: skip
    if not frames:
        return found, ""
    one = np.asarray(neo.get_analogsignal_chunk(block, number, 0, 1, index))
    kind = one.dtype.newbyteorder("<").str
    if one.dtype.kind not in "iuf" or one.shape != (1, channels):
        raise SourceFault(f"{locate(source, given)}: neo gives {one.dtype} of shape {one.shape}, which are not samples")
    plain = _plain(source, neo, found, kind)
    return plain or found, kind


def _plain(source: Path, neo: Any, segment: Segment, kind: str) -> Segment | None:
    """Return a segment of a raw file where neo says that its samples lie there, interleaved; None elsewhere."""
    if not neo.has_buffer_description_api():
        return None
    streams = neo.header["signal_streams"]
    about = neo.get_analogsignal_buffer_description(segment.block, segment.part, streams["buffer_id"][segment.stream])
    cut = neo._stream_buffer_slice[streams["id"][segment.stream]]
    taken = list(range(about["shape"][1]) if cut is None else np.arange(about["shape"][1])[cut])
    if (
        about["type"] != "raw"
        or about.get("time_axis", 0) != 0
        or taken != list(range(taken[0], taken[0] + segment.file_channels))
        or np.dtype(about["dtype"]).newbyteorder("<").str != kind
        or np.dtype(about["dtype"]) != np.dtype(kind)
        or about["shape"][0] != segment.frames
    ):
        return None
    file = Source(source).relative(os.path.abspath(about["file_path"]))
    path = locate(source, file)
    if file.startswith("..") or not path.is_file():
        return None
    width = about["shape"][1]
    offset = int(about["file_offset"])
    end = offset + segment.frames * width * np.dtype(kind).itemsize
    size = path.stat().st_size
    if end > size:
        return None
    return replace(
        segment, file=file, file_channels=int(width), first_channel=int(taken[0]), offset=offset, neo="",
        whole=end != size,
    )  # fmt: skip


def _one_file_parts(streams: list[Stream]) -> list[Stream]:
    """Return streams whose files are cut by the clipped copy only where one segment alone has the file's end."""
    ends: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for stream in streams:
        for segment in stream.segments:
            ends[segment.file].add((segment.offset, segment.frames))
    return [
        replace(
            stream,
            segments=tuple(replace(one, whole=one.whole or len(ends[one.file]) > 1) for one in stream.segments),
        )
        for stream in streams
    ]
