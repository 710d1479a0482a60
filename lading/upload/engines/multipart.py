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
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lading.checksums.digest import PART_BYTES, FileState, part_bytes, start_hash
from lading.core.atomic import AppendLog, read_log
from lading.core.worker_threads import Leash, WorkerPool, WorkersStopped
from lading.journal.records import is_sound
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import Target
from lading.upload.engines.base import UploadTask
from lading.upload.engines.threads import ChangedFile, Section, ThreadEngine

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

RESUME_BYTES = 20 * 10**9
PARTS_AT_ONCE = 4
SentPart = tuple[str, str | None]  # ETag, and the checksum that was sent with it
_WRITING = threading.Lock()  # of all logs: a thread that was left behind may still be at one


@dataclass(frozen=True)
class Begun:
    """A multipart upload that exists in the bucket: its id, and the ETag of each part as sent, with its checksum."""

    upload_id: str
    stamp: FileState
    part: int
    sent: Mapping[int, SentPart]
    stored_with: str = ""


class PartLog:
    """The log of one upload, as in the module's description."""

    def __init__(self, directory: Path, bucket: str, key: str) -> None:
        name = hashlib.sha256(f"{bucket}/{key}".encode()).hexdigest()[:32]
        self._path = directory / f"{name}.jsonl"
        self._key = f"{bucket}/{key}"

    def read(self) -> Begun | None:
        """Return the upload that was begun last, or None."""
        begun: dict[str, Any] | None = None
        sent: dict[int, SentPart] = {}
        if not self._path.exists():
            return None
        for record in read_log(self._path):
            if record is None or not is_sound(record):
                continue  # a damaged line: that part counts as unsent
            if record["kind"] == "upload" and record["key"] == self._key:
                begun, sent = record, {}
            elif record["kind"] == "part" and begun and record["id"] == begun["id"]:
                sent[record["n"]] = record["etag"], None
        if begun is None:
            return None
        stored_with = str(begun.get("with", ""))
        return Begun(begun["id"], FileState(*begun["stamp"][:4]), begun["part"], sent, stored_with)

    def begin(self, upload_id: str, stamp: FileState, part: int, stored_with: str) -> Begun:
        """Write down a new upload before its first part is sent; ``stored_with``: a digest of its settings."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        values = [stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode]
        more = {"with": stored_with} if stored_with else {}
        self._write({"kind": "upload", "key": self._key, "id": upload_id, "stamp": values, "part": part, **more})
        return Begun(upload_id, stamp, part, {}, stored_with)

    def add(self, upload_id: str, number: int, etag: str) -> None:
        """Write down that a part was sent; durable on return."""
        self._write({"kind": "part", "id": upload_id, "n": number, "etag": etag})

    def end(self) -> None:
        """Forget the upload: it is complete, or gone."""
        self._path.unlink(missing_ok=True)

    def _write(self, record: Mapping[str, Any]) -> None:
        with _WRITING, AppendLog(self._path) as log:
            log.append([record])


class Uploader:
    """Sends one file at a time through a store, for threads of one leash."""

    def __init__(
        self, store: "ObjectStore", target: Target, journal: Path | None, resume_bytes: int, parts: int
    ) -> None:
        self._store = store
        self._target = target
        self._parts = journal / "parts" if journal else None
        self._resume_bytes = resume_bytes
        self._at_once = parts

    def send(self, task: UploadTask, leash: Leash) -> str:
        """Send a file; returns the server's ETag. Raises ``StoreError``, ``OSError``, ``WorkersStopped``."""
        descriptor = self._target.open(task)
        try:
            stamp = FileState.of(os.fstat(descriptor))
            if stamp.size != task.size:
                raise ChangedFile(0, f"it has {stamp.size:,} bytes now, and had {task.size:,} a moment ago")
            if stamp.size <= PART_BYTES:
                etag = self._send_whole(task, descriptor, stamp, leash)
            else:
                etag = self._send_parts(task, descriptor, stamp, leash)
            _check(descriptor, stamp)
            return etag
        finally:
            os.close(descriptor)

    def _send_whole(self, task: UploadTask, descriptor: int, stamp: FileState, leash: Leash) -> str:
        body = Section(descriptor, 0, stamp.size, leash)
        md5, checksum = self._digest(body)
        _check(descriptor, stamp)
        create, wanted = self._target.no_overwrite, task.attributes
        return self._store.put(
            task.key, body, task.content_type, create=create, md5=md5, checksum=checksum, attributes=wanted
        )

    def _digest(self, body: Section) -> tuple[bytes, str | None]:
        """Return the MD5 of what is sent, and its checksum by the algorithm that was asked for, base64."""
        algorithm = self._target.manner.checksum
        if algorithm is None:
            return body.digest(start_hash("md5"))[0], None
        md5, other = body.digest(start_hash("md5"), start_hash(algorithm.lower()))
        return md5, base64.b64encode(other).decode()

    def _send_parts(self, task: UploadTask, descriptor: int, stamp: FileState, leash: Leash) -> str:
        resumable = self._parts is not None and stamp.size >= self._resume_bytes
        log = PartLog(self._parts, self._target.bucket, task.key) if resumable and self._parts else None
        begun = self._resume(task, stamp, log) if log else None
        if begun is None:
            upload_id = self._store.multipart.begin(task.key, task.content_type, task.attributes)
            part = part_bytes(stamp.size)
            begun = (
                log.begin(upload_id, stamp, part, self._stored_with(task)) if log else Begun(upload_id, stamp, part, {})
            )
        try:
            sent = self._send_missing(task, descriptor, begun, log, leash)
            _check(descriptor, stamp)
            etags, checksums = zip(*(sent[number] for number in sorted(sent)))
            create = self._target.no_overwrite
            etag = self._store.multipart.finish(task.key, begun.upload_id, etags, create=create, checksums=checksums)
        except BaseException:
            if log is None:
                self._abort(task.key, begun.upload_id)
            raise
        if log:
            leash.check()
            log.end()
        return etag

    def _stored_with(self, task: UploadTask) -> str:
        """Return a digest of what an object is to be stored with, which the beginning of an upload settles."""
        wanted = task.attributes.parameters() | {"checksum": self._target.manner.checksum}
        if not any(wanted.values()):
            return ""
        return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]

    def _resume(self, task: UploadTask, stamp: FileState, log: PartLog) -> Begun | None:
        """Return the upload to go on with: its parts are those that the bucket lists as we sent them."""
        begun = log.read()
        if begun is None:
            return None
        same = begun.stamp == replace(stamp, device=0) and begun.part == part_bytes(stamp.size)
        if not same or begun.stored_with != self._stored_with(task):
            self._abort(task.key, begun.upload_id)
            log.end()
            return None
        try:
            parts = list(self._store.multipart.list_parts(task.key, begun.upload_id))
        except StoreError as error:
            if error.code != "NoSuchUpload":
                raise
            log.end()
            return None
        needs = self._target.manner.checksum is not None  # with each part, to finish; a server may not list them
        held = {
            number: (etag, checksum)
            for number, etag, size, checksum in parts
            if begun.sent.get(number, ("", None))[0] == etag
            and size == _part_length(stamp.size, begun.part, number)
            and (checksum or not needs)
        }
        return Begun(begun.upload_id, stamp, begun.part, held)

    def _send_missing(
        self, task: UploadTask, descriptor: int, begun: Begun, log: PartLog | None, leash: Leash
    ) -> dict[int, SentPart]:
        count = -(-begun.stamp.size // begun.part)
        sent = dict(begun.sent)
        missing = [number for number in range(1, count + 1) if number not in sent]

        def send_part(number: int) -> tuple[int, SentPart]:
            length = _part_length(begun.stamp.size, begun.part, number)
            body = Section(descriptor, (number - 1) * begun.part, length, leash)
            md5, checksum = self._digest(body)
            etag = self._store.multipart.put_part(task.key, begun.upload_id, number, body, md5, checksum)
            leash.check()
            if log:
                log.add(begun.upload_id, number, etag)
            return number, (etag, checksum)

        if self._at_once == 1:
            sent.update(map(send_part, missing))
            return sent
        pool = WorkerPool(min(self._at_once, len(missing) or 1), "part", leash)
        try:
            futures = [pool.submit(send_part, number) for number in missing]
            sent.update(future.result() for future in futures)
        finally:
            # All of them, since they read from the descriptor: none begins, and a cut leash ends those at work.
            pool.shutdown(wait=True, cancel_futures=True)
        return sent

    def _abort(self, key: str, upload_id: str) -> None:
        try:
            self._store.multipart.abort(key, upload_id)
        except (StoreError, WorkersStopped):
            return  # its parts stay until the sweep or the bucket's lifecycle rule takes them


def _check(descriptor: int, stamp: FileState) -> None:
    if FileState.of(os.fstat(descriptor)) != stamp:
        raise ChangedFile(0, "it changed while it was sent")


def _part_length(size: int, part: int, number: int) -> int:
    return min(part, size - (number - 1) * part)


class MultipartEngine(ThreadEngine):
    """See ``lading.upload.engines.base.Engine``.

    ``journal`` is the directory of the journals: with it, files of at least
    ``resume_bytes`` go on where an earlier run stopped.
    """

    name = "multipart"

    def __init__(
        self,
        target: Target,
        store: "ObjectStore",
        *,
        journal: Path | None = None,
        resume_bytes: int = RESUME_BYTES,
        parts_at_once: int = PARTS_AT_ONCE,
    ) -> None:
        super().__init__(target.workers)
        self._uploader = Uploader(store, target, journal, resume_bytes, parts_at_once)

    def _send(self, task: UploadTask, leash: Leash) -> str:
        return self._uploader.send(task, leash)


def resumable(journal: Path) -> set[str]:
    """Return the ids of the uploads that a later run would go on with."""
    kept = set()
    for path in sorted((journal / "parts").glob("*.jsonl")):
        for record in read_log(path):
            if record and is_sound(record) and record["kind"] == "upload":
                kept.add(record["id"])
    return kept
