"""Which source file became which object: what may be deleted once what is proven.

Input: copies and compressions as they are made. Output: one JSON file per
modality; from it and a manifest, the source files that the bucket is proven
to hold.
Invariant: a source file that is not in a lineage, whose size or mtime moved
since it was read, of whose objects one is not proven, whose objects are of
another reading of it or do not carry all of it, is never named.
"""

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lading.bounded import Members, as_text, decode
from lading.files import read_record, replacing
from lading.times import mtime_of

FORMAT = 1


@dataclass(frozen=True)
class Copied:
    """A source file that travels as it is: ``key`` below the prefix, MD5 as it was read."""

    source: str
    key: str
    size: int
    mtime_ns: int
    md5: str | None


@dataclass(frozen=True)
class Transformed:
    """Source files that travel together in another form: every object below ``folder`` stands for all of them.

    ``report`` is the compression's compress.json, which names the source as it
    was read: the objects are of these sources only where it is among them.
    ``lacks`` says what of the sources no object carries; "" where they carry all.
    """

    folder: str
    sources: tuple[tuple[str, int, int], ...]
    report: Copied
    lacks: str


@dataclass(frozen=True)
class Proven:
    """An object that the bucket was seen to hold, and the file it was made of: MD5 where it was computed."""

    size: int
    md5: str | None
    mtime_ns: int


def write_copies(path: Path, copies: Iterable[Copied]) -> None:
    """Write the lineage of a modality that is copied, or sent from its source."""
    _write(path, {"kind": "copies", "files": [asdict(copy) for copy in copies]})


def write_transformed(path: Path, transformed: Transformed) -> None:
    """Write the lineage of a modality that is compressed."""
    _write(path, {"kind": "transformed", **asdict(transformed)})


def _write(path: Path, record: Mapping[str, Any]) -> None:
    with replacing(path) as stream:
        json.dump({"format": FORMAT, **record}, stream)
        stream.write("\n")


@dataclass(frozen=True)
class Source:
    """A source file as it was when it was read."""

    path: str
    size: int
    mtime_ns: int

    def changed(self) -> str:
        """Return why the file is not what was read, or an empty string (also when it is gone already)."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return str(error.strerror)
        same = (status.st_size, mtime_of(status)) == (self.size, self.mtime_ns)
        return "" if same else "it changed since it was read"


def removable(
    path: Path, proven: Mapping[str, Proven], expected: Iterable[str], *, accept_loss: bool = False
) -> tuple[list[Source], list[str]]:
    """Return (source files that may go, sentences for those that stay) of one lineage.

    ``proven`` maps paths below the prefix to what the bucket holds now,
    ``expected`` are all paths that were sent. With ``accept_loss`` what no
    object carries is let go too.
    """
    record = read_record(path, _checked, "nothing of it is removed; run the list again")
    if record["kind"] == "copies":
        return _removable_copies([Copied(**item) for item in record["files"]], proven)
    folder = record["folder"] + "/"
    keys = [key for key in expected if key.startswith(folder)]
    lacking = [key for key in keys if key not in proven]
    sources = [Source(*item) for item in record["sources"]]
    reason = f"{lacking[0]} is not proven to be in the bucket" if lacking else "" if keys else f"{folder} is empty"
    reason = reason or _other_compression(record, proven)
    if not reason and record["lacks"] and not accept_loss:
        reason = f"{record['lacks']} (remove_source_folders.accept_loss = TRUE lets it go)"
    # One file that moved means that the compressed whole is no longer that of this source.
    reason = reason or next((f"{source.path}: {why}" for source in sources if (why := source.changed())), "")
    return ([], [f"{source.path} stays: {reason}" for source in sources]) if reason else (sources, [])


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """Return a lineage; ``ValueError`` when a member of it is missing or of another type."""
    take = Members(record, "a lineage")
    if take.text("kind") == "copies":
        copies = take.items("files", functools.partial(decode, Copied))
        return {**record, "files": [asdict(copy) for copy in copies]}
    take.text("folder"), take.text("lacks", "")
    take.items("sources", _check_source)
    if "report" in record:
        record["report"] = asdict(decode(Copied, record["report"]))
    return record


def _check_source(value: Any) -> None:
    if type(value) is not list or [type(item) for item in value] != [str, int, int]:
        raise ValueError(f"{repr(value)[:60]} is no source")
    as_text(value[0])


def _other_compression(record: Mapping[str, Any], proven: Mapping[str, Proven]) -> str:
    """Return why the bucket's objects are not those of this compression, or an empty string."""
    if "report" not in record or "lacks" not in record:
        return "an earlier version noted its compression, without what ties it to the bucket"
    report = Copied(**record["report"])
    found = proven.get(report.key)
    if found is None:
        return f"{report.key} is not proven to be in the bucket"
    if found.size != report.size or not _same_content(found, report):
        return f"{report.key} in the bucket is of another compression than the last one"
    return ""


def _removable_copies(copies: Iterable[Copied], proven: Mapping[str, Proven]) -> tuple[list[Source], list[str]]:
    free: list[Source] = []
    kept: list[str] = []
    for copy in copies:
        found = proven.get(copy.key)
        source = Source(copy.source, copy.size, copy.mtime_ns)
        reason = source.changed()
        if found is None:
            reason = f"{copy.key} is not proven to be in the bucket"
        elif found.size != copy.size or not _same_content(found, copy):
            reason = f"{copy.key} in the bucket is not what was read from it"
        if reason:
            kept.append(f"{copy.source} stays: {reason}")
        else:
            free.append(source)
    return free, kept


def _same_content(found: Proven, copy: Copied) -> bool:
    """Compare digests; a file sent from its source has none here, and is told by its mtime when it was sent."""
    if found.md5 and copy.md5:
        return found.md5 == copy.md5
    return found.mtime_ns == copy.mtime_ns
