"""What the metadata of a TIFF image say of sizes, times and channels.

Input: an open TIFF file. Output: a ``Scale``.
Invariant: what makes no sense is unknown, and never refuses an image.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import tifffile

from lading.compress.imaging.tiff import DAMAGE
from lading.compress.imaging.volume import Channel, as_interval, as_origin, as_voxel, micrometres


@dataclass(frozen=True)
class Scale:
    """What metadata say of a TIFF image; see ``Volume``."""

    voxel: tuple[float, float, float] | None = None
    seconds: float | None = None
    channels: tuple[Channel, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    unsized: str = ""


def describe_scale(tiff: tifffile.TiffFile, series: int = 0) -> Scale:
    """Return voxel size, interval and channels, from OME-XML or ImageJ metadata; what makes no sense is unknown.

    OME-XML: Pixels/@PhysicalSizeX and @PhysicalSizeXUnit (default µm), @TimeIncrement and @TimeIncrementUnit
    (default s), OME model 2016-06. ImageJ: ``spacing``, ``unit``, ``finterval``; pixels per unit in resolution tags.
    Micro-Manager: ``PixelSizeUm`` of the first plane or the summary, ``z-step_um``, ``Interval_ms``.
    """
    try:
        if tiff.is_ome and tiff.ome_metadata:
            return _ome_scale(tiff.ome_metadata, series)
        if tiff.is_imagej and tiff.imagej_metadata:
            return _imagej_scale(tiff)
        if tiff.is_micromanager or tiff.is_ndtiff:
            return _micromanager_scale(tiff)
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


def _micromanager_scale(tiff: tifffile.TiffFile) -> Scale:
    """Return what Micro-Manager's own metadata say, where there is no OME-XML: NDTiff has none."""
    summary: Any = (tiff.micromanager_metadata or {}).get("Summary")
    tag: Any = tiff.pages.first.tags.get("MicroManagerMetadata")
    known = [one for one in (tag.value if tag is not None else None, summary) if isinstance(one, dict)]

    def positive(*names: str) -> float:
        found = [_number(one[name]) for one in known for name in names if name in one]
        return next((value for value in found if math.isfinite(value) and value > 0), 0.0)

    size, step = positive("PixelSizeUm", "PixelSize_um"), positive("z-step_um", "Z-step_um", "ZStep_um")
    interval = as_interval(positive("Interval_ms"), "ms")
    names = _index_names(tiff) if tiff.is_ndtiff else ()
    channels = tuple(Channel(name) for name in names)
    if not size:
        return Scale(None, interval, channels)
    return Scale((step or 1.0, size, size), interval, channels, unsized="" if step else "z")


def _index_names(tiff: tifffile.TiffFile) -> list[str]:
    """Return the channels by the names that NDTiff's index has, in their order there; none where it has numbers."""
    rows = tifffile.tifffile.read_ndtiff_index(os.path.join(tiff.filehandle.dirname, "NDTiff.index"))
    names = dict.fromkeys(axes.get("channel") for axes, *_ in rows)
    return [str(name) for name in names] if all(isinstance(name, str) for name in names) else []


def _number(text: Any) -> float:
    """Return a number, NaN for what is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _ome_scale(text: str, series: int) -> Scale:
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - expat of Python 3.11 bounds entity expansion
    except ElementTree.ParseError:
        return Scale()
    found = root.findall(".//{*}Pixels")
    if len(found) <= series:
        return Scale()
    pixels = found[series]
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
        _stage(pixels) if known else (0.0, 0.0, 0.0),
        unsized=unsized if known else "",
    )


def _stage(pixels: ElementTree.Element) -> tuple[float, float, float]:
    """Return where the stage was for the first plane, in µm along z, y, x: tiles of one acquisition differ in it.

    Plane/@PositionX and @PositionXUnit, whose default is a unit that only the microscope knows: that is no place.
    """
    for plane in pixels.iterfind("{*}Plane"):
        if all((plane.get(name) or "").strip() == "0" for name in ("TheZ", "TheC", "TheT")):
            found = []
            for axis in "ZYX":
                place = _number(plane.get(f"Position{axis}")) * (micrometres(plane.get(f"Position{axis}Unit")) or 0.0)
                found.append(place if math.isfinite(place) else 0.0)
            return as_origin(found)
    return (0.0, 0.0, 0.0)
