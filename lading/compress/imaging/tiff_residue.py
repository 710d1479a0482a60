"""What the TIFF files of an image hold besides its voxels, and where these lie: enough to make the files again.

Input: the files of an image, open. Output: ``imaging_residue/<image>/<number>.gz``.
Invariant: a byte of a file is a voxel whose place is noted, or it is in the
residue, or it is in a range that is named as encoded. What was written was
read back; what was read of a file is compared with the reading of all of it.

Format: gzip of one record a file. A record is a line of JSON and then the bytes
of its ``ranges``, end to end. The line holds ``format`` 1, ``kind``
``tiff-residue``, ``path`` relative to the source, ``size``, ``dtype`` in the
file's byte order, ``shape`` (rows, columns, samples a pixel), ``axes`` and
``lengths`` of the planes in the file, ``at``: the place of the file on the axes t,
c and z, ``boxes`` and ``encoded`` as ``VoxelMap`` has them, ``ranges``:
``[offset, length]``, rising. A file of which too much is neither has a ``reason``
instead of boxes and ranges. Format 2 is of a file that has planes of other images
than the one that the residue is of: ``parts`` has what is said of an image, with
its name as ``image``, for each.
"""

import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lading.compress.destination import Destination, StoredFiles
from lading.compress.imaging.tiff_cover import Planes, VoxelMap, map_voxels, planes_of_file, planes_of_files
from lading.compress.imaging.volume import Volume
from lading.compress.job import Measured, SourceFault, VerificationFailed
from lading.compress.names import IMAGE_RESIDUE
from lading.compress.sources import Source
from lading.core.bounded import JsonMembers, parse_json

FORMAT, FORMAT_OF_SEVERAL, KIND = 1, 2, "tiff-residue"
# Files of one residue: each is small, and read whole to make one of them again.
FILES = 500
# What of a file may be no voxels: more is another image, or a preview, that would be stored uncompressed.
LEAST, SHARE = 4 << 20, 0.05
_LINE = 256 << 20


def residue_path(image: str, number: int) -> str:
    """Return where a residue is, relative to the destination."""
    return f"{IMAGE_RESIDUE}/{image}/{number:06d}.gz"


def count_residues(volumes: Sequence[Volume]) -> list[int]:
    """Return how many residues each image has; none where its files are no TIFF, or those of an image before it."""
    seen: set[str] = set()
    counts = []
    for volume in volumes:
        own = volume.kind == "tiff" and volume.files[0] not in seen
        seen.add(volume.files[0])
        counts.append(-(-len(volume.files) // FILES) if own else 0)
    return counts


@dataclass(frozen=True)
class WrittenResidue:
    """A residue, what was read back of it, and of which files it has nothing, with the reason."""

    path: str
    found: Measured
    reasons: Mapping[str, str]


def write_residue(source: Source, place: Destination, volumes: Sequence[Volume], number: int) -> WrittenResidue:
    """Write one residue of the first of images that share their files."""
    path = residue_path(volumes[0].name, number)
    planes = _planes(volumes)
    content = b"".join(
        _record(source, volumes[0], index, [(volume, found[index]) for volume, found in planes if found.get(index)])
        for index in range(number * FILES, min(len(volumes[0].files), (number + 1) * FILES))
    )
    place.write(path, [gzip.compress(content, 6, mtime=0)])
    if gzip.decompress(place.read(path)) != content:
        place.remove(path)
        raise VerificationFailed(f"{place.name}/{path} differs from what was written there; run again")
    reasons = {record.path: record.reason for record in read_residue(place, path) if record.reason}
    return WrittenResidue(path, place.size_and_digest(path), reasons)


def _planes(volumes: Sequence[Volume]) -> list[tuple[Volume, Mapping[int, Planes]]]:
    """Return of each image which planes of it each of its files has."""
    return [
        (volume, planes_of_files(volume))
        if "table" in volume.detail
        else (volume, dict.fromkeys(range(len(volume.files)), planes_of_file(volume)))
        for volume in volumes
    ]


def _record(source: Source, owner: Volume, index: int, parts: Sequence[tuple[Volume, Planes]]) -> bytes:
    with source.open(source.relative(owner.files[index])) as file:
        stream = io.BufferedReader(file.as_file(), 1 << 18)
        found = map_voxels(stream, parts)
        size = file.state.size
        line: dict[str, Any] = {"format": FORMAT, "kind": KIND, "path": file.path, "size": size}
        rest = found if isinstance(found, str) else _complement(found, [volume for volume, _ in parts], size)
        reason = rest if isinstance(rest, str) else _excess(rest, size)
        if isinstance(found, str) or isinstance(rest, str) or reason:
            return json.dumps({**line, "reason": reason}).encode() + b"\n"
        told = [{**_geometry(volume, index, one.order), "boxes": one.boxes} for (volume, _), one in zip(parts, found)]
        if len(parts) == 1 and parts[0][0].name == owner.name:
            line |= told[0]
        else:
            line["format"] = FORMAT_OF_SEVERAL
            line["parts"] = [{"image": volume.name, **one} for (volume, _), one in zip(parts, told)]
        line |= {
            "encoded": [place for one in found for place in one.encoded],
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


def _complement(found: Sequence[VoxelMap], volumes: Sequence[Volume], size: int) -> list[tuple[int, int]] | str:
    """Return (start, end) of what is neither voxels nor encoded; in words, why it cannot be told."""
    held: list[tuple[int, int]] = []
    for one, volume in zip(found, volumes):
        samples = volume.shape[1] if volume.detail.get("samples") else 1
        item = np.dtype(volume.dtype).itemsize
        held += [
            (offset, offset + rows * columns * (samples if sample < 0 else 1) * item)
            for offset, _, sample, _, _, rows, columns in one.boxes
        ]
        held += [(offset, offset + length) for offset, length in one.encoded]
    rest: list[tuple[int, int]] = []
    at = 0
    for start, end in sorted(held):
        if start > at:
            rest.append((at, start))
        elif start < at:
            return f"planes share its bytes from {start} on"
        at = end
    return [*rest, (at, size)] if at < size else rest


def _read(stream: Any, name: str, start: int, end: int) -> bytes:
    stream.seek(start)
    found: bytes = stream.read(end - start)
    if len(found) != end - start:
        raise SourceFault(f"{name} ends at offset {start + len(found)}, earlier than before; run again")
    return found


@dataclass(frozen=True)
class TiffPart:
    """What a file has of one image, the residue's own where ``image`` is empty; see the format above."""

    image: str
    dtype: str
    shape: tuple[int, int, int]
    axes: str
    lengths: tuple[int, ...]
    at: tuple[tuple[str, int], ...]
    boxes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TiffRecord:
    """One file in a residue; see the format above."""

    path: str
    size: int
    reason: str = ""
    parts: tuple[TiffPart, ...] = ()
    encoded: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, ...], ...] = ()
    rest: bytes = b""


def read_residue(place: StoredFiles, path: str) -> Iterator[TiffRecord]:
    """Yield the records of a residue; ``ValueError`` when it is damaged."""
    stream = gzip.GzipFile(fileobj=io.BytesIO(place.read(path)))
    try:
        while line := stream.readline(_LINE):
            take = JsonMembers(parse_json(line), "a record")
            form = take.number("format")
            if form not in (FORMAT, FORMAT_OF_SEVERAL) or take.text("kind") != KIND:
                raise ValueError("a record of another format")
            if reason := take.text("reason", ""):
                yield TiffRecord(take.text("path"), take.number("size"), reason)
                continue
            ranges = take.items("ranges", _numbers)
            rest = stream.read(sum(length for _, length in ranges))
            parts = take.items("parts", _part) if form == FORMAT_OF_SEVERAL else (_read_part(take, ""),)
            encoded = take.items("encoded", _numbers)
            yield TiffRecord(take.text("path"), take.number("size"), "", parts, encoded, ranges, rest)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from error


def _part(value: Any) -> TiffPart:
    take = JsonMembers(value, "a part")
    return _read_part(take, take.text("image"))


def _read_part(take: JsonMembers, image: str) -> TiffPart:
    rows, columns, samples = take.items("shape", int)
    return TiffPart(
        image, take.text("dtype"), (rows, columns, samples), take.text("axes"), take.items("lengths", int),
        tuple(take.object("at").items()), take.items("boxes", _numbers),
    )  # fmt: skip


def _numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
        raise ValueError("a list of no numbers")
    return tuple(value)
