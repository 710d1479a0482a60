"""The digests of an object, taken while it is copied.

Input: a manifest row, the blocks of its object. Output: digests, the ETag that the copy will have, and whether the
bytes are those of the row.
Invariant: ``difference`` is empty only when every byte came and no recorded digest says that they are others;
``is_proven`` only when a recorded digest says that they are the right ones.
"""

import hashlib

from lading.checksums.digest import join_parts, start_hash
from lading.checksums.parts import PART_BYTES, part_bytes
from lading.core.progress import counted
from lading.verification.manifest import ManifestRow
from lading.verification.object_check import digest_of


def is_md5_etag(etag: str) -> bool:
    """Tell whether an ETag has the form of an MD5, or of one of parts."""
    digest, dash, count = etag.partition("-")
    return len(digest) == 32 and not set(digest) - set("0123456789abcdef") and (not dash or count.isdigit())


def stream_part(size: int, part: int) -> int:
    """Return the bytes of each part in which an object is sent, 0 for one piece.

    ``part``: that of the source's object, 0 where it is of one piece.
    """
    return part or (0 if size <= PART_BYTES else part_bytes(size))


class CopyDigest:
    """Takes the bytes of one object in order."""

    def __init__(self, row: ManifestRow, part: int = 0) -> None:
        self._row, self._part = row, part
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        wanted = digest_of(row)
        self._wanted = wanted
        self._other = start_hash(wanted[0]) if wanted and wanted[0] not in ("sha256", "md5") else None
        self._parts: list[bytes] = []
        self._of_part = hashlib.md5(usedforsecurity=False)
        self._in_part = 0
        self.count = 0

    def add(self, block: bytes) -> None:
        """Take some bytes."""
        self._sha256.update(block)
        self._md5.update(block)
        self.count += len(block)
        if self._other is not None:
            self._other.update(block)
        view = memoryview(block)
        while self._part and self._in_part + len(view) >= self._part:
            cut = self._part - self._in_part
            self._of_part.update(view[:cut])
            self._end_part()
            view = view[cut:]
        if self._part and view:
            self._of_part.update(view)
            self._in_part += len(view)

    def _end_part(self) -> None:
        self._parts.append(self._of_part.digest())
        self._of_part, self._in_part = hashlib.md5(usedforsecurity=False), 0

    @property
    def sha256(self) -> str:
        """Return that of all bytes so far."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """Return that of all bytes so far."""
        return self._md5.hexdigest()

    @property
    def etag(self) -> str:
        """Return what S3 shows for the object when it is sent in these parts."""
        if not self._part:
            return self.md5
        last = [self._of_part.digest()] if self._in_part or not self._parts else []
        return join_parts([*self._parts, *last])

    def difference(self) -> str:
        """Return why these are not the bytes of the row; empty when nothing recorded says so."""
        if self.count != self._row.size:
            return f"{counted(self.count, 'byte')} came, recorded {self._row.size:,}"
        if self._wanted and self._found() != self._wanted[1]:
            return f"its bytes have another {self._wanted[0].upper()}"
        return ""

    def is_proven(self) -> bool:
        """Tell whether a digest of the row, or its ETag, says that these are the bytes."""
        if self.difference():
            return False
        return self._wanted is not None or self._row.etag in (self.md5, self.etag)

    def _found(self) -> str:
        assert self._wanted is not None
        if self._other is not None:
            return self._other.hexdigest()
        return self.sha256 if self._wanted[0] == "sha256" else self.md5
