"""What a bucket answers, as values; no client is needed to hold them.

Input: nothing. Output: the classes that ``store.py`` returns and raises.
Invariant: a ``StoreError`` is one sentence that holds no secret.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lading.core.errors import LadingError
from lading.objectstore.target import FailureKind

# What the server calls an object that is archived, when it is asked for its bytes; and the classes that are.
ARCHIVED = "InvalidObjectState"
ARCHIVE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")


class StoreError(LadingError):
    """A request failed: ``failure`` tells what kind, ``code`` what the server called it."""

    def __init__(self, failure: FailureKind, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.failure = failure
        self.code = code


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing shows it: ``etag`` without quotes, ``modified`` ISO 8601 UTC.

    ``version_id`` is known from a listing of versions only. ``storage_class`` is None for STANDARD, and where the
    server names none.
    """

    key: str
    size: int
    etag: str
    modified: str
    version_id: str | None = None
    storage_class: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What HEAD adds: full-object CRC64NVME (base64) if any, server-side encryption, version, other checksums.

    ``others`` holds checksums of the whole object by algorithm, base64. ``storage_class`` is None for STANDARD;
    ``thawing`` is what the server says of an archived object that was asked back (``x-amz-restore``), and ``stored``
    what the object was stored with: content_type, cache_control, content_encoding, encryption, kms_key, metadata.
    ``tags``: how many. ``etag`` is empty of a web server that is no S3: what it calls so says nothing of bytes.
    """

    size: int
    etag: str
    crc64: str | None
    encryption: str | None
    version_id: str | None
    others: Mapping[str, str] = field(default_factory=dict)
    storage_class: str | None = None
    thawing: str | None = None
    stored: Mapping[str, Any] = field(default_factory=dict)
    tags: int = 0

    @property
    def is_thawed(self) -> bool:
        """Tell whether an archived object can be read for some days."""
        return self.thawing is not None and 'ongoing-request="false"' in self.thawing

    @property
    def is_thawing(self) -> bool:
        """Tell whether an archived object was asked back, and is on its way."""
        return self.thawing is not None and 'ongoing-request="true"' in self.thawing

    def whole_checksums(self) -> Iterator[tuple[str, str]]:
        """Yield (algorithm, base64) of each checksum of the whole object, the strongest first."""
        if "sha256" in self.others:
            yield "sha256", self.others["sha256"]
        if self.crc64 is not None:
            yield "crc64nvme", self.crc64
        yield from ((name, value) for name, value in self.others.items() if name != "sha256")
