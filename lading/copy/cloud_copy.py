"""Copies into Google Cloud Storage or Azure, through this machine.

Input: jobs, a store to read from. Output: verified objects.
Invariant: an object appears only when all its bytes came and are the recorded ones. These services name no digest that
could be compared, so each object is read back before it counts.
"""

from collections.abc import Iterator, Sequence

from lading.copy.bucket_copy import attributes_of, proven_copy, refuse_damaged
from lading.copy.copy_digest import CopyDigest
from lading.copy.copy_job import DAMAGED, CopyFault, CopyJob, CopyOutcome
from lading.copy.copy_log import ProvenCopy
from lading.core.byte_gate import ByteGate
from lading.objectstore.cloud_store import HEADERS, PART_BYTES, PARTS_AT_ONCE, CloudPlace, CloudStore
from lading.objectstore.download import ObjectReader
from lading.objectstore.kept_attributes import KeptAttributes
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.readable_store import ReadableStore
from lading.verification.manifest import ManifestRow

BUDGET_BYTES = 400 << 20


class CloudCopy:
    """See ``CopyDestination``."""

    def __init__(self, store: CloudStore, place: CloudPlace, endpoint: str | None, source: ReadableStore) -> None:
        self.url, self.prefix, self.endpoint = str(place), place.prefix, endpoint
        self._store, self._source, self._scheme = store, source, place.scheme
        self._reader, self._check = ObjectReader(source), ObjectReader(store)
        self._gate = ByteGate(BUDGET_BYTES)

    @property
    def store(self) -> CloudStore:
        """Return the place."""
        return self._store

    def describe(self) -> str:
        """Return how objects come there, for people."""
        return "through this machine"

    def close(self) -> None:
        """Let every reading end at its next block."""
        self._reader.stop()
        self._check.stop()

    def settle(self, outcomes: Sequence[CopyOutcome]) -> Sequence[CopyOutcome | CopyFault]:
        """Return them: a cloud keeps what it took."""
        return outcomes

    def looks_copied(self, row: ManifestRow, there: ObjectInfo) -> bool:
        """Tell that equal ETags suffice."""
        return True

    def adopt(self, job: CopyJob, there: ObjectInfo) -> ProvenCopy | None:
        """Return the verification of what is there by reading it; None where it is another one."""
        if there.size != job.row.size:
            return None
        digest = self._read(job)
        return proven_copy(job, there.etag, "download", there.version_id) if digest.is_proven() else None

    def transfer(self, job: CopyJob) -> CopyOutcome:
        """Copy one object and read it back."""
        kept = attributes_of(self._source, job)
        headers, tags, lacking = self._stored_with(kept)
        digest = CopyDigest(job.row)
        held = min(job.row.size, (PARTS_AT_ONCE + 1) * PART_BYTES)
        with self._gate.hold(held):
            etag = self._store.put(job.key, self._blocks(job, digest), job.row.size, headers, tags)
        if self._read(job).sha256 != digest.sha256:
            raise CopyFault(DAMAGED, "the copy was read back and has other bytes")
        proven = proven_copy(job, etag or self._store.head(job.key).etag, "download", None)
        return CopyOutcome(proven, job.row.size, (*kept.lacking, *lacking), unproven=not digest.is_proven())

    def _blocks(self, job: CopyJob, digest: CopyDigest) -> Iterator[bytes]:
        for block in self._reader.blocks(job.row.key, job.row.size, job.version_id):
            digest.add(block)
            yield block
        refuse_damaged(digest)

    def _read(self, job: CopyJob) -> CopyDigest:
        digest = CopyDigest(job.row)
        for block in self._check.blocks(job.key, job.row.size):
            digest.add(block)
        return digest

    def _stored_with(self, kept: KeptAttributes) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
        """Return headers with metadata, tags, and the names of what this service cannot keep."""
        lacking = []
        named = {"Content-Type": kept.content_type, "Cache-Control": kept.cache_control, **_headers(kept)}
        metadata = {name: value for name, value in kept.metadata if self._fits(name, value)}
        if len(metadata) < len(kept.metadata):
            lacking.append("metadata")
        if kept.tags and self._scheme == "gs":
            lacking.append("tags")
        if kept.storage_class:
            lacking.append("storage class")
        headers = metadata | {name: value for name, value in named.items() if value}
        return headers, dict(kept.tags) if self._scheme == "az" else {}, tuple(lacking)

    def _fits(self, name: str, value: str) -> bool:
        """Tell whether metadata can be kept: Azure takes identifiers, and the library takes some names for headers."""
        if name.lower() in {*(header.lower() for header in HEADERS), "storage-class"} or not value.isascii():
            return False
        return self._scheme == "gs" or name.isidentifier()


def _headers(kept: KeptAttributes) -> dict[str, str]:
    names = {"ContentDisposition": "Content-Disposition", "ContentEncoding": "Content-Encoding"}
    names["ContentLanguage"] = "Content-Language"
    return {names[name]: value for name, value in kept.headers if name in names}
