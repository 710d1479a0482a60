"""Proof of delivery: what the bucket says against what the local bytes give.

Input: items, the bucket's listing, digests of the local files. Output: a
``Proof``, or why there is none.
Invariant: a proof rests on digests of one steady state of the file, and on an
answer of the bucket that was asked for after the object was sent.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from lading.formats.journal import Proof
from lading.opening import Root
from lading.transfer.body import Reader
from lading.transfer.checksum import Digests, digest_file, plausible_parts
from lading.transfer.engine import Failure
from lading.transfer.listed import Listed, StoreError

if TYPE_CHECKING:
    from lading.transfer.store import Store

_MD5_SHAPE = re.compile(r"[0-9a-f]{32}(-\d+)?")


class Level(StrEnum):
    """How an object is compared; each level falls to the next where the bucket cannot answer it."""

    SIZE = "size"  # only when asked for: says nothing of the content
    ETAG = "etag"  # one listing request per 1,000 objects
    CRC64 = "crc64"  # one HEAD per object
    DOWNLOAD = "download"  # every byte


@dataclass(frozen=True, slots=True)
class Item:
    """One file that shall be an object.

    path    relative to the plan's root; local: absolute; key: in the bucket
    size, mtime  as planned; mtime (ns) is None in a tree without times
    batch   id of the batch; generation: of the next proof (``lading.formats.journal``)
    voids   True when an older proof must be taken back before this is sent
    """

    path: str
    local: str
    key: str
    size: int
    mtime: int | None
    batch: str
    generation: int = 0
    voids: bool = False


class Comparison:
    """Compares one object with one local file at a level; ``root``: below which the files are opened."""

    def __init__(self, store: "Store", level: Level, reader: Reader | None = None, root: Root | None = None) -> None:
        self._store, self._root = store, root
        self._reader = reader or Reader(store)
        self.level = level

    def match(
        self, local: str, listed: Listed, digests: Digests, level: Level | None = None, *, found: bool = False
    ) -> str | None:
        """Return how the object was proven equal (the manifest's ``checksum``), or None when it differs.

        What was ``found`` there, and not sent a moment ago, differs too when
        it may not be looked at: others may have encrypted it with their key.
        """
        try:
            return self._match(local, listed, digests, level or self.level)
        except StoreError as error:
            if error.code in ("404", "NoSuchKey"):
                return None  # gone since the listing
            if not found or error.failure is not Failure.OBJECT:
                raise
        self._store.page(listed.key)  # HEAD gives no reason: if it is the credentials, they end the run here
        return None

    def _match(self, local: str, listed: Listed, digests: Digests, level: Level) -> str | None:
        if listed.size != digests.after.size or not digests.steady:
            return None
        if level is Level.SIZE:
            return "size"
        if level is Level.ETAG:
            if listed.etag == digests.etag or self._match_parts(local, listed, digests):
                return "etag"
        elif level is Level.DOWNLOAD:
            return self._match_bytes(listed, digests)
        head = self._store.head(listed.key)
        if head.etag != listed.etag or head.size != listed.size:
            return None  # replaced since the listing
        if level is Level.ETAG and _MD5_SHAPE.fullmatch(listed.etag) and not _hides_md5(head.encryption):
            return None
        if head.crc64 is not None:
            return f"crc64nvme:{head.crc64}" if head.crc64 == digests.crc64 else None
        return self._match_bytes(listed, digests)

    def _match_parts(self, local: str, listed: Listed, digests: Digests) -> bool:
        """Try the part sizes by which another client may have sent the same bytes."""
        for part in plausible_parts(listed.size, listed.etag):
            try:
                again = digest_file(local, part, self._reader.mark, self._root)
            except OSError:
                return False  # no match; what ails the file is told when it is sent or looked at again
            if again.before == again.after == digests.after and again.etag == listed.etag:
                return True
        return False

    def _match_bytes(self, listed: Listed, digests: Digests) -> str | None:
        sha256, size = hashlib.sha256(), 0
        for block in self._reader.blocks(listed.key, listed.size):
            sha256.update(block)
            size += len(block)
        return "download" if size == listed.size and sha256.hexdigest() == digests.sha256 else None


def _hides_md5(encryption: str | None) -> bool:
    return encryption is not None and ("kms" in encryption or encryption == "SSE-C")


def make_proof(item: Item, listed: Listed, digests: Digests, method: str) -> Proof:
    """Return the proof of an item that matched."""
    return Proof(
        item.key,
        digests.after.size,
        digests.after.mtime_ns,
        listed.etag,
        listed.modified,
        digests.md5,
        digests.sha256,
        digests.crc64,
        method,
        item.batch,
        None,
        item.generation,
    )


def planned(item: Item, proof: Proof) -> tuple[int, int] | None:
    """Return the planned (size, mtime) of an item when the file was proven in another state, else None.

    The tree may be older than the file; a record that names what was planned
    stays good until the next crawl.
    """
    mtime = proof.mtime_ns if item.mtime is None else item.mtime
    return None if (item.size, mtime) == (proof.size, proof.mtime_ns) else (item.size, mtime)


def stat_files(paths: Iterable[str]) -> list[os.stat_result | OSError]:
    """Return the stat of each path, or the error."""
    found: list[os.stat_result | OSError] = []
    for path in paths:
        try:
            found.append(os.stat(os.fsencode(path)))
        except OSError as error:
            found.append(error)
    return found
