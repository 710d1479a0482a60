"""Read a manifest in one pass, faster than row by row: its blocks are checked in a thread while rows are taken apart.

Input: a manifest's file. Output: blocks of whole rows, and at the end whether the file is sound.
Invariant: whatever was made of the rows counts only when ``finish`` returned: it raises, as ``read_manifest`` does,
where there is no end record or its sums differ. So nothing is said before it.
"""

import hashlib
import json
import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lading.core.bounded import is_name, parse_json
from lading.core.errors import ConsistencyError
from lading.verification.manifest import (
    LINE_BYTES,
    ManifestEnd,
    ManifestHeader,
    check_row,
    decode_end,
    decode_header_line,
    manifest_blocks,
)

_TEXT = rb'"([^"\\]*)"'
_NULL = rb'(null|"[^"\\]*")'
# As write_manifest writes a row. Names may hold escapes: they are looked at again. A line of any other form is parsed.
_ROW = re.compile(
    rb'^\{"path":"([^"]*)","key":"([^"]*)","size":(\d{1,18}),"mtime_ns":-?\d+,"md5":' + _NULL + rb',"sha256":' + _NULL
    + rb',"etag":' + _TEXT + rb',"version_id":(?:null|"[^"\\]*"),"checksum":"[^"\\]*","batch":"[^"\\]*",'
    rb'"uploaded_at":"[^"\\]*"((?:,"[a-z0-9_]+":"[^"\\]*")*)(?:,"metadata":\{.*\})?\}$',
    re.MULTILINE,
)  # fmt: skip
_FILE_SHA256 = re.compile(rb'"file_sha256":("[^"\\]*")')
_END, _ENTRY = b'{"end":', b'{"kind":'  # of what is no object: such lines come after all rows
_ENCODE = json.JSONEncoder().encode
_AHEAD = 4  # blocks


class ScannedRow(NamedTuple):
    """What a comparison needs of a row: names as the JSON text has them inside its quotes, digests with theirs.

    ``key`` is plain UTF-8. ``sha256`` is that of the object or else of the file; both digests are empty where there is
    none.
    """

    path: bytes
    key: bytes
    size: int
    sha256: bytes
    md5: bytes
    etag: bytes


class ManifestScan:
    """One pass over a manifest."""

    def __init__(self, path: Path, shown: str = "") -> None:
        self._path, self._shown = path, shown or str(path)
        self._blocks: queue.Queue[bytes | Exception | None] = queue.Queue(_AHEAD)
        self._digest = hashlib.sha256()
        self._stop = threading.Event()
        self._end: ManifestEnd | None = None
        self._last = b""
        self._count = self._size = self._others = 0
        self._thread = threading.Thread(target=self._read, name="scan", daemon=True)
        self._thread.start()
        first = self._blocks.get()
        if isinstance(first, Exception):
            raise first
        self.header: ManifestHeader = decode_header_line(first or b"", self._shown)

    def _read(self) -> None:
        """Put the header's line, then blocks of rows, then None; or what went wrong."""
        try:
            rest = b""
            head = ended = False
            for block in manifest_blocks(self._path, self._shown):
                if ended:  # the end record goes on; what comes after its line is nobody's
                    self._last += block[:LINE_BYTES]
                    return
                held = rest + block
                if not head:
                    line, newline, after = held.partition(b"\n")
                    if not newline:
                        rest = held
                        self._check_line(rest)
                        continue
                    head, held = True, after
                    self._digest.update(line + b"\n")
                    self._put(line)
                place = 0 if held.startswith(_END) else held.find(b"\n" + _END) + 1
                if place or held.startswith(_END):
                    self._rows(held[:place])
                    self._last, rest, ended = held[place:], b"", True
                    if b"\n" in self._last:
                        return
                    continue
                rows, newline, rest = held.rpartition(b"\n")
                self._check_line(rest)
                self._rows(rows + newline)
            self._last = self._last or rest
            if not head:
                self._put(rest)
        except Exception as error:  # noqa: BLE001 - raised where the rows are taken
            self._put(error)
        finally:
            self._put(None)

    def _rows(self, rows: bytes) -> None:
        if rows:
            self._digest.update(rows)
            self._put(rows)

    def _check_line(self, rest: bytes) -> None:
        if len(rest) > LINE_BYTES:
            raise ConsistencyError(
                f"{self._shown} has a line of more than {LINE_BYTES:,} bytes, which a manifest cannot have"
            )

    def _put(self, item: bytes | Exception | None) -> None:
        while not self._stop.is_set():
            try:
                self._blocks.put(item, timeout=0.5)
            except queue.Full:
                continue
            return

    def close(self) -> None:
        """Let the thread end."""
        self._stop.set()

    def rows(self) -> Iterator[list[ScannedRow]]:
        """Yield the rows in key order, some thousands at once."""
        number = 2
        while (block := self._blocks.get()) is not None:
            if isinstance(block, Exception):
                raise block
            if not (block := self._leave_entries(block, number)):
                continue
            found = self._scan(block, number)
            number += len(found)
            self._count += len(found)
            self._size += sum([row.size for row in found])
            yield found
        self.finish()

    def _leave_entries(self, block: bytes, number: int) -> bytes:
        """Return the rows of objects of a block; what follows them is counted."""
        place = 0 if block.startswith(_ENTRY) else block.find(b"\n" + _ENTRY) + 1
        if not place and not block.startswith(_ENTRY):
            if self._others:
                raise self._no_row(number, ValueError("the row of an object comes after what is none"))
            return block
        entries = block[place:]
        count = entries.count(b"\n")
        if entries.count(b"\n" + _ENTRY) + 1 != count or (place and self._others):
            raise self._no_row(number, ValueError("the row of an object comes after what is none"))
        self._others += count
        return block[:place]

    def _scan(self, block: bytes, number: int) -> list[ScannedRow]:
        found = _ROW.findall(block)
        if len(found) != block.count(b"\n"):
            return [self._parse(line, number + index) for index, line in enumerate(block.splitlines())]
        escaped = b"\\" in block
        return [
            ScannedRow(
                path,
                key if not escaped or b"\\" not in key else self._decode(key, number + index),
                int(size),
                sha256[1:-1] if sha256 != b"null" else _file_sha256(more) if more else b"",
                md5[1:-1] if md5 != b"null" else b"",
                etag,
            )
            for index, (path, key, size, md5, sha256, etag, more) in enumerate(found)
        ]

    def _decode(self, text: bytes, number: int) -> bytes:
        """Return the UTF-8 of what JSON has inside quotes."""
        try:
            value = parse_json(b'"' + text + b'"')
            if type(value) is not str or not is_name(value):
                raise ValueError(f"'key' of a row is {text[:60]!r}")
        except ValueError as error:
            raise self._no_row(number, error) from error
        return value.encode("utf-8", "surrogateescape")

    def _parse(self, line: bytes, number: int) -> ScannedRow:
        """Take a line apart that is not in the form of our own writer."""
        try:
            record = parse_json(line)
            check_row(record, line)
        except ValueError as error:
            raise self._no_row(number, error) from error
        sha256 = record["sha256"] or record.get("file_sha256")
        return ScannedRow(
            inside_quotes(record["path"]),
            record["key"].encode("utf-8", "surrogateescape"),
            record["size"],
            (sha256 or "").encode(),
            (record["md5"] or "").encode(),
            record["etag"].encode(),
        )

    def _no_row(self, number: int, error: Exception) -> ConsistencyError:
        return ConsistencyError(f"{self._shown}, line {number}: not a manifest row ({error}); run: make verify")

    def finish(self) -> ManifestEnd:
        """Return the end record; ``ConsistencyError`` where it is missing or does not agree."""
        line = self._last.partition(b"\n")[0]
        if not line.startswith(_END):
            raise ConsistencyError(f"{self._shown} is truncated: it has no end record; run: make verify")
        end = decode_end(line, self._shown)
        sums = (self._count, self._size, self._digest.hexdigest(), self._others)
        if (end.objects, end.bytes, end.sha256, end.entries) != sums:
            raise ConsistencyError(
                f"{self._shown} does not match its end record: it was edited or damaged; run: make verify"
            )
        return end


def _file_sha256(more: bytes) -> bytes:
    found = _FILE_SHA256.search(more)
    return found[1][1:-1] if found else b""


def inside_quotes(text: str) -> bytes:
    """Return a text as JSON has it inside its quotes, in ASCII."""
    return _ENCODE(text)[1:-1].encode("ascii")


def text_of(inside: bytes) -> str:
    """Return the text of what JSON has inside quotes."""
    if b"\\" not in inside:
        return inside.decode("ascii")
    return str(parse_json(b'"' + inside + b'"'))
