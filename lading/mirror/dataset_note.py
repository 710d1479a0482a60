"""What an importer says of the dataset that a manifest is of, and of all datasets of its directory.

Input: the settings in a manifest's header; ``import.json`` beside the manifests.
Output: a ``DatasetNote``; an ``ImportIndex``.
Invariant: what is put into git from files beside the manifest has the digest
that the manifest names; no name leads out of the dataset or steers git.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lading.core.bounded import PLAN_BYTES, decode, read_bounded, read_object
from lading.core.errors import ConsistencyError, LadingError
from lading.mirror.git.portable_names import repository_path, to_bytes, unfit
from lading.mirror.split import parents_of
from lading.verification.manifest import Manifest, ManifestHeader

INDEX = "import.json"
ATTACHED, RELEASES = "attached", "releases"
KINDS = ("session", "zarr")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STEERING = re.compile(r"(\.datalad|\.mirror)(/|$)|\.git", re.IGNORECASE)


@dataclass(frozen=True)
class ReleaseNote:
    """A version that the archive published: its manifest is ``releases/VERSION.jsonl.zst``, with this digest."""

    version: str
    created: str
    doi: str
    sha256: str


@dataclass(frozen=True)
class DatasetNote:
    """One dataset.

    path, kind  where it is in the mirror; session or zarr
    newest      time of its latest change, ISO 8601
    attached    files of the archive's own that go into git: path in the dataset, and SHA-256 of the content, which is
                ``attached/<sha256>`` beside the manifest
    releases    the published versions, the oldest first
    links       of a release: the Zarr stores below it, and the Zarr checksum of each
    title, topics  for hosts that show them
    """

    path: str
    kind: str
    newest: str
    attached: Mapping[str, str] = field(default_factory=dict)
    releases: tuple[ReleaseNote, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    topics: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportIndex:
    """All datasets of an import: ``datasets`` are those of the archive, ``gone`` those that it confirmed to be gone.

    ``failures`` is what the last import could not take, and why.
    """

    complete: bool
    datasets: tuple[str, ...]
    gone: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)

    def lacks(self, path: str) -> bool:
        """Tell whether the archive has no such dataset, nor one around it."""
        return self.complete and not any(part in self._there for part in (path, *parents_of(path)))

    def confirms_gone(self, path: str) -> bool:
        """Tell whether the archive was asked for this dataset and said that it is gone."""
        return any(part in self._away for part in (path, *parents_of(path)))

    # As tuples they are looked through for each of thousands of datasets.
    @cached_property
    def _there(self) -> frozenset[str]:
        return frozenset(self.datasets)

    @cached_property
    def _away(self) -> frozenset[str]:
        return frozenset(self.gone)


def note_of(header: ManifestHeader, shown: object) -> DatasetNote | None:
    """Return what a manifest's header says of its dataset, or None; ``ConsistencyError`` when it is no such note."""
    given = header.settings.get("dataset")
    if given is None:
        return None
    try:
        note = decode(DatasetNote, given)
        _check(note)
    except ValueError as error:
        raise ConsistencyError(f"{shown}: its header describes no dataset ({error}); import it again") from error
    return note


def _check(note: DatasetNote) -> None:
    if note.kind not in KINDS or not note.path or unfit(note.path):
        raise ValueError(f"{note.path[:60]!r} of kind {note.kind[:20]!r}")
    for name, digest in note.attached.items():
        written = to_bytes(name)
        if unfit(name) or _STEERING.match(name) or repository_path(written) != written or not _DIGEST.fullmatch(digest):
            raise ValueError(f"the file {name[:60]!r}")
    for release in note.releases:
        if not _VERSION.fullmatch(release.version) or not _DIGEST.fullmatch(release.sha256):
            raise ValueError(f"the version {release.version[:60]!r}")


def attached_files(manifest: Manifest, note: DatasetNote, directory: Path) -> dict[bytes, bytes]:
    """Return the files that go into git; ``ConsistencyError`` when one is not the file that the manifest names."""
    found = {}
    for name, digest in sorted(note.attached.items()):
        file = directory / ATTACHED / digest
        try:
            data = read_bounded(file, PLAN_BYTES)
        except (OSError, ValueError) as error:
            raise LadingError(f"{file}, which {manifest} names, cannot be read ({error}); import it again") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ConsistencyError(f"{file} is not what {manifest} names: it was edited or damaged; import it again")
        found[to_bytes(name)] = data
    return found


def read_index(directory: Path) -> ImportIndex | None:
    """Return the index of an import's directory, or None when the directory is of no import."""
    path = directory / INDEX
    try:
        record = read_object(path, PLAN_BYTES)
        return decode(
            ImportIndex, {**record, "datasets": list(record["datasets"]), "gone": list(record["gone"])}, "the index"
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConsistencyError(f"{path} is not the index of an import ({error}); import again") from error
