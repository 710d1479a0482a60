"""A small object that is written, listed and deleted: proof that a bucket can be used.

Input: a store and a prefix. Output: the ETag that the bucket showed.
Invariant: only canaries are deleted: this one, and those of processes that are gone. A name is not enough: what is
deleted has the size and the ETag of the one just written.
"""

import functools
import hashlib
import sys
import threading
from datetime import datetime
from typing import TYPE_CHECKING

from lading.core.identity import owner_runs, owner_tag
from lading.objectstore.failures import DENIED
from lading.objectstore.keys import PROBE_NAME
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.target import FailureKind

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

STALE_PROBE_SECONDS = 3600.0


MD5 = hashlib.md5(b"lading", usedforsecurity=False).hexdigest()  # of its body


@functools.cache
def _note(text: str) -> None:
    """Say something once in a process."""
    print(f"note: {text}", file=sys.stderr)


class BucketProbe:
    """Proves before the work that the bucket can be listed, written and cleaned under a prefix."""

    BODY = b"lading"

    def __init__(self, store: "ObjectStore", prefix: str) -> None:
        self._store = store
        self._family = f"{prefix}{PROBE_NAME}"
        self._key = f"{self._family}{owner_tag()}-{threading.get_ident():x}"

    def run(self) -> str:
        """List, write, list and delete; returns the ETag shown. Raises ``StoreError`` with the sentence to show.

        Where nothing may be deleted, the object of an earlier run is written
        again with the bytes it has, so that one stays and not one a run.
        """
        store = self._store
        earlier, _ = store.page(self._family)
        key = next((item.key for item in earlier if item.etag == MD5 and self._is_of_the_dead(item)), self._key)
        version = store.put_version(key, self.BODY)
        try:
            listed, _ = store.page(key)
        finally:
            self._delete(key, version)
        own = next((item for item in listed if item.key == key and item.size == len(self.BODY)), None)
        if own is None:
            raise StoreError(
                FailureKind.STOP,
                f"s3://{store.bucket} does not list an object that was just written, so nothing can be verified",
            )
        for item in earlier:
            if item.key != key and self._is_stale(item, own) and not self._delete(item.key, None):
                break
        return own.etag

    def _delete(self, key: str, version: str | None) -> bool:
        """Delete what was written, and leave no version of it; says once what the rights do not allow."""
        for attempt in (version, None) if version else (None,):
            try:
                self._store.delete(key, attempt)
            except StoreError as error:
                if error.code not in DENIED:
                    raise
                what = (
                    "a version of the test object stays"
                    if attempt
                    else "you may not delete the test object, so it stays"
                )
                _note(f"{what}; everything else works without that right: {error}")
            else:
                return True
        return False

    def _is_of_the_dead(self, item: ObjectInfo) -> bool:
        """Tell whether a canary was left by a process of this machine that is gone."""
        return owner_runs(item.key[len(self._family) :]) is False

    def _is_stale(self, item: ObjectInfo, own: ObjectInfo) -> bool:
        """Tell whether a canary was left by a process that died between writing and deleting it."""
        if (item.size, item.etag) != (own.size, own.etag):
            return False  # someone's data; or a canary whose ETag is no MD5, which may stay: it is six bytes
        runs = owner_runs(item.key[len(self._family) :])
        if runs is not None:
            return not runs
        # It cannot be seen from here: by the bucket's clock, as ISO 8601 to the second.
        then, now = (datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ") for stamp in (item.modified, own.modified))
        return (now - then).total_seconds() > STALE_PROBE_SECONDS
