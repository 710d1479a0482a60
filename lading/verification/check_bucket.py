"""Before the work: is the bucket there, ours to list, write and clean, and how can it prove what it holds.

Input: a store. Output: the level of proof to use.
Invariant: writes and deletes one object of six bytes under the prefix, and
nothing else.
"""

import hashlib
from typing import TYPE_CHECKING

from lading.core.errors import LadingError
from lading.objectstore.bucket_probe import BucketProbe
from lading.verification.compare import CompareLevel

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore


def check_bucket(store: "ObjectStore", prefix: str, level: CompareLevel | None) -> CompareLevel:
    """Return the level of proof: the one asked for, else ``etag`` where ETags are MD5s, else ``crc64``.

    Raises ``LadingError`` with the sentence to show when the bucket cannot be used.
    """
    etag = BucketProbe(store, prefix).run()
    plain = etag == hashlib.md5(BucketProbe.BODY, usedforsecurity=False).hexdigest()
    if level is CompareLevel.ETAG and not plain:
        raise LadingError(
            f"s3://{store.bucket} does not use MD5s as ETags (encryption by key?); leave --level out, or say crc64"
        )
    if level is not None:
        return level
    return CompareLevel.ETAG if plain and not store.is_encrypted_by_key() else CompareLevel.CRC64
