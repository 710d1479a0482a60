"""What engines share whose work is done by one child process of Python.

Input and output: the Protocol of ``base.py``. A subclass names the module to run, its settings and what a task is
told by. The child reads and writes as ``child_worker.py`` says.
Invariant: when the child dies, whatever was in flight comes out as
``TRANSIENT`` and the next ``submit`` starts another; ``close`` ends it at once.
"""

import collections
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from lading.core.processes import end_child
from lading.objectstore.endpoint import scrubbed_environment
from lading.objectstore.failures import classify, explain
from lading.objectstore.network import Way, choose_way
from lading.objectstore.target import FailureKind, Target
from lading.upload.engines.activity import Activity
from lading.upload.engines.base import TransferOutcome, UploadTask, choose_window

LINES = 128  # written at once
PIPE_BYTES = 1 << 20  # the most an unprivileged process may ask for (pipe(7))
# Of failures for which S3 has no code; ``nonsense``: success that lacks what it must hold.
_CODES = {
    "file": FailureKind.OBJECT,
    "network": FailureKind.TRANSIENT,
    "nonsense": FailureKind.TRANSIENT,
    "other": FailureKind.OBJECT,
    "credentials": FailureKind.STOP,
}
_UNANSWERED = ("file", "network", "other", "credentials")


class ChildEngine(ABC):
    """Carries files through one child process."""

    name = "child"
    atomic_create = True
    _module = ""  # what the child runs
    _variables: ClassVar[dict[str, str]] = {}  # of its environment, unless the site has set them

    def __init__(self, target: Target) -> None:
        self._target = target
        self._held = 0  # bytes of the tasks in ``_waiting``
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

    @abstractmethod
    def accepts(self, task: UploadTask) -> str | None:
        """Return why this engine cannot carry the task, or None."""

    @abstractmethod
    def _describe(self, task: UploadTask) -> list[Any]:
        """Return what the child is told of a task, after its number."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Return what the child is told first; ``_shared_settings`` and more."""

    @property
    def outstanding(self) -> int:
        """How many submitted tasks have no outcome yet."""
        return len(self._waiting) + len(self._ready)

    def submit(self, task: UploadTask) -> None:
        """Queue one task; the child gets it with the next ``poll``, many in one write."""
        self._number += 1
        self._put(self._number, task)
        line = json.dumps([self._number, *self._describe(task)]).encode("ascii") + b"\n"
        self._unwritten.append((self._number, line))
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
        reason = f"the {self.name} process does not stay alive; lading doctor says what is installed"
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

    def drain(self) -> None:  # noqa: B027  # nothing is held back here
        """Know that nothing more will be submitted: it ends when it is closed."""

    def close(self) -> None:
        """End everything now."""
        self._drop_all()
        self._unwritten.clear()
        self._ready.clear()
        self._handle_exit()
        self._ready.clear()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-X", "utf8", "-m", self._module]
        root = str(Path(__file__).resolve().parents[3])
        child = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._variables | self._way().environment(scrubbed_environment(os.environ)),
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

    def _shared_settings(self) -> dict[str, Any]:
        way, root, manner = self._way(), self._target.root, self._target.manner
        return {
            "root": [root.path, root.follow, root.descriptor] if root else None,
            "bucket": self._target.bucket,
            "endpoint": self._target.endpoint,
            "region": way.region,
            "style": way.style,
            "bundle": way.bundle,
            "unsigned": manner.unsigned,
            "checksum": manner.checksum,
            "workers": self._target.workers,
            "no_overwrite": self._target.no_overwrite,
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
                number, etag, code, message, operation = json.loads(line)
                known = int(number) < 0 or int(number) in self._waiting
            except (ValueError, TypeError):
                known = False
            if known:
                self._take(int(number), etag, str(code), str(message), str(operation))
            # Else a library printed something: tasks without an outcome are reported when the child ends.

    def _take(self, number: int, etag: str | None, code: str, message: str, operation: str) -> None:
        if number < 0:  # the store could not be opened: the child's end follows and fails the rest
            failure = FailureKind.STOP if code == "other" else _CODES.get(code, classify(code))
            self._ready.extend(TransferOutcome(task, failure, message) for task in self._drop_all())
            return
        answered = code not in _UNANSWERED
        task = self._drop(number)
        if not code:
            self._ready.append(TransferOutcome(task, etag=etag or None))
            return
        failure = _CODES.get(code) or classify(code)
        if code.isdigit() and (code.startswith("5") or code == "429"):
            failure = FailureKind.TRANSIENT
        where = f" at {self._target.endpoint}" if self._target.endpoint else ""
        sentence = explain(code, message, operation)
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
        reason = f"the {self.name} process ended"
        self._ready.extend(TransferOutcome(task, FailureKind.TRANSIENT, reason) for task in self._drop_all())
