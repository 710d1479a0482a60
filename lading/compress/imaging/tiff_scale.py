"""What the metadata of a TIFF image say of sizes, times and channels.

Input: an open TIFF file. Output: a ``Scale``.
Invariant: what makes no sense is unknown, and never refuses an image.
"""

import math
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import tifffile

from lading.compress.imaging.tiff import DAMAGE
from lading.compress.imaging.volume import Channel, as_interval, as_voxel, micrometres


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
    """
    try:
        if tiff.is_ome and tiff.ome_metadata:
            return _ome_scale(tiff.ome_metadata, series)
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
        unsized=unsized if known else "",
    )
