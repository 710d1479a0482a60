"""The manifest: one row per object whose delivery was proven.

Input: rows that the verify step found equal in the bucket and on disk.
Output: ``manifest.jsonl.zst``, Zstandard-compressed JSON lines: a header, the
rows sorted by key, then what is no object (links, directories, fifos …) by
path, an end record.
Invariant: the end record carries count, bytes and the SHA-256 of all lines
before it; a file without it, or with other sums, is refused by every reader.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import zstandard

from lading.core.atomic import atomic_write
from lading.core.bounded import INT64, JsonMembers, is_name, kind_of, parse_json
from lading.core.errors import ConsistencyError, UsageError
from lading.core.times import is_saturated, saturate
from lading.core.version import provenance
from lading.journal.records import PRESENT
from lading.tree.coverage import Coverage, decode_unreadable, encode_unreadable
from lading.tree.entry_record import (
    EntryMetadata,
    RecordedEntry,
    decode_entry_record,
    decode_metadata,
    encode_entry_record,
    encode_metadata,
)
from lading.tree.not_regular import NotRegular, decode_not_regular, encode_not_regular
from lading.tree.size_tree import Unreadable

FORMAT = 1
# The ``checksum`` of a row that an archive's list made: nothing was compared.
LISTED = "listed"
# The ``level`` of such a row that has no digest.
SIZE_ONLY = "size only"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One proven object.

    path        relative to the plan's root, ``surrogateescape`` for non-UTF-8 bytes
    key         the object's key in the bucket, prefix included
    size        bytes; mtime_ns: of the local file, nanoseconds since 1970
    md5, sha256 lower-case hex of the content, or None where it was not computed; sha256 is given only where
                the object's bytes were sent by us or read, or the server itself names it
    etag        as the bucket lists it, without quotes
    version_id  of the proven version, or None in an unversioned bucket
    checksum    what proved it: ``etag``, ``<algorithm>:<base64>``, ``download`` or ``size``
    batch       id of the batch that carried it
    uploaded_at the bucket's LastModified, ISO 8601 UTC

    Added since the first edition, and None in its manifests:

    verified_by     what was compared, and how the object came there: ``md5, sent``, ``md5, present before`` …
    server_checksum full-object checksum by the server, found equal: ``<algorithm>:<base64>``
    file_sha256     of the local file, where ``sha256`` is None because the object was only matched by less
    level           of an imported row, whose ``checksum`` is ``listed``: what it rests on
    metadata        the file's attributes, where the crawl recorded them
    storage_class   as the bucket lists it; None for STANDARD
    attributes      what the bucket answered of how the object is stored: content_type, cache_control, content_encoding,
                    encryption, kms_key, metadata, tags; None where it was not asked
    also            of an imported row: other paths of the release that name the same object
    """

    path: str
    key: str
    size: int
    mtime_ns: int
    md5: str | None
    sha256: str | None
    etag: str
    version_id: str | None
    checksum: str
    batch: str
    uploaded_at: str
    verified_by: str | None = None
    server_checksum: str | None = None
    file_sha256: str | None = None
    level: str | None = None
    metadata: EntryMetadata | None = None
    storage_class: str | None = None
    attributes: Mapping[str, Any] | None = None
    also: tuple[str, ...] | None = None

    @property
    def strength(self) -> "Strength":
        """How much is known of the object's bytes."""
        method = self.checksum
        if method == "download":
            return Strength.DOWNLOAD
        if self.server_checksum is not None or ":" in method:
            return Strength.CHECKSUM
        if method == LISTED:
            return Strength.MD5 if self.md5 or self.sha256 else Strength.SIZE
        return Strength.MD5 if method == "etag" else Strength.SIZE

    @property
    def present_before(self) -> bool | None:
        """Whether the object was there already and was found equal; None in manifests that do not say."""
        return None if self.verified_by is None else self.verified_by.endswith(f", {PRESENT}")


_NAMES = tuple(field.name for field in dataclasses.fields(ManifestRow))
_ROW = _NAMES[:11]
_ADDED = tuple(name for name in _NAMES[11:] if name != "metadata")  # what was added is left out where it is None
_KNOWN = frozenset(_NAMES)
_SHAPES: set[tuple[Any, ...]] = set()
_MOST_SHAPES = 1000
ABSENT = object()
# How the lines begin that are no row of an object. The header's begins with its format.
_END, _ENTRY, _WITHDRAWN = b'{"end":', b'{"kind":', b'{"withdrawn":'
_TEXT, _NUMBER, _TEXT_OR_NONE, _OBJECT_OR_NONE = (str,), (int,), (str, type(None)), (dict, type(None))
_ADDED_TYPES = {"attributes": _OBJECT_OR_NONE, "also": (list, type(None))}
_ROW_TYPES = (
    _TEXT, _TEXT, _NUMBER, _NUMBER, _TEXT_OR_NONE, _TEXT_OR_NONE, _TEXT, _TEXT_OR_NONE, _TEXT, _TEXT, _TEXT,
)  # fmt: skip
LINE_BYTES = 1 << 20  # a path of 4,096 bytes, a key of 1,024, six characters each at worst, and a header's settings


class Strength(IntEnum):
    """How an object was compared: each says more than the one before."""

    SIZE = 0
    MD5 = 1  # the server's ETag
    CHECKSUM = 2  # the server's full-object checksum
    DOWNLOAD = 3  # every byte was read back


def describe_verification(method: str, origin: str | None) -> str | None:
    """Return the ``verified_by`` of a row; None where the origin is not known."""
    what = "md5" if method == "etag" else method.partition(":")[0]
    return f"{what}, {origin}" if origin else None


@dataclass(frozen=True)
class ManifestHeader:
    """Whence the rows come.

    ``bucket`` is the bare name, ``prefix`` ends in ``/`` or is empty,
    ``endpoint`` is None for AWS, ``root`` the plan's root, ``plan`` the
    SHA-256 of batch.json's bytes, ``settings`` what made the manifest.
    """

    bucket: str
    prefix: str
    endpoint: str | None
    root: str
    plan: str
    created_at: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class SourceRead:
    """How many local files were to be read and compared beside the objects, were read, and are gone."""

    asked: int
    read: int
    gone: int


@dataclass(frozen=True)
class ManifestEnd:
    """The sums of a manifest.

    complete    every object of the plan has a row that compares more than sizes, and the plan is of a crawl that could
                read everything
    unreadable  how many paths the crawl could not read; ``named`` holds the first of them
    source      what reading the source came to; None where nobody asked for it
    entries     how many rows are of what is no object; ``not_regular`` counts them by kind
    withdrawn   how many objects were deleted on purpose; they have no row, and are named behind the rows
    """

    objects: int
    bytes: int
    sha256: str
    complete: bool
    unreadable: int = 0
    named: tuple[Unreadable, ...] = ()
    source: SourceRead | None = None
    entries: int = 0
    not_regular: NotRegular | None = None
    withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class WithdrawnObject:
    """An object that was verified, and was deleted on purpose: when, and why. ``version_id`` is that of the object."""

    path: str
    key: str
    size: int
    etag: str
    sha256: str | None
    version_id: str | None
    reason: str
    withdrawn_at: str


@dataclass(frozen=True)
class Manifest:
    """A manifest whose end record was found and whose sums agree; rows are read on demand.

    ``shown``: what it is called, where that is not its path. ``held``: what must stay open for it to be read.
    """

    path: Path
    header: ManifestHeader
    end: ManifestEnd
    shown: str = ""
    held: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.shown or str(self.path)

    def rows(self) -> Iterator[ManifestRow]:
        """Yield the rows of objects in key order."""
        for number, line in enumerate(manifest_lines(self.path), 1):
            if line.startswith((_END, _ENTRY, _WITHDRAWN)):
                return
            try:
                if number > 1:
                    yield _decode_row(line)
            except ValueError as error:
                raise ConsistencyError(f"{self}, line {number}: {error}; run: make verify") from error

    def entries(self) -> Iterator[RecordedEntry]:
        """Yield what is no object: a directory before all below it, and nothing else between these."""
        if not self.end.entries:
            return
        for number, line in enumerate(manifest_lines(self.path), 1):
            if line.startswith(_END):
                return
            try:
                if line.startswith(_ENTRY):
                    yield decode_entry_record(parse_json(line))
            except ValueError as error:
                raise ConsistencyError(f"{self}, line {number}: {error}; run: make verify") from error

    def withdrawn(self) -> Iterator[WithdrawnObject]:
        """Yield what was withdrawn, in key order."""
        if not self.end.withdrawn:
            return
        for line in manifest_lines(self.path):
            if line.startswith(_WITHDRAWN):
                yield _decode_withdrawn(parse_json(line))


def _decode_withdrawn(record: Any) -> WithdrawnObject:
    take = JsonMembers(record, "a withdrawn object").members("withdrawn")
    return WithdrawnObject(
        take.text("path"),
        take.text("key"),
        take.number("size"),
        take.text("etag"),
        take.text_or_none("sha256"),
        take.text_or_none("version_id"),
        take.text("reason"),
        take.text("withdrawn_at"),
    )


def check_row(record: Any, line: bytes) -> None:
    """Raise ``ValueError`` unless this, read of a line, is a row."""
    # Asked of every row: they come in a few shapes, and the types of each are looked at once.
    if type(record) is not dict:
        raise ValueError(f"a row is {kind_of(record)}, not an object")
    shape = (*record, *map(type, record.values()))
    if shape not in _SHAPES:
        _check_types(record)
        if len(_SHAPES) < _MOST_SHAPES:
            _SHAPES.add(shape)
    if not 0 <= record["size"] <= INT64:
        raise ValueError(f"'size' of a row is {record['size']}")
    if record.get("attributes") and not _are_attributes(record["attributes"]):
        raise ValueError(f"'attributes' of a row are {repr(record['attributes'])[:60]}")
    if record.get("also") and not all(type(path) is str and is_name(path) for path in record["also"]):
        raise ValueError(f"'also' of a row is {repr(record['also'])[:60]}")
    if b"\\u" in line:  # the only way to write a NUL or a lone surrogate
        for name, value in record.items():
            if type(value) is str and not is_name(value):
                raise ValueError(f"{name[:40]!r} of a row is {repr(value)[:60]}")


def _are_attributes(found: dict[str, Any]) -> bool:
    """Tell whether these are texts, or objects of texts."""
    return all(
        type(value) is str or (type(value) is dict and all(type(text) is str for text in value.values()))
        for value in found.values()
    )


def _check_types(record: dict[str, Any]) -> None:
    for name, kinds in zip(_ROW, _ROW_TYPES):
        value = record.get(name, ABSENT)
        if type(value) not in kinds:
            found = "is missing" if value is ABSENT else f"is {repr(value)[:60]}"
            raise ValueError(f"{name!r} of a row {found}")
    for name in _ADDED:
        if type(record.get(name)) not in _ADDED_TYPES.get(name, _TEXT_OR_NONE):
            raise ValueError(f"{name!r} of a row is {repr(record[name])[:60]}")
    if type(record.get("metadata")) not in (dict, type(None)):
        raise ValueError(f"'metadata' of a row is {repr(record['metadata'])[:60]}")


def _decode_row(line: bytes) -> ManifestRow:
    """Return the row of a line, members that a later edition added left out; ``ValueError`` when it is none."""
    record = parse_json(line)
    check_row(record, line)
    if not record.keys() <= _KNOWN:
        record = {name: value for name, value in record.items() if name in _KNOWN}
    if is_saturated(record["mtime_ns"]):
        record["mtime_ns"] = saturate(record["mtime_ns"])
    if record.get("metadata") is not None:
        record["metadata"] = decode_metadata(record["metadata"])
    if record.get("also") is not None:
        record["also"] = tuple(record["also"])
    return ManifestRow(**record)


def _decode_header(record: Any) -> ManifestHeader:
    take = JsonMembers(record, "the header")
    return ManifestHeader(
        take.text("bucket"),
        take.text("prefix"),
        take.text_or_none("endpoint"),
        take.text("root"),
        take.text("plan"),
        take.text("created_at"),
        take.object("settings"),
    )


def write_manifest(
    path: Path,
    header: ManifestHeader,
    rows: Iterable[ManifestRow],
    *,
    complete: bool | Callable[[], bool],
    coverage: Coverage | None = None,
    source: Callable[[], SourceRead | None] = lambda: None,
    entries: Iterable[RecordedEntry] = (),
    withdrawn: Callable[[], Iterable[WithdrawnObject]] = tuple,
) -> ManifestEnd:
    """Write a manifest atomically; ``rows`` must come sorted by key, each key once, ``entries`` by ``entry_order``.

    ``complete`` may be a function: it is asked after the last row, as ``source`` and ``withdrawn`` are. Whatever it
    says, the manifest of a plan whose ``coverage`` has gaps is not complete,
    nor is one with a row that compares sizes only.
    """
    digest, count, size, weak, others, gone = hashlib.sha256(), 0, 0, 0, 0, 0
    previous: bytes | None = None
    with (
        atomic_write(path, "wb", sweep=True) as raw,
        zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as stream,
    ):

        def put(record: Mapping[str, Any]) -> None:
            line = _write_json(record).encode("ascii") + b"\n"
            digest.update(line)
            stream.write(line)

        put({"format": FORMAT, "kind": "manifest", **asdict(header), "written_by": provenance()})
        for row in rows:
            order = row.key.encode("utf-8", "surrogateescape")
            if previous is not None and order <= previous:
                raise ValueError(f"manifest rows out of order at key {row.key!r}")
            previous = order
            count += 1
            size += row.size
            weak += row.strength is Strength.SIZE
            put(_encode_row(row))
        for others, entry in enumerate(entries, 1):  # noqa: B007 - the last number is the count
            put(encode_entry_record(entry))
        for gone, item in enumerate(withdrawn(), 1):  # noqa: B007
            put({"withdrawn": asdict(item)})
        whole = (complete() if callable(complete) else complete) and not weak
        gaps = coverage or Coverage()
        end = ManifestEnd(
            count,
            size,
            digest.hexdigest(),
            whole and gaps.complete,
            gaps.unreadable,
            gaps.named,
            source(),
            others,
            gaps.not_regular,
            gone,
        )
        put({"end": _encode_end(end)})
    return end


def entry_order(entry: RecordedEntry) -> bytes:
    """Return what entries are sorted by: a directory comes right before all that is below it."""
    return b"" if entry.path == "." else entry.path.encode("utf-8", "surrogateescape").replace(b"/", b"\0")


_write_json = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder for each call


def _encode_row(row: ManifestRow) -> dict[str, Any]:
    record = {name: getattr(row, name) for name in _ROW}
    for name in _ADDED:
        value = getattr(row, name)
        if value is not None:
            record[name] = value
    if row.metadata is not None:
        record["metadata"] = encode_metadata(row.metadata)
    return record


def _encode_end(end: ManifestEnd) -> dict[str, Any]:
    record: dict[str, Any] = {
        "objects": end.objects,
        "bytes": end.bytes,
        "sha256": end.sha256,
        "complete": end.complete,
    }
    if end.unreadable:  # only then: readers of earlier editions take no other member
        record |= {"unreadable": end.unreadable, "named": encode_unreadable(end.named)}
    if end.source is not None:
        record["source"] = asdict(end.source)
    if end.entries:
        record["entries"] = end.entries
    if end.not_regular is not None and end.not_regular.kinds:
        record["not_regular"] = encode_not_regular(end.not_regular)
    if end.withdrawn:
        record["withdrawn"] = end.withdrawn
    return record


def _decode_end(record: Any) -> ManifestEnd:
    take = JsonMembers(record, "the end record")
    source = take.members("source") if "source" in record else None
    return ManifestEnd(
        take.number("objects"),
        take.number("bytes"),
        take.text("sha256"),
        take.flag("complete"),
        take.number("unreadable", 0),
        decode_unreadable(record.get("named", [])),
        SourceRead(source.number("asked"), source.number("read"), source.number("gone")) if source else None,
        take.number("entries", 0),
        decode_not_regular(record["not_regular"]) if "not_regular" in record else None,
        take.number("withdrawn", 0),
    )


def decode_header_line(line: bytes, shown: str) -> ManifestHeader:
    """Return the header of a manifest's first line; ``UsageError`` when it is none of this format."""
    try:
        record = parse_json(line) if line else None
        if line and (type(record) is not dict or (record.get("kind"), record.get("format")) != ("manifest", FORMAT)):
            raise UsageError(_of_another_format(record, shown))
        if not line:
            raise ConsistencyError(f"{shown} is truncated: it has no end record; run: make verify")
        return _decode_header(record)
    except ValueError as error:
        raise ConsistencyError(f"{shown}, line 1: not a manifest's header ({error}); run: make verify") from error


def _of_another_format(record: Any, shown: str) -> str:
    """Return the sentence on a first line that is none of this format."""
    known = type(record) is dict and record.get("kind") == "manifest"
    found = record.get("format") if known else None
    if type(found) is int and found > FORMAT:
        return f"{shown} is a manifest of format {found}, and this Lading knows {FORMAT}; update Lading"
    return f"{shown} is not a manifest of format {FORMAT}; run: make verify"


def end_line(end: ManifestEnd) -> bytes:
    """Return the last line of a manifest."""
    return json.dumps({"end": _encode_end(end)}, separators=(",", ":")).encode("ascii") + b"\n"


def decode_end(line: bytes, shown: str) -> ManifestEnd:
    """Return the end record of a line; ``ConsistencyError`` when it is none."""
    try:
        return _decode_end(parse_json(line)["end"])
    except ValueError as error:
        raise ConsistencyError(f"{shown}: not an end record ({error}); run: make verify") from error


def read_manifest(path: Path) -> Manifest:
    """Return a manifest after checking it whole.

    Raises ``UsageError`` when it is missing or not a manifest of this format,
    ``ConsistencyError`` when it is truncated or its sums are wrong.
    """
    digest = hashlib.sha256()
    header: ManifestHeader | None = None
    end: ManifestEnd | None = None
    count = size = others = withdrawn = 0
    previous = b""
    lines = enumerate(manifest_lines(path), 1)
    for number, line in lines:
        try:
            record = parse_json(line)
            if number == 1:
                if type(record) is not dict or (record.get("kind"), record.get("format")) != ("manifest", FORMAT):
                    raise UsageError(_of_another_format(record, str(path)))
                header = _decode_header(record)
            elif line.startswith(_END):
                end = _decode_end(record["end"])
                if next(lines, None) is not None:
                    raise ValueError("something follows the end record")
                break
            elif line.startswith(_ENTRY):
                if withdrawn:
                    raise ValueError("an entry comes after a withdrawn object")
                others += 1
            elif line.startswith(_WITHDRAWN):
                _decode_withdrawn(record)
                withdrawn += 1
            elif others or withdrawn:
                raise ValueError("the row of an object comes after what is none")
            else:
                count += 1
                check_row(record, line)
                key = record["key"].encode("utf-8", "surrogateescape")
                if key <= previous:  # whoever merges it with a listing would call what is there missing
                    raise ValueError("its key does not come after the key of the row before")
                previous = key
                size += record["size"]
        except ValueError as error:
            raise ConsistencyError(f"{path}, line {number}: not a manifest row ({error}); run: make verify") from error
        digest.update(line)
    if header is None or end is None:
        raise ConsistencyError(f"{path} is truncated: it has no end record; run: make verify")
    sums = (count, size, digest.hexdigest(), others, withdrawn)
    if (end.objects, end.bytes, end.sha256, end.entries, end.withdrawn) != sums:
        raise ConsistencyError(f"{path} does not match its end record: it was edited or damaged; run: make verify")
    return Manifest(path, header, end)


def manifest_lines(path: Path) -> Iterator[bytes]:
    """Yield the decompressed lines with their newline; a torn frame ends the iteration."""
    with _open(path, str(path)) as stream:
        buffered = io.BufferedReader(stream, 1 << 20)
        try:
            while line := buffered.readline(LINE_BYTES + 1):
                if len(line) > LINE_BYTES:
                    raise ConsistencyError(
                        f"{path} has a line of more than {LINE_BYTES:,} bytes, which a manifest cannot have"
                    )
                yield line
        except zstandard.ZstdError as error:
            raise ConsistencyError(f"{path} is damaged ({error}); run: make verify") from error


def manifest_blocks(path: Path, shown: str, size: int = 4 << 20) -> Iterator[bytes]:
    """Yield the decompressed bytes in blocks; ``shown`` is what messages call the file."""
    with _open(path, shown) as stream:
        try:
            while block := stream.read(size):
                yield block
        except zstandard.ZstdError as error:
            raise ConsistencyError(f"{shown} is damaged ({error}); run: make verify") from error


@contextmanager
def _open(path: Path, shown: str) -> Iterator[Any]:
    try:
        raw = path.open("rb")
    except FileNotFoundError as error:
        raise UsageError(f"{shown} is missing; run: make verify") from error
    with raw, zstandard.ZstdDecompressor().stream_reader(raw, read_size=1 << 20) as stream:
        yield stream
