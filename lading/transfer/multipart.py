"""For files so large that a broken upload must go on where it stopped.

Input and output: the Protocol of ``engine.py``; the bucket by ``store.py``.
Invariant: a part counts only when the bucket lists it with the size and the
ETag that were written down when it was sent, and the file's stamp is still
the one the upload began with; anything else is sent again. Each part carries
its MD5, so a server that checks it never takes a damaged one.

The log of one upload is ``journal/parts/<hash of bucket and key>.jsonl``, one
writer at a time (the holder of the object's batch), removed when the upload
is complete.
"""

import base64
import hashlib
import io
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lading.errors import LadingError
from lading.files import AppendLog, read_log
from lading.transfer.checksum import MIB, PART_BYTES, Stamp, part_bytes
from lading.transfer.engine import Failure, Outcome, Target, Task
from lading.transfer.listed import StoreError

if TYPE_CHECKING:
    from lading.transfer.store import Store

RESUME_BYTES = 20 * 10**9
PARTS_AT_ONCE = 4
CLOSE_SECONDS = 5.0


class Stopped(LadingError):
    """The engine was closed while a request was under way."""


class Section(io.RawIOBase):
    """Bytes ``start`` to ``start + length`` of a file, read when asked: a body that needs no memory."""

    def __init__(self, descriptor: int, start: int, length: int, stop: threading.Event) -> None:
        self._descriptor, self._start, self._length, self._stop = descriptor, start, length, stop
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read again, as a retry does."""
        return True

    def tell(self) -> int:
        """Return the position inside the section."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move inside the section."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; a file that shrank raises ``OSError``, so that no short body is sent."""
        if self._stop.is_set():
            raise Stopped("closed")
        view = memoryview(buffer)[: max(0, self._length - self._position)]
        if not view:
            return 0
        count = os.preadv(self._descriptor, [view], self._start + self._position)
        if not count:
            raise OSError(0, "the file became shorter while it was sent")
        self._position += count
        return count

    def digest(self) -> bytes:
        """Return the MD5 of the section."""
        md5 = hashlib.md5(usedforsecurity=False)
        self._position = 0
        while block := self.read(MIB):
            md5.update(block)
        self._position = 0
        return md5.digest()


@dataclass(frozen=True)
class Begun:
    """A multipart upload that exists in the bucket: its id, and the ETag of each part as sent."""

    upload_id: str
    stamp: Stamp
    part: int
    sent: Mapping[int, str]


class PartLog:
    """The log of one upload, as in the module's description."""

    def __init__(self, directory: Path, bucket: str, key: str) -> None:
        name = hashlib.sha256(f"{bucket}/{key}".encode()).hexdigest()[:32]
        self._path = directory / f"{name}.jsonl"
        self._key = f"{bucket}/{key}"
        self._lock = threading.Lock()

    def read(self) -> Begun | None:
        """Return the upload that was begun last, or None."""
        begun: dict[str, Any] | None = None
        sent: dict[int, str] = {}
        if not self._path.exists():
            return None
        for record in read_log(self._path):
            if record is None:
                continue  # a damaged line: that part counts as unsent
            if record["kind"] == "upload" and record["key"] == self._key:
                begun, sent = record, {}
            elif record["kind"] == "part" and begun and record["id"] == begun["id"]:
                sent[record["n"]] = record["etag"]
        if begun is None:
            return None
        return Begun(begun["id"], Stamp(*begun["stamp"][:4]), begun["part"], sent)

    def begin(self, upload_id: str, stamp: Stamp, part: int) -> Begun:
        """Write down a new upload before its first part is sent."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        values = [stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode]
        self._write({"kind": "upload", "key": self._key, "id": upload_id, "stamp": values, "part": part})
        return Begun(upload_id, stamp, part, {})

    def add(self, upload_id: str, number: int, etag: str) -> None:
        """Write down that a part was sent; durable on return."""
        self._write({"kind": "part", "id": upload_id, "n": number, "etag": etag})

    def end(self) -> None:
        """Forget the upload: it is complete, or gone."""
        self._path.unlink(missing_ok=True)

    def _write(self, record: Mapping[str, Any]) -> None:
        with self._lock, AppendLog(self._path) as log:
            log.append([record])


class Uploader:
    """Sends one file at a time through a store."""

    def __init__(self, store: "Store", target: Target, journal: Path | None, resume_bytes: int) -> None:
        self._store = store
        self._target = target
        self._parts = journal / "parts" if journal else None
        self._resume_bytes = resume_bytes
        self.stop = threading.Event()

    def send(self, task: Task) -> str:
        """Send a file; returns the ETag that the server named, or "". Raises ``StoreError``, ``OSError``."""
        descriptor = self._target.open(task)
        try:
            stamp = Stamp.of(os.fstat(descriptor))
            if stamp.size <= PART_BYTES:
                return self._send_whole(task, descriptor, stamp)
            return self._send_parts(task, descriptor, stamp)
        finally:
            os.close(descriptor)

    def _create(self) -> dict[str, str]:
        return {"IfNoneMatch": "*"} if self._target.no_overwrite else {}

    def _send_whole(self, task: Task, descriptor: int, stamp: Stamp) -> str:
        body = Section(descriptor, 0, stamp.size, self.stop)
        answer = self._store.call(
            "put_object",
            Key=task.key,
            Body=body,
            ContentType=task.content_type,
            ContentMD5=base64.b64encode(body.digest()).decode(),
            **self._create(),
        )
        return str(answer.get("ETag", "")).strip('"')

    def _send_parts(self, task: Task, descriptor: int, stamp: Stamp) -> str:
        resumable = self._parts is not None and stamp.size >= self._resume_bytes
        log = PartLog(self._parts, self._target.bucket, task.key) if resumable and self._parts else None
        begun = self._resume(task, stamp, log) if log else None
        if begun is None:
            answer = self._store.call("create_multipart_upload", Key=task.key, ContentType=task.content_type)
            upload_id, part = str(answer["UploadId"]), part_bytes(stamp.size)
            begun = log.begin(upload_id, stamp, part) if log else Begun(upload_id, stamp, part, {})
        try:
            etags = self._send_missing(task, descriptor, begun, log)
            answer = self._store.call(
                "complete_multipart_upload",
                Key=task.key,
                UploadId=begun.upload_id,
                MultipartUpload={"Parts": [{"PartNumber": n, "ETag": f'"{etags[n]}"'} for n in sorted(etags)]},
                **self._create(),
            )
        except Exception:
            if log is None:
                self._abort(task.key, begun.upload_id)
            raise
        if log:
            log.end()
        return str(answer.get("ETag", "")).strip('"')

    def _resume(self, task: Task, stamp: Stamp, log: PartLog) -> Begun | None:
        """Return the upload to go on with: its parts are those that the bucket lists as we sent them."""
        begun = log.read()
        if begun is None:
            return None
        if begun.stamp != replace(stamp, device=0) or begun.part != part_bytes(stamp.size):
            self._abort(task.key, begun.upload_id)
            log.end()
            return None
        try:
            listed = dict(self._list_parts(task.key, begun.upload_id))
        except StoreError as error:
            if error.code != "NoSuchUpload":
                raise
            log.end()
            return None
        held = {
            number: etag
            for number, etag in begun.sent.items()
            if listed.get(number) == (etag, _part_length(stamp.size, begun.part, number))
        }
        return Begun(begun.upload_id, stamp, begun.part, held)

    def _list_parts(self, key: str, upload_id: str) -> Iterator[tuple[int, tuple[str, int]]]:
        marker = 0
        while True:
            answer = self._store.call("list_parts", Key=key, UploadId=upload_id, PartNumberMarker=marker)
            for item in answer.get("Parts", ()):
                yield item["PartNumber"], (item["ETag"].strip('"'), item["Size"])
            if not answer.get("IsTruncated"):
                return
            marker = int(answer["NextPartNumberMarker"])

    def _send_missing(self, task: Task, descriptor: int, begun: Begun, log: PartLog | None) -> dict[int, str]:
        count = -(-begun.stamp.size // begun.part)
        etags = dict(begun.sent)
        missing = [number for number in range(1, count + 1) if number not in etags]

        def send_part(number: int) -> tuple[int, str]:
            length = _part_length(begun.stamp.size, begun.part, number)
            body = Section(descriptor, (number - 1) * begun.part, length, self.stop)
            answer = self._store.call(
                "upload_part",
                Key=task.key,
                UploadId=begun.upload_id,
                PartNumber=number,
                Body=body,
                ContentLength=length,
                ContentMD5=base64.b64encode(body.digest()).decode(),
            )
            etag = str(answer["ETag"]).strip('"')
            if log:
                log.add(begun.upload_id, number, etag)
            return number, etag

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            futures = [pool.submit(send_part, number) for number in missing]
            try:
                etags.update(future.result() for future in futures)
            finally:
                for future in futures:
                    future.cancel()
        return etags

    def _abort(self, key: str, upload_id: str) -> None:
        try:
            self._store.call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except StoreError:
            return  # its parts stay until the sweep or the bucket's lifecycle rule takes them


def _part_length(size: int, part: int, number: int) -> int:
    return min(part, size - (number - 1) * part)


class Multipart:
    """See ``lading.transfer.engine.Engine``.

    ``journal`` is the directory of the journals: with it, files of at least
    ``resume_bytes`` go on where an earlier run stopped.
    """

    name = "multipart"
    atomic_create = True

    def __init__(
        self,
        target: Target,
        store: "Store",
        *,
        journal: Path | None = None,
        resume_bytes: int = RESUME_BYTES,
    ) -> None:
        self.window = 2 * target.workers
        self._store = store
        self._uploader = Uploader(self._store, target, journal, resume_bytes)
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._outstanding = 0
        self._workers = target.workers
        self._threads: list[threading.Thread] = []

    @property
    def outstanding(self) -> int:
        """How many submitted tasks have no outcome yet."""
        return self._outstanding

    def accepts(self, task: Task) -> str | None:
        """Take every task."""
        return None

    def submit(self, task: Task) -> None:
        """Hand over one task."""
        if len(self._threads) < min(self._workers, self._outstanding + 1):
            thread = threading.Thread(target=self._work, daemon=True, name=f"multipart-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()
        self._outstanding += 1
        self._tasks.put(task)

    def poll(self, timeout: float) -> list[Outcome]:
        """Return what has come, waiting at most ``timeout`` seconds for the first."""
        found: list[Outcome] = []
        wait = timeout if self._outstanding else 0.0
        try:
            found.append(self._done.get(timeout=wait) if wait > 0 else self._done.get_nowait())
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            self._outstanding -= len(found)
            return found

    def drain(self) -> None:
        """Know that nothing more will be submitted: it ends when it is closed."""

    def close(self) -> None:
        """End everything now: bodies stop in mid-stream; a thread that waits for an answer ends with its request."""
        self._uploader.stop.set()
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        self._outstanding = 0

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._uploader.stop.is_set():
            self._done.put(self._carry(task))

    def _carry(self, task: Task) -> Outcome:
        try:
            return Outcome(task, etag=self._uploader.send(task) or None)
        except StoreError as error:
            return Outcome(task, error.failure, str(error))
        except OSError as error:
            return Outcome(task, Failure.OBJECT, error.strerror or str(error))
        except LadingError as error:
            return Outcome(task, Failure.TRANSIENT, str(error))
        except Exception as error:  # noqa: BLE001 - a thread that died would leave its task without an outcome
            return Outcome(task, Failure.OBJECT, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def resumable(journal: Path) -> set[str]:
    """Return the ids of the uploads that a later run would go on with."""
    kept = set()
    for path in sorted((journal / "parts").glob("*.jsonl")):
        for record in read_log(path):
            if record and record["kind"] == "upload":
                kept.add(record["id"])
    return kept
