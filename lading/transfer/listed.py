"""What a bucket answers, as values; no client is needed to hold them.

Input: nothing. Output: the classes that ``store.py`` returns and raises.
Invariant: a ``StoreError`` is one sentence that holds no secret.
"""

from dataclasses import dataclass

from lading.errors import LadingError
from lading.transfer.engine import Failure


class StoreError(LadingError):
    """A request failed: ``failure`` tells what kind, ``code`` what the server called it."""

    def __init__(self, failure: Failure, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.failure = failure
        self.code = code


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as a listing shows it: ``etag`` without quotes, ``modified`` ISO 8601 UTC.

    ``version_id`` is known from a listing of versions only.
    """

    key: str
    size: int
    etag: str
    modified: str
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD adds: full-object CRC64NVME (base64) if any, server-side encryption, version."""

    size: int
    etag: str
    crc64: str | None
    encryption: str | None
    version_id: str | None
