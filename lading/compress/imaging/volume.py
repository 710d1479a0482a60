"""What an imaging source holds, before and while it is read.

Input: what a format's reader found out (``tiff``, ``hdf5``, ``zarrsource``).
Output: ``Volume``, the description that a plan stores and any worker opens,
and ``VolumeReader``, which returns voxels.
Invariant: axes are always t, c, z, y, x (an absent axis has length 1), lengths
are voxels, voxel sizes micrometres; a reader returns exactly the window it was
asked for or raises one sentence that names file and place.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lading.compress.inventory import Item
from lading.core.errors import LadingError, UsageError

Shape = tuple[int, int, int, int, int]
Array = npt.NDArray[Any]

AXES = "tczyx"
# Why levels that a source stores are not taken.
RESOLUTIONS = "a coarser resolution, computed again; --reuse-pyramid keeps it"

# Of a window that is read in parts.
LAYER_BYTES = 16 << 20

# 64-bit integers are labels or timestamps, not intensities: their mean cannot be computed in 64 bits.
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")


@dataclass(frozen=True)
class Window:
    """A box of one channel at one time: half-open ranges of voxels along z, y and x."""

    t: int
    c: int
    z: tuple[int, int]
    y: tuple[int, int]
    x: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return (self.z[1] - self.z[0], self.y[1] - self.y[0], self.x[1] - self.x[0])

    @property
    def slices(self) -> tuple[int, int, slice, slice, slice]:
        """Selection of this window in an array of axes t, c, z, y, x."""
        return (self.t, self.c, slice(*self.z), slice(*self.y), slice(*self.x))

    def inside(self, whole: "Window") -> tuple[slice, slice, slice]:
        """Return the selection of this window in an array that holds ``whole``."""
        z, y, x = (
            slice(start - origin, end - origin)
            for (start, end), (origin, _) in zip((self.z, self.y, self.x), (whole.z, whole.y, whole.x))
        )
        return (z, y, x)

    def layers(self, depth: int, itemsize: int) -> Iterator["Window"]:
        """Yield parts of whole y and x that end at multiples of ``depth`` and hold about ``LAYER_BYTES``, if they can.

        What a library reads into memory of its own is then small beside the window.
        """
        plane = max(1, self.shape[1] * self.shape[2] * itemsize)
        step = -(-max(1, LAYER_BYTES // plane) // depth) * depth
        start = self.z[0]
        while start < self.z[1]:
            end = min(start // step * step + step, self.z[1])
            yield replace(self, z=(start, end))
            start = end

    def __str__(self) -> str:
        return (
            f"t {self.t}, c {self.c}, z {self.z[0]}:{self.z[1]}, y {self.y[0]}:{self.y[1]}, x {self.x[0]}:{self.x[1]}"
        )


@dataclass(frozen=True)
class Channel:
    """Name of a channel and its display colour as six hex digits, or ""."""

    name: str
    color: str = ""


def color_channels(samples: int) -> tuple[Channel, ...]:
    """Return the channels of pixels that are colours: red, green, blue, and what covers them; none for other numbers.

    The last one has no light of its own.
    """
    primary = (Channel("red", "FF0000"), Channel("green", "00FF00"), Channel("blue", "0000FF"))
    return {3: primary, 4: (*primary, Channel("alpha", "000000"))}.get(samples, ())


@dataclass(frozen=True)
class Volume:
    """One image: where its voxels are and what they mean.

    ``levels`` are the shapes of the resolutions that the source stores, full
    resolution first. ``voxel`` is µm along z, y, x or None when the source
    does not say; of the axes in ``unsized`` it does not, and their size there
    is 1. ``origin`` is where voxel 0 is, in µm along z, y, x. ``items`` are
    what the files hold besides, which is not taken. ``detail`` belongs to the
    format's reader (JSON values).
    """

    name: str
    kind: str
    files: tuple[str, ...]
    levels: tuple[Shape, ...]
    dtype: str
    voxel: tuple[float, float, float] | None = None
    seconds: float | None = None
    channels: tuple[Channel, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    unsized: str = ""
    items: tuple[Item, ...] = ()

    @property
    def shape(self) -> Shape:
        """Voxels along t, c, z, y, x at full resolution."""
        return self.levels[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels at full resolution."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def as_json(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        record = asdict(self)
        del record["items"]
        return record

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Volume":
        """Return the description that ``as_json`` wrote."""
        return Volume(
            name=value["name"],
            kind=value["kind"],
            files=tuple(value["files"]),
            levels=tuple(as_shape(level) for level in value["levels"]),
            dtype=value["dtype"],
            voxel=as_voxel(value["voxel"]),
            seconds=value["seconds"],
            channels=tuple(Channel(**channel) for channel in value["channels"]),
            detail=value["detail"],
            origin=tuple(value.get("origin", (0.0, 0.0, 0.0))),
            unsized=value.get("unsized", ""),
        )


class VolumeReader(Protocol):
    """An open source; one per process, never pickled, closed after use."""

    def read(self, window: Window, level: int = 0, out: Array | None = None) -> Array:
        """Return the voxels of ``window`` as a C-contiguous array z, y, x in native byte order.

        ``out``, of that shape and dtype, is filled and returned: fresh memory for
        every block costs more than reading it. Raises ``LadingError`` naming
        file and place when they cannot be read.
        """
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def as_origin(values: Iterable[Any]) -> tuple[float, float, float]:
    """Return three positions in µm; the origin when one is not finite."""
    z, y, x = (float(value) for value in values)
    return (z, y, x) if all(map(math.isfinite, (z, y, x))) else (0.0, 0.0, 0.0)


# Seconds per unit: the time units of OME-XML 2016-06 and UDUNITS-2, and how microscopes write them.
_SECONDS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3,
    "milliseconds": 1e-3, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "microsecond": 1e-6, "microseconds": 1e-6, "ns": 1e-9,
    "nanosecond": 1e-9, "ps": 1e-12, "picosecond": 1e-12, "fs": 1e-15, "as": 1e-18, "zs": 1e-21, "ys": 1e-24,
    "cs": 1e-2, "centisecond": 1e-2, "ds": 1e-1, "decisecond": 1e-1, "das": 1e1, "hs": 1e2, "ks": 1e3,
    "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0,
    "day": 86400.0, "days": 86400.0,
}  # fmt: skip


def seconds(unit: str | None) -> float | None:
    """Return how many seconds one ``unit`` is, or None for a unit that is no time this program knows.

    The prefixes of OME's Ms, Gs … differ in case from ms: they are looked up as they are written.
    """
    text = (unit or "").strip()
    large = {"Ms": 1e6, "Gs": 1e9, "Ts": 1e12, "Ps": 1e15, "Es": 1e18, "Zs": 1e21, "Ys": 1e24}
    return large.get(text, _SECONDS.get(text.lower()))


def as_interval(value: Any, unit: str | None = "s") -> float | None:
    """Return the seconds between time points, or None when number or unit say nothing."""
    factor = seconds(unit)
    try:
        found = float(value) * (factor or 0.0)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and found > 0 else None


def as_shape(values: Iterable[Any]) -> Shape:
    """Return five lengths as ints."""
    t, c, z, y, x = (int(value) for value in values)
    return (t, c, z, y, x)


def as_voxel(values: Iterable[Any] | None) -> tuple[float, float, float] | None:
    """Return three sizes in µm, or None when one is absent, zero or not finite."""
    if values is None:
        return None
    z, y, x = (float(value) for value in values)
    if not all(math.isfinite(size) and size > 0 for size in (z, y, x)):
        return None
    return (z, y, x)


def parse_voxel(text: str) -> tuple[float, float, float]:
    """Return µm along z, y, x of ``2.0,0.65,0.65``."""
    try:
        voxel = as_voxel(text.split(","))
    except ValueError:
        voxel = None
    if voxel is None:
        raise UsageError(f"voxel size {text!r} is not three positive numbers; write µm along z,y,x like 2.0,0.65,0.65")
    return voxel


# Micrometres per unit: the length units of OME-XML 2016-06 and UDUNITS-2 that microscopes write.
_MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "micrometers": 1.0, "\\u00b5m": 1.0, "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "å": 1e-4,
    "angstrom": 1e-4, "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3, "cm": 1e4, "centimeter": 1e4, "m": 1e6,
    "meter": 1e6, "metre": 1e6, "centimetre": 1e4, "decimeter": 1e5, "decimetre": 1e5, "dm": 1e5, "km": 1e9,
    "kilometer": 1e9, "picometer": 1e-6, "picometre": 1e-6, "pm": 1e-6, "inch": 25400.0, "in": 25400.0,
    "foot": 304800.0, "ft": 304800.0, "yard": 914400.0, "yd": 914400.0, "mil": 25.4, "thou": 25.4,
}  # fmt: skip


def micrometres(unit: str | None) -> float | None:
    """Return how many µm one ``unit`` is, or None for a unit that is no length (``pixel``)."""
    return _MICROMETRES.get((unit or "").strip().lower())


def natural_order(path: str) -> list[Any]:
    """Return a sorting key under which ``z2`` comes before ``z10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def image_name(path: str) -> str:
    """Return a name for the image of ``path`` that every file system and S3 key can hold."""
    stem = re.sub(r"\.(ome\.)?(tiff?|btf|tf8|ims|h5|hdf5|zarr|n5)$", "", os.path.basename(path.rstrip("/")), flags=re.I)
    name = re.sub(r"[^\w.+-]", "_", stem, flags=re.ASCII).strip(".")
    return name or "image"


def check_volume(volume: Volume) -> Volume:
    """Return ``volume``, or raise a sentence for what no image can be made of."""
    where = volume.files[0] if volume.files else volume.name
    for axis, length in zip(AXES, volume.shape):
        if length < 1:
            raise LadingError(f"{where}: has no voxels (axis {axis} is {length}); leave it out or restore it")
    if np.dtype(volume.dtype).name not in DTYPES:
        raise LadingError(
            f"{where}: voxels are {np.dtype(volume.dtype).name}, which is not an intensity; "
            f"known are {', '.join(DTYPES)}; compress it with --kind generic"
        )
    return volume
