"""Has the server copy what it holds already, instead of sending it again.

Input: tasks whose size is that of an object of known content; the digests of their files. Output: outcomes, as
``engines/base.py`` has them.
Invariant: only an object that still has the recorded ETag is copied, and what it is stored with is what the task says.
The copy is verified like anything that was sent. ``MISSED`` says that the file is to be sent after all.
"""

from typing import TYPE_CHECKING

from lading.checksums.digest_prefetch import PrefetchedDigest
from lading.checksums.parts import PART_BYTES, part_bytes
from lading.core.worker_threads import Leash
from lading.objectstore.kept_attributes import KeptAttributes
from lading.objectstore.object_info import StoreError
from lading.objectstore.server_copy import CopySource, ServerCopies
from lading.objectstore.target import FailureKind, Target
from lading.upload.engines.base import UploadTask
from lading.upload.engines.threads import ThreadEngine
from lading.verification.content_index import ContentIndex

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

MISSED = "no object of its content can be copied"


class ReuseEngine(ThreadEngine):
    """See ``lading.upload.engines.base.Engine``; ``digests`` are told to it with each task."""

    name = "reuse"

    def __init__(self, target: Target, store: "ObjectStore", index: ContentIndex) -> None:
        super().__init__(target.workers)
        self._copies, self._index = ServerCopies(store, store), index
        self._create = target.no_overwrite
        self._digests: dict[str, PrefetchedDigest] = {}

    def takes(self, task: UploadTask) -> bool:
        """Tell whether the content of a task may be known."""
        return not self._create and task.size > 0 and self._index.has_size(task.size)

    def expect(self, task: UploadTask, digests: PrefetchedDigest) -> None:
        """Take the digests of a task's file, which are made meanwhile."""
        self._digests[task.key] = digests

    def _send(self, task: UploadTask, leash: Leash) -> str:
        known = self._digests.pop(task.key).result()
        if isinstance(known, OSError):
            raise known
        assert known.sha256 is not None  # ``--reuse`` without it is refused
        for found in self._index.find(known.sha256, task.size):
            leash.check()
            source = CopySource(found.bucket, found.key, task.size, found.etag, found.version_id)
            try:
                return self._copy(source, task)
            except StoreError as error:
                if error.failure is FailureKind.TRANSIENT:
                    raise
        raise StoreError(FailureKind.OBJECT, MISSED, MISSED)

    def _copy(self, source: CopySource, task: UploadTask) -> str:
        if task.size <= PART_BYTES:
            return self._copies.copy_as(source, task.key, task.content_type, task.attributes).etag
        wanted = task.attributes
        kept = KeptAttributes(
            wanted.storage_class, wanted.cache_control, wanted.tags, wanted.metadata, task.content_type
        )
        return self._copies.copy_parts(source, task.key, part_bytes(task.size), kept).etag
