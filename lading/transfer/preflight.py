"""Before the work: is the bucket there, ours to list, write and clean, and how can it prove what it holds.

Input: a store. Output: the level of proof to use.
Invariant: writes and deletes one object of six bytes under the prefix, and
nothing else.
"""

import hashlib
from typing import TYPE_CHECKING

from lading.errors import LadingError
from lading.transfer.canary import Canary
from lading.transfer.proof import Level

if TYPE_CHECKING:
    from lading.transfer.store import Store


def check_bucket(store: "Store", prefix: str, level: Level | None) -> Level:
    """Return the level of proof: the one asked for, else ``etag`` where ETags are MD5s, else ``crc64``.

    Raises ``LadingError`` with the sentence to show when the bucket cannot be used.
    """
    etag = Canary(store, prefix).sing()
    plain = etag == hashlib.md5(Canary.BODY, usedforsecurity=False).hexdigest()
    if level is Level.ETAG and not plain:
        raise LadingError(
            f"s3://{store.bucket} does not use MD5s as ETags (encryption by key?); leave --level out, or say crc64"
        )
    if level is not None:
        return level
    return Level.ETAG if plain and not store.is_encrypted_by_key() else Level.CRC64
