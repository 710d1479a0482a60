"""Every OME-Zarr image that a test of this session finishes is checked by readers that are not Lading's.

Input: finished images, and the plan that says what each was read from. Output: counts, and what disagrees.
Each image is opened by tensorstore, whose voxels of every level must be those that zarr reads; its metadata must be
valid for ome-zarr-models in the version that was asked for; shapes of levels, scale, translation and units must be
those that follow from the source's own metadata (``image_places``). ``conftest`` calls it: at the end of each image
that is finished in the test's process, and after a test for those of child processes.
"""

import contextlib
import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tests.image_places import place_of

COUNTED: Counter[str] = Counter()
WRONG: list[str] = []
PLACES = True  # whether scale and place are compared with the source's
_seen: set[tuple[str, float]] = set()
SUFFIX = ".ome.zarr"


def watch(plan_module: Any) -> None:
    """Have every image checked that ``finish`` of the imaging plan finishes in this process."""
    finish: Callable[..., Mapping[str, Any]] = plan_module.finish
    if getattr(finish, "watched", False):
        return

    def finish_and_check(job: Any, markers: Any) -> Mapping[str, Any]:
        told = finish(job, markers)
        with plan_module.open_destination(job) as place:
            for image in job.facts["images"]:
                with _local(place, image["volume"]["name"] + SUFFIX) as top:
                    check(top, image["volume"], job.options)
        return told

    finish_and_check.watched = True  # type: ignore[attr-defined]
    plan_module.finish = finish_and_check


@contextlib.contextmanager
def _local(place: Any, top: str) -> Iterator[Path]:
    """Yield the folder of an image; one in a bucket is fetched for as long as it is looked at."""
    if place.root is not None:
        yield Path(place.root, top)
        return
    with tempfile.TemporaryDirectory(prefix="image-") as scratch:
        for path, _ in place.files():
            if path.startswith(f"{top}/"):
                target = Path(scratch, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(place.read(path))
        yield Path(scratch, top)


def check_finished_below(top: Path) -> None:
    """Check the images below a directory that child processes finished, by the plans of their states."""
    for path in top.rglob("plan.json"):
        try:
            job = json.loads(path.read_text())["job"]
            images = job["facts"]["images"] if job["kind"] == "imaging" else []
        except (ValueError, LookupError, OSError, TypeError):
            continue
        done = (path.parent / "compress.json").exists() and "://" not in job["destination"]
        for image in images if done else ():
            folder = Path(job["destination"], image["volume"]["name"] + SUFFIX)
            if folder.exists() and (str(folder), folder.stat().st_mtime) not in _seen:
                check(folder, image["volume"], job["options"])


def check(image: Path, volume: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Check one image, and note what is wrong."""
    _seen.add((str(image), image.stat().st_mtime))
    COUNTED["images"] += 1
    try:
        WRONG.extend(f"{image}: {what}" for what in _faults(image, volume, options))
    except Exception as error:  # whatever an independent reader does not take
        WRONG.append(f"{image}: {error!r}")


def _faults(image: Path, volume: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str]:
    from ome_zarr_models import open_ome_zarr

    version = str(options.get("ngff") or "0.5")
    group = zarr.open_group(image, mode="r")
    module = type(open_ome_zarr(group)).__module__
    if module != f"ome_zarr_models.v{version.replace('.', '')}.image":
        yield f"is {module} for ome-zarr-models, and NGFF {version} was asked for"
    attributes = group.attrs.asdict()
    (multiscale,) = attributes.get("ome", attributes)["multiscales"]
    shapes: list[tuple[int, ...]] = []
    for dataset in multiscale["datasets"]:
        shapes.append(tuple(group[dataset["path"]].shape))
        if str(options.get("codec")).startswith("pcodec"):
            COUNTED["levels of pcodec"] += 1
            continue
        yield from _same_voxels(image, dataset["path"], version, group, volume)
    yield from _wrong_shapes(shapes, volume, options)
    if PLACES and Path(volume["files"][0]).exists():
        yield from _wrong_places(multiscale, shapes, volume, options)
    else:
        COUNTED["without a source"] += 1  # a test that deletes sources, in processes of its own


def _same_voxels(image: Path, path: str, version: str, group: Any, volume: Mapping[str, Any]) -> Iterator[str]:
    """Compare what two libraries read, plane block by plane block."""
    import tensorstore

    array = group[path]
    spec = {
        "driver": "zarr3" if version == "0.5" else "zarr",
        "kvstore": {"driver": "file", "path": f"{image / path}/"},
    }
    opened = tensorstore.open(spec, read=True).result()
    dtype = np.dtype(volume["dtype"]).newbyteorder("=")
    if opened.shape != array.shape or opened.dtype.numpy_dtype != dtype or array.dtype != dtype:
        other = f"{opened.dtype.numpy_dtype} {opened.shape}"
        yield f"level {path} is {other} for tensorstore, {dtype} {array.shape} was planned"
        return
    COUNTED["levels"] += 1
    depth = max(1, (64 << 20) // max(1, math.prod(opened.shape[3:]) * dtype.itemsize))
    for t, c in np.ndindex(*opened.shape[:2]):
        for z in range(0, opened.shape[2], depth):
            found = np.asarray(opened[t, c, z : min(z + depth, opened.shape[2])].read().result())
            other = np.asarray(array[t, c, z : z + depth])
            COUNTED["voxels"] += found.size
            if found.tobytes() != other.tobytes():
                yield f"level {path}: tensorstore and zarr differ at t {t}, c {c}, planes from {z}"
                return


def _wrong_shapes(
    shapes: list[tuple[int, ...]], volume: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[str]:
    if shapes[0] != tuple(volume["levels"][0]):
        yield f"level 0 is {shapes[0]}, the source {volume['levels'][0]}"
    for number, (before, after) in enumerate(itertools.pairwise(shapes), 1):
        halved = (*before[:2], *(math.ceil(length / 2) for length in before[2:]))
        stored = volume["levels"][number] if options.get("reuse_pyramid") else halved
        if after != tuple(stored):
            yield f"level {number} is {after}, and {stored} was expected"


def _wrong_places(
    multiscale: Mapping[str, Any], shapes: list[tuple[int, ...]], volume: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[str]:
    """Compare scale, translation and units with what the source says."""
    place = place_of(volume, options)
    COUNTED["with sizes"] += place.voxel[2] is not None
    COUNTED["with a place"] += any(place.origin)
    units = {axis["name"]: axis.get("unit") for axis in multiscale["axes"]}
    expected = {"t": "second" if place.seconds else None, "c": None}
    expected |= {axis: None if size is None else "micrometer" for axis, size in zip("zyx", place.voxel)}
    if units != expected or "".join(units) != "tczyx":
        yield f"units are {units}, expected {expected}"
    sizes = [1.0 if size is None else size for size in place.voxel]
    factors = np.ones(3)
    for level, dataset in enumerate(multiscale["datasets"]):
        if level:
            factors = factors * [2.0 if length > 1 else 1.0 for length in shapes[level - 1][2:]]
        shift = np.array(sizes) * (factors - 1) / 2
        if options.get("reuse_pyramid") and place.levels:
            factors, shift = np.array(place.levels[level][0]), np.array(sizes) * place.levels[level][1]
        wanted = [
            [place.seconds or 1.0, 1.0, *(np.array(sizes) * factors)],
            [0.0, 0.0, *(np.array(place.origin) + shift)],
        ]
        found = [one[one["type"]] for one in dataset["coordinateTransformations"]]
        if [one["type"] for one in dataset["coordinateTransformations"]] != ["scale", "translation"]:
            yield f"level {level} has {dataset['coordinateTransformations']}"
        elif not np.allclose(found, wanted, rtol=1e-6, atol=1e-9):
            yield f"level {level} has scale and translation {found}, expected {wanted}"
