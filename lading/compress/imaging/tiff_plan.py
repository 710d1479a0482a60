"""Describe TIFF sources: which file and page holds which plane, and what a voxel measures.

Input: paths of TIFF files. Output: ``Volume`` descriptions for ``tiff.TiffReader``.
Invariant: every plane of a volume exists once and has the same shape and
dtype, or every exception is reported at once; a file that ends early is
refused before one voxel is read.
"""

import contextlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from lading.compress.imaging.tiff import DAMAGE
from lading.compress.imaging.volume import (
    Channel,
    Shape,
    Volume,
    as_voxel,
    image_name,
    micrometres,
    natural_order,
)
from lading.compress.job import SourceFault

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")

# Tokens of plane numbers in file names, as microscopes write them: _z0012, _ch_488, -T3, _C01.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(time|t|channel|chan|ch|c|plane|slice|z)[_ -]?(\d+)(?![A-Za-z0-9])", re.I)
_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")
# tifffile's axes that are a stack of planes without saying which: sequence, other, unknown.
_STACK = "ZIQ"


@dataclass(frozen=True)
class TiffHeader:
    """What the first page of a file says."""

    path: str
    shape: tuple[int, int]
    dtype: str
    pages_follow: bool


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile logs as errors: it reports a broken page chain there and goes on."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR or "invalid" in record.getMessage():
                messages.append(record.getMessage())

    logger, handler = tifffile.logger(), Collect(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def read_head(path: str) -> TiffHeader:
    """Return shape and dtype of the first page; ``SourceFault`` when there is none."""
    try:
        with _complaints(), tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            shape = (page.keyframe.imagelength, page.keyframe.imagewidth)
            dtype = np.dtype(page.dtype).newbyteorder("=").str if page.dtype is not None else ""
            follow = tiff.pages.is_multipage or len(tiff.series) > 1 or tiff.series[0].size != page.size
            return TiffHeader(path, shape, dtype, follow)
    except DAMAGE as error:
        raise _not_readable(path, error) from error


def _not_readable(path: str, error: BaseException) -> SourceFault:
    size = os.path.getsize(path) if os.path.exists(path) else 0
    if isinstance(error, SourceFault):
        return error
    if size == 0:
        return SourceFault(f"{path}: is empty (0 bytes); restore the file or leave it out")
    return SourceFault(
        f"{path}: is no readable TIFF file of {size} bytes: {' '.join(str(error).split())}; "
        "restore the file or leave it out"
    )


def describe_stack(path: str) -> Volume:
    """Return the volume of one file with all its pages."""
    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as tiff:
            count = len(tiff.pages)
            series = tiff.series
            if complaints:
                raise SourceFault(
                    f"{path}: page {count} cannot be found, the file is damaged or cut short at "
                    f"{os.path.getsize(path)} bytes ({complaints[0].split('> ')[-1]}); restore the file or leave it out"
                )
            if not count or not series:
                raise SourceFault(f"{path}: holds no image plane; restore the file or leave it out")
            return _from_series(path, tiff, series)
    except DAMAGE as error:
        raise _not_readable(path, error) from error


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
                f"{path}: its metadata promise {_planes(shape, order)} planes and {len(planes)} are there; "
                "the file is damaged or cut short; restore it or leave it out"
            )
        _check_pages(path, chosen.pages)
        if planes != list(range(len(planes))):
            detail["pages"] = planes
    if any(os.path.realpath(page.parent.filehandle.path) != os.path.realpath(path) for page in chosen.pages if page):
        raise SourceFault(f"{path}: is one of several files of an OME-TIFF set; pass a folder of single images")
    voxel, seconds, channels = describe_scale(tiff)
    return Volume(
        name=image_name(path),
        kind="tiff",
        files=(path,),
        levels=(shape,),
        dtype=dtype.str,
        voxel=voxel,
        seconds=seconds,
        channels=channels,
        detail=detail,
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
            f"{path}: ends at byte {size} inside page {plane}, its metadata promise {end} bytes; "
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
                f"{path}: axes {axes} of shape {' × '.join(map(str, shape))} are no image of t, c, z, y, x; "
                f"axis {axis!r} has no place in OME-Zarr"
            )
        names += name
        lengths[name] = length
    return names, lengths


def describe_folder(paths: Sequence[str], name: str, *, allow_gaps: bool = False) -> list[Volume]:
    """Return the volumes of the TIFF files of one folder: stacks one by one, single planes as series."""
    volumes, planes, faults = [], [], []
    for path in paths:
        try:
            if read_head(path).pages_follow:
                volumes.append(describe_stack(path))
            else:
                planes.append(path)
        except SourceFault as error:
            faults.append(str(error))
    if len(planes) == 1:
        volumes.append(describe_stack(planes[0]))
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
    for path in paths:
        key, numbers = parse_name(os.path.basename(path))
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


def parse_name(base: str) -> tuple[str, dict[str, int]]:
    """Return the name without its plane numbers, and the numbers by axis; a lone last number counts as z."""
    numbers: dict[str, int] = {}
    for token, digits in _TOKEN.findall(base):
        axis = {"p": "z", "s": "z"}.get(token[0].lower(), token[0].lower())
        if axis in numbers:  # twice the same token: not plane numbers
            numbers = {}
            break
        numbers[axis] = int(digits)
    if "z" not in numbers and "t" not in numbers:
        key = _TOKEN.sub(lambda token: token[1], base)
        match = _LAST_NUMBER.search(os.path.splitext(key)[0])
        if match:
            rest = os.path.splitext(key)
            return rest[0][: match.start()] + "*" + rest[0][match.end() :] + rest[1], numbers | {"z": int(match[1])}
        return key, numbers
    return _TOKEN.sub(lambda token: token[1], base), numbers


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
    with _complaints(), tifffile.TiffFile(files[0]) as tiff:
        voxel, seconds, channels = describe_scale(tiff)
        page: Any = tiff.pages[0]
        byteorder, samples = tiff.byteorder, page.keyframe.samplesperpixel
    if samples > 1:
        raise SourceFault(f"{files[0]}: holds {samples} samples a pixel (colour); a series must be of grey planes")
    if len(channels) != shape[1]:
        channels = tuple(Channel(str(number)) for number in values["c"]) if "c" in axes else ()
    detail = {"file_axes": axes, "page_axes": "", "byteorder": byteorder}
    return Volume(name, "tiff", files, (shape,), usual[1], voxel, seconds, channels, detail)


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


def describe_scale(
    tiff: tifffile.TiffFile,
) -> tuple[tuple[float, float, float] | None, float | None, tuple[Channel, ...]]:
    """Return voxel size in µm, seconds between time points and channels, from OME-XML or ImageJ metadata.

    OME-XML: Pixels/@PhysicalSizeX and @PhysicalSizeXUnit (default µm), OME model 2016-06.
    ImageJ: ``spacing``, ``unit``, ``finterval``; pixels per unit in the resolution tags.
    """
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_scale(tiff.ome_metadata)
    if tiff.is_imagej and tiff.imagej_metadata:
        meta = tiff.imagej_metadata
        unit = micrometres(str(meta.get("unit", "")))
        page: Any = tiff.pages[0]
        across, down = page.get_resolution() if "XResolution" in page.tags else (0, 0)
        voxel = None
        if unit and across and down:
            voxel = as_voxel((float(meta.get("spacing", 1.0)) * unit, unit / down, unit / across))
        seconds = float(meta["finterval"]) if meta.get("finterval") else None
        labels = meta.get("Labels") or ()
        channels = tuple(Channel(str(label)) for label in labels) if len(labels) == meta.get("channels", 1) else ()
        return voxel, seconds, channels
    return None, None, ()


def _ome_scale(text: str) -> tuple[tuple[float, float, float] | None, float | None, tuple[Channel, ...]]:
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - expat of Python 3.11 bounds entity expansion
    except ElementTree.ParseError:
        return None, None, ()
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return None, None, ()
    sizes = []
    for axis in "ZYX":
        size = float(pixels.get(f"PhysicalSize{axis}", "1" if axis == "Z" and pixels.get("SizeZ") == "1" else "nan"))
        sizes.append(size * (micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm")) or float("nan")))
    increment = pixels.get("TimeIncrement")
    channels = []
    for number, channel in enumerate(pixels.findall("{*}Channel")):
        color = channel.get("Color")
        # OME colours are signed 32-bit RGBA.
        text_color = f"{(int(color) & 0xFFFFFFFF) >> 8:06X}" if color else ""
        channels.append(Channel(channel.get("Name") or str(number), text_color))
    return as_voxel(sizes), float(increment) if increment else None, tuple(channels)
