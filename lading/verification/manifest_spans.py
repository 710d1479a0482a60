"""Runs of a manifest's rows that are read together, and named by what they hold.

Input: rows in key order. Output: spans of up to ``ROWS`` rows or ``BYTES`` bytes.
Invariant: a span's digest is of each member of its rows that names bytes, so two manifests have a span in common
exactly where these rows agree. Where a span ends depends on the keys near it alone: a row that is added or removed
changes the spans around it and no others.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lading.verification.manifest import ManifestRow

ROWS = 4096
BYTES = 4 << 30
_ENDS = 1024  # one row of so many ends its span: most spans are of about this length


@dataclass(slots=True)
class ManifestSpan:
    """Rows that follow one another; ``digests`` are those of the rows, ``digest`` that of the whole."""

    rows: list[ManifestRow] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    bytes: int = 0

    @property
    def digest(self) -> str:
        """Name the span."""
        return hashlib.blake2b(b"".join(self.digests), digest_size=16).hexdigest()


def digest_row(row: ManifestRow) -> bytes:
    """Return 16 bytes that stand for the object, its version and its content as the row has them."""
    members = (
        row.key, row.size, row.etag, row.version_id, row.sha256, row.file_sha256, row.md5, row.server_checksum,
        row.checksum,
    )  # fmt: skip
    return hashlib.blake2b(repr(members).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def cut_spans(rows: Iterable[ManifestRow]) -> Iterator[ManifestSpan]:
    """Yield the spans of a manifest's rows, in order."""
    span = ManifestSpan()
    for row in rows:
        digest = digest_row(row)
        span.rows.append(row)
        span.digests.append(digest)
        span.bytes += row.size
        key = hashlib.blake2b(row.key.encode("utf-8", "surrogateescape"), digest_size=4).digest()
        if int.from_bytes(key) % _ENDS == 0 or len(span.rows) >= ROWS or span.bytes >= BYTES:
            yield span
            span = ManifestSpan()
    if span.rows:
        yield span
