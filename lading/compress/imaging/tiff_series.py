"""The images of one TIFF file, or of the files of a set, by what its metadata say of its pages.

Input: an open TIFF file and tifffile's series of it. Output: ``Volume`` descriptions.
Invariant: every plane of an image is there once, and every full page is a plane
of one, or the file is refused; smaller pages are named.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tifffile

from lading.compress.imaging.tiff_cover import find_planes
from lading.compress.imaging.tiff_scale import describe_scale
from lading.compress.imaging.volume import Shape, Volume, color_channels, image_name, natural_order
from lading.compress.inventory import Item
from lading.compress.job import SourceFault
from lading.core.progress import counted

# tifffile's axes that are a stack of planes without saying which: sequence, other, unknown.
_STACK = "ZIQ"
# Kinds of tifffile whose own index says where planes are; numbers of pages it counts by that, not by the file.
_BY_OFFSET = ("ndtiff", "mmstack")


def all_pages(path: str, tiff: tifffile.TiffFile) -> Volume:
    """Return the volume of all pages that are like the first, as planes along z."""
    pages: list[Any] = list(tiff.pages)
    first = pages[0].keyframe
    if first.samplesperpixel > 1:
        raise SourceFault(f"{path}: holds {first.samplesperpixel} samples a pixel (colour); leave --by-pages out")
    planes = [page.index for page in pages if (page.shape, page.dtype) == (first.shape, first.dtype)]
    _check_pages(path, [pages[number] for number in planes])
    others = sorted(set(range(len(pages))) - set(planes))
    items = (Item(path, _pages_named(others), "of another shape or type than page 0"),) if others else ()
    detail: dict[str, Any] = {"file_axes": "", "page_axes": "z", "byteorder": tiff.byteorder}
    if others:
        detail["pages"] = planes
    scale = describe_scale(tiff)
    shape = (1, 1, len(planes), first.imagelength, first.imagewidth)
    dtype = np.dtype(first.dtype).newbyteorder("=").str
    return Volume(
        image_name(path), "tiff", (path,), (shape,), dtype, scale.voxel, detail=detail,
        origin=scale.origin, unsized=scale.unsized, items=items,
    )  # fmt: skip


def _pages_named(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"page{'s' if len(numbers) > 1 else ''} {shown}"


def _other_pages(path: str, tiff: tifffile.TiffFile, images: Sequence[Any], planes: int) -> tuple[Item, ...]:
    """Return the pages that the image does not take; ``SourceFault`` for full ones, of which metadata do not know."""
    taken = {page.index for one in images for page in one.pages if page is not None and isinstance(page.index, int)}
    if len(images) == 1 and images[0].dataoffset is not None and taken:
        taken |= set(range(min(taken), min(taken) + planes))
    first = min((one.keyframe for one in images), key=lambda frame: int(frame.imagelength) * int(frame.imagewidth))
    extra: list[int] = []
    smaller: list[int] = []
    for number in sorted(set(range(len(tiff.pages))) - taken):
        frame: Any = tiff.pages[number]
        # A page that no series has is a frame without its tags.
        page = frame.keyframe if isinstance(frame, tifffile.TiffPage) else frame.aspage()
        size = (page.imagelength, page.imagewidth)
        reduced = page.is_reduced or size[0] < first.imagelength or size[1] < first.imagewidth
        (smaller if reduced else extra).append(number)
    if extra:
        raise SourceFault(
            f"{path}: its metadata declare {counted(planes, 'plane')} and the file holds {planes + len(extra)} "
            f"({_pages_named(extra)} "
            "more); the file is damaged, or its metadata are; restore it, or pass --by-pages to take every page as "
            "a plane"
        )
    return (
        (Item(path, _pages_named(smaller), "smaller than the image: a preview of it, or another"),) if smaller else ()
    )


def images_of(path: str, tiff: tifffile.TiffFile, series: Sequence[Any], top: str) -> list[Volume]:
    """Return the images of a file: one, or those that OME-XML tells apart, or those of the set that it belongs to."""
    images = [item for item in series if len(item.shape) >= 2 and not item.keyframe.is_reduced]
    named = tiff.is_ome and len(images) > 1
    if len({(item.keyframe.shape, item.dtype) for item in images}) > 1 and not named:
        pages = [(item.keyframe.index, item.keyframe.shape, item.dtype) for item in images]
        raise SourceFault(
            f"{path}: mixes planes: "
            + ", ".join(f"page {index} is {' × '.join(map(str, shape))} {dtype}" for index, shape, dtype in pages[:4])
            + "; all planes of an image must have one shape and dtype"
        )
    if len(images) > 1 and not named:
        raise SourceFault(
            f"{path}: holds {counted(len(images), 'separate image')} (series); write each to a file of its "
            f"own, or pass a folder"
        )
    chosen = images or [series[0]]
    files = sorted({_file_of(page) for item in chosen for page in item.pages if page is not None}, key=natural_order)
    if files != [os.path.realpath(path)] or any(item.kind in _BY_OFFSET for item in chosen):
        return _describe_set(path, tiff, chosen, files, top)
    if named:
        found = [_one_series(path, tiff, item, number) for number, item in enumerate(chosen)]
        others = _other_pages(path, tiff, chosen, sum(len(item.pages) for item in chosen))
        return [replace(found[0], items=others), *found[1:]]
    return [_one_series(path, tiff, chosen[0])]


def _file_of(page: Any) -> str:
    return str(os.path.realpath(page.parent.filehandle.path))


def _one_series(path: str, tiff: tifffile.TiffFile, chosen: Any, number: int | None = None) -> Volume:
    """Return the volume of one series; ``number``: of several in the file, whose pages are then counted together."""
    axes, lengths = named_axes(path, chosen.axes, chosen.shape)
    shape: Shape = (lengths["t"], lengths["c"], lengths["z"], lengths["y"], lengths["x"])
    order = "".join(axis for axis in axes if axis in "tcz")
    samples = chosen.axes.endswith("S") or "S" in chosen.keyframe.axes
    if samples:
        order = order.replace("c", "")
    dtype = np.dtype(chosen.dtype).newbyteorder("=")
    detail: dict[str, Any] = {"file_axes": "", "page_axes": order, "byteorder": tiff.byteorder}
    if samples:
        detail["samples"] = True
    if number is not None:
        detail |= {"series": number}
    elif not samples and chosen.dataoffset is not None:
        detail["offset"] = int(chosen.dataoffset)
        _check_length(path, chosen, int(chosen.dataoffset))
    if (not samples or number is not None) and "offset" not in detail:
        planes = [page.index for page in chosen.pages if page is not None]
        if len(planes) != _planes(shape, order):
            raise SourceFault(
                f"{path}: its metadata declare {counted(_planes(shape, order), 'plane')} and {len(planes)} are there; "
                "the file is "
                "damaged or truncated; restore it, leave it out, or pass --by-pages to take every page as a plane"
            )
        _check_pages(path, chosen.pages)
        if planes != list(range(len(planes))):
            detail["pages"] = planes
    items = _other_pages(path, tiff, [chosen], _planes(shape, order)) if number is None else ()
    scale = describe_scale(tiff, number or 0)
    # OME-XML has one channel for all samples of a pixel.
    colored = samples and chosen.keyframe.photometric == tifffile.PHOTOMETRIC.RGB and len(scale.channels) != shape[1]
    return Volume(
        name=image_name(path) + (f"_s{number}" if number is not None else ""),
        kind="tiff",
        files=(path,),
        levels=(shape,),
        dtype=dtype.str,
        voxel=scale.voxel,
        seconds=scale.seconds,
        channels=color_channels(shape[1]) if colored else scale.channels,
        detail=detail,
        origin=scale.origin,
        unsized=scale.unsized,
        items=items,
    )


def _planes(shape: Shape, order: str) -> int:
    count = 1
    for axis in order:
        count *= shape["tcz".index(axis)]
    return count


def _check_length(path: str, series: Any, offset: int) -> None:
    size, end = os.path.getsize(path), offset + series.nbytes
    if size < end:
        plane = max(0, size - offset) // series.keyframe.nbytes
        raise SourceFault(
            f"{path}: ends at byte {size} inside page {plane}, its metadata declare {end} bytes; "
            "restore the file or leave it out"
        )


def _check_pages(path: str, pages: Sequence[Any]) -> None:
    size = os.path.getsize(path)
    for page in pages:
        for offset, length in zip(page.dataoffsets, page.databytecounts):
            if offset + length > size:
                raise SourceFault(
                    f"{path}: page {page.index} (offset {offset}) needs {length} bytes but the file ends at {size}; "
                    "restore the file or leave it out"
                )


def named_axes(path: str, axes: str, shape: Sequence[int]) -> tuple[str, dict[str, int]]:
    """Return the axes as t, c, z, y, x (slowest first) with their lengths, absent ones 1."""
    names, lengths = "", {"t": 1, "c": 1, "z": 1, "y": 1, "x": 1}
    for axis, length in zip(axes, shape):
        name = "c" if axis in "CS" else "z" if axis in _STACK else axis.lower()
        if name in names or name not in lengths:
            if length == 1:
                continue
            raise SourceFault(
                f"{path}: axes {axes} of shape {' × '.join(map(str, shape))} are not an image of t, c, z, y, x; "
                f"axis {axis!r} has no place in OME-Zarr"
            )
        names += name
        lengths[name] = length
    return names, lengths


def _describe_set(
    path: str, tiff: tifffile.TiffFile, series: Sequence[Any], files: list[str], top: str
) -> list[Volume]:
    """Return the images of a set of files (Micro-Manager, Bruker, NDTiff): where each plane is stands in a table.

    Positions and the like, for which an OME-Zarr has no axis, are images of their own.
    """
    names = _names_below(path, files, top)
    numbers = {file: number for number, file in enumerate(files)}
    parts = [(number, chosen, *part) for number, chosen in enumerate(series) for part in _split(path, chosen)]
    volumes = []
    for number, chosen, label, axes, pages in parts:
        named, lengths = named_axes(path, axes, [*pages.shape, *chosen.shape[-2:]])
        shape: Shape = (lengths["t"], lengths["c"], lengths["z"], lengths["y"], lengths["x"])
        order = "".join(axis for axis in named if axis in "tcz")
        found = [chosen.pages[int(place)] for place in pages.ravel()]
        # tifffile gives a plane that its file does not reach the offset 0.
        lacking = sum(page is None or (chosen.kind in _BY_OFFSET and not page.dataoffsets[0]) for page in found)
        if lacking:
            raise SourceFault(
                f"{path}: its set declares {counted(len(found), 'plane')} and {lacking} of them are "
                f"missing; restore them, or "
                "pass --by-pages to take the planes as they are"
            )
        detail: dict[str, Any] = {"file_axes": "", "page_axes": order, "byteorder": tiff.byteorder}
        detail["table"] = [[numbers[_file_of(page)], *_place(chosen, page)] for page in found]
        if len(series) > 1:
            label = f"_s{number}{label}"
        # Micro-Manager's XML has an image for each position.
        position = re.search(r"_r(\d+)", label) if chosen.kind == "mmstack" else None
        scale = describe_scale(tiff, int(position[1]) if position else number)
        volumes.append(
            Volume(
                image_name(path) + label, "tiff", tuple(names), (shape,),
                np.dtype(chosen.dtype).newbyteorder("=").str, scale.voxel, scale.seconds, scale.channels, detail,
                origin=scale.origin, unsized=scale.unsized,
            )
        )  # fmt: skip
    _check_set(path, files, volumes)
    return volumes


def _check_set(path: str, files: Sequence[str], volumes: Sequence[Volume]) -> None:
    """Raise ``SourceFault`` where files of a set have other planes than those that metadata or an index say."""
    numbers: dict[int, set[int]] = {}
    offsets: dict[int, set[int]] = {}
    for volume in volumes:
        for file, number, offset in volume.detail["table"]:
            (offsets if offset >= 0 else numbers).setdefault(file, set()).add(offset if offset >= 0 else number)
    for index, file in enumerate(files):
        there = find_planes(file)
        if isinstance(there, str):
            raise SourceFault(f"{file}: is one of a set of files, and cannot be followed: {there}; restore it")
        taken = numbers.get(index, set()) | {n for n, at in enumerate(there) if at in offsets.get(index, ())}
        absent = offsets.get(index, set()) - set(there)
        if absent:
            raise SourceFault(
                f"{file}: has no plane at byte {min(absent)}, where {path} or its index has one; restore the set"
            )
        extra = sorted(set(range(len(there))) - taken)
        if extra:
            raise SourceFault(
                f"{file}: holds {_pages_named(extra)}, which the metadata of its set do not declare; restore the "
                "set, or pass --by-pages to take every page as a plane"
            )


def _names_below(path: str, files: Sequence[str], top: str) -> list[str]:
    """Return the files by the names that the source's walk has, not by those that links lead to."""
    if list(files) == [os.path.realpath(path)]:
        return [path]
    above = os.path.realpath(top) if top else ""
    if not os.path.isdir(above) or any(os.path.commonpath([above, file]) != above for file in files):
        raise SourceFault(
            f"{path}: is one of several files of an OME-TIFF set; pass the folder of all of them, or --by-pages to "
            "take each file by itself, its place by its name"
        )
    return [os.path.join(top, os.path.relpath(file, above)) for file in files]


def _split(path: str, chosen: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (label, axes, numbers of its pages) of each image of a series: one, or one for each position."""
    if "S" in chosen.axes or chosen.axes[-2:] != "YX":
        raise SourceFault(f"{path}: is of a set of colour images, which is not read; write it as one file")
    axes, places = chosen.axes[:-2], np.arange(len(chosen.pages)).reshape(chosen.shape[:-2])
    own = [number for number, axis in enumerate(axes) if axis not in "TCZIQ"]
    kept = "".join(axis for number, axis in enumerate(axes) if number not in own)
    for combination in itertools.product(*(range(places.shape[number]) for number in own)):
        selection: list[Any] = [slice(None)] * places.ndim
        label = ""
        for number, value in zip(own, combination):
            selection[number] = value
            label += f"_{axes[number].lower()}{value}"
        yield label, f"{kept}YX", places[tuple(selection)]


def _place(series: Any, page: Any) -> tuple[int, int]:
    """Return page number and offset of a plane; an offset of -1 where it is read as a page, by its tags."""
    if series.kind in _BY_OFFSET:
        return 0, int(page.dataoffsets[0])
    return int(page.index), -1
