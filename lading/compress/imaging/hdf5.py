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
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from lading.compress.imaging import bigdataviewer
from lading.compress.imaging.volume import (
    AXES,
    RESOLUTIONS,
    Array,
    Channel,
    Shape,
    Volume,
    Window,
    as_origin,
    as_voxel,
    image_name,
    micrometres,
)
from lading.compress.inventory import Item
from lading.compress.job import SourceFault
from lading.compress.library_watch import note_reading
from lading.compress.reads import RecordedFile
from lading.compress.sources import Source

IMARIS_SUFFIXES = (".ims",)
SUFFIXES = (".h5", ".hdf5", ".hdf")

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError)


class Hdf5Reader:
    """Windows of one volume; see ``volume.Reader``.

    ``detail`` holds ``datasets``: a template per stored level with ``{t}`` and
    ``{c}`` (Imaris, BigDataViewer; ``times``: what stands for ``{t}`` at each
    time), or one path whose own ``axes`` run over t and c; ``view``: the dtype
    to reinterpret stored values as; ``elsewhere``, where voxels are in other files, which then have no record.
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
        times = detail.get("times")
        path = detail["datasets"][level].format(t=times[window.t] if times else window.t, c=window.c)
        axes = detail.get("axes", "zyx")
        kept = [axis for axis in axes if axis in "zyx"]
        order = [kept.index(axis) for axis in "zyx" if axis in kept]
        out = np.empty(window.shape, self._dtype) if out is None else out
        if self._stream is not None:
            self._stream.forget()
        try:
            dataset = self._file[path]
            if self._stream is not None and _lies_elsewhere(self._file, dataset):
                raise ValueError("its voxels are in other files now")
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
    """Return a volume with a note in its ``detail`` when its voxels are in other files than its own."""
    t, c = volume.detail.get("times") or range(volume.shape[0]), range(volume.shape[1])
    paths = {template.format(t=t_, c=c_) for template in volume.detail["datasets"] for t_ in t for c_ in c}
    elsewhere = [file[path] for path in sorted(paths) if path in file and _lies_elsewhere(file, file[path])]
    if elsewhere:
        linked = {os.path.realpath(item.file.filename) for item in elsewhere} - {os.path.realpath(file.filename)}
        return replace(volume, detail={**volume.detail, "elsewhere": True, "linked": sorted(linked)})
    return volume


def _open(path: str, stream: Any = None) -> h5py.File:
    note_reading(path)
    try:
        # No lock: sources are often on file systems that have none, and are only read.
        return h5py.File(path, "r", locking=False) if stream is None else h5py.File(stream, "r")
    except OSError as error:
        raise SourceFault(
            f"{path}: is not a readable HDF5 file: {_reason(error)}; restore it or leave it out"
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


def describe_imaris(path: str) -> Volume:
    """Return the volume of an Imaris file with its stored levels."""
    with _open(path) as file:
        try:
            return _mark_elsewhere(file, _imaris(path, file))
        except _DAMAGE as error:
            raise SourceFault(
                f"{path}: is not a complete Imaris file: {_reason(error)}; restore it or leave it out"
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
                raise SourceFault(f"{path}: level {level} declares {true} voxels along {axis} and stores {length}")
            size.append(true)
        levels.append((times, channels, size[0], size[1], size[2]))
    for t in range(times):
        for c in range(channels):
            if f"ResolutionLevel 0/TimePoint {t}/Channel {c}/Data" not in data:
                raise SourceFault(f"{path}: time point {t} channel {c} is missing; restore it or leave it out")
    unit = micrometres(_text(info["Unit"]) if "Unit" in info else "um")
    voxel, origin = None, (0.0, 0.0, 0.0)
    if unit and all(f"Ext{end}{axis}" in info for end in ("Min", "Max") for axis in range(3)):
        extent = [float(_text(info[f"ExtMax{axis}"])) - float(_text(info[f"ExtMin{axis}"])) for axis in (2, 1, 0)]
        voxel = as_voxel(abs(length) * unit / count for length, count in zip(extent, levels[0][2:]))
        # Where the image begins on the stage: tiles of one acquisition differ in nothing else.
        origin = as_origin(float(_text(info[f"ExtMin{axis}"])) * unit for axis in (2, 1, 0))
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
        origin=origin,
        items=tuple(_imaris_rest(path, file, levels)),
        detail={
            "format": "Imaris",
            "datasets": [
                f"DataSet/ResolutionLevel {level}/TimePoint {{t}}/Channel {{c}}/Data" for level in range(len(levels))
            ],
        },
    )


def _imaris_rest(path: str, file: h5py.File, levels: Sequence[Shape]) -> Iterator[Item]:
    """Yield what an Imaris file holds besides the voxels and what describes them."""
    times, channels = levels[0][:2]
    data = re.compile(r"DataSet/ResolutionLevel (\d+)/TimePoint (\d+)/Channel (\d+)/(Data|Histogram\w*)")
    if len(levels) > 1:
        yield Item(path, f"resolution levels 1 to {len(levels) - 1}", RESOLUTIONS, recomputed=True)
    for name in _names(file, links=True):
        known = data.fullmatch(name)
        if known and int(known[1]) < len(levels) and int(known[2]) < times and int(known[3]) < channels:
            continue
        if name == "Thumbnail/Data":
            yield Item(path, name, "a preview of the voxels", recomputed=True)
        else:
            yield Item(path, name, "an Imaris scene, statistic or table; keep the .ims where it is needed")
    said = re.compile(
        r"DataSet|DataSet/ResolutionLevel \d+(/TimePoint \d+(/Channel \d+(/.*)?)?)?|DataSetInfo/(Image|Channel \d+)"
    )
    yield from _attributes(path, file, lambda name: said.fullmatch(name) is not None)


# Attributes that say what the volume says: sizes, and how HDF5 and its tools store arrays.
_SAID = {
    "element_size_um", "CLASS", "NAME", "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "TITLE", "VERSION",
}  # fmt: skip
_SHOWN = 8


def _attributes(path: str, file: h5py.File, known: Callable[[str], bool]) -> Iterator[Item]:
    """Yield one item for all attributes that no image has, by the names of what they are of."""
    names = ["/"] if set(file.attrs) - _SAID else []

    def look(name: str, item: Any) -> None:
        if set(item.attrs) - _SAID and not known(name):
            names.append(name)

    file.visititems(look)
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield Item(
            path,
            f"attributes of {', '.join(sorted(names)[:_SHOWN])}{more}",
            "no image has them; keep the file where they are needed",
        )


def _count(group: h5py.Group, word: str) -> int:
    return sum(1 for name in group if re.fullmatch(rf"{word} \d+", name))


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        return b"".join(value.ravel().tolist()).decode("utf-8", "replace").strip("\0 ")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(np.asarray(value).ravel()[0]) if isinstance(value, np.ndarray) else str(value)


def describe_hdf5(path: str, dataset: str | None, *, allow_gaps: bool = False) -> list[Volume]:
    """Return the volumes of an HDF5 file: BigDataViewer set-ups, or datasets.

    ``dataset`` names one; otherwise these are the largest numeric one of 2 to 5 dimensions and all of its shape and
    type. What else the file holds is named in ``items``. No volume at all: the file holds no image.
    """
    with _open(path) as file:
        try:
            if dataset is not None and dataset not in file and not _find_views(file) and not _plain_all(path, file):
                return []
            if dataset is not None:
                chosen = _named(path, file, dataset)
                items = tuple(_rest(path, file, {chosen.name.strip("/")}))
                return [_mark_elsewhere(file, replace(_plain(path, file, chosen), items=items))]
            views = _find_views(file)
            if views:
                return [_mark_elsewhere(file, one) for one in _big_data_viewer(path, file, views, allow_gaps)]
            return [_mark_elsewhere(file, one) for one in _plain_all(path, file)]
        except _DAMAGE as error:
            raise SourceFault(f"{path}: cannot be read: {_reason(error)}; restore it or leave it out") from error


_VIEW = re.compile(r"t(\d+)/s(\d+)/(\d+)/cells")


def _find_views(file: h5py.File) -> dict[str, dict[str, dict[str, tuple[int, ...]]]]:
    """Return set-up → time point → level → shape of all of BigDataViewer's cells; names as they are in the file."""
    views: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}
    for time in (name for name in file if re.fullmatch(r"t\d+", name) and isinstance(file.get(name), h5py.Group)):
        for setup in (name for name in file[time] if re.fullmatch(r"s\d+", name)):
            group = file[time].get(setup)
            for level in group if isinstance(group, h5py.Group) else ():
                cells = group.get(f"{level}/cells") if level.isdigit() else None
                if isinstance(cells, h5py.Dataset):
                    views.setdefault(setup, {}).setdefault(time, {})[level] = cells.shape
    return views


def _big_data_viewer(
    path: str, file: h5py.File, views: dict[str, dict[str, dict[str, tuple[int, ...]]]], allow_gaps: bool
) -> list[Volume]:
    volumes: list[Volume] = []
    every = sorted({time for times in views.values() for time in times}, key=_number)
    items = _rest(path, file, {f"{t}/{s}/{one}/cells" for s, ts in views.items() for t in ts for one in ts[t]}, views)
    about = bigdataviewer.read_xml(path)
    for setup, found in sorted(views.items(), key=lambda pair: _number(pair[0])):
        times = sorted(found, key=_number)
        numbers = [_number(time) for time in times]
        if numbers != list(range(numbers[0], numbers[0] + len(times))) and not allow_gaps:
            raise SourceFault(
                f"{path}: time points {numbers} of {setup} have gaps; restore them, name one with --dataset, "
                "or pass --allow-gaps to take them as they are"
            )
        levels = sorted(found[times[0]], key=int)
        for time in times:
            if found[time] != found[times[0]]:
                raise SourceFault(
                    f"{path}: {setup} has {_shapes(found[time])} at {time} and {_shapes(found[times[0]])} "
                    f"at {times[0]}; all time points of an image must have one shape; name one with --dataset"
                )
        if levels[0] != "0":
            raise SourceFault(f"{path}: {times[0]}/{setup} has no level 0; restore it or leave it out")
        shapes = [found[times[0]][level] for level in levels]
        if any(len(shape) != 3 for shape in shapes):
            raise SourceFault(
                f"{path}: {times[0]}/{setup} holds {_shapes(found[times[0]])}, which are not volumes of z, y, x"
            )
        stored = file[f"{times[0]}/{setup}/0/cells"].dtype.newbyteorder("=")
        templates = [f"{{t}}/{setup}/{level}/cells" for level in levels]
        detail: dict[str, Any] = {
            "format": "BigDataViewer",
            "datasets": templates,
            "times": times,
            "placed": bigdataviewer.place_levels(_resolutions(file, setup), levels),
        }
        if stored == np.int16:
            detail["view"] = "<u2"
            stored = np.dtype(np.uint16)
        own = [*items] if not volumes else []
        if len(levels) > 1:
            own.append(Item(path, f"{setup}, levels {levels[1]} to {levels[-1]}", RESOLUTIONS, recomputed=True))
        if times != every:
            own.append(Item(path, f"{setup} at {', '.join(sorted(set(every) - set(times))[:8])}", "the file has none"))
        volume = Volume(
            f"{image_name(path)}_{setup}", "hdf5", (path,),
            tuple((len(times), 1, *shape) for shape in shapes),  # type: ignore[misc]
            stored.str, detail=detail, items=tuple(own),
        )  # fmt: skip
        volumes.append(bigdataviewer.place(volume, about, _number(setup), numbers[0]))
    return volumes


def _resolutions(file: h5py.File, setup: str) -> list[Any]:
    """Return what the file says of how much coarser each level is, along x, y, z."""
    found = file.get(f"{setup}/resolutions")
    return np.asarray(found).tolist() if isinstance(found, h5py.Dataset) and found.ndim == 2 else []


def _shapes(levels: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(" × ".join(map(str, levels[level])) for level in sorted(levels, key=int))


def _number(name: str) -> int:
    return int(name[1:])


def _rest(path: str, file: h5py.File, taken: set[str], views: Any = ()) -> list[Item]:
    """Return the datasets and links of a file that are not among the taken ones, each by name."""
    items = []
    for name in _names(file, links=True):
        if name in taken:
            continue
        if views and re.fullmatch(r"s\d+/(resolutions|subdivisions)|__DATA_TYPES__/.*", name):
            continue  # how the levels were made; their shapes say it
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            where = f"{link.filename} {link.path}" if isinstance(link, h5py.ExternalLink) else link.path
            items.append(Item(path, name, f"is a link to {where}"))
            continue
        item = file[name]
        what = " × ".join(map(str, item.shape)) if item.shape else "one value"
        items.append(Item(path, name, f"{what} of {item.dtype}, unlike the image; --dataset takes another one"))
    return [*items, *_attributes(path, file, lambda name: bool(views) and name.startswith("__DATA_TYPES__"))]


def _named(path: str, file: h5py.File, dataset: str) -> h5py.Dataset:
    if dataset not in file or not isinstance(file[dataset], h5py.Dataset):
        raise SourceFault(f"{path}: has no dataset {dataset!r}; it holds {', '.join(_names(file)[:8]) or 'none'}")
    return file[dataset]


def _plain_all(path: str, file: h5py.File) -> list[Volume]:
    found = {name: file[name] for name in _names(file)}
    images = {
        name: item for name, item in found.items()
        if item.ndim in (2, 3, 4, 5) and item.dtype.kind in "iuf" and not _in_table(item)
    }  # fmt: skip
    if not images:
        return []
    largest = max(images.values(), key=lambda item: item.nbytes)
    equal = {name: item for name, item in images.items() if (item.shape, item.dtype) == (largest.shape, largest.dtype)}
    items = tuple(_rest(path, file, set(equal)))
    volumes: list[Volume] = []
    for name, item in equal.items():
        volume = replace(_plain(path, file, item), items=items if not volumes else ())
        if len(equal) > 1:
            volume = replace(volume, name=image_name(f"{image_name(path)}_{name.replace('/', '_')}"))
        volumes.append(volume)
    return volumes


def _in_table(item: h5py.Dataset) -> bool:
    """Tell whether a dataset is part of a table that pandas or PyTables wrote."""
    group = item.parent
    while True:
        if "pandas_type" in group.attrs or "pandas_type" in item.attrs:
            return True
        if group.name == "/":
            return False
        group = group.parent


def _plain(path: str, file: h5py.File, chosen: h5py.Dataset) -> Volume:
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


def _names(file: h5py.File, *, links: bool = False) -> list[str]:
    """Return the paths of all datasets, each once; with ``links`` also of what leads elsewhere."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    if links:
        soft: list[str] = []
        file.visititems_links(
            lambda name, link: soft.append(name) if isinstance(link, h5py.SoftLink | h5py.ExternalLink) else None
        )
        names += sorted(set(soft) - set(names))
    return names
