"""What a finished compression says of its source files and its outputs, file by file.

Input: the markers of all units, the source and the destination as they are
now. Output: ``sources.jsonl`` and ``outputs.jsonl`` in the state directory.
Invariant: a source file has a record only if the outputs carry its content,
with the SHA-256 of the bytes that were compared with them, and the state that
it still has when the job ends; a record stands for no file that is not named
in it. An output's SHA-256 is of the bytes as they were read back.
"""

import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from lading.compress.destination import Destination
from lading.compress.job import BlockDigest, Output, SourceFile, UnitRecord, walk_files
from lading.compress.reads import Table, agrees
from lading.compress.sources import Fingerprint, Source, SourceState
from lading.core.atomic import atomic_write
from lading.core.bounded import SMALL_BYTES, JsonMembers, decode, lines_of, parse_json
from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.core.progress import counted

T = TypeVar("T")

FORMAT = 1
SOURCES, OUTPUTS = "sources.jsonl", "outputs.jsonl"
_KINDS = {SOURCES: "compress-sources", OUTPUTS: "compress-outputs"}


def check_sources(
    source: Source, fingerprint: str, records: Iterable[SourceFile], state: Path
) -> tuple[list[SourceFile], list[str]]:
    """Return the records by path, each with the state of this moment, and the files that have none.

    Raises ``ConsistencyError`` when the source is not what was planned, or a file not any more what was read of it.
    """
    known: dict[str, SourceFile] = {}
    for record in records:
        if known.setdefault(record.path, record).sha256 != record.sha256:
            raise ConsistencyError(f"{source.locate(record.path)}: two readings of it differ; {_anew(state)}")
    settled: dict[str, SourceFile] = {}
    lacking: list[str] = []
    moved: list[str] = []
    digest = Fingerprint()
    for path, status in walk_files(source.top):
        digest.add(path, status)
        found = known.get(path)
        now = SourceState.of(status)
        if found is None:
            lacking.append(path)
        else:
            # The device's number here: each machine counts its own.
            settled[path] = replace(found, device=now.device)
            if now != state_of(settled[path]):
                moved.append(path)
    if digest.value != fingerprint:
        raise ConsistencyError(f"{source.top} changed while it was compressed; {_anew(state)}")
    for path in moved:
        settled[path] = _read_again(source, settled[path], state)
    return list(settled.values()), lacking


def tie(
    reads: Mapping[str, Any], source: Source, known: Mapping[str, tuple[Sequence[int], Table]], state: Path
) -> None:
    """Raise ``ConsistencyError`` unless what a unit read of its files is what was hashed of the whole ones."""
    for path, found in reads.items():
        if path in known and not agrees(found, *known[path]):
            raise ConsistencyError(
                f"{source.locate(path)}: what was compressed is not what was hashed; it changed meanwhile or a disk "
                f"is faulty; {_anew(state)}"
            )


def _anew(state: Path) -> str:
    return f"remove {state} and the destination to start over when nothing writes there"


def state_of(record: SourceFile) -> SourceState:
    """Return the state of a file in its record."""
    return SourceState(record.size, record.mtime_ns, record.ctime_ns, record.inode, record.device)


def _read_again(source: Source, record: SourceFile, state: Path) -> SourceFile:
    """Return a file's record with its present state when it still holds the same bytes."""
    found = BlockDigest()
    with source.open(record.path) as file:
        for block in file.blocks():
            found.update(block)
        file.require_unchanged()
        if found.sha256 != record.sha256:
            raise ConsistencyError(f"{file.name} changed while it was compressed; {_anew(state)}")
        return file.record(found.sha256, record.lossy)


def check_outputs(place: Destination, markers: Iterable[UnitRecord], without: Collection[str] = ()) -> list[Output]:
    """Return every file of the destination but ``without``, with the digests of when it was read back; by path.

    What no unit wrote, the metadata of arrays, is read back now. Raises
    ``LadingError`` when a unit's file is gone or has another size.
    """
    known = {output.path: output for marker in markers for output in marker.result.outputs}
    outputs = []
    for path, size in place.files():
        if path in without:
            continue
        output = known.pop(path, None)
        if output is not None and output.size != size:
            raise LadingError(f"{place.name}/{path} changed since it was written; run the same command again")
        if output is None or not output.sha256:
            output = Output(path, *place.size_and_digest(path))
        outputs.append(output)
    if known:
        raise LadingError(f"{place.name}/{min(known)} is gone since it was written; run the same command again")
    return sorted(outputs, key=lambda output: output.path)


def write_sources(state: Path, source: Path, records: Sequence[SourceFile]) -> None:
    """Write ``sources.jsonl``, durably."""
    head = {"source": str(source), "files": len(records), "bytes": sum(record.size for record in records)}
    _write(state / SOURCES, head, map(source_row, records))


def write_outputs(state: Path, destination: str, outputs: Sequence[Output]) -> None:
    """Write ``outputs.jsonl``, durably."""
    _write(state / OUTPUTS, {"destination": destination, **_counts(outputs)}, map(output_row, outputs))


def encode_outputs(outputs: Sequence[Output]) -> bytes:
    """Return the list of outputs for the destination itself; equal outputs give equal bytes wherever they are."""
    head = {"format": FORMAT, "kind": _KINDS[OUTPUTS], **_counts(outputs)}
    return "".join(map(_line, (head, *map(output_row, outputs)))).encode("ascii")


def _counts(outputs: Sequence[Output]) -> dict[str, int]:
    return {"files": len(outputs), "bytes": sum(output.size for output in outputs)}


def output_row(output: Output) -> dict[str, Any]:
    """Return an output as JSON values."""
    return {"path": output.path, "size": output.size, "sha256": output.sha256}


def source_row(record: SourceFile) -> dict[str, Any]:
    """Return a record as JSON values; ``lossy`` only where it says something."""
    return {name: value for name, value in asdict(record).items() if name != "lossy" or value}


def _write(path: Path, head: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_write(path) as stream:
        stream.write(_line({"format": FORMAT, "kind": _KINDS[path.name], **head}))
        for row in rows:
            stream.write(_line(row))


def _line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of ASCII: a byte of a name that is no UTF-8 is a lone surrogate, escaped."""
    return json.dumps(record, separators=(",", ":")) + "\n"


def read_sources(state: Path) -> list[SourceFile]:
    """Return the records of a finished job; ``UsageError`` when they are missing, damaged or cut short."""
    return _rows(state / SOURCES, lambda row: decode(SourceFile, row))


def read_outputs(state: Path) -> list[Output]:
    """Return the outputs of a finished job, without ``hash``; raises as ``read_sources``."""
    return _rows(state / OUTPUTS, lambda row: replace(decode(Output, row), hash=""))


def decode_sources(data: bytes) -> list[SourceFile]:
    """Return the records in the bytes of a list of source files; ``ValueError`` when it is damaged."""
    return _decode(io.BytesIO(data), SOURCES, lambda row: decode(SourceFile, row))


def decode_outputs(data: bytes) -> list[Output]:
    """Return the outputs in the bytes of a list of them; ``ValueError`` when it is damaged."""
    return _decode(io.BytesIO(data), OUTPUTS, lambda row: replace(decode(Output, row), hash=""))


def _decode(stream: IO[bytes], name: str, take: Callable[[Any], T]) -> list[T]:
    lines = lines_of(stream, SMALL_BYTES)
    head = JsonMembers(parse_json(next(lines, (b"", 0))[0]), "its head")
    if (head.number("format"), head.text("kind")) != (FORMAT, _KINDS[name]):
        raise ValueError("it is of another format")
    found = [take(parse_json(line)) for line, _ in lines]
    if len(found) != head.number("files"):
        raise ValueError(f"{len(found)} of {counted(head.number('files'), 'line')}")
    return found


def _rows(path: Path, take: Callable[[Any], T]) -> list[T]:
    """Return the rows of a file of ours; ``UsageError`` when it is missing, damaged or cut short."""
    try:
        with open(path, "rb") as stream:
            found = _decode(stream, path.name, take)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing: an earlier version did this compression, or it is not done") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); compress again to write it again") from error
    return found
