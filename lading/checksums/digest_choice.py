"""Which digests an upload makes of each file, by the names that a user gives.

Input: a list of names. Output: a ``DigestChoice``, or why that list cannot be.
Invariant: what is chosen can prove content: MD5 is always among it, since an object's ETag is made of MD5s, and
CRC64NVME, which costs next to nothing, is what a server answers whose ETags are none.
"""

from dataclasses import dataclass

from lading.core.errors import UsageError

NAMES = ("md5", "crc64nvme", "sha256")


@dataclass(frozen=True)
class DigestChoice:
    """MD5 and CRC64NVME are always made; ``sha256``: whether SHA-256 is, too."""

    sha256: bool = True

    def __str__(self) -> str:
        return ",".join(NAMES if self.sha256 else NAMES[:2])


ALL_DIGESTS = DigestChoice()


def parse_digests(text: str) -> DigestChoice:
    """Return what a list like ``md5,crc64nvme`` asks for; ``UsageError`` for one that cannot be."""
    words = [word.strip().lower() for word in text.split(",")]
    if not any(words):
        raise UsageError("digests: none is named; write md5,crc64nvme or md5,crc64nvme,sha256")
    if "" in words:
        raise UsageError(f"digests: {text[:80]!r} holds an empty name; write md5,crc64nvme")
    if unknown := next((word for word in words if word not in NAMES), None):
        raise UsageError(f"digests: {unknown[:40]!r} is not a digest of files; there are: {', '.join(NAMES)}")
    if "md5" not in words:
        wanted = DigestChoice("sha256" in words)
        raise UsageError(f"digests: without md5 no object could be compared with its ETag; write {wanted}")
    return DigestChoice("sha256" in words)
