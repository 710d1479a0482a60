"""Describe TIFF sources: which file and page holds which plane, and what a voxel measures.

Input: paths of TIFF files. Output: ``Volume`` descriptions for ``tiff.TiffReader``.
Invariant: every plane of a volume exists once and has the same shape and
dtype, or every exception is reported at once; a file that ends early is
refused before one voxel is read.
"""

import contextlib
import logging
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from lading.compress.imaging.tiff import DAMAGE, damaged
from lading.compress.imaging.volume import (
    Channel,
    Shape,
    Volume,
    as_interval,
    as_voxel,
    image_name,
    micrometres,
    natural_order,
)
from lading.compress.inventory import Item
from lading.compress.job import SourceFault

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")

# Tokens of plane numbers in file names, as microscopes write them: _z0012, _ch_488, -T3, _C01.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(time|t|channel|chan|ch|c|plane|slice|z)[_ -]?(\d+)(?![A-Za-z0-9])", re.I)
_NUMBER = re.compile(r"\d+")
# tifffile's axes that are a stack of planes without saying which: sequence, other, unknown.
_STACK = "ZIQ"


# What tifffile says of directories that it cannot find or follow, and of voxels that it cannot place.
_BROKEN = (
    "invalid offset to", "invalid page offset", "circular reference", "corrupted tag list",
    "missing data", "missing ByteCounts", "incorrect Strip", "missing required tags",
)  # fmt: skip
_BAD_TAG = re.compile(r"TiffTag (\d+) ")
# Without these a page is not what it was: sizes, type, order and place of its voxels.
_NEEDED_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339}


@dataclass(frozen=True)
class TiffHeader:
    """What the first page of a file says."""

    path: str
    shape: tuple[int, int]
    dtype: str
    pages_follow: bool
    codec: tuple[int, int] = (1, 1)  # compression and predictor


@dataclass
class _Complaints:
    """What tifffile reported: ``fatal`` when pages or voxels may be missed, ``notes`` otherwise."""

    fatal: list[str]
    notes: list[str]


@contextlib.contextmanager
def _complaints() -> Iterator[_Complaints]:
    """Collect what tifffile logs: it reports a broken page chain there and goes on."""
    found = _Complaints([], [])

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = " ".join(record.getMessage().split())
            tag = _BAD_TAG.search(message)
            if any(word in message for word in _BROKEN) or (tag and int(tag[1]) in _NEEDED_TAGS):
                found.fatal.append(message)
            elif tag:
                # tifffile skips a tag that makes no sense, of which the voxels do not depend.
                found.notes.append(f"tag {tag[1]} cannot be read")
            elif record.levelno >= logging.ERROR:
                found.notes.append(message.split("> ")[-1])

    logger, handler = tifffile.logger(), Collect(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def read_head(path: str, *, by_pages: bool = False) -> TiffHeader:
    """Return shape and dtype of the first page; ``SourceFault`` when there is none."""
    try:
        with _complaints(), tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            shape = (page.keyframe.imagelength, page.keyframe.imagewidth)
            dtype = np.dtype(page.dtype).newbyteorder("=").str if page.dtype is not None else ""
            follow = tiff.pages.is_multipage
            if not by_pages:
                follow = follow or len(tiff.series) > 1 or tiff.series[0].size != page.size
            return TiffHeader(path, shape, dtype, follow, (int(page.compression), int(page.predictor)))
    except DAMAGE as error:
        raise _not_readable(path, error) from error


def _not_readable(path: str, error: BaseException) -> SourceFault:
    size = os.path.getsize(path) if os.path.exists(path) else 0
    if isinstance(error, SourceFault):
        return error
    if size == 0:
        return SourceFault(f"{path}: is empty (0 bytes); restore the file or leave it out")
    return SourceFault(
        f"{path}: is not a readable TIFF file of {size} bytes: {' '.join(str(error).split())}; "
        "restore the file or leave it out"
    )


def describe_stack(path: str, *, by_pages: bool = False) -> Volume:
    """Return the volume of one file with all its pages; ``by_pages``: each is a plane, whatever metadata say."""
    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as tiff:
            count = len(tiff.pages)
            series: Sequence[Any] = [] if by_pages else tiff.series
            if by_pages:
                list(tiff.pages)  # every directory is looked at
            if complaints.fatal:
                reason = complaints.fatal[0].split("> ")[-1]
                raise SourceFault(
                    f"{path}: page {count} cannot be found, the file is damaged or truncated at "
                    f"{os.path.getsize(path)} bytes ({reason}); restore the file or leave it out"
                )
            if not count or not (series or by_pages):
                raise SourceFault(f"{path}: holds no image plane; restore the file or leave it out")
            _check_codec(path, tiff.pages[0])
            volume = _from_pages(path, tiff) if by_pages else _from_series(path, tiff, series)
            # Of a tag that every page has, one note.
            notes = [Item(path, note, "it has no place in an OME-Zarr") for note in dict.fromkeys(complaints.notes)]
            return replace(volume, items=(*volume.items, *notes))
    except DAMAGE as error:
        raise _not_readable(path, error) from error


def _check_codec(path: str, page: Any) -> None:
    """Raise ``SourceFault`` when what decodes the voxels of a page is not installed: now, not after hours of work."""
    keyframe = page.keyframe
    if (int(keyframe.compression), int(keyframe.predictor)) == (1, 1) and keyframe.bitspersample in (8, 16, 32, 64):
        return
    arguments: dict[str, Any] = {}
    if keyframe.compression in (6, 7, 34892, 33007):  # JPEG: tables lie beside the segments
        arguments = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
    try:
        for index, (offset, length) in enumerate(zip(page.dataoffsets, page.databytecounts)):
            if length:
                page.parent.filehandle.seek(offset)
                keyframe.decode(page.parent.filehandle.read(length), index, **arguments)
                return
    except Exception as error:
        # Damage is told where it is met, with its page and offset.
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            raise damaged(path, 0, None, error) from error


def _from_pages(path: str, tiff: tifffile.TiffFile) -> Volume:
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


def _other_pages(path: str, tiff: tifffile.TiffFile, chosen: Any, planes: int) -> tuple[Item, ...]:
    """Return the pages that the image does not take; ``SourceFault`` for full ones, of which metadata do not know."""
    taken = {page.index for page in chosen.pages if page is not None and isinstance(page.index, int)}
    if chosen.dataoffset is not None and taken:
        taken |= set(range(min(taken), min(taken) + planes))
    first = chosen.keyframe
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
            f"{path}: its metadata declare {planes} planes and {planes + len(extra)} are there ({_pages_named(extra)} "
            "more); the file is damaged, or its metadata are; restore it, or pass --by-pages to take every page as "
            "a plane"
        )
    return (
        (Item(path, _pages_named(smaller), "smaller than the image: a preview of it, or another"),) if smaller else ()
    )


def _from_series(path: str, tiff: tifffile.TiffFile, series: Sequence[Any]) -> Volume:
    images = [item for item in series if len(item.shape) >= 2 and not item.keyframe.is_reduced]
    if len({(item.keyframe.shape, item.dtype) for item in images}) > 1:
        pages = [(item.keyframe.index, item.keyframe.shape, item.dtype) for item in images]
        raise SourceFault(
            f"{path}: mixes planes: "
            + ", ".join(f"page {index} is {' × '.join(map(str, shape))} {dtype}" for index, shape, dtype in pages[:4])
            + "; all planes of an image must have one shape and dtype"
        )
    if len(images) > 1:
        raise SourceFault(
            f"{path}: holds {len(images)} separate images (series); write each to a file of its own, or pass a folder"
        )
    chosen = images[0] if images else series[0]
    axes, lengths = _named_axes(path, chosen.axes, chosen.shape)
    shape: Shape = (lengths["t"], lengths["c"], lengths["z"], lengths["y"], lengths["x"])
    order = "".join(axis for axis in axes if axis in "tcz")
    samples = chosen.axes.endswith("S") or "S" in chosen.keyframe.axes
    if samples:
        order = order.replace("c", "")
    dtype = np.dtype(chosen.dtype).newbyteorder("=")
    detail: dict[str, Any] = {"file_axes": "", "page_axes": order, "byteorder": tiff.byteorder}
    if samples:
        detail["samples"] = True
    elif chosen.dataoffset is not None:
        detail["offset"] = int(chosen.dataoffset)
        _check_length(path, chosen, int(chosen.dataoffset))
    else:
        planes = [page.index for page in chosen.pages if page is not None]
        if len(planes) != _planes(shape, order):
            raise SourceFault(
                f"{path}: its metadata declare {_planes(shape, order)} planes and {len(planes)} are there; the file is "
                "damaged or truncated; restore it, leave it out, or pass --by-pages to take every page as a plane"
            )
        _check_pages(path, chosen.pages)
        if planes != list(range(len(planes))):
            detail["pages"] = planes
    if any(os.path.realpath(page.parent.filehandle.path) != os.path.realpath(path) for page in chosen.pages if page):
        raise SourceFault(
            f"{path}: is one of several files of an OME-TIFF set; pass --by-pages to take each file by itself, its "
            "place by its name"
        )
    items = _other_pages(path, tiff, chosen, _planes(shape, order))
    scale = describe_scale(tiff)
    return Volume(
        name=image_name(path),
        kind="tiff",
        files=(path,),
        levels=(shape,),
        dtype=dtype.str,
        voxel=scale.voxel,
        seconds=scale.seconds,
        channels=scale.channels,
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


def _named_axes(path: str, axes: str, shape: tuple[int, ...]) -> tuple[str, dict[str, int]]:
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


def describe_folder(
    paths: Sequence[str], name: str, *, allow_gaps: bool = False, by_pages: bool = False
) -> list[Volume]:
    """Return the volumes of the TIFF files of one folder: stacks one by one, single planes as series."""
    volumes, planes, faults = [], [], []
    for path in paths:
        try:
            if read_head(path, by_pages=by_pages).pages_follow:
                volumes.append(describe_stack(path, by_pages=by_pages))
            else:
                planes.append(path)
        except SourceFault as error:
            faults.append(str(error))
    if len(planes) == 1:
        volumes.append(describe_stack(planes[0], by_pages=by_pages))
    elif planes and not faults:
        try:
            volumes.extend(describe_series(planes, name, allow_gaps=allow_gaps))
        except SourceFault as error:
            faults.append(str(error))
    if faults:
        raise SourceFault("\n".join(faults))
    return volumes


def describe_series(paths: Sequence[str], name: str, *, allow_gaps: bool = False) -> list[Volume]:
    """Return the volumes of single-page files: one for each group of names that differ in plane numbers only."""
    groups: dict[str, list[tuple[dict[str, int], str]]] = defaultdict(list)
    parsed = parse_names([os.path.basename(path) for path in paths])
    for path, (key, numbers) in zip(paths, parsed):
        groups[key].append((numbers, path))
    volumes, faults = [], []
    for _key, members in sorted(groups.items()):
        title = name if len(groups) == 1 else image_name(_TOKEN.sub("", os.path.basename(members[0][1]))).strip("_-.")
        try:
            volumes.append(_series(members, title or name, allow_gaps))
        except SourceFault as error:
            faults.append(str(error))
    if faults:
        raise SourceFault("\n".join(faults))
    return volumes


def parse_names(bases: Sequence[str]) -> list[tuple[str, dict[str, int]]]:
    """Return for each name of a folder the name without its plane numbers, and the numbers by axis.

    Where no token says which number is the plane, it is the one that varies over the folder: the only one, or the
    one that is another in each file, or else the one of most values; the last of equals.
    """
    found: list[tuple[str, dict[str, int]]] = []
    alike: dict[str, list[int]] = defaultdict(list)
    digits: dict[int, list[str]] = {}
    for place, base in enumerate(bases):
        numbers = _tokens(base)
        key = _TOKEN.sub(lambda token: token[1], base)
        found.append((key, numbers))
        if "z" not in numbers and "t" not in numbers:
            stem, suffix = os.path.splitext(key)
            digits[place] = _NUMBER.findall(stem)
            if digits[place]:
                alike[_NUMBER.sub("*", stem) + suffix].append(place)
    for places in alike.values():
        chosen, alone = _varying([(tuple(found[place][1].items()), digits[place]) for place in places])
        for place in places:
            key, numbers = found[place]
            stem, suffix = os.path.splitext(key)
            parts = re.split(r"(\d+)", stem)
            for number in range(len(digits[place])):
                if alone or number == chosen:
                    parts[2 * number + 1] = "*"
            found[place] = ("".join(parts) + suffix, numbers | {"z": int(digits[place][chosen])})
    return found


def _tokens(base: str) -> dict[str, int]:
    """Return the numbers of a name's tokens by axis; none when a token is there twice: no plane numbers."""
    numbers: dict[str, int] = {}
    for token, text in _TOKEN.findall(base):
        axis = {"p": "z", "s": "z"}.get(token[0].lower(), token[0].lower())
        if axis in numbers:
            return {}
        numbers[axis] = int(text)
    return numbers


def _varying(names: Sequence[tuple[Any, Sequence[str]]]) -> tuple[int, bool]:
    """Return which number of the names is the plane, and whether it tells every two of the names apart."""
    best, most = len(names[0][1]) - 1, 0
    for place in range(len(names[0][1])):
        values = len({(other, int(found[place])) for other, found in names})
        if values >= most and (values > 1 or most == 0):
            best, most = place, values
    if most <= 1:
        best = len(names[0][1]) - 1
    return best, most == len(names)


def _series(members: list[tuple[dict[str, int], str]], name: str, allow_gaps: bool) -> Volume:
    faults = []
    heads = []
    for _, path in members:
        try:
            heads.append(read_head(path))
        except SourceFault as error:
            faults.append(str(error))
    usual = max(
        {(h.shape, h.dtype) for h in heads},
        key=lambda kind: sum((h.shape, h.dtype) == kind for h in heads),
        default=None,
    )
    for head in heads:
        if (head.shape, head.dtype) != usual:
            assert usual is not None
            (height, width), dtype = usual
            faults.append(
                f"{head.path}: page 0 is {head.shape[0]} × {head.shape[1]} {np.dtype(head.dtype)} where the others "
                f"are {height} × {width} {np.dtype(dtype)}; all planes of an image must have one shape"
            )
    axes = "".join(axis for axis in "tcz" if any(axis in numbers for numbers, _ in members))
    values = {axis: sorted({numbers.get(axis, 0) for numbers, _ in members}) for axis in axes}
    by_place: dict[tuple[int, ...], str] = {}
    for numbers, path in members:
        place = tuple(numbers.get(axis, 0) for axis in axes)
        if place in by_place:
            faults.append(f"{path}: is the same plane as {by_place[place]}; leave one of them out")
        by_place[place] = path
    if not allow_gaps:
        faults.extend(_gaps(members[0][1], values, by_place, axes))
    if faults:
        raise SourceFault("\n".join(faults))
    files = tuple(path for _, path in sorted(by_place.items()))
    if len(files) != np.prod([len(numbers) for numbers in values.values()], dtype=int):
        # Gaps were allowed and the grid has holes: the planes as they come.
        axes, files = "z", tuple(sorted(files, key=natural_order))
        values = {"z": list(range(len(files)))}
    assert usual is not None
    shape: Shape = (*(len(values.get(axis, [0])) for axis in "tcz"), *usual[0])  # type: ignore[assignment]
    for head in {head.codec: head for head in heads}.values():
        with tifffile.TiffFile(head.path) as tiff:
            _check_codec(head.path, tiff.pages[0])
    with _complaints(), tifffile.TiffFile(files[0]) as tiff:
        scale = describe_scale(tiff)
        page: Any = tiff.pages[0]
        byteorder, samples = tiff.byteorder, page.keyframe.samplesperpixel
    if samples > 1:
        raise SourceFault(f"{files[0]}: holds {samples} samples a pixel (colour); a series must be of grey planes")
    channels = scale.channels
    if len(channels) != shape[1]:
        channels = tuple(Channel(str(number)) for number in values["c"]) if "c" in axes else ()
    detail = {"file_axes": axes, "page_axes": "", "byteorder": byteorder}
    return Volume(
        name, "tiff", files, (shape,), usual[1], scale.voxel, scale.seconds, channels, detail,
        origin=scale.origin, unsized=scale.unsized,
    )  # fmt: skip


def _gaps(first: str, values: dict[str, list[int]], places: dict[tuple[int, ...], str], axes: str) -> Iterator[str]:
    """Yield a sentence for each axis whose numbers skip, and for each plane that some stack lacks."""
    folder = os.path.dirname(first)
    for axis, numbers in values.items():
        if axis == "c":
            continue  # wavelengths: 488, 561, 640
        steps = [after - before for before, after in pairwise(numbers)]
        for before, step in zip(numbers, steps):
            if step != min(steps):
                yield (
                    f"{folder}: plane {axis} {before + min(steps)} is missing (between {before} and {before + step}); "
                    "restore it, or pass --allow-gaps to take the planes as they are"
                )
                break
    expected = np.prod([len(numbers) for numbers in values.values()], dtype=int)
    if len(places) != expected:
        lacking = next(place for place in _grid([values[axis] for axis in axes]) if place not in places)
        where = ", ".join(f"{axis} {number}" for axis, number in zip(axes, lacking))
        yield (
            f"{folder}: plane {where} is missing ({expected - len(places)} of {expected} are); "
            "restore it, or pass --allow-gaps to take the planes as they are"
        )


def _grid(values: list[list[int]]) -> Iterator[tuple[int, ...]]:
    if not values:
        yield ()
        return
    for first in values[0]:
        for rest in _grid(values[1:]):
            yield (first, *rest)


@dataclass(frozen=True)
class Scale:
    """What metadata say of a TIFF image; see ``Volume``."""

    voxel: tuple[float, float, float] | None = None
    seconds: float | None = None
    channels: tuple[Channel, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    unsized: str = ""


def describe_scale(tiff: tifffile.TiffFile) -> Scale:
    """Return voxel size, interval and channels, from OME-XML or ImageJ metadata; what makes no sense is unknown.

    OME-XML: Pixels/@PhysicalSizeX and @PhysicalSizeXUnit (default µm), @TimeIncrement and @TimeIncrementUnit
    (default s), OME model 2016-06. ImageJ: ``spacing``, ``unit``, ``finterval``; pixels per unit in resolution tags.
    """
    try:
        if tiff.is_ome and tiff.ome_metadata:
            return _ome_scale(tiff.ome_metadata)
        if tiff.is_imagej and tiff.imagej_metadata:
            return _imagej_scale(tiff)
    except DAMAGE:
        pass  # metadata of a form that nobody expects: nothing is known
    return Scale()


def _imagej_scale(tiff: tifffile.TiffFile) -> Scale:
    meta: Any = tiff.imagej_metadata
    unit = micrometres(str(meta.get("unit", "")))
    page: Any = tiff.pages[0]
    across, down = page.get_resolution() if "XResolution" in page.tags else (0, 0)
    voxel = None
    if unit and across and down:
        voxel = as_voxel((_number(meta.get("spacing", 1.0)) * unit, unit / down, unit / across))
    labels = meta.get("Labels") or ()
    channels = tuple(Channel(str(label)) for label in labels) if len(labels) == meta.get("channels", 1) else ()
    return Scale(voxel, as_interval(meta.get("finterval")), channels)


def _number(text: Any) -> float:
    """Return a number, NaN for what is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _ome_scale(text: str) -> Scale:
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - expat of Python 3.11 bounds entity expansion
    except ElementTree.ParseError:
        return Scale()
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return Scale()
    sizes, unsized = [], ""
    for axis in "zyx":
        name = axis.upper()
        factor = micrometres(pixels.get(f"PhysicalSize{name}Unit", "µm")) or math.nan
        size = _number(pixels.get(f"PhysicalSize{name}")) * factor
        if not (math.isfinite(size) and size > 0):
            size = 1.0
            # The thickness of the only plane is asked by nobody.
            unsized += "" if axis == "z" and pixels.get("SizeZ") == "1" else axis
        sizes.append(size)
    channels = []
    for number, channel in enumerate(pixels.findall("{*}Channel")):
        # OME colours are signed 32-bit RGBA.
        color = re.fullmatch(r"\s*([+-]?\d+)\s*", channel.get("Color") or "")
        text_color = f"{(int(color[1]) & 0xFFFFFFFF) >> 8:06X}" if color else ""
        channels.append(Channel(channel.get("Name") or str(number), text_color))
    known = "y" not in unsized and "x" not in unsized
    return Scale(
        as_voxel(sizes) if known else None,
        as_interval(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s")),
        tuple(channels),
        unsized=unsized if known else "",
    )
