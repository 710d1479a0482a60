"""Compare two manifests, or what else can be a side: what was added, removed, changed and renamed.

Input: two sides, each sorted by key. Output: changes, one by one, and their sums.
Invariant: memory does not grow with the manifests: rows are merged as they are read, and what one side lacks is sorted
on disk by its digest. Both sides are found whole by the time that the comparison ends, and nothing is said before.
"""

import json
import operator
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lading.core.errors import ConsistencyError
from lading.core.external_sort import LineSort
from lading.core.merging import full_join
from lading.diff.sides import OF_LISTING, OF_TREE, Description, DiffSide, is_path_key
from lading.verification.manifest_scan import (
    ETAG,
    KEY,
    MD5,
    MORE,
    PATH,
    SHA256,
    SIZE,
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
    """The sums: counts and bytes by kind, by first directory, and the directories that were renamed.

    by_size  of those that are the same: files of which one side knows no digest, so that sizes were compared
    """

    same: int = 0
    by_size: int = 0
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
    if old[ETAG] != b'""' and old[ETAG] == new[ETAG]:
        return "same"
    if OF_LISTING in (old[MORE], new[MORE]):
        return _compare_listed(old, new)
    times = [row[MORE][len(OF_TREE) :] if row[MORE].startswith(OF_TREE) else None for row in (old, new)]
    if times == [None, None]:
        return "undecided"
    # A tree knows no bytes: another time of both files says that they may differ, all else speaks for the size.
    return "undecided" if all(times) and times[0] != times[1] else "same by size"


def _compare_listed(old: ScannedRow, new: ScannedRow) -> str:
    """Compare with a listed object that has another ETag."""
    for one, other in ((old, new), (new, old)):
        if one[MD5] != b"null" and one[MD5] == other[ETAG]:
            return "same"
    if b"" in (old[ETAG].strip(b'"'), new[ETAG].strip(b'"')):
        return "same by size"  # a tree, which has none
    return "undecided" if b"-" in old[ETAG] + new[ETAG] else "changed"


class _Rows:
    """One side, taken block by block: what is left of the block begins at ``place``.

    ``alone`` takes the rows whose key the other side lacks; ``cut`` is how much of each key is the release's prefix.
    """

    def __init__(self, side: DiffSide, prefix: bytes, alone: LineSort, *, by_md5: bool, by_path: bool = False) -> None:
        self._blocks = side.rows()
        self._by_path = by_path  # every key must be the row's path, since the other side has paths alone
        self.by_md5 = by_md5
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
            keys = [row[KEY] for row in block]
            if first <= self._last or any(map(operator.ge, keys, keys[1:])):
                for _ in self._blocks:  # where the whole file is not sound, that is what is said
                    pass
                after = self._last.decode(errors="replace")
                raise ConsistencyError(f"a manifest is out of order after the key {after!r}; take another copy of it")
            # In order: where both ends of a block have the prefix, all of it has.
            if not (first.startswith(self._prefix) and last.startswith(self._prefix)):
                raise _OtherPrefix
            if self._by_path and not all(is_path_key(row, self._prefix) for row in block):
                raise _OtherPrefix
            self.rows, self.place, self._last = block, 0, last
        return True

    def finish(self) -> None:
        """Take all rows that are left as those that the other side lacks."""
        while self.fill():
            for row in self.rows[self.place :]:
                self.alone.add(_record(row, self.by_md5))
            self.place = len(self.rows)


class ManifestDiff:
    """Compares two sides once; ``scratch`` holds what must be sorted, ``out`` takes a line of JSON per change.

    ``by_key``: compare whole keys from the beginning, as of a manifest and its bucket.
    """

    def __init__(
        self, old: DiffSide, new: DiffSide, scratch: Path, out: IO[str] | None = None, *, by_key: bool = False
    ) -> None:
        self._old, self._new, self._scratch, self._out = old, new, scratch, out
        self._by_key = by_key
        self.sums = Difference()
        self.named: dict[str, list[ManifestChange]] = {kind: [] for kind in KINDS}
        self.by = "path"
        self._runs = 0
        self.ends: dict[str, Description] = {}

    def run(self, most: int) -> Difference:
        """Compare; ``named`` then holds the first ``most`` changes of each kind.

        What follows each release's prefix is compared. Where some keys do not have that prefix, whole keys are, or
        paths where one side is a tree, which knows no keys.
        """
        try:
            self._compare(by_path=not self._by_key, most=most)
            self.by = "key" if self._by_key else "path"
        except _OtherPrefix:
            of_tree = self._old.of_tree or self._new.of_tree
            if of_tree:
                self._old = self._old.by_path(self._scratch, "old-by-path")
                self._new = self._new.by_path(self._scratch, "new-by-path")
            self.by, self.sums = "path" if of_tree else "key", Difference()
            self.named = {kind: [] for kind in KINDS}
            if self._out is not None:
                self._out.seek(0)
                self._out.truncate()
            self._compare(by_path=of_tree, most=most)
        return self.sums

    def _compare(self, *, by_path: bool, most: int) -> None:
        prefixes = (self._old.prefix, self._new.prefix) if by_path else (b"", b"")
        self._runs += 1
        removed = LineSort(self._scratch, f"removed-{self._runs}")
        added = LineSort(self._scratch, f"added-{self._runs}")
        by_md5 = self._old.by_md5 or self._new.by_md5
        sides = ((self._old, removed), (self._new, added))
        strict = [not side.of_tree and by_path and (self._old.of_tree or self._new.of_tree) for side, _ in sides]
        old, new = (
            _Rows(side, prefix, alone, by_md5=by_md5, by_path=exact)
            for (side, alone), prefix, exact in zip(sides, prefixes, strict)
        )
        self._merge(old, new, most)
        self._match(removed, added, most)
        self.ends = {"old": self._old.describe(), "new": self._new.describe()}

    def _merge(self, old: _Rows, new: _Rows, most: int) -> None:
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
                    if kind == "same by size":
                        self.sums.by_size += 1
                        kind = "same"
                    if kind == "same":
                        same += 1
                    else:
                        self._emit(_changed(kind, one, other), most)
                elif a < b:
                    old.alone.add(_record(one, old.by_md5))
                    i += 1
                else:
                    new.alone.add(_record(other, new.by_md5))
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


def _changed(kind: str, old: ScannedRow, new: ScannedRow) -> ManifestChange:
    return ManifestChange(kind, text_of(new[PATH]), int(new[SIZE]), old_size=int(old[SIZE]))


def _record(row: ScannedRow, by_md5: bool) -> bytes:
    """Return a line that sorts by what renamed files have in common: digest and size; the path is its end."""
    digest = (b"" if by_md5 else digest_of_content(row)) or row[MD5].strip(b'"')
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
