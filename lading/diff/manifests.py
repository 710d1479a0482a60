"""Compare two manifests: what was added, removed, changed and renamed.

Input: two manifests, each sorted by key. Output: changes, one by one, and their sums.
Invariant: memory does not grow with the manifests: rows are merged as they are read, and what one side lacks is sorted
on disk by its digest.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lading.core.external_sort import Record, sort_records
from lading.core.merging import full_join
from lading.objectstore.keys import encode_key
from lading.verification.manifest import Manifest, ManifestRow

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


def compare_content(old: ManifestRow, new: ManifestRow) -> str:
    """Return ``same``, ``changed``, or ``undecided`` where both record no digest of one kind."""
    if old.size != new.size:
        return "changed"
    olds, news = old.sha256 or old.file_sha256, new.sha256 or new.file_sha256
    if olds and news:
        return "same" if olds == news else "changed"
    if old.md5 and new.md5:
        return "same" if old.md5 == new.md5 else "changed"
    return "same" if old.etag and old.etag == new.etag else "undecided"


class ManifestDiff:
    """Compares two manifests once; ``scratch`` holds what must be sorted, ``out`` takes a line of JSON per change."""

    def __init__(self, old: Manifest, new: Manifest, scratch: Path, out: IO[str] | None = None) -> None:
        self._old, self._new, self._scratch, self._out = old, new, scratch, out
        self.sums = Difference()
        self.named: dict[str, list[ManifestChange]] = {kind: [] for kind in KINDS}
        self.by = "path"

    def run(self, most: int) -> Difference:
        """Compare; ``named`` then holds the first ``most`` changes of each kind.

        What follows each release's prefix is compared. Where some keys do not have that prefix, whole keys are.
        """
        try:
            self._merge(self._prefix(self._old), self._prefix(self._new), most)
        except _OtherPrefix:
            self.by, self.sums = "key", Difference()
            self.named = {kind: [] for kind in KINDS}
            if self._out is not None:
                self._out.seek(0)
                self._out.truncate()
            self._merge("", "", most)
        return self.sums

    def _prefix(self, manifest: Manifest) -> str:
        """Return what the first key has before the row's path, empty where it does not end in that."""
        row = next(manifest.rows(), None)
        path = encode_key(row.path) if row else ""
        head = row.key[: -len(path)] if row and row.key.endswith(path) else ""
        return head if head.endswith("/") else ""

    def _merge(self, old_prefix: str, new_prefix: str, most: int) -> None:
        by = self.by
        removed, added = sort_records(self._scratch, f"removed-{by}"), sort_records(self._scratch, f"added-{by}")
        pairs = full_join(self._old.rows(), self._new.rows(), _below(old_prefix), _below(new_prefix))
        for old, new in pairs:
            if old is not None and new is not None:
                kind = compare_content(old, new)
                if kind == "same":
                    self.sums.same += 1
                else:
                    self._emit(ManifestChange(kind, new.path, new.size, old_size=old.size), most)
            elif old is not None:
                removed.add((_digest(old), old.path, old.size))
            elif new is not None:
                added.add((_digest(new), new.path, new.size))
        for gone, come in full_join(removed, added, _by_digest, _by_digest):
            # Empty files, and those of which no digest is known, are all alike: none is another one renamed.
            if gone and come and gone[0]:
                self._emit(ManifestChange("renamed", str(come[1]), int(come[2]), old_path=str(gone[1])), most)
                continue
            for kind, record in (("removed", gone), ("added", come)):
                if record:
                    self._emit(ManifestChange(kind, str(record[1]), int(record[2])), most)

    def _emit(self, change: ManifestChange, most: int) -> None:
        self.sums.add(change)
        if len(self.named[change.kind]) < most:
            self.named[change.kind].append(change)
        if self._out is not None:
            self._out.write(json.dumps(change.as_json()) + "\n")


def _below(prefix: str) -> Callable[[ManifestRow], bytes]:
    def key(row: ManifestRow) -> bytes:
        if not row.key.startswith(prefix):
            raise _OtherPrefix
        return row.key[len(prefix) :].encode("utf-8", "surrogateescape")

    return key


def _digest(row: ManifestRow) -> str:
    """Return what renamed files have in common, empty when nothing says it."""
    digest = row.sha256 or row.file_sha256 or row.md5
    return f"{digest} {row.size}" if digest and row.size else ""


def _by_digest(record: Record) -> bytes:
    return str(record[0]).encode()
