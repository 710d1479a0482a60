"""Buckets of Google Cloud Storage and containers of Azure, by obstore.

Input: ``gs://bucket/prefix`` or ``az://container/prefix``; credentials as Google's and Azure's own tools find them in
the environment. Output: listings, heads, bytes, and objects that appear whole.
Invariant: every failure leaves here as a ``StoreError``. What these services call an ETag is no digest: it changes with
every write, so an equal one says that nobody wrote since, and nothing else of the bytes.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
import obstore.exceptions as exceptions
from obstore.store import AzureStore, GCSStore

from lading.core.errors import UsageError
from lading.objectstore.directory_store import NeverArchived, Unversioned
from lading.objectstore.endpoint import is_loopback
from lading.objectstore.keys import KeyPrefix, parse_key_prefix
from lading.objectstore.object_info import ObjectHead, ObjectInfo, StoreError
from lading.objectstore.target import FailureKind

# What is not there is a FileNotFoundError, which is none of the library's own.
ERRORS = (exceptions.BaseError, FileNotFoundError)
PART_BYTES = 16 << 20
PARTS = 10_000
PARTS_AT_ONCE = 2
BLOCK = 1 << 20
SCHEMES = ("gs://", "az://")
HEADERS = ("Content-Type", "Cache-Control", "Content-Encoding", "Content-Disposition", "Content-Language")


@dataclass(frozen=True)
class CloudPlace:
    """A bucket or container, and the prefix below it: empty, or ending in ``/``."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"


def parse_cloud_place(text: str) -> CloudPlace:
    """Return the place of an address; ``UsageError`` for what is none."""
    scheme, _, rest = text.partition("://")
    if f"{scheme}://" not in SCHEMES:
        raise UsageError(
            f"{text!r} is not a place in a cloud; write it like gs://bucket/prefix or az://container/prefix"
        )
    found: KeyPrefix = parse_key_prefix(f"s3://{rest}")
    return CloudPlace(scheme, found.bucket, found.prefix)


class CloudStore(NeverArchived):
    """See ``ReadableStore``. Safe to use from many threads."""

    def __init__(self, place: CloudPlace, endpoint: str | None = None) -> None:
        self.place, self.listing = place, Unversioned()
        try:
            self._store = _open(place, endpoint)
        except Exception as error:
            raise StoreError(FailureKind.STOP, f"{place}: {_first_line(error)}; check its credentials") from error

    def page(self, prefix: str, after: str = "", token: str = "") -> tuple[list[ObjectInfo], str]:
        """Return the object of this very name, if there is one; raises where the place does not answer."""
        try:
            head = self.head(prefix) if prefix and not prefix.endswith("/") else None
        except StoreError as error:
            if error.code != "404":
                raise
            head = None
        if head is None:
            next(self.list(prefix), None)
            return [], ""
        return [ObjectInfo(prefix, head.size, head.etag, "")], ""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below ``prefix``, which ends in ``/`` or is empty."""
        try:
            for batch in obstore.list(self._store, prefix.rstrip("/") or None):
                for found in batch:
                    moment = found["last_modified"].strftime("%Y-%m-%dT%H:%M:%SZ")
                    etag = (found["e_tag"] or "").strip('"')
                    yield ObjectInfo(found["path"], found["size"], etag, moment, found["version"] or None)
        except ERRORS as error:
            raise self._failure(error) from error

    def head(self, key: str, version_id: str | None = None) -> ObjectHead:
        """Return size and ETag of an object."""
        try:
            found = obstore.head(self._store, key)
        except ERRORS as error:
            raise self._failure(error) from error
        return ObjectHead(found["size"], (found["e_tag"] or "").strip('"'), None, None, found["version"] or None)

    def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object from ``start`` on."""
        try:
            options: Any = {"range": {"offset": start}} if start else {}
            for block in obstore.get(self._store, key, options=options).stream(min_chunk_size=BLOCK):
                yield bytes(block)
        except ERRORS as error:
            raise self._failure(error) from error

    def put(
        self, key: str, blocks: Iterable[bytes], size: int, headers: Mapping[str, str], tags: Mapping[str, str]
    ) -> str:
        """Store an object of these bytes, which appears when they all came; returns its ETag.

        What ``blocks`` raises leaves here as it is, and no object appears.
        """
        part = max(PART_BYTES, -(-size // (PARTS - 1)))
        try:
            answer = obstore.put(
                self._store,
                key,
                iter(blocks) if size > part else b"".join(blocks),
                attributes=dict(headers),
                tags=dict(tags) or None,
                use_multipart=size > part,
                chunk_size=part,
                max_concurrency=PARTS_AT_ONCE,
            )
        except ERRORS as error:
            raise self._failure(error) from error
        return (answer["e_tag"] or "").strip('"')

    def _failure(self, error: Exception) -> StoreError:
        """Return what an error of the library means."""
        said, text = f"{self.place}: {_first_line(error)}", str(error)
        if isinstance(error, exceptions.NotFoundError | FileNotFoundError):
            return StoreError(FailureKind.OBJECT, said, "404")
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            return StoreError(FailureKind.STOP, f"{said}; check its credentials")
        if "416" in text or "InvalidRange" in text:
            return StoreError(FailureKind.OBJECT, said, "416")
        if any(f"status code: {code}" in text for code in ("400", "409", "412")):
            return StoreError(FailureKind.OBJECT, said)
        return StoreError(FailureKind.TRANSIENT, said)


def _open(place: CloudPlace, endpoint: str | None) -> Any:
    client: dict[str, Any] = {"connect_timeout": "10s", "timeout": "600s"}
    keywords: dict[str, Any] = {"retry_config": {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}}
    loopback = False
    if endpoint:
        loopback = is_loopback(urlsplit(endpoint).hostname or "")
        if endpoint.startswith("http://"):
            client["allow_http"] = True  # loopback only: the caller has checked
    if place.scheme == "gs":
        if loopback and not any(name.startswith("GOOGLE_") for name in os.environ):
            # An emulator. To skip signatures is not enough: the library still asks the metadata server when it writes.
            account = {"gcs_base_url": endpoint, "disable_oauth": True}
            empty = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
            keywords["service_account_key"] = json.dumps(account | empty)
        elif endpoint:
            keywords["base_url"] = endpoint
        return GCSStore(place.bucket, client_options=client, **keywords)  # type: ignore[arg-type]
    if endpoint:
        keywords["endpoint"] = endpoint
    return AzureStore(place.bucket, client_options=client, **keywords)  # type: ignore[arg-type]


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
