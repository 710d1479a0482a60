"""The bucket through boto3's lower half, botocore: listings, heads, single objects.

Input: a target; credentials by the AWS chain (``AWS_PROFILE``, environment,
instance role) and nothing else. Output: what the bucket says, as values.
Invariant: every failure leaves here as a ``StoreError`` with a class and one
sentence that holds no secret; an answer without what was asked for, or with
nonsense in its place, is a failure too; plain http goes to loopback only. A
request waits no longer than ``limits.py`` says, and ends when the leash of
its thread is cut (``workers.py``).

Loading botocore takes a third of a second: modules that are handed a
``ObjectStore`` import it for type checking only.
"""

import base64
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import IO, Any, Protocol, TypeVar

import botocore.exceptions
import botocore.parsers
import botocore.session
import botocore.utils
from botocore import UNSIGNED
from botocore.config import Config

from lading.core.limits import LIMITS
from lading.core.worker_threads import WorkerPool, WorkersStopped, bound
from lading.objectstore.endpoint import check_endpoint
from lading.objectstore.failures import DENIED, NO_CREDENTIALS, classify, explain
from lading.objectstore.listing_pages import Trail
from lading.objectstore.network import choose_way
from lading.objectstore.object_info import ObjectHead, ObjectInfo, StoreError
from lading.objectstore.profile import unreadable
from lading.objectstore.silence import Silence
from lading.objectstore.target import FailureKind, Target

T = TypeVar("T")
UNREADABLE_CHANCES = 4  # to give an answer that can be read
CHECKSUMS = ("CRC64NVME", "SHA256", "CRC32C", "SHA1", "CRC32")  # that HEAD names (Amazon S3 API reference)
UNFIT_ANSWER = "UnfitAnswer"  # our code for what S3 has none: success that says nothing
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_REGION = re.compile(r"[a-z0-9-]{1,40}")
SIFTED = 20  # pages of an unordered listing, before its keys are asked for one by one
PAGE = 1000  # the most keys one ListObjectsV2 answers (Amazon S3 API reference)


class Readable(Protocol):
    """A body that a client reads, and reads again when it tries again."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move."""
        ...

    def tell(self) -> int:
        """Return the position."""
        ...


class ObjectStore:
    """One bucket. Safe to use from many threads."""

    def __init__(self, target: Target, *, attempts: int = 5) -> None:
        check_endpoint(target.endpoint)
        self.bucket = target.bucket
        self.endpoint = target.endpoint
        self._unversioned = False
        self.capacity = target.capacity
        way = choose_way(target)
        self.region = way.region  # that of the bucket, once the server named another
        self._manner = target.manner
        self._stored_with = target.manner.parameters()
        self._marks_parts = False
        self._disorder = False  # once a listing was out of byte order
        self.lacks_credentials = False  # which is why nothing is signed
        style = way.style or ("path" if target.endpoint else None)
        self.silence = Silence(target.endpoint or "AWS")
        self._call = threading.local()
        try:
            session = botocore.session.get_session()
            session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_moment)
            self._client = session.create_client(
                "s3",
                endpoint_url=target.endpoint,
                region_name=way.region,
                verify=way.bundle,
                config=Config(
                    # The target was decided with them in mind; engines do not know them.
                    ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]
                    connect_timeout=LIMITS.connect,
                    read_timeout=LIMITS.read,
                    max_pool_connections=target.workers + 16,
                    retries={"mode": "standard", "total_max_attempts": attempts},
                    signature_version=UNSIGNED if target.manner.unsigned else None,
                    s3={"addressing_style": style} if style else {},  # type: ignore[arg-type]
                    # Old and small servers reject checksum trailers they do not know.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    # Decided once for all clients; without this botocore looks for itself.
                    proxies={"http": way.proxy, "https": way.proxy} if way.proxy else {},
                ),
            )
            self.has_credentials = target.manner.unsigned or session.get_credentials() is not None
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise StoreError(FailureKind.STOP, self._sentence(error)) from error
        self._watch_requests()

    def _watch_requests(self) -> None:
        """Take part in each try of each request: whether it may begin, by which connection, what came of it."""
        self._client.meta.events.register("before-send.s3", self._before_send)
        self._client.meta.events.register("before-call.s3.HeadBucket", _not_known)
        self._client.meta.events.register("before-sign.s3.UploadPart", self._mark_part)
        self._client.meta.events.register("response-received.s3", self._after_answer)
        with suppress(AttributeError):  # of another botocore: what is cut off then ends by its read timeout
            endpoint: Any = self._client._endpoint  # type: ignore[attr-defined]
            schemes = endpoint.http_session._manager.pool_classes_by_scheme
            for scheme, pool in list(schemes.items()):
                schemes[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": _leashed(pool.ConnectionCls)})

    def _before_send(self, request: Any, **_: Any) -> None:
        leash, deadline = bound(), getattr(self._call, "deadline", None)
        if leash is not None:
            leash.check()
        body = request.body
        if hasattr(body, "fault"):
            if body.fault is not None:  # the file, not the network: another try meets it again
                raise body.fault
            body.sent = True
        if deadline is not None and time.monotonic() > deadline:
            raise StoreError(FailureKind.TRANSIENT, f"s3://{self.bucket}{self._where()}: no answer in time")

    def _after_answer(self, response_dict: Any, parsed_response: Any = None, **_: Any) -> None:
        if response_dict is not None:
            self.silence.answered()
            self.region = named_region(parsed_response or {}) or self.region

    def call(self, operation: str, **parameters: Any) -> Any:
        """Do one request on the bucket; every failure becomes a ``StoreError``."""
        # An answer cut short by the network cannot be parsed, nor can a web page: asking again tells them apart.
        # What carries a body is left to the caller, who alone can begin it anew.
        body = parameters.get("Body")
        chances = 1 if body is not None else UNREADABLE_CHANCES
        while True:
            self._call.deadline = time.monotonic() + LIMITS.call
            try:
                with self.silence.waiting():
                    return getattr(self._client, operation)(Bucket=self.bucket, **parameters)
            except (StoreError, WorkersStopped):
                raise
            except Exception as error:  # also what its parser meets in nonsense: ValueError, KeyError …
                fault = getattr(body, "fault", None)
                if fault is not None:
                    raise fault from error
                chances -= 1
                if not _is_unreadable(error) or chances <= 0:
                    raise self.failure(error, of_version="VersionId" in parameters) from error
                self._pause()

    @staticmethod
    def _pause(seconds: float = 0.2) -> None:
        leash = bound()
        if leash is None:
            time.sleep(seconds)
        elif leash.stop.wait(seconds):
            leash.check()

    def failure(self, error: Exception, *, of_version: bool = False) -> StoreError:
        """Return what a boto3 exception means; ``of_version``: one version of an object was asked for."""
        if isinstance(error, botocore.exceptions.ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            failure = classify(code)
            if failure is FailureKind.OBJECT and (status >= 500 or status == 429):
                failure = FailureKind.TRANSIENT
            message = str(error.response.get("Error", {}).get("Message") or "").split("\n")[0][:300]
            sentence = explain(code, message, error.operation_name + (" of a version" if of_version else ""))
            moved = named_region(error.response) if failure is FailureKind.STOP or status == 400 else None
            if moved:
                failure = FailureKind.STOP
                sentence = f"the bucket is in the region {moved}; set AWS_REGION={moved}, and endpoint= likewise"
            if self._manner.unsigned and status in (401, 403):
                said = f"; the server says: {message}" if message else ""
                sentence = f"{error.operation_name} without credentials is refused; {self._unsigned_advice()}{said}"
            if sentence:
                return StoreError(failure, f"s3://{self.bucket}{self._where()}: {sentence}", code)
            advice = "; the server has a fault, run again later" if failure is FailureKind.TRANSIENT else ""
            return StoreError(failure, f"s3://{self.bucket}{self._where()}: {code} {message}".rstrip() + advice, code)
        lasting = (
            botocore.exceptions.NoCredentialsError,
            botocore.exceptions.PartialCredentialsError,
            botocore.exceptions.ProfileNotFound,
            botocore.exceptions.CredentialRetrievalError,
            botocore.exceptions.TokenRetrievalError,
            botocore.exceptions.SSOError,
            botocore.exceptions.ParamValidationError,
            botocore.exceptions.SSLError,
            botocore.exceptions.InvalidRegionError,
            botocore.exceptions.NoRegionError,
            botocore.parsers.ResponseParserError,
        )
        lasts = isinstance(error, lasting) or _is_unreadable(error)
        return StoreError(FailureKind.STOP if lasts else FailureKind.TRANSIENT, self._sentence(error))

    def _unsigned_advice(self) -> str:
        return (
            NO_CREDENTIALS if self.lacks_credentials else "leave --no-sign-request out where the bucket is not public"
        )

    def _where(self) -> str:
        return f" at {self.endpoint}" if self.endpoint else ""

    def _sentence(self, error: Exception) -> str:
        exceptions = botocore.exceptions
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return NO_CREDENTIALS
        if isinstance(error, exceptions.ProfileNotFound):
            return unreadable(error)
        if isinstance(error, exceptions.SSLError):
            return f"{self.endpoint or 'AWS'} does not show a trusted certificate; for an own one set AWS_CA_BUNDLE"
        if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
            return f"{self.endpoint or 'AWS'} cannot be reached; check endpoint= and the network"
        if isinstance(error, exceptions.NoRegionError):
            return "no AWS region is set; set AWS_DEFAULT_REGION"
        if _is_unreadable(error):
            return f"{self.endpoint or 'AWS'} answers, but not as S3 does (a web page?); check endpoint="
        first = str(error).split("\n")[0]
        return f"s3://{self.bucket}{self._where()}: {type(error).__name__}: {first[:200]}"

    def page(self, prefix: str, after: str = "", token: str = "") -> tuple[list[ObjectInfo], str]:
        """Return up to 1,000 objects in key order and the token of the next page, empty at the end.

        ``after`` is exclusive; ``token`` continues an earlier page instead.
        """
        start = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}

        def parse(answer: Any) -> tuple[list[ObjectInfo], str]:
            found = [self._listed(item, "ListObjectsV2") for item in answer.get("Contents", ())]
            following = answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""
            if answer.get("IsTruncated") and not following:
                raise self._cut_short()
            return found, following

        return self._look("list_objects_v2", prefix, parse, **start)

    def _look(self, operation: str, prefix: str, parse: Callable[[Any], T], **start: str) -> T:
        """Return one page of a listing, asked for again while it was cut within its head, or cannot be understood."""
        fault: StoreError | None = None
        for _ in range(UNREADABLE_CHANCES):
            answer = self._ask_again(operation, Prefix=prefix, MaxKeys=PAGE, **start)
            try:
                if "Name" in answer or "KeyCount" in answer:
                    return parse(answer)
                fault = None
            except StoreError as error:
                if error.code != UNFIT_ANSWER:
                    raise
                fault = error
            self._pause()
        raise fault or StoreError(
            FailureKind.STOP, f"{self.endpoint or 'AWS'} answers, but not as S3 does (a web page?)"
        )

    def _ask_again(self, operation: str, **parameters: Any) -> Any:
        """Do a request that may be repeated; a server that answered before is not given up at its first failure."""
        until = time.monotonic() + LIMITS.call
        while True:
            try:
                return self.call(operation, **parameters)
            except StoreError as error:
                lost = error.failure is FailureKind.TRANSIENT and not error.code
                if not lost or not self.silence.has_answered or time.monotonic() > until:
                    raise
            self._pause(1.0)

    def _listed(self, item: Mapping[str, Any], operation: str, version: bool = False) -> ObjectInfo:
        return ObjectInfo(
            self._field(item, "Key", str, operation),
            self._field(item, "Size", int, operation),
            self._etag(item, operation),
            _iso(self._field(item, "LastModified", datetime, operation)),
            self._field(item, "VersionId", str, operation) if version else None,
        )

    def _field(self, answer: Mapping[str, Any], name: str, kind: type[T], operation: str) -> T:
        """Return a field that an answer must have; no answer is used but through here."""
        value = answer.get(name)
        if isinstance(value, kind) and value != "" and not (isinstance(value, int) and value < 0):
            return value
        what = f"has no {name}" if value in (None, "") else f"has nonsense as {name}"
        raise StoreError(
            FailureKind.TRANSIENT,
            f"s3://{self.bucket}{self._where()}: the answer to {operation} {what}; "
            "the server has a fault, run again later",
            UNFIT_ANSWER,
        )

    def _etag(self, answer: Mapping[str, Any], operation: str) -> str:
        """Return an ETag without its quotes; any other word than a short one of printable signs is nonsense."""
        etag = self._field(answer, "ETag", str, operation).strip('"')
        if etag.startswith("W/"):  # weak, as some proxies make them
            etag = etag[2:].strip('"')
        fit = 0 < len(etag) <= 256 and etag.isascii() and etag.isprintable() and not set(etag) & set(' <>&"')
        return self._field({"ETag": etag if fit else False}, "ETag", str, operation)

    def _word(self, answer: Mapping[str, Any], name: str, operation: str) -> str:
        """Return an id that the server made: printable, without spaces."""
        word = self._field(answer, name, str, operation)
        fit = len(word) <= 2048 and word.isprintable() and " " not in word
        return self._field({name: word if fit else False}, name, str, operation)

    def _cut_short(self) -> StoreError:
        return StoreError(FailureKind.TRANSIENT, f"s3://{self.bucket}{self._where()}: a listing was cut short")

    def _following(self, answer: Any, second: str) -> dict[str, str]:
        """Return the parameters of the page after ``answer``, a page that says there is one."""
        if not answer.get("NextKeyMarker"):
            raise self._cut_short()
        # The second tells apart what is under one key; a server that cuts between keys may leave it out.
        names = ("KeyMarker", second)
        return {name: answer[f"Next{name}"] for name in names if answer.get(f"Next{name}")}

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below ``prefix`` in key order."""
        for found in self._pages(prefix):
            yield from found

    def _pages(self, prefix: str, after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        """Yield the pages of a listing."""
        trail, token = Trail(), ""
        while True:
            found, token = self.page(prefix, after, token)
            yield found
            if not token:
                return
            self._follow(trail, token, found[-1] if found else None)

    def _follow(self, trail: Trail, mark: object, last: object | None) -> None:
        """Take the way to the next page; a server that leads in a circle would be followed for ever."""
        if not trail.leads_on(mark, last):
            raise StoreError(
                FailureKind.TRANSIENT,
                f"s3://{self.bucket}{self._where()}: the server's listing leads in a circle; "
                "the server has a fault, run again later",
            )

    def keeps_versions(self) -> bool:
        """Tell whether the bucket keeps versions (now or once)."""
        try:
            answer = self.call("get_bucket_versioning")
        except StoreError as error:
            if error.failure is FailureKind.TRANSIENT:
                raise
            return False  # not known here, or not allowed to ask
        status = answer.get("Status")
        if status not in (None, "Enabled", "Suspended"):
            self._field({"Status": False}, "Status", str, "GetBucketVersioning")
        return status is not None

    def may_list_versions(self, prefix: str) -> bool:
        """Tell whether the versions of the bucket's objects may be listed; says so once where they may not."""
        try:
            next(self.list_versions(prefix), None)
        except StoreError as error:
            if error.code not in DENIED:
                raise
            print(f"note: the manifest will name no versions of objects: {error}", file=sys.stderr)
            return False
        return True

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the current version of every object below ``prefix`` in key order."""
        trail = Trail()
        marker: dict[str, str] = {}
        while True:
            found, last, following = self._look("list_object_versions", prefix, self._versions, **marker)
            yield from found
            if following is None:
                return
            self._follow(trail, following, last)
            marker = following

    def _versions(self, answer: Any) -> tuple[Sequence[ObjectInfo], object, dict[str, str] | None]:
        """Return a page's current versions, its last entry of any kind, and where the next begins, None at the end."""
        operation = "ListObjectVersions"
        items = answer.get("Versions", ())
        latest = [item for item in items if self._field(item, "IsLatest", bool, operation)]
        found = [self._listed(item, operation, version=True) for item in latest]
        last = (items[-1].get("Key"), items[-1].get("VersionId")) if items else None
        return found, last, self._following(answer, "VersionIdMarker") if answer.get("IsTruncated") else None

    def find(self, keys: Iterable[str], threads: int = 8, *, doubt: int = 0) -> dict[str, ObjectInfo]:
        """Return what the bucket lists for ``keys``: about one request per 1,000 of them.

        Whatever else lies between the keys is skipped by starting the next
        request just before the next wanted key. ``doubt``: so many keys that
        a listing leaves out are asked for by themselves, and as many again
        for as long as some are there after all.
        """
        wanted = sorted(keys, key=str.encode)
        found = self._find_sorted(wanted, threads)
        left = [key for key in wanted if key not in found] if doubt else []
        for start in range(0, len(left), max(doubt, 1)):
            asked = self.ask(left[start : start + doubt])
            if not asked:
                break
            found.update(asked)
        return found

    def _find_sorted(self, wanted: Sequence[str], threads: int) -> dict[str, ObjectInfo]:
        chunks = [wanted[start : start + PAGE] for start in range(0, len(wanted), PAGE)]
        if len(chunks) == 1:
            return self._find_chunk(chunks[0])
        found: dict[str, ObjectInfo] = {}
        pool = WorkerPool(threads, "find", bound())
        try:
            for part in pool.map(self._find_chunk, chunks):
                found.update(part)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return found

    def _find_chunk(self, wanted: Sequence[str]) -> dict[str, ObjectInfo]:
        prefix = _plain_start(os.path.commonprefix([wanted[0], wanted[-1]]))  # noqa: RUF071 - by character: it bounds keys
        found: dict[str, ObjectInfo] = {}
        if not self._disorder:
            self._skip_through(wanted, prefix, found)
        if self._disorder:
            self._sift(prefix, set(wanted), found)
        return found

    def _skip_through(self, wanted: Sequence[str], prefix: str, found: dict[str, ObjectInfo]) -> None:
        """Look from wanted key to wanted key, as the order of a listing allows; ends where it shows none."""
        remaining = set(wanted)
        items: Sequence[ObjectInfo]
        position, last, reached, more, jumped = 0, wanted[-1].encode(), b"", "", ""
        trail = Trail()
        while position < len(wanted):
            after = _just_before(wanted[position], prefix)
            begins = after.encode() >= reached and not (more and after == jumped)  # else the same page once more
            if begins:
                jumped, trail = after, Trail()
            items, more = self.page(prefix, after) if begins else self.page(prefix, token=more)
            while more and not items:  # a page may hold nothing, and the next one something
                self._follow(trail, more, None)
                items, more = self.page(prefix, token=more)
            if more:
                self._follow(trail, more, items[-1])
            _keep(items, remaining, found)
            if not self._is_ordered(items, after.encode() if begins else reached):
                return
            reached = items[-1].key.encode() if items else b""
            if not more or reached >= last:
                return
            while position < len(wanted) and wanted[position].encode() <= reached:
                position += 1

    def _is_ordered(self, items: Sequence[ObjectInfo], floor: bytes) -> bool:
        """Tell whether keys ascend from ``floor`` on; one out of place is remembered, and told once."""
        for item in items:
            key = item.key.encode()
            if key < floor:
                if not self._disorder:
                    self._disorder = True
                    print(
                        f"note: the server lists out of byte order ({item.key!r} behind a later key), so its listings "
                        "are read whole",
                        file=sys.stderr,
                    )
                return False
            floor = key
        return True

    def _sift(self, prefix: str, wanted: Set[str], found: dict[str, ObjectInfo]) -> None:
        """Look through whole pages in any order; keys that too many others lie between are asked for one by one."""
        pages = self._pages(prefix)
        for items in islice(pages, SIFTED):
            _keep(items, wanted, found)
            if len(found) == len(wanted):
                return
        rest = next(pages, None)
        if rest is None:
            return
        _keep(rest, wanted, found)
        found.update(self.ask(wanted - found.keys()))

    def ask(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        """Return what the bucket lists for each key that is asked for by itself, whatever other listings say."""
        found: dict[str, ObjectInfo] = {}
        for key in keys:
            for items in self._pages(key):
                _keep(items, {key}, found)
                if key in found or (items and not self._disorder):  # in order, it is the first one
                    break
        return found

    def head(self, key: str) -> ObjectHead:
        """Return what HEAD says of one object, its checksum included."""
        answer = self.call("head_object", Key=key, ChecksumMode="ENABLED")
        whole = answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        # Of parts, whatever type is named: base64 and the number of parts.
        named = {name: answer.get(f"Checksum{name}") for name in CHECKSUMS if whole}
        held = {name.lower(): value for name, value in named.items() if value and "-" not in value}
        return ObjectHead(
            self._field(answer, "ContentLength", int, "HeadObject"),
            self._etag(answer, "HeadObject"),
            held.pop("crc64nvme", None),
            answer.get("ServerSideEncryption") or ("SSE-C" if answer.get("SSECustomerAlgorithm") else None),
            answer.get("VersionId"),
            held,
        )

    def put(
        self, key: str, body: Readable | bytes, content_type: str, *, create: bool = False, md5: bytes | None = None
    ) -> str:
        """Store one object in one request; returns its ETag. ``create`` refuses to replace one.

        ``md5`` is the digest of a body that is no ``bytes``: the server checks it, and one with a retention rule
        (Object Lock) takes nothing without.
        """
        extra = {"IfNoneMatch": "*"} if create else {}
        extra |= _content_md5(body, md5) | self._stored_with
        answer = self.call("put_object", Key=key, Body=body, ContentType=content_type, **extra)
        return self._etag(answer, "PutObject")

    def put_version(self, key: str, body: bytes) -> str | None:
        """Store a few bytes; returns the id of the version that this made, None where the bucket keeps none."""
        extra = _content_md5(body, None) | self._stored_with
        answer = self.call("put_object", Key=key, Body=body, ContentType="text/plain", **extra)
        self._etag(answer, "PutObject")
        version = answer.get("VersionId")
        return str(version) if version and version != "null" else None

    def read(self, key: str, version_id: str | None = None, start: int = 0) -> IO[bytes]:
        """Return the body of an object from byte ``start``; reading may raise ``OSError`` or a botocore error."""
        extra = {"VersionId": version_id} if version_id and not self._unversioned else {}
        if start:
            extra["Range"] = f"bytes={start}-"
        try:
            answer = self.call("get_object", Key=key, **extra)
        except StoreError as error:
            if "VersionId" not in extra or error.code not in DENIED:
                raise
            del extra["VersionId"]
            answer = self.call("get_object", Key=key, **extra)
            self._note_unversioned(error)
        if answer.get("Body") is None:
            self._field(answer, "Body", bytes, "GetObject")
        stream: IO[bytes] = answer["Body"]
        return stream

    def _note_unversioned(self, error: StoreError) -> None:
        """Read what is there now from here on; whose bytes they are, the caller's digest says."""
        if not self._unversioned:
            self._unversioned = True
            print(f"note: versions of objects may not be read, so the present ones are: {error}", file=sys.stderr)

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
            raise StoreError(FailureKind.TRANSIENT, self._sentence(error)) from error
        finally:
            stream.close()

    def begin_upload(self, key: str, content_type: str) -> str:
        """Begin a multipart upload and return its id."""
        answer = self.call("create_multipart_upload", Key=key, ContentType=content_type, **self._stored_with)
        return self._word(answer, "UploadId", "CreateMultipartUpload")

    def put_part(self, key: str, upload: str, number: int, body: bytes | Readable, md5: bytes | None = None) -> str:
        """Store one part, numbered from 1; returns its ETag without quotes. ``md5``: as in ``put``."""
        part = {"Key": key, "UploadId": upload, "PartNumber": number, "Body": body, **_content_md5(body, md5)}
        marked = self._marks_parts
        try:
            answer = self.call("upload_part", **part)
        except StoreError as error:
            if error.code not in DENIED or not self._stored_with or marked:
                raise
            # Ceph holds a policy that demands headers of new objects against parts too; Amazon S3 takes none there.
            self._marks_parts = True
            if not isinstance(body, bytes):
                body.seek(0)
            answer = self.call("upload_part", **part)
        return self._etag(answer, "UploadPart")

    def _mark_part(self, request: Any, **_: Any) -> None:
        if self._marks_parts:
            for name, value in self._manner.headers().items():
                request.headers[name] = value

    def list_parts(self, key: str, upload: str) -> Iterator[tuple[int, str, int]]:
        """Yield (number, ETag, bytes) of the parts that an upload has."""
        operation, marker, trail = "ListParts", 0, Trail()
        while True:
            answer = self.call("list_parts", Key=key, UploadId=upload, PartNumberMarker=marker)
            for item in answer.get("Parts", ()):
                number = self._field(item, "PartNumber", int, operation)
                yield number, self._etag(item, operation), self._field(item, "Size", int, operation)
            if not answer.get("IsTruncated"):
                return
            marker = self._field(answer, "NextPartNumberMarker", int, operation)
            self._follow(trail, marker, None)

    def finish_upload(self, key: str, upload: str, parts: Sequence[str], *, create: bool = False) -> str:
        """Make the object of its parts' ETags, in order; returns its ETag, "" from servers that only name the key."""
        listed = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(parts, 1)]
        extra = {"IfNoneMatch": "*"} if create else {}
        answer = self.call(
            "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": listed}, **extra
        )
        if not answer.get("ETag"):  # Ceph leaves it empty
            self._field(answer, "Key", str, "CompleteMultipartUpload")
            return ""
        return self._etag(answer, "CompleteMultipartUpload")

    def abort_upload(self, key: str, upload: str) -> None:
        """Drop a multipart upload and its parts; one that is gone already is no error."""
        try:
            self.call("abort_multipart_upload", Key=key, UploadId=upload)
        except StoreError as error:
            if error.code not in ("NoSuchUpload", "404"):
                raise

    def uploads(self, prefix: str) -> Iterator[tuple[str, str, float]]:
        """Yield (key, upload id, seconds since 1970 of its begin) of the unfinished uploads below a prefix."""
        marker: dict[str, str] = {}
        operation, trail = "ListMultipartUploads", Trail()
        while True:
            try:
                answer = self.call("list_multipart_uploads", Prefix=prefix, **marker)
            except StoreError as error:
                if error.code == "NoSuchUpload":  # how some servers say that there is none
                    return
                raise
            for item in answer.get("Uploads", ()):
                begun = self._field(item, "Initiated", datetime, operation)
                yield (
                    self._field(item, "Key", str, operation),
                    self._word(item, "UploadId", operation),
                    begun.timestamp(),
                )
            if not answer.get("IsTruncated"):
                return
            marker = self._following(answer, "UploadIdMarker")
            ids = [item.get("UploadId") for item in answer.get("Uploads", ())]
            self._follow(trail, marker, ids[-1] if ids else None)

    def delete(self, key: str, version_id: str | None = None) -> None:
        """Delete one object, or one version of it."""
        self.call("delete_object", Key=key, **({"VersionId": version_id} if version_id else {}))

    def is_encrypted_by_key(self) -> bool:
        """Tell whether the bucket encrypts with KMS by default (its ETags are then no MD5)."""
        try:
            answer = self.call("get_bucket_encryption")
        except StoreError:
            return False  # not allowed to ask, or not known here: the proof itself finds out
        rules = (answer.get("ServerSideEncryptionConfiguration") or {}).get("Rules", [])
        return any(
            "kms" in str(rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "")) for rule in rules
        )


def _keep(items: Iterable[ObjectInfo], wanted: Set[str], found: dict[str, ObjectInfo]) -> None:
    """Add those that are wanted; of a key that is listed twice what came later, since it was replaced meanwhile."""
    for item in items:
        if item.key in wanted and (item.key not in found or item.modified >= found[item.key].modified):
            found[item.key] = item


def _leashed(connection: Any) -> Any:
    """Return a class of connections that know the leash of the thread which uses them."""

    def request(self: Any, *arguments: Any, **named: Any) -> Any:
        leash = bound()
        if leash is not None:
            leash.hold(self)
        elif self.leash is not None:
            self.leash.release(self)
        return connection.request(self, *arguments, **named)

    return type(connection.__name__, (connection,), {"leash": None, "request": request})


def open_for_reading(target: Target) -> ObjectStore:
    """Return a store that reads: without signatures where there is nobody to sign for, as public buckets allow."""
    store = ObjectStore(target)
    if store.has_credentials:
        return store
    print("note: no AWS credentials found, so requests are not signed (as by --no-sign-request)", file=sys.stderr)
    store = ObjectStore(replace(target, manner=replace(target.manner, unsigned=True)))
    store.lacks_credentials = True
    return store


def _not_known(**_: Any) -> None:
    """Answer what botocore asks by itself after a redirect that names no region; a server that redirects that question
    too would be asked without end.
    """
    answer: Any = {"Error": {"Code": "301"}, "ResponseMetadata": {"HTTPHeaders": {}}}
    raise botocore.exceptions.ClientError(answer, "HeadBucket")


def named_region(answer: Mapping[str, Any]) -> str | None:
    """Return the bucket's region where an answer says that the request went to another, or was signed for it."""
    error, about = answer.get("Error") or {}, answer.get("ResponseMetadata") or {}
    if error.get("Code") not in _ELSEWHERE and about.get("HTTPStatusCode") not in (301, 307):
        return None
    found = str(about.get("HTTPHeaders", {}).get("x-amz-bucket-region") or error.get("Region") or "")
    return found if _REGION.fullmatch(found) else None


def _is_unreadable(error: Exception) -> bool:
    """Tell whether an answer could not be parsed: as XML, or the numbers and times in it."""
    if isinstance(error, botocore.parsers.ResponseParserError):
        return True
    known = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError, MemoryError, RuntimeError)
    return not isinstance(error, known)


def _content_md5(body: Readable | bytes, md5: bytes | None) -> dict[str, str]:
    if md5 is None and isinstance(body, bytes):
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
    return {} if md5 is None else {"ContentMD5": base64.b64encode(md5).decode()}


def _just_before(key: str, prefix: str) -> str:
    """Return a string that sorts before ``key`` with nearly nothing between them."""
    plain = _plain_start(key)
    if plain != key:
        return plain if len(plain) > len(prefix) else ""
    head, last = key[:-1], ord(key[-1])
    if len(key) <= len(prefix):
        return ""  # the listing of the prefix begins with it
    if last - 1 < 0x21 or 0xD800 <= last - 1 <= 0xDFFF or len(key.encode()) > 1000:
        return head
    return f"{head}{chr(last - 1)}\U0010fffd"


def _plain_start(text: str) -> str:
    """Return ``text`` up to its first control character: servers echo these parameters in XML, which has none."""
    return next((text[:place] for place, sign in enumerate(text) if sign < " "), text)


def _parse_moment(value: Any) -> Any:
    """Parse a time of an answer; botocore's own way, which takes any form, is half of the cost of a listing."""
    if isinstance(value, str) and value.endswith("Z"):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    return botocore.utils.parse_timestamp(value)


def _iso(moment: Any) -> str:
    return f"{moment.isoformat()[:19]}Z"  # a third of strftime's time, and there are a thousand to a page
