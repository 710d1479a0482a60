"""The preview of an image: a maximum projection along z of its coarsest level.

Input: a finished image in its place. Output: a PNG of at most about 512 pixels a side, with a caption.
Invariant: what is shown was decoded from what was written; at most ``MOST_VOXELS`` of a channel are, from
the middle of the image, and the caption says which.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.compress.destination import StoredFiles
from lading.compress.imaging import ngff
from lading.compress.imaging import ome_zarr as omezarr
from lading.compress.imaging.volume import Array, Shape, Volume, Window
from lading.compress.names import IMAGE_PREVIEW
from lading.compress.preview.pictures import Sheet, blend

MOST_VOXELS = 1 << 26
MOST_CHANNELS = 6
# Pixels along the longer side.
LONGEST = 512
_WIDEST = 8192
# Planes decoded at a time: no file is read twice.
_DEPTH = 128
_MARGIN, _LINE = 12, 18
_LONGEST_NAME = 30
_RANGE = (0.5, 99.8)  # percentiles that become black and full colour
_STEPS = 31
_PRIMARY = ("FF0000", "00FF00", "0000FF")


def preview_path(name: str) -> str:
    """Return where the picture of an image goes."""
    return f"{IMAGE_PREVIEW}/{name}.png"


def draw_image(place: StoredFiles, top: str, volume: Volume, shapes: Sequence[Shape]) -> bytes:
    """Return the picture of the image at ``top``, whose levels have these shapes."""
    level = len(shapes) - 1
    _, channels, *lengths = shapes[level]
    z, y, x = choose_part((lengths[0], lengths[1], lengths[2]))
    shown = range(min(channels, MOST_CHANNELS))
    colors = [ngff.channel_color(volume, number) for number in shown]
    planes = [project(place, f"{top}/{level}", Window(0, number, z, y, x)) for number in shown]
    size = _size(planes[0].shape, volume, shapes[0], shapes[level])
    natural = volume.dtype == "uint8" and tuple(colors) == _PRIMARY
    pixels = blend([_shares(shrink(plane, LONGEST), natural=natural) for plane in planes], colors)
    lines = [
        f"{volume.name[:70]}: {_depth(z, lengths[0])}, at level {level}",
        "channels: " + ", ".join(_label(volume, number) for number in shown)[:90]
        + (f" and {channels - len(shown)} more" if channels > len(shown) else ""),
    ]  # fmt: skip
    if volume.shape[0] > 1:
        lines.append(f"time 0 of {volume.shape[0]}")
    if (y[1] - y[0], x[1] - x[0]) != tuple(lengths[1:]):
        lines.append(f"the middle {x[1] - x[0]} × {y[1] - y[0]} pixels".replace("×", "x"))
    sheet = Sheet(max(size[0], LONGEST) + 2 * _MARGIN, size[1] + 2 * _MARGIN + _LINE * len(lines) + 4)
    sheet.paste((_MARGIN, _MARGIN), pixels, size)
    for number, line in enumerate(lines):
        sheet.write((_MARGIN, size[1] + _MARGIN + 8 + _LINE * number), line, faint=number > 0)
    return sheet.encode(colours=128 if len(planes) == 1 else 0)


def choose_part(lengths: tuple[int, int, int]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the ranges along z, y, x that are shown: all, or the middle."""
    y, x = (_middle(length, min(length, _WIDEST)) for length in lengths[1:])
    most = max(1, MOST_VOXELS // ((y[1] - y[0]) * (x[1] - x[0])))
    return _middle(lengths[0], min(lengths[0], most)), y, x


def _middle(length: int, taken: int) -> tuple[int, int]:
    start = (length - taken) // 2
    return start, start + taken


def project(place: StoredFiles, directory: str, window: Window) -> Array:
    """Return the maximum of a window along z."""
    found: Any = None
    start = window.z[0]
    while start < window.z[1]:
        end = min(start // _DEPTH * _DEPTH + _DEPTH, window.z[1])
        part = Window(window.t, window.c, (start, end), window.y, window.x)
        voxels = omezarr.read_box(place, directory, part)
        highest = (np.nan_to_num(voxels) if voxels.dtype.kind == "f" else voxels).max(axis=0)
        found = highest if found is None else np.maximum(found, highest)
        start = end
    return np.asarray(found)


def shrink(plane: Array, most: int) -> Array:
    """Return a plane of at most ``most`` rows and columns: the maximum of those that meet in one."""
    for axis in (0, 1):
        length = plane.shape[axis]
        if length > most:
            plane = np.maximum.reduceat(plane, np.arange(most) * length // most, axis)
    return plane


def _shares(plane: Array, *, natural: bool) -> NDArray[Any]:
    """Return a plane as shares of full colour; ``natural``: as a camera's colours are."""
    if natural:
        return plane / 255.0
    low, high = np.percentile(plane, _RANGE)
    wide: NDArray[Any] = np.clip((plane.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    # Few steps: noise in all of them would not pack.
    return np.asarray(np.rint(wide * _STEPS) / _STEPS)


def _size(pixels: tuple[int, ...], volume: Volume, full: Shape, level: Shape) -> tuple[int, int]:
    """Return width and height of the picture: as the image is in space."""
    voxel = volume.voxel or (1.0, 1.0, 1.0)
    high = pixels[0] * voxel[1] * full[3] / level[3]
    wide = pixels[1] * voxel[2] * full[4] / level[4]
    scale = LONGEST / max(high, wide)
    if not (math.isfinite(scale) and scale > 0):
        return LONGEST, LONGEST
    return max(1, round(wide * scale)), max(1, round(high * scale))


def _label(volume: Volume, number: int) -> str:
    name = volume.channels[number].name if number < len(volume.channels) else f"channel {number}"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _depth(z: tuple[int, int], planes: int) -> str:
    return f"maximum along z, planes {z[0]} to {z[1] - 1} of {planes}" if planes > 1 else "its only plane"
