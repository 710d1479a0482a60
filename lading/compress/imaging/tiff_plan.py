"""Describe TIFF sources: which file and page holds which plane, and what a voxel measures.

Input: paths of TIFF files. Output: ``Volume`` descriptions for ``tiff.TiffReader``.
Invariant: every plane of a volume exists once and has the same shape and
dtype, or every exception is reported at once; a file that ends early is
refused before one voxel is read.
"""

import contextlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tifffile

from lading.compress.imaging.plane_series import arrange_planes, parse_names, title_of
from lading.compress.imaging.tiff import DAMAGE, damaged
from lading.compress.imaging.tiff_scale import describe_scale
from lading.compress.imaging.tiff_series import all_pages, images_of
from lading.compress.imaging.volume import (
    Volume,
    image_name,
)
from lading.compress.inventory import Item
from lading.compress.job import SourceFault

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")

# What tifffile says of directories that it cannot find or follow, and of voxels that it cannot place.
_BROKEN = (
    "invalid offset to", "invalid page offset", "circular reference", "corrupted tag list",
    "missing data", "missing ByteCounts", "incorrect Strip", "missing required tags",
)  # fmt: skip
_BAD_TAG = re.compile(r"TiffTag (\d+) ")
# Without these a page is not what it was: sizes, type, order and place of its voxels.
_NEEDED_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339}


@dataclass(frozen=True)
class TiffHeader:
    """What the first page of a file says."""

    path: str
    shape: tuple[int, int]
    dtype: str
    pages_follow: bool
    samples: int = 1
    codec: tuple[int, int] = (1, 1)  # compression and predictor

    @property
    def kind(self) -> tuple[tuple[int, int], str, int]:
        """What all planes of an image share."""
        return self.shape, self.dtype, self.samples


@dataclass
class _Complaints:
    """What tifffile reported: ``fatal`` when pages or voxels may be missed, ``notes`` otherwise."""

    fatal: list[str]
    notes: list[str]


@contextlib.contextmanager
def _complaints() -> Iterator[_Complaints]:
    """Collect what tifffile logs: it reports a broken page chain there and goes on."""
    found = _Complaints([], [])

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = " ".join(record.getMessage().split())
            tag = _BAD_TAG.search(message)
            if any(word in message for word in _BROKEN) or (tag and int(tag[1]) in _NEEDED_TAGS):
                found.fatal.append(message)
            elif tag:
                # tifffile skips a tag that makes no sense, of which the voxels do not depend.
                found.notes.append(f"tag {tag[1]} cannot be read")
            elif record.levelno >= logging.ERROR:
                found.notes.append(message.split("> ")[-1])

    logger, handler = tifffile.logger(), Collect(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def read_head(path: str, *, by_pages: bool = False) -> TiffHeader:
    """Return shape and dtype of the first page; ``SourceFault`` when there is none."""
    try:
        with _complaints(), tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            shape = (page.keyframe.imagelength, page.keyframe.imagewidth)
            dtype = np.dtype(page.dtype).newbyteorder("=").str if page.dtype is not None else ""
            follow = tiff.pages.is_multipage
            if not by_pages:
                follow = follow or len(tiff.series) > 1 or tiff.series[0].size != page.size
            codec = (int(page.compression), int(page.predictor))
            return TiffHeader(path, shape, dtype, follow, page.keyframe.samplesperpixel, codec)
    except DAMAGE as error:
        raise _not_readable(path, error) from error


def _not_readable(path: str, error: BaseException) -> SourceFault:
    size = os.path.getsize(path) if os.path.exists(path) else 0
    if isinstance(error, SourceFault):
        return error
    if size == 0:
        return SourceFault(f"{path}: is empty (0 bytes); restore the file or leave it out")
    return SourceFault(
        f"{path}: is not a readable TIFF file of {size} bytes: {' '.join(str(error).split())}; "
        "restore the file or leave it out"
    )


def describe_stack(path: str, *, by_pages: bool = False, top: str = "") -> list[Volume]:
    """Return the volumes of one file with all its pages; ``by_pages``: each is a plane, whatever metadata say.

    An OME-TIFF may hold several images. One of several files of a set gives the images of the set, if all its
    files are below ``top``.
    """
    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as tiff:
            count = len(tiff.pages)
            series: Sequence[Any] = [] if by_pages else tiff.series
            if by_pages:
                list(tiff.pages)  # every directory is looked at
            if complaints.fatal:
                reason = complaints.fatal[0].split("> ")[-1]
                raise SourceFault(
                    f"{path}: page {count} cannot be found, the file is damaged or truncated at "
                    f"{os.path.getsize(path)} bytes ({reason}); restore the file or leave it out"
                )
            if not count or not (series or by_pages):
                raise SourceFault(f"{path}: holds no image plane; restore the file or leave it out")
            _check_codec(path, tiff.pages[0])
            volumes = [all_pages(path, tiff)] if by_pages else images_of(path, tiff, series, top)
            # Of a tag that every page has, one note.
            notes = [Item(path, note, "it has no place in an OME-Zarr") for note in dict.fromkeys(complaints.notes)]
            return [replace(volumes[0], items=(*volumes[0].items, *notes)), *volumes[1:]]
    except DAMAGE as error:
        raise _not_readable(path, error) from error


def _check_codec(path: str, page: Any) -> None:
    """Raise ``SourceFault`` when what decodes the voxels of a page is not installed: now, not after hours of work."""
    keyframe = page.keyframe
    if (int(keyframe.compression), int(keyframe.predictor)) == (1, 1) and keyframe.bitspersample in (8, 16, 32, 64):
        return
    arguments: dict[str, Any] = {}
    if keyframe.compression in (6, 7, 34892, 33007):  # JPEG: tables lie beside the segments
        arguments = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
    try:
        for index, (offset, length) in enumerate(zip(page.dataoffsets, page.databytecounts)):
            if length:
                page.parent.filehandle.seek(offset)
                keyframe.decode(page.parent.filehandle.read(length), index, **arguments)
                return
    except Exception as error:
        # Damage is told where it is met, with its page and offset.
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            raise damaged(path, 0, None, error) from error


def describe_folder(
    paths: Sequence[str], name: str, *, allow_gaps: bool = False, by_pages: bool = False, top: str = ""
) -> list[Volume]:
    """Return the volumes of the TIFF files of one folder: stacks one by one, sets, and single planes as series."""
    volumes: list[Volume] = []
    planes: list[str] = []
    faults: list[str] = []
    members: set[str] = set()  # files of sets that are described
    for path in paths:
        if os.path.realpath(path) in members:
            continue
        try:
            if read_head(path, by_pages=by_pages).pages_follow:
                found = describe_stack(path, by_pages=by_pages, top=top)
                members |= {os.path.realpath(file) for one in found if "table" in one.detail for file in one.files}
                volumes.extend(found)
            else:
                planes.append(path)
        except SourceFault as error:
            faults.append(str(error))
    # The one that describes the set may come after others.
    planes = [path for path in planes if os.path.realpath(path) not in members]
    volumes = [one for one in volumes if "table" in one.detail or os.path.realpath(one.files[0]) not in members]
    if len(planes) == 1:
        volumes.extend(describe_stack(planes[0], by_pages=by_pages, top=top))
    elif planes and not faults:
        try:
            volumes.extend(describe_series(planes, name, allow_gaps=allow_gaps))
        except SourceFault as error:
            faults.append(str(error))
    if faults:
        raise SourceFault("\n".join(faults))
    return volumes


def describe_series(paths: Sequence[str], name: str, *, allow_gaps: bool = False) -> list[Volume]:
    """Return the volumes of single-page files: one for each group of names that differ in plane numbers only."""
    groups: dict[str, list[tuple[dict[str, int], str]]] = defaultdict(list)
    parsed = parse_names([os.path.basename(path) for path in paths])
    for path, (key, numbers) in zip(paths, parsed):
        groups[key].append((numbers, path))
    volumes, faults = [], []
    for _key, members in sorted(groups.items()):
        title = name if len(groups) == 1 else image_name(title_of(os.path.basename(members[0][1]))).strip("_-.")
        try:
            volumes.append(_series(members, title or name, allow_gaps))
        except SourceFault as error:
            faults.append(str(error))
    if faults:
        raise SourceFault("\n".join(faults))
    return volumes


def _series(members: list[tuple[dict[str, int], str]], name: str, allow_gaps: bool) -> Volume:
    found = arrange_planes(members, read_head, allow_gaps=allow_gaps)
    for head in {head.codec: head for head in found.heads}.values():
        with tifffile.TiffFile(head.path) as tiff:
            _check_codec(head.path, tiff.pages[0])
    with _complaints(), tifffile.TiffFile(found.files[0]) as tiff:
        scale = describe_scale(tiff)
        byteorder = tiff.byteorder
    volume = found.volume(name, "tiff", {"page_axes": "", "byteorder": byteorder})
    channels = scale.channels if len(scale.channels) == volume.shape[1] else volume.channels
    return replace(
        volume, voxel=scale.voxel, seconds=scale.seconds, channels=channels, origin=scale.origin, unsized=scale.unsized
    )
