"""Account for every byte of a TIFF file: what is neither voxels that were taken nor a structure without content.

Input: a TIFF file and what was read of it. Output: what of the file nothing
carries, in a few words, or an empty string.
Invariant: every byte of the file was looked at as header, directory, tag, voxels or
padding of zeros. A tag, value, compression or structure that this module does
not know counts as not carried. The file is parsed here, and not by tifffile,
which guesses what makes no sense to it and does not tell.
"""

import itertools
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile

from lading.compress.imaging.volume import Volume
from lading.core.progress import counted

# Bytes between two structures that may be padding, if there is nothing in them.
_PADDING = 64 << 10
# Bytes of a value by the type of its tag (TIFF 6.0 and BigTIFF).
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 270, 273, 277
_ROWS, _COUNTS, _PLANAR, _SOFTWARE, _PREDICTOR, _PHOTOMETRIC = 278, 279, 284, 305, 317, 262
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT = 322, 323, 324, 325, 339
# Tags that say where voxels are, and how large they are: what decodes to the voxels used them.
_LAYOUT = {
    _WIDTH, _HEIGHT, _BITS, _OFFSETS, _SAMPLES, _ROWS, _COUNTS,
    _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS,
}  # fmt: skip
_NEEDED = _LAYOUT | {_COMPRESSION, _PHOTOMETRIC, _PLANAR, _PREDICTOR, _FORMAT}
# Tags that say nothing more when they hold one of these: grey, full image, upright, without resolution.
_NEUTRAL: Mapping[int, tuple[tuple[int, ...], ...]] = {
    254: ((0,), (2,)), _COMPRESSION: ((1,), (8,), (32946,)), _PHOTOMETRIC: ((1,),), 266: ((1,),), 274: ((1,),),
    282: ((1, 1),), 283: ((1, 1),), _PLANAR: ((1,), (2,)), 296: ((1,),), _PREDICTOR: ((1,), (2,)),
}  # fmt: skip
# One strip holds all rows, however many these are.
_ALL_ROWS = (2**16 - 1, 2**32 - 1)
_WRITERS = (b"tifffile.py",)
_KINDS = {1: "u", 2: "i", 3: "f"}
DAMAGE = (ValueError, LookupError, TypeError, ArithmeticError, OSError, EOFError, struct.error, zlib.error)


class _Lost(Exception):
    """Something that nothing carries; the message names it."""


@dataclass(frozen=True)
class _Tag:
    code: int
    kind: int
    raw: bytes
    order: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The whole numbers that it holds; a fraction is two."""
        letter = "I" if self.kind == 5 else _INTEGERS[self.kind]
        return struct.unpack(f"{self.order}{len(self.raw) // struct.calcsize(letter)}{letter}", self.raw)

    @property
    def name(self) -> str:
        """The name for people."""
        return tifffile.TIFF.TAGS.get(self.code, str(self.code))


class _Page(dict[int, _Tag]):
    """The tags of one directory."""

    def number(self, code: int, default: int = -1) -> int:
        if code not in self:
            if default < 0:
                raise _Lost(f"a page without tag {code}")
            return default
        numbers = set(self[code].numbers)
        if len(numbers) != 1:
            raise _Lost(f"{self[code].name} of several values")
        return numbers.pop()


@dataclass(frozen=True)
class _Segment:
    """One strip or tile: where it is, its lines and columns, and how many of these are inside the image.

    ``at`` is the sample, the row and the column of the page where it begins.
    """

    offset: int
    length: int
    shape: tuple[int, int, int]
    inside: tuple[int, int]
    at: tuple[int, int, int]


def find_lost(file: Any, volume: Volume | None = None) -> str:
    """Return what of a TIFF file an OME-Zarr of its voxels does not carry, or an empty string.

    ``file`` is a seekable file object. With the ``volume`` that it is part of, each byte is accounted for. Without
    it, the file counts as a stack of its pages, and nothing is decoded.
    """
    if volume is not None and ("table" in volume.detail or "series" in volume.detail):
        return "planes of several images, or of a set of files"
    try:
        cover = _Cover(file)
        pages = list(cover.pages())
        for page in pages:
            for tag in page.values():
                _require_neutral(tag, volume)
        if volume is not None or not any(
            b"truncated" in page[_DESCRIPTION].raw for page in pages if _DESCRIPTION in page
        ):
            cover.take(pages, volume or _as_stack(pages), decode=volume is not None)
            cover.require_nothing_else()
    except _Lost as lost:
        return str(lost)
    except DAMAGE as error:
        return f"a structure that cannot be read: {' '.join(str(error).split())}"
    return ""


@dataclass
class VoxelMap:
    """Where the voxels of an image lie in one TIFF file, uncompressed, in rising order.

    order    ``<`` or ``>``: the byte order of the file
    boxes    (offset, plane, sample, row, column, rows, columns): planes are counted over the pages that the image
             takes; rows that go on in the next plane are one box; sample -1 stands for all, pixel by pixel
    encoded  (offset, length) of voxels that lie there compressed: their bytes are not those of the voxels
    """

    order: str = "<"
    boxes: list[tuple[int, int, int, int, int, int, int]] = field(default_factory=list)
    encoded: list[tuple[int, int]] = field(default_factory=list)


# What one file has of an image: (plane, page, offset); the offset is -1 where the page says it.
Planes = Sequence[tuple[int, int, int]]


def planes_of_files(volume: Volume) -> dict[int, list[tuple[int, int, int]]]:
    """Return by the number of a file which planes of an image it has."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for plane, (file, page, offset) in enumerate(volume.detail["table"]):
        found.setdefault(file, []).append((plane, page, offset))
    return found


def planes_of_file(volume: Volume) -> list[tuple[int, int, int]]:
    """Return the planes of an image that each of its files has as the others: all of its pages, or those named."""
    count = int(np.prod([volume.shape["tcz".index(axis)] for axis in volume.detail["page_axes"]], dtype=int))
    return [(plane, page, -1) for plane, page in enumerate(volume.detail.get("pages") or range(count))]


def map_voxels(file: Any, parts: Sequence[tuple[Volume, Planes]]) -> list[VoxelMap] | str:
    """Return where a TIFF file has the voxels of each image, or in words what of its structure is not known here."""
    try:
        cover = _Cover(file)
        pages = list(cover.pages(strict=False))
        maps = []
        for volume, planes in parts:
            found = VoxelMap(cover.order)
            maps.append(found)
            *_, height, width = volume.shape
            if volume.detail.get("offset") is not None:
                found.boxes.append((int(volume.detail["offset"]), 0, -1, 0, 0, len(planes) * height, width))
                continue
            for plane, number, offset in planes:
                if offset >= 0:
                    found.boxes.append((offset, plane, -1, 0, 0, height, width))
                else:
                    _map_page(found, pages[number], plane, volume)
            found.boxes.sort()
    except _Lost as lost:
        return str(lost)
    except DAMAGE as error:
        return f"a structure that cannot be read: {' '.join(str(error).split())}"
    return maps


def find_planes(path: str) -> list[int] | str:
    """Return where the voxels of each page of a file begin, or in words why its pages cannot be followed."""
    try:
        with open(path, "rb") as file:
            pages = list(_Cover(file).pages(strict=False))
            return [(page.get(_OFFSETS) or page[_TILE_OFFSETS]).numbers[0] for page in pages]
    except _Lost as lost:
        return str(lost)
    except DAMAGE as error:
        return f"a structure that cannot be read: {' '.join(str(error).split())}"


def _map_page(found: VoxelMap, page: _Page, plane: int, volume: Volume) -> None:
    """Add the strips or tiles of a page; rows that follow those before become part of them."""
    *_, height, width = volume.shape
    samples = volume.shape[1] if volume.detail.get("samples") else 1
    dtype = np.dtype(volume.dtype)
    if (page.number(_WIDTH), page.number(_HEIGHT), page.number(_SAMPLES, 1)) != (width, height, samples):
        raise _Lost("a page of another shape than the image")
    plain = page.number(_COMPRESSION, 1) == 1 and page.number(_BITS) == dtype.itemsize * 8
    for segment in _segments(page):
        if not segment.length:
            continue
        sample, row, column = segment.at
        tall, wide, within = segment.shape
        rows = segment.length // max(1, wide * within * dtype.itemsize)
        if not plain or rows * wide * within * dtype.itemsize != segment.length or rows < segment.inside[0]:
            found.encoded.append((segment.offset, segment.length))
        elif within == samples and wide == width and segment.inside[1] == width:
            start = plane * height + row
            last = found.boxes[-1] if found.boxes else (0,) * 7
            end = last[0] + last[5] * width * samples * dtype.itemsize
            if last[2] == -1 and (end, last[1] * height + last[3] + last[5]) == (segment.offset, start):
                found.boxes[-1] = (*last[:5], last[5] + segment.inside[0], width)
            else:
                found.boxes.append((segment.offset, plane, -1, row, 0, segment.inside[0], width))
        elif segment.inside == (tall, wide):
            one = -1 if within == samples else sample
            found.boxes.append((segment.offset, plane, one, row, column, tall, wide))
        # What reaches over the edge is kept as it lies: it holds bytes that are no voxels.


def _require_neutral(tag: _Tag, volume: Volume | None) -> None:
    """Raise ``_Lost`` when a tag's value is content."""
    if tag.code in _LAYOUT:
        return
    if tag.code in _NEUTRAL:
        fine = tag.kind in (*_INTEGERS, 5) and tag.numbers in _NEUTRAL[tag.code]
    elif tag.code == _SOFTWARE:
        fine = tag.raw.rstrip(b"\0") in (*_WRITERS, b"")
    elif tag.code == _DESCRIPTION:
        fine = _is_shape(tag.raw.rstrip(b"\0 "), volume)
    elif tag.code == _FORMAT:
        fine = set(tag.numbers) <= set(_KINDS)
    elif tag.code == 338:
        fine = set(tag.numbers) == {0}
    else:
        fine = False
    if not fine:
        raise _Lost(tag.name)


def _is_shape(raw: bytes, volume: Volume | None) -> bool:
    """Tell whether a description holds nothing, or the array's shape only, in the very bytes that tifffile writes."""
    if not raw:
        return True
    value = json.loads(raw) if raw.startswith(b'{"shape": [') else None
    if not isinstance(value, dict):
        return False
    shape = value.get("shape")
    if not isinstance(shape, list) or not all(type(length) is int for length in shape):
        return False
    known: list[dict[str, Any]] = [{"shape": shape}, {"shape": shape, "truncated": True}]
    if raw not in [json.dumps(one).encode() for one in known]:
        return False
    if volume is None:
        return True
    whole = volume.shape if not volume.detail.get("file_axes") else volume.shape[3:]
    return sorted(length for length in shape if length != 1) == sorted(length for length in whole if length != 1)


class _Cover:
    """The bytes of one file that have been accounted for."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._size: int = file.seek(0, 2)
        self.order = "<"
        self._ranges: list[tuple[int, int]] = []
        self._values: set[bytes] = set()

    def _read(self, offset: int, length: int) -> bytes:
        if length < 0 or offset < 0 or offset + length > self._size:
            raise EOFError(f"{length} bytes at {offset} are not inside the file")
        self._file.seek(offset)
        found: bytes = self._file.read(length)
        if len(found) != length:
            raise EOFError(f"{length} bytes at {offset} cannot be read")
        return found

    def _take(self, offset: int, length: int) -> bytes:
        self._ranges.append((offset, offset + length))
        return self._read(offset, length)

    def pages(self, *, strict: bool = True) -> Iterator[_Page]:
        """Yield the directories of the main chain; others (SubIFDs, EXIF) are tags that nothing carries.

        Without ``strict``, entries that say nothing of where voxels are may be of any form, and there twice.
        """
        mark = self._take(0, 4)
        order = {b"II": "<", b"MM": ">"}[mark[:2]]
        version = struct.unpack(order + "H", mark[2:])[0]
        if version == 42:
            word, count, entry = "I", "H", "HHI"
            following = self._take(4, 4)
        elif version == 43:
            word, count, entry = "Q", "Q", "HHQ"
            head = self._take(4, 12)
            if struct.unpack(order + "HH", head[:4]) != (8, 0):
                raise _Lost("its header")
            following = head[4:]
        else:
            raise _Lost("its header")
        self.order = order
        seen: set[int] = set()
        while at := struct.unpack(order + word, following)[0]:
            if at in seen:
                raise _Lost("directories that form a loop")
            seen.add(at)
            (entries,) = struct.unpack(order + count, self._take(at, struct.calcsize(count)))
            at += struct.calcsize(count)
            room = struct.calcsize(word)
            step = struct.calcsize(order + entry) + room
            table = self._take(at, entries * step)
            page = _Page()
            for start in range(0, len(table), step):
                code, kind, length = struct.unpack_from(order + entry, table, start)
                place = table[start + step - room : start + step]
                if not strict and code not in _NEEDED:
                    continue
                if code in page:
                    raise _Lost(f"{page[code].name}, which is there twice")
                if kind not in _SIZES:
                    raise _Lost(f"tag {code} of unknown type {kind}")
                length *= _SIZES[kind]
                if length <= room:
                    raw = place[:length]
                    if any(place[length:]):
                        raise _Lost(f"bytes behind the value of tag {code}")
                else:
                    raw = self._take(struct.unpack(order + word, place)[0], length)
                    if code in _LAYOUT or code in _NEUTRAL:
                        self._values.add(raw)
                page[code] = _Tag(code, kind, raw, order)
            yield page
            following = self._take(at + len(table), room)

    def take(self, pages: list[_Page], volume: Volume, *, decode: bool = True) -> None:
        """Account for the voxels of a volume; raise ``_Lost`` for pages and bytes that are not of it."""
        detail = volume.detail
        of_page = detail["page_axes"]
        planes = int(np.prod([volume.shape["tcz".index(axis)] for axis in of_page], dtype=int))
        offset = detail.get("offset")
        taken = list(range(planes)) if not detail.get("pages") else list(detail["pages"])
        members = set(taken)
        *_, height, width = volume.shape
        samples = volume.shape[1] if detail.get("samples") else 1
        dtype = np.dtype(volume.dtype)
        size = height * width * samples * dtype.itemsize
        for number, page in enumerate(pages):
            where = f"page {number}"
            if number not in members:
                raise _Lost(f"{where}, which is not a plane of the image")
            about = (page.number(_WIDTH), page.number(_HEIGHT), page.number(_SAMPLES, 1), page.number(_BITS))
            kind = _KINDS[page.number(_FORMAT, 1)]
            if about != (width, height, samples, dtype.itemsize * 8) or kind != dtype.kind:
                raise _Lost(f"{where}, which has another shape or type than the image")
            segments = list(_segments(page))
            if offset is not None:
                at = offset + number * size
                for segment in segments:
                    if page.number(_COMPRESSION, 1) != 1 or segment.offset != at:
                        raise _Lost(f"{where}, which is elsewhere than the image was read")
                    at += segment.length
            for segment in segments:
                self._take_segment(page, segment, dtype, where, decode)
        if offset is not None:
            self._ranges.append((offset, offset + planes * size))
        elif len(pages) != len(taken):
            raise _Lost(f"{counted(len(pages), 'page')} where {len(taken)} were read")

    def _take_segment(self, page: _Page, segment: _Segment, dtype: "np.dtype[Any]", where: str, decode: bool) -> None:
        """Account for one strip or tile, which must decode to voxels of the image and to nothing else."""
        if not segment.length:
            return  # sparse: no byte, read as zeros
        expected = segment.shape[0] * segment.shape[1] * segment.shape[2] * dtype.itemsize
        self._ranges.append((segment.offset, segment.offset + segment.length))
        within = segment.inside == segment.shape[:2]
        if page.number(_COMPRESSION, 1) == 1:
            if segment.length != expected:
                raise _Lost(f"{where} with {segment.length - expected} bytes more than its voxels")
            if within or not decode:
                return
            data = self._read(segment.offset, segment.length)
        elif not decode:
            return
        else:
            decoder = zlib.decompressobj()
            data = decoder.decompress(self._read(segment.offset, segment.length), expected + 1)
            if len(data) != expected or not decoder.eof or decoder.unused_data or decoder.unconsumed_tail:
                raise _Lost(f"{where} with bytes after its compressed voxels")
            if within:
                return
        voxels = np.frombuffer(data, dtype.newbyteorder(">" if self.order == ">" else "<")).reshape(segment.shape)
        if page.number(_PREDICTOR, 1) == 2:
            if dtype.kind == "f":
                raise _Lost(f"{where} with tiles that reach over its edge")
            voxels = np.cumsum(voxels, axis=1, dtype=dtype)
        rows, columns = segment.inside
        if voxels[rows:].tobytes().strip(b"\0") or voxels[:, columns:].tobytes().strip(b"\0"):
            raise _Lost(f"{where} with voxels beyond its edge")

    def _is_padding(self, start: int, end: int) -> bool:
        """Tell whether bytes between structures hold nothing: zeros, and values again that tags of the file have.

        tifffile leaves such values behind when it writes many pages.
        """
        if end - start > _PADDING:
            return False
        rest = self._read(start, end - start)
        if any(rest):
            for known in sorted(self._values, key=len, reverse=True):
                rest = rest.replace(known, b"")
        return not any(rest)

    def require_nothing_else(self) -> None:
        """Raise ``_Lost`` when a byte was not accounted for, unless it is one of few zeros between structures."""
        at = 0
        for start, end in itertools.chain(sorted(self._ranges), [(self._size, self._size)]):
            if end > self._size:
                raise EOFError(f"the file ends at {self._size}, before byte {end}")
            if start > at and not self._is_padding(at, start):
                raise _Lost(f"bytes {at} to {start}, to which nothing points")
            at = max(at, end)


def _as_stack(pages: list[_Page]) -> Volume:
    """Return the volume that a file would be if all its pages were planes like the first."""
    page = pages[0]
    samples = page.number(_SAMPLES, 1)
    dtype = np.dtype(f"{_KINDS[page.number(_FORMAT, 1)]}{page.number(_BITS) // 8}")
    shape = (1, samples, len(pages), page.number(_HEIGHT), page.number(_WIDTH))
    return Volume("", "tiff", ("",), (shape,), dtype.str, detail={"page_axes": "z", "samples": samples > 1})


def _segments(page: _Page) -> Iterator[_Segment]:
    """Yield the strips or tiles of a page, in order."""
    width, height = page.number(_WIDTH), page.number(_HEIGHT)
    tiled = _TILE_OFFSETS in page
    # A number that the layout does not use may be any, and would be content.
    unused = (_ROWS,) if tiled else (_TILE_WIDTH, _TILE_HEIGHT)
    if _PHOTOMETRIC not in page or any(code in page for code in unused):
        raise _Lost("tags that make no page of strips or tiles")
    if tiled == (_OFFSETS in page) or tiled != (_TILE_COUNTS in page) or tiled == (_COUNTS in page):
        raise _Lost("strips and tiles, or neither")
    if tiled:
        offsets, counts = page[_TILE_OFFSETS].numbers, page[_TILE_COUNTS].numbers
        tall, wide = page.number(_TILE_HEIGHT), page.number(_TILE_WIDTH)
    else:
        offsets, counts = page[_OFFSETS].numbers, page[_COUNTS].numbers
        rows = page.number(_ROWS, height)
        if rows > height and rows not in _ALL_ROWS:
            raise _Lost("RowsPerStrip")
        tall, wide = min(rows, height), width
    samples = page.number(_SAMPLES, 1)
    apart = samples if page.number(_PLANAR, 1) == 2 else 1
    within = 1 if apart > 1 else samples
    down, across = -(-height // tall), -(-width // wide)
    if not len(offsets) == len(counts) == apart * down * across:
        raise _Lost(f"{counted(len(offsets), 'strip')} or tiles where {apart * down * across} are of the image")
    for number, (offset, length) in enumerate(zip(offsets, counts)):
        row, column = divmod(number % (down * across), across)
        inside = (min(tall, height - row * tall), min(wide, width - column * wide))
        at = (number // (down * across), row * tall, column * wide)
        yield _Segment(offset, length, (tall if tiled else inside[0], wide, within), inside, at)
