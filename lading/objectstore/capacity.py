"""What a server can hold: bytes in an object, bytes in a key.

Input: the endpoint, and what a person says of it. Output: ``Capacity``.
Invariant: the limits are the server's, not S3's for all: one file that is
too large, or one key that is too long, is refused by itself with the number.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

# Amazon S3 User Guide, "Amazon S3 multipart upload limits": 10,000 parts of at most 5 GiB; so an object of up to 50 TB
# since December 2025. "Creating object key names": at most 1,024 bytes of UTF-8.
PARTS = 10_000
LARGEST_PART = 5 << 30
KEY_BYTES = 1024
# What S3 held before, and what servers that follow it may still: Google Cloud Storage and Cloudflare R2 say so.
OBJECT_BYTES = 5 << 40


@dataclass(frozen=True)
class Capacity:
    """``object_bytes`` in one object, ``key_bytes`` in its key, prefix included."""

    object_bytes: int = OBJECT_BYTES
    key_bytes: int = KEY_BYTES

    def object_fault(self, size: int) -> str | None:
        """Return why an object of ``size`` bytes cannot be held, or None."""
        if size <= self.object_bytes:
            return None
        return (
            f"it has {size:,} bytes, and this server is assumed to store at most {self.object_bytes:,} in one object; "
            "if it holds more: --max-object-size"
        )


def find_capacity(endpoint: str | None, object_bytes: int | None = None, key_bytes: int | None = None) -> Capacity:
    """Return the limits of the server at ``endpoint`` (None is AWS); what is given counts before what is known."""
    host = (urlsplit(endpoint).hostname or "") if endpoint else "amazonaws.com"
    amazon = host == "amazonaws.com" or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    known = PARTS * LARGEST_PART if amazon else OBJECT_BYTES
    return Capacity(object_bytes or known, key_bytes or KEY_BYTES)
