"""The obstore engine: least CPU per object, an ETag per PUT, atomic creation.

Input and output: the Protocol of ``base.py``.
Invariant: the work is done by one child process (``obstore_worker.py``), as ``child_engine.py`` says.
"""

import re
from typing import Any

from lading.checksums.digest import PART_BYTES, PARTS
from lading.objectstore.target import Target
from lading.upload.engines.base import UploadTask
from lading.upload.engines.child_engine import ChildEngine

# For one request: long enough for a 50 MiB part at 90 kB/s; the caller's watchdog is shorter where bytes are counted.
REQUEST_SECONDS = 600
# Names of metadata that obstore takes for headers, in small letters as S3 keeps metadata.
OBSTORE_HEADERS = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "storage-class",
)
_REWRITTEN = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)")  # a segment that is empty, '.' or '..'
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def describe_headers(task: UploadTask) -> dict[str, str]:
    """Return what obstore calls attributes: headers by name, any other name is that of metadata."""
    attributes = task.attributes
    named = {
        "Content-Type": task.content_type,
        "Cache-Control": attributes.cache_control,
        "Storage-Class": attributes.storage_class,
    }
    return dict(attributes.metadata) | {name: value for name, value in named.items() if value}


class ObstoreEngine(ChildEngine):
    """Carries files through one child process with ``target.workers`` threads."""

    name = "obstore"
    _module = "lading.upload.engines.obstore_worker"

    def __init__(self, target: Target, *, request_seconds: float = REQUEST_SECONDS) -> None:
        super().__init__(target)
        self._request_seconds = request_seconds

    def accepts(self, task: UploadTask) -> str | None:
        """Return why this engine cannot carry the task, or None."""
        if _REWRITTEN.search(task.key):
            return "obstore would change a key with an empty, '.' or '..' segment"
        if _CONTROL.search(task.key):
            return "obstore refuses keys with control characters"
        if task.size > PART_BYTES and self._target.no_overwrite:
            return "obstore creates atomically in one request only, up to 50 MiB"
        if task.size >= PARTS * PART_BYTES:
            return "obstore's parts are too small for it"
        if any(" " in word for pair in task.attributes.tags for word in pair):
            # It writes a plus sign, which a Ceph gateway keeps as such.
            return "obstore cannot send a tag with a space"
        if any(name in OBSTORE_HEADERS for name, _ in task.attributes.metadata):
            return "obstore would take this name of metadata for a header"
        return None

    def _describe(self, task: UploadTask) -> list[Any]:
        tags = dict(task.attributes.tags)
        return [task.path, task.key, task.size, describe_headers(task), tags, task.seen]

    def _settings(self) -> dict[str, Any]:
        manner = self._target.manner
        return self._shared_settings() | {
            "sse": manner.sse,
            "kms_key": manner.kms_key,
            "payer": manner.payer,
            "proxy": self._way().proxy,
            "part_bytes": PART_BYTES,
            "timeout": self._request_seconds,
        }
