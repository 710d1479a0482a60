"""The bucket through boto3's lower half, botocore: listings, heads, single objects; its only importer.

Input: a target; credentials by the AWS chain (``AWS_PROFILE``, environment,
instance role) and nothing else. Output: what the bucket says, as values.
Invariant: every failure leaves here as a ``StoreError`` with a class and one
sentence that holds no secret; plain http goes to loopback only; no ACL is
ever sent.

Loading botocore takes a third of a second: modules that are handed a
``Store`` import it for type checking only.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import IO, Any

import botocore.exceptions
import botocore.parsers
import botocore.session
import botocore.utils
from botocore.config import Config

from lading.transfer.endpoint import check_endpoint, resolve_region
from lading.transfer.engine import Failure, Target
from lading.transfer.failures import classify, explain
from lading.transfer.listed import Head, Listed, StoreError
from lading.transfer.network import choose_way

UNREADABLE_CHANCES = 4  # to give an answer that can be read
CHECKSUMS = ("CRC64NVME", "SHA256", "CRC32C", "SHA1", "CRC32")  # that HEAD names (Amazon S3 API reference)
PAGE = 1000  # the most keys one ListObjectsV2 answers (Amazon S3 API reference)


class Store:
    """One bucket. Safe to use from many threads."""

    def __init__(self, target: Target, *, attempts: int = 5) -> None:
        check_endpoint(target.endpoint)
        self.bucket = target.bucket
        self.endpoint = target.endpoint
        self.capacity = target.capacity
        region = resolve_region(target.endpoint)
        way = choose_way(target, region)
        try:
            session = botocore.session.get_session()
            session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_moment)
            self._client = session.create_client(
                "s3",
                endpoint_url=target.endpoint,
                region_name=region,
                verify=way.bundle,
                config=Config(
                    # The target was decided with them in mind; engines do not know them.
                    ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]
                    connect_timeout=10,
                    read_timeout=60,
                    max_pool_connections=target.workers + 16,
                    retries={"mode": "standard", "total_max_attempts": attempts},
                    s3={"addressing_style": "path"} if target.endpoint else {},
                    # Old and small servers reject checksum trailers they do not know.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    # Decided once for all clients; without this botocore looks for itself.
                    proxies={"http": way.proxy, "https": way.proxy} if way.proxy else {},
                ),
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise StoreError(Failure.STOP, self._sentence(error)) from error

    def call(self, operation: str, **parameters: Any) -> Any:
        """Do one request on the bucket; every failure becomes a ``StoreError``."""
        # An answer cut short by the network cannot be parsed, nor can a web page: asking again tells them apart.
        # What carries a body is left to the caller, who alone can begin it anew.
        chances = 1 if "Body" in parameters else UNREADABLE_CHANCES
        while True:
            try:
                return getattr(self._client, operation)(Bucket=self.bucket, **parameters)
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                chances -= 1
                if not isinstance(error, botocore.parsers.ResponseParserError) or not chances:
                    raise self.failure(error) from error
                time.sleep(0.2)

    def failure(self, error: Exception) -> StoreError:
        """Return what a boto3 exception means."""
        if isinstance(error, botocore.exceptions.ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            failure = classify(code)
            if failure is Failure.OBJECT and (status >= 500 or status == 429):
                failure = Failure.TRANSIENT
            sentence = explain(code)
            if sentence:
                return StoreError(failure, f"s3://{self.bucket}{self._where()}: {sentence}", code)
            message = str(error.response.get("Error", {}).get("Message", "")).split("\n")[0][:200]
            advice = "; the server has a fault, run again later" if failure is Failure.TRANSIENT else ""
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
        return StoreError(Failure.STOP if isinstance(error, lasting) else Failure.TRANSIENT, self._sentence(error))

    def _where(self) -> str:
        return f" at {self.endpoint}" if self.endpoint else ""

    def _sentence(self, error: Exception) -> str:
        exceptions = botocore.exceptions
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return "no AWS credentials found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if isinstance(error, exceptions.ProfileNotFound):
            return _unreadable(error)
        if isinstance(error, exceptions.SSLError):
            return f"{self.endpoint or 'AWS'} does not show a trusted certificate; for an own one set AWS_CA_BUNDLE"
        if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
            return f"{self.endpoint or 'AWS'} cannot be reached; check endpoint= and the network"
        if isinstance(error, exceptions.NoRegionError):
            return "no AWS region is set; set AWS_DEFAULT_REGION"
        if isinstance(error, botocore.parsers.ResponseParserError):
            return f"{self.endpoint or 'AWS'} answers, but not as S3 does (a web page?); check endpoint="
        first = str(error).split("\n")[0]
        return f"s3://{self.bucket}{self._where()}: {type(error).__name__}: {first[:200]}"

    def page(self, prefix: str, after: str = "", token: str = "") -> tuple[list[Listed], str]:
        """Return up to 1,000 objects in key order and the token of the next page, empty at the end.

        ``after`` is exclusive; ``token`` continues an earlier page instead.
        """
        start = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
        answer = self._look("list_objects_v2", prefix, **start)
        found = [
            Listed(item["Key"], item["Size"], item["ETag"].strip('"'), _iso(item["LastModified"]))
            for item in answer.get("Contents", ())
        ]
        following = answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""
        if answer.get("IsTruncated") and not following:
            raise self._cut_short()
        return found, following

    def _look(self, operation: str, prefix: str, **start: str) -> Any:
        """Return one page of a listing, asked for again while it was cut within its head, and looks empty."""
        for _ in range(UNREADABLE_CHANCES):
            answer = self.call(operation, Prefix=prefix, MaxKeys=PAGE, **start)
            if "Name" in answer or "KeyCount" in answer:
                return answer
        raise StoreError(Failure.STOP, f"{self.endpoint or 'AWS'} answers, but not as S3 does (a web page?)")

    def _cut_short(self) -> StoreError:
        return StoreError(Failure.TRANSIENT, f"s3://{self.bucket}{self._where()}: a listing was cut short")

    def _following(self, answer: Any, second: str) -> dict[str, str]:
        """Return the parameters of the page after ``answer``, a page that says there is one."""
        if not answer.get("NextKeyMarker"):
            raise self._cut_short()
        # The second tells apart what is under one key; a server that cuts between keys may leave it out.
        names = ("KeyMarker", second)
        return {name: answer[f"Next{name}"] for name in names if answer.get(f"Next{name}")}

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Yield every object below ``prefix`` in key order."""
        token = ""
        while True:
            found, token = self.page(prefix, token=token)
            yield from found
            if not token:
                return

    def keeps_versions(self) -> bool:
        """Tell whether the bucket keeps versions (now or once)."""
        try:
            return "Status" in self.call("get_bucket_versioning")
        except StoreError as error:
            if error.failure is Failure.TRANSIENT:
                raise
            return False  # not known here, or not allowed to ask

    def list_versions(self, prefix: str = "") -> Iterator[Listed]:
        """Yield the current version of every object below ``prefix`` in key order."""
        marker: dict[str, str] = {}
        while True:
            answer = self._look("list_object_versions", prefix, **marker)
            for item in answer.get("Versions", ()):
                if item["IsLatest"]:
                    etag, moment = item["ETag"].strip('"'), _iso(item["LastModified"])
                    yield Listed(item["Key"], item["Size"], etag, moment, item["VersionId"])
            if not answer.get("IsTruncated"):
                return
            marker = self._following(answer, "VersionIdMarker")

    def find(self, keys: Iterable[str], threads: int = 8) -> dict[str, Listed]:
        """Return what the bucket lists for ``keys``: about one request per 1,000 of them.

        Whatever else lies between the keys is skipped by starting the next
        request just before the next wanted key.
        """
        wanted = sorted(keys, key=str.encode)
        chunks = [wanted[start : start + PAGE] for start in range(0, len(wanted), PAGE)]
        if len(chunks) == 1:
            return self._find_chunk(chunks[0])
        found: dict[str, Listed] = {}
        with ThreadPoolExecutor(threads) as pool:
            for part in pool.map(self._find_chunk, chunks):
                found.update(part)
        return found

    def _find_chunk(self, wanted: Sequence[str]) -> dict[str, Listed]:
        prefix = _plain_start(os.path.commonprefix([wanted[0], wanted[-1]]))  # noqa: RUF071 - by character: it bounds keys
        remaining = set(wanted)
        found: dict[str, Listed] = {}
        position, last, reached, more = 0, wanted[-1].encode(), b"", ""
        while position < len(wanted):
            after = _just_before(wanted[position], prefix)
            items, more = self.page(prefix, after) if after.encode() >= reached else self.page(prefix, token=more)
            while more and not items:  # a page may hold nothing, and the next one something
                items, more = self.page(prefix, token=more)
            found.update((item.key, item) for item in items if item.key in remaining)
            reached = items[-1].key.encode() if items else b""
            if not more or reached >= last:
                break
            while position < len(wanted) and wanted[position].encode() <= reached:
                position += 1
        return found

    def head(self, key: str) -> Head:
        """Return what HEAD says of one object, its checksum included."""
        answer = self.call("head_object", Key=key, ChecksumMode="ENABLED")
        whole = answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        # Of parts, whatever type is named: base64 and the number of parts.
        named = {name: answer.get(f"Checksum{name}") for name in CHECKSUMS if whole}
        held = {name.lower(): value for name, value in named.items() if value and "-" not in value}
        return Head(
            answer["ContentLength"],
            answer.get("ETag", "").strip('"'),
            held.pop("crc64nvme", None),
            answer.get("ServerSideEncryption") or ("SSE-C" if answer.get("SSECustomerAlgorithm") else None),
            answer.get("VersionId"),
            held,
        )

    def put(self, key: str, body: IO[bytes] | bytes, content_type: str, *, create: bool = False) -> str:
        """Store one object in one request; returns its ETag. ``create`` refuses to replace one."""
        extra = {"IfNoneMatch": "*"} if create else {}
        answer = self.call("put_object", Key=key, Body=body, ContentType=content_type, **extra)
        return str(answer.get("ETag", "")).strip('"')

    def read(self, key: str, version_id: str | None = None, start: int = 0) -> IO[bytes]:
        """Return the body of an object from byte ``start``; reading may raise ``OSError`` or a botocore error."""
        extra = {"VersionId": version_id} if version_id else {}
        if start:
            extra["Range"] = f"bytes={start}-"
        stream: IO[bytes] = self.call("get_object", Key=key, **extra)["Body"]
        return stream

    def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object from ``start`` on; raises ``StoreError`` when they stop early."""
        stream = self.read(key, version_id, start)
        try:
            while block := stream.read(1 << 20):
                yield block
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise StoreError(Failure.TRANSIENT, self._sentence(error)) from error
        finally:
            stream.close()

    def begin_upload(self, key: str, content_type: str) -> str:
        """Begin a multipart upload and return its id."""
        return str(self.call("create_multipart_upload", Key=key, ContentType=content_type)["UploadId"])

    def put_part(self, key: str, upload: str, number: int, body: bytes | IO[bytes]) -> str:
        """Store one part, numbered from 1; returns its ETag without quotes."""
        answer = self.call("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=body)
        return str(answer["ETag"]).strip('"')

    def finish_upload(self, key: str, upload: str, parts: Sequence[str], *, create: bool = False) -> str:
        """Make the object of its parts' ETags, in order; returns its ETag."""
        listed = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(parts, 1)]
        extra = {"IfNoneMatch": "*"} if create else {}
        answer = self.call(
            "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": listed}, **extra
        )
        return str(answer.get("ETag", "")).strip('"')

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
        while True:
            try:
                answer = self.call("list_multipart_uploads", Prefix=prefix, **marker)
            except StoreError as error:
                if error.code == "NoSuchUpload":  # how some servers say that there is none
                    return
                raise
            for item in answer.get("Uploads", ()):
                yield item["Key"], item["UploadId"], item["Initiated"].timestamp()
            if not answer.get("IsTruncated"):
                return
            marker = self._following(answer, "UploadIdMarker")

    def delete(self, key: str) -> None:
        """Delete one object."""
        self.call("delete_object", Key=key)

    def is_encrypted_by_key(self) -> bool:
        """Tell whether the bucket encrypts with KMS by default (its ETags are then no MD5)."""
        try:
            answer = self.call("get_bucket_encryption")
        except StoreError:
            return False  # not allowed to ask, or not known here: the proof itself finds out
        rules = answer.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
        return any(
            "kms" in str(rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "")) for rule in rules
        )


def profile_endpoint() -> str | None:
    """Return the S3 server that the profile names: for S3 alone, else for all services; None when it names none."""
    session = botocore.session.get_session()
    try:
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        profile = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(profile.get("services"), {})
    except botocore.exceptions.BotoCoreError as error:
        raise StoreError(Failure.STOP, _unreadable(error)) from error
    own = services.get("s3", {})
    return (own.get("endpoint_url") if isinstance(own, dict) else None) or profile.get("endpoint_url")


def profile_bundle() -> str | None:
    """Return the file of certificates that the profile names, None when it names none."""
    try:
        found = botocore.session.get_session().get_scoped_config().get("ca_bundle")
    except botocore.exceptions.BotoCoreError as error:
        raise StoreError(Failure.STOP, _unreadable(error)) from error
    return str(found) if found else None


def profile_region() -> str | None:
    """Return the region of the environment or the profile, None when there is none."""
    try:
        region: str | None = botocore.session.get_session().get_config_variable("region")
    except botocore.exceptions.BotoCoreError as error:
        raise StoreError(Failure.STOP, _unreadable(error)) from error
    return region


def _unreadable(error: Exception) -> str:
    if isinstance(error, botocore.exceptions.ProfileNotFound):
        return f"AWS_PROFILE={os.environ.get('AWS_PROFILE', '')!r} is not in the AWS configuration files"
    return f"the AWS configuration cannot be read: {str(error).splitlines()[0][:200]}"


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
