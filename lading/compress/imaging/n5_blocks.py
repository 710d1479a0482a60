"""Blocks of an N5 dataset: from the bytes of a file to voxels.

Input: the content of ``attributes.json``, the bytes of a block's file. Output: ``N5Dataset``, arrays of voxels.
Invariant: what a block decompresses to is bounded by its dataset; a block that
is not what its header and its dataset say is a ``ValueError`` or one of ``DAMAGE``.

Format (N5 specification 4.0.0): ``attributes.json`` of a dataset has
``dimensions`` and ``blockSize`` (fastest axis first), ``dataType`` and
``compression``. A block is the file ``i/j/k``: big-endian ``mode`` (0, or 1
with the number of elements after the lengths), number of axes, lengths of the
block, then its elements, big-endian, compressed.
"""

import bz2
import lzma
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numcodecs.blosc
import numcodecs.lz4
import numcodecs.zstd
import numpy as np

from lading.compress.imaging.volume import Array
from lading.core.progress import counted

DAMAGE = (OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, struct.error, zlib.error, lzma.LZMAError)
_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
_COMPRESSIONS = ("raw", "gzip", "bzip2", "xz", "zstd", "lz4", "blosc")
_LZ4_MAGIC = b"LZ4Block"
_MOST_BLOCK = 1 << 30  # bytes of a block, decompressed


@dataclass(frozen=True)
class N5Dataset:
    """What ``attributes.json`` says of a dataset; lengths with the slowest axis first."""

    shape: tuple[int, ...]
    block: tuple[int, ...]
    dtype: np.dtype[Any]
    compression: Mapping[str, Any]

    @staticmethod
    def of(record: Mapping[str, Any]) -> "N5Dataset":
        """Return a dataset; ``ValueError`` says what is wrong with it."""
        shape, block = (tuple(int(n) for n in record[name])[::-1] for name in ("dimensions", "blockSize"))
        kind = record["dataType"]
        # Before version 2 the name of a compression was all that stood there.
        found = record.get("compression") or record.get("compressionType") or "raw"
        compression = found if isinstance(found, dict) else {"type": found}
        if kind not in _TYPES:
            raise ValueError(f"its voxels are of type {str(kind)[:40]!r}, which no image has")
        if compression.get("type") not in _COMPRESSIONS:
            known = ", ".join(_COMPRESSIONS)
            raise ValueError(f"its compression {str(compression.get('type'))[:40]!r} is not one of {known}")
        dtype = np.dtype(kind)
        if len(shape) != len(block) or min((*shape, *block)) < 1 or math.prod(block) * dtype.itemsize > _MOST_BLOCK:
            raise ValueError(f"its lengths {shape} in blocks of {block} are none of an image")
        return N5Dataset(shape, block, dtype, compression)


def decode_block(content: bytes, dataset: N5Dataset) -> Array:
    """Return the voxels of a block, slowest axis first."""
    mode, axes = struct.unpack_from(">HH", content)
    if mode not in (0, 1) or axes != len(dataset.shape):
        raise ValueError(f"its header is of mode {mode} with {counted(axes, 'axis', 'axes')}")
    lengths = struct.unpack_from(f">{axes}I", content, 4)
    start = 4 + 4 * axes + 4 * mode
    if any(not 0 < length <= most for length, most in zip(lengths, dataset.block[::-1])):
        raise ValueError(f"its lengths are {lengths}")
    size = math.prod(lengths) * dataset.dtype.itemsize
    plain = _decompress(content[start:], dataset.compression, size)
    if len(plain) != size:
        raise ValueError(f"it holds {len(plain):,} bytes, not {size:,}")
    return np.frombuffer(plain, dataset.dtype.newbyteorder(">")).reshape(lengths[::-1])


def _decompress(content: bytes, compression: Mapping[str, Any], size: int) -> bytes:
    """Return at most one byte more than ``size``."""
    kind = compression["type"]
    if kind == "raw":
        return content
    if kind in ("gzip", "bzip2", "xz"):
        return _whole_stream(kind, content, compression, size)
    if kind == "zstd":
        return bytes(numcodecs.zstd.decompress(content, np.empty(size, np.uint8)))
    if kind == "lz4":
        return b"".join(_lz4_blocks(content, size))
    if struct.unpack_from("<I", content, 4)[0] != size:  # nbytes of the header (c-blosc, README_CHUNK_FORMAT)
        raise ValueError("its blosc header names another size")
    return bytes(numcodecs.blosc.decompress(content))


def _whole_stream(kind: str, content: bytes, compression: Mapping[str, Any], size: int) -> bytes:
    decompressor: Any = lzma.LZMADecompressor() if kind == "xz" else bz2.BZ2Decompressor()
    if kind == "gzip":
        decompressor = zlib.decompressobj(15 if compression.get("useZlib") else 31)
    plain: bytes = decompressor.decompress(content, size + 1)
    if not decompressor.eof:
        raise ValueError(f"its {kind} stream is truncated, or too long")
    return plain


def _lz4_blocks(content: bytes, most: int) -> Iterator[bytes]:
    """Yield the blocks of lz4-java's stream: magic, method, lengths and checksum (little-endian), then bytes."""
    at = found = 0
    while at < len(content):
        magic, method, packed, plain, _ = struct.unpack_from("<8sBIII", content, at)
        at += 21
        if magic != _LZ4_MAGIC or found + plain > most:
            raise ValueError("its lz4 stream is none of lz4-java, or too long")
        body, found = content[at : at + packed], found + plain
        at += packed
        if plain:
            stored = method & 0xF0 == 0x10
            yield body if stored else bytes(numcodecs.lz4.decompress(struct.pack("<I", plain) + body))
