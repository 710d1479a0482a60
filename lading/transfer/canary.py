"""A small object that is written, listed and deleted: proof that a bucket can be used.

Input: a store and a prefix. Output: the ETag that the bucket showed.
Invariant: only canaries are deleted: this one, and those of processes that are gone. A name is not enough: what is
deleted has the size and the ETag of the one just written.
"""

import hashlib
import os
import threading
from datetime import datetime
from typing import TYPE_CHECKING

from lading.coordination.identity import start_ticks, this_host
from lading.transfer.engine import Failure
from lading.transfer.keys import CANARY
from lading.transfer.listed import Listed, StoreError

if TYPE_CHECKING:
    from lading.transfer.store import Store

STALE_CANARY_SECONDS = 3600.0


class Canary:
    """Proves before the work that the bucket can be listed, written and cleaned under a prefix."""

    BODY = b"lading"

    def __init__(self, store: "Store", prefix: str) -> None:
        self._store = store
        self._family = f"{prefix}{CANARY}"
        self._host = hashlib.sha256(this_host().encode()).hexdigest()[:12]
        pid = os.getpid()
        self._key = f"{self._family}{self._host}-{pid}-{start_ticks(pid)}-{threading.get_ident():x}"

    def sing(self) -> str:
        """List, write, list and delete; returns the ETag shown. Raises ``StoreError`` with the sentence to show."""
        store = self._store
        earlier, _ = store.page(self._family)
        store.put(self._key, self.BODY, "text/plain")
        try:
            listed, _ = store.page(self._key)
        finally:
            store.delete(self._key)
        own = next((item for item in listed if item.key == self._key and item.size == len(self.BODY)), None)
        if own is None:
            raise StoreError(
                Failure.STOP, f"s3://{store.bucket} does not list what was just written; nothing can be proven"
            )
        for item in earlier:
            if self._is_stale(item, own):
                store.delete(item.key)
        return own.etag

    def _is_stale(self, item: Listed, own: Listed) -> bool:
        """Tell whether a canary was left by a process that died between writing and deleting it."""
        if (item.size, item.etag) != (own.size, own.etag):
            return False  # someone's data; or a canary whose ETag is no MD5, which may stay: it is six bytes
        host, pid, started, *_ = [*item.key[len(self._family) :].split("-"), "", "", ""]
        if host == self._host and pid.isdigit():
            return str(start_ticks(int(pid))) != started
        # Of another machine: by the bucket's clock, as ISO 8601 to the second.
        then, now = (datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ") for stamp in (item.modified, own.modified))
        return (now - then).total_seconds() > STALE_CANARY_SECONDS
