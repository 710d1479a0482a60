"""What a client sends: bytes, or what is read and read again.

Input: a body. Output: the parameters that let the server check it.
"""

import base64
import hashlib
from typing import Protocol


class Readable(Protocol):
    """A body that a client reads, and reads again when it tries again."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move."""
        ...

    def tell(self) -> int:
        """Return the position."""
        ...


def content_md5(body: Readable | bytes, md5: bytes | None) -> dict[str, str]:
    """Return the digest by which the server checks a body: ``md5``, or that of bytes in memory."""
    if md5 is None and isinstance(body, bytes):
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
    return {} if md5 is None else {"ContentMD5": base64.b64encode(md5).decode()}


def content_checksum(algorithm: str | None, value: str | None) -> dict[str, str]:
    """Return the parameter by which a server checks a body and keeps its checksum; ``value`` is base64."""
    return {f"Checksum{algorithm}": value} if algorithm and value else {}
