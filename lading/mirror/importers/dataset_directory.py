"""A directory with a manifest for each dataset, and the files that go into git beside it.

Input: what an importer knows of a dataset. Output: ``<dataset>/manifest.jsonl.zst``,
``<dataset>/attached/<sha256>``, ``<dataset>/releases/<version>.jsonl.zst``,
``<dataset>/zarrs/<id>/manifest.jsonl.zst`` and ``import.json``.
Invariant: a manifest is written after all that it names, and what it names is
deleted only once no manifest names it; equal input gives equal bytes, so a
killed import is finished by the next one as if it had not been killed.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.bounded import PLAN_BYTES, read_object
from lading.core.errors import LadingError, UsageError
from lading.mirror.dataset_note import ATTACHED, INDEX, RELEASES, DatasetNote, note_of
from lading.mirror.importers.claimed_rows import ClaimedObject, ClaimedRows
from lading.mirror.last_run import MANIFEST
from lading.verification.manifest import (
    Manifest,
    ManifestEnd,
    ManifestHeader,
    decode_header_line,
    manifest_lines,
    read_manifest,
    write_manifest,
)

ZARRS = "zarrs"


class DatasetDirectory:
    """Where one dataset's manifest is, and what belongs to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / MANIFEST

    def attach(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Write files that go into git and return their digests by name."""
        found = {}
        for name, data in files.items():
            digest = hashlib.sha256(data).hexdigest()
            target = self.path / ATTACHED / digest
            if not target.exists() or target.stat().st_size != len(data):
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target, "wb") as stream:
                    stream.write(data)
            found[name] = digest
        return found

    def zarr(self, name: str) -> "DatasetDirectory":
        """Return the directory of a Zarr store of this dataset."""
        return DatasetDirectory(self.path / ZARRS / name)

    def release(self, version: str) -> Path:
        """Return the path of the manifest of a published version."""
        return self.path / RELEASES / f"{version}.jsonl.zst"

    def note(self, file: Path | None = None) -> DatasetNote | None:
        """Return what a manifest of this directory says of its dataset; None when there is none that can be read."""
        file = file or self.manifest
        try:
            first = next(iter(manifest_lines(file)), b"")
            return note_of(decode_header_line(first, str(file)), file)
        except LadingError:
            return None

    def held(self) -> Manifest | None:
        """Return the manifest of the dataset, or None when there is none that is whole."""
        try:
            return read_manifest(self.manifest)
        except LadingError:
            return None

    def clean(self, zarrs: Collection[str], versions: Collection[str]) -> None:
        """Delete what no manifest of the dataset names any more."""
        for kind, names in ((ZARRS, zarrs), (RELEASES, {f"{version}.jsonl.zst" for version in versions})):
            for entry in _entries(self.path / kind):
                if entry.name not in names and not entry.name.startswith("."):
                    _remove(entry)
        named: set[str] = set()
        for file in (self.manifest, *(self.release(version) for version in versions)):
            note = self.note(file)
            if note is None:
                return
            named.update(note.attached.values())
        for entry in _entries(self.path / ATTACHED):
            if entry.name not in named and not entry.name.startswith("."):
                _remove(entry)

    def remove(self) -> None:
        """Delete the dataset: first its manifest, so that it is whole or gone."""
        self.manifest.unlink(missing_ok=True)
        for entry in _entries(self.path / ZARRS):
            (entry / MANIFEST).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)


def write_dataset(
    target: Path,
    header: ManifestHeader,
    note: DatasetNote,
    objects: Iterable[ClaimedObject],
    imported: ClaimedRows,
    *,
    whole: bool = True,
) -> ManifestEnd:
    """Write the manifest of one dataset; it is complete when nothing was refused and ``objects`` are the ``whole``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    header = replace(header, created_at=note.newest, settings={**header.settings, "dataset": asdict(note)})
    return write_manifest(target, header, imported.rows(objects), complete=lambda: whole and not imported.refused)


def read_state(directory: Path) -> dict[str, Any]:
    """Return ``import.json`` of a directory; empty before the first import."""
    try:
        return read_object(directory / INDEX, PLAN_BYTES)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{directory / INDEX} is not the index of an import ({error}); delete it to begin again"
        ) from error


def write_state(directory: Path, state: Mapping[str, Any]) -> None:
    """Replace ``import.json``."""
    with atomic_write(directory / INDEX) as stream:
        json.dump(state, stream, indent=1, sort_keys=True)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        DatasetDirectory(path).manifest.unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
