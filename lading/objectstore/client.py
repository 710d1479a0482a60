"""One bucket: its listings, heads, single objects, and objects in parts.

Input: a target. Output: what the bucket says, as values.
Invariant: every failure leaves here as a ``StoreError`` with a class and one
sentence that holds no secret; an answer without what was asked for, or with
nonsense in its place, is a failure too (``answers.py``).

Loading this loads botocore, a third of a second: modules that are handed an
``ObjectStore`` import it for type checking only.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import IO, Any

from lading.core.worker_threads import bound
from lading.objectstore.answers import AnswerReader, class_of, stored_with
from lading.objectstore.bodies import Readable, content_checksum, content_md5
from lading.objectstore.failures import DENIED
from lading.objectstore.key_finder import KeyFinder
from lading.objectstore.multipart_uploads import MultipartUploads
from lading.objectstore.object_attributes import PLAIN_OBJECT, ObjectAttributes
from lading.objectstore.object_info import ObjectHead, ObjectInfo, StoreError
from lading.objectstore.s3_listing import BucketListing
from lading.objectstore.s3_requests import S3Requests
from lading.objectstore.silence import Silence
from lading.objectstore.target import FailureKind, Target

CHECKSUMS = ("CRC64NVME", "SHA256", "CRC32C", "SHA1", "CRC32")  # that HEAD names (Amazon S3 API reference)


class ObjectStore:
    """One bucket. Safe to use from many threads.

    ``listing`` reads pages and versions, ``keys`` finds keys, ``multipart`` sends objects in parts, ``requests``
    does what none of them has a word for.
    """

    def __init__(self, target: Target, *, attempts: int = 5) -> None:
        self.requests = S3Requests(target, attempts=attempts)
        self._answers = AnswerReader(self.requests.place)
        self.listing = BucketListing(self.requests, self._answers)
        self.keys = KeyFinder(self.listing, self._answers)
        self.multipart = MultipartUploads(self.requests, self._answers, target.manner)
        self.bucket = target.bucket
        self.capacity = target.capacity
        self._stored_with, self._checksum = target.manner.parameters(), target.manner.checksum
        self._unversioned = False
        self._unsigned = target.manner.unsigned

    @property
    def region(self) -> str | None:
        """That of the bucket, once the server named another than it was asked for in."""
        return self.requests.region

    @property
    def silence(self) -> Silence:
        """Whether the server answers."""
        return self.requests.silence

    @silence.setter
    def silence(self, shared: Silence) -> None:
        self.requests.silence = shared

    def page(self, prefix: str, after: str = "", token: str = "") -> tuple[list[ObjectInfo], str]:
        """See ``BucketListing``."""
        return self.listing.page(prefix, after, token)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below ``prefix`` in key order."""
        return self.listing.objects(prefix)

    def find(self, keys: Iterable[str], threads: int = 8, *, doubt: int = 0) -> dict[str, ObjectInfo]:
        """See ``KeyFinder``."""
        return self.keys.find(keys, threads, doubt=doubt)

    def head(self, key: str, version_id: str | None = None) -> ObjectHead:
        """Return what HEAD says of one object, or of one version of it, its checksum included."""
        extra = {"VersionId": version_id} if version_id else {}
        answer = self.requests.call("head_object", Key=key, ChecksumMode="ENABLED", **extra)
        whole = answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        # Of parts, whatever type is named: base64 and the number of parts.
        named = {name: answer.get(f"Checksum{name}") for name in CHECKSUMS if whole}
        held = {name.lower(): value for name, value in named.items() if value and "-" not in value}
        return ObjectHead(
            self._answers.field(answer, "ContentLength", int, "HeadObject"),
            "" if self._is_plain_web(answer) else self._answers.etag(answer, "HeadObject"),
            held.pop("crc64nvme", None),
            answer.get("ServerSideEncryption") or ("SSE-C" if answer.get("SSECustomerAlgorithm") else None),
            answer.get("VersionId"),
            held,
            class_of(answer),
            str(answer["Restore"]) if answer.get("Restore") else None,
            stored_with(answer),
            answer["TagCount"] if isinstance(answer.get("TagCount"), int) else 0,
        )

    def _is_plain_web(self, answer: Mapping[str, Any]) -> bool:
        """Tell whether an answer to an unsigned request is of a web server that is no S3: it has no such header."""
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return self._unsigned and not any(name.startswith(("x-amz", "x-goog-")) for name in headers)

    def new_object_parameters(self) -> dict[str, str]:
        """Return what the manner asks of each new object, as botocore is told it."""
        return self._stored_with | ({"ChecksumAlgorithm": self._checksum} if self._checksum else {})

    def tags(self, key: str, version_id: str | None = None) -> dict[str, str]:
        """Return the tags of an object; none where the server knows no tags, or they may not be read."""
        extra = {"VersionId": version_id} if version_id else {}
        try:
            answer = self.requests.call("get_object_tagging", Key=key, **extra)
        except StoreError as error:
            if error.code in (*DENIED, "NotImplemented", "NoSuchTagSet", "MethodNotAllowed", "501", "405"):
                return {}
            raise
        return {str(tag.get("Key")): str(tag.get("Value")) for tag in answer.get("TagSet") or ()}

    def thaw(self, key: str, tier: str, days: int | None, version_id: str | None = None) -> None:
        """Ask for an archived object to be readable for some days; one that was asked for already is no error.

        ``days`` is None of a class that keeps what it thawed (INTELLIGENT_TIERING).
        """
        wanted: dict[str, Any] = {"GlacierJobParameters": {"Tier": tier}}
        if days is not None:
            wanted["Days"] = days
        extra = {"VersionId": version_id} if version_id else {}
        try:
            self.requests.call("restore_object", Key=key, RestoreRequest=wanted, **extra)
        except StoreError as error:
            if error.code != "RestoreAlreadyInProgress":
                raise

    def put(
        self,
        key: str,
        body: Readable | bytes,
        content_type: str,
        *,
        create: bool = False,
        md5: bytes | None = None,
        checksum: str | None = None,
        attributes: ObjectAttributes = PLAIN_OBJECT,
    ) -> str:
        """Store one object in one request; returns its ETag. ``create`` refuses to replace one.

        ``checksum`` is that of the manner's algorithm, base64.

        ``md5`` is the digest of a body that is no ``bytes``: the server checks it, and one with a retention rule
        (Object Lock) takes nothing without.
        """
        extra = {"IfNoneMatch": "*"} if create else {}
        extra |= content_md5(body, md5) | content_checksum(self._checksum, checksum)
        extra |= self._stored_with | attributes.parameters()
        answer = self.requests.call("put_object", Key=key, Body=body, ContentType=content_type, **extra)
        return self._answers.etag(answer, "PutObject")

    def put_version(self, key: str, body: bytes) -> str | None:
        """Store a few bytes; returns the id of the version that this made, None where the bucket keeps none."""
        extra = content_md5(body, None) | self._stored_with
        answer = self.requests.call("put_object", Key=key, Body=body, ContentType="text/plain", **extra)
        self._answers.etag(answer, "PutObject")
        version = answer.get("VersionId")
        return str(version) if version and version != "null" else None

    def read(self, key: str, version_id: str | None = None, start: int = 0) -> IO[bytes]:
        """Return the body of an object from byte ``start``; reading may raise ``OSError`` or a botocore error."""
        extra = {"VersionId": version_id} if version_id and not self._unversioned else {}
        if start:
            extra["Range"] = f"bytes={start}-"
        try:
            answer = self.requests.call("get_object", Key=key, **extra)
        except StoreError as error:
            if "VersionId" not in extra or error.code not in DENIED:
                raise
            del extra["VersionId"]
            answer = self.requests.call("get_object", Key=key, **extra)
            self._note_unversioned(error)
        if answer.get("Body") is None:
            self._answers.field(answer, "Body", bytes, "GetObject")
        stream: IO[bytes] = answer["Body"]
        return stream

    def _note_unversioned(self, error: StoreError) -> None:
        """Read what is there now from here on; whose bytes they are, the caller's digest says."""
        if not self._unversioned:
            self._unversioned = True
            print(f"note: you may not read versions of objects, so the current ones are used: {error}", file=sys.stderr)

    def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object from ``start`` on; raises ``StoreError`` when they stop early."""
        stream = self.read(key, version_id, start)
        leash = bound()
        try:
            while True:
                with self.silence.waiting():
                    block = stream.read(1 << 20)
                if not block:
                    return
                self.silence.answered()
                if leash is not None:
                    leash.move()
                yield block
        except StoreError:
            raise
        except Exception as error:
            if leash is not None:
                leash.check()
            raise StoreError(FailureKind.TRANSIENT, self.requests.sentence(error)) from error
        finally:
            stream.close()

    def delete(self, key: str, version_id: str | None = None) -> None:
        """Delete one object, or one version of it."""
        self.requests.call("delete_object", Key=key, **({"VersionId": version_id} if version_id else {}))

    def is_encrypted_by_key(self) -> bool:
        """Tell whether the bucket encrypts with KMS by default (its ETags are then no MD5)."""
        try:
            answer = self.requests.call("get_bucket_encryption")
        except StoreError:
            return False  # not allowed to ask, or not known here: the proof itself finds out
        rules = (answer.get("ServerSideEncryptionConfiguration") or {}).get("Rules", [])
        return any(
            "kms" in str(rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "")) for rule in rules
        )


def open_for_reading(target: Target) -> ObjectStore:
    """Return a store that reads: without signatures where there is nobody to sign for, as public buckets allow."""
    store = ObjectStore(target)
    if store.requests.has_credentials:
        return store
    print("note: no AWS credentials found, so requests are not signed (as with --no-sign-request)", file=sys.stderr)
    store = ObjectStore(replace(target, manner=replace(target.manner, unsigned=True)))
    store.requests.lacks_credentials = True
    return store
