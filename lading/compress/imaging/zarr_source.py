"""Read voxels of a Zarr array or an OME-Zarr image as a source (formats 2 and 3).

Input: a directory with ``.zarray``, ``.zgroup`` or ``zarr.json``. Output: ``Volume``
descriptions and windows of voxels.
Invariant: nothing is written below the source.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from lading.compress.imaging.container_rest import name_rest
from lading.compress.imaging.volume import (
    AXES,
    Array,
    Channel,
    Volume,
    Window,
    as_interval,
    as_origin,
    as_shape,
    as_voxel,
    image_name,
    micrometres,
)
from lading.compress.inventory import Item
from lading.compress.job import SourceFault
from lading.compress.sources import Source

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
_MARKS = ("zarr.json", ".zarray", ".zgroup")
METADATA = (*_MARKS, ".zattrs", ".zmetadata")


def is_zarr(path: Path) -> bool:
    """Tell whether a directory is the top of a Zarr hierarchy."""
    return any((path / mark).is_file() for mark in _MARKS)


class _SourceStore(LocalStore):
    """A Zarr hierarchy below a source, whose files are opened there; what is read of them is noted."""

    def __init__(self, top: Path, source: Source) -> None:
        super().__init__(top, read_only=True)
        self._source = source
        self._below = source.relative(str(top))

    def _value(self, key: str, prototype: BufferPrototype, wanted: ByteRequest | None) -> Buffer | None:
        path = os.path.normpath(os.path.join("" if self._below == "." else self._below, key))
        try:
            with self._source.open(path) as file:
                size = file.state.size
                if wanted is None:
                    start, end = 0, size
                elif isinstance(wanted, RangeByteRequest):
                    start, end = wanted.start, min(wanted.end, size)
                elif isinstance(wanted, OffsetByteRequest):
                    start, end = wanted.offset, size
                else:
                    start, end = max(0, size - wanted.suffix), size
                stream = file.as_file()
                stream.seek(start)
                return prototype.buffer.from_bytes(stream.read(max(0, end - start)))
        except SourceFault as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None  # a chunk of nothing but the fill value
            raise

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return await asyncio.to_thread(self._value, key, prototype or default_buffer_prototype(), byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return self._value(key, prototype or default_buffer_prototype(), byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]


class ZarrReader:
    """Windows of one volume; see ``volume.Reader``. ``detail``: ``arrays``, a path per level, and ``axes``."""

    def __init__(self, volume: Volume, source: Source) -> None:
        self._volume, self._source = volume, source
        self._arrays: dict[int, Any] = {}

    def read(self, window: Window, level: int = 0, out: Array | None = None) -> Array:
        """Return ``window`` (z, y, x) of a stored level; ``SourceFault`` when it cannot be read."""
        top, detail = self._volume.files[0], self._volume.detail
        axes = detail["axes"]
        kept = [axis for axis in axes if axis in "zyx"]
        order = [kept.index(axis) for axis in "zyx" if axis in kept]
        out = np.empty(window.shape, np.dtype(self._volume.dtype)) if out is None else out
        try:
            if level not in self._arrays:
                store = _SourceStore(Path(top, detail["arrays"][level]), self._source)
                self._arrays[level] = zarr.open_array(store, mode="r")
            array = self._arrays[level]
            depth = array.chunks[axes.index("z")] if "z" in axes else 1
            for layer in window.layers(depth, array.dtype.itemsize):
                place: dict[str, Any] = dict(zip(AXES, layer.slices))
                data = np.asarray(array[tuple(place[axis] for axis in axes)])
                out[layer.inside(window)] = np.transpose(data, order).reshape(layer.shape)
        except _DAMAGE as error:
            raise SourceFault(
                f"{Path(top, detail['arrays'][level])}: cannot be read at {window}: {' '.join(str(error).split())}; "
                "restore it or leave it out"
            ) from error
        return out

    def close(self) -> None:
        """Forget the arrays."""
        self._arrays.clear()


def describe_zarr(path: Path, inner: str | None) -> list[Volume]:
    """Return the volumes of an array, of an OME-Zarr image (each of its multiscales), or of a folder of such images.

    What else the hierarchy holds, labels for example, is named in ``items``. No volume at all: it holds no image.
    """
    try:
        top: Any = zarr.open(path / inner if inner else path, mode="r")
        volumes = _describe(path, inner or "", top)
        if not volumes and not inner:
            volumes = [one for name in _series(top) for one in _describe(path, name, top[name])]
        if not volumes and not inner and _is_table(top):
            return []
        names = [] if volumes else [name for name, _ in top.arrays()]
    except _DAMAGE as error:
        raise SourceFault(
            f"{path}: is not a readable Zarr: {' '.join(str(error).split())}; restore it or leave it out"
        ) from error
    if not volumes:
        raise SourceFault(
            f"{path}: is a group without multiscales; name one of its arrays with --dataset: "
            f"{', '.join(sorted(names)[:8]) or 'it has none'}"
        )
    if len(volumes) > 1:
        volumes = [
            replace(one, name=image_name(f"{one.name}_{one.detail['label'] or number}"))
            for number, one in enumerate(volumes)
        ]
    try:
        items = (*_rest(path, volumes), *_attributes(path, volumes))
    except _DAMAGE as error:
        raise SourceFault(
            f"{path}: is not a readable Zarr: {' '.join(str(error).split())}; restore it or leave it out"
        ) from error
    return [replace(volumes[0], items=items), *volumes[1:]]


# Attributes that say what the new image says, or how arrays are stored.
_SAID = {
    "ome", "multiscales", "omero", "labels", "bioformats2raw.layout", "plate", "well", "series", "_ARRAY_DIMENSIONS",
}  # fmt: skip


def _attributes(path: Path, volumes: Sequence[Volume]) -> Iterator[Item]:
    """Yield the attributes that no image has, of the arrays that are read and of the groups above them."""
    finest = {os.path.normpath(volume.detail["arrays"][0]) for volume in volumes}
    above = {os.path.dirname(name) for name in finest} | {""}
    for name in sorted({"" if one == "." else one for one in finest | above}):
        names = sorted(str(key) for key in zarr.open(path / name, mode="r").attrs.asdict().keys() - _SAID)
        if names:
            yield Item(
                str(path / name) if name else str(path),
                f"attributes {', '.join(names[:8])}{' …' * (len(names) > 8)}",
                "no image has them; keep the Zarr where they are needed",
            )


def _describe(path: Path, inner: str, top: Any) -> list[Volume]:
    """Return the volumes of an array or of a group with multiscales; none for another group."""
    if isinstance(top, zarr.Array):
        return [_array(path, inner, top)]
    attributes = top.attrs.asdict()
    about = attributes.get("ome", attributes)
    return [_multiscale(path, inner, top, about, number) for number in range(len(about.get("multiscales") or ()))]


def _series(top: Any) -> list[str]:
    """Return the groups of an OME-Zarr that holds several images (bioformats2raw's layout), in their order."""
    attributes = top.attrs.asdict()
    if "bioformats2raw.layout" not in attributes.get("ome", attributes):
        return []
    if "OME" in top:
        about = top["OME"].attrs.asdict()
        listed = about.get("ome", about).get("series")
        if listed:
            return [str(name) for name in listed]
    return sorted((name for name, _ in top.groups() if name.isdigit()), key=int)


def _is_table(top: Any) -> bool:
    """Tell whether a hierarchy has arrays, and none of them could be an image: tables, scalars, text."""
    arrays = [item for _, item in top.members(max_depth=None) if isinstance(item, zarr.Array)]
    images = [one for one in arrays if 2 <= one.ndim <= 5 and one.dtype.kind in "iuf" and min(one.shape) > 1]
    return bool(arrays) and not images


def _rest(path: Path, volumes: Sequence[Volume]) -> Iterator[Item]:
    """Yield what a hierarchy holds besides the finest arrays of its images, by the names of its folders and files."""
    finest = {volume.detail["arrays"][0] for volume in volumes}
    if finest & {"", "."}:
        return  # the whole is one array
    coarser = {name for volume in volumes for name in volume.detail["arrays"][1:]} - finest
    yield from name_rest(path, finest, coarser, METADATA, _say_why)


def _say_why(name: str) -> str:
    what = "labels of an image" if name == "labels" else "in no multiscales of an image"
    return f"{what}; keep the Zarr, or compress it with --kind generic"


def _array(path: Path, inner: str, array: Any) -> Volume:
    if not 2 <= array.ndim <= 5:
        raise SourceFault(f"{path}: has {array.ndim} dimensions; an image has 2 to 5")
    axes = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}[array.ndim]
    return Volume(
        image_name(str(path)), "zarr", (str(path),), (_full(axes, array.shape),), array.dtype.newbyteorder("=").str,
        detail={"arrays": [inner], "axes": axes, "label": ""},
    )  # fmt: skip


def _full(axes: str, shape: tuple[int, ...]) -> Any:
    lengths = dict.fromkeys(AXES, 1) | dict(zip(axes, shape))
    return as_shape(lengths[axis] for axis in AXES)


def _multiscale(path: Path, inner: str, group: Any, about: dict[str, Any], number: int) -> Volume:
    image = about["multiscales"][number]
    # NGFF 0.1 and 0.2 have no axes: always t, c, z, y, x; 0.3 has names only.
    described = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", list(AXES))]
    axes = "".join(axis["name"] for axis in described)
    if sorted(axes) != sorted(set(axes)) or not set(axes) <= set(AXES):
        raise SourceFault(f"{path}: axes {axes} are not an image of t, c, z, y, x")
    paths = [item["path"] for item in image["datasets"]]
    arrays = [group[name] for name in paths]
    scale, shift = _transformed(image, axes, 0)
    units = {axis["name"]: axis.get("unit") for axis in described}
    factors = {axis: micrometres(units.get(axis)) for axis in "zyx" if axis in axes}
    voxel, origin = None, (0.0, 0.0, 0.0)
    if scale and all(factors.values()):
        voxel = as_voxel(scale.get(axis, 1.0) * (factors.get(axis) or 1.0) for axis in "zyx")
        origin = as_origin(shift.get(axis, 0.0) * (factors.get(axis) or 1.0) for axis in "zyx")
    channels = tuple(
        Channel(str(channel.get("label", place)), str(channel.get("color", "")))
        for place, channel in enumerate((about.get("omero") or {}).get("channels", ()))
    )
    return Volume(
        name=image_name(str(path)),
        kind="zarr",
        files=(str(path),),
        levels=tuple(_full(axes, array.shape) for array in arrays),
        dtype=arrays[0].dtype.newbyteorder("=").str,
        voxel=voxel,
        seconds=as_interval(scale.get("t"), units.get("t")) if scale and units.get("t") else None,
        channels=channels,
        detail={
            "arrays": [os.path.normpath(os.path.join(inner, name)) for name in paths],
            "axes": axes,
            "label": inner or (str(image.get("name") or "") if number else ""),
            "placed": _placed(image, axes),
        },
        origin=origin,
    )


def _placed(image: dict[str, Any], axes: str) -> list[Any]:
    """Return step and first voxel of each level along z, y, x, in voxels of level 0; nothing where one is unknown."""
    found = [_transformed(image, axes, level) for level in range(len(image["datasets"]))]
    if not all(scale and min(scale.values()) > 0 for scale, _ in found):
        return []
    scale, shift = found[0]
    return [
        [
            [one.get(axis, 1.0) / scale.get(axis, 1.0) for axis in "zyx"],
            [(here.get(axis, 0.0) - shift.get(axis, 0.0)) / scale.get(axis, 1.0) for axis in "zyx"],
        ]
        for one, here in found
    ]


def _transformed(image: dict[str, Any], axes: str, level: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return scale and translation of a level by axis; those of the whole multiscale come after the level's (NGFF 0.4).

    No scale at all: nothing is known of sizes, or it lies in a file of its own, which nothing reads.
    """
    scale, shift = dict.fromkeys(axes, 1.0), dict.fromkeys(axes, 0.0)
    scaled = False
    for where in (image["datasets"][level], image):
        for change in where.get("coordinateTransformations") or ():
            numbers = change.get(change["type"])
            if change["type"] == "scale" and numbers is not None:
                scaled = True
                for axis, number in zip(axes, numbers):
                    scale[axis] *= float(number)
                    shift[axis] *= float(number)
            elif change["type"] == "translation" and numbers is not None:
                for axis, number in zip(axes, numbers):
                    shift[axis] += float(number)
            elif change["type"] != "identity":
                return {}, {}
    return (scale, shift) if scaled else ({}, {})
