"""NWB: the ElectricalSeries of HDF5 files.

Input: an ``.nwb`` file, or a directory of such. Output: one stream per series.
Format: https://nwb-schema.readthedocs.io (ElectricalSeries: data of shape
(frames, channels); volts = data × conversion × channel_conversion + offset).
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lading.compress.ephys.recording import (
    NEURAL,
    Finding,
    Samples,
    Segment,
    Stream,
    find_files,
    locate,
    refuse_two,
    require_own,
    session_label,
)
from lading.compress.ephys.residue import is_plain
from lading.compress.job import SourceFault
from lading.compress.library_watch import note_reading
from lading.compress.sources import OpenFile
from lading.core.errors import usage_errors
from lading.core.progress import counted

SUFFIX = ".nwb"
# Timestamps whose median step is the sampling period.
RATE_STAMPS = 1000
# Where raw and processed series lie (NWBFile in the schema).
PLACES = ("acquisition", "processing")


def find_streams(source: Path, finding: Finding) -> list[Stream]:
    """Return a stream for each ElectricalSeries with samples of a number type; raises all faults at once.

    Where the clipped copy carries it whole, a series that cannot be described is named, and stops no other.
    """
    files = ["."] if source.is_file() else list(find_files(source, (SUFFIX,)))
    streams: list[Stream] = []
    faults: list[str] = []
    unread = False
    for name in files:
        path = locate(source, name)
        stem = path.name.removesuffix(SUFFIX)
        try:
            note_reading(path)
            with h5py.File(path, "r") as file:
                groups = list(_series(file))
                short = [group.name.rsplit("/", 1)[-1] for group in groups]
                for group, last in zip(groups, short):
                    # Series of one name in two places (acquisition, LFP) are told apart by the whole path.
                    label = last if short.count(last) == 1 else group.name.strip("/").replace("/", "_")
                    try:
                        streams.append(_read_series(path, name, f"{stem}_{label}", group))
                    except SourceFault as error:
                        faults.append(str(error))
                    except Exception as error:  # noqa: BLE001 - whatever is wrong with a series is its fault, by name
                        faults.append(f"{path}: {group.name}: no series that can be described ({error!r})")
        except Exception as error:  # noqa: BLE001 - HDF5 raises many kinds over a damaged file
            unread = True
            faults.append(f"{path}: not a readable HDF5 file ({' '.join(str(error).split())}); copy it again")
    if faults and streams and finding.clip and not unread:
        finding.notes += [f"{fault}; it stays whole in the clipped copy" for fault in faults]
    elif faults:
        raise usage_errors(faults)
    if not streams:
        raise SourceFault(f"{source}: no ElectricalSeries in any {SUFFIX} file")
    counts: dict[str, int] = {}
    for stream in streams:
        counts[stream.name] = counts.get(stream.name, 0) + 1
    if any(count > 1 for count in counts.values()):
        if not finding.each:
            name = max(counts, key=lambda one: counts[one])
            raise SourceFault(refuse_two(name, [locate(source, s.segments[0].file) for s in streams if s.name == name]))
        streams = [
            replace(one, name=session_label(source, (source / one.segments[0].file).parent) + one.name)
            for one in streams
        ]
    return streams


def _series(file: h5py.File) -> Iterator[h5py.Group]:
    found: list[h5py.Group] = []

    def visit(_name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and item.attrs.get("neurodata_type") == "ElectricalSeries":
            found.append(item)

    for place in PLACES:
        if place in file:
            file[place].visititems(visit)
    yield from found


def _read_series(path: Path, name: str, title: str, group: h5py.Group) -> Stream:
    where = f"{path}: {group.name}"
    if "data" not in group or group["data"].ndim not in (1, 2) or group["data"].dtype.kind not in "iuf":
        raise SourceFault(f"{where}/data is missing or is not a table of numbers (frames × channels)")
    data = require_own(str(path), group["data"])
    frames = int(data.shape[0])
    channels = int(data.shape[1]) if data.ndim == 2 else 1
    if not frames or not channels:
        raise SourceFault(f"{where}: holds no sample ({counted(frames, 'frame')} of {counted(channels, 'channel')})")
    conversion = float(data.attrs.get("conversion", 1.0))
    factors = group["channel_conversion"][:] if "channel_conversion" in group else np.ones(channels)
    if len(factors) != channels:
        raise SourceFault(f"{where}: {len(factors)} channel_conversion values for {counted(channels, 'channel')}")
    times = ""
    notes: tuple[str, ...] = ()
    t_start: float | None
    if "starting_time" in group:
        if "rate" not in group["starting_time"].attrs:
            raise SourceFault(f"{where}/starting_time has no rate, so there is no sampling rate")
        rate = float(group["starting_time"].attrs["rate"])
        t_start = float(group["starting_time"][()])
    elif "timestamps" in group and len(group["timestamps"]) == frames:
        stamps = group["timestamps"]
        rate = _estimate_rate(where, stamps)
        usable, notes = _judge_times(stamps, rate)
        first = float(stamps[0])
        t_start, times = first if math.isfinite(first) else None, stamps.name if usable else ""
    else:
        raise SourceFault(f"{where}: neither starting_time nor as many timestamps as the {counted(frames, 'frame')}")
    if not (math.isfinite(rate) and rate > 0):
        raise SourceFault(f"{where}: the sampling rate is {rate}, which is not a number")
    if t_start is not None and not math.isfinite(t_start):
        t_start, notes = None, (*notes, f"its starting time is {t_start}, which is not a number")
    ids = _channel_ids(group, channels)
    return Stream(
        name=title,
        dtype=data.dtype.newbyteorder("<").str,
        sampling_frequency=rate,
        channel_ids=ids,
        channel_names=ids,
        gains=tuple(conversion * float(factor) for factor in factors),
        offsets=(float(data.attrs.get("offset", 0.0)),) * channels,
        units=("V",) * channels,
        content=NEURAL,
        segments=(Segment(name, frames, channels, dataset=data.name, t_start=t_start, times=times),),
        annotations={"nwb_path": group.name},
        notes=notes,
    )


def _estimate_rate(where: str, stamps: h5py.Dataset) -> float:
    """Return the sampling rate by the median step of the first timestamps, as SpikeInterface does: no gap moves it."""
    steps = np.diff(np.asarray(stamps[:RATE_STAMPS], "f8"))
    steps = steps[np.isfinite(steps)]
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0:
        raise SourceFault(f"{where}/timestamps: too few or not rising, so there is no sampling rate")
    return 1.0 / step


def _judge_times(stamps: h5py.Dataset, rate: float) -> tuple[bool, tuple[str, ...]]:
    """Return whether timestamps are times, finite and rising, and what is to be said of them."""
    nans = falls = gaps = 0
    first_gap = ""
    for start in range(0, len(stamps), 1 << 20):
        block = np.asarray(stamps[start : start + (1 << 20) + 1], "f8")
        own = block[: 1 << 20]
        nans += int((~np.isfinite(own)).sum())
        steps = np.diff(block)
        falls += int((steps <= 0).sum())
        found = np.flatnonzero(steps > 1.5 / rate)
        if len(found) and not gaps:
            first_gap = f"the first of {steps[found[0]]:.6g} s before frame {start + int(found[0]) + 1}"
        gaps += len(found)
    notes = [f"{counted(gaps, 'gap')} in its timestamps, {first_gap}"] if gaps else []
    if nans or falls:
        what = " and ".join([f"{nans} are not numbers"] * bool(nans) + [f"{falls} do not rise"] * bool(falls))
        notes.append(f"of its timestamps {what}: they are not times, and stay in the clipped copy")
    return not (nans or falls), tuple(notes)


def _channel_ids(group: h5py.Group, channels: int) -> tuple[str, ...]:
    """Return the electrodes' channel names, or their ids, or numbers."""
    if "electrodes" in group and len(group["electrodes"]) == channels:
        rows = group["electrodes"][:]
        table = group.file.get("/general/extracellular_ephys/electrodes")
        if table is not None:
            for column in ("channel_name", "id"):
                if column in table and len(table[column]) > max(rows, default=0):
                    values = [table[column][int(row)] for row in rows]
                    names = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
                    if len(set(names)) == channels:
                        return names
    return tuple(str(number) for number in range(channels))


def times_kept(path: Path, dataset: str) -> bool:
    """Tell whether timestamps are float64: ``read_times`` rounds 64-bit integers, and changes NaNs of float32."""
    note_reading(path)
    try:
        with h5py.File(path, "r") as file:
            return is_plain(file[dataset]) and file[dataset].dtype.newbyteorder("=") == np.dtype(np.float64)
    except OSError as error:
        raise SourceFault(f"{path}: not a readable HDF5 file ({error}); copy it again") from error


def read_times(file: OpenFile, dataset: str, start: int, stop: int) -> Samples:
    """Return timestamps as float64 of shape (stop - start, 1)."""
    with h5py.File(file.as_file(), "r") as opened:
        return np.asarray(opened[dataset][start:stop], "<f8")[:, None]
