"""Which bucket is spoken to, and what kind of failure an answer is."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lading.core.opening import Root, SeenFile, hold_plain, open_plain
from lading.objectstore.capacity import Capacity
from lading.objectstore.manner import Manner


class FailureKind(StrEnum):
    """What kind of failure: it decides what happens next."""

    TRANSIENT = "transient"  # network, 5xx, SlowDown, a stall: again after a pause
    OBJECT = "object"  # this object only (unreadable file, odd name): recorded, second client, then end of queue
    STOP = "stop"  # credentials, bucket, permission, clock: it would meet every object; the run ends
    REFUSED = "refused"  # never sent: the key exists and must not be overwritten, or the plan forbids it


class FileToOpen(Protocol):
    """A file that is opened to be sent: by path, and as it was looked at just before."""

    @property
    def path(self) -> str:
        """Return where it is."""

    @property
    def seen(self) -> SeenFile | None:
        """Return its state when it was looked at; None where nobody looked."""


@dataclass(frozen=True)
class Target:
    """Where and how an engine sends; credentials come from the environment alone.

    ``endpoint`` is None for AWS. ``proxy`` is the URL of a loopback CONNECT
    proxy that shapes the traffic, or None. ``root``: below which the files
    are opened, through no link; without it links are gone through.
    ``capacity``: what the server can hold. ``manner``: how each request is
    made. ``region``: the bucket's, where the server named another than the environment. ``profile``: of the AWS
    configuration, whose credentials are used instead of the environment's.
    """

    bucket: str
    endpoint: str | None = None
    workers: int = 32
    no_overwrite: bool = False
    proxy: str | None = None
    root: Root | None = None
    capacity: Capacity = field(default_factory=Capacity)
    manner: Manner = field(default_factory=Manner)
    region: str | None = None
    profile: str | None = None

    def open(self, task: FileToOpen) -> int:
        """Return a descriptor to read a task's file; raises ``OSError``."""
        return open_plain(task.path, task.seen) if self.root is None else self.root.open(task.path, task.seen)

    def hold(self, task: FileToOpen) -> int:
        """Return a descriptor that stands for a task's file (``Root.hold``); raises ``OSError``."""
        return hold_plain(task.path, task.seen) if self.root is None else self.root.hold(task.path, task.seen)
