"""Where an image lies and how large its voxels are, parsed from its source without any of Lading's code.

Input: what a plan says of which files an image was read from (``kind``, ``files``, ``detail``), and the options.
Output: a ``Place``: µm along z, y, x, or None where the source does not say; µm of voxel 0; seconds between times.

Written by the documents of the formats: OME model 2016-06, ImageJ's description, Imaris 5.5, SpimData of
BigDataViewer, NGFF 0.4 and 0.5. Units are those that the tests use.
"""

import json
import math
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

MICRONS = {
    "µm": 1, "μm": 1, "um": 1, "micron": 1, "microns": 1, "\\u00b5m": 1, "micrometer": 1, "nm": 1e-3, "nanometer": 1e-3,
    "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "m": 1e6, "meter": 1e6, "inch": 25400, "å": 1e-4, "angstrom": 1e-4,
    "pm": 1e-6,
}  # fmt: skip
SECONDS = {
    "s": 1,
    "second": 1,
    "sec": 1,
    "ms": 1e-3,
    "millisecond": 1e-3,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
}

Sizes = tuple[float | None, float | None, float | None]


@dataclass
class Place:
    """What a source says. ``levels``: factors and shift, in voxels of level 0, of each that it stores."""

    voxel: Sizes = (None, None, None)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seconds: float | None = None
    levels: list[tuple[tuple[float, float, float], tuple[float, float, float]]] = field(default_factory=list)


def place_of(volume: Mapping[str, Any], options: Mapping[str, Any]) -> Place:
    """Return what the source of an image says of sizes and places, and what options say instead."""
    detail, files = volume["detail"], volume["files"]
    if volume["kind"] == "tiff":
        found = _tiff(files, _series(volume))
    elif volume["kind"] == "hdf5":
        found = {"Imaris": _imaris, "BigDataViewer": _views}.get(detail.get("format"), _plain)(files[0], detail)
    elif volume["kind"] == "zarr":
        found = _ngff(files[0], detail)
    elif volume["kind"] == "n5" and "BigDataViewer" in detail.get("format", ""):
        setup, time = re.match(r"setup(\d+)/", detail["datasets"][0]), re.search(r"\d+", detail["times"][0])
        assert setup
        assert time
        found = _spim_data(files[0], int(setup[1]), int(time[0]))
    else:
        found = Place()
    if options.get("voxel_size"):
        z, y, x = map(float, str(options["voxel_size"]).split(","))
        found.voxel = (z, y, x)
    return found


def _series(volume: Mapping[str, Any]) -> int:
    """Return which image of an OME-XML it is."""
    if "series" in volume["detail"]:
        return int(volume["detail"]["series"])
    number = re.search(r"_s(\d+)(_|$)", volume["name"]) if "table" in volume["detail"] else None
    return int(number[1]) if number else 0


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _tiff(files: Sequence[str], series: int) -> Place:
    text = _description(files[0])
    if text.startswith("ImageJ="):
        return _imagej(files[0], text)
    if "<OME" not in text[:2000]:
        return _micromanager(files[0])
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        return Place()
    binary = root.find("{*}BinaryOnly")
    if binary is not None:
        beside = Path(files[0]).parent / str(binary.get("MetadataFile"))
        text = _description(str(beside)) if beside.suffix.startswith(".tif") else beside.read_text()
        root = ET.fromstring(text)
    pixels = root.findall("{*}Image/{*}Pixels")
    return _pixels(pixels[series]) if series < len(pixels) else Place()


def _description(path: str) -> str:
    with tifffile.TiffFile(path) as tiff:
        tag: Any = tiff.pages[0].aspage().tags.get(270)
        value = tag.value if tag is not None else ""
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")


def _pixels(pixels: ET.Element) -> Place:
    def size(axis: str) -> float | None:
        number = _positive(_number(pixels.get(f"PhysicalSize{axis}")))
        unit = MICRONS.get((pixels.get(f"PhysicalSize{axis}Unit") or "µm").lower())
        return None if number is None or unit is None else number * unit

    z, y, x = size("Z"), size("Y"), size("X")
    if z is None and pixels.get("SizeZ") == "1":
        z = 1.0  # of a single plane it is written as 1 µm, with the unit of the others
    interval = _positive(_number(pixels.get("TimeIncrement")))
    unit = SECONDS.get(pixels.get("TimeIncrementUnit") or "s")
    origin = (0.0, 0.0, 0.0)
    for plane in pixels.findall("{*}Plane"):
        if [plane.get(name) for name in ("TheZ", "TheC", "TheT")] == ["0", "0", "0"]:
            found = [
                (_number(plane.get(f"Position{axis}")), MICRONS.get((plane.get(f"Position{axis}Unit") or "").lower()))
                for axis in "ZYX"
            ]
            shift = [number * factor if number is not None and factor else 0.0 for number, factor in found]
            origin = (shift[0], shift[1], shift[2])
    known = y is not None and x is not None
    return Place(
        (z, y, x) if known else (None, None, None),
        origin if known else (0.0, 0.0, 0.0),
        interval * unit if interval and unit else None,
    )


def _micromanager(path: str) -> Place:
    """Return what the summary says that follows the header of Micro-Manager's files: NDTiff, and multi-page TIFF."""
    with open(path, "rb") as stream:
        mark = struct.unpack("<I", stream.read(12)[8:])[0]
        if mark not in (483729, 54773648):
            return Place()
        stream.seek(24 if mark == 483729 else 36)
        about = json.loads(stream.read(struct.unpack("<I", stream.read(4))[0]))
    size = _positive(_number(about.get("PixelSizeUm", about.get("PixelSize_um"))))
    return Place((_positive(_number(about.get("z-step_um"))) if size else None, size, size))


def _imagej(path: str, text: str) -> Place:
    about = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    unit = MICRONS.get(about.get("unit", "").lower())
    interval = _positive(_number(about.get("finterval")))
    with tifffile.TiffFile(path) as tiff:
        tags: Any = tiff.pages[0].aspage().tags
        x, y = (tags[code].value if code in tags else (0, 1) for code in (282, 283))
    spacing = _positive(_number(about.get("spacing", "1")))
    if unit is None or not x[0] or not y[0] or spacing is None:
        return Place(seconds=interval)
    return Place((spacing * unit, unit * y[1] / y[0], unit * x[1] / x[0]), seconds=interval)


def _characters(value: Any) -> str:
    return b"".join(np.asarray(value).ravel().tolist()).decode().strip("\0 ")


def _imaris(path: str, detail: Mapping[str, Any]) -> Place:
    with h5py.File(path, "r", locking=False) as file:
        about = {name: _characters(value) for name, value in file["DataSetInfo/Image"].attrs.items()}
        sizes = [
            [_level_size(file[f"DataSet/ResolutionLevel {level}/TimePoint 0/Channel 0"], axis) for axis in "ZYX"]
            for level in range(len(detail["datasets"]))
        ]
    unit = MICRONS[about.get("Unit", "um").lower()]
    low, high = ([float(about[f"Ext{end}{number}"]) * unit for number in (2, 1, 0)] for end in ("Min", "Max"))
    z, y, x = (abs(end - start) / int(about[axis]) for start, end, axis in zip(low, high, "ZYX"))
    return Place((z, y, x), (low[0], low[1], low[2]), levels=_by_shapes(sizes))


def _level_size(group: Any, axis: str) -> int:
    return int(_characters(group.attrs[f"ImageSize{axis}"]))


def _by_shapes(sizes: Sequence[Sequence[int]]) -> list[Any]:
    """Return the levels of a source that names no factors: powers of two, with the centre of what they cover."""
    levels = []
    for size in sizes:
        factors = [2.0 ** round(math.log2(full / length)) for full, length in zip(sizes[0], size)]
        assert all(abs(full / f - length) <= 1 for full, f, length in zip(sizes[0], factors, size))
        levels.append((tuple(factors), tuple((f - 1) / 2 for f in factors)))
    return levels


def _views(path: str, detail: Mapping[str, Any]) -> Place:
    setup, time = re.search(r"/s(\d+)/", detail["datasets"][0]), re.search(r"\d+", detail["times"][0])
    assert setup
    assert time
    found = _spim_data(path, int(setup[1]), int(time[0]))
    with h5py.File(path, "r", locking=False) as file:
        steps = file.get(f"s{setup[1]}/resolutions")
        factors = steps[...][:, ::-1].tolist() if steps is not None else []
    found.levels = [((z, y, x), ((z - 1) / 2, (y - 1) / 2, (x - 1) / 2)) for z, y, x in factors]
    return found


def _spim_data(path: str, setup: int, time: int) -> Place:
    """Return what the .xml beside a file or container says of a set-up."""
    for one in sorted(Path(path).parent.glob("*.xml")):
        try:
            root = ET.parse(one).getroot()
        except ET.ParseError:
            continue
        if Path(path).name in [(e.text or "").strip() for e in (*root.iter("hdf5"), *root.iter("n5"))]:
            break
    else:
        return Place()
    found = Place()
    for view in root.iter("ViewSetup"):
        if view.findtext("id") == str(setup) and view.find("voxelSize") is not None:
            unit = MICRONS[str(view.findtext("voxelSize/unit")).lower()]
            x, y, z = (float(one) * unit for one in str(view.findtext("voxelSize/size")).split())
            found.voxel = (z, y, x)
    for registration in root.iter("ViewRegistration"):
        if (registration.get("timepoint"), registration.get("setup")) == (str(time), str(setup)):
            whole = np.eye(4)
            for affine in registration.iter("affine"):
                whole = whole @ np.vstack([np.array(str(affine.text).split(), float).reshape(3, 4), [0, 0, 0, 1]])
            linear = whole[:3, :3]
            if np.array_equal(linear, np.diag(np.diag(linear))) and found.voxel[0] is not None:
                # World units to voxels by the diagonal, and those to µm.
                x, y, z = whole[:3, 3] / np.diag(linear)
                found.origin = tuple(a * b for a, b in zip((z, y, x), found.voxel))  # type: ignore[assignment,operator]
    return found


def _plain(path: str, detail: Mapping[str, Any]) -> Place:
    with h5py.File(path, "r", locking=False) as file:
        name = detail["datasets"][0].replace("{{", "{").replace("}}", "}")
        sizes = np.asarray(file[name].attrs.get("element_size_um", ())).ravel().tolist()
    return Place((sizes[0], sizes[1], sizes[2])) if len(sizes) == 3 and min(sizes) > 0 else Place()


def _attributes(folder: Path) -> dict[str, Any]:
    for name, inside in ((".zattrs", ()), ("zarr.json", ("attributes",))):
        if (folder / name).exists():
            found = json.loads((folder / name).read_text())
            for key in inside:
                found = found.get(key, {})
            return dict(found.get("ome", found))
    return {}


def _ngff(path: str, detail: Mapping[str, Any]) -> Place:
    """Return what the multiscales says that has the array of level 0."""
    first = Path(path, detail["arrays"][0])
    for above in (first.parent, *first.parent.parents):
        for image in _attributes(above).get("multiscales") or ():
            if any((above / one["path"]).resolve() == first.resolve() for one in image["datasets"]):
                return _multiscale(image)
        if above == Path(path):
            break
    return Place()


def _multiscale(image: Mapping[str, Any]) -> Place:
    names = [axis if isinstance(axis, str) else axis["name"] for axis in image.get("axes", list("tczyx"))]
    units = {axis["name"]: axis.get("unit") for axis in image.get("axes", ()) if isinstance(axis, dict)}
    levels = []
    for dataset in image["datasets"]:
        matrix = np.eye(len(names) + 1)
        known = False
        for change in (*dataset.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
            step = np.eye(len(names) + 1)
            if change["type"] == "scale":
                step[: len(names), : len(names)] = np.diag(change["scale"])
                known = True
            elif change["type"] == "translation":
                step[: len(names), -1] = change["translation"]
            matrix = step @ matrix
        if not known:
            return Place()
        levels.append(matrix)

    def along(axis: str, level: int, column: int | None) -> float:
        if axis not in names:
            return 1.0 if column is None else 0.0
        row = names.index(axis)
        return float(levels[level][row, row if column is None else column])

    factors = [MICRONS.get((units.get(axis) or "").lower()) if axis in names else 1.0 for axis in "zyx"]
    seconds = None
    if "t" in names and units.get("t") in SECONDS:
        seconds = along("t", 0, None) * SECONDS[units["t"]]
    if any(factor is None for factor in factors):
        return Place(seconds=seconds)
    z, y, x = (along(axis, 0, None) * factor for axis, factor in zip("zyx", factors))  # type: ignore[operator]
    shift = [along(axis, 0, -1) * factor for axis, factor in zip("zyx", factors)]  # type: ignore[operator]
    stored = [
        (
            tuple(along(axis, level, None) / along(axis, 0, None) for axis in "zyx"),
            tuple(
                (along(axis, level, -1) - along(axis, 0, -1)) / along(axis, 0, None) if axis in names else 0.0
                for axis in "zyx"
            ),
        )
        for level in range(len(levels))
    ]
    return Place((z, y, x), (shift[0], shift[1], shift[2]), seconds, stored)  # type: ignore[arg-type]
