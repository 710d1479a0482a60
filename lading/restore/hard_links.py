"""Which files of a manifest are one file with several names.

Input: rows in the manifest's order. Output: for a later name of a file, the
row and the future of the first.
Invariant: two names are one file only if the crawl saw one inode and the
recorded digests are equal; a group is forgotten when all its names came by.
"""

from concurrent.futures import Future
from dataclasses import dataclass

from lading.verification.manifest import ManifestRow

_Group = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """Which file has a row's name now; ``fresh``: it was not there before."""

    fresh: bool
    device: int
    inode: int


@dataclass
class FirstName:
    """The first name of a file: its row, how restoring it goes, and how many names are to come."""

    row: ManifestRow
    done: "Future[RestoredFile]"
    left: int


class HardLinks:
    """Remembers the first name of each file that has several."""

    def __init__(self) -> None:
        self._groups: dict[_Group, FirstName] = {}

    def first(self, row: ManifestRow) -> FirstName | None:
        """Return the first name of the row's file; None for a file with one name, and for the first."""
        group = _group(row)
        known = self._groups.get(group) if group else None
        if known is None or group is None:
            return None
        known.left -= 1
        if known.left <= 0:
            del self._groups[group]
        return known

    def note(self, row: ManifestRow, done: "Future[RestoredFile]") -> None:
        """Remember a row that is being restored."""
        if (group := _group(row)) and row.metadata is not None:
            self._groups[group] = FirstName(row, done, row.metadata.links - 1)


def _group(row: ManifestRow) -> _Group | None:
    found = row.metadata
    if found is None or found.inode is None or found.links < 2:
        return None
    digest = row.sha256 or row.file_sha256 or row.md5
    return (found.inode, row.size, digest) if digest else None
