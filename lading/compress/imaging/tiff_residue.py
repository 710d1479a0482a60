"""What the TIFF files of an image hold besides its voxels, and where these lie: enough to make the files again.

Input: the files of an image, open. Output: ``imaging_residue/<image>/<number>.gz``.
Invariant: a byte of a file is a voxel whose place is noted, or it is in the
residue, or it is in a range that is named as encoded; what was written was
read back and compared with the files, read a second time.

Format: gzip of one record a file. A record is a line of JSON and then the bytes
of its ``ranges``, end to end. The line holds ``format`` 1, ``kind``
``tiff-residue``, ``path`` relative to the source, ``size``, ``dtype`` in the
file's byte order, ``shape`` (rows, columns, samples a pixel), ``axes`` and
``lengths`` of the planes in the file, ``at``: the place of the file on the axes t,
c and z, ``boxes`` and ``encoded`` as ``VoxelMap`` has them, ``ranges``:
``[offset, length]``, rising. A file of which too much is neither has a ``reason``
instead of boxes and ranges.
"""

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lading.compress.destination import Destination, StoredFiles
from lading.compress.imaging.tiff_cover import VoxelMap, map_voxels
from lading.compress.imaging.volume import Volume
from lading.compress.job import Measured, SourceFault, VerificationFailed
from lading.compress.names import IMAGE_RESIDUE
from lading.compress.sources import Source
from lading.core.bounded import JsonMembers, parse_json

FORMAT, KIND = 1, "tiff-residue"
# Files of one residue: each is small, and read whole to make one of them again.
FILES = 500
# What of a file may be no voxels: more is another image, or a preview, that would be stored uncompressed.
LEAST, SHARE = 4 << 20, 0.05
_LINE = 256 << 20


def residue_path(image: str, number: int) -> str:
    """Return where a residue is, relative to the destination."""
    return f"{IMAGE_RESIDUE}/{image}/{number:06d}.gz"


def count_residues(volume: Volume) -> int:
    """Return how many residues an image has; none where its files are no TIFF."""
    return -(-len(volume.files) // FILES) if volume.kind == "tiff" else 0


def write_residue(source: Source, place: Destination, volume: Volume, number: int) -> tuple[str, Measured]:
    """Write one residue of an image; return its path and what was read back."""
    path = residue_path(volume.name, number)
    files = range(number * FILES, min(len(volume.files), (number + 1) * FILES))
    first = b"".join(_record(source, volume, index) for index in files)
    place.write(path, [gzip.compress(first, 6, mtime=0)])
    stored = gzip.decompress(place.read(path))
    if stored != first or stored != b"".join(_record(source, volume, index) for index in files):
        place.remove(path)
        raise VerificationFailed(f"{place.name}/{path} differs from what the files of {volume.name} hold; run again")
    return path, place.size_and_digest(path)


def _record(source: Source, volume: Volume, index: int) -> bytes:
    with source.open(source.relative(volume.files[index])) as file:
        stream = io.BufferedReader(file.as_file(), 1 << 18)
        found = map_voxels(stream, volume)
        size = file.state.size
        rest = [] if isinstance(found, str) else _complement(found, volume, size)
        reason = found if isinstance(found, str) else _excess(rest, size)
        line = {"format": FORMAT, "kind": KIND, "path": file.path, "size": size}
        if reason or isinstance(found, str):
            return json.dumps({**line, "reason": reason}).encode() + b"\n"
        line |= {
            **_geometry(volume, index, found.order),
            "boxes": found.boxes,
            "encoded": found.encoded,
            "ranges": [[start, end - start] for start, end in rest],
        }
        blocks = [_read(stream, file.name, start, end) for start, end in rest]
    return json.dumps(line, separators=(",", ":")).encode() + b"\n" + b"".join(blocks)


def _geometry(volume: Volume, index: int, order: str) -> dict[str, Any]:
    """Return what tells which voxels of the image a plane of a file holds."""
    detail = volume.detail
    at, rest = {}, index
    for axis in reversed(detail["file_axes"]):
        rest, at[axis] = divmod(rest, volume.shape["tcz".index(axis)])
    axes = detail["page_axes"]
    return {
        "dtype": np.dtype(volume.dtype).newbyteorder(order).str,  # type: ignore[arg-type]
        "shape": [*volume.shape[3:], volume.shape[1] if detail.get("samples") else 1],
        "axes": axes,
        "lengths": [volume.shape["tcz".index(axis)] for axis in axes],
        "at": at,
    }


def _excess(rest: Sequence[tuple[int, int]], size: int) -> str:
    extra = sum(end - start for start, end in rest)
    return f"{extra} of its bytes are not voxels of the image" if extra > max(LEAST, SHARE * size) else ""


def _complement(found: VoxelMap, volume: Volume, size: int) -> list[tuple[int, int]]:
    """Return (start, end) of what is neither voxels nor encoded."""
    samples = volume.shape[1] if volume.detail.get("samples") else 1
    item = np.dtype(volume.dtype).itemsize
    held = [
        (offset, offset + rows * columns * (samples if sample < 0 else 1) * item)
        for offset, _, sample, _, _, rows, columns in found.boxes
    ]
    held += [(offset, offset + length) for offset, length in found.encoded]
    rest: list[tuple[int, int]] = []
    at = 0
    for start, end in sorted(held):
        if start > at:
            rest.append((at, start))
        at = max(at, end)
    return [*rest, (at, size)] if at < size else rest


def _read(stream: Any, name: str, start: int, end: int) -> bytes:
    stream.seek(start)
    found: bytes = stream.read(end - start)
    if len(found) != end - start:
        raise SourceFault(f"{name} ends at offset {start + len(found)}, earlier than before; run again")
    return found


@dataclass(frozen=True)
class TiffRecord:
    """One file in a residue; see the format above."""

    path: str
    size: int
    reason: str = ""
    dtype: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    axes: str = ""
    lengths: tuple[int, ...] = ()
    at: tuple[tuple[str, int], ...] = ()
    boxes: tuple[tuple[int, ...], ...] = ()
    encoded: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, ...], ...] = ()
    rest: bytes = b""


def read_residue(place: StoredFiles, path: str) -> Iterator[TiffRecord]:
    """Yield the records of a residue; ``ValueError`` when it is damaged."""
    stream = gzip.GzipFile(fileobj=io.BytesIO(place.read(path)))
    try:
        while line := stream.readline(_LINE):
            take = JsonMembers(parse_json(line), "a record")
            if (take.number("format"), take.text("kind")) != (FORMAT, KIND):
                raise ValueError("a record of another format")
            if reason := take.text("reason", ""):
                yield TiffRecord(take.text("path"), take.number("size"), reason)
                continue
            ranges = take.items("ranges", _numbers)
            rest = stream.read(sum(length for _, length in ranges))
            rows, columns, samples = take.items("shape", int)
            yield TiffRecord(
                take.text("path"), take.number("size"), "", take.text("dtype"), (rows, columns, samples),
                take.text("axes"), take.items("lengths", int), tuple(take.object("at").items()),
                take.items("boxes", _numbers), take.items("encoded", _numbers), ranges, rest,
            )  # fmt: skip
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from error


def _numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
        raise ValueError("a list of no numbers")
    return tuple(value)
