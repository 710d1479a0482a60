"""Write the arrays of an OME-Zarr image box by box, and read them back.

Input: a ``OmeZarrLayout`` and boxes of voxels that start and end at shard borders.
Output: chunk and shard files (Zarr format 3 with shards, or format 2), encoded in
memory, by ``blosc_array`` or zarr, and written whole to the job's ``Destination``.
Invariant: a box covers whole shard files, so two workers never touch one
file; array metadata is written once, by the plan; reading opens the array
anew, so that what is compared is what lies on disk. A chunk that holds only
the fill value 0 has no file.
"""

import contextlib
import errno
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
import zarr
from numcodecs import blosc
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.storage import MemoryStore

from lading.compress.buffers import poison_fill, tune_malloc
from lading.compress.destination import Destination, StoredFiles
from lading.compress.imaging.blosc_array import BloscArray, read_document
from lading.compress.imaging.pyramid import compiled_core, halve_window, mean_halved
from lading.compress.imaging.volume import AXES, Array, Shape, Window
from lading.compress.job import VerificationFailed
from lading.compress.read_back import ReadBack
from lading.core.errors import LadingError, UsageError

Box = tuple[int, int, int]

# Name: (default level, lowest, highest). Levels by measurement: zstd 1 with byte shuffle is within 7 % of
# level 9 on camera data at 100 times its speed.
CODECS = {
    "blosc-zstd": (1, 1, 9),
    "blosc-lz4": (5, 1, 9),
    "zstd": (1, 1, 22),
    "gzip": (1, 1, 9),
    "pcodec": (8, 0, 12),
    "none": (0, 0, 0),
}

# Bytes that are compared at once: their truth values stay in the processor's cache.
_COMPARED = 4 << 20
# Metadata of an array: format 3, then format 2.
_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs")


@dataclass(frozen=True)
class OmeZarrLayout:
    """How an image is stored: NGFF version, voxels per chunk and shard along z, y, x, codec and level.

    In format 2 a shard is not a file but the block that one worker writes.
    """

    version: str
    chunk: Box
    shard: Box
    codec: str
    level: int

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "OmeZarrLayout":
        """Return the layout that ``dataclasses.asdict`` made into JSON values."""
        z, y, x = value["chunk"]
        down, tall, wide = value["shard"]
        return OmeZarrLayout(value["version"], (z, y, x), (down, tall, wide), value["codec"], value["level"])

    @property
    def codec_text(self) -> str:
        """Name and parameters for people and records."""
        shuffled = " shuffle" if self.codec.startswith("blosc") else ""
        return self.codec if self.codec == "none" else f"{self.codec} level {self.level}{shuffled}"

    def fitted(self, shape: Shape) -> "OmeZarrLayout":
        """Return the layout for an array of ``shape``: no chunk longer than the array."""
        chunk = tuple(min(length, limit) for length, limit in zip(shape[2:], self.chunk))
        shard = tuple(
            min(limit // size if limit >= size else 1, math.ceil(length / size)) * size
            if size < length and limit % size == 0
            else size
            for length, size, limit in zip(shape[2:], chunk, self.shard)
        )
        return OmeZarrLayout(self.version, chunk, shard, self.codec, self.level)  # type: ignore[arg-type]


def parse_box(text: str, what: str) -> Box:
    """Return three lengths of ``64,128,128``."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{what} {text!r} is not three whole numbers; write voxels along z,y,x like 64,128,128")
    z, y, x = (int(part) for part in parts)
    return (z, y, x)


def parse_codec(text: str, version: str) -> tuple[str, int]:
    """Return (name, level) of ``blosc-zstd`` or ``blosc-zstd:3``."""
    name, _, level = text.partition(":")
    if name not in CODECS:
        raise UsageError(f"{name!r} is not a codec for images; one of {', '.join(CODECS)}")
    usual, low, high = CODECS[name]
    if level and (not level.isdigit() or not low <= int(level) <= high):
        raise UsageError(f"level {level!r} of codec {name} is not a whole number from {low} to {high}")
    if name == "pcodec" and version == "0.5":
        raise UsageError(
            "codec pcodec is not part of Zarr format 3, readers would refuse it; take --ngff 0.4 or blosc-zstd"
        )
    return name, int(level) if level else usual


def check_dtype(layout: OmeZarrLayout, dtype: str, where: str) -> None:
    """Raise a sentence when the codec cannot hold voxels of ``dtype``."""
    if layout.codec == "pcodec" and np.dtype(dtype).itemsize == 1:
        raise UsageError(f"{where}: codec pcodec cannot hold {np.dtype(dtype)} voxels; take blosc-zstd")


def array_documents(layout: OmeZarrLayout, shape: Shape, dtype: str) -> dict[str, bytes]:
    """Return file name → content of the metadata of one array; equal input gives equal bytes."""
    fitted = layout.fitted(shape)
    store = MemoryStore()
    common: dict[str, Any] = {"shape": shape, "dtype": dtype, "fill_value": 0, "chunks": (1, 1, *fitted.chunk)}
    if layout.version == "0.5":
        zarr.create_array(
            store,
            shards=(1, 1, *fitted.shard),
            compressors=_v3_codec(layout, dtype),
            dimension_names=tuple(AXES),
            **common,
        )
    else:
        zarr.create_array(
            store, zarr_format=2, compressors=_v2_codec(layout), filters=None,
            chunk_key_encoding={"name": "v2", "separator": "/"}, **common,
        )  # fmt: skip
    return {name: _plain(value.to_bytes()) for name, value in store._store_dict.items() if value.to_bytes() != b"{}"}


def _plain(text: bytes) -> bytes:
    return json.dumps(json.loads(text), indent=2).encode() + b"\n"


def group_documents(version: str, attributes: dict[str, Any]) -> dict[str, bytes]:
    """Return file name → content of the metadata of the image's group."""
    if version == "0.5":
        return {"zarr.json": _json({"zarr_format": 3, "node_type": "group", "attributes": attributes})}
    return {".zattrs": _json(attributes), ".zgroup": _json({"zarr_format": 2})}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def _v3_codec(layout: OmeZarrLayout, dtype: str) -> Any:
    if layout.codec.startswith("blosc-"):
        name: Any = layout.codec.removeprefix("blosc-")
        return BloscCodec(cname=name, clevel=layout.level, shuffle="shuffle", typesize=np.dtype(dtype).itemsize)
    return {"zstd": [ZstdCodec(level=layout.level)], "gzip": [GzipCodec(level=layout.level)], "none": None}[
        layout.codec
    ]


def _v2_codec(layout: OmeZarrLayout) -> Any:
    if layout.codec.startswith("blosc-"):
        return numcodecs.Blosc(layout.codec.removeprefix("blosc-"), layout.level, numcodecs.Blosc.SHUFFLE)
    if layout.codec == "pcodec":
        from numcodecs.pcodec import PCodec

        return PCodec(level=layout.level)
    return {"zstd": numcodecs.Zstd(layout.level), "gzip": numcodecs.GZip(layout.level), "none": None}[layout.codec]


def place_documents(place: Destination, directory: str, documents: dict[str, bytes]) -> None:
    """Write metadata files that are not there yet; refuse an array that was made otherwise."""
    for name, content in documents.items():
        path = f"{directory}/{name}"
        try:
            if place.read(path) == content:
                continue
        except FileNotFoundError:
            place.write(path, [content])
            continue
        raise LadingError(
            f"{place.name}/{path}: the image already exists, made with other settings or from another source; "
            "remove it or give another destination"
        )


def prepare_process() -> None:
    """Make Blosc use the calling thread only, since ranks share cores, and the C library keep what chunks take."""
    blosc.use_threads = False
    tune_malloc()


def _document(place: StoredFiles, directory: str) -> tuple[str, bytes]:
    """Return the document that says how an array is stored, and its name, as it is there now."""
    try:
        return _DOCUMENTS[0], place.read(f"{directory}/{_DOCUMENTS[0]}")
    except FileNotFoundError:
        return _DOCUMENTS[1], place.read(f"{directory}/{_DOCUMENTS[1]}")


def _open_direct(place: StoredFiles, directory: str, window: Window) -> BloscArray | None:
    """Return an array whose files are made and decoded without zarr; None where zarr must."""
    found = read_document(*_document(place, directory))
    return found if found is not None and found.has_whole_files(window) else None


def open_array(place: StoredFiles, directory: str) -> tuple[Any, dict[str, Any]]:
    """Return an array whose chunks are those of a dictionary, and the dictionary: nothing is read but metadata."""
    files: dict[str, Any] = {}
    for name in _DOCUMENTS:
        with contextlib.suppress(FileNotFoundError):
            files[name] = _as_buffer(place.read(f"{directory}/{name}"))
            if name == "zarr.json":
                break
    return zarr.open_array(MemoryStore(files), mode="r+"), files


def write_box(place: Destination, directory: str, window: Window, block: Array) -> None:
    """Write ``block`` (z, y, x) into the array; ``LadingError`` when the disk refuses."""
    try:
        for key, blocks in _encode(place, directory, window, block):
            if blocks:
                place.write(f"{directory}/{key}", blocks)
            elif place.root is not None:
                # Nothing but fill values: what an earlier, failed attempt left there would be read instead.
                place.remove(f"{directory}/{key}")
    except (OSError, LadingError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        # A full disk, a quota, a vanished mount: what was finished before stays good.
        reason = cause.strerror or str(cause)
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room there and run again" if full else "run again when it is repaired"
        raise LadingError(
            f"{place.name}/{directory}: cannot write at {window}: {reason}; {advice}, finished blocks stay done"
        ) from error


def _encode(place: Destination, directory: str, window: Window, block: Array) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name, relative to the array, of each file of a window, and its bytes in parts: none, if it has none."""
    direct = _open_direct(place, directory, window)
    if direct is not None:
        for key, part in direct.files(window):
            yield key, direct.encode(block[part.inside(window)])
        return
    with zarr.config.set({"threading.max_workers": 1}):
        array, files = open_array(place, directory)
        # zarr's search for chunks of fill values costs as much as half of the encoding: only where it can find one.
        keep_all = not _may_hold_empty(block, array.chunks[2:])
        array.with_config({"write_empty_chunks": keep_all})[window.slices] = block
    for key in _keys(array, window):
        yield key, [files[key].as_numpy_array()] if key in files else []


def level_dtype(place: Destination, directory: str) -> np.dtype[Any]:
    """Return the dtype of the array in ``directory``."""
    dtype: np.dtype[Any] = np.dtype(open_array(place, directory)[0].dtype)
    return dtype


def _keys(array: Any, window: Window) -> Iterator[str]:
    """Yield the names, relative to the array, of the files that hold ``window``."""
    step = (array.shards or array.chunks)[2:]
    head = "c/" if array.metadata.zarr_format == 3 else ""
    spans = [range(start // size, -(-end // size)) for (start, end), size in zip((window.z, window.y, window.x), step)]
    for z, y, x in itertools.product(*spans):
        yield f"{head}{window.t}/{window.c}/{z}/{y}/{x}"


def _as_buffer(data: bytes) -> Any:
    return default_buffer_prototype().buffer.from_bytes(data)


def _may_hold_empty(block: Array, chunk: tuple[int, ...]) -> bool:
    """Tell whether some chunk of ``block`` holds nothing but zeros; quick where the first voxel is none."""
    starts = itertools.product(*(range(0, length, step) for length, step in zip(block.shape, chunk)))
    return any(
        block[start] == 0 and not block[tuple(slice(at, at + step) for at, step in zip(start, chunk))].any()
        for start in starts
    )


def read_box(
    place: StoredFiles, directory: str, window: Window, out: Array | None = None, found: ReadBack | None = None
) -> Array:
    """Return the voxels that lie in ``window`` (z, y, x), newly read and decoded; in ``out`` if given.

    The files they were decoded from are added to ``found``; chunks of nothing but fill values have none.
    """
    with _decoding(place, directory, window):
        direct = _open_direct(place, directory, window) if out is not None else None
        if direct is None or out is None:
            return _read_by_zarr(place, directory, window, out, found)
        for key, part in direct.files(window):
            direct.decode(_read_file(place, f"{directory}/{key}", found), out[part.inside(window)])
        return out


@contextlib.contextmanager
def _decoding(place: StoredFiles, directory: str, window: Window) -> Iterator[None]:
    """Raise ``VerificationFailed`` for whatever is found when files are decoded."""
    try:
        yield
    except LadingError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise VerificationFailed(
            f"{place.name}/{directory}: what was written at {window} cannot be decoded: "
            f"{' '.join(str(error).split())}; run again; if it stays, the disk is faulty"
        ) from error


def holds(
    place: StoredFiles, directory: str, window: Window, expected: Array, found: ReadBack, halved: Array | None = None
) -> bool:
    """Tell whether the files of a window, newly read, decode to ``expected``; fill ``halved`` with the mean of that.

    Chunk by chunk, none of which leaves the processor's cache. False also where only zarr can say (``read_box``), and
    then nothing is added to ``found``.
    """
    with _decoding(place, directory, window):
        direct = _open_direct(place, directory, window)
        if direct is None or (halved is not None and not direct.halves_alone):
            return False
        taken = []
        for key, part in direct.files(window):
            path = f"{directory}/{key}"
            data = _read_file(place, path, None)
            taken.append((path, data))
            known = expected[part.inside(window)]
            half = halved[halve_window(part).inside(halve_window(window))] if halved is not None else None
            for inside, voxels in direct.chunks(data, known.shape):
                if not are_equal(voxels, known[inside]):
                    return False
                if half is not None:
                    mean = mean_halved(voxels)
                    z, y, x = (slice(at.start // 2, at.start // 2 + size) for at, size in zip(inside, mean.shape))
                    half[z, y, x] = mean
        for path, data in taken:
            if data is not None:
                found.add(path, data)
        return True


def _read_file(place: StoredFiles, path: str, found: ReadBack | None) -> bytes | None:
    """Return a file's bytes, which are added to ``found``; None when there is none: it would hold fill values only."""
    try:
        data = place.read(path)
    except FileNotFoundError:
        return None
    if found is not None:
        found.add(path, data)
    return data


def _read_by_zarr(
    place: StoredFiles, directory: str, window: Window, out: Array | None, found: ReadBack | None
) -> Array:
    with zarr.config.set({"threading.max_workers": 1}):
        array, files = open_array(place, directory)
        for key in _keys(array, window):
            data = _read_file(place, f"{directory}/{key}", found)
            if data is not None:
                files[key] = _as_buffer(data)
        if out is None:
            return np.asarray(array[window.slices])
        memory: Any = poison_fill(out)
        for part in _parts(window, array):
            target = default_buffer_prototype().nd_buffer.from_ndarray_like(memory[part.inside(window)])
            selection: Any = part.slices
            array.get_basic_selection(selection, out=target)
        return out


def _parts(window: Window, array: Any) -> Iterator[Window]:
    """Yield the parts of a window that are decoded at a time: of a shard two rows of chunks.

    What zarr decodes of a shard it gathers in fresh memory, which the kernel clears each time when it is large.
    """
    if not array.shards:
        yield window
        return
    down, tall = array.chunks[2], 2 * array.chunks[3]
    for z, y in itertools.product(range(*window.z, down), range(*window.y, tall)):
        yield Window(window.t, window.c, (z, min(z + down, window.z[1])), (y, min(y + tall, window.y[1])), window.x)


def require_equal(found: Array, expected: Array, where: str, window: Window, what: str) -> None:
    """Raise ``VerificationFailed`` naming the first voxel that differs, compared bit by bit (NaN equals NaN)."""
    if are_equal(found, expected):
        return
    a, b = found.view(f"u{found.dtype.itemsize}"), expected.view(f"u{expected.dtype.itemsize}")
    z, y, x = (int(place) for place in np.argwhere(a != b)[0])
    place = f"z {window.z[0] + z}, y {window.y[0] + y}, x {window.x[0] + x}"
    raise VerificationFailed(
        f"{where}: {what} differ at t {window.t}, c {window.c}, {place} "
        f"({found[z, y, x]} on disk, {expected[z, y, x]} expected), "
        f"voxels that differ: {np.count_nonzero(a != b)}; run again"
    )


def are_equal(found: Array, expected: Array) -> bool:
    """Tell whether two blocks (z, y, x) of one shape and type hold the same bytes: NaN equals NaN, 0.0 not -0.0."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    # Eight bytes at a time where rows allow it: fewer truth values. Plane by plane, so that these stay in the cache.
    plain = all(array.strides[2] == array.itemsize for array in (found, expected))
    core = compiled_core()
    if plain and hasattr(core, "same"):  # one of an older state has none
        return bool(core.same(found, expected))
    word = "u8" if plain and found.shape[2] * found.itemsize % 8 == 0 else f"u{found.itemsize}"
    one, other = found.view(word), expected.view(word)
    if found.nbytes <= _COMPARED:
        return np.array_equal(one, other)
    return all(np.array_equal(plane, known) for plane, known in zip(one, other))
