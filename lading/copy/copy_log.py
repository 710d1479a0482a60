"""The log of a copy: which objects are proven at the second place, and which came in parts so far.

Input: outcomes of a run. Output: ``NAME.PLACE.copy.jsonl`` beside the manifest, log lines (``lading.core.atomic``).
Invariant: lines are only appended, each after its object was proven; when the place's manifest holds them all, the log
begins again. Whatever of it is lost is looked at again, and not copied again where it is right. One run at a time.
"""

import heapq
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lading.coordination.kernel_lock import try_lock
from lading.core.atomic import AppendLog, read_log
from lading.core.bounded import INT64, is_name
from lading.core.errors import ConsistencyError, LockHeldError, UsageError
from lading.core.external_sort import ExternalSort
from lading.core.version import provenance
from lading.objectstore.listing import key_order
from lading.verification.manifest import Manifest, ManifestRow

FORMAT = 1
_TEXTS, _TEXTS_OR_NONE = ("key", "etag", "by", "from"), ("sha256", "md5", "version", "sum")


@dataclass(frozen=True, slots=True)
class ProvenCopy:
    """One object at the second place.

    key, etag, version_id, size  of it; sha256, md5: of its bytes
    source_etag  of the object that it was copied from
    method       what proved it, as in a manifest's ``checksum``; ``server_checksum`` likewise
    order        of two with one key the higher counts
    """

    key: str
    size: int
    etag: str
    version_id: str | None
    sha256: str | None
    md5: str | None
    source_etag: str
    method: str
    server_checksum: str | None = None
    order: int = 0

    def is_of(self, row: ManifestRow) -> bool:
        """Tell whether this is a copy of what a row describes, by the strongest digest that both have."""
        if self.size != row.size:
            return False
        sha256 = row.sha256 or row.file_sha256
        if self.sha256 and sha256:
            return self.sha256 == sha256
        if self.md5 and row.md5:
            return self.md5 == row.md5
        return bool(row.etag) and self.source_etag == row.etag


def encode_copy(copy: ProvenCopy) -> dict[str, Any]:
    """Return the log record of an object."""
    record: dict[str, Any] = {
        "kind": "done",
        "key": copy.key,
        "size": copy.size,
        "etag": copy.etag,
        "from": copy.source_etag,
        "by": copy.method,
    }
    more = {"version": copy.version_id, "sha256": copy.sha256, "md5": copy.md5, "sum": copy.server_checksum}
    return record | {name: value for name, value in more.items() if value is not None}


def decode_copy(record: Mapping[str, Any], order: int) -> ProvenCopy | None:
    """Return the object of a record, None of one that is none."""
    texts = [record.get(name) for name in _TEXTS]
    more = [record.get(name) for name in _TEXTS_OR_NONE]
    size = record.get("size")
    if not all(type(text) is str and is_name(text) for text in texts):
        return None
    if not all(text is None or (type(text) is str and is_name(text)) for text in more):
        return None
    if type(size) is not int or not 0 <= size <= INT64:
        return None
    get = record.get
    return ProvenCopy(
        record["key"],
        size,
        record["etag"],
        get("version"),
        get("sha256"),
        get("md5"),
        record["from"],
        record["by"],
        get("sum"),
        order,
    )


def copy_of_row(row: ManifestRow) -> ProvenCopy:
    """Return what the manifest of a place says of one object there."""
    sha256 = row.sha256 or row.file_sha256
    return ProvenCopy(
        row.key, row.size, row.etag, row.version_id, sha256, row.md5, "", row.checksum, row.server_checksum
    )


@dataclass(frozen=True)
class PartsBegun:
    """A multipart upload that a run began: of which object, in parts of how many bytes."""

    upload_id: str
    part: int
    source_etag: str


class CopyLog:
    """The log of one place, locked for this process."""

    def __init__(self, path: Path, log: AppendLog, scratch: Path) -> None:
        self.path = path
        self._log, self._scratch = log, scratch
        self.begun: dict[str, PartsBegun] = {}
        self.damaged = 0
        self._writing = threading.Lock()

    def check(self, head: Mapping[str, Any]) -> None:
        """Write the first line of a new log; ``ConsistencyError`` where it is of another copy."""
        first = next(read_log(self.path), None)
        if first is None:
            self._log.append([{"kind": "copy", "format": FORMAT, **head, "written_by": provenance()}])
            self._log.sync()
            return
        if first.get("format") != FORMAT or first.get("kind") != "copy":
            raise UsageError(f"{self.path} is not a log of copies of format {FORMAT}; move it away, or update Lading")
        said = {name: first.get(name) for name in head}
        if said != dict(head):
            raise ConsistencyError(
                f"{self.path} is of a copy from {said.get('from')} to {said.get('to')}; give this one another --name"
            )

    def read(self, before: Manifest | None) -> Iterator[ProvenCopy]:
        """Yield what is proven, by key, each once: by the log, and else by the place's manifest ``before``."""
        ordered: ExternalSort[ProvenCopy] = ExternalSort(
            self._scratch, "copied", lambda copy: (key_order(copy.key), copy.order), _fields, _of_fields
        )
        self.begun.clear()
        self.damaged = 0
        for number, record in enumerate(read_log(self.path), 1):
            if record is None:
                self.damaged += 1
            elif record.get("kind") == "upload":
                self._take_upload(record)
            elif record.get("kind") == "done":
                copy = decode_copy(record, number)
                self.damaged += copy is None
                if copy is not None:
                    self.begun.pop(copy.key, None)
                    ordered.add(copy)
        earlier = map(copy_of_row, before.rows()) if before is not None else iter(())
        together = heapq.merge(earlier, ordered, key=lambda copy: (key_order(copy.key), copy.order))
        for _, copies in groupby(together, key=lambda copy: copy.key):
            yield list(copies)[-1]

    def _take_upload(self, record: Mapping[str, Any]) -> None:
        key, upload, etag, part = (record.get(name) for name in ("key", "id", "from", "part"))
        if type(key) is str and type(upload) is str and type(etag) is str and type(part) is int and part > 0:
            self.begun[key] = PartsBegun(upload, part, etag)

    def add(self, copies: Iterable[ProvenCopy]) -> None:
        """Note objects that are proven; they are on disk when this returns."""
        self._write([encode_copy(copy) for copy in copies])

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        if records:
            with self._writing:
                self._log.append(records)
                self._log.sync()

    def begin_parts(self, key: str, begun: PartsBegun) -> None:
        """Note a multipart upload before its first part; safe to use from many threads."""
        record = {"kind": "upload", "key": key, "id": begun.upload_id, "part": begun.part, "from": begun.source_etag}
        self._write([record])

    def restart(self, head: Mapping[str, Any]) -> None:
        """Begin again: all that it says is in the place's manifest."""
        os.truncate(self.path, 0)
        self.check(head)


def _fields(copy: ProvenCopy) -> list[Any]:
    return [getattr(copy, name) for name in ProvenCopy.__slots__]


def _of_fields(values: list[Any]) -> ProvenCopy:
    return ProvenCopy(*values)


@contextmanager
def open_copy_log(path: Path, scratch: Path) -> Iterator[CopyLog]:
    """Lock and open a log; raises ``LockHeldError`` while another run has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(
            f"the log {path} cannot be written ({error.strerror}); work in a folder that can be"
        ) from error
    try:
        try:
            free = try_lock(descriptor)
        except OSError:  # a file system without locks: there a second run costs work done twice, and harms nothing
            free = True
        if not free:
            raise LockHeldError(f"another copy works with {path}; wait for it")
        with AppendLog(path) as log:
            yield CopyLog(path, log, scratch)
    finally:
        os.close(descriptor)
