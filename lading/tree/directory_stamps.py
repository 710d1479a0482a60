"""``find.directories.zst``: inode and times of each directory that a crawl listed.

Input and output: Zstandard-compressed (docs/reference/formats.md): a header
line of JSON that names the digest of find.json, 24 bytes for each directory
in the tree's order, the SHA-256 of all before it.
Invariant: a file that is cut short, damaged or of another find.json is never
taken for a whole one: names would be taken from it that are not there.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, parse_json
from lading.core.errors import UsageError
from lading.core.version import provenance
from lading.tree.size_tree import tree_stem

FORMAT = 1
STAMP = 24
LEVEL = 3
_HEADER_BYTES = 1 << 16
_KIND = "tree-directories"


@dataclass(frozen=True)
class StampsHeader:
    """Of which tree; when its crawl began (ns since 1970); its file system's type and source; whose crawl it was."""

    tree_sha256: str
    started_ns: int
    file_system: tuple[str, str]
    uid: int


@dataclass(frozen=True)
class DirectoryStamps:
    """A header and the bytes of all directories: inode, mtime and ctime, or zeros for one that is not known."""

    header: StampsHeader
    stamps: bytes


def stamps_path(tree_path: Path | str) -> Path:
    """Return where the directories of a tree are: ``find.json`` → ``find.directories.zst``."""
    return Path(tree_path).with_name(f"{tree_stem(tree_path)}.directories.zst")


def write_stamps(path: Path, header: StampsHeader, pieces: Iterable[bytes]) -> None:
    """Write the file atomically."""
    import zstandard

    digest = hashlib.sha256()
    head = {
        "format": FORMAT,
        "kind": _KIND,
        "tree_sha256": header.tree_sha256,
        "started_ns": header.started_ns,
        "file_system": list(header.file_system),
        "uid": header.uid,
        "written_by": provenance(),
    }
    with (
        atomic_write(path, "wb", sweep=True) as raw,
        zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(raw, closefd=False) as stream,
    ):
        line = json.dumps(head, separators=(",", ":")).encode("ascii") + b"\n"
        for piece in chain((line,), pieces):
            digest.update(piece)
            stream.write(piece)
        stream.write(digest.digest())


def read_stamps(path: Path, tree_sha256: str, directories: int) -> DirectoryStamps:
    """Return the directories of the tree of ``tree_sha256``; ``UsageError`` when the file is missing, or not whole."""
    import zstandard

    advice = "crawl whole once: leave --since out"
    size = STAMP * directories
    try:
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            buffered = io.BufferedReader(stream, 1 << 20)
            line = buffered.readline(_HEADER_BYTES)
            header = _decode_header(line)
            stamps = buffered.read(size)
            digest = buffered.read(hashlib.sha256().digest_size + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing: that crawl did not record its directories; {advice}") from error
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise UsageError(f"{path} cannot be used ({error}); {advice}") from error
    if header.tree_sha256 != tree_sha256:
        raise UsageError(f"{path} is not of the same crawl as the tree beside it; {advice}")
    total = hashlib.sha256(line)
    total.update(stamps)
    if len(stamps) != size or total.digest() != digest:
        raise UsageError(f"{path} is damaged or truncated; {advice}")
    return DirectoryStamps(header, stamps)


def _decode_header(line: bytes) -> StampsHeader:
    take = JsonMembers(parse_json(line))
    if (take.text("kind", ""), take.number("format", 0)) != (_KIND, FORMAT):
        raise ValueError(f"it is not of format {FORMAT}")
    kind, source = take.texts("file_system")
    return StampsHeader(
        take.text("tree_sha256"), take.number("started_ns"), (kind, source), take.number("uid", least=0)
    )
