"""Read voxels of Imaris ``.ims`` and other HDF5 files.

Input: an HDF5 file. Output: ``Volume`` descriptions and windows of voxels.
Invariant: an Imaris volume has its true shape (blocks are padded in the
file), and so have its stored levels; a file that HDF5 cannot read raises
``SourceFault`` with file, dataset and window.

Imaris layout (Imaris 5.5 file format): ``/DataSet/ResolutionLevel r/TimePoint t/
Channel c/Data`` with ``ImageSizeX/Y/Z`` beside it; ``/DataSetInfo/Image`` holds
size, unit and extent; attribute values are arrays of single characters.
BigDataViewer layout: ``/tNNNNN/sNN/level/cells``, uint16 stored as int16.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from lading.compress.imaging.volume import (
    AXES,
    Array,
    Channel,
    Shape,
    Volume,
    Window,
    as_voxel,
    image_name,
    micrometres,
)
from lading.compress.job import SourceFault
from lading.compress.reads import RecordedFile
from lading.compress.sources import Source

IMARIS_SUFFIXES = (".ims",)
SUFFIXES = (".h5", ".hdf5", ".hdf")

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError)


class Hdf5Reader:
    """Windows of one volume; see ``volume.Reader``.

    ``detail`` holds ``datasets``: a template per stored level with ``{t}`` and
    ``{c}`` (Imaris, BigDataViewer), or one path whose own ``axes`` run over t
    and c; ``view``: the dtype to reinterpret stored values as; ``elsewhere``,
    where voxels lie in other files, which then have no record.
    """

    def __init__(self, volume: Volume, source: Source) -> None:
        self._volume = volume
        self._dtype = np.dtype(volume.dtype)
        self._held = contextlib.ExitStack()
        self._stream: RecordedFile | None = None
        if volume.detail.get("elsewhere"):
            # Other files are found beside this one, by its path; what is read of them is not known here.
            self._file = self._held.enter_context(_open(volume.files[0]))
            return
        file = self._held.enter_context(source.open(source.relative(volume.files[0])))
        self._stream = file.as_file()
        self._file = self._held.enter_context(_open(volume.files[0], self._stream))

    def read(self, window: Window, level: int = 0, out: Array | None = None) -> Array:
        """Return ``window`` (z, y, x) of a stored level; ``SourceFault`` when it cannot be read."""
        detail = self._volume.detail
        path = detail["datasets"][level].format(t=window.t, c=window.c)
        axes = detail.get("axes", "zyx")
        kept = [axis for axis in axes if axis in "zyx"]
        order = [kept.index(axis) for axis in "zyx" if axis in kept]
        out = np.empty(window.shape, self._dtype) if out is None else out
        if self._stream is not None:
            self._stream.forget()
        try:
            dataset = self._file[path]
            if self._stream is not None and _lies_elsewhere(self._file, dataset):
                raise ValueError("its voxels lie in other files now")
            depth = dataset.chunks[axes.index("z")] if dataset.chunks and "z" in axes else 1
            for layer in window.layers(depth, self._dtype.itemsize):
                place: dict[str, Any] = dict(zip(AXES, layer.slices))
                data = dataset[tuple(place[axis] for axis in axes)]
                if detail.get("view"):
                    data = data.view(detail["view"])
                out[layer.inside(window)] = np.transpose(data, order).reshape(layer.shape)
        except _DAMAGE as error:
            raise SourceFault(
                f"{self._volume.files[0]}: dataset {path} cannot be read at {window}: {_reason(error)}; "
                "restore the file or leave it out"
            ) from error
        return out

    def close(self) -> None:
        """Close the file; ``SourceFault`` when it changed while it was read."""
        self._held.close()


def _lies_elsewhere(file: h5py.File, dataset: h5py.Dataset) -> bool:
    """Tell whether values of a dataset are in other files: by a link, a virtual dataset or external storage."""
    return bool(dataset.is_virtual or dataset.external or dataset.file.filename != file.filename)


def _mark_elsewhere(file: h5py.File, volume: Volume) -> Volume:
    """Return a volume with a note in its ``detail`` when its voxels lie in other files than its own."""
    t, c = range(volume.shape[0]), range(volume.shape[1])
    paths = {template.format(t=t_, c=c_) for template in volume.detail["datasets"] for t_ in t for c_ in c}
    if any(_lies_elsewhere(file, file[path]) for path in paths if path in file):
        return replace(volume, detail={**volume.detail, "elsewhere": True})
    return volume


def _open(path: str, stream: Any = None) -> h5py.File:
    try:
        # No lock: sources are often on file systems that have none, and are only read.
        return h5py.File(path, "r", locking=False) if stream is None else h5py.File(stream, "r")
    except OSError as error:
        raise SourceFault(f"{path}: is no readable HDF5 file: {_reason(error)}; restore it or leave it out") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


def describe_imaris(path: str) -> Volume:
    """Return the volume of an Imaris file with its stored levels."""
    with _open(path) as file:
        try:
            return _mark_elsewhere(file, _imaris(path, file))
        except _DAMAGE as error:
            raise SourceFault(
                f"{path}: is no complete Imaris file: {_reason(error)}; restore it or leave it out"
            ) from error


def _imaris(path: str, file: h5py.File) -> Volume:
    data = file["DataSet"]
    info = file["DataSetInfo/Image"].attrs
    levels: list[Shape] = []
    times = _count(data["ResolutionLevel 0"], "TimePoint")
    channels = _count(data["ResolutionLevel 0/TimePoint 0"], "Channel") if times else 0
    if not channels:
        raise SourceFault(f"{path}: holds no image plane; restore it or leave it out")
    for level in range(_count(data, "ResolutionLevel")):
        first = data[f"ResolutionLevel {level}/TimePoint 0/Channel 0"]
        stored = first["Data"].shape
        size = []
        for axis, length in zip("ZYX", stored):
            name = f"ImageSize{axis}"
            text = _text(first.attrs[name]) if name in first.attrs else _text(info[axis]) if level == 0 else str(length)
            true = int(text)
            if true > length:
                raise SourceFault(f"{path}: level {level} promises {true} voxels along {axis} and stores {length}")
            size.append(true)
        levels.append((times, channels, size[0], size[1], size[2]))
    for t in range(times):
        for c in range(channels):
            if f"ResolutionLevel 0/TimePoint {t}/Channel {c}/Data" not in data:
                raise SourceFault(f"{path}: time point {t} channel {c} is missing; restore it or leave it out")
    unit = micrometres(_text(info["Unit"]) if "Unit" in info else "um")
    voxel = None
    if unit and all(f"Ext{end}{axis}" in info for end in ("Min", "Max") for axis in range(3)):
        extent = [float(_text(info[f"ExtMax{axis}"])) - float(_text(info[f"ExtMin{axis}"])) for axis in (2, 1, 0)]
        voxel = as_voxel(abs(length) * unit / count for length, count in zip(extent, levels[0][2:]))
    names = []
    for c in range(channels):
        about = file[f"DataSetInfo/Channel {c}"].attrs if f"DataSetInfo/Channel {c}" in file else {}
        color = ""
        if "Color" in about:
            parts = [min(255, max(0, round(float(part) * 255))) for part in _text(about["Color"]).split()]
            color = "".join(f"{part:02X}" for part in parts) if len(parts) == 3 else ""
        names.append(Channel(_text(about["Name"]) if "Name" in about else f"Channel {c}", color))
    return Volume(
        name=image_name(path),
        kind="hdf5",
        files=(path,),
        levels=tuple(levels),
        dtype=data["ResolutionLevel 0/TimePoint 0/Channel 0/Data"].dtype.newbyteorder("=").str,
        voxel=voxel,
        channels=tuple(names),
        detail={
            "format": "Imaris",
            "datasets": [
                f"DataSet/ResolutionLevel {level}/TimePoint {{t}}/Channel {{c}}/Data" for level in range(len(levels))
            ],
        },
    )


def _count(group: h5py.Group, word: str) -> int:
    return sum(1 for name in group if re.fullmatch(rf"{word} \d+", name))


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        return b"".join(value.ravel().tolist()).decode("utf-8", "replace").strip("\0 ")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(np.asarray(value).ravel()[0]) if isinstance(value, np.ndarray) else str(value)


def describe_hdf5(path: str, dataset: str | None) -> list[Volume]:
    """Return the volumes of an HDF5 file: BigDataViewer set-ups, or one dataset.

    ``dataset`` names it; otherwise the largest numeric one of 2 to 5 dimensions is taken.
    """
    with _open(path) as file:
        try:
            if dataset is None and "t00000" in file and "t00000/s00/0/cells" in file:
                return [_mark_elsewhere(file, volume) for volume in _big_data_viewer(path, file)]
            return [_mark_elsewhere(file, _plain(path, file, dataset))]
        except _DAMAGE as error:
            raise SourceFault(f"{path}: cannot be read: {_reason(error)}; restore it or leave it out") from error


def _big_data_viewer(path: str, file: h5py.File) -> list[Volume]:
    times = _digits(file, "t")
    if times != list(range(len(times))):
        raise SourceFault(f"{path}: time points {times} have gaps; restore them or name one with --dataset")
    volumes = []
    for setup in _digits(file["t00000"], "s"):
        first = file[f"t00000/s{setup:02d}/0/cells"]
        stored = first.dtype.newbyteorder("=")
        levels = []
        for level in range(len(file[f"t00000/s{setup:02d}"])):
            z, y, x = file[f"t00000/s{setup:02d}/{level}/cells"].shape
            levels.append((len(times), 1, z, y, x))
        templates = [f"t{{t:05d}}/s{setup:02d}/{level}/cells" for level in range(len(levels))]
        detail: dict[str, Any] = {"format": "BigDataViewer", "datasets": templates}
        if stored == np.int16:
            detail["view"] = "<u2"
            stored = np.dtype(np.uint16)
        name = f"{image_name(path)}_s{setup:02d}"
        volumes.append(Volume(name, "hdf5", (path,), tuple(levels), stored.str, detail=detail))
    return volumes


def _digits(group: h5py.Group, letter: str) -> list[int]:
    return sorted(int(name[1:]) for name in group if re.fullmatch(rf"{letter}\d+", name))


def _plain(path: str, file: h5py.File, dataset: str | None) -> Volume:
    if dataset is not None:
        if dataset not in file or not isinstance(file[dataset], h5py.Dataset):
            raise SourceFault(f"{path}: has no dataset {dataset!r}; it holds {', '.join(_names(file)[:8]) or 'none'}")
        chosen = file[dataset]
    else:
        found = [file[name] for name in _names(file)]
        images = [item for item in found if item.ndim in (2, 3, 4, 5) and item.dtype.kind in "iuf"]
        if not images:
            raise SourceFault(f"{path}: holds no numeric dataset of 2 to 5 dimensions; name one with --dataset")
        chosen = max(images, key=lambda item: item.nbytes)
    if not 2 <= chosen.ndim <= 5:
        raise SourceFault(f"{path}: dataset {chosen.name} has {chosen.ndim} dimensions; an image has 2 to 5")
    axes = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}[chosen.ndim]
    lengths = dict.fromkeys(AXES, 1) | dict(zip(axes, chosen.shape))
    # element_size_um: z, y, x in µm, as Fiji and ilastik write it.
    voxel = as_voxel(chosen.attrs["element_size_um"]) if len(_sizes(chosen)) == 3 else None
    return Volume(
        name=image_name(path),
        kind="hdf5",
        files=(path,),
        levels=((lengths["t"], lengths["c"], lengths["z"], lengths["y"], lengths["x"]),),
        dtype=chosen.dtype.newbyteorder("=").str,
        voxel=voxel,
        detail={"format": "HDF5", "datasets": [_escaped(chosen.name)], "axes": axes},
    )


def _sizes(dataset: h5py.Dataset) -> Sequence[Any]:
    return np.asarray(dataset.attrs.get("element_size_um", ())).ravel().tolist()


def _escaped(path: str) -> str:
    return path.replace("{", "{{").replace("}", "}}")


def _names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names
