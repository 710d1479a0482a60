"""What is to be copied, and what came of it.

Invariant: a ``ProvenCopy`` is made of what the second place itself says or gives back, never of a request's success.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lading.copy.copy_log import ProvenCopy
from lading.core.appear import Taken, TakenByDirectory
from lading.core.errors import LadingError
from lading.core.target_tree import UnsafePath
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.readable_store import ReadableStore
from lading.verification.manifest import ManifestRow

DAMAGED, REFUSED, FAILED, UNFIT = "source", "refused", "failed", "unfit"


class CopyFault(LadingError):
    """One object was not copied: ``kind`` says whose fault it is."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


# Of a name that is too long, and of one whose directory is a file or the other way round.
_UNFIT = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR)


def classify(error: OSError | LadingError) -> CopyFault:
    """Return whose fault an error is: what a name cannot be there will not be at the next run either."""
    if isinstance(error, OSError):
        return CopyFault(UNFIT if error.errno in _UNFIT else FAILED, error.strerror or str(error))
    if isinstance(error, Taken) and not isinstance(error, TakenByDirectory):
        return CopyFault(REFUSED, str(error))
    return CopyFault(UNFIT if isinstance(error, UnsafePath | TakenByDirectory) else FAILED, str(error))


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

    def looks_copied(self, row: ManifestRow, there: ObjectInfo) -> bool:
        """Tell whether the listing does not speak against what is known of a copy; size and ETag are equal."""
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
