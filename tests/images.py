"""Small images in the formats that microscopes write."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def light_sheet(shape: tuple[int, ...], seed: int = 1, dtype: str = "uint16") -> np.ndarray[Any, Any]:
    """Camera noise over an offset, some bright blobs, an empty corner; axes …, z, y, x."""
    generator = np.random.default_rng(seed)
    image = generator.poisson(8, shape).astype(np.float32) + 100
    z, y, x = shape[-3:]
    for _ in range(6):
        center = generator.integers(0, (z, y, x))
        distance = sum(
            ((np.arange(n).reshape([-1 if i == a else 1 for i in range(3)]) - c) / (n / 6 + 1)) ** 2
            for a, (n, c) in enumerate(zip((z, y, x), center))
        )
        image += 800 * np.exp(-distance)
    image[..., : y // 3, : x // 3] = 0
    return image.astype(dtype)


def _text(value: object) -> np.ndarray[Any, Any]:
    return np.frombuffer(str(value).encode(), dtype="S1")


def write_imaris(
    path: Path, image: np.ndarray[Any, Any], voxel: tuple[float, float, float], levels: int = 2
) -> list[Any]:
    """Write t, c, z, y, x as Imaris 5.5: blocks padded with noise, sizes and extents as characters.

    Levels below take every second voxel: recognisably not a mean. Returns their arrays.
    """
    made = [image]
    for _ in range(levels - 1):
        made.append(made[-1][:, :, ::2, ::2, ::2])
    with h5py.File(path, "w") as file:
        for level, data in enumerate(made):
            for t in range(data.shape[0]):
                for c in range(data.shape[1]):
                    group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint {t}/Channel {c}")
                    true = data[t, c]
                    stored = np.full([-(-n // 16) * 16 for n in true.shape], 60000, true.dtype)
                    stored[tuple(slice(n) for n in true.shape)] = true
                    group.create_dataset("Data", data=stored, chunks=(16, 16, 16), compression="gzip")
                    for axis, length in zip("ZYX", true.shape):
                        group.attrs[f"ImageSize{axis}"] = _text(length)
        info = file.create_group("DataSetInfo/Image").attrs
        for number, (axis, length, size) in enumerate(zip("XYZ", image.shape[:1:-1], voxel[::-1])):
            info[axis] = _text(length)
            info[f"ExtMin{number}"] = _text(10.0)
            info[f"ExtMax{number}"] = _text(10.0 + length * size)
        info["Unit"] = _text("um")
        for c in range(image.shape[1]):
            about = file.create_group(f"DataSetInfo/Channel {c}").attrs
            about["Name"] = _text(f"GFP {c}")
            about["Color"] = _text("0.0 1.0 0.5")
    return made
