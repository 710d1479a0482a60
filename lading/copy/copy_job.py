"""What is to be copied, and what came of it.

Invariant: a ``ProvenCopy`` is made of what the second place itself says or gives back, never of a request's success.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lading.copy.copy_log import ProvenCopy
from lading.core.errors import LadingError
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.readable_store import ReadableStore
from lading.verification.manifest import ManifestRow

DAMAGED, REFUSED, FAILED = "source", "refused", "failed"


class CopyFault(LadingError):
    """One object was not copied: ``kind`` says whose fault it is."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class CopyJob:
    """One object: its row, the key at the second place, the version to read, what is there and may be replaced."""

    row: ManifestRow
    key: str
    version_id: str | None = None
    there: ObjectInfo | None = None
    storage_class: str | None = None


@dataclass(frozen=True, slots=True)
class CopyOutcome:
    """A proven object. ``streamed``: bytes that went through this machine; ``lacking``: what it was not stored with.

    ``held``: what the destination keeps until ``settle``.
    """

    proven: ProvenCopy
    streamed: int = 0
    lacking: tuple[str, ...] = ()
    held: object = None
    unproven: bool = False


class CopyDestination(Protocol):
    """A second place that objects are copied to. Safe to use from many threads, but for ``settle``."""

    url: str
    endpoint: str | None
    prefix: str

    @property
    def store(self) -> ReadableStore:
        """Return what lists and reads it."""
        ...

    def describe(self) -> str:
        """Return how objects come there, for people."""
        ...

    def adopt(self, job: CopyJob, there: ObjectInfo) -> ProvenCopy | None:
        """Return the proof that what is there is the object; None where it is another one."""
        ...

    def transfer(self, job: CopyJob) -> CopyOutcome:
        """Copy one object and prove it; raises ``CopyFault`` or ``StoreError``."""
        ...

    def settle(self, outcomes: Sequence[CopyOutcome]) -> Sequence[CopyOutcome | CopyFault]:
        """Make what was copied last; called before it is written down."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
