"""The TIFF files of images, made again from their voxels and the residues.

Input: a stored compression of kind imaging. Output: the bytes of its source files.
Invariant: a file that was carried as it is is that copy; a TIFF file is its
residue with the voxels of level 0 put where they were. Voxels that were stored
compressed are promised by value only. Memory: ``_MOST`` bytes of voxels.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lading.compress.imaging import ome_zarr as omezarr
from lading.compress.imaging.tiff_residue import TiffPart, TiffRecord, read_residue
from lading.compress.imaging.volume import Array, Shape, Window, as_shape
from lading.compress.job import SourceFile
from lading.compress.names import rename
from lading.compress.rebuild.stored_compression import CopyDamaged, NotPromised, StoredCompression

# Of voxels that are decoded at once: planes of a chunk's depth where that many fit.
_MOST = 512 << 20
_SHOWN = 4


class ImageRebuilder:
    """Source files of the images of one compression."""

    def __init__(self, stored: StoredCompression) -> None:
        self._stored = stored
        self._records: dict[str, tuple[TiffRecord, str]] = {}
        self._images: dict[str, tuple[str, Shape]] = {}
        self._slab: tuple[str, Window, Array] | None = None
        try:
            images = list(stored.facts.get("images", ()))
            for image in images:
                self._images[image["name"]] = (str(image["path"]), as_shape(image["shape_tczyx"]))
            for image in images:
                for path in image.get("residues", ()):
                    for record in read_residue(stored, str(path)):
                        self._records[record.path] = (record, image["name"])
        except (KeyError, TypeError, ValueError) as error:
            raise CopyDamaged(f"{stored.name}: what it says of its images is damaged ({error}); restore it") from error
        except FileNotFoundError as error:
            raise CopyDamaged(f"{stored.name}: {error} is missing; restore it") from error

    def close(self) -> None:
        """Let go of what is held."""
        self._slab = None

    def blocks(self, record: SourceFile) -> Iterator[bytes]:
        """Yield the bytes of a source file; ``NotPromised`` before the first where not all are held."""
        stored = self._stored
        found = self._records.get(record.path)
        if found is None:
            name = stored.source_name if record.path == "." else record.path
            copy = rename(stored.renamed, name)
            if not record.lossy and stored.size(copy) == record.size:
                return stored.blocks(copy)
            raise NotPromised(
                record.lossy or "it is not a TIFF file: the voxels are held, and were compared, its bytes not"
            )
        tiff, image = found
        if tiff.reason:
            raise NotPromised(f"{tiff.reason}; the voxels are held, and were compared")
        if tiff.encoded:
            total = sum(length for _, length in tiff.encoded)
            where = ", ".join(f"{start} to {start + length}" for start, length in tiff.encoded[:_SHOWN])
            raise NotPromised(
                f"{total} bytes of voxels that it stores compressed (at {where}{' …' * (len(tiff.encoded) > _SHOWN)}): "
                "they are held by value, and were compared"
            )
        if tiff.size != record.size:
            raise CopyDamaged(f"{stored.name}: the residue of {record.path} is of another file; restore it")
        if lacking := {part.image for part in tiff.parts if part.image} - self._images.keys():
            raise CopyDamaged(f"{stored.name}: the residue of {record.path} names no image here: {min(lacking)}")
        return self._tiff(tiff, image)

    def _tiff(self, tiff: TiffRecord, image: str) -> Iterator[bytes]:
        pieces: list[tuple[int, int, int, tuple[int, ...]]] = [(start, length, -1, ()) for start, length in tiff.ranges]
        for number, part in enumerate(tiff.parts):
            item = np.dtype(part.dtype).itemsize
            for box in part.boxes:
                samples = part.shape[2] if box[2] < 0 else 1
                pieces.append((box[0], box[5] * box[6] * samples * item, number, box))
        at, used = 0, 0
        for start, length, number, box in sorted(pieces):
            if start != at:
                raise CopyDamaged(f"{self._stored.name}: the residue of {tiff.path} has a hole at {at}; restore it")
            if box:
                part = tiff.parts[number]
                yield from self._voxels(part, *self._images[part.image or image], box)
            else:
                # Ranges rise, as their bytes do.
                yield tiff.rest[used : used + length]
                used += length
            at += length
        if at != tiff.size:
            raise CopyDamaged(f"{self._stored.name}: the residue of {tiff.path} ends at {at}; restore it")

    def _voxels(self, tiff: TiffPart, top: str, shape: Shape, box: tuple[int, ...]) -> Iterator[bytes]:
        """Yield the bytes of one box, plane by plane."""
        _, plane, sample, row, column, rows, columns = box
        height = tiff.shape[0]
        while rows:
            plane, row = plane + row // height, row % height
            step = min(rows, height - row)
            place = dict(tiff.at) | dict(zip(tiff.axes, np.unravel_index(plane, tiff.lengths) if tiff.axes else ()))
            t, c, z = (int(place.get(axis, 0)) for axis in "tcz")
            inside = slice(row, row + step), slice(column, column + columns)
            if tiff.shape[2] == 1:
                found = self._plane(top, shape, t, c, z)[inside]
            elif sample >= 0:
                found = self._plane(top, shape, t, sample, z)[inside]
            else:
                found = np.stack([self._plane(top, shape, t, c, z)[inside] for c in range(tiff.shape[2])], axis=-1)
            yield np.ascontiguousarray(found, tiff.dtype).tobytes()
            rows -= step
            row += step

    def _plane(self, top: str, shape: Shape, t: int, c: int, z: int) -> Array:
        """Return one plane of level 0; those that share its chunks are kept for the next."""
        directory = f"{top}/0"
        if self._slab is not None:
            where, window, voxels = self._slab
            if where == directory and (window.t, window.c) == (t, c) and window.z[0] <= z < window.z[1]:
                return np.asarray(voxels[z - window.z[0]])
        array: Any = omezarr.open_array(self._stored, directory)[0]
        size = math.prod(shape[3:]) * array.dtype.itemsize
        depth = max(1, min(array.chunks[2], _MOST // max(1, size)))
        start = z // depth * depth
        window = Window(t, c, (start, min(start + depth, shape[2])), (0, shape[3]), (0, shape[4]))
        self._slab = None  # its memory goes before the next is read
        voxels = omezarr.read_box(self._stored, directory, window)
        self._slab = (directory, window, voxels)
        return np.asarray(voxels[z - start])
