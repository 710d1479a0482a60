"""A finished compression as it lies in a directory or a bucket: its report, its records, its files.

Input: a path or an ``s3://`` URL. Output: what ``compress.json`` says, and the
bytes of the outputs.
Invariant: bytes of an output that is in the list of outputs have the SHA-256 of
that list, or ``CopyDamaged`` is raised; no path leads out of the destination.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lading.compress import file_records
from lading.compress.bucket_destination import open_bucket
from lading.compress.destination import Destination, DirectoryDestination
from lading.compress.job import Output, SourceFile, new_working_name
from lading.compress.names import REPORT
from lading.compress.state import MARK
from lading.core.bounded import PLAN_BYTES, JsonMembers, decode, parse_json
from lading.core.errors import ConsistencyError, LadingError, UsageError


class CopyDamaged(ConsistencyError):
    """A file of the compressed copy is missing, or not what was written (exit 4)."""


class NotPromised(LadingError):
    """A source file whose bytes the outputs do not hold, or not all of them; the message says which."""


class StoredCompression:
    """One finished compression.

    folder       its path below the session, empty for the session itself
    kind         of data
    source_name  the last component of the source's path
    sources      the records of its source files
    not_carried  source files that no output carries
    """

    def __init__(self, place: Destination, folder: str, report: bytes) -> None:
        self.place, self.folder = place, folder
        self.name = place.name
        try:
            value = parse_json(report)
            take = JsonMembers(value, "it")
            if take.text("kind") != "compress":
                raise ValueError("it is not a report of a compression")
            self.kind = take.text("data")
            self.source_name = os.path.basename(take.text("source").rstrip("/"))
            self.options: Mapping[str, Any] = take.object("options", {})
            self.facts: Mapping[str, Any] = take.object("facts", {})
            self.renamed: Mapping[str, str] = take.object("renamed", {})
            self.not_carried = take.texts("not_carried", ())
            self._listed = self._read_outputs(value.get("outputs"))
            self.sources = self._read_sources(value.get("sources"))
            for record in self.sources:
                _require_below(record.path)
        except FileNotFoundError as error:
            raise CopyDamaged(f"{self.name}: {REPORT} names a list that is missing ({error}); restore it") from error
        except (ValueError, TypeError) as error:
            raise CopyDamaged(f"{self.name}/{REPORT}: is damaged ({error}); restore it") from error
        self._seen: set[str] = set()

    def _read_sources(self, value: Any) -> Sequence[SourceFile]:
        if isinstance(value, list):
            return [decode(SourceFile, row) for row in value]
        take = JsonMembers(value, "sources")
        return file_records.decode_sources(self._list(take.text("file"), take.text("sha256")))

    def _read_outputs(self, value: Any) -> dict[str, str] | None:
        if value is None:
            return None
        if isinstance(value, list):
            rows = [decode(Output, row) for row in value]
        else:
            take = JsonMembers(value, "outputs")
            rows = file_records.decode_outputs(self._list(take.text("file"), take.text("sha256")))
        return {output.path: output.sha256 for output in rows}

    def _list(self, path: str, sha256: str) -> bytes:
        _require_below(path)
        data = self.place.read(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{path} is not the list that it names")
        return data

    def read(self, path: str) -> bytes:
        """Return the bytes of an output; ``FileNotFoundError`` only for one that there never was."""
        return b"".join(self.blocks(path))

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of an output; the last block comes before it is known whether they are right."""
        _require_below(path)
        known = None if self._listed is None else self._listed.get(path)
        found = hashlib.sha256()
        try:
            for block in self.place.blocks(path):
                found.update(block)
                yield block
        except FileNotFoundError as error:
            if known is None:
                raise
            raise CopyDamaged(f"{self.name}/{path}: is missing; restore it") from error
        except OSError as error:
            raise CopyDamaged(f"{self.name}/{path}: cannot be read: {error.strerror or error}") from error
        if known is not None and found.hexdigest() != known:
            raise CopyDamaged(f"{self.name}/{path}: is not what was written there; restore it from another copy")
        self._seen.add(path)

    def size(self, path: str) -> int | None:
        """Return the size of an output, None when there is none."""
        return self.place.size(path)

    def check_rest(self) -> Iterator[CopyDamaged]:
        """Read every output that was not read yet; yield what is wrong with them."""
        for path in sorted((self._listed or {}).keys() - self._seen):
            try:
                for _ in self.blocks(path):
                    pass
            except CopyDamaged as error:
                yield error

    @property
    def has_list(self) -> bool:
        """Whether every output has a digest; compressions of earlier versions have none."""
        return self._listed is not None


def _require_below(path: str) -> None:
    if path != "." and any(part in ("", ".", "..") or "\0" in part for part in path.split("/")):
        raise ValueError(f"{path!r} is not a path below it")


def open_session(session: str, endpoint: str | None) -> list[StoredCompression]:
    """Return the compressions of a session: its own, or those of its folders; ``UsageError`` when there is none."""
    place = _open(session, endpoint)
    report = _report(place)
    if report is not None:
        return [StoredCompression(place, "", report)]
    found = []
    for folder in sorted(_folders(session, place)):
        if place.root is not None and (place.root / folder / MARK).exists():
            continue  # the state of a compression beside it, which has the report, too
        inner = _open(f"{session.rstrip('/')}/{folder}", endpoint)
        if (report := _report(inner)) is not None:
            found.append(StoredCompression(inner, folder, report))
    if not found:
        raise UsageError(
            f"{session}: has no {REPORT}, and none of its folders has one; give the destination of a compression"
        )
    return found


def _open(session: str, endpoint: str | None) -> Destination:
    if "://" in session:
        return open_bucket(session, endpoint)
    # Its working directory is never made: nothing is written.
    return DirectoryDestination(Path(os.path.abspath(session)), new_working_name())


def _report(place: Destination) -> bytes | None:
    try:
        data = b"".join(place.blocks(REPORT))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(data) > PLAN_BYTES:
        raise UsageError(f"{place.name}/{REPORT}: has more than {PLAN_BYTES:,} bytes, which no report has")
    return data


def _folders(session: str, place: Destination) -> Iterable[str]:
    try:
        return list(place.folders())
    except OSError as error:
        raise UsageError(f"{session}: cannot be listed: {error.strerror}; give a session that is there") from error
