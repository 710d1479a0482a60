"""What was sent, compared with what the tasks before the upload had made.

Input: records of the tasks (``lading.sessions.provenance``), rows of manifests. Output: why
an object is not the one of its record, or nothing.
Invariant: there is one comparison. The upload ends, and a source may go, only
where it finds nothing. What has a record and no row was not sent, whatever
happened to it between its task and the upload.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lading.checksums.digest import FileState
from lading.core.errors import ConsistencyError
from lading.verification.manifest import ManifestRow

# Names of what the disagreement of one upload says in one sentence.
SHOWN = 5
ABSENT = "is not verified to be in the bucket"
OTHER = "in the bucket is not what was read from it"


@dataclass(frozen=True, slots=True)
class Expected:
    """A file that is to be sent: bytes, SHA-256 (None: not known), and its state where that may not change."""

    size: int
    sha256: str | None
    state: FileState | None = None


def contradiction(size: int, sha256: str | None, row: ManifestRow | None) -> str:
    """Return why the object of a row, None for none, is not what a record says, or an empty string."""
    if row is None:
        return ABSENT
    found = row.sha256 or row.file_sha256
    if row.size != size or (sha256 and found and found != sha256):
        return OTHER
    return ""


class Outdated(ConsistencyError):
    """What was sent is not what tasks had made; ``again`` names those (task, part) that must be done once more."""

    def __init__(self, sentence: str, again: Iterable[tuple[str, str]]) -> None:
        super().__init__(sentence)
        self.again = tuple(again)


class Delivery:
    """Compares the rows of manifests with what was to be sent; ``faults`` names what differs, by who made it."""

    def __init__(self, expected: Mapping[str, Mapping[str, Expected]]) -> None:
        """``expected`` maps a maker to the files, by their paths below the prefix."""
        self._left = {path: (maker, file) for maker, files in expected.items() for path, file in files.items()}
        self._faults: dict[str, list[str]] = {}

    def take(self, path: str, row: ManifestRow, unmoved: bool) -> None:
        """Compare the row of a path below the prefix; ``unmoved``: its file was sent in the state that is expected."""
        maker, file = self._left.pop(path, ("", None))
        if file is None:
            return
        if contradiction(file.size, file.sha256, row):
            self._fault(maker, f"{path} is not the file that was made")
        elif not unmoved:
            self._fault(maker, f"{path} changed before it was sent")

    def state(self, path: str) -> FileState | None:
        """Return the state that a file must have been sent in, None where that is free or the path is nobody's."""
        return self._left[path][1].state if path in self._left else None

    def faults(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each maker with its files that were not sent, or not as it made them."""
        for path, (maker, _) in self._left.items():
            self._fault(maker, f"{path} was not there to be sent")
        self._left.clear()
        yield from sorted(self._faults.items())

    def _fault(self, maker: str, sentence: str) -> None:
        self._faults.setdefault(maker, []).append(sentence)
