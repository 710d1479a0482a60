"""Copies into a bucket of S3: by the server itself where both ends are of one service, else through this machine.

Input: jobs, a store to read from. Output: proven objects.
Invariant: an object appears whole or not at all, and only after its bytes were found to be the recorded ones, where
they come through here. What proves it is the ETag that these bytes must have, else the server's checksum of the whole
object, else reading it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lading.checksums.digest import plausible_parts
from lading.copy.copy_digest import CopyDigest, is_md5_etag, stream_part
from lading.copy.copy_job import DAMAGED, CopyFault, CopyJob, CopyOutcome
from lading.copy.copy_log import CopyLog, PartsBegun, ProvenCopy
from lading.core.byte_gate import ByteGate
from lading.objectstore.client import ObjectStore
from lading.objectstore.download import ObjectReader
from lading.objectstore.failures import DENIED
from lading.objectstore.kept_attributes import DEFAULT_TYPE, KeptAttributes, complete_tags, read_attributes
from lading.objectstore.keys import KeyPrefix
from lading.objectstore.object_attributes import Pairs
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.server_copy import CANNOT, MOST_BYTES, CopySource, ObjectCopy, ServerCopies
from lading.verification.manifest import ManifestRow
from lading.verification.object_check import compare_bytes, digest_of, recorded_checksums

if TYPE_CHECKING:
    from lading.objectstore.readable_store import ReadableStore

BUDGET_BYTES = 400 << 20  # in memory, of all objects that come through here


class BucketCopy:
    """See ``CopyDestination``."""

    def __init__(
        self,
        store: ObjectStore,
        place: KeyPrefix,
        source: "ReadableStore",
        log: CopyLog,
        *,
        server_side: bool,
        note: Callable[[str], None],
    ) -> None:
        """``server_side``: ``source`` is a bucket of the same service, which can be asked to copy."""
        self.url, self.prefix = str(place), place.prefix
        self.endpoint = store.requests.endpoint
        self._store, self._source, self._log, self._note = store, source, log, note
        self._reader, self._check = ObjectReader(source), ObjectReader(store)
        self._gate = ByteGate(BUDGET_BYTES)
        self._copies = ServerCopies(store, source) if server_side and isinstance(source, ObjectStore) else None

    @property
    def store(self) -> ObjectStore:
        """Return the bucket."""
        return self._store

    def describe(self) -> str:
        """Return how objects come there, for people."""
        return "by the server" if self._copies else "through this machine"

    def close(self) -> None:
        """Let every reading end at its next block."""
        self._reader.stop()
        self._check.stop()

    def settle(self, outcomes: Sequence[CopyOutcome]) -> Sequence[CopyOutcome | CopyFault]:
        """Return them: a bucket keeps what it took."""
        return outcomes

    def looks_copied(self, row: ManifestRow, there: ObjectInfo) -> bool:
        """Tell that equal ETags suffice."""
        return True

    def adopt(self, job: CopyJob, there: ObjectInfo) -> ProvenCopy | None:
        """Return the proof that what is there is the object; None where it is another one."""
        row = job.row
        if there.size != row.size:
            return None
        method = self._prove(row, job.key, there.etag, expected_etags(row))
        return proven_copy(job, there.etag, method, there.version_id) if method else None

    def transfer(self, job: CopyJob) -> CopyOutcome:
        """Copy one object and prove it."""
        copies = self._copies
        if copies is not None:
            try:
                return self._by_server(copies, job)
            except StoreError as error:
                if error.code in ("PreconditionFailed", "412"):
                    raise CopyFault(DAMAGED, "it was replaced while it was copied") from error
                if error.code not in (*CANNOT, *DENIED):
                    raise
                self._copies = None  # for all that follows
                self._note(f"the server does not copy by itself, so objects come through this machine: {error}")
        return self._through_here(job)

    def _by_server(self, copies: ServerCopies, job: CopyJob) -> CopyOutcome:
        row, store = job.row, self._source
        assert isinstance(store, ObjectStore)
        source = CopySource(store.bucket, row.key, row.size, row.etag, job.version_id)
        part = self._part_of(row, store, job.version_id)
        if not part and row.size > MOST_BYTES:
            part = stream_part(row.size, 0)
        if not part:
            copied = copies.copy(source, job.key, job.storage_class)
        else:
            begun = self._log.begun.get(job.key)
            same = begun is not None and (begun.part, begun.source_etag) == (part, row.etag)

            def note(upload: str) -> None:
                self._log.begin_parts(job.key, PartsBegun(upload, part, row.etag))

            copied = copies.copy_parts(
                source, job.key, part, begun=begun.upload_id if begun and same else None, note=note
            )
        return self._outcome(job, copied, expected_etags(row))

    def _outcome(self, job: CopyJob, copied: ObjectCopy, expected: set[str], streamed: int = 0) -> CopyOutcome:
        row = job.row
        etag = copied.etag or self._store.head(job.key).etag
        method = self._prove(row, job.key, etag, expected)
        if not method:
            raise CopyFault(DAMAGED, "the copy does not have the recorded bytes")
        return CopyOutcome(proven_copy(job, etag, method, copied.version_id), streamed, copied.lacking)

    def _prove(self, row: ManifestRow, key: str, etag: str, expected: set[str]) -> str:
        """Return what proves that an object of this place has the bytes of a row; empty where it does not."""
        if etag in expected:
            return "etag"
        wanted = dict(recorded_checksums(row))
        head = self._store.head(key)
        if head.size != row.size:
            return ""
        for name, value in head.whole_checksums():
            if name in wanted:
                return f"{name}:{value}" if wanted[name] == value else ""
        there = replace(row, key=key, etag=etag)
        if digest_of(row) is None:
            return "download" if self._same_bytes(row, key) else ""
        found = compare_bytes(self._check, there, None)
        if found.kind == "unreadable":
            raise CopyFault("failed", f"it was copied, and cannot be read back: {found.reason}")
        return "download" if found.kind == "right" else ""

    def _same_bytes(self, row: ManifestRow, key: str) -> bool:
        """Compare both ends byte by byte, by their digests: nothing recorded says which bytes they should have."""
        sums = []
        for reader, name in ((self._reader, row.key), (self._check, key)):
            digest = hashlib.sha256()
            for block in reader.blocks(name, row.size, row.version_id if name == row.key else None):
                digest.update(block)
            sums.append(digest.digest())
        return sums[0] == sums[1]

    def _part_of(self, row: ManifestRow, store: "ReadableStore", version_id: str | None) -> int:
        """Return the bytes of the source object's parts, 0 for one piece."""
        if "-" not in row.etag or not is_md5_etag(row.etag):
            return 0
        sizes = list(plausible_parts(row.size, row.etag))
        if len(sizes) != 1 and isinstance(store, ObjectStore):
            asked = _first_part(store, row, version_id)
            if asked:
                return asked
        return sizes[0] if sizes else 0

    def _through_here(self, job: CopyJob) -> CopyOutcome:
        row = job.row
        kept = attributes_of(self._source, job)
        part = stream_part(row.size, self._part_of(row, self._source, job.version_id))
        digest = CopyDigest(row, part)
        with self._gate.hold(min(row.size, part or row.size)):
            try:
                copied = self._send_parts(job, kept, digest, part) if part else self._send_whole(job, kept, digest)
            except StoreError as error:
                if error.code != "InvalidStorageClass" or not job.storage_class:
                    raise
                raise CopyFault("failed", f"the server has no storage class {job.storage_class}") from error
        outcome = self._outcome(job, copied, {digest.etag}, row.size)
        return CopyOutcome(outcome.proven, row.size, copied.lacking, unproven=not digest.is_proven())

    def _send_whole(self, job: CopyJob, kept: KeptAttributes, digest: CopyDigest) -> ObjectCopy:
        blocks = []
        for block in self._reader.blocks(job.row.key, job.row.size, job.version_id):
            digest.add(block)
            blocks.append(block)
            if digest.count > job.row.size:
                break
        refuse_damaged(digest)
        etag = self._store.put(job.key, b"".join(blocks), kept.content_type, attributes=kept)
        return ObjectCopy(etag, None, kept.lacking)

    def _send_parts(self, job: CopyJob, kept: KeptAttributes, digest: CopyDigest, part: int) -> ObjectCopy:
        multipart, begun = self._store.multipart, self._log.begun.get(job.key)
        held: dict[int, str] = {}
        upload = ""
        if begun is not None and (begun.part, begun.source_etag) == (part, job.row.etag):
            try:
                held = {n: etag for n, etag, _, _ in multipart.list_parts(job.key, begun.upload_id)}
                upload = begun.upload_id
            except StoreError as error:
                if error.code not in ("NoSuchUpload", "404"):
                    raise
        if not upload:
            upload = multipart.begin(job.key, kept.content_type, kept)
            self._log.begin_parts(job.key, PartsBegun(upload, part, job.row.etag))
        etags = []
        for number, body in enumerate(self._pieces(job, digest, part), 1):
            md5 = hashlib.md5(body, usedforsecurity=False).digest()
            # Sent by an earlier run: it is read again for the digest, and not sent again.
            there = held.get(number) == md5.hex()
            etags.append(held[number] if there else multipart.put_part(job.key, upload, number, body, md5))
        try:
            refuse_damaged(digest)
        except CopyFault:
            multipart.abort(job.key, upload)
            raise
        etag = multipart.finish(job.key, upload, etags)
        return ObjectCopy(etag, None, complete_tags(self._store, job.key, kept))

    def _pieces(self, job: CopyJob, digest: CopyDigest, part: int) -> Iterator[bytes]:
        """Yield the object in pieces of ``part`` bytes."""
        held = bytearray()
        for block in self._reader.blocks(job.row.key, job.row.size, job.version_id):
            digest.add(block)
            held += block
            while len(held) >= part:
                yield bytes(held[:part])
                del held[:part]
        if held:
            yield bytes(held)


def _first_part(store: ObjectStore, row: ManifestRow, version_id: str | None) -> int:
    """Return the bytes of an object's first part, as the server says; 0 where it does not."""
    extra = {"VersionId": version_id} if version_id else {}
    try:
        answer = store.requests.call("head_object", Key=row.key, PartNumber=1, **extra)
    except StoreError:
        return 0
    length = answer.get("ContentLength")
    count = int(row.etag.partition("-")[2] or 0)
    return length if isinstance(length, int) and length > 0 and -(-row.size // length) == count else 0


def refuse_damaged(digest: CopyDigest) -> None:
    """Raise ``CopyFault`` where the bytes that came are not the recorded ones."""
    if reason := digest.difference():
        raise CopyFault(DAMAGED, reason)


def expected_etags(row: ManifestRow) -> set[str]:
    """Return the ETags that an object of a row's bytes has, in one piece or in the parts of its source."""
    return {etag for etag in (row.md5, row.etag) if etag and is_md5_etag(etag)}


def attributes_of(source: "ReadableStore", job: CopyJob) -> KeptAttributes:
    """Return what the object is stored with: as its bucket says, else as its row does."""
    if isinstance(source, ObjectStore):
        return read_attributes(source, job.row.key, job.version_id)
    said = job.row.attributes or {}
    kind, control, encoding = (said.get(name) for name in ("content_type", "cache_control", "content_encoding"))
    tags, metadata = (_pairs(said.get(name)) for name in ("tags", "metadata"))
    return KeptAttributes(
        job.row.storage_class,
        control if isinstance(control, str) else None,
        tags,
        metadata,
        kind if isinstance(kind, str) else DEFAULT_TYPE,
        (("ContentEncoding", encoding),) if isinstance(encoding, str) else (),
    )


def _pairs(found: object) -> Pairs:
    return tuple(sorted((str(name), str(value)) for name, value in found.items())) if isinstance(found, dict) else ()


def proven_copy(job: CopyJob, etag: str, method: str, version_id: str | None) -> ProvenCopy:
    """Return what the log says of an object that is verified."""
    row = job.row
    value = method if ":" in method else None
    return ProvenCopy(
        job.key, row.size, etag, version_id, row.sha256 or row.file_sha256, row.md5, row.etag, method, value
    )
