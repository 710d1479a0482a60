"""Images to OME-Zarr: what ``--kind imaging`` does.

Input: TIFF stacks and series, Imaris, HDF5 or Zarr; each tile is one image.
Output: ``DESTINATION/NAME.ome.zarr`` per image (NGFF 0.5 or 0.4), and the files
that are no image as they are.
Invariant: a unit is a superblock of 2 × 2 × 2 or 2 × 2 × 4 shards, read once,
which writes its shards of level 0 and, from memory, those of level 1; each
later shard is a unit that reads the level below after the units that wrote
it. No two units touch one file. A unit counts only after its files were decoded and compared
with the source, read again. The group's metadata, without which no reader
finds an image, comes last.
"""

import argparse
import heapq
import io
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress import inventory
from lading.compress.destination import Destination, add_endpoint, open_destination
from lading.compress.file_copy import copy_verified, send_verified, stamp, working_directory
from lading.compress.imaging import ngff, pyramid
from lading.compress.imaging import ome_zarr as omezarr
from lading.compress.imaging.discover import FoundImages, How, find_images, open_reader
from lading.compress.imaging.image_preview import draw_image, preview_path
from lading.compress.imaging.n5_source import folders
from lading.compress.imaging.ome_zarr import OmeZarrLayout
from lading.compress.imaging.tiff import files_of
from lading.compress.imaging.tiff_residue import count_residues, residue_path, write_residue
from lading.compress.imaging.volume import RESOLUTIONS, Shape, Volume, Window, as_shape, parse_voxel
from lading.compress.imaging.work_block import WorkBlock
from lading.compress.inventory import Item
from lading.compress.job import (
    COVERAGE,
    CompressionJob,
    CompressionPlan,
    CompressionUnit,
    Output,
    Result,
    SourceFault,
    UnitRecord,
    digest,
    fold_digests,
    walk_files,
)
from lading.compress.lossless_check import more_than_voxels
from lading.compress.names import carried_name, find_clashes, rename, rename_reserved
from lading.compress.preview import pictures
from lading.compress.sources import OpenFile, Source
from lading.core.errors import LadingError, UsageError
from lading.core.progress import counted, format_bytes

SUFFIX = ".ome.zarr"
CONTAINERS = ("zarr", "n5")  # kinds of sources that are directories

# Chunks of 2 MB (0.5) and 8 MB (0.4) and blocks of 67 MB of 16-bit voxels: compute.md measured these.
_CHUNKS = {"0.5": "64,128,128", "0.4": "64,256,256"}
_SHARD = "128,512,512"

# Shards of a superblock along x: a source's rows are read whole, so a narrow superblock reads more than it needs.
_NARROW, _WIDE = 2, 4
# What superblocks that are twice as many may save in time before they are taken: they read rows twice.
_WORTH = 1.25


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``--kind imaging``."""
    group = parser.add_argument_group("imaging")
    group.add_argument("--ngff", choices=ngff.VERSIONS, default="0.5", help="0.5: Zarr 3 with shards; 0.4: Zarr 2")
    group.add_argument("--levels", type=int, help="resolutions; default: until no axis is longer than 512 voxels")
    group.add_argument("--chunk", help="voxels per chunk along z,y,x; default 64,128,128 (0.4: 64,256,256)")
    group.add_argument("--shard", default=_SHARD, help="voxels per shard file (0.4: per block) along z,y,x")
    group.add_argument("--codec", default="blosc-zstd", metavar="NAME[:LEVEL]", help=", ".join(omezarr.CODECS))
    group.add_argument("--voxel-size", metavar="Z,Y,X", help="µm; default: what the source says")
    group.add_argument("--dataset", help="path inside HDF5 or Zarr sources")
    group.add_argument("--reuse-pyramid", action="store_true", help="reuse the levels that the source stores")
    group.add_argument("--no-preview", action="store_true", help="draw no picture of each image")
    add_endpoint(group)
    group.add_argument("--allow-gaps", action="store_true", help="accept plane series with missing numbers")
    group.add_argument(
        "--by-pages", action="store_true", help="treat each page of a TIFF as a plane, whatever its metadata say"
    )
    group.add_argument(
        "--accept-damaged", action="store_true", help="copy files that are not readable images unchanged, and name them"
    )


def _layout(options: Mapping[str, Any]) -> OmeZarrLayout:
    version = str(options.get("ngff") or "0.5")
    codec, level = omezarr.parse_codec(str(options.get("codec") or "blosc-zstd"), version)
    chunk = omezarr.parse_box(str(options.get("chunk") or _CHUNKS[version]), "chunk")
    shard = omezarr.parse_box(str(options.get("shard") or _SHARD), "shard")
    if any(outer % inner for outer, inner in zip(shard, chunk)) or any(outer % 2 for outer in shard):
        raise UsageError(
            f"shard {','.join(map(str, shard))} must be even and hold whole chunks of {','.join(map(str, chunk))}"
        )
    return OmeZarrLayout(version, chunk, shard, codec, level)


def plan(job: CompressionJob) -> CompressionPlan:
    """Describe the source, create the arrays, return the units; repeatable after any crash.

    Raises ``SourceFault`` and ``UsageError`` with every fault of the source.
    """
    options = job.options
    layout = _layout(options)
    levels = options.get("levels")
    if levels is not None and not 1 <= int(levels) <= 20:
        raise UsageError(f"--levels {levels} is not a number from 1 to 20")
    found = find_images(job.source, How.of(options))
    renamed = _check_names(job, found)
    images: list[dict[str, Any]] = []
    units: list[CompressionUnit] = []
    residues = count_residues(found.volumes)
    across = _choose_across([volume.shape for volume in found.volumes], layout, job.ranks)
    for number, volume in enumerate(found.volumes):
        if options.get("voxel_size"):
            volume = replace(volume, voxel=parse_voxel(str(options["voxel_size"])), unsized="")
        omezarr.check_dtype(layout, volume.dtype, volume.files[0])
        shapes = _shapes(volume, levels, bool(options.get("reuse_pyramid")))
        with open_destination(job) as place:
            for level, shape in enumerate(shapes):
                documents = omezarr.array_documents(layout, shape, volume.dtype)
                omezarr.place_documents(place, f"{_top(volume)}/{level}", documents)
        images.append(
            {
                "volume": volume.as_json(),
                "shapes": shapes,
                "stamps": [stamp(Path(path)) for path in volume.files] if volume.kind not in CONTAINERS else [],
                "residues": residues[number],
            }
        )
        units.extend(_units(number, volume, shapes, layout, across, bool(options.get("reuse_pyramid"))))
    units.extend(
        CompressionUnit(f"residue/{volume.name}/{part:06d}", 0, {"image": number, "residue": part})
        for number, volume in enumerate(found.volumes)
        for part in range(residues[number])
    )
    units.extend(_copies(job, found))
    # A plan of an earlier version has no place for pictures.
    previews, lacking = pictures.plan_pictures(bool(options.get("no_preview")))
    memory = max(_memory(layout, volume.dtype) for volume in found.volumes)
    facts = {
        "layout": asdict(layout),
        "images": images,
        "renamed": renamed,
        "worker_memory": memory,
        "coverage": COVERAGE,
        "damaged": list(found.hurt),
        "previews": previews,
        **inventory.account(job.source, _taken(job, found), _items(job, found)),
        "notice": [*_notice(found, len(units), memory, sized=bool(options.get("voxel_size"))), *lacking],
    }
    return CompressionPlan(tuple(units), facts, tuple(_partly(job, found)))


def _copies(job: CompressionJob, found: FoundImages) -> Iterator[CompressionUnit]:
    """Yield the units that carry files as they are."""
    base = job.source if job.source.is_dir() else job.source.parent
    for path in found.sidecars:
        name = digest(path.encode("utf-8", "surrogateescape"))
        yield CompressionUnit(f"file/{name}", (base / path).stat().st_size, {"file": path})


def estimate(job: CompressionJob) -> list[str]:
    """Return what a person is told of the outputs before anything is written; raises as ``plan``."""
    layout = _layout(job.options)
    found = find_images(job.source, How.of(job.options))
    files = 0
    for volume in found.volumes:
        for shape in _shapes(volume, job.options.get("levels"), bool(job.options.get("reuse_pyramid"))):
            fitted = layout.fitted(shape)
            box = fitted.shard if layout.version == "0.5" else fitted.chunk
            files += shape[0] * shape[1] * math.prod(-(-length // size) for length, size in zip(shape[2:], box)) + 1
    each = "a shard" if layout.version == "0.5" else "a chunk"
    return [f"{counted(len(found.volumes), 'image')}: at most about {counted(files, 'file')}, {each} each"]


def _notice(found: FoundImages, units: int, memory: int, *, sized: bool) -> list[str]:
    """Return what a person is told before the work begins; ``sized``: the size of a voxel was given."""
    size = format_bytes(sum(volume.nbytes for volume in found.volumes))
    unknown = "is unknown, written as 1 without a unit; give --voxel-size"
    return [
        f"{counted(len(found.volumes), 'image')}, {size}, {counted(units, 'unit')}; at most about "
        f"{format_bytes(memory)} of memory per "
        "worker",
        *(
            f"{volume.files[0]}: the size of a voxel {unknown}"
            for volume in found.volumes
            if volume.voxel is None and not sized
        ),
        *(
            f"{volume.files[0]}: the size of a voxel along {volume.unsized} {unknown}"
            for volume in found.volumes
            if volume.unsized and not sized
        ),
        *(f"copied unchanged: {sentence}" for sentence in found.hurt),
    ]


def _taken(job: CompressionJob, found: FoundImages) -> set[str]:
    """Return the files that become images or are carried, relative to the source."""
    source = Source(job.source)
    taken = set(found.sidecars)
    levels = None if job.options.get("reuse_pyramid") else 1
    for volume in found.volumes:
        for path in volume.files:
            below = source.relative(path)
            taken.add(below)
            if volume.kind in CONTAINERS:
                arrays = volume.detail["arrays"][:levels] if volume.kind == "zarr" else folders(volume, levels)
                for array in arrays:
                    top = Path(path, array)
                    taken |= {os.path.normpath(os.path.join(below, array, name)) for name, _ in walk_files(top)}
        taken |= {source.relative(path) for path in volume.detail.get("linked", ()) if _is_below(path, job.source)}
    return taken


def _is_below(path: str, top: Path) -> bool:
    return os.path.commonpath([os.path.realpath(top), path]) == os.path.realpath(top)


def _items(job: CompressionJob, found: FoundImages) -> list[Item]:
    """Return what the files of the images hold and no image does, with paths relative to the source."""
    source = Source(job.source)
    reuse = bool(job.options.get("reuse_pyramid"))
    return [
        replace(item, path=source.relative(item.path))
        for volume in found.volumes
        for item in volume.items
        if not (reuse and item.reason == RESOLUTIONS)
    ]


def _partly(job: CompressionJob, found: FoundImages) -> Iterator[str]:
    """Yield the files of the images, which units read window by window."""
    source = Source(job.source)
    for path in sorted({path for volume in found.volumes for path in volume.files}):
        below = source.relative(path)
        if not os.path.isdir(path):
            yield below
        else:
            for inner, _ in walk_files(Path(path)):
                yield inner if below == "." else f"{below}/{inner}"


def _check_names(job: CompressionJob, found: FoundImages) -> dict[str, str]:
    """Return what the files that are no image are carried under; ``SourceFault`` when one would meet an image."""
    renamed = rename_reserved(found.sidecars)
    base = Source(job.source)
    targets = [(base.locate(path), rename(renamed, path)) for path in found.sidecars]
    clashes = list(find_clashes(targets, {_top(volume): f"the image {volume.name}" for volume in found.volumes}))
    if clashes:
        raise SourceFault("\n".join(clashes))
    return renamed


def _shapes(volume: Volume, levels: int | None, reuse: bool) -> list[Shape]:
    if not reuse:
        return pyramid.level_shapes(volume.shape, levels)
    if len(volume.levels) < 2:
        raise UsageError(f"{volume.files[0]}: stores no pyramid to reuse; leave --reuse-pyramid out")
    return list(volume.levels[: levels or None])


def _memory(layout: OmeZarrLayout, dtype: str) -> int:
    """Return bytes a worker needs at most: 4 shards read, 2 of level 1, 2 in encoding, 2 in comparison, the program."""
    return 10 * math.prod(layout.shard) * np.dtype(dtype).itemsize + 200_000_000


def _top(volume: Volume) -> str:
    return f"{volume.name}{SUFFIX}"


def _boxes(shape: Shape, step: Iterable[int]) -> Iterator[tuple[tuple[int, ...], Window]]:
    """Yield (grid place, window) of the boxes of ``step`` voxels that tile ``shape``, cut at its ends."""
    steps = tuple(step)
    for t, c in itertools.product(range(shape[0]), range(shape[1])):
        for place in itertools.product(*(range(-(-length // size)) for length, size in zip(shape[2:], steps))):
            z, y, x = (
                (index * size, min((index + 1) * size, length)) for index, size, length in zip(place, steps, shape[2:])
            )
            yield place, Window(t, c, z, y, x)


def _choose_across(shapes: Sequence[Shape], layout: OmeZarrLayout, ranks: int) -> int:
    """Return how many shards a superblock spans along x: wide, unless ranks would then wait for one another."""
    down, tall, wide = layout.shard

    def longest(across: int) -> int:
        """Voxels of the rank that has most, when each takes the largest superblock that is left."""
        steps = (2 * down, 2 * tall, across * wide)
        loads = [0] * ranks
        for size in sorted((math.prod(w.shape) for shape in shapes for _, w in _boxes(shape, steps)), reverse=True):
            heapq.heapreplace(loads, loads[0] + size)
        return max(loads)

    return _NARROW if longest(_NARROW) * _WORTH < longest(_WIDE) else _WIDE


def _units(
    number: int, volume: Volume, shapes: list[Shape], layout: OmeZarrLayout, across: int, reuse: bool
) -> Iterator[CompressionUnit]:
    size = np.dtype(volume.dtype).itemsize
    copied = len(shapes) if reuse else 1

    def name(level: int, window: Window, place: Iterable[int]) -> str:
        return f"{volume.name}/{level}/{window.t}.{window.c}/" + ".".join(map(str, place))

    def task(level: int, window: Window) -> dict[str, Any]:
        return {"image": number, "level": level, "window": [window.t, window.c, window.z, window.y, window.x]}

    down, tall, wide = layout.shard
    for level in range(copied):
        for place, window in _boxes(shapes[level], (2 * down, 2 * tall, across * wide)):
            yield CompressionUnit(name(level, window, place), math.prod(window.shape) * size, task(level, window))
    for level in range(max(2, copied), len(shapes)):
        for place, window in _boxes(shapes[level], layout.shard):
            # The shard at p covers the shards 2p and 2p + 1 of the level below; those of level 1 come from the
            # superblocks of level 0 at the same place, which write 1 or 2 of them along x.
            below: Iterable[tuple[int, ...]] = itertools.product(
                *(
                    range(2 * index, min(2 * index + 2, -(-length // size_)))
                    for index, length, size_ in zip(place, shapes[level - 1][2:], layout.shard)
                )
            )
            if level == 2:
                below = ((z, y, 2 * x // across) for z, y, x in below)
            after = tuple(dict.fromkeys(name(level - 1 if level > 2 else 0, window, lower) for lower in below))
            yield CompressionUnit(
                name(level, window, place), math.prod(window.shape) * size, task(level, window), after
            )


def run(job: CompressionJob, unit: CompressionUnit) -> Result:
    """Write one block, decode it from disk, compare it with the source; equal output every time."""
    if "file" in unit.task:
        return _copy_sidecar(job, unit)
    omezarr.prepare_process()
    image = job.facts["images"][unit.task["image"]]
    volume = Volume.from_json(image["volume"])
    if "residue" in unit.task:
        return _write_residue(job, volume, unit.task["residue"])
    shapes = [as_shape(shape) for shape in image["shapes"]]
    t, c, z, y, x = unit.task["window"]
    window = Window(t, c, tuple(z), tuple(y), tuple(x))
    level = unit.task["level"]
    reuse = bool(job.options.get("reuse_pyramid"))
    layout = OmeZarrLayout.from_json(job.facts["layout"])
    bytes_in = 0
    with open_destination(job) as place:
        block = WorkBlock(place, _top(volume), layout, shapes, window, level)
        written = [level]
        if level == 0 or reuse:
            coarser = len(shapes) > 1 and not reuse
            _require_unchanged(volume, image["stamps"], window)
            with Source.of(job) as source, closing(open_reader(volume, source)) as reader:
                proof = block.copy_level(reader, coarser=coarser)
            _require_unchanged(volume, image["stamps"], window)
            written += [1] if coarser else []
            bytes_in = unit.cost if level == 0 else 0
        else:
            proof = block.reduce_level()
        outputs = tuple(proof.files.outputs())
    checksum = fold_digests(proof.digests.values())
    return Result(
        bytes_in=bytes_in,
        bytes_out=sum(output.size for output in outputs),
        source_hash=checksum,
        decoded_hash=checksum,  # equal by comparison, voxel by voxel
        codec=layout.codec_text,
        outputs=outputs,
        detail={"image": volume.name, "levels": written, "digests": proof.digests},
    )


def _write_residue(job: CompressionJob, volume: Volume, number: int) -> Result:
    first = volume.files[0]
    sharing = [one["volume"] for one in job.facts["images"] if one["volume"]["files"][0] == first]
    with open_destination(job) as place, Source.of(job) as source:
        wrote = write_residue(source, place, [Volume.from_json(one) for one in sharing], number)
    checksum = wrote.found.hash
    detail = {"reasons": dict(wrote.reasons)}
    return Result(0, wrote.found.size, checksum, checksum, "gzip", (Output(wrote.path, *wrote.found),), detail)


def _copy_sidecar(job: CompressionJob, unit: CompressionUnit) -> Result:
    path = str(unit.task["file"])
    name = carried_name(job, path)
    with open_destination(job) as place, Source.of(job) as source, source.open(path) as file:
        if place.root is not None:
            found = copy_verified(file, place.root / name, working_directory(job))
        else:
            found = send_verified(file, place, name)
        record = file.record(found.sha256)
    checksums = (found.hash, found.hash)
    return Result(found.size, found.size, *checksums, "copy", (Output(name, *found),), {}, (record,))


def _require_unchanged(volume: Volume, stamps: list[list[int]], window: Window) -> None:
    """Raise ``SourceFault`` when a file of ``window`` is not the one that was planned."""
    for number in files_of(volume, window):
        path = Path(volume.files[number])
        try:
            now = stamp(path)
        except OSError as error:
            raise SourceFault(f"{path}: cannot be read any more: {error.strerror}; restore it and run again") from error
        if stamps and now != stamps[number]:
            raise SourceFault(f"{path}: changed since the work was planned; let its writer finish, then run again")


def finish(job: CompressionJob, markers: Iterable[UnitRecord]) -> Mapping[str, Any]:
    """Write the group metadata of each image; return what compress.json should tell about it."""
    layout = OmeZarrLayout.from_json(job.facts["layout"])
    by_image: dict[str, list[UnitRecord]] = defaultdict(list)
    reasons: dict[str, str] = {}
    for marker in markers:
        reasons |= marker.result.detail.get("reasons", {})
        if "image" in marker.result.detail:
            by_image[marker.result.detail["image"]].append(marker)
    with open_destination(job) as place:
        told = [_finish_image(job, place, layout, image, by_image) for image in job.facts["images"]]
        if job.facts.get("previews"):
            told = [{**one, **_preview(place, image)} for one, image in zip(told, job.facts["images"])]
    return {
        "ngff": layout.version,
        "chunk": layout.chunk,
        "shard": layout.shard,
        "codec": layout.codec_text,
        "images": told,
        "damaged": list(job.facts.get("damaged", ())),
        "coverage": job.facts.get("coverage", 0),
        # Of a file that has a residue, all besides the voxels is in that.
        inventory.LEFT_OUT: [
            Item(path, "all but its voxels", reason).encode(job.source.name) for path, reason in sorted(reasons.items())
        ],
    }


def _finish_image(
    job: CompressionJob,
    place: Destination,
    layout: OmeZarrLayout,
    image: Mapping[str, Any],
    by_image: Mapping[str, list[UnitRecord]],
) -> dict[str, Any]:
    """Write the group metadata of one image; return what compress.json tells about it."""
    reuse = bool(job.options.get("reuse_pyramid"))
    volume = Volume.from_json(image["volume"])
    shapes = [as_shape(shape) for shape in image["shapes"]]
    top = _top(volume)
    method = ngff.STORED if reuse else ngff.MEAN
    if reuse:
        changes = ngff.place_stored(shapes, volume)
    else:
        changes = pyramid.transforms(shapes, volume.voxel or (1.0, 1.0, 1.0))
    attributes = ngff.attributes(layout.version, volume, changes, _display(place, top, shapes), method)
    omezarr.place_documents(place, top, omezarr.group_documents(layout.version, attributes))
    details = [marker.result.detail for marker in by_image[volume.name]]
    if any("digests" not in detail for detail in details):
        raise LadingError(
            f"{place.name}/{top}: was begun by an earlier version of Lading; "
            "remove the destination and its state directory, then run again"
        )
    finest = [detail["digests"] for detail in details if 0 in detail["levels"]]
    shards = {tuple(map(int, name.split("."))): found for digests in finest for name, found in digests.items()}
    return {
        "name": volume.name,
        "path": top,
        "format": volume.kind,
        "files": len(volume.files),
        "residues": [residue_path(volume.name, number) for number in range(image.get("residues", 0))],
        "shape_tczyx": volume.shape,
        "dtype": volume.dtype,
        "voxel_um_zyx": volume.voxel
        and tuple(None if axis in volume.unsized else size for axis, size in zip("zyx", volume.voxel)),
        "origin_um_zyx": volume.origin,
        "levels": [list(shape) for shape in shapes],
        "downsampling": method["description"],
        "checksum": fold_digests(shards[place] for place in sorted(shards)),
    }


def _preview(place: Destination, image: Mapping[str, Any]) -> dict[str, str]:
    """Write the picture of a finished image; return where it is, or why there is none. It is no reason to fail."""
    volume = Volume.from_json(image["volume"])
    try:
        picture = draw_image(place, _top(volume), volume, [as_shape(shape) for shape in image["shapes"]])
    except (LadingError, OSError):
        raise  # what was stored cannot be read
    except Exception as error:  # noqa: BLE001 - whatever a picture lacks, the data are whole
        return {"no_preview": f"it cannot be drawn ({error!r})"}
    place.write(preview_path(volume.name), [picture])
    return {"preview": preview_path(volume.name)}


def _display(place: Destination, top: str, shapes: list[Shape]) -> list[tuple[float, float]]:
    """Return a display range per channel from three planes of the coarsest level at the first time."""
    level = len(shapes) - 1
    _, channels, depth, height, width = shapes[level]
    # The coarsest level may still be large when few levels were asked for: its middle suffices.
    y, x = ((max(0, length // 2 - 512), min(length, length // 2 + 512)) for length in (height, width))
    planes = sorted({depth // 4, depth // 2, 3 * depth // 4})
    return [
        ngff.display_range([omezarr.read_box(place, f"{top}/{level}", Window(0, c, (z, z + 1), y, x)) for z in planes])
        for c in range(channels)
    ]


# The facts of the job at hand, and the image that each of its files is read for.
_files: tuple[Any, dict[str, Volume]] | None = None


def _image_of(job: CompressionJob, name: str) -> Volume | None:
    """Return the image that a file is read for."""
    global _files
    if _files is None or _files[0] is not job.facts:
        volumes = [Volume.from_json(image["volume"]) for image in job.facts["images"]]
        _files = (job.facts, {path: volume for volume in volumes for path in volume.files})
    return _files[1].get(name)


def lossy(job: CompressionJob, file: OpenFile) -> str:
    """Return what of an image's file its OME-Zarr does not hold."""
    volume = _image_of(job, file.name)
    if volume is None or volume.kind != "tiff":
        return "everything but voxels of the image"
    if job.facts.get("coverage") != COVERAGE:
        return "what an earlier version of Lading did not account for; compress it again"
    found = more_than_voxels(io.BufferedReader(file.as_file(), 1 << 18), volume)
    return f"more than voxels ({found})" if found else ""


def secret(job: CompressionJob) -> str | None:
    """Return None: no output has a password."""
    return None
