"""A prefix of an S3 bucket as a destination.

Input: an ``s3://`` URL; credentials by the AWS chain. Output: objects.
Invariant: a put is durable when it returns, and the server has checked its
MD5; what is read is asked of the server again each time.
"""

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lading.compress.job import BlockDigest, Measured
from lading.core.errors import UsageError
from lading.objectstore.client import ObjectStore
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import Target

# Larger files go up in parts of this size (S3 takes up to 10,000 parts: files of 640 GB).
PART = 64 << 20
CONTENT_TYPE, PICTURE_TYPE = "application/octet-stream", "image/png"


class BucketDestination:
    """See ``lading.compress.destination.Destination``."""

    root: Path | None = None

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self.name = f"s3://{store.bucket}/{prefix}"
        self._prefix = f"{prefix}/"
        self._listed: dict[str, int] | None = None

    def write(self, path: str, blocks: Iterable[Any]) -> None:
        """See ``Destination``."""
        key = self._prefix + path
        kind = PICTURE_TYPE if path.endswith(".png") else CONTENT_TYPE
        parts = _parts(blocks)
        first, second = next(parts, b""), next(parts, None)
        if second is None:
            self._store.put(key, first, kind)
            return
        upload = self._store.multipart.begin(key, kind)
        try:
            tags = [
                self._store.multipart.put_part(key, upload, 1, first),
                self._store.multipart.put_part(key, upload, 2, second),
            ]
            tags += [self._store.multipart.put_part(key, upload, number, part) for number, part in enumerate(parts, 3)]
            self._store.multipart.finish(key, upload, tags)
        except BaseException:
            self._store.multipart.abort(key, upload)
            raise

    def read(self, path: str) -> bytes:
        """See ``Destination``."""
        return b"".join(self.blocks(path))

    def size(self, path: str) -> int | None:
        """See ``Destination``; answers for what was there when it was first asked, from one listing."""
        if self._listed is None:
            self._listed = {item.key: item.size for item in self._store.list(self._prefix)}
        return self._listed.get(self._prefix + path)

    def size_and_digest(self, path: str) -> Measured:
        """See ``Destination``."""
        found = BlockDigest()
        for block in self.blocks(path):
            found.update(block)
        return Measured(found.size, found.hash, found.sha256)

    def files(self) -> Iterator[tuple[str, int]]:
        """See ``Destination``; from a listing of this moment."""
        for item in self._store.list(self._prefix):
            yield item.key[len(self._prefix) :], item.size

    def folders(self) -> Iterator[str]:
        """See ``Destination``; a request for each, however many objects it has."""
        after = ""
        while found := self._store.page(self._prefix, after)[0]:
            name, slash, _ = found[0].key[len(self._prefix) :].partition("/")
            # "0" is what comes after "/": the first key that is not in this folder.
            after = f"{self._prefix}{name}0" if slash else found[0].key
            if slash:
                yield name

    def remove(self, path: str) -> None:
        """See ``Destination``."""
        self._store.delete(self._prefix + path)

    def clear(self, path: str) -> None:
        """See ``Destination``."""
        for item in list(self._store.list(f"{self._prefix}{path}/")):
            self._store.delete(item.key)

    def drop_cache(self) -> None:
        """See ``Destination``; a bucket keeps nothing here."""

    def is_occupied(self) -> bool:
        """See ``Destination``."""
        return bool(self._store.page(self._prefix)[0])

    def tidy(self) -> None:
        """See ``Destination``; an object appears whole or not at all."""

    def blocks(self, path: str) -> Iterator[bytes]:
        """See ``Destination``."""
        try:
            yield from self._store.blocks(self._prefix + path)
        except StoreError as error:
            if error.code in ("NoSuchKey", "404"):
                raise FileNotFoundError(f"{self.name}/{path}") from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _parts(blocks: Iterable[Any]) -> Iterator[bytes]:
    """Yield blocks joined to parts of ``PART`` bytes."""
    held = bytearray()
    for block in blocks:
        held += memoryview(block).cast("B")
        while len(held) >= PART:
            yield bytes(held[:PART])
            del held[:PART]
    if held:
        yield bytes(held)


def open_bucket(url: str, endpoint: str | None) -> BucketDestination:
    """Return the place of an ``s3://bucket/prefix``; ``UsageError`` when it is none."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.strip("/").partition("/")
    if scheme != "s3" or not bucket or not prefix.strip("/"):
        raise UsageError(f"cannot write to {url}; give a directory, or s3://bucket/prefix")
    identity = tuple(os.environ.get(name) for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION"))
    return BucketDestination(_open_store(bucket, resolve_endpoint(endpoint), identity), prefix.strip("/"))


@functools.lru_cache(maxsize=4)
def _open_store(bucket: str, endpoint: str | None, identity: tuple[str | None, ...]) -> ObjectStore:
    """Return the client of a bucket; it is kept, since making one takes as long as a small unit."""
    return ObjectStore(Target(bucket, endpoint, workers=1))
