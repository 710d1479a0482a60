"""What a source that is read whole has changed since the last import of it.

Input: rows of a source in key order, the manifest of the last import, a time.
Output: rows for the next manifest, and how many are new, changed and gone.
Invariant: a source that is read whole has the say: what it lacks is gone, and
an object that differs is taken, however old it says it is (a version that was restored is).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from lading.core.errors import ConsistencyError
from lading.verification.manifest import Manifest, ManifestHeader, ManifestRow


@dataclass
class ChangedRows:
    """Rows since ``since`` (ISO 8601, UTC), beside those of the manifest ``held``; what changed is counted on the way.

    ``restored`` of those that are new or changed are older than ``since``: a version or a deletion was taken back.
    """

    held: Manifest | None
    since: str
    new: int = 0
    changed: int = 0
    removed: int = 0
    restored: int = 0

    def rows(self, found: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
        """Yield a row for every one of ``found``: as it was where nothing of it changed."""
        since = datetime.fromisoformat(self.since)
        before = iter(self.held.rows() if self.held else ())
        here = next(before, None)
        for row in found:
            order = _order(row)
            while here is not None and _order(here) < order:
                self.removed += 1
                here = next(before, None)
            known = here if here is not None and here.key == row.key else None
            if known is not None:
                here = next(before, None)
                if _object(known) == _object(row):
                    # Only what is told of it may be new.
                    yield row if datetime.fromisoformat(row.uploaded_at) >= since else known
                    continue
                self.changed += 1
            else:
                self.new += 1
            self.restored += datetime.fromisoformat(row.uploaded_at) < since
            yield row
        while here is not None:
            self.removed += 1
            here = next(before, None)

    def __str__(self) -> str:
        older = f" ({self.restored:,} of them older: taken back)" if self.restored else ""
        return f"since {self.since}: {self.new:,} new, {self.changed:,} changed{older}, {self.removed:,} removed"


def check_same_source(held: Manifest, header: ManifestHeader) -> None:
    """Raise ``ConsistencyError`` when the last import was of another place: its rows say nothing of this one."""
    before, now = (f"s3://{place.bucket}/{place.prefix}" for place in (held.header, header))
    if before != now:
        raise ConsistencyError(
            f"{held} is of {before}, not of {now}; give another file by --output, or leave --since away"
        )


def _order(row: ManifestRow) -> bytes:
    return row.key.encode("utf-8", "surrogateescape")


def _object(row: ManifestRow) -> tuple[object, ...]:
    return row.path, row.size, row.etag, row.version_id, row.md5, row.sha256
