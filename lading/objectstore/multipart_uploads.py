"""Objects that come in parts: begin, send, list, finish, abort; and what others left unfinished.

Input: keys, parts. Output: upload ids and ETags.
Invariant: an object appears only by ``finish``, of the parts that it is given.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from lading.objectstore.answers import AnswerReader
from lading.objectstore.bodies import Readable, content_checksum, content_md5
from lading.objectstore.failures import DENIED
from lading.objectstore.listing_pages import Trail
from lading.objectstore.manner import Manner
from lading.objectstore.object_attributes import PLAIN_OBJECT, ObjectAttributes
from lading.objectstore.object_info import StoreError
from lading.objectstore.s3_requests import S3Requests


class MultipartUploads:
    """The multipart uploads of one bucket. Safe to use from many threads."""

    def __init__(self, requests: S3Requests, answers: AnswerReader, manner: Manner) -> None:
        self._requests, self._answers, self._manner = requests, answers, manner
        self._stored_with: dict[str, Any] = dict(manner.parameters())
        self._checksum = manner.checksum
        self._marks_parts = False
        requests.before_signing("UploadPart", self._mark_part)

    def begin(self, key: str, content_type: str, attributes: ObjectAttributes = PLAIN_OBJECT) -> str:
        """Begin a multipart upload and return its id."""
        extra = self._stored_with | attributes.parameters()
        if self._checksum:
            extra["ChecksumAlgorithm"] = self._checksum
            extra["ChecksumType"] = "FULL_OBJECT" if self._checksum.startswith("CRC") else "COMPOSITE"
        answer = self._requests.call("create_multipart_upload", Key=key, ContentType=content_type, **extra)
        return self._answers.word(answer, "UploadId", "CreateMultipartUpload")

    def put_part(
        self,
        key: str,
        upload: str,
        number: int,
        body: bytes | Readable,
        md5: bytes | None = None,
        checksum: str | None = None,
    ) -> str:
        """Store one part, numbered from 1; returns its ETag without quotes. ``md5``, ``checksum``: as in ``put``."""
        part = {"Key": key, "UploadId": upload, "PartNumber": number, "Body": body, **content_md5(body, md5)}
        part |= content_checksum(self._checksum, checksum)
        marked = self._marks_parts
        try:
            answer = self._requests.call("upload_part", **part)
        except StoreError as error:
            if error.code not in DENIED or not self._stored_with or marked:
                raise
            # Ceph holds a policy that demands headers of new objects against parts too; Amazon S3 takes none there.
            self._marks_parts = True
            if not isinstance(body, bytes):
                body.seek(0)
            answer = self._requests.call("upload_part", **part)
        return self._answers.etag(answer, "UploadPart")

    def _mark_part(self, request: Any, **_: Any) -> None:
        if self._marks_parts:
            for name, value in self._manner.headers().items():
                request.headers[name] = value

    def list_parts(self, key: str, upload: str) -> Iterator[tuple[int, str, int, str | None]]:
        """Yield (number, ETag, bytes, checksum or None) of the parts that an upload has."""
        operation, marker, trail = "ListParts", 0, Trail()
        while True:
            answer = self._requests.call("list_parts", Key=key, UploadId=upload, PartNumberMarker=marker)
            for item in answer.get("Parts", ()):
                number = self._answers.field(item, "PartNumber", int, operation)
                size = self._answers.field(item, "Size", int, operation)
                checksum = item.get(f"Checksum{self._checksum}") if self._checksum else None
                yield number, self._answers.etag(item, operation), size, checksum
            if not answer.get("IsTruncated"):
                return
            marker = self._answers.field(answer, "NextPartNumberMarker", int, operation)
            self._answers.follow(trail, marker, None)

    def finish(
        self,
        key: str,
        upload: str,
        parts: Sequence[str],
        *,
        create: bool = False,
        checksums: Sequence[str | None] = (),
    ) -> str:
        """Make the object of its parts' ETags, in order; returns its ETag, "" from servers that only name the key.

        ``checksums``: those of the parts, base64, where they were sent with one.
        """
        listed: list[Any] = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(parts, 1)]
        for part, checksum in zip(listed, checksums):
            part |= content_checksum(self._checksum, checksum)
        extra = {"IfNoneMatch": "*"} if create else {}
        answer = self._requests.call(
            "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": listed}, **extra
        )
        if not answer.get("ETag"):  # Ceph leaves it empty
            self._answers.field(answer, "Key", str, "CompleteMultipartUpload")
            return ""
        return self._answers.etag(answer, "CompleteMultipartUpload")

    def abort(self, key: str, upload: str) -> None:
        """Drop a multipart upload and its parts; one that is gone already is no error."""
        try:
            self._requests.call("abort_multipart_upload", Key=key, UploadId=upload)
        except StoreError as error:
            if error.code not in ("NoSuchUpload", "404"):
                raise

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str, float]]:
        """Yield (key, upload id, seconds since 1970 of its begin) of the unfinished uploads below a prefix."""
        marker: dict[str, str] = {}
        operation, trail = "ListMultipartUploads", Trail()
        while True:
            try:
                answer = self._requests.call("list_multipart_uploads", Prefix=prefix, **marker)
            except StoreError as error:
                if error.code == "NoSuchUpload":  # how some servers say that there is none
                    return
                raise
            for item in answer.get("Uploads", ()):
                begun = self._answers.field(item, "Initiated", datetime, operation)
                yield (
                    self._answers.field(item, "Key", str, operation),
                    self._answers.word(item, "UploadId", operation),
                    begun.timestamp(),
                )
            if not answer.get("IsTruncated"):
                return
            marker = self._answers.following(answer, "UploadIdMarker")
            ids = [item.get("UploadId") for item in answer.get("Uploads", ())]
            self._answers.follow(trail, marker, ids[-1] if ids else None)
