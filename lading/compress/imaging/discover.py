"""Find the images of a source: stacks, plane series, Imaris, HDF5 and Zarr, each tile one image.

Input: a file or a folder. Output: ``Volume`` descriptions with unique names,
and the files that are no image (sidecars), relative to the source.
Invariant: every file of the source is in exactly one of the two, or the
source is refused with all its faults at once.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from lading.compress.imaging import hdf5
from lading.compress.imaging import tiff_plan as tiffplan
from lading.compress.imaging import zarr_source as zarrsource
from lading.compress.imaging.tiff import TiffReader
from lading.compress.imaging.volume import Volume, VolumeReader, check_volume, image_name, natural_order
from lading.compress.job import SourceFault
from lading.compress.sources import Source
from lading.core.errors import LadingError


@dataclass(frozen=True)
class FoundImages:
    """The images of a source and the files beside them (paths relative to the source)."""

    volumes: tuple[Volume, ...]
    sidecars: tuple[str, ...]


def open_reader(volume: Volume, source: Source) -> VolumeReader:
    """Return an open reader for ``volume``, whose files are those of ``source``."""
    if volume.kind == "tiff":
        return TiffReader(volume, source)
    if volume.kind == "hdf5":
        return hdf5.Hdf5Reader(volume, source)
    return zarrsource.ZarrReader(volume, source)


def find_images(source: Path, *, dataset: str | None = None, allow_gaps: bool = False) -> FoundImages:
    """Return what ``source`` holds; ``SourceFault`` with every fault when something is damaged or nothing is there."""
    volumes: list[Volume] = []
    sidecars: list[str] = []
    faults: list[str] = []

    def take(paths: list[str], folder: str) -> None:
        try:
            prefix = folder.replace(os.sep, "_")
            for volume in _describe(paths, prefix or image_name(str(source)), dataset, allow_gaps):
                named = f"{prefix}_{volume.name}" if prefix and volume.name != prefix else volume.name
                volumes.append(check_volume(replace(volume, name=image_name(named)[:120])))
        except LadingError as error:
            faults.append(str(error))

    if not source.exists():
        raise SourceFault(f"{source}: does not exist; check the path")
    if source.is_file() or zarrsource.is_zarr(source):
        take([str(source)], "")
    else:
        for directory, names, files in os.walk(source, onerror=_refuse):
            folder = os.path.relpath(directory, source)
            folder = "" if folder == "." else folder
            names.sort()
            for name in [name for name in names if zarrsource.is_zarr(Path(directory, name))]:
                names.remove(name)
                take([os.path.join(directory, name)], folder)
            planes = []
            for name in sorted(files, key=natural_order):
                path = os.path.join(directory, name)
                suffix = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    sidecars.append(os.path.relpath(path, source))
                elif suffix in tiffplan.SUFFIXES:
                    planes.append(path)
                elif suffix in hdf5.IMARIS_SUFFIXES + hdf5.SUFFIXES:
                    take([path], folder)
                else:
                    sidecars.append(os.path.relpath(path, source))
            if planes:
                take(planes, folder)
    if not volumes and not faults:
        faults.append(f"{source}: holds no image (TIFF, .ims, HDF5 or Zarr), so there are no planes to compress")
    faults.extend(_same_names(volumes))
    if faults:
        raise SourceFault("\n".join(faults))
    return FoundImages(tuple(volumes), tuple(sidecars))


def _refuse(error: OSError) -> None:
    raise SourceFault(f"{error.filename}: cannot be listed: {error.strerror}") from error


def _same_names(volumes: list[Volume]) -> list[str]:
    counts = Counter(volume.name.lower() for volume in volumes)
    return [
        f"{volume.files[0]}: would be written as {volume.name!r} like another image; rename one of them"
        for volume in volumes
        if counts[volume.name.lower()] > 1
    ]


def _describe(paths: list[str], name: str, dataset: str | None, allow_gaps: bool) -> list[Volume]:
    """Return the volumes of one file, or of the TIFF files of one folder."""
    first = paths[0]
    suffix = os.path.splitext(first)[1].lower()
    if os.path.isdir(first):
        return zarrsource.describe_zarr(Path(first), dataset)
    if suffix in hdf5.IMARIS_SUFFIXES:
        return [hdf5.describe_imaris(first)]
    if suffix in hdf5.SUFFIXES:
        return hdf5.describe_hdf5(first, dataset)
    if suffix not in tiffplan.SUFFIXES:
        raise SourceFault(f"{first}: is no image that can be read (TIFF, .ims, HDF5 or Zarr); try --kind generic")
    if len(paths) == 1:
        return [tiffplan.describe_stack(first)]
    return tiffplan.describe_folder(paths, name, allow_gaps=allow_gaps)
