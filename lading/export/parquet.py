"""A manifest as one Parquet file: the columns of its rows, for pyarrow, DuckDB and the like.

Input: a manifest, addresses. Output: a Parquet file of format version 1, plain encoding, gzip.
Invariant: no library is needed to write it, and every row is in it. Memory holds one group of rows.

Source: the Apache Parquet format, ``parquet.thrift`` and ``Encodings.md``; the compact protocol of Apache Thrift.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lading.core.atomic import atomic_write
from lading.core.version import version_line
from lading.export.addresses import Addresses
from lading.export.linked_data import readable
from lading.export.writers import Exported
from lading.verification.manifest import Manifest, ManifestRow

GROUP = 100_000  # rows
MAGIC = b"PAR1"
_INT64, _BYTES = 2, 6  # types of columns
_UTF8 = 0  # converted type
_REQUIRED, _OPTIONAL = 0, 1
_PLAIN, _RLE = 0, 3
_GZIP = 2
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12


@dataclass(frozen=True)
class Column:
    """One column: its name, its type, and how a row has it."""

    name: str
    kind: int
    value: Callable[[ManifestRow, Addresses], Any]
    optional: bool = False


def _text(name: str) -> Column:
    return Column(name, _BYTES, lambda row, _: getattr(row, name), optional=True)


COLUMNS = (
    Column("path", _BYTES, lambda row, _: readable(row.path)),
    Column("key", _BYTES, lambda row, _: row.key),
    Column("size", _INT64, lambda row, _: row.size),
    Column("mtime_ns", _INT64, lambda row, _: row.mtime_ns),
    *map(_text, ("md5", "sha256", "etag", "version_id", "uploaded_at", "verified_by", "server_checksum")),
    Column("url", _BYTES, lambda row, addresses: addresses.url(row.key)),
)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _zigzag(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else (-number << 1) - 1)


class Struct:
    """A struct in Thrift's compact protocol; fields are added by rising number."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._last = 0

    def _head(self, number: int, kind: int) -> None:
        self._bytes.append((number - self._last) << 4 | kind)
        self._last = number

    def i32(self, number: int, value: int) -> "Struct":
        """Add a number of 32 bits."""
        self._head(number, _I32)
        self._bytes += _zigzag(value)
        return self

    def i64(self, number: int, value: int) -> "Struct":
        """Add a number of 64 bits."""
        self._head(number, _I64)
        self._bytes += _zigzag(value)
        return self

    def text(self, number: int, value: str) -> "Struct":
        """Add a text."""
        self._head(number, _BINARY)
        self._bytes += _binary(value)
        return self

    def struct(self, number: int, value: "Struct") -> "Struct":
        """Add a struct."""
        self._head(number, _STRUCT)
        self._bytes += value.encode()
        return self

    def items(self, number: int, kind: int, values: Sequence[bytes]) -> "Struct":
        """Add a list of encoded items of one kind."""
        self._head(number, _LIST)
        short = len(values) < 15
        self._bytes.append((len(values) if short else 15) << 4 | kind)
        if not short:
            self._bytes += _varint(len(values))
        self._bytes += b"".join(values)
        return self

    def encode(self) -> bytes:
        """Return the bytes, its stop included."""
        return bytes(self._bytes) + b"\0"


def _binary(value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    return _varint(len(data)) + data


@dataclass
class _Group:
    """What the footer says of a group of rows."""

    rows: int
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)


def write_parquet(manifest: Manifest, out: Path, addresses: Addresses) -> Exported:
    """Write every row as Parquet; bytes of names that are no UTF-8 become ``\\xNN``."""
    done = Exported()
    groups: list[_Group] = []
    held: list[ManifestRow] = []
    with atomic_write(out, "wb") as stream:
        stream.write(MAGIC)
        for row in manifest.rows():
            done.rows += 1
            held.append(row)
            if len(held) >= GROUP:
                groups.append(_write_group(stream, held, addresses))
                held = []
        if held:
            groups.append(_write_group(stream, held, addresses))
        footer = _footer(groups, done.rows)
        stream.write(footer + struct.pack("<I", len(footer)) + MAGIC)
    return done


def _write_group(stream: IO[bytes], rows: Sequence[ManifestRow], addresses: Addresses) -> _Group:
    """Write the columns of some rows, a page each."""
    group = _Group(len(rows))
    for column in COLUMNS:
        values = [column.value(row, addresses) for row in rows]
        page = _page(column, values)
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        packed = packer.compress(page) + packer.flush()
        data = Struct().i32(1, len(rows)).i32(2, _PLAIN).i32(3, _RLE).i32(4, _RLE)
        head = Struct().i32(1, 0).i32(2, len(page)).i32(3, len(packed)).struct(5, data).encode()
        place = stream.tell()
        stream.write(head + packed)
        size, whole = len(head) + len(packed), len(head) + len(page)
        meta = Struct().i32(1, column.kind).items(2, _I32, [_zigzag(_PLAIN), _zigzag(_RLE)])
        meta.items(3, _BINARY, [_binary(column.name)]).i32(4, _GZIP).i64(5, len(rows))
        meta.i64(6, whole).i64(7, size).i64(9, place)
        group.chunks.append(Struct().i64(2, place).struct(3, meta).encode())
        group.size += whole
    return group


def _page(column: Column, values: Sequence[Any]) -> bytes:
    """Return the levels and values of a page."""
    levels = b""
    if column.optional:
        levels = _levels([value is not None for value in values])
        levels = struct.pack("<I", len(levels)) + levels
    there = [value for value in values if value is not None]
    if column.kind == _INT64:
        return levels + struct.pack(f"<{len(there)}q", *there)
    texts = [value.encode("utf-8", "backslashreplace") for value in there]
    return levels + b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _levels(there: Sequence[bool]) -> bytes:
    """Return which values are there, as runs of one bit."""
    found = bytearray()
    first = 0
    for place in range(1, len(there) + 1):
        if place == len(there) or there[place] != there[first]:
            found += _varint((place - first) << 1) + bytes([there[first]])
            first = place
    return bytes(found)


def _footer(groups: Sequence[_Group], rows: int) -> bytes:
    """Return the metadata of the file."""
    schema = [Struct().text(4, "manifest").i32(5, len(COLUMNS)).encode()]
    for column in COLUMNS:
        element = Struct().i32(1, column.kind).i32(3, _OPTIONAL if column.optional else _REQUIRED).text(4, column.name)
        if column.kind == _BYTES:
            element.i32(6, _UTF8)
        schema.append(element.encode())
    listed = [
        Struct().items(1, _STRUCT, group.chunks).i64(2, group.size).i64(3, group.rows).encode() for group in groups
    ]
    found = Struct().i32(1, 1).items(2, _STRUCT, schema).i64(3, rows).items(4, _STRUCT, listed)
    return found.text(6, version_line()).encode()
