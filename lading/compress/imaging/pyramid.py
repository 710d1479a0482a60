"""Resolution levels: their shapes, their place in space, and the windowed mean.

Input: shapes and voxels, axes z, y, x. Output: shapes, transforms and voxels
of the next level.
Invariant: a level's voxel i covers voxels 2i and 2i+1 of the level before
along every axis that is halved (an axis of length 1 is not); no voxel is left
out at an odd end, where the window holds what exists. Results depend on the
values alone, not on who computes them or in what pieces, as long as pieces
start at even voxels.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lading.compress.imaging.volume import Array, Shape, Window
from lading.core.compiled import load_compiled

# Coarse enough for an overview: no axis is longer than this at the last level.
LONGEST = 512


@dataclass(frozen=True)
class Transform:
    """Where a level lies: µm (or voxels) per step, and the centre of its first voxel, along z, y, x."""

    scale: tuple[float, float, float]
    translation: tuple[float, float, float]


def halve(shape: Shape) -> Shape:
    """Return the shape of the next level: half of z, y and x, rounded up."""
    t, c, z, y, x = shape
    return (t, c, (z + 1) // 2, (y + 1) // 2, (x + 1) // 2)


def halve_window(window: Window) -> Window:
    """Return the window of the next level; it starts at an even voxel, as all windows of work do."""
    z, y, x = ((start // 2, (end + 1) // 2) for start, end in (window.z, window.y, window.x))
    return Window(window.t, window.c, z, y, x)


def level_shapes(shape: Shape, count: int | None) -> list[Shape]:
    """Return ``count`` shapes from full resolution down; None goes on until no axis exceeds ``LONGEST``.

    Ends early when nothing is left to halve.
    """
    shapes = [shape]
    while (len(shapes) < count) if count is not None else max(shapes[-1][2:]) > LONGEST:
        following = halve(shapes[-1])
        if following == shapes[-1]:
            break
        shapes.append(following)
    return shapes


def transforms(shapes: list[Shape], voxel: tuple[float, float, float]) -> list[Transform]:
    """Return scale and translation of each level, for factors of two.

    The centre of voxel 0 at full resolution is the origin (NGFF 0.4 and 0.5).
    A voxel that covers f voxels has its centre (f - 1) / 2 of them further on:
    half a voxel at f = 2.
    """
    result = []
    factors = [1, 1, 1]
    for number, shape in enumerate(shapes):
        if number:
            before = shapes[number - 1]
            factors = [f * (2 if before[axis + 2] > 1 else 1) for axis, f in enumerate(factors)]
            assert shape == halve(before)
        result.append(_transform([float(f) for f in factors], voxel))
    return result


def stored_transforms(shapes: list[Shape], voxel: tuple[float, float, float]) -> list[Transform]:
    """Return scale and translation of levels that the source made, from the ratio of their shapes.

    A stored level may have dropped an odd last voxel, so the ratio is taken to
    the nearest power of two when it is within one voxel of it.
    """
    result = []
    for shape in shapes:
        factors = []
        for full, length in zip(shapes[0][2:], shape[2:]):
            power = 2 ** round(math.log2(full / length))
            factors.append(float(power) if abs(full / power - length) <= 1 else full / length)
        result.append(_transform(factors, voxel))
    return result


def _transform(factors: list[float], voxel: tuple[float, float, float]) -> Transform:
    z, y, x = (size * factor for size, factor in zip(voxel, factors))
    tz, ty, tx = (size * (factor - 1) / 2 for size, factor in zip(voxel, factors))
    return Transform((z, y, x), (tz, ty, tx))


def mean_halved(block: Array) -> Array:
    """Return the windowed mean of ``block`` (z, y, x) with every axis longer than 1 halved.

    Same dtype. Integers are rounded half up: floor(sum / n + 1/2); floats are
    summed in float64 (float16 and float32 in float32) and divided, so NaN
    stays NaN. An odd end repeats its last voxel, which is the mean of what
    exists.
    """
    factors = [2 if length > 1 else 1 for length in block.shape]
    padding = [(0, length % 2 if factor == 2 else 0) for length, factor in zip(block.shape, factors)]
    if any(after for _, after in padding):
        block = np.pad(block, padding, mode="edge")
    fz, fy, fx = factors
    count = fz * fy * fx
    out = np.empty([length // factor for length, factor in zip(block.shape, factors)], block.dtype)
    core = compiled_core()
    if core is not None and count == 8 and _is_plain(block):
        core.halve(block, out)
        return out
    wide = _accumulator(block.dtype)
    # Plane pairs at a time: the sums stay in the processor's cache.
    for row in range(len(out)):
        total = np.add(block[2 * row], block[2 * row + 1], dtype=wide) if fz == 2 else block[row].astype(wide)
        if fy == 2:
            total = total[0::2] + total[1::2]
        if fx == 2:
            total = total[:, 0::2] + total[:, 1::2]
        if block.dtype.kind == "f":
            total /= count
        else:
            total += count // 2
            total >>= count.bit_length() - 1  # an arithmetic shift rounds down, also below zero
        out[row] = total
    return out


def _is_plain(block: Array) -> bool:
    """Tell whether the compiled mean takes a block: small counts in this machine's byte order, side by side along x."""
    dtype = block.dtype
    return dtype.kind == "u" and dtype.itemsize <= 2 and dtype.isnative and block.strides[2] == dtype.itemsize


def compiled_core() -> Any:
    """Return the compiled module, or None; ``LADING_MEAN=python`` says no."""
    return load_compiled("lading.compress.imaging._mean", "LADING_MEAN")


def _accumulator(dtype: np.dtype[Any]) -> type:
    if dtype.kind == "f":
        return np.float64 if dtype.itemsize == 8 else np.float32
    if dtype.kind == "u":
        return np.uint32 if dtype.itemsize <= 2 else np.uint64
    return np.int32 if dtype.itemsize <= 2 else np.int64
