"""Read planes of PNG files: one plane a file, as SmartSPIM's cameras write their tiles.

Input: PNG files of 8 or 16 bits, grey or in colour. Output: what a file says of itself, and its pixels.
Invariant: a file that is damaged or truncated raises ``SourceFault`` with its
name; no gap is filled. Every chunk's CRC is checked here, for the decoder passes over some.

Format: ISO/IEC 15948 (PNG, third edition).
"""

import importlib
import io
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lading.compress.imaging.plane_series import arrange_planes, parse_names, title_of
from lading.compress.imaging.volume import Array, Volume, Window, image_name
from lading.compress.job import SourceFault
from lading.compress.sources import OpenFile, Source
from lading.core.progress import counted

SUFFIXES = (".png",)
_MAGIC = b"\x89PNG\r\n\x1a\n"
# Samples a pixel by colour type: grey, colour, grey with alpha, colour with alpha. Palettes are no intensities.
_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}


@dataclass(frozen=True)
class PngHeader:
    """What a file says of itself."""

    path: str
    shape: tuple[int, int]
    dtype: str
    samples: int

    @property
    def kind(self) -> tuple[tuple[int, int], str, int]:
        """What all planes of an image share."""
        return self.shape, self.dtype, self.samples


def read_png_header(path: str) -> PngHeader:
    """Return what a PNG says of itself; ``SourceFault`` when it is none that can be read."""
    try:
        with open(path, "rb") as stream:
            return _header(path, stream.read(33))
    except OSError as error:
        raise SourceFault(f"{path}: cannot be read: {error.strerror or error}; make it readable") from error


def _header(path: str, head: bytes) -> PngHeader:
    if len(head) < 33 or head[:8] != _MAGIC or head[12:16] != b"IHDR" or zlib.crc32(head[12:29]) != _number(head, 29):
        raise SourceFault(f"{path}: is not a readable PNG file; restore the file or leave it out")
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head[16:29])
    if colour not in _SAMPLES or bits not in (8, 16) or interlaced or not width or not height:
        raise SourceFault(
            f"{path}: is a PNG of colour type {colour} with "
            f"{counted(bits, 'bit')}{', interlaced' * interlaced}; only grey and "
            "colour of 8 and 16 bits is read; compress it with --kind generic"
        )
    return PngHeader(path, (height, width), f"<u{bits // 8}" if bits == 16 else "|u1", _SAMPLES[colour])


def describe_png_series(paths: Sequence[str], name: str, *, allow_gaps: bool) -> tuple[list[Volume], list[str]]:
    """Return the images of a folder's PNG files, and the files that are no planes: pictures that stand alone."""
    groups: dict[str, list[tuple[dict[str, int], str]]] = defaultdict(list)
    for path, (key, numbers) in zip(paths, parse_names([os.path.basename(path) for path in paths])):
        groups[key].append((numbers, path))
    series = [members for _, members in sorted(groups.items()) if len(members) > 1]
    alone = [path for members in groups.values() if len(members) == 1 for _, path in members]
    volumes = []
    for members in series:
        title = name if len(series) == 1 else image_name(title_of(os.path.basename(members[0][1]))).strip("_-.")
        found = arrange_planes(members, read_png_header, allow_gaps=allow_gaps)
        volumes.append(found.volume(title or name, "png", {}))
    return volumes, alone


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _chunks(name: str, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, content) of every chunk, each with the right CRC, the last an IEND."""
    at = len(_MAGIC)
    kind = b""
    while at < len(data) and kind != b"IEND":
        length = _number(data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if len(content) != length or zlib.crc32(kind + content) != _number(data, at + 8 + length):
            raise SourceFault(f"{name}: chunk {kind!r} at offset {at} is damaged or truncated; restore the file")
        yield kind, content
        at += 12 + length
    if kind != b"IEND":
        raise SourceFault(f"{name}: ends at offset {at} without its last chunk; restore the file")


def decode_png(file: OpenFile) -> Array:
    """Return the pixels of a file as (rows, columns, samples), in native byte order."""
    stream = file.as_file()
    data = stream.read()
    header = _header(file.name, data[:33])
    packed = b"".join(content for kind, content in _chunks(file.name, data) if kind == b"IDAT")
    rows, columns = header.shape
    dtype = np.dtype(header.dtype).newbyteorder(">")
    pixel = header.samples * dtype.itemsize
    size = rows * (1 + columns * pixel)
    try:
        raw = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise SourceFault(f"{file.name}: cannot be decoded: {error}; restore the file or leave it out") from error
    if len(raw) != size:
        raise SourceFault(f"{file.name}: decodes to {len(raw)} bytes where {size} were expected; restore the file")
    lines = np.frombuffer(raw, np.uint8).reshape(rows, 1 + columns * pixel)
    filters = lines[:, 0]
    if filters.max(initial=0) > 2:
        pixels = _by_library(file.name, data, header)
    else:
        pixels = _unfilter(filters, lines[:, 1:], pixel)
        pixels = pixels.view(dtype).reshape(rows, columns, header.samples)
    return np.ascontiguousarray(pixels, dtype.newbyteorder("="))


def _unfilter(filters: Array, lines: Array, pixel: int) -> Array:
    """Undo the filters none, sub and up, which are sums."""
    out = np.array(lines)
    steps = out.reshape(len(out), -1, pixel)
    sub = filters == 1
    if sub.any():
        steps[sub] = np.cumsum(steps[sub], axis=1, dtype=np.uint8)
    for row in np.flatnonzero(filters == 2):
        if row:
            out[row] += out[row - 1]
    return out


def _by_library(name: str, data: bytes, header: PngHeader) -> Array:
    """Undo the filters average and Paeth, which go pixel by pixel."""
    image: Any = importlib.import_module("PIL.Image")
    try:
        with image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            found = np.asarray(opened)
    except Exception as error:
        raise SourceFault(f"{name}: cannot be decoded: {error}; restore the file or leave it out") from error
    found = found.reshape(*header.shape, -1)
    if found.shape[2] != header.samples or found.dtype.itemsize < np.dtype(header.dtype).itemsize:
        raise SourceFault(f"{name}: has colours of 16 bits that no decoder here keeps; compress it with --kind generic")
    return found.astype(header.dtype)


class PngReader:
    """Windows of one volume; see ``volume.VolumeReader``. ``detail`` as that of TIFF series."""

    def __init__(self, volume: Volume, source: Source) -> None:
        self._volume, self._source = volume, source

    def read(self, window: Window, level: int = 0, out: Array | None = None) -> Array:
        """Return ``window`` (z, y, x); ``SourceFault`` when a file cannot be read."""
        out = np.empty(window.shape, np.dtype(self._volume.dtype)) if out is None else out
        axes, shape = self._volume.detail["file_axes"], self._volume.shape
        for row, z in enumerate(range(*window.z)):
            at, index = {"t": window.t, "c": window.c, "z": z}, 0
            for axis in axes:
                index = index * shape["tcz".index(axis)] + at[axis]
            path = self._volume.files[index]
            with self._source.open(self._source.relative(path)) as file:
                pixels = decode_png(file)
            if pixels.shape[:2] != shape[3:]:
                raise SourceFault(f"{path}: is {pixels.shape[0]} × {pixels.shape[1]} now; let its writer finish")
            sample = window.c if self._volume.detail.get("samples") else 0
            out[row] = pixels[slice(*window.y), slice(*window.x), sample]
        return out

    def close(self) -> None:
        """Nothing is held open."""
