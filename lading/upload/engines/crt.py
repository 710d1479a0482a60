"""The crt engine: Amazon's own C client, with a checksum that the server itself compares.

Input and output: the Protocol of ``base.py``.
Invariant: the work is done by one child process (``crt_worker.py``), as ``child_engine.py`` says.
"""

from typing import Any, ClassVar

from lading.checksums.digest import PART_BYTES, part_bytes
from lading.core.opening import descriptor_folder
from lading.objectstore.target import Target
from lading.upload.engines.base import UploadTask
from lading.upload.engines.child_engine import ChildEngine

UNREADABLE = 2


class CrtEngine(ChildEngine):
    """Carries files through one child process, ``target.workers`` connections at a time."""

    name = "crt"
    _module = "lading.upload.engines.crt_worker"
    # glibc gives freed memory back to the kernel, which clears it anew when it is wanted again (mallopt(3)). Without
    # these 10,000 small objects took 3.6 instead of 3.4 CPU seconds.
    _variables: ClassVar[dict[str, str]] = {
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
        "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    }

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.can_share = descriptor_folder() is not None
        self._unreadable = 0  # answers to the begin of an upload in parts, one after the other

    def accepts(self, task: UploadTask) -> str | None:
        """Take every task, where the client can open what its process holds and read what the server says."""
        if not self.can_share:
            return "crt cannot open the descriptors of its process (/proc)"
        if self._unreadable >= UNREADABLE and task.size > PART_BYTES:
            return "crt cannot read how this server begins an upload in parts"
        return None

    def _describe(self, task: UploadTask) -> list[Any]:
        headers = [("Content-Type", task.content_type), *task.attributes.request_headers().items()]
        part = part_bytes(task.size) if task.size > PART_BYTES else 0
        return [task.path, task.key, task.size, headers, part, task.seen]

    def _take(self, number: int, etag: str | None, code: str, message: str, operation: str) -> None:
        task = self._waiting.get(number)
        if code == "nonsense" and operation == "CreateMultipartUpload":
            self._unreadable += 1  # it wants the very words of S3; some gateways have others, which boto3 reads
        elif not code and task and task.size > PART_BYTES:
            self._unreadable = 0
        super()._take(number, etag, code, message, operation)

    def _settings(self) -> dict[str, Any]:
        manner = self._target.manner
        headers = manner.headers()
        if manner.payer:
            headers["x-amz-request-payer"] = "requester"
        if self._target.no_overwrite:
            headers["If-None-Match"] = "*"
        return self._shared_settings() | {"headers": headers, "part_bytes": PART_BYTES}
