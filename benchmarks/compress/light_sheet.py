"""A light-sheet-like stack from a fixed seed, written plane by plane: any size in little memory."""

from pathlib import Path

import numpy as np
import tifffile


def planes(shape: tuple[int, int, int], seed: int = 20261121) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]":
    """Yield planes (y, x) of uint16: camera offset 100, shot noise, tissue with cells, empty border."""
    depth, height, width = shape
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    tissue = np.clip(1.3 - np.hypot((y - height / 2) / (height / 2), (x - width / 2) / (width / 2)), 0, 1)
    # Noise of one plane serves all, shifted: drawing 10^9 Poisson numbers would take minutes.
    noise = generator.poisson(9, (height, width)).astype(np.uint16)
    cells = generator.integers(0, (depth, height, width), (max(8, depth * height * width // 400_000), 3))
    for z in range(depth):
        signal = np.zeros((height, width), np.float32)
        for _, cy, cx in cells[np.abs(cells[:, 0] - z) < 5]:
            box = np.s_[max(0, cy - 8) : cy + 8, max(0, cx - 8) : cx + 8]
            signal[box] += 900 * np.exp(-((y[box] - cy) ** 2 + (x[box] - cx) ** 2) / 18)
        signal += tissue * (60 + 30 * np.sin(z / 17))
        shift = generator.integers(0, (height, width))
        # Shot noise grows with the root of the signal.
        shot = np.roll(noise, shift, (0, 1)).astype(np.float32) - 9
        yield (np.clip(100 + signal + shot * (1 + np.sqrt(signal) / 4), 0, 65535)).astype(np.uint16)


def write_stack(path: Path, shape: tuple[int, int, int]) -> int:
    """Write an uncompressed BigTIFF; returns the offset of its voxels, which lie one after the other."""
    tifffile.imwrite(
        path, planes(shape), shape=shape, dtype=np.uint16, bigtiff=True, photometric="minisblack",
        metadata={"axes": "ZYX"},
    )  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        return int(tiff.series[0].dataoffset)
