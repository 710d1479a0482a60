"""The manifests of one mirror as one list of rows: a manifest, or every manifest below a directory.

Input: the path of either. Output: a ``ManifestSource``: rows with their path below the
mirror's top, and which of them are all there is.
Invariant: a path is of one manifest, the one with the longest prefix that
fits. A path that no complete manifest speaks of is never taken for gone. The
manifests of a directory are of one bucket and endpoint; one that is damaged,
or has the prefix of another, is named and left out. Where an importer says
which dataset each manifest is of, rows are read only of datasets that are asked for.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.mirror.dataset_note import DatasetNote, ImportIndex, note_of, read_index
from lading.mirror.known_manifests import KnownManifests, identity
from lading.mirror.last_run import manifest_files
from lading.mirror.split import parents_of
from lading.verification.manifest import Manifest, ManifestHeader, ManifestRow

# Up to here rows are kept after the first reading (about 1 kB each); above, the files are read again.
_KEPT = 200_000


@dataclass(frozen=True)
class ManifestPart:
    """One manifest; ``below`` is where its rows are in the mirror: "" or ``session/``; ``note`` is the importer's."""

    manifest: Manifest
    below: str
    note: DatasetNote | None = None

    def identity(self) -> tuple[int, int, int]:
        """Return what changes when the file is replaced."""
        return identity(self.manifest.path)


class ManifestSource:
    """The rows of one mirror, any number of times; ``failed`` are manifests that were left out, and why.

    ``header`` is of the only manifest; for a directory it names the bucket
    and the endpoint, without a prefix. ``notes`` are those of importers by
    dataset, ``fixed`` is True where each manifest has one.
    """

    def __init__(
        self,
        header: ManifestHeader,
        parts: Sequence[ManifestPart],
        failed: Mapping[str, str],
        index: ImportIndex | None = None,
    ) -> None:
        self.header = header
        self.failed = failed
        self.objects = sum(part.manifest.end.objects for part in parts)
        self.bytes = sum(part.manifest.end.bytes for part in parts)
        self.notes = {part.note.path: part.note for part in parts if part.note}
        self.fixed = len(self.notes) == len(parts)
        self.import_failures = index.failures if index is not None else {}
        self._index = index
        self._withdrawn = {
            part.below + item.path
            for part in parts
            if part.manifest.end.withdrawn
            for item in part.manifest.withdrawn()
        }
        self._parts = sorted(parts, key=lambda part: part.below)
        self._by_directory = {part.below.rstrip("/"): part for part in parts}
        self._identities = [part.identity() for part in self._parts]
        self._kept = list(self._read()) if self.objects <= _KEPT and not self.fixed else None

    def __iter__(self) -> Iterator[ManifestRow]:
        if self._kept is not None:
            yield from self._kept
            return
        yield from self._read()
        for part, before in zip(self._parts, self._identities, strict=True):
            if part.identity() != before:
                raise LadingError(f"{part.manifest.path} was replaced while the mirror read it; run again")

    def covers(self, path: str) -> bool:
        """Tell whether a manifest that is complete, or by which it was withdrawn, speaks of ``path``.

        If it has no row there, there is no such object.
        """
        part = self._part_of(path)
        if part is None:
            return self._index is not None and self._index.lacks(path)
        return part.manifest.end.complete or path in self._withdrawn

    def is_confirmed_gone(self, path: str) -> bool:
        """Tell whether the archive itself said that a dataset is gone: no listing that may lack something."""
        return self._index is not None and self._index.confirms_gone(path)

    def manifest_of(self, dataset: str) -> Manifest | None:
        """Return the manifest that is of one dataset alone, or None."""
        part = self._by_directory.get(dataset)
        return part.manifest if part is not None and part.note is not None else None

    def sums_of(self, dataset: str) -> tuple[int, int]:
        """Return objects and bytes of a dataset that has a manifest of its own."""
        end = self._by_directory[dataset].manifest.end
        return end.objects, end.bytes

    def rows_of(self, dataset: str) -> Iterator[ManifestRow]:
        """Yield the rows of the manifest that is of one dataset alone, their path in it; none for another."""
        part = self._by_directory.get(dataset)
        if part is None:
            return
        before = part.identity()
        yield from rows_below(part.manifest, "")
        if part.identity() != before:
            raise LadingError(f"{part.manifest.path} was replaced while the mirror read it; run again")

    def speaks_of(self, path: str) -> bool:
        """Tell whether any manifest, complete or not, is of the prefix that ``path`` lies below."""
        return self._part_of(path) is not None

    def digest_of(self, path: str) -> str:
        """Return the digest of the manifest that speaks of a dataset, or that of all of them."""
        part = self._part_of(path)
        if part is not None:
            return part.manifest.end.sha256
        lines = (f"{part.below}\0{part.manifest.end.sha256}\n" for part in self._parts)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def local_path(self, path: str) -> Path | None:
        """Return where the file of a row was when its manifest was made."""
        part = self._part_of(path)
        root = part.manifest.header.root if part else ""
        # A manifest that was imported has no root here.
        return Path(root, path[len(part.below) :]) if part and root else None

    def _part_of(self, path: str) -> ManifestPart | None:
        if "" in self._by_directory and len(self._by_directory) == 1:
            return self._parts[0]
        for directory in (path, *parents_of(path), ""):
            found = self._by_directory.get(directory)
            if found is not None:
                return found
        return None

    def _read(self) -> Iterator[ManifestRow]:
        # Sorted: a manifest inside another one's prefix comes right after it.
        for part, following in zip_longest(self._parts, self._parts[1:]):
            inner = following is not None and following.below.startswith(part.below)
            for moved in rows_below(part.manifest, part.below):
                if not inner or self._part_of(moved.path) is part:
                    yield moved


def rows_below(manifest: Manifest, below: str) -> Iterator[ManifestRow]:
    """Yield a row for every path of a manifest, as it is in the mirror."""
    for row in manifest.rows():
        yield replace(row, path=below + row.path) if below else row
        for path in row.also or ():
            yield replace(row, path=below + path, also=None)


def read_source(
    path: Path, bucket: str | None = None, endpoint: str | None = None, known: KnownManifests | None = None
) -> ManifestSource:
    """Return what the manifest, or the directory of manifests, at ``path`` says.

    ``bucket`` and ``endpoint`` are of the settings: the first chooses among
    the manifests of a directory, the second stands for theirs.
    """
    known = known or KnownManifests(None)
    if not path.is_dir():
        manifest = known.read(path)
        note = note_of(manifest.header, manifest)
        return ManifestSource(manifest.header, [ManifestPart(manifest, note.path + "/" if note else "", note)], {})
    manifests, failed = _read_all(path, bucket, known)
    lacking = f" of bucket {bucket}" if bucket is not None else ""
    if not manifests:
        found = "\n".join(f"{file}: {reason}" for file, reason in failed.items())
        raise UsageError(
            f"{found}\n{path} has no manifest{lacking} that can be read: a file named manifest.jsonl.zst".lstrip()
        )
    _check_agreement(manifests, endpoint)
    parts = _parts(manifests, failed)
    noted = [part for part in parts if part.note]
    if noted and len(noted) < len(parts):
        other = next(part for part in parts if not part.note)
        raise UsageError(
            f"{other.manifest.path} is of no import, but others in {path} are; give each a directory and a store of "
            "its own"
        )
    return ManifestSource(replace(manifests[0].header, prefix="", root=""), parts, failed, read_index(path))


def _parts(manifests: Sequence[Manifest], failed: dict[str, str]) -> list[ManifestPart]:
    """Return the manifests by where they are in the mirror; of two at one place neither."""
    by_place: dict[str, list[ManifestPart]] = {}
    for manifest in manifests:
        try:
            note = note_of(manifest.header, manifest)
        except ConsistencyError as error:
            failed[str(manifest.path)] = str(error)
            continue
        below = note.path + "/" if note else manifest.header.prefix
        by_place.setdefault(below, []).append(ManifestPart(manifest, below, note))
    parts = []
    for below, same in by_place.items():
        if len(same) == 1:
            parts.append(same[0])
            continue
        # Which of them is right is not known, so none counts: what was mirrored of it stays.
        named = " and ".join(str(part.manifest.path) for part in same)
        failed[str(same[0].manifest.path)] = (
            f"{named} describe the same objects, {below or 'the whole bucket'}; keep one of them"
        )
    return parts


def _read_all(path: Path, bucket: str | None, known: KnownManifests) -> tuple[list[Manifest], dict[str, str]]:
    """Return the manifests below a directory, and why others could not be read."""
    found, failed = [], {}
    for file in manifest_files(path):
        try:
            manifest = known.read(file)
        except (LadingError, OSError) as error:
            failed[str(file)] = str(error)
            continue
        if bucket is None or manifest.header.bucket == bucket:
            found.append(manifest)
    return found, failed


def _check_agreement(manifests: Sequence[Manifest], endpoint: str | None) -> None:
    """Raise ``ConsistencyError`` unless all ``manifests`` are of one bucket and endpoint."""
    first = manifests[0]
    for other in manifests[1:]:
        if first.header.bucket != other.header.bucket:
            raise ConsistencyError(
                f"{first.path} is of bucket {first.header.bucket}, {other.path} of {other.header.bucket}; a mirror is "
                "of one bucket: name it by s3bucket in the settings, with a store for each"
            )
        if endpoint is None and first.header.endpoint != other.header.endpoint:
            raise ConsistencyError(
                f"{first.path} and {other.path} name different endpoints; give the one that clones use by s3endpoint "
                "in the settings, or by --s3endpoint"
            )
