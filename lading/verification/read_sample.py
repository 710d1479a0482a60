"""Which objects of a verification are read back, beside what their listing says.

Input: how many of how many. Output: whether an object is in the sample.
Invariant: another sample each time, every object as likely as any other.
"""

import hashlib
import secrets
import threading
from typing import TypeVar

from lading.objectstore.download import ObjectReader
from lading.verification.compare import CompareLevel, CompareMatch

L = TypeVar("L")


class Sample:
    """Which objects are downloaded and compared byte for byte: none, about ``count`` of ``total``, or all."""

    def __init__(self, reader: ObjectReader, total: int, count: int, full: bool) -> None:
        self._reader = reader
        share = 1.0 if full else min(1.0, count / total) if total else 0.0
        self._bound = round(share * 2**64)
        self._salt = secrets.token_bytes(16)  # another sample each time
        self._lock = threading.Lock()
        self.downloaded = 0

    @property
    def mark(self) -> bytearray:
        """What is set when the run is being interrupted (``lading.checksums.digest``)."""
        return self._reader.mark

    def takes(self, key: str) -> bool:
        """Tell whether an object is in the sample."""
        if not self._bound:
            return False
        mark = hashlib.blake2b(key.encode(), digest_size=8, salt=self._salt).digest()
        return int.from_bytes(mark, "big") < self._bound

    def level(self, key: str, usual: L) -> L | CompareLevel:
        """Return the level for a comparison of an object: ``usual``, or that of the sample."""
        return CompareLevel.DOWNLOAD if self.takes(key) else usual

    def count(self, match: CompareMatch | None) -> None:
        """Count an object that was compared by its bytes, or was not equal."""
        if match is None or match.method == "download":
            with self._lock:
                self.downloaded += 1
