"""What an archive says of its objects becomes rows of a manifest.

Input: ``ClaimedObject`` values in any order a source has them. Output: rows, each
with its level: what it rests on; and why the others are no rows.
Invariant: nothing was read or compared here, and no row says so. An object
without a digest that was asked for makes no row, nor does one whose path no
clone could have; the manifest is not complete then.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from operator import eq
from pathlib import Path

from lading.core.errors import ConsistencyError, LadingError
from lading.mirror.git.portable_names import unfit
from lading.verification.manifest import (
    LISTED,
    SIZE_ONLY,
    ManifestHeader,
    ManifestRow,
    read_manifest,
    write_manifest,
)

MOST_NAMED = 20
MOST_REASONS = 10_000
BATCH = "import"
_MD5, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")


class Level(StrEnum):
    """What a row rests on, as the manifest writes it."""

    SHA256 = "sha256 by the archive"
    MD5 = "md5 by the archive"
    ETAG = "md5 etag"
    SIZE = SIZE_ONLY


# What ``--accept`` takes: digests that the archive gives as such, ETags that look like an MD5, too, or everything.
ACCEPTED = {
    "digest": (Level.SHA256, Level.MD5),
    "etag": (Level.SHA256, Level.MD5, Level.ETAG),
    "size": tuple(Level),
}


@dataclass(frozen=True, slots=True)
class ClaimedObject:
    """One object as a source tells of it; ``path`` is its name in the release, ``modified`` ISO 8601.

    ``also``: more names in the release that it has.
    """

    path: str
    key: str
    size: int
    etag: str
    modified: str
    version_id: str | None = None
    md5: str | None = None
    sha256: str | None = None
    also: tuple[str, ...] = ()

    def level(self) -> Level:
        """Return the strongest that is known of its content."""
        if self.sha256:
            return Level.SHA256
        if self.md5:
            return Level.MD5
        # The ETag of an object in parts has a dash, and no digest of the whole.
        return Level.ETAG if _MD5.fullmatch(self.etag) else Level.SIZE

    def fault(self) -> str | None:
        """Return why this can be no row, or None."""
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            return "its sha256 is not 64 hex digits"
        if self.md5 is not None and not _MD5.fullmatch(self.md5):
            return "its md5 is not 32 hex digits"
        for path in (self.path, *self.also):
            if reason := unfit(path):
                return f"no clone can have its path: {reason}"
        return None


@dataclass
class ClaimedRows:
    """Makes rows, and counts what was taken and what was not."""

    accept: str
    levels: dict[Level, int] = field(default_factory=dict)
    bytes: int = 0
    markers: int = 0
    refused: int = 0
    named: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def rows(self, objects: Iterable[ClaimedObject]) -> Iterator[ManifestRow]:
        """Yield a row for every object that can be one; they must come in the order of their keys."""
        previous: bytes | None = None
        for item in objects:
            order = item.key.encode("utf-8", "surrogateescape")
            if previous is not None and order < previous:
                raise ConsistencyError(
                    f"the source lists {item.key!r} after a later key, so objects may be missing; nothing was written"
                )
            if order == previous:
                self.refuse(item.path, f"its object {item.key!r} is listed twice, and a manifest has each key once")
                continue
            previous = order
            if item.key.endswith("/") and not item.size:
                self.markers += 1  # what consoles make for an empty folder
                continue
            reason = item.fault()
            level = item.level()
            if reason is None and level not in ACCEPTED[self.accept]:
                reason = f"all that is known of its content: {level}"
            if reason is not None:
                self.refuse(item.path, reason)
                continue
            self.levels[level] = self.levels.get(level, 0) + 1
            self.bytes += item.size
            yield _row(item, level)

    def refuse(self, name: str, reason: str) -> None:
        """Note that something of the source makes no row; the first are named."""
        self.refused += 1
        if len(self.named) < MOST_NAMED:
            self.named.append(f"{name}: {reason}")
        if len(self.reasons) < MOST_REASONS:
            self.reasons[name] = reason

    @property
    def objects(self) -> int:
        """How many rows there are."""
        return sum(self.levels.values())


def _row(item: ClaimedObject, level: Level) -> ManifestRow:
    return ManifestRow(
        path=item.path,
        key=item.key,
        size=item.size,
        mtime_ns=int(datetime.fromisoformat(item.modified).timestamp()) * 10**9,
        md5=item.etag if level is Level.ETAG else item.md5,
        sha256=item.sha256,
        etag=item.etag,
        version_id=item.version_id,
        checksum=LISTED,
        batch=BATCH,
        uploaded_at=item.modified,
        level=str(level),
        also=item.also or None,
    )


def write_unless_same(
    target: Path, header: ManifestHeader, rows: Iterable[ManifestRow], complete: Callable[[], bool]
) -> bool:
    """Write a manifest; returns False when the one that is there says the same, which then stays as it is.

    So the mirror finds a file that it knows, and an import that changed nothing costs it nothing.
    """
    fresh = target.with_name(f".{target.name}.import")
    try:
        write_manifest(fresh, header, rows, complete=complete)
        if _same(target, fresh):
            return False
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)
    return True


def _same(old: Path, new: Path) -> bool:
    try:
        held, found = read_manifest(old), read_manifest(new)
    except LadingError:
        return False
    wanted = replace(held.header, created_at=found.header.created_at)
    sums = [(end.objects, end.bytes, end.complete) for end in (held.end, found.end)]
    return wanted == found.header and sums[0] == sums[1] and all(map(eq, held.rows(), found.rows()))
