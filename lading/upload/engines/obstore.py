"""The obstore engine: least CPU per object, an ETag per PUT, atomic creation.

Input and output: the Protocol of ``engine.py``.
Invariant: the work is done by one child process (``obstore_worker.py``); when
it dies, whatever was in flight comes out as ``TRANSIENT`` and the next
``submit`` starts another; ``close`` ends it at once.
"""

import collections
import fcntl
import json
import os
import re
import select
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from lading.checksums.digest import PART_BYTES, PARTS
from lading.core.processes import end_child
from lading.objectstore.endpoint import scrubbed_environment
from lading.objectstore.failures import classify, explain
from lading.objectstore.network import Way, choose_way
from lading.objectstore.target import FailureKind, Target
from lading.upload.engines.activity import Activity
from lading.upload.engines.base import TransferOutcome, UploadTask, choose_window

# For one request: long enough for a 50 MiB part at 90 kB/s; the caller's watchdog is shorter where bytes are counted.
REQUEST_SECONDS = 600
LINES = 128  # written at once
PIPE_BYTES = 1 << 20  # the most an unprivileged process may ask for (pipe(7))
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
_CODES = {"file": FailureKind.OBJECT, "network": FailureKind.TRANSIENT, "other": FailureKind.OBJECT}


def describe_headers(task: UploadTask) -> dict[str, str]:
    """Return what obstore calls attributes: headers by name, any other name is that of metadata."""
    attributes = task.attributes
    named = {
        "Content-Type": task.content_type,
        "Cache-Control": attributes.cache_control,
        "Storage-Class": attributes.storage_class,
    }
    return dict(attributes.metadata) | {name: value for name, value in named.items() if value}


class ObstoreEngine:
    """Carries files through one child process with ``target.workers`` threads."""

    name = "obstore"
    atomic_create = True

    def __init__(self, target: Target, *, request_seconds: float = REQUEST_SECONDS) -> None:
        self._target = target
        self._held = 0  # bytes of the tasks in ``_waiting``
        self._request_seconds = request_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, UploadTask] = {}
        self._unwritten: collections.deque[tuple[int, bytes]] = collections.deque()
        self._taken = 0  # bytes of the first of these lines that the child has already
        self._ready: collections.deque[TransferOutcome] = collections.deque()
        self._number = 0
        self._partial = b""
        self._activity: Activity | None = None

    @property
    def moved(self) -> float | None:
        """When the child was last seen reading or sending bytes."""
        return self._activity.moved() if self._activity else 0.0

    @property
    def window(self) -> int:
        """Wide for small files: the child never waits for this process."""
        return choose_window(self._target.workers, self._held, wide=16)

    def load(self) -> None:
        """Start the child process, which takes a moment, before there is something to send."""
        if self._child is None:
            self._start()
            self._write()

    @property
    def outstanding(self) -> int:
        """How many submitted tasks have no outcome yet."""
        return len(self._waiting) + len(self._ready)

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

    def submit(self, task: UploadTask) -> None:
        """Queue one task; the child gets it with the next ``poll``, many in one write."""
        self._number += 1
        self._put(self._number, task)
        row = [
            self._number,
            task.path,
            task.key,
            task.size,
            describe_headers(task),
            dict(task.attributes.tags),
            task.seen,
        ]
        self._unwritten.append((self._number, json.dumps(row).encode("ascii") + b"\n"))
        if len(self._unwritten) >= LINES:
            self._write()

    def _put(self, number: int, task: UploadTask) -> None:
        self._waiting[number] = task
        self._held += task.size

    def _drop(self, number: int) -> UploadTask:
        task = self._waiting.pop(number)
        self._held -= task.size
        return task

    def _drop_all(self) -> list[UploadTask]:
        return [self._drop(number) for number in list(self._waiting)]

    def _write(self) -> None:
        """Hand over what is queued, as much as the pipe takes: a child that hangs is no reason to wait."""
        for _ in range(2):  # a child that died since the last poll shows only when written to
            if not self._unwritten:
                return
            child = self._child or self._start()
            assert child.stdin is not None
            try:
                while self._unwritten:
                    lines = b"".join(line for _, line in islice(self._unwritten, LINES))
                    self._taken += os.write(child.stdin.fileno(), memoryview(lines)[self._taken :])
                    while self._unwritten and self._taken >= len(self._unwritten[0][1]):
                        self._taken -= len(self._unwritten.popleft()[1])
            except BlockingIOError:
                return  # the next poll goes on
            except BrokenPipeError:
                again = [(number, line, self._drop(number)) for number, line in self._unwritten if number]
                self._handle_exit()
                for number, line, task in again:
                    self._put(number, task)
                    self._unwritten.append((number, line))
        reason = "the obstore process does not stay alive; lading doctor says what is installed"
        self._ready += [TransferOutcome(self._drop(n), FailureKind.TRANSIENT, reason) for n, _ in self._unwritten if n]
        self._unwritten.clear()

    def poll(self, timeout: float) -> list[TransferOutcome]:
        """Return what has come, waiting at most ``timeout`` seconds for the first."""
        self._write()
        deadline = time.monotonic() + timeout
        while self._waiting and not self._ready and self._child:
            left = deadline - time.monotonic()
            assert self._child.stdout is not None
            if not self._readable(self._child.stdout.fileno(), max(0.0, left)):
                break
            self._read(self._child.stdout.fileno())
        found = list(self._ready)
        self._ready.clear()
        return found

    def drain(self) -> None:
        """Know that nothing more will be submitted: it ends when it is closed."""

    def close(self) -> None:
        """End everything now."""
        self._drop_all()
        self._unwritten.clear()
        self._ready.clear()
        self._handle_exit()
        self._ready.clear()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-X", "utf8", "-m", "lading.upload.engines.obstore_worker"]
        root = str(Path(__file__).resolve().parents[3])
        child = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._way().environment(scrubbed_environment(os.environ)),
            pass_fds=[self._target.root.descriptor] if self._target.root else [],
            start_new_session=True,  # a Ctrl-C is the caller's to handle: it drains first
        )
        assert child.stdin is not None
        fcntl.fcntl(child.stdin.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(child.stdin.fileno(), False)
        self._unwritten.appendleft((0, json.dumps(self._settings()).encode("ascii") + b"\n"))
        self._child, self._partial, self._taken = child, b"", 0
        self._activity = Activity(child.pid)
        return child

    def _way(self) -> Way:
        return choose_way(self._target)

    def _settings(self) -> dict[str, Any]:
        way = self._way()
        root, manner = self._target.root, self._target.manner
        return {
            "root": [root.path, root.follow, root.descriptor] if root else None,
            "bucket": self._target.bucket,
            "endpoint": self._target.endpoint,
            "region": way.region,
            "style": way.style,
            "unsigned": manner.unsigned,
            "sse": manner.sse,
            "kms_key": manner.kms_key,
            "checksum": manner.checksum,
            "payer": manner.payer,
            "workers": self._target.workers,
            "no_overwrite": self._target.no_overwrite,
            "proxy": way.proxy,
            "bundle": way.bundle,
            "part_bytes": PART_BYTES,
            "timeout": self._request_seconds,
        }

    @staticmethod
    def _readable(descriptor: int, timeout: float) -> bool:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def _read(self, descriptor: int) -> None:
        block = os.read(descriptor, PIPE_BYTES)
        if not block:
            self._handle_exit()
            return
        *lines, self._partial = (self._partial + block).split(b"\n")
        for line in lines:
            try:
                number, etag, code, message = json.loads(line)
                known = int(number) < 0 or int(number) in self._waiting
            except (ValueError, TypeError):
                known = False
            if known:
                self._take(int(number), etag, str(code), str(message))
            # Else a library printed something: tasks without an outcome are reported when the child ends.

    def _take(self, number: int, etag: str | None, code: str, message: str) -> None:
        if number < 0:  # the store could not be opened: the child's end follows and fails the rest
            failure = FailureKind.STOP if code == "other" else _CODES.get(code, classify(code))
            self._ready.extend(TransferOutcome(task, failure, message) for task in self._drop_all())
            return
        answered = code not in _CODES
        task = self._drop(number)
        if not code:
            self._ready.append(TransferOutcome(task, etag=etag or None))
            return
        failure = _CODES.get(code) or classify(code)
        if code.isdigit() and (code.startswith("5") or code == "429"):
            failure = FailureKind.TRANSIENT
        where = f" at {self._target.endpoint}" if self._target.endpoint else ""
        sentence = explain(code, message)
        if sentence:
            message = f"s3://{self._target.bucket}{where}: {sentence}"
        elif code not in _CODES:
            message = f"{code} {message}"
        self._ready.append(TransferOutcome(task, failure, message, answered=answered))

    def _handle_exit(self) -> None:
        """Collect the dead child; what it still held is reported as transient."""
        child, self._child = self._child, None
        if child is None:
            return
        end_child(child)
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            stream.close()
        self._activity = None
        self._unwritten.clear()
        self._taken = 0
        reason = "the obstore process ended"
        self._ready.extend(TransferOutcome(task, FailureKind.TRANSIENT, reason) for task in self._drop_all())
