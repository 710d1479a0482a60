"""One file that shall be an object, and what it takes to believe one that was there before."""

from dataclasses import dataclass
from enum import StrEnum

from lading.journal.records import VerificationRecord
from lading.objectstore.object_info import ObjectInfo


class AdoptLevel(StrEnum):
    """What it takes to believe that an object which was there before is the file's."""

    MD5 = "md5"  # its ETag, as for what was sent; such an object's SHA-256 is not known
    CHECKSUM = "checksum"  # the server's checksum of the whole beside it, else its bytes
    DOWNLOAD = "download"  # its bytes


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """One file that shall be an object.

    path    relative to the plan's root; local: absolute; key: in the bucket
    size, mtime  as planned; mtime (ns) is None in a tree without times
    batch   id of the batch; generation: of the next proof (``lading.journal.records``)
    voids   True when an older proof must be taken back before this is sent
    earlier that proof: of another state of the file, whose content may be the same
    spurned (etag, modified) of an object that is known to have other bytes than its ETag says
    """

    path: str
    local: str
    key: str
    size: int
    mtime: int | None
    batch: str
    generation: int = 0
    voids: bool = False
    earlier: VerificationRecord | None = None
    rejected: tuple[str, str] | None = None

    def rejects(self, listed: ObjectInfo) -> bool:
        """Tell whether this very object was read and found to be another."""
        return self.rejected == (listed.etag, listed.modified)
