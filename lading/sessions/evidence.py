"""What the bucket holds now, object by object, and how well that is known.

Input: the manifests' rows, the journals, the bucket. Output: for each object
the SHA-256 of the bytes that it is seen to hold, or why nothing is certain.
Invariant: an object counts only if it is in the bucket's listing of this
moment with the size and ETag of its row, and if the level that the site
demands is reached now or was when the row was made. An object that was there
before the upload, or may have been, is read unless the site takes ETags: who
put it there may have chosen bytes of equal MD5 or CRC.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lading.core.errors import UsageError
from lading.journal.index_rows import hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.records import VerificationRecord
from lading.objectstore.client import ObjectStore
from lading.objectstore.download import ObjectReader
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.target import FailureKind
from lading.verification.manifest import ManifestRow, Strength

# Objects that are asked for, or read, side by side.
THREADS = 8


class EvidenceLevel(StrEnum):
    """What an object must have shown before its source may go: ``DELETION_LEVELS`` of the vocabulary."""

    ETAG = "etag"  # the ETag is that of the bytes
    CHECKSUM = "checksum"  # the server's checksum of the whole object beside it, or its bytes
    DOWNLOAD = "download"  # its bytes, now


def parse_level(value: object) -> EvidenceLevel:
    """Return the level of a setting; ``UsageError`` for another word."""
    try:
        return EvidenceLevel(str(value))
    except ValueError:
        known = ", ".join(EvidenceLevel)
        raise UsageError(f"remove_source_folders.level is {value!r}; give one of {known}") from None


@dataclass(frozen=True, slots=True)
class SentObject:
    """An object as its manifest has it, and where its upload kept its journals."""

    row: ManifestRow
    journal: Path


class Evidence:
    """Asks the bucket for what rows say; what was confirmed once is not read again while the listing stays so."""

    def __init__(
        self, store: ObjectStore, sent: Mapping[str, SentObject], level: EvidenceLevel, check: Callable[[], None]
    ) -> None:
        """``sent`` maps paths below the prefix; ``check`` is called between blocks that are read, and may raise."""
        self._store, self._sent, self._level, self._check = store, sent, level, check
        self._reader = ObjectReader(store)
        self._confirmed: dict[tuple[str, str, str], str] = {}
        self.downloaded = 0

    def present(self, paths: Iterable[str]) -> dict[str, ObjectInfo]:
        """Return what the bucket lists now, of those paths whose object is the one in its row."""
        rows = {path: self._sent[path].row for path in paths if path in self._sent}
        listed = self._store.find(row.key for row in rows.values()) if rows else {}
        return {
            path: listed[row.key]
            for path, row in rows.items()
            if row.key in listed and (listed[row.key].size, listed[row.key].etag) == (row.size, row.etag)
        }

    def recorded(self, path: str) -> str | None:
        """Return the SHA-256 of the file that was compared with the object, None where no row says it."""
        row = self._sent[path].row if path in self._sent else None
        return row.sha256 or row.file_sha256 if row is not None else None

    def row(self, path: str) -> ManifestRow | None:
        """Return the row of a path below the prefix."""
        return self._sent[path].row if path in self._sent else None

    def confirm(self, present: Mapping[str, ObjectInfo]) -> dict[str, str | None]:
        """Return the SHA-256 of each object at the level, None where its bytes are not those that were sent."""
        answers: dict[str, str | None] = {}
        left = []
        for path, listed in present.items():
            known = self._confirmed.get(_version(listed))
            row = self._sent[path].row
            if known is None and self._enough(row, listed):
                known = row.sha256 or row.file_sha256
            if known is None:
                left.append(path)
            else:
                answers[path] = known
        checksums = self._checksums(left) if self._level is EvidenceLevel.CHECKSUM else {}

        def ask(path: str) -> str | None:
            self._check()
            return self._ask(path, present[path], checksums.get(path))

        with ThreadPoolExecutor(THREADS) as pool:
            answers |= zip(left, pool.map(ask, left))
        for path in left:
            found = answers[path]
            if found is not None:
                self._confirmed[_version(present[path])] = found
        return answers

    def _enough(self, row: ManifestRow, listed: ObjectInfo) -> bool:
        """Tell whether the row alone reaches the level; it says nothing of an object that was put there later."""
        if self._level is EvidenceLevel.ETAG:
            return row.strength >= Strength.MD5
        return self._level is EvidenceLevel.CHECKSUM and row.strength >= Strength.CHECKSUM and _ours(row, listed)

    def _checksums(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the CRC64NVME of the bytes that were sent, from the journals, where it is that of the row's bytes."""
        found: dict[str, str] = {}
        for journal in {self._sent[path].journal for path in paths}:
            here = [path for path in paths if self._sent[path].journal == journal]
            keys = [self._sent[path].row.key for path in here]
            journal_index = JournalIndex(journal)
            for path, proof in zip(here, journal_index.proofs(keys, journal_index.find(hash_keys(keys)))):
                if proof is not None and proof.crc64 and _is_of(proof, self._sent[path].row):
                    found[path] = proof.crc64
        return found

    def _ask(self, path: str, listed: ObjectInfo, checksum: str | None) -> str | None:
        """Look at one object; its bytes are read where nothing less says enough."""
        row = self._sent[path].row
        try:
            if checksum is not None and _ours(row, listed) and row.strength >= Strength.MD5:
                head = self._store.head(row.key)
                if (head.size, head.etag) != (row.size, row.etag):
                    return None  # replaced since the listing
                if head.crc64 is not None:
                    return row.sha256 if head.crc64 == checksum else None
            digest, size = hashlib.sha256(), 0
            for block in self._reader.blocks(row.key, row.size, listed.version_id):
                self._check()
                digest.update(block)
                size += len(block)
        except StoreError as error:
            if error.failure is not FailureKind.OBJECT and error.code not in ("404", "NoSuchKey"):
                raise
            return None
        self.downloaded += 1
        found = digest.hexdigest()
        return found if size == row.size and self.recorded(path) in (None, found) else None


def _version(listed: ObjectInfo) -> tuple[str, str, str]:
    return listed.key, listed.etag, listed.modified


def _ours(row: ManifestRow, listed: ObjectInfo) -> bool:
    """Tell whether the row's SHA-256 is that of the object: its bytes were sent by us, or read.

    An object of another time was put there since, by whoever may have chosen bytes of equal MD5 and CRC.
    """
    if row.uploaded_at != listed.modified:
        return False
    return row.sha256 is not None and (row.present_before is False or row.strength is Strength.DOWNLOAD)


def _is_of(proof: VerificationRecord, row: ManifestRow) -> bool:
    return (proof.size, proof.etag, proof.sha256) == (row.size, row.etag, row.sha256)
