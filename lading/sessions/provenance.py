"""What is known of each source file: its bytes by SHA-256, its state when they were read, and what carries them.

Input: copies, compressions and uploads as they are made. Output: one file of
records per modality, read again when sources are to be deleted.
Invariant: a record says what was read, never what is believed: the SHA-256 is
that of the bytes that were copied, compressed or sent. What has no record, or
one of an earlier version without that digest, is known to nobody.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lading.checksums.digest import FileState
from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, lines_of, parse_json, read_object
from lading.core.errors import UsageError
from lading.core.times import EARLIEST

FORMAT = 2
SUFFIX = ".jsonl"
# Written by versions before the second format.
_OLD_SUFFIX = ".json"
UNSIGNED = (1 << 64) - 1  # inodes and devices
# How a modality travels: file by file, or its files together in another form.
COPIES, COMPRESSED = "copies", "compressed"
# A file may be written once more without another time stamp: within a tick of the file system's clock (up to 2 s),
# or through a mapping whose pages are not flushed yet (30 s and what the flush takes). Whose stamp was younger than
# this when it was read is therefore read again.
SETTLED_NS = 60 * 10**9


def settled(state: FileState, read_ns: int) -> bool:
    """Tell whether no write could have gone unnoticed between a state and a reading that began at ``read_ns``."""
    return read_ns - state.ctime_ns > SETTLED_NS


class Top(NamedTuple):
    """The directory in which a source was read, its own or that of a file: resolved path, device, inode."""

    real: str
    device: int
    inode: int

    @classmethod
    def of(cls, source: Path) -> "Top":
        """Return the top of a source that is there; raises ``OSError``."""
        real = os.path.realpath(source)
        status = os.stat(real)
        if not stat.S_ISDIR(status.st_mode):
            status = os.stat(os.path.dirname(real))
        return cls(real, status.st_dev, status.st_ino)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One source file.

    path     relative to the source, ``surrogateescape`` for bytes that are no UTF-8; "." for a source that is a file
    size     bytes
    sha256   of the bytes that were read, or None where an earlier version noted none
    state    when they were read, or None where nobody looked: then only reading tells whether it is the same file
    read_ns  a moment not after the reading, nanoseconds since 1970; 0 when it is not known
    key      the path below the prefix of the object that carries it; "" where all outputs carry all sources together
    lossy    what of it no object carries, "" when all of it is carried
    """

    path: str
    size: int
    sha256: str | None
    state: FileState | None = None
    read_ns: int = 0
    key: str = ""
    lossy: str = ""

    def unchanged(self, state: FileState) -> bool:
        """Tell by its state alone that a file is what was read; False says nothing but that it must be read."""
        return self.state == state and settled(state, self.read_ns)


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """An object that carries sources in another form: path below the prefix, bytes, SHA-256 of what was compared."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """The records of one modality.

    folder   of the modality, below the prefix
    source   absolute path of what was read; linked: it was a symbolic link then
    how      ``COPIES`` or ``COMPRESSED``
    earlier  True when an earlier version wrote it, without digests
    top      the directory that was read; None where an earlier version did not note it
    coverage ``lading.compress.job.COVERAGE`` where a compression accounted for every byte of each file as this version
             does; 0 for copies, and where an earlier version compressed
    """

    folder: str
    source: str
    how: str
    linked: bool
    records: tuple[SourceRecord, ...]
    outputs: tuple[OutputRecord, ...] = ()
    earlier: bool = False
    top: Top | None = None
    coverage: int = 0


def provenance_file(directory: Path, folder: str) -> Path:
    """Return where the records of a modality lie."""
    return directory / f"{folder}{SUFFIX}"


def write_provenance(
    directory: Path,
    folder: str,
    source: Path,
    how: str,
    records: Iterable[SourceRecord],
    outputs: Iterable[OutputRecord] = (),
    top: Top | None = None,
    coverage: int = 0,
) -> None:
    """Write the records of a modality, whole or not at all; ``top`` as it was when its reading began, else as now."""
    counts = {"sources": 0, "outputs": 0}
    header = {"format": FORMAT, "kind": "lineage", "folder": folder, "source": str(source), "how": how}
    header |= {"coverage": coverage} if coverage else {}
    top = top or Top.of(source)
    with atomic_write(provenance_file(directory, folder)) as stream:
        stream.write(json.dumps({**header, "linked": source.is_symlink(), **top._asdict()}) + "\n")
        for record in records:
            stream.write(json.dumps(_encode(record)) + "\n")
            counts["sources"] += 1
        for output in outputs:
            stream.write(json.dumps({"output": output.key, "size": output.size, "sha256": output.sha256}) + "\n")
            counts["outputs"] += 1
        stream.write(json.dumps({"end": counts}) + "\n")


def _encode(record: SourceRecord) -> dict[str, Any]:
    known: dict[str, Any] = {"path": record.path, "size": record.size, "sha256": record.sha256}
    if record.state is not None:
        state = record.state
        known |= {"mtime_ns": state.mtime_ns, "ctime_ns": state.ctime_ns, "inode": state.inode, "device": state.device}
    more = {"read_ns": record.read_ns, "key": record.key, "lossy": record.lossy}
    return known | {name: value for name, value in more.items() if value}


def _decode(line: JsonMembers) -> SourceRecord:
    size, state = line.number("size"), None
    if line.number("inode", -1, least=-1, most=UNSIGNED) >= 0:
        state = FileState(
            size,
            line.number("mtime_ns", least=EARLIEST),
            line.number("ctime_ns", least=EARLIEST),
            line.number("inode", most=UNSIGNED),
            line.number("device", most=UNSIGNED),
        )
    return SourceRecord(
        line.text("path"),
        size,
        line.text_or_none("sha256"),
        state,
        line.number("read_ns", 0),
        line.text("key", ""),
        line.text("lossy", ""),
    )


def read_lineages(directory: Path) -> list[Provenance]:
    """Return the records of every modality, those of earlier versions too; ``UsageError`` for a damaged file."""
    names = {path.stem for path in directory.glob(f"*{SUFFIX}")}
    older = {path.stem for path in directory.glob(f"*{_OLD_SUFFIX}")} - names
    return [
        _read(provenance_file(directory, name)) if name in names else _read_old(directory / f"{name}{_OLD_SUFFIX}")
        for name in sorted(names | older)
    ]


def _read(path: Path) -> Provenance:
    records: list[SourceRecord] = []
    outputs: list[OutputRecord] = []
    end: Mapping[str, int] | None = None
    try:
        with open(path, "rb") as stream:
            lines = (JsonMembers(parse_json(line), "a line") for line, _ in lines_of(stream))
            header = next(lines, JsonMembers({}))
            if (header.number("format"), header.text("kind")) != (FORMAT, "lineage"):
                raise ValueError(f"it is not of format {FORMAT}")
            for line in lines:
                if line.text("path", ""):
                    records.append(_decode(line))
                elif line.text("output", ""):
                    outputs.append(OutputRecord(line.text("output"), line.number("size"), line.text("sha256")))
                else:
                    end = line.object("end")
        if end != {"sources": len(records), "outputs": len(outputs)}:
            raise ValueError("it is truncated")
        return Provenance(
            header.text("folder"),
            header.text("source"),
            header.text("how"),
            header.flag("linked"),
            tuple(records),
            tuple(outputs),
            top=_decode_top(header),
            coverage=header.number("coverage", 0),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _decode_top(header: JsonMembers) -> Top | None:
    real = header.text("real", "")
    if not real:
        return None
    return Top(real, header.number("device", most=UNSIGNED), header.number("inode", most=UNSIGNED))


def _read_old(path: Path) -> Provenance:
    """Return what the first format says: no digest that ties a source to its object."""
    try:
        record = read_object(path)
        if record["kind"] == COPIES:
            files = [(item["source"], item["size"], item["key"]) for item in record["files"]]
        else:
            files = [(source, size, "") for source, size, _ in record["sources"]]
        records = tuple(SourceRecord(os.fspath(name), size, None, key=key) for name, size, key in files)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    how = COPIES if record["kind"] == COPIES else COMPRESSED
    return Provenance(path.stem, "", how, False, records, earlier=True)


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} is damaged ({error}), so no source may be deleted; remove {path.parent.parent} and upload again"
    )


def below(lineage: Provenance, source: Path) -> Iterator[SourceRecord]:
    """Yield the records with paths relative to the source, as all but the first format have them."""
    for record in lineage.records:
        if not lineage.earlier:
            yield record
        elif record.path == str(source):
            yield SourceRecord(".", record.size, record.sha256, key=record.key)
        else:
            yield SourceRecord(os.path.relpath(record.path, source), record.size, record.sha256, key=record.key)
