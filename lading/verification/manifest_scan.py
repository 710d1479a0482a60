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
from operator import itemgetter
from pathlib import Path

import numpy as np

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

# As write_manifest writes a row. Names may hold escapes: they are looked at again. A line of any other form is parsed.
_ROW = re.compile(
    rb'^\{"path":"([^"]*+)","key":"([^"]*+)","size":(\d{1,18}+),"mtime_ns":-?\d++,"md5":(null|"[^"\\]*+"),'
    rb'"sha256":(null|"[^"\\]*+"),"etag":("[^"\\]*+"),"version_id":(?:null|"[^"\\]*+"),"checksum":"[^"\\]*+",'
    rb'"batch":"[^"\\]*+","uploaded_at":"[^"\\]*+"((?:,"[a-z0-9_]+":"[^"\\]*+")*+)(?:,"metadata":\{.*\})?\}$',
    re.MULTILINE,
)
_FILE_SHA256 = re.compile(rb'"file_sha256":("[^"\\]*")')
_END = b'{"end":'
_NO_ROW = _ENTRY, _WITHDRAWN = b'{"kind":', b'{"withdrawn":'  # of what is no object: such lines come after all rows
_SIZE = itemgetter(2)
_ENCODE = json.JSONEncoder().encode
_AHEAD = 4  # blocks


# What a comparison needs of a row, each as the JSON text has it: path and key without their quotes, the key in plain
# UTF-8; size in digits; md5, sha256 and etag with quotes, or null; and what was added since the first edition.
ScannedRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]
PATH, KEY, SIZE, MD5, SHA256, ETAG, MORE = range(7)


class ManifestScan:
    """One pass over a manifest."""

    def __init__(self, path: Path, shown: str = "") -> None:
        self._path, self._shown = path, shown or str(path)
        self._blocks: queue.Queue[tuple[bytes, int] | Exception | None] = queue.Queue(_AHEAD)
        self._digest = hashlib.sha256()
        self._stop = threading.Event()
        self.end: ManifestEnd | None = None  # once all rows were taken
        self._last = b""
        self._count = self._size = self._others = self._withdrawn = 0
        self._thread = threading.Thread(target=self._read, name="scan", daemon=True)
        self._thread.start()
        first = self._blocks.get()
        if isinstance(first, Exception):
            raise first
        self.header: ManifestHeader = decode_header_line(first[0] if first else b"", self._shown)

    def _read(self) -> None:
        """Put the header's line, then blocks of whole rows, then None; or what went wrong. The last line is the end."""
        try:
            rest = held = b""
            head = False
            for block in manifest_blocks(self._path, self._shown):
                if not head:
                    line, newline, block = (rest + block).partition(b"\n")
                    if not newline:
                        rest = line
                        self._check_line(rest)
                        continue
                    self._put((line, 0))
                    self._digest.update(line + b"\n")
                    head, rest = True, b""
                rows, newline, after = block.rpartition(b"\n")
                if not newline:
                    rest += after
                    self._check_line(rest)
                    continue
                self._rows(held)
                held, rest = b"".join((rest, rows, newline)), after
            if not head:
                self._put((rest, 0))
            if not rest:  # else it is cut short
                place = held.rfind(b"\n", 0, len(held) - 1) + 1
                self._last, held = held[place:], held[:place]
            self._rows(held)
        except Exception as error:  # noqa: BLE001 - raised where the rows are taken
            self._put(error)
        finally:
            self._put(None)

    def _rows(self, rows: bytes) -> None:
        if rows:
            self._digest.update(rows)
            # Counted here, since numpy lets the other threads work.
            self._put((rows, int(np.count_nonzero(np.frombuffer(rows, dtype=np.uint8) == 10))))

    def _check_line(self, rest: bytes) -> None:
        if len(rest) > LINE_BYTES:
            raise ConsistencyError(
                f"{self._shown} has a line of more than {LINE_BYTES:,} bytes, which a manifest cannot have"
            )

    def _put(self, item: tuple[bytes, int] | Exception | None) -> None:
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
        """Yield the rows in key order, some thousands at once; ends only where the file is sound."""
        yield from self.blocks()
        self.end = self.finish()

    def blocks(self) -> Iterator[list[ScannedRow]]:
        """Yield the same, without that check: for who looks at the first rows alone."""
        number = 2
        while (item := self._blocks.get()) is not None:
            if isinstance(item, Exception):
                raise item
            block, lines = self._leave_entries(*item, number)
            if not block:
                continue
            found = self._scan(block, lines, number)
            number += len(found)
            self._count += len(found)
            self._size += sum(map(int, map(_SIZE, found)))
            yield found

    def _leave_entries(self, block: bytes, lines: int, number: int) -> tuple[bytes, int]:
        """Return the rows of objects of a block, and how many; what follows them is counted."""
        last = block.rfind(b"\n", 0, len(block) - 1) + 1
        wrong = self._no_row(number, ValueError("the row of an object comes after what is none"))
        if not block.startswith(_NO_ROW, last):
            if self._others or self._withdrawn:
                raise wrong
            return block, lines  # a line of another kind among them is no row, which is found there
        place = min(_first_line(block, kind) for kind in _NO_ROW)
        gone = _first_line(block, _WITHDRAWN)  # they come last of all
        entries, withdrawn = block.count(b"\n", place, gone), block.count(b"\n", gone)
        found = [
            _count_lines(block[first:end], kind)
            for first, end, kind in ((place, gone, _ENTRY), (gone, None, _WITHDRAWN))
        ]
        if (
            found != [entries, withdrawn]
            or (place and (self._others or self._withdrawn))
            or (entries and self._withdrawn)
        ):
            raise wrong
        self._others += entries
        self._withdrawn += withdrawn
        return block[:place], lines - entries - withdrawn

    def _scan(self, block: bytes, lines: int, number: int) -> list[ScannedRow]:
        found: list[ScannedRow] = _ROW.findall(block)
        if len(found) != lines:
            return [self._parse(line, number + index) for index, line in enumerate(block.splitlines())]
        if b"\\" not in block:
            return found
        return [self._plain(row, number + index) if b"\\" in row[KEY] else row for index, row in enumerate(found)]

    def _plain(self, row: ScannedRow, number: int) -> ScannedRow:
        path, key, *rest = row
        size, md5, sha256, etag, more = rest
        return path, self._decode(key, number), size, md5, sha256, etag, more

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
        quoted = [_ENCODE(record[name]).encode("ascii") for name in ("md5", "sha256", "etag")]
        file_sha256 = record.get("file_sha256")
        return (
            inside_quotes(record["path"]),
            record["key"].encode("utf-8", "surrogateescape"),
            b"%d" % record["size"],
            *quoted,
            b',"file_sha256":' + _ENCODE(file_sha256).encode("ascii") if file_sha256 else b"",
        )

    def _no_row(self, number: int, error: Exception) -> ConsistencyError:
        return ConsistencyError(f"{self._shown}, line {number}: not a manifest row ({error}); run: make verify")

    def finish(self) -> ManifestEnd:
        """Return the end record; ``ConsistencyError`` where it is missing or does not agree."""
        line = self._last.partition(b"\n")[0]
        if not line.startswith(_END):
            raise ConsistencyError(f"{self._shown} is truncated: it has no end record; run: make verify")
        end = decode_end(line, self._shown)
        sums = (self._count, self._size, self._digest.hexdigest(), self._others, self._withdrawn)
        if (end.objects, end.bytes, end.sha256, end.entries, end.withdrawn) != sums:
            raise ConsistencyError(
                f"{self._shown} does not match its end record: it was edited or damaged; run: make verify"
            )
        return end


def _first_line(block: bytes, beginning: bytes) -> int:
    """Return where the first line of a kind is in whole lines; their length where there is none."""
    if block.startswith(beginning):
        return 0
    place = block.find(b"\n" + beginning)
    return len(block) if place < 0 else place + 1


def _count_lines(lines: bytes, beginning: bytes) -> int:
    return (b"\n" + lines).count(b"\n" + beginning)


def digest_of_content(row: ScannedRow) -> bytes:
    """Return the SHA-256 of a row's object or else of its file, hex; empty where there is none."""
    if row[SHA256] != b"null":
        return row[SHA256][1:-1]
    found = _FILE_SHA256.search(row[MORE]) if row[MORE] else None
    return found[1][1:-1] if found else b""


def inside_quotes(text: str) -> bytes:
    """Return a text as JSON has it inside its quotes, in ASCII."""
    return _ENCODE(text)[1:-1].encode("ascii")


def text_of(inside: bytes) -> str:
    """Return the text of what JSON has inside quotes."""
    if b"\\" not in inside:
        return inside.decode("ascii")
    return str(parse_json(b'"' + inside + b'"'))
