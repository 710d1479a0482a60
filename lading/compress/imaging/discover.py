"""Find the images of a source: stacks, plane series, Imaris, HDF5, N5 and Zarr, each tile one image.

Input: a file or a folder. Output: ``Volume`` descriptions with unique names,
and the files that are no image (sidecars), relative to the source.
Invariant: every file of the source is in exactly one of the two, or the
source is refused with all its faults at once.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lading.compress.imaging import hdf5, png_planes
from lading.compress.imaging import n5_source as n5source
from lading.compress.imaging import tiff_plan as tiffplan
from lading.compress.imaging import zarr_source as zarrsource
from lading.compress.imaging.tiff import TiffReader
from lading.compress.imaging.volume import Volume, VolumeReader, check_volume, image_name, natural_order
from lading.compress.job import SourceFault, walk_files
from lading.compress.sources import Source
from lading.core.errors import LadingError


@dataclass(frozen=True)
class FoundImages:
    """The images of a source and the files beside them (paths relative to the source)."""

    volumes: tuple[Volume, ...]
    sidecars: tuple[str, ...]
    hurt: tuple[str, ...] = ()  # a sentence for each file that is not a readable image and is carried as it is


def open_reader(volume: Volume, source: Source) -> VolumeReader:
    """Return an open reader for ``volume``, whose files are those of ``source``."""
    if volume.kind == "tiff":
        return TiffReader(volume, source)
    if volume.kind == "png":
        return png_planes.PngReader(volume, source)
    if volume.kind == "hdf5":
        return hdf5.Hdf5Reader(volume, source)
    if volume.kind == "n5":
        return n5source.N5Reader(volume, source)
    return zarrsource.ZarrReader(volume, source)


def is_container(path: Path) -> bool:
    """Tell whether a directory is one source by itself: a Zarr hierarchy or an N5 container."""
    return zarrsource.is_zarr(path) or n5source.is_n5(path)


@dataclass(frozen=True)
class How:
    """What options say of how images are found; see the flags of imaging."""

    dataset: str | None = None
    allow_gaps: bool = False
    by_pages: bool = False
    accept_damaged: bool = False

    @staticmethod
    def of(options: Mapping[str, Any]) -> "How":
        """Return what a job's options say; those of a plan of an earlier version lack some."""
        flags = (bool(options.get(name)) for name in ("allow_gaps", "by_pages", "accept_damaged"))
        return How(options.get("dataset"), *flags)


@dataclass
class _Search:
    """What was found so far in a source."""

    source: Path
    how: How
    volumes: list[Volume] = field(default_factory=list)
    sidecars: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    hurt: list[str] = field(default_factory=list)

    def carry(self, paths: list[str]) -> None:
        """Take files, or all files of a directory, for what is carried as it is."""
        for path in paths:
            if os.path.isdir(path):
                inner = [os.path.join(path, name) for name, _ in walk_files(Path(path))]
                self.sidecars.extend(os.path.relpath(name, self.source) for name in inner)
            else:
                self.sidecars.append(os.path.relpath(path, self.source))

    def take(self, paths: list[str], folder: str) -> None:
        """Take the images of a file, or of the planes of a directory."""
        try:
            prefix = folder.replace(os.sep, "_")
            found = _describe(paths, prefix or image_name(str(self.source)), self.how, str(self.source))
            # Tables, pictures that stand alone, and anything else that such files may hold.
            read = {path for one in found for path in one.files}
            if not found or os.path.splitext(paths[0])[1].lower() in png_planes.SUFFIXES:
                self.carry([path for path in paths if path not in read])
            named = [f"{prefix}_{one.name}" if prefix and one.name != prefix else one.name for one in found]
            self.volumes.extend(
                [check_volume(replace(one, name=image_name(name)[:120])) for one, name in zip(found, named)]
            )
        except Exception as error:  # noqa: BLE001 - what a reader does not expect is a fault of the file
            said = (
                str(error) if isinstance(error, LadingError) else f"{paths[0]}: cannot be read ({error!r}); restore it"
            )
            if self.how.accept_damaged and self.source.is_dir() and not is_container(self.source):
                self.hurt.extend(said.split("\n"))
                self.carry(paths)
            else:
                self.faults.append(said)

    def walk(self) -> None:
        """Take what a directory holds."""
        for directory, names, files in os.walk(self.source, onerror=_refuse):
            folder = os.path.relpath(directory, self.source)
            folder = "" if folder == "." else folder
            for name in sorted(name for name in names if name.startswith(".")):
                names.remove(name)  # like a hidden file: no data, but carried
                self.carry([os.path.join(directory, name)])
            names.sort()
            for name in [name for name in names if is_container(Path(directory, name))]:
                names.remove(name)
                self.take([os.path.join(directory, name)], folder)
            planes, pictures = [], []
            for name in sorted(files, key=natural_order):
                path = os.path.join(directory, name)
                suffix = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    self.sidecars.append(os.path.relpath(path, self.source))
                elif suffix in tiffplan.SUFFIXES:
                    planes.append(path)
                elif suffix in png_planes.SUFFIXES:
                    pictures.append(path)
                elif suffix in hdf5.IMARIS_SUFFIXES + hdf5.SUFFIXES:
                    self.take([path], folder)
                else:
                    self.sidecars.append(os.path.relpath(path, self.source))
            if planes:
                self.take(planes, folder)
            if pictures:
                self.take(pictures, folder)


def find_images(source: Path, how: How = How()) -> FoundImages:
    """Return what ``source`` holds; ``SourceFault`` with every fault when something is damaged or nothing is there."""
    if not source.exists():
        raise SourceFault(f"{source}: does not exist; check the path")
    search = _Search(source, how)
    if source.is_file() or is_container(source):
        search.take([str(source)], "")
    else:
        search.walk()
    faults = search.faults
    if not search.volumes and not faults:
        faults.extend(search.hurt)
        faults.append(
            f"{source}: holds no image (TIFF, PNG, .ims, HDF5, N5 or Zarr), so there are no planes to compress"
        )
    volumes = _without_partitions(search.volumes)
    faults.extend(_same_names(volumes))
    if faults:
        raise SourceFault("\n".join(faults))
    return FoundImages(tuple(volumes), tuple(search.sidecars), tuple(search.hurt))


def _refuse(error: OSError) -> None:
    raise SourceFault(f"{error.filename}: cannot be listed: {error.strerror}") from error


def _without_partitions(volumes: list[Volume]) -> list[Volume]:
    """Return the images without those in files that another image reads by links: they are its own parts."""
    parts = {path for volume in volumes for path in volume.detail.get("linked", ())}
    return [volume for volume in volumes if os.path.realpath(volume.files[0]) not in parts]


def _same_names(volumes: list[Volume]) -> list[str]:
    counts = Counter(volume.name.lower() for volume in volumes)
    return [
        f"{volume.files[0]}: would be written as {volume.name!r} like another image; rename one of them"
        for volume in volumes
        if counts[volume.name.lower()] > 1
    ]


def _describe(paths: list[str], name: str, how: How, top: str) -> list[Volume]:
    """Return the volumes of one file, or of the TIFF files of one folder; none for a file that holds no image."""
    first = paths[0]
    suffix = os.path.splitext(first)[1].lower()
    if os.path.isdir(first) and not zarrsource.is_zarr(Path(first)):
        return n5source.describe_n5(Path(first), how.dataset, allow_gaps=how.allow_gaps)
    if os.path.isdir(first):
        return zarrsource.describe_zarr(Path(first), how.dataset)
    if suffix in hdf5.IMARIS_SUFFIXES:
        return [hdf5.describe_imaris(first)]
    if suffix in hdf5.SUFFIXES:
        return hdf5.describe_hdf5(first, how.dataset, allow_gaps=how.allow_gaps)
    if suffix not in (*tiffplan.SUFFIXES, *png_planes.SUFFIXES):
        raise SourceFault(
            f"{first}: is not an image that can be read (TIFF, PNG, .ims, HDF5, N5 or Zarr); try --kind generic"
        )
    if suffix in png_planes.SUFFIXES:
        return png_planes.describe_png_series(paths, name, allow_gaps=how.allow_gaps)[0]
    if len(paths) == 1:
        return tiffplan.describe_stack(first, by_pages=how.by_pages, top=top)
    return tiffplan.describe_folder(paths, name, allow_gaps=how.allow_gaps, by_pages=how.by_pages, top=top)
