"""NWB: the ElectricalSeries of HDF5 files.

Input: an ``.nwb`` file, or a directory of such. Output: one stream per series.
Format: https://nwb-schema.readthedocs.io (ElectricalSeries: data of shape
(frames, channels); volts = data × conversion × channel_conversion + offset).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lading.compress.ephys.recording import NEURAL, Samples, Segment, Stream, find_files, locate, require_own
from lading.compress.ephys.residue import is_plain
from lading.compress.job import SourceFault
from lading.compress.sources import OpenFile

SUFFIX = ".nwb"
# Where raw and processed series lie (NWBFile in the schema).
PLACES = ("acquisition", "processing")


def find_streams(source: Path, *, accept_sizes: bool = False) -> list[Stream]:
    """Return a stream for each ElectricalSeries with samples of a number type."""
    files = ["."] if source.is_file() else list(find_files(source, (SUFFIX,)))
    streams: list[Stream] = []
    for name in files:
        path = locate(source, name)
        stem = path.name.removesuffix(SUFFIX)
        try:
            with h5py.File(path, "r") as file:
                streams.extend(_read_series(path, name, stem, group) for group in _series(file))
        except OSError as error:
            raise SourceFault(f"{path}: not a readable HDF5 file ({error}); copy it again") from error
    if not streams:
        raise SourceFault(f"{source}: no ElectricalSeries in any {SUFFIX} file")
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


def _read_series(path: Path, name: str, stem: str, group: h5py.Group) -> Stream:
    where = f"{path}: {group.name}"
    if "data" not in group or group["data"].ndim not in (1, 2) or group["data"].dtype.kind not in "iuf":
        raise SourceFault(f"{where}/data is missing or is no table of numbers (frames × channels)")
    data = require_own(str(path), group["data"])
    frames = int(data.shape[0])
    channels = int(data.shape[1]) if data.ndim == 2 else 1
    conversion = float(data.attrs.get("conversion", 1.0))
    factors = group["channel_conversion"][:] if "channel_conversion" in group else np.ones(channels)
    if len(factors) != channels:
        raise SourceFault(f"{where}: {len(factors)} channel_conversion values for {channels} channels")
    times = ""
    if "starting_time" in group:
        rate = float(group["starting_time"].attrs["rate"])
        t_start: float | None = float(group["starting_time"][()])
    elif "timestamps" in group and len(group["timestamps"]) == frames:
        stamps = group["timestamps"]
        if frames < 2 or stamps[-1] <= stamps[0]:
            raise SourceFault(f"{where}/timestamps: too few or not rising, so there is no sampling rate")
        rate = (frames - 1) / float(stamps[-1] - stamps[0])
        t_start, times = float(stamps[0]), stamps.name
    else:
        raise SourceFault(f"{where}: neither starting_time nor as many timestamps as the {frames} frames")
    ids = _channel_ids(group, channels)
    return Stream(
        name=f"{stem}_{group.name.rsplit('/', 1)[-1]}",
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
    )


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
    try:
        with h5py.File(path, "r") as file:
            return is_plain(file[dataset]) and file[dataset].dtype.newbyteorder("=") == np.dtype(np.float64)
    except OSError as error:
        raise SourceFault(f"{path}: not a readable HDF5 file ({error}); copy it again") from error


def read_times(file: OpenFile, dataset: str, start: int, stop: int) -> Samples:
    """Return timestamps as float64 of shape (stop - start, 1)."""
    with h5py.File(file.as_file(), "r") as opened:
        return np.asarray(opened[dataset][start:stop], "<f8")[:, None]
