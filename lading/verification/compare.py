"""Proof of delivery: what the bucket says against what the local bytes give.

Input: items, the bucket's listing, digests of the local files. Output: a
``VerificationRecord``, or why there is none.
Invariant: a proof rests on digests of one steady state of the file, and on an
answer of the bucket that was asked for after the object was sent. It says how
the object came there: what was there before may be of whoever chose it to have
the file's MD5.
"""

import base64
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from lading.checksums.digest import (
    FileDigests,
    FileState,
    digest_file,
    open_regular,
    part_bytes,
    plausible_parts,
    read_checksum,
    start_hash,
)
from lading.core.opening import Root
from lading.journal.records import PRESENT, SENT, VerificationRecord
from lading.objectstore.download import ObjectReader
from lading.objectstore.object_info import ARCHIVED, ObjectHead, ObjectInfo, StoreError
from lading.objectstore.target import FailureKind
from lading.plan.planned_object import AdoptLevel, PlannedObject

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

_MD5_SHAPE = re.compile(r"[0-9a-f]{32}(-\d+)?")
# From here on one more request does not show beside the sending of the object.
CHECKSUM_BYTES = 16 << 20
_SILENT = 8  # answers without a checksum after which a server is not asked for more


class CompareLevel(StrEnum):
    """How an object is compared; each level falls to the next where the bucket cannot answer it."""

    SIZE = "size"  # only when asked for: says nothing of the content
    ETAG = "etag"  # one listing request per 1,000 objects
    CRC64 = "crc64"  # one HEAD per object, for the server's own checksum of the whole; "checksum" on command lines
    DOWNLOAD = "download"  # every byte

    @classmethod
    def _missing_(cls, value: object) -> "CompareLevel | None":
        return cls.CRC64 if value == "checksum" else None


LEVELS = ("size", "etag", "checksum", "crc64", "download")


@dataclass(frozen=True, slots=True)
class CompareMatch:
    """How an object was found equal to a file.

    method  the manifest's ``checksum``; found: it was there before
    server_checksum  the server's checksum of the whole, where it was asked for and agreed
    sha256  of the object's bytes, where they were read for want of the file's
    """

    method: str
    found: bool = False
    server_checksum: str | None = None
    sha256: str | None = None


class Comparison:
    """Compares one object with one local file at a level; ``root``: below which the files are opened."""

    def __init__(
        self,
        store: "ObjectStore",
        level: CompareLevel,
        reader: ObjectReader | None = None,
        root: Root | None = None,
        *,
        adopt: AdoptLevel = AdoptLevel.MD5,
    ) -> None:
        self._store, self._root = store, root
        self._reader = reader or ObjectReader(store)
        self.level = level
        self.adopt = adopt
        self._silent = 0

    def match(
        self,
        local: str,
        listed: ObjectInfo,
        digests: FileDigests,
        level: CompareLevel | None = None,
        *,
        found: bool = False,
    ) -> CompareMatch | None:
        """Return how the object was found equal, or None when it differs.

        What was ``found`` there, and not sent a moment ago, differs too when
        it may not be looked at: others may have encrypted it with their key.
        Of an archived object that would have to be read, the ``StoreError`` is raised.
        """
        try:
            match = self._match(local, listed, digests, level or self.level, found)
            return replace(match, found=found) if match else None
        except StoreError as error:
            if error.code in ("404", "NoSuchKey"):
                return None  # gone since the listing
            if error.code == ARCHIVED:
                raise  # it cannot be read, which says nothing against it
            if not found or error.failure is not FailureKind.OBJECT:
                raise
        self._store.page(listed.key)  # HEAD gives no reason: if it is the credentials, they end the run here
        return None

    def _match(
        self, local: str, listed: ObjectInfo, digests: FileDigests, level: CompareLevel, found: bool
    ) -> CompareMatch | None:
        if listed.size != digests.after.size or not digests.steady:
            return None
        if level is CompareLevel.SIZE:
            return CompareMatch("size")
        known = _Known(
            digests.sha256, digests.crc64, digests.md5, lambda name: self._read_checksum(local, digests, name)
        )
        if level is CompareLevel.ETAG:
            if listed.etag in (digests.etag, digests.md5) or self._match_parts(local, listed, digests):
                if not found or self.adopt is AdoptLevel.MD5:
                    return self._with_checksum(listed, known)
                return self._match_more(listed, known, self._demanded(level))
            head = self._head(listed)
            # The ETag of parts is no MD5 of MD5s everywhere (some gateways): what was just sent is looked at once more.
            in_parts = "-" in listed.etag and not found
            plain = _MD5_SHAPE.fullmatch(listed.etag) and not in_parts
            if head is None or (plain and not _hides_md5(head.encryption)):
                return None
            if found and self.adopt is AdoptLevel.DOWNLOAD:
                return self._match_bytes(listed, known)
            return self._match_head(listed, known, head)
        return self._match_more(listed, known, self._demanded(level) if found else level)

    def _demanded(self, level: CompareLevel) -> CompareLevel:
        """Return the level for what was there before."""
        if level is CompareLevel.DOWNLOAD or self.adopt is AdoptLevel.DOWNLOAD:
            return CompareLevel.DOWNLOAD
        return CompareLevel.CRC64 if self.adopt is AdoptLevel.CHECKSUM else level

    def confirm(self, proof: VerificationRecord, listed: ObjectInfo, level: CompareLevel) -> CompareMatch | None:
        """Compare an object that has the ETag of its record with the record's digests, at ``CRC64`` or ``DOWNLOAD``."""
        return self._match_more(listed, _Known(proof.sha256, proof.crc64, proof.md5), level)

    def lacks(self, proof: VerificationRecord, *, found: bool) -> CompareLevel | None:
        """Return the level at which an object is still to be compared that has the ETag of its record.

        ``found``: it was there before, perhaps put there by others since. None when the record says enough.
        """
        level = self._demanded(self.level) if found else self.level
        done = (
            _rank(proof.method)
            if proof.server_checksum is None
            else max(_rank(proof.method), _RANKS[CompareLevel.CRC64])
        )
        if done >= _RANKS[level]:
            return None
        return (
            CompareLevel.CRC64 if level is CompareLevel.ETAG else level
        )  # an ETag that is no MD5 says nothing: see by_etag

    def _match_parts(self, local: str, listed: ObjectInfo, digests: FileDigests) -> bool:
        """Try the part sizes by which another client may have sent the same bytes."""
        for part in plausible_parts(listed.size, listed.etag):
            if not part or part == part_bytes(listed.size) < listed.size:
                continue  # the MD5 of the whole, and that of our own parts, were compared already
            try:
                again = digest_file(local, part, self._reader.mark, self._root)
            except OSError:
                return False  # no match; what ails the file is told when it is sent or looked at again
            if again.before == again.after == digests.after and again.etag == listed.etag:
                return True
        return False

    def _match_more(self, listed: ObjectInfo, known: "_Known", level: CompareLevel) -> CompareMatch | None:
        """Compare by the server's checksum, or by the bytes."""
        if level is CompareLevel.DOWNLOAD:
            return self._match_bytes(listed, known)
        head = self._head(listed)
        return self._match_head(listed, known, head) if head else None

    def _head(self, listed: ObjectInfo) -> ObjectHead | None:
        """Return what HEAD says of an object; None when it was replaced since the listing."""
        head = self._store.head(listed.key)
        return head if head.etag == listed.etag and head.size == listed.size else None

    def _match_head(self, listed: ObjectInfo, known: "_Known", head: ObjectHead) -> CompareMatch | None:
        for name, value in head.whole_checksums():
            ours = known.checksum(name)
            if ours is not None:
                named = f"{name}:{value}"
                return CompareMatch(named, server_checksum=named) if ours == value else None
        return self._match_bytes(listed, known)

    def _with_checksum(self, listed: ObjectInfo, known: "_Known") -> CompareMatch | None:
        """Return the match of an ETag, with the server's checksum of a large object; None when that one differs.

        A server that has none, or may not be asked, is asked no more: the ETag is what was asked for.
        """
        if listed.size < CHECKSUM_BYTES or self._silent >= _SILENT:
            return CompareMatch("etag")
        try:
            head = self._head(listed)
        except StoreError:
            head = None
        for name, value in head.whole_checksums() if head else ():
            if name == "crc64nvme" or (name == "sha256" and known.sha256):  # the file is not read again for another
                self._silent = 0
                return (
                    CompareMatch("etag", server_checksum=f"{name}:{value}") if known.checksum(name) == value else None
                )
        self._silent += 1
        return CompareMatch("etag")

    def _read_checksum(self, local: str, digests: FileDigests, name: str) -> str | None:
        """Read the file once more for a checksum that is not among its digests; None when that is not possible."""
        try:
            descriptor = open_regular(local, self._root)
        except OSError:
            return None
        try:
            value = read_checksum(descriptor, name, self._reader.check)
            return value if FileState.of(os.fstat(descriptor)) == digests.after else None
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _match_bytes(self, listed: ObjectInfo, known: "_Known") -> CompareMatch | None:
        wanted = known.of_bytes()
        read, size = {name: start_hash(name) for name in {"sha256": "", **wanted}}, 0
        for block in self._reader.blocks(listed.key, listed.size):
            for each in read.values():
                each.update(block)
            size += len(block)
        found = {name: each.hexdigest() for name, each in read.items()}
        if size != listed.size or not wanted or any(found[name] != value for name, value in wanted.items()):
            return None
        return CompareMatch("download", sha256=None if known.sha256 else found["sha256"])


_RANKS: dict[str, int] = {CompareLevel.SIZE: 0, CompareLevel.ETAG: 1, CompareLevel.CRC64: 2, CompareLevel.DOWNLOAD: 3}


def _rank(method: str) -> int:
    """Return how much a method says, as the rank of its level."""
    return _RANKS[CompareLevel.CRC64] if ":" in method else _RANKS.get(method, 0)


@dataclass(frozen=True)
class _Known:
    """Digests of a file, by the names of S3; ``other`` reads the file for those that are not there."""

    sha256: str | None
    crc64: str | None
    md5: str | None
    other: Callable[[str], str | None] | None = None

    def checksum(self, name: str) -> str | None:
        """Return a checksum as S3 writes it, None when it cannot be had."""
        if name == "sha256":
            if self.sha256:
                return base64.b64encode(bytes.fromhex(self.sha256)).decode()
        elif name == "crc64nvme":
            return self.crc64
        return self.other(name) if self.other else None

    def of_bytes(self) -> dict[str, str]:
        """Return what every byte of the object is compared by, in hex: SHA-256, or what the file's record has instead.

        Nothing where a file is at hand and cannot be read.
        """
        if value := self.checksum("sha256"):
            return {"sha256": base64.b64decode(value).hex()}
        if self.other or self.md5 is None or self.crc64 is None:
            return {}
        return {"md5": self.md5, "crc64nvme": base64.b64decode(self.crc64).hex()}


def _hides_md5(encryption: str | None) -> bool:
    return encryption is not None and ("kms" in encryption or encryption == "SSE-C")


def make_record(
    item: PlannedObject, listed: ObjectInfo, digests: FileDigests, match: CompareMatch
) -> VerificationRecord:
    """Return the proof of an item that matched; an object that was ours in another state of the file stays ours."""
    state = digests.after
    proof = VerificationRecord(
        item.key,
        state.size,
        state.mtime_ns,
        listed.etag,
        listed.modified,
        digests.md5,
        digests.sha256 or match.sha256,
        digests.crc64,
        match.method,
        item.batch,
        listed.version_id,
        item.generation,
        state.ctime_ns,
        state.inode,
        state.device or None,
        PRESENT if match.found else SENT,
        match.server_checksum,
    )
    before = item.earlier
    if not match.found or before is None or not is_same_content(before, proof) or not is_same_object(before, listed):
        return proof
    stronger = max(before.method, proof.method, key=_rank)
    return replace(
        proof,
        sha256=proof.sha256 or before.sha256,
        origin=before.origin,
        method=stronger,
        server_checksum=proof.server_checksum or before.server_checksum,
    )


def by_etag(proof: VerificationRecord) -> VerificationRecord:
    """Return the record of an object with that ETag, compared by it where nothing was: its size alone says nothing."""
    return replace(proof, method="etag") if _rank(proof.method) == 0 and proof.etag == proof.md5 else proof


def has_same_etag(proof: VerificationRecord, listed: ObjectInfo) -> bool:
    """Tell whether the bucket lists an object of the record's size and ETag."""
    return (proof.size, proof.etag) == (listed.size, listed.etag)


def is_same_content(proof: VerificationRecord, digests: VerificationRecord | FileDigests) -> bool:
    """Tell whether a record and digests are of the same bytes: by SHA-256, or where one has none, by MD5 and CRC64."""
    if proof.sha256 and digests.sha256:
        return proof.sha256 == digests.sha256
    return None not in (proof.md5, proof.crc64) and (proof.md5, proof.crc64) == (digests.md5, digests.crc64)


def is_same_object(proof: VerificationRecord, listed: ObjectInfo) -> bool:
    """Tell whether the bucket lists the very object of a record: one that was put there later has another time."""
    return has_same_etag(proof, listed) and proof.modified == listed.modified


def planned(item: PlannedObject, proof: VerificationRecord) -> tuple[int, int] | None:
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
