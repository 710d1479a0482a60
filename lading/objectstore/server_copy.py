"""Copies that a server makes by itself: no byte of them comes to this machine.

Input: an object of one bucket, a key in another one of the same service. Output: the object there, its ETag.
Invariant: only the very object that was named is copied: its ETag, and its version where one is known, go with every
request. An object of parts is copied in parts of the same sizes, so that its ETag stays the same; it appears when all
are there. Headers, metadata, tags and storage class go with it, or are named as lost.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lading.objectstore.answers import AnswerReader
from lading.objectstore.failures import DENIED
from lading.objectstore.kept_attributes import KeptAttributes, complete_tags, read_attributes
from lading.objectstore.object_attributes import ObjectAttributes
from lading.objectstore.object_info import StoreError

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

MOST_BYTES = 5 << 30  # of one CopyObject (Amazon S3 API reference)
CANNOT = ("NotImplemented", "MethodNotAllowed", "501", "405")  # how servers say that they copy nothing


@dataclass(frozen=True, slots=True)
class CopySource:
    """The object that is copied: which, and in which state."""

    bucket: str
    key: str
    size: int
    etag: str = ""
    version_id: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return what botocore is told of it."""
        place = {"Bucket": self.bucket, "Key": self.key}
        if self.version_id:
            place["VersionId"] = self.version_id
        return {"CopySource": place} | ({"CopySourceIfMatch": f'"{self.etag}"'} if self.etag else {})


@dataclass(frozen=True, slots=True)
class ObjectCopy:
    """What the server says of a copy that it made; ``lacking`` names what of the source it does not have."""

    etag: str
    version_id: str | None
    lacking: tuple[str, ...] = ()


class ServerCopies:
    """Copies into one bucket. Safe to use from many threads.

    ``source`` reads the other bucket; ``store`` may be the same one.
    """

    def __init__(self, store: "ObjectStore", source: "ObjectStore") -> None:
        self._store, self._source = store, source
        self._answers = AnswerReader(store.requests.place)
        if store.requests.endpoint:
            store.requests.before_signing("CopyObject", _name_condition)

    def copy(self, source: CopySource, key: str, storage_class: str | None = None) -> ObjectCopy:
        """Copy in one request, with all that the source is stored with; raises ``StoreError``."""
        wanted: dict[str, Any] = {"MetadataDirective": "COPY", "TaggingDirective": "COPY"}
        if storage_class:
            wanted["StorageClass"] = storage_class
        lacking: list[str] = []
        while True:
            try:
                return replace(self._copy(source, key, wanted), lacking=tuple(lacking))
            except StoreError as error:
                if error.code == "InvalidStorageClass" and "StorageClass" in wanted:
                    del wanted["StorageClass"]
                    lacking.append("storage class")
                elif error.code in DENIED and wanted["TaggingDirective"] == "COPY" and self._may_read(source):
                    wanted["TaggingDirective"] = "REPLACE"  # perhaps it is the tags that may not be read
                    lacking.append("tags")
                else:
                    raise

    def copy_as(self, source: CopySource, key: str, content_type: str, attributes: ObjectAttributes) -> ObjectCopy:
        """Copy the bytes in one request; what the object is stored with is what was asked for."""
        wanted = {"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE", "ContentType": content_type}
        return self._copy(source, key, wanted | attributes.parameters())

    def _may_read(self, source: CopySource) -> bool:
        try:
            self._source.head(source.key, source.version_id)
        except StoreError:
            return False
        return True

    def _copy(self, source: CopySource, key: str, wanted: Mapping[str, Any]) -> ObjectCopy:
        extra = self._store.new_object_parameters()
        answer = self._store.requests.call("copy_object", Key=key, **source.parameters(), **extra, **wanted)
        result = answer.get("CopyObjectResult") or {}
        return ObjectCopy(self._answers.etag(result, "CopyObject"), _version(answer))

    def copy_parts(
        self,
        source: CopySource,
        key: str,
        part: int,
        attributes: KeptAttributes | None = None,
        *,
        begun: str | None = None,
        note: Callable[[str], None] = lambda upload: None,
    ) -> ObjectCopy:
        """Copy in parts of ``part`` bytes. ``attributes`` None: those of the source, tags included.

        ``begun``: an upload of an earlier run to go on with; ``note`` is told the id of a new one at once.
        """
        kept = attributes or read_attributes(self._source, source.key, source.version_id)
        multipart, lost = self._store.multipart, []
        held = self._parts_of(key, begun, source.size, part) if begun else None
        upload = begun if begun and held is not None else ""
        if not upload:
            try:
                upload = multipart.begin(key, kept.content_type, kept)
            except StoreError as error:
                if error.code != "InvalidStorageClass" or not kept.storage_class:
                    raise
                lost.append("storage class")
                upload = multipart.begin(key, kept.content_type, replace(kept, storage_class=None))
            note(upload)
        parts = dict(held or {})
        for number in range(1, -(-source.size // part) + 1):
            if number not in parts:
                parts[number] = self._copy_part(source, key, upload, number, part)
        multipart.finish(key, upload, [parts[number] for number in sorted(parts)])
        lacking = complete_tags(self._store, key, kept)
        head = self._store.head(key)  # Ceph leaves the ETag out of its answer, and others the version
        return ObjectCopy(head.etag, head.version_id, (*lacking, *lost))

    def _copy_part(self, source: CopySource, key: str, upload: str, number: int, part: int) -> str:
        first = (number - 1) * part
        last = min(first + part, source.size) - 1
        answer = self._store.requests.call(
            "upload_part_copy",
            Key=key,
            UploadId=upload,
            PartNumber=number,
            CopySourceRange=f"bytes={first}-{last}",
            **source.parameters(),
        )
        return self._answers.etag(answer.get("CopyPartResult") or {}, "UploadPartCopy")

    def _parts_of(self, key: str, upload: str, size: int, part: int) -> dict[int, str] | None:
        """Return the ETags of the parts that an upload has in full; None when it is gone."""
        try:
            listed = list(self._store.multipart.list_parts(key, upload))
        except StoreError as error:
            if error.code not in ("NoSuchUpload", "404"):
                raise
            return None
        return {number: etag for number, etag, bytes_, _ in listed if bytes_ == min(part, size - (number - 1) * part)}


def _name_condition(request: Any, **_: Any) -> None:
    """Say by Ceph's name, too, which ETag the source must have: it does not know the name that S3 has for it."""
    if wanted := request.headers.get("x-amz-copy-source-if-match"):
        request.headers["x-amz-copy-if-match"] = wanted


def _version(answer: Mapping[str, Any]) -> str | None:
    version = answer.get("VersionId")
    return str(version) if version and version != "null" else None
