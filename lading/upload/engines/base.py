"""What every engine that carries files to the bucket must do.

Input: tasks, one file each. Output: exactly one outcome per task, in any
order.
Invariant: an outcome is a *claim*, never a proof: the caller believes only
the bucket's own listing (``ship.py``). So an engine may be wrong about
success, but must not be silent.

Conformance (``tests/integration/test_engines.py`` runs every engine through it):

1. ``submit`` returns without waiting for the transfer; ``outstanding`` rises
   by one. The caller never submits above ``window``.
2. ``poll`` returns within ``timeout`` plus a moment; each submitted task
   comes out of it exactly once, whatever happens: a dead child process, a
   refused name, a file that vanished. ``outstanding`` falls by the number of
   outcomes returned.
3. After a failure the engine goes on: the next ``submit`` works (a child that
   died is started again), and tasks in flight when a child died come out as
   ``TRANSIENT``.
4. The object holds the file's bytes, ``content_type`` and ``attributes``; nothing else is set,
   but what ``Target.manner`` names (encryption, ACL, checksum). A file is reached by ``Target.open`` or ``hold``,
   never by its path: what took its place is an ``OBJECT`` failure. A key is used as it stands: no globbing, no
   normalising, no prefix added.
5. With ``no_overwrite`` an engine that can create atomically reports an
   existing key as ``REFUSED``; ``atomic_create`` says whether it can.
6. ``accepts`` tells, before anything is sent, why a task cannot go by this
   engine (None: it can). ``submit`` of an unaccepted task is a caller's error.
7. ``close`` ends everything at once, at any time, twice without harm: no
   child process and no thread is left. Tasks in flight get no outcome. A
   later ``submit`` starts afresh (the stall watchdog closes and goes on).
8. No message carries a secret; messages are one line.
9. Whatever is raised while a task is worked on is its outcome, and an answer
   without what it must hold (an upload id, an ETag) is a failure. A file that
   is shorter or longer than its task says comes out as any other, at once.
10. ``moved`` tells when the last byte moved, so that the caller notices a
   server that went silent; None where the engine cannot know, 0.0 before it
   began. ``close`` returns within some seconds even when threads hang in a
   socket: what does not end is left behind, and begins no other request.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from lading.core.opening import SeenFile
from lading.objectstore.object_attributes import PLAIN_OBJECT, ObjectAttributes
from lading.objectstore.target import FailureKind

LIGHT_BYTES = 2 << 20  # outstanding per worker
MOST_LIGHT_BYTES = 64 << 20  # of all workers: sent within the grace of a stop at 4 MB/s


@dataclass(frozen=True, slots=True)
class UploadTask:
    """One file to carry.

    path          absolute; lone surrogates stand for bytes that are no UTF-8 (``os.fsencode`` gives them back)
    key           full key in the bucket, valid UTF-8
    size          bytes, from the stat just before; mtime_ns: likewise
    content_type  MIME type to store; attributes: what else the object is stored with
    seen          the file as it was looked at just before: what is sent is this file, or one as long
    """

    path: str
    key: str
    size: int
    mtime_ns: int
    content_type: str = "application/octet-stream"
    seen: SeenFile | None = None
    attributes: ObjectAttributes = PLAIN_OBJECT


@dataclass(frozen=True, slots=True)
class TransferOutcome:
    """What an engine says happened to a task; ``etag`` without quotes where the engine learns it.

    ``answered`` tells of a failure whether it rests on an answer of the server.
    """

    task: UploadTask
    failure: FailureKind | None = None
    message: str = ""
    etag: str | None = None
    answered: bool = False

    @property
    def ok(self) -> bool:
        """True when the engine believes the object is stored."""
        return self.failure is None


def choose_window(workers: int, outstanding_bytes: int, wide: int) -> int:
    """Return how many tasks may be outstanding: ``wide`` a worker while they are small, so that the caller's pauses do
    not show, and two once many bytes are on their way, so that a stop drains them within its grace.
    """
    return (wide if outstanding_bytes < min(LIGHT_BYTES * workers, MOST_LIGHT_BYTES) else 2) * workers


class Engine(Protocol):
    """A way to carry files; see the module's conformance list."""

    name: str
    atomic_create: bool

    @property
    def window(self) -> int:
        """How many tasks may be outstanding now; it may change with what they are."""
        ...

    @property
    def outstanding(self) -> int:
        """How many submitted tasks have no outcome yet."""
        ...

    @property
    def moved(self) -> float | None:
        """When bytes were last seen moving, by the monotonic clock."""
        ...

    def accepts(self, task: UploadTask) -> str | None:
        """Return why this engine cannot carry the task, or None."""
        ...

    def submit(self, task: UploadTask) -> None:
        """Hand over one task."""
        ...

    def poll(self, timeout: float) -> list[TransferOutcome]:
        """Return what has come, waiting at most ``timeout`` seconds for the first."""
        ...

    def drain(self) -> None:
        """Know that nothing more will be submitted; what is in flight goes on."""
        ...

    def close(self) -> None:
        """End everything now."""
        ...


def send(engine: Engine, tasks: Iterable[UploadTask], stop: threading.Event | None = None) -> Iterator[TransferOutcome]:
    """Send all tasks through one engine, pulling them only as the window opens.

    ``stop`` set: no further task is pulled; what is in flight is awaited.
    """
    waiting = iter(tasks)
    more = True
    while more or engine.outstanding:
        while more and engine.outstanding < engine.window and not (stop and stop.is_set()):
            task = next(waiting, None)
            if task is None:
                more = False
            else:
                engine.submit(task)
        if stop and stop.is_set():
            more = False
        if engine.outstanding:
            yield from engine.poll(1.0)
        elif more:
            time.sleep(0)
