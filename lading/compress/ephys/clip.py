"""The clipped copy: every file of the source, its samples cut to the first frames.

Input: files of a source. Output: the same tree below ``ecephys_clipped``.
Invariant: a file without samples is copied byte by byte and compared; what
the cut drops is in the Zarr groups, so both together hold everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress.destination import Destination
from lading.compress.ephys.recording import Stream
from lading.compress.job import Output, Result, SourceFault, SourceFile, VerificationFailed, digest, walk_files
from lading.compress.sources import OpenFile, Source

FOLDER = "ecephys_clipped"
FRAMES = 100
# Files are grouped to units of about this size and count.
UNIT_BYTES, UNIT_FILES = 256 << 20, 500


@dataclass(frozen=True)
class Copy:
    """One file to copy: its first ``length`` bytes, of ``size``."""

    file: str
    size: int
    length: int


def plan_copies(source: Path, streams: list[Stream], skip: set[str]) -> Iterator[list[Copy]]:
    """Yield groups of files; those in ``skip`` are written by others."""
    ends = frame_ends(streams)
    group: list[Copy] = []
    size = 0
    for file, status in walk_files(source):
        if file in skip:
            continue
        length = min(status.st_size, ends.get(file, status.st_size))
        group.append(Copy(file, status.st_size, length))
        size += length
        if size >= UNIT_BYTES or len(group) >= UNIT_FILES:
            yield group
            group, size = [], 0
    if group:
        yield group


def frame_ends(streams: list[Stream]) -> dict[str, int]:
    """Return, for each raw file of samples, the byte after its hundredth frame."""
    return {
        segment.file: segment.offset + FRAMES * segment.file_channels * np.dtype(stream.dtype).itemsize
        for stream in streams
        for segment in stream.segments
        if not (segment.dataset or segment.whole)
    }


def copy_files(source: Source, destination: Destination, copies: list[Copy]) -> Result:
    """Copy files, read each back and compare with the source read anew."""
    hashes: list[str] = []
    again: list[str] = []
    outputs: list[Output] = []
    records: list[SourceFile] = []
    with destination as place:
        for copy in copies:
            with source.open(copy.file) as file:
                relative = f"{FOLDER}/{source.top.name if copy.file == '.' else copy.file}"
                place.write(relative, _read(file, copy.length))
                first = digest(*_read(file, copy.length))
                found = place.size_and_digest(relative)
                if first != found.hash or found.size != copy.length:
                    place.remove(relative)
                    raise VerificationFailed(
                        f"{place.name}/{relative} differs from the first {copy.length} bytes of {file.name}; "
                        "run the same command again, and check the disk when it happens again"
                    )
                file.require_unchanged()
                hashes.append(first)
                again.append(found.hash)
                outputs.append(Output(relative, *found))
                if copy.length == file.state.size:
                    records.append(file.record(found.sha256))
    size = sum(copy.length for copy in copies)
    return Result(
        size,
        size,
        digest(*(h.encode() for h in hashes)),
        digest(*(h.encode() for h in again)),
        "copy",
        tuple(outputs),
        {"files": len(copies), "clipped": sum(c.length < c.size for c in copies)},
        tuple(records),
    )


def _read(file: OpenFile, length: int) -> Iterator[bytes]:
    """Yield the first ``length`` bytes; ``SourceFault`` when the file has fewer."""
    position = 0
    # Of a file that is cut the rest is in the Zarr groups: its beginning must be that of the same file.
    passing = file.passing(0) if length < file.state.size else None
    for block in file.blocks(length):
        position += len(block)
        if passing:
            passing.feed(memoryview(block))
        yield block
    if passing:
        passing.close()
    if position < length:
        raise SourceFault(f"{file.name} ends at offset {position}, {length - position} bytes earlier than before")


def encode_copies(copies: list[Copy]) -> list[list[Any]]:
    """Return copies as JSON values."""
    return [[copy.file, copy.size, copy.length] for copy in copies]


def decode_copies(values: list[list[Any]]) -> list[Copy]:
    """Return the copies of JSON values."""
    return [Copy(str(file), int(size), int(length)) for file, size, length in values]
