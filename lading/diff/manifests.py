"""Compare two manifests: what was added, removed, changed and renamed.

Input: two manifests, each sorted by key. Output: changes, one by one, and their sums.
Invariant: memory does not grow with the manifests: rows are merged as they are read, and what one side lacks is sorted
on disk by its digest. Both files are found whole by the time that the comparison ends, and nothing is said before.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lading.core.errors import ConsistencyError
from lading.core.external_sort import LineSort
from lading.core.merging import full_join
from lading.objectstore.keys import encode_key
from lading.verification.manifest_address import LocatedManifest
from lading.verification.manifest_scan import (
    ETAG,
    KEY,
    MD5,
    PATH,
    SHA256,
    SIZE,
    ManifestScan,
    ScannedRow,
    digest_of_content,
    text_of,
)

KINDS = ("added", "removed", "changed", "renamed", "undecided")
MOST_DIRECTORIES = 10_000


class _OtherPrefix(Exception):
    """A key does not begin as the first one does."""


@dataclass(frozen=True, slots=True)
class ManifestChange:
    """One file that differs; ``kind`` is one of ``KINDS``.

    path, size  in the newer manifest, or where it was removed in the older one
    old_path    where it was, when it was renamed; old_size: when it was changed
    """

    kind: str
    path: str
    size: int
    old_path: str | None = None
    old_size: int | None = None

    def as_json(self) -> dict[str, str | int]:
        """Return it without what it does not have."""
        values = {name: getattr(self, name) for name in ("kind", "path", "size", "old_path", "old_size")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass
class Difference:
    """The sums: counts and bytes by kind, by first directory, and the directories that were renamed."""

    same: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    directories: dict[str, Counter[str]] = field(default_factory=dict)
    renamed_directories: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, change: ManifestChange) -> None:
        """Count a change."""
        self.counts[change.kind] += 1
        self.bytes[change.kind] += change.size
        top, slash, _ = change.path.partition("/")
        name = top if slash else "."
        if name in self.directories or len(self.directories) < MOST_DIRECTORIES:
            found = self.directories.setdefault(name, Counter())
            found[change.kind] += 1
            found["bytes"] += change.size
        if change.old_path is not None:
            pair = renamed_directory(change.old_path, change.path)
            if pair and (pair in self.renamed_directories or len(self.renamed_directories) < MOST_DIRECTORIES):
                self.renamed_directories[pair] += 1


def renamed_directory(old: str, new: str) -> tuple[str, str] | None:
    """Return the directories by which two paths differ, None where the file's own name does."""
    olds, news = old.split("/"), new.split("/")
    if olds[-1] != news[-1]:
        return None
    while olds and news and olds[-1] == news[-1]:
        olds.pop()
        news.pop()
    return "/".join(olds) or ".", "/".join(news) or "."


def compare_content(old: ScannedRow, new: ScannedRow) -> str:
    """Return ``same``, ``changed``, or ``undecided`` where both record no digest of one kind."""
    if old[SIZE] != new[SIZE]:
        return "changed"
    olds, news = digest_of_content(old), digest_of_content(new)
    if olds and news:
        return "same" if olds == news else "changed"
    if old[MD5] != b"null" and new[MD5] != b"null":
        return "same" if old[MD5] == new[MD5] else "changed"
    return "same" if old[ETAG] != b'""' and old[ETAG] == new[ETAG] else "undecided"


class _Side:
    """One manifest, taken block by block: what is left of the block begins at ``place``.

    ``alone`` takes the rows whose key the other side lacks; ``cut`` is how much of each key is the release's prefix.
    """

    def __init__(self, scan: ManifestScan, prefix: bytes, alone: LineSort) -> None:
        self._blocks = scan.rows()
        self._prefix, self.cut, self.alone = prefix, len(prefix), alone
        self._last = b""
        self.rows: list[ScannedRow] = []
        self.place = 0

    def fill(self) -> bool:
        """Hold the next row; False at the end. Raises ``_OtherPrefix`` at a key without the prefix."""
        while self.place >= len(self.rows):
            block = next(self._blocks, None)
            if block is None:
                return False
            first, last = block[0][KEY], block[-1][KEY]
            if first <= self._last:
                raise ConsistencyError(f"a manifest is out of order at the key {first.decode(errors='replace')!r}")
            # In order: where both ends of a block have the prefix, all of it has.
            if not (first.startswith(self._prefix) and last.startswith(self._prefix)):
                raise _OtherPrefix
            self.rows, self.place, self._last = block, 0, last
        return True

    def finish(self) -> None:
        """Take all rows that are left as those that the other side lacks."""
        while self.fill():
            for row in self.rows[self.place :]:
                self.alone.add(_record(row))
            self.place = len(self.rows)


class ManifestDiff:
    """Compares two manifests once; ``scratch`` holds what must be sorted, ``out`` takes a line of JSON per change."""

    def __init__(self, old: LocatedManifest, new: LocatedManifest, scratch: Path, out: IO[str] | None = None) -> None:
        self._old, self._new, self._scratch, self._out = old, new, scratch, out
        self.sums = Difference()
        self.named: dict[str, list[ManifestChange]] = {kind: [] for kind in KINDS}
        self.by = "path"
        self.ends: dict[str, dict[str, str | int]] = {}

    def run(self, most: int) -> Difference:
        """Compare; ``named`` then holds the first ``most`` changes of each kind.

        What follows each release's prefix is compared. Where some keys do not have that prefix, whole keys are.
        """
        try:
            self._compare(by_path=True, most=most)
        except _OtherPrefix:
            self.by, self.sums = "key", Difference()
            self.named = {kind: [] for kind in KINDS}
            if self._out is not None:
                self._out.seek(0)
                self._out.truncate()
            self._compare(by_path=False, most=most)
        return self.sums

    def _compare(self, *, by_path: bool, most: int) -> None:
        old = ManifestScan(self._old.path, self._old.shown)
        try:
            new = ManifestScan(self._new.path, self._new.shown)
            try:
                prefixes = (_prefix(self._old), _prefix(self._new)) if by_path else (b"", b"")
                removed = LineSort(self._scratch, f"removed-{self.by}")
                added = LineSort(self._scratch, f"added-{self.by}")
                self._merge(_Side(old, prefixes[0], removed), _Side(new, prefixes[1], added), most)
                self._match(removed, added, most)
                self.ends = {"old": _describe(old), "new": _describe(new)}
            finally:
                new.close()
        finally:
            old.close()

    def _merge(self, old: _Side, new: _Side, most: int) -> None:
        """Compare row by row; what one side lacks is kept for later."""
        cut_old, cut_new, same = old.cut, new.cut, 0
        while old.fill() and new.fill():
            olds, news, i, j = old.rows, new.rows, old.place, new.place
            end_old, end_new = len(olds), len(news)
            while i < end_old and j < end_new:
                one, other = olds[i], news[j]
                if (a := one[KEY][cut_old:]) == (b := other[KEY][cut_new:]):
                    i += 1
                    j += 1
                    kind = "same"
                    if not (one[SHA256] == other[SHA256] != b"null" and one[SIZE] == other[SIZE]):
                        kind = compare_content(one, other)
                    if kind == "same":
                        same += 1
                    else:
                        self._emit(_changed(kind, one, other), most)
                elif a < b:
                    old.alone.add(_record(one))
                    i += 1
                else:
                    new.alone.add(_record(other))
                    j += 1
            old.place, new.place = i, j
        old.finish()
        new.finish()
        self.sums.same += same

    def _match(self, removed: LineSort, added: LineSort, most: int) -> None:
        """Tell what was renamed from what is gone or new: by size and digest."""
        for gone, come in full_join(removed, added, _by_digest, _by_digest):
            # Empty files, and those of which no digest is known, are all alike: none is another one renamed.
            if gone and come and not gone.startswith(b" "):
                (path, size), (old_path, _) = _parts(come), _parts(gone)
                self._emit(ManifestChange("renamed", path, size, old_path=old_path), most)
                continue
            for kind, record in (("removed", gone), ("added", come)):
                if record:
                    self._emit(ManifestChange(kind, *_parts(record)), most)

    def _emit(self, change: ManifestChange, most: int) -> None:
        self.sums.add(change)
        if len(self.named[change.kind]) < most:
            self.named[change.kind].append(change)
        if self._out is not None:
            self._out.write(json.dumps(change.as_json()) + "\n")


def _describe(scan: ManifestScan) -> dict[str, str | int]:
    """Return what names a manifest that was read to its end."""
    header, end = scan.header, scan.end
    found: dict[str, str | int] = {"bucket": header.bucket, "prefix": header.prefix, "created_at": header.created_at}
    return found | ({"manifest": end.sha256, "objects": end.objects, "bytes": end.bytes} if end else {})


def _prefix(manifest: LocatedManifest) -> bytes:
    """Return what the first key has before the row's path, empty where it does not end in that."""
    scan = ManifestScan(manifest.path, manifest.shown)
    try:
        row = next((block[0] for block in scan.blocks() if block), None)
    finally:
        scan.close()
    path = encode_key(text_of(row[PATH])).encode("utf-8", "surrogateescape") if row else b""
    head = row[KEY][: -len(path)] if row and row[KEY].endswith(path) else b""
    return head if head.endswith(b"/") else b""


def _changed(kind: str, old: ScannedRow, new: ScannedRow) -> ManifestChange:
    return ManifestChange(kind, text_of(new[PATH]), int(new[SIZE]), old_size=int(old[SIZE]))


def _record(row: ScannedRow) -> bytes:
    """Return a line that sorts by what renamed files have in common: digest and size; the path is its end."""
    digest = digest_of_content(row) or row[MD5].strip(b'"')
    known = row[SIZE] != b"0" and digest != b"null"
    return b"%b %b %b" % (digest if known else b"", row[SIZE], row[PATH])


def _by_digest(record: bytes) -> bytes:
    """Return digest and size of a line."""
    digest, size, _ = record.split(b" ", 2)
    return b"%b %b" % (digest, size) if digest else b""


def _parts(record: bytes) -> tuple[str, int]:
    """Return path and size of a line."""
    _, size, path = record.split(b" ", 2)
    return text_of(path), int(size)
