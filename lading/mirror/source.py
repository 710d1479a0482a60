"""The manifests of one mirror as one list of rows: a manifest, or every manifest below a directory.

Input: the path of either. Output: a ``ManifestSource``: rows with their path below the
mirror's top, and which of them are all there is.
Invariant: a path is of one manifest, the one with the longest prefix that
fits. A path that no complete manifest speaks of is never taken for gone. The
manifests of a directory are of one bucket and endpoint; one that is damaged,
or has the prefix of another, is named and left out.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.core.times import mtime_of
from lading.mirror.last_run import manifest_files
from lading.mirror.split import parents_of
from lading.verification.manifest import Manifest, ManifestHeader, ManifestRow, read_manifest

# Up to here rows are kept after the first reading (about 1 kB each); above, the files are read again.
_KEPT = 200_000


@dataclass(frozen=True)
class ManifestPart:
    """One manifest; ``below`` is where its rows are in the mirror: "" or ``session/``."""

    manifest: Manifest
    below: str

    def identity(self) -> tuple[int, int, int]:
        """Return what changes when the file is replaced."""
        status = os.stat(self.manifest.path)
        return status.st_ino, status.st_size, mtime_of(status)


class ManifestSource:
    """The rows of one mirror, any number of times; ``failed`` are manifests that were left out, and why.

    ``header`` is of the only manifest; for a directory it names the bucket
    and the endpoint, without a prefix.
    """

    def __init__(self, header: ManifestHeader, parts: Sequence[ManifestPart], failed: Mapping[str, str]) -> None:
        self.header = header
        self.failed = failed
        self.objects = sum(part.manifest.end.objects for part in parts)
        self.bytes = sum(part.manifest.end.bytes for part in parts)
        self._parts = sorted(parts, key=lambda part: part.below)
        self._by_directory = {part.below.rstrip("/"): part for part in parts}
        self._identities = [part.identity() for part in self._parts]
        self._kept = list(self._read()) if self.objects <= _KEPT else None

    def __iter__(self) -> Iterator[ManifestRow]:
        if self._kept is not None:
            yield from self._kept
            return
        yield from self._read()
        for part, identity in zip(self._parts, self._identities, strict=True):
            if part.identity() != identity:
                raise LadingError(f"{part.manifest.path} was replaced while the mirror read it; run again")

    def covers(self, path: str) -> bool:
        """Tell whether a complete manifest speaks of ``path``: if it has no row there, there is no such object."""
        part = self._part_of(path)
        return part is not None and part.manifest.end.complete

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
        for part in self._parts:
            if not part.below:
                inner = len(self._parts) > 1
            else:
                inner = any(other.below.startswith(part.below) for other in self._parts if other is not part)
            for row in part.manifest.rows():
                moved = replace(row, path=part.below + row.path) if part.below else row
                if not inner or self._part_of(moved.path) is part:
                    yield moved


def read_source(path: Path, bucket: str | None = None, endpoint: str | None = None) -> ManifestSource:
    """Return what the manifest, or the directory of manifests, at ``path`` says.

    ``bucket`` and ``endpoint`` are of the settings: the first chooses among
    the manifests of a directory, the second stands for theirs.
    """
    if not path.is_dir():
        manifest = read_manifest(path)
        return ManifestSource(manifest.header, [ManifestPart(manifest, "")], {})
    manifests, failed = _read_all(path, bucket)
    lacking = f" of bucket {bucket}" if bucket is not None else ""
    if not manifests:
        found = "\n".join(f"{file}: {reason}" for file, reason in failed.items())
        raise UsageError(
            f"{found}\n{path} has no manifest{lacking} that can be read: a file named manifest.jsonl.zst".lstrip()
        )
    _check_agreement(manifests, endpoint)
    by_prefix: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        by_prefix.setdefault(manifest.header.prefix, []).append(manifest)
    parts = []
    for prefix, same in by_prefix.items():
        if len(same) == 1:
            parts.append(ManifestPart(same[0], prefix))
            continue
        # Which of them is right is not known, so none counts: what was mirrored of it stays.
        named = " and ".join(str(manifest.path) for manifest in same)
        failed[str(same[0].path)] = (
            f"{named} describe the same objects, {prefix or 'the whole bucket'}; keep one of them"
        )
    return ManifestSource(replace(manifests[0].header, prefix="", root=""), parts, failed)


def _read_all(path: Path, bucket: str | None) -> tuple[list[Manifest], dict[str, str]]:
    """Return the manifests below a directory, and why others could not be read."""
    found, failed = [], {}
    for file in manifest_files(path):
        try:
            manifest = read_manifest(file)
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
