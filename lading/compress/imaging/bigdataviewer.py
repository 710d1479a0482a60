"""Sizes and positions of BigDataViewer's images, from the .xml beside the HDF5 file or the N5 container.

Input: the path of the file or container, and a set-up. Output: the volume with its voxel size and its place.
Invariant: an .xml that cannot be read, or is of another file, changes nothing; what is in it and cannot be told in
an OME-Zarr (rotation, shear) is named.

Format (SpimData): ``SequenceDescription/ViewSetups/ViewSetup`` with ``id`` and
``voxelSize/size`` (x y z) and ``unit``; ``ViewRegistrations/ViewRegistration`` with
``timepoint``, ``setup`` and ``ViewTransform/affine``, 3 × 4 numbers a transform, the
last in the file applied first, from voxels to the world.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lading.compress.imaging.volume import Volume, as_origin, as_voxel, micrometres
from lading.compress.inventory import Item

_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class About:
    """An .xml that names the HDF5 file or the N5 container."""

    path: str
    root: ElementTree.Element


def read_xml(path: str) -> About | None:
    """Return the .xml beside a file or container that names it, None when there is none that can be read."""
    folder = Path(path).parent
    stem = Path(path).name.rpartition(".")[0]
    candidates = [folder / f"{stem}.xml"]
    # A partition (dataset-01-00.h5) is named by the file that links it all.
    candidates += sorted(one for one in folder.glob("*.xml") if one != candidates[0] and stem.startswith(one.stem))
    for one in candidates:
        try:
            if one.stat().st_size > _MOST_BYTES:
                continue
            root = ElementTree.fromstring(one.read_bytes())  # noqa: S314 - expat of Python 3.11 bounds entity expansion
        except (OSError, ElementTree.ParseError, LookupError, ValueError):
            continue
        names = [
            os.path.basename((element.text or "").strip()) for kind in ("hdf5", "n5") for element in root.iter(kind)
        ]
        if root.tag == "SpimData" and (Path(path).name in names or stem != one.stem):
            return About(str(one), root)
    return None


def place_levels(factors: Sequence[Any], levels: Sequence[str]) -> list[Any]:
    """Return step and first voxel of each level along z, y, x, in voxels of level 0, from factors along x, y, z.

    Nothing where the factors are not those of the levels: their shapes say it then.
    """
    numbers = [number for level in levels for number in re.findall(r"\d+", level)]
    try:
        found = [[float(one) for one in factors[int(number)]][::-1] for number in numbers]
    except (TypeError, ValueError, IndexError):
        return []
    if not found or found[0] != [1.0] * 3 or any(len(one) != 3 or min(one) <= 0 for one in found):
        return []
    return [[one, [(factor - 1) / 2 for factor in one]] for one in found]


def place(volume: Volume, about: About | None, setup: int, time: int) -> Volume:
    """Return a volume with the size and the place that its set-up has at its first time point."""
    if about is None:
        return volume
    for view in about.root.iter("ViewSetup"):
        if (view.findtext("id") or "").strip() == str(setup):
            numbers = _numbers(view.findtext("voxelSize/size") or "", 3)
            unit = micrometres(view.findtext("voxelSize/unit"))
            if numbers is not None and unit:
                volume = replace(volume, voxel=as_voxel(size * unit for size in numbers[::-1]))
    for registration in about.root.iter("ViewRegistration"):
        if (registration.get("setup"), registration.get("timepoint")) == (str(setup), str(time)):
            return _moved(volume, about, registration)
    return volume


def _moved(volume: Volume, about: About, registration: ElementTree.Element) -> Volume:
    whole = np.eye(4)
    for transform in registration.iter("ViewTransform"):
        numbers = _numbers(transform.findtext("affine") or "", 12)
        if numbers is None:
            return replace(volume, items=(*volume.items, Item(about.path, f"place of {volume.name}", "cannot be read")))
        matrix = np.eye(4)
        matrix[:3] = np.array(numbers).reshape(3, 4)
        whole = whole @ matrix
    turned = not np.allclose(whole[:3, :3], np.diag(np.diag(whole[:3, :3])), rtol=0, atol=1e-9)
    # The world's unit is the voxel of the calibration: one step along x is the first diagonal's worth.
    step = np.diag(whole[:3, :3])
    if turned or volume.voxel is None or (step <= 0).any():
        reason = "is not a pure shift along z, y, x; keep the .xml" if turned else "has no unit of length"
        return replace(volume, items=(*volume.items, Item(about.path, f"place of {volume.name}", reason)))
    origin = (whole[axis, 3] / step[axis] * size for axis, size in zip((2, 1, 0), volume.voxel))
    return replace(volume, origin=as_origin(origin))


def _numbers(text: str, count: int) -> list[float] | None:
    try:
        found = [float(number) for number in text.split()]
    except ValueError:
        return None
    return found if len(found) == count and all(np.isfinite(found)) else None
