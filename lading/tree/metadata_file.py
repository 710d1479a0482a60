"""``find.metadata.jsonl.zst``: what the crawl recorded of entries beside names and sizes.

Input and output: Zstandard-compressed JSON lines (docs/reference/formats.md): a header
that names the digest of find.json, first the entries that are no regular
file, then with ``--metadata`` all others, an end record.
Invariant: streamed, never held; the end record has count and SHA-256 of all
lines before it, so a file that is cut short or damaged is never taken for a
whole one; nor one that belongs to another find.json.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, parse_json
from lading.core.errors import ConsistencyError, UsageError
from lading.core.version import provenance
from lading.tree.entry_record import RecordedEntry, decode_entry_record, encode_entry_record
from lading.tree.size_tree import tree_stem

FORMAT = 1
LINE_BYTES = 1 << 20
LEVEL = 3
_ADVICE = "run: rm find.json; make find.json"


@dataclass(frozen=True)
class MetadataHeader:
    """``tree_sha256`` is of find.json's bytes; ``metadata``: every entry is there, with its attributes."""

    tree_sha256: str
    metadata: bool


def metadata_path(tree_path: Path | str) -> Path:
    """Return where the recorded entries of a tree lie: ``find.json`` → ``find.metadata.jsonl.zst``."""
    return Path(tree_path).with_name(f"{tree_stem(tree_path)}.metadata.jsonl.zst")


class MetadataWriter:
    """Writes lines, and at last their sums."""

    def __init__(self, stream: IO[bytes], header: MetadataHeader) -> None:
        self._stream, self._digest, self.count = stream, hashlib.sha256(), 0
        self._put({"format": FORMAT, "kind": "tree-metadata", "tree_sha256": header.tree_sha256,
                   "metadata": header.metadata, "written_by": provenance()})  # fmt: skip

    def _put(self, record: object) -> None:
        self.put_line(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n", 0)

    def put_line(self, line: bytes, count: int) -> None:
        """Write lines of ``count`` entries as they are."""
        self._digest.update(line)
        self._stream.write(line)
        self.count += count

    def end(self) -> None:
        """Write the end record."""
        self._put({"end": {"entries": self.count, "sha256": self._digest.hexdigest()}})


def encode_line(entry: RecordedEntry) -> bytes:
    """Return the line of an entry."""
    return json.dumps(encode_entry_record(entry), separators=(",", ":")).encode("ascii") + b"\n"


def write_entries(path: Path, header: MetadataHeader, lines: Iterable[tuple[bytes, int]]) -> int:
    """Write a metadata file atomically, of pieces of lines with their number; returns how many entries it holds."""
    import zstandard  # here: a crawl of regular files does without

    with (
        atomic_write(path, "wb", sweep=True) as raw,
        zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(raw, closefd=False) as stream,
    ):
        writer = MetadataWriter(stream, header)
        for line, count in lines:
            writer.put_line(line, count)
        writer.end()
    return writer.count


@dataclass(frozen=True)
class MetadataFile:
    """A metadata file whose header was read."""

    path: Path
    header: MetadataHeader

    def entries(self, *, only_special: bool = False) -> Iterator[RecordedEntry]:
        """Yield the entries; ``ConsistencyError`` at the latest after the last, when the file is not whole.

        ``only_special``: those that are no regular file. They come first, so no more is read, nor the end compared.
        """
        digest, count = hashlib.sha256(), 0
        for number, line in enumerate(_lines(self.path), 1):
            try:
                record = parse_json(line)
                if line.startswith(b'{"end":'):
                    take = JsonMembers(record, "it").members("end")
                    if (take.number("entries"), take.text("sha256")) != (count, digest.hexdigest()):
                        raise ValueError("its sums are of other lines: it was edited or damaged")
                    return
                digest.update(line)
                if number == 1:
                    continue
                entry = decode_entry_record(record)
            except ValueError as error:
                raise ConsistencyError(f"{self.path}, line {number}: {error}; {_ADVICE}") from error
            count += 1
            if only_special and is_rest(entry):
                return
            yield entry
        raise ConsistencyError(f"{self.path} is truncated: it has no end record; {_ADVICE}")


def is_rest(entry: RecordedEntry) -> bool:
    """Tell whether an entry is of the second part of the file: a regular file, or a directory that holds something."""
    return entry.kind == "file" or (entry.kind == "directory" and not entry.empty)


def open_metadata(path: Path, tree_sha256: str) -> MetadataFile:
    """Return a metadata file; raises when it is missing, none, or of another tree than the one of ``tree_sha256``."""
    line = next(_lines(path), b"")
    if not line.endswith(b"\n"):
        raise ConsistencyError(f"{path} is truncated: not even its first line is whole; {_ADVICE}")
    try:
        take = JsonMembers(parse_json(line))
        if (take.text("kind", ""), take.number("format", 0)) != ("tree-metadata", FORMAT):
            raise ValueError(f"it is not of format {FORMAT}")
        header = MetadataHeader(take.text("tree_sha256"), take.flag("metadata"))
    except ValueError as error:
        raise UsageError(f"{path} is not the metadata of a tree ({error}); {_ADVICE}") from error
    if header.tree_sha256 != tree_sha256:
        raise ConsistencyError(f"{path} is not of the same crawl as the tree beside it; {_ADVICE} batch.json")
    return MetadataFile(path, header)


def _lines(path: Path) -> Iterator[bytes]:
    import zstandard

    try:
        raw = path.open("rb")
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; {_ADVICE} batch.json") from error
    with raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        buffered = io.BufferedReader(stream, 1 << 20)
        try:
            while line := buffered.readline(LINE_BYTES + 1):
                if len(line) > LINE_BYTES:
                    raise ConsistencyError(f"{path} has a line of more than {LINE_BYTES:,} bytes; {_ADVICE}")
                yield line
        except zstandard.ZstdError as error:
            raise ConsistencyError(f"{path} is damaged ({error}); {_ADVICE}") from error
