"""Read voxels of TIFF files: one plane a file, or many pages in one (classic and BigTIFF).

Input: a ``Volume`` of kind ``tiff`` as ``tiffplan`` described it. Output: windows of voxels.
Invariant: only the strips and tiles that a window touches are read, rows of
uncompressed pages by offset; a page that is damaged or truncated raises
``SourceFault`` with file, page and offset, and never yields zeros in its place.
"""

import contextlib
import struct
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np
import tifffile

from lading.compress.imaging.volume import Array, Volume, Window
from lading.compress.job import SourceFault
from lading.compress.sources import Source

# What tifffile and the codecs below it raise on damaged data (TiffFileError is a ValueError).
DAMAGE = (
    ValueError,
    ArithmeticError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    ImportError,
    struct.error,
    zlib.error,
)

_ROWS_BYTES = 256 << 10  # of rows that are read at once
# Open files kept per reader: a series of planes is read in order, tiles of channels in turn.
_KEEP_OPEN = 8


class _Open:
    """One file of a volume, open; its pages are looked at when somebody asks for them."""

    def __init__(self, source: Source, path: str) -> None:
        self._held = contextlib.ExitStack()
        self.file = self._held.enter_context(source.open(source.relative(path)))
        self.stream = self.file.as_file()
        self._tiff: tifffile.TiffFile | None = None

    @property
    def tiff(self) -> tifffile.TiffFile:
        """The file as tifffile has it."""
        if self._tiff is None:
            stream: Any = self.stream
            self._tiff = self._held.enter_context(tifffile.TiffFile(stream))
        return self._tiff

    @property
    def byteorder(self) -> str:
        """``<`` or ``>``: files of one image may differ in it."""
        return str(self.tiff.byteorder)

    def close(self) -> None:
        """Close the file; ``SourceFault`` when it changed while it was read."""
        self._held.close()


class TiffReader:
    """Windows of one volume; see ``volume.Reader``.

    ``detail`` holds: ``file_axes`` and ``page_axes``, the axes (of t, c, z)
    that the files and the pages of one file run over, slowest first; ``pages``,
    the page numbers where they are not 0, 1, 2 …; ``offset``, where all planes
    of a file lie uncompressed one after the other; ``samples``, when channels
    are interleaved in the pixel; ``table``, for the files of a set: file, page and
    offset (or -1) of each plane; ``series``, of several images of one file.
    """

    def __init__(self, volume: Volume, source: Source) -> None:
        self._volume, self._source = volume, source
        self._dtype = np.dtype(volume.dtype)
        self._stored = self._dtype.newbyteorder(volume.detail.get("byteorder", "="))
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._row_buffer: Array = np.empty((0, 0), self._stored)

    def read(self, window: Window, level: int = 0, out: Array | None = None) -> Array:
        """Return ``window`` (z, y, x); ``SourceFault`` when a page cannot be read."""
        assert level == 0, "a TIFF stack holds full resolution only"
        out = np.empty(window.shape, self._dtype) if out is None else out
        for opened in self._open.values():
            opened.stream.forget()
        for row, z in enumerate(range(*window.z)):
            self._read_plane(out[row], window, z)
        return out

    def close(self) -> None:
        """Close every open file."""
        while self._open:
            self._open.popitem()[1].close()

    def _read_plane(self, out: Array, window: Window, z: int) -> None:
        detail = self._volume.detail
        at = {"t": window.t, "c": window.c, "z": z}
        path = self._volume.files[self._index(at, detail["file_axes"])]
        number = self._index(at, detail["page_axes"])
        _, _, _, height, width = self._volume.shape
        if detail.get("pages"):
            number = detail["pages"][number]
        elif detail.get("table"):
            file, number, offset = detail["table"][number]
            path = self._volume.files[file]
            if offset >= 0:
                self._rows(out, path, number, offset, window, width)
                return
        if detail.get("offset") is not None:
            start = detail["offset"] + number * height * width * self._dtype.itemsize
            self._rows(out, path, number, start, window, width)
            return
        try:
            page = self._file(path).tiff.pages[number]
        except DAMAGE as error:
            raise damaged(path, number, None, error) from error
        keyframe: Any = page.keyframe
        if keyframe.shape[:2] != (height, width) and keyframe.shape[-2:] != (height, width):
            raise SourceFault(
                f"{path}: page {number} is {' × '.join(map(str, keyframe.shape))} "
                f"where {height} × {width} was expected; all planes of an image must have one shape"
            )
        if keyframe.is_final and page.is_contiguous and keyframe.samplesperpixel == 1:
            self._rows(out, path, number, page.dataoffsets[0], window, width)
            return
        sample = window.c if detail.get("samples") else 0
        self._segments(out, path, number, page, sample, window)

    def _index(self, at: dict[str, int], axes: str) -> int:
        index = 0
        for axis in axes:
            index = index * self._volume.shape["tcz".index(axis)] + at[axis]
        return index

    def _file(self, path: str) -> "_Open":
        if path in self._open:
            self._open.move_to_end(path)
        else:
            while len(self._open) >= _KEEP_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[path] = _Open(self._source, path)
        return self._open[path]

    def _rows(self, out: Array, path: str, number: int, start: int, window: Window, width: int) -> None:
        """Read whole rows of an uncompressed page at once and cut the columns out; straight into ``out`` if it can."""
        row_bytes = width * self._dtype.itemsize
        rows = window.shape[1]
        file = self._file(path)
        stored = self._stored
        if "offset" not in self._volume.detail:
            stored = self._dtype.newbyteorder(file.byteorder)  # type: ignore[arg-type]
        direct = stored.isnative and out.shape == (rows, width) and out.flags.c_contiguous
        # Read in pieces that stay in the processor's cache until they are digested and cut.
        step = max(1, _ROWS_BYTES // row_bytes)
        if not direct and (self._row_buffer.shape, self._row_buffer.dtype) != ((step, width), stored):
            self._row_buffer = np.empty((step, width), stored)
        offset = start + window.y[0] * row_bytes
        passing = file.file.passing(offset)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            piece = out[first:last] if direct else self._row_buffer[: last - first]
            at, view = offset + first * row_bytes, piece.view(np.uint8).data.cast("B")
            found = file.file.fill(at, view)
            if found != len(view):
                short = f"the file ends at byte {at + found}, {len(view) - found} bytes short"
                raise damaged(path, number, offset, OSError(None, short))
            passing.feed(view)
            if not direct:
                out[first:last] = piece[:, slice(*window.x)]
        passing.close()

    def _segments(self, out: Array, path: str, number: int, page: Any, sample: int, window: Window) -> None:
        """Decode the strips or tiles that the window touches."""
        keyframe = page.keyframe
        handle = page.parent.filehandle
        (y0, y1), (x0, x1) = window.y, window.x
        # Axes of ``chunks``/``chunked`` (squeezed by tifffile) in normal form: length and width in segments.
        tall = keyframe.tilelength if keyframe.is_tiled else min(keyframe.rowsperstrip, keyframe.imagelength)
        wide = keyframe.tilewidth if keyframe.is_tiled else keyframe.imagewidth
        down, across = -(-keyframe.imagelength // tall), -(-keyframe.imagewidth // wide)
        planar = keyframe.samplesperpixel > 1 and keyframe.planarconfig == 2
        first = sample * down * across if planar else 0
        arguments: dict[str, Any] = {"_fullsize": bool(keyframe.is_tiled)}
        if keyframe.compression in (6, 7, 34892, 33007):  # JPEG: tables lie beside the segments
            arguments |= {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
        for row in range(y0 // tall, -(-y1 // tall)):
            for column in range(x0 // wide, -(-x1 // wide)):
                index = first + row * across + column
                segment, sy, sx = self._segment(path, number, page, handle, index, arguments)
                if segment is None:
                    out[max(sy - y0, 0) : sy + tall - y0, max(sx - x0, 0) : sx + wide - x0] = keyframe.nodata
                    continue
                channel = 0 if planar or keyframe.samplesperpixel == 1 else sample
                block = segment[0, :, :, channel]
                top, left = max(sy, y0), max(sx, x0)
                bottom, right = min(sy + block.shape[0], y1), min(sx + block.shape[1], x1)
                out[top - y0 : bottom - y0, left - x0 : right - x0] = block[
                    top - sy : bottom - sy, left - sx : right - sx
                ]

    def _segment(
        self, path: str, number: int, page: Any, handle: Any, index: int, arguments: dict[str, Any]
    ) -> tuple[Array | None, int, int]:
        offset, length = None, None
        try:
            offset, length = page.dataoffsets[index], page.databytecounts[index]
            data = None
            if length:
                handle.seek(offset)
                data = handle.read(length)
                if len(data) != length:
                    raise EOFError(f"{length} bytes expected, the file ends after {len(data)}")
            segment, position, shape = page.keyframe.decode(data, index, **arguments)
            if segment is not None and segment.size < shape[0] * shape[1] * shape[2] * shape[3]:
                raise EOFError("it decodes to fewer pixels than it should")
        except DAMAGE as error:
            raise damaged(path, number, offset, error) from error
        return segment, position[2], position[3]


def files_of(volume: Volume, window: Window) -> list[int]:
    """Return which of the volume's files hold ``window``, as indices; also for kinds with one file."""
    if volume.detail.get("table"):
        return list(range(len(volume.files)))
    axes = volume.detail.get("file_axes", "")
    if not axes:
        return list(range(len(volume.files)))
    numbers = []
    for z in range(*window.z) if "z" in axes else (0,):
        index = 0
        for axis in axes:
            index = index * volume.shape["tcz".index(axis)] + {"t": window.t, "c": window.c, "z": z}[axis]
        numbers.append(index)
    return numbers


def damaged(path: str, number: int, offset: int | None, error: BaseException) -> SourceFault:
    """Return the sentence for a page that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    reason = " ".join(reason.split())
    if isinstance(error, ImportError) or "imagecodecs" in reason:
        return SourceFault(f"{path}: page {number} is stored with a codec that needs the imagecodecs package: {reason}")
    at = "" if offset is None else f" (offset {offset})"
    return SourceFault(f"{path}: page {number}{at} cannot be decoded: {reason}; restore the file or leave it out")
