"""The OME-Zarr metadata of one image, NGFF 0.4 and 0.5.

Input: a ``Volume``, its level shapes and transforms. Output: the attributes of the image's group.
Invariant: axes are t, c, z, y, x; each level has one scale and one
translation (NGFF 0.4 and 0.5, "multiscales" metadata); the method of
downsampling is stated; a size that nobody knows has no unit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lading.compress.imaging.pyramid import Transform, stored_transforms
from lading.compress.imaging.volume import Shape, Volume

VERSIONS = ("0.5", "0.4")
_COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")

MEAN = {
    "description": "Mean of the 2 × 2 × 2 voxels (fewer at an odd end) of the level before; integers rounded half up.",
    "method": "lading windowed mean",
    "version": "1",
}

STORED = {
    "description": "The resolutions that the source stores, voxel by voxel; how it computed them is not recorded.",
    "method": "stored by the source",
    "version": "1",
}


def attributes(
    version: str,
    volume: Volume,
    levels: Sequence[Transform],
    windows: Sequence[tuple[float, float]],
    method: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the group attributes: ``multiscales`` and ``omero``, inside ``ome`` for 0.5.

    ``windows`` holds the display range of each channel in raw values.
    """
    known = volume.voxel is not None
    unit = {axis: {"unit": "micrometer"} if known and axis not in volume.unsized else {} for axis in "zyx"}
    space = [{"name": axis, "type": "space", **unit[axis]} for axis in "zyx"]
    time = {"name": "t", "type": "time"} | ({"unit": "second"} if volume.seconds else {})
    multiscale = {
        "name": volume.name,
        "axes": [time, {"name": "c", "type": "channel"}, *space],
        "datasets": [
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [volume.seconds or 1.0, 1.0, *level.scale]},
                    {
                        "type": "translation",
                        "translation": [0.0, 0.0, *(a + b for a, b in zip(volume.origin, level.translation))],
                    },
                ],
            }
            for number, level in enumerate(levels)
        ],
        "type": "mean" if method is MEAN else "stored",
        "metadata": dict(method),
    }
    omero = {
        "name": volume.name,
        "channels": [_channel(volume, number, window) for number, window in enumerate(windows)],
        "rdefs": {
            "model": "greyscale" if len(windows) == 1 else "color",
            "defaultT": 0,
            "defaultZ": volume.shape[2] // 2,
        },
    }
    if version == "0.5":
        return {"ome": {"version": "0.5", "multiscales": [multiscale], "omero": omero}}
    return {"multiscales": [{"version": "0.4", **multiscale}], "omero": {"version": "0.4", **omero}}


def place_stored(shapes: Sequence[Shape], volume: Volume) -> list[Transform]:
    """Return scale and translation of the levels that a source stores: as it says (``placed``), or by their shapes."""
    voxel = volume.voxel or (1.0, 1.0, 1.0)
    placed = volume.detail.get("placed") or ()
    if len(placed) < len(shapes):
        return stored_transforms(list(shapes), voxel)
    return [
        Transform(
            (voxel[0] * factor[0], voxel[1] * factor[1], voxel[2] * factor[2]),
            (voxel[0] * shift[0], voxel[1] * shift[1], voxel[2] * shift[2]),
        )
        for factor, shift in placed[: len(shapes)]
    ]


def _channel(volume: Volume, number: int, window: tuple[float, float]) -> dict[str, Any]:
    dtype = np.dtype(volume.dtype)
    if dtype.kind == "f":
        low, high = min(0.0, window[0]), max(1.0, window[1])
    else:
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    channel = volume.channels[number] if number < len(volume.channels) else None
    return {
        "label": channel.name if channel else f"channel {number}",
        "color": channel_color(volume, number),
        "active": True,
        "coefficient": 1.0,
        "family": "linear",
        "inverted": False,
        "window": {"min": low, "max": high, "start": window[0], "end": window[1]},
    }


def channel_color(volume: Volume, number: int) -> str:
    """Return the display colour of a channel: its own, or by its number."""
    own = volume.channels[number].color if number < len(volume.channels) else ""
    return own or ("FFFFFF" if volume.shape[1] == 1 else _COLORS[number % len(_COLORS)])


def display_range(samples: Sequence[Any]) -> tuple[float, float]:
    """Return the 0.1 and 99.9 percentiles of finite values, always a range of at least one step."""
    values = np.concatenate([np.asarray(sample).ravel() for sample in samples]) if samples else np.zeros(0)
    values = values[np.isfinite(values)]
    if not values.size:
        return (0.0, 1.0)
    start, end = (float(value) for value in np.percentile(values, (0.1, 99.9)))
    return (start, end if end > start else start + 1.0)
