"""Does an object of the bucket have the bytes that a manifest row says: by its checksum, then by reading it.

Input: a row, a store. Output: a finding. Where the server keeps a checksum of the whole object that differs, no byte is
read.
Invariant: ``right`` means that every byte was read and has the strongest digest that the row records. What could not be
read is ``unreadable``, never right; ``unproven`` is what was read while the row has no digest.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lading.checksums.digest import read_whole_checksum, start_hash
from lading.core.progress import counted
from lading.objectstore.object_info import ARCHIVED, StoreError
from lading.objectstore.target import FailureKind
from lading.verification.manifest import ManifestRow

if TYPE_CHECKING:
    from lading.objectstore.download import ObjectReader
    from lading.objectstore.readable_store import ReadableStore

ASKED_FROM = 8 << 20  # bytes: smaller objects are read as fast as their checksums are asked for
ABSENT = ("404", "NoSuchKey", "NotFound", "NoSuchVersion")


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """What one row came to; ``kind`` is a counter of ``AuditResult``."""

    kind: str
    reason: str = ""
    weak: bool = False
    same: bool = False
    archived: bool = False


def digest_of(row: ManifestRow) -> tuple[str, str] | None:
    """Return (algorithm, hex) of the strongest digest that a row records of the whole object."""
    if digest := row.sha256 or row.file_sha256:
        return "sha256", digest
    if row.md5:
        return "md5", row.md5
    for text in (row.server_checksum, row.checksum):
        if text and (found := read_whole_checksum(text)):
            return found
    return None


def recorded_checksums(row: ManifestRow) -> Iterator[tuple[str, str]]:
    """Yield (algorithm, base64) of what a server could keep of this object and the row records."""
    if digest := row.sha256 or row.file_sha256:
        yield "sha256", base64.b64encode(bytes.fromhex(digest)).decode()
    for text in (row.server_checksum, row.checksum):
        if text and read_whole_checksum(text):
            name, _, value = text.partition(":")
            yield name, value


def compare_kept_checksum(store: "ReadableStore", row: ManifestRow) -> AuditFinding | None:
    """Return what the server's own checksum of the whole object says against a row, None when it says nothing."""
    wanted = dict(recorded_checksums(row))
    if row.size < ASKED_FROM or not wanted:
        return None
    try:
        head = store.head(row.key)
    except StoreError as error:
        return None if error.failure is not FailureKind.STOP else _failed(error)
    for name, value in head.whole_checksums():
        if name in wanted and wanted[name] != value:
            return AuditFinding("different", f"the server keeps another {name.upper()}")
    return None


def compare_bytes(reader: "ObjectReader", row: ManifestRow, version_id: str | None) -> AuditFinding:
    """Return what reading an object says of its row; raises ``StoreError`` for what would meet every object."""
    wanted = digest_of(row)
    found = start_hash(wanted[0] if wanted else "md5")
    count = 0
    try:
        for block in reader.blocks(row.key, row.size, version_id):
            found.update(block)
            count += len(block)
    except StoreError as error:
        if error.code == ARCHIVED:
            return AuditFinding("unreadable", "it is archived; thaw it to read it", archived=True)
        return _failed(error)
    if count != row.size:
        return AuditFinding("different", f"{counted(count, 'byte')} came, recorded {row.size:,}")
    if wanted is None:
        return AuditFinding("right" if found.hexdigest() == row.etag else "unproven")
    if found.hexdigest() != wanted[1]:
        return AuditFinding("different", f"its bytes have another {wanted[0].upper()}")
    return AuditFinding("right")


def _failed(error: StoreError) -> AuditFinding:
    if error.code in ABSENT:
        return AuditFinding("missing", "gone since it was listed")
    if error.failure is FailureKind.STOP:
        raise error
    return AuditFinding("unreadable", str(error))
