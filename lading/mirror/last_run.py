"""Recognises a run with nothing to do before anything heavy is loaded.

Input: the command line, the bytes of settings and manifest, the note of the
last run. Output: True when the same request by the same software saw the same
manifest and every branch is still where that run left it.
Invariant: any doubt means a closer look; the note is written atomically and
last, it vouches for a manifest only after a run without failures, and
deleting it costs time only.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

from lading.core.atomic import atomic_write
from lading.core.bounded import decode, read_object
from lading.core.errors import UsageError
from lading.core.yaml_file import read_yaml
from lading.mirror.git.commands import resolve

# What of a command line shapes the result.
_SHAPING = ("backup_root", "store", "s3endpoint", "manifest", "asset_filter", "enable_tags", "gc_assets")
# What asks for more than the comparison of a note.
_MORE = ("mode", "zarr_mode", "force")
MANIFEST = "manifest.jsonl.zst"
BRANCHES = ("refs/heads/main", "refs/heads/git-annex")


@dataclass(frozen=True)
class LastRun:
    """The end of a run.

    ``manifest`` is the digest of what was read, "" when something failed;
    ``refs`` the commits of ``BRANCHES`` by repository, relative to the store;
    ``pushed`` when these were sent to every host of the settings.
    """

    request: str
    software: str
    manifest: str
    pushed: bool
    refs: Mapping[str, list[str | None]]


def request_of(arguments: argparse.Namespace) -> str:
    """Return the digest of what was asked: flags and the settings' bytes."""
    given = {name: str(getattr(arguments, name, None)) for name in _SHAPING}
    settings = arguments.config.read_bytes() if arguments.config and arguments.config.exists() else b""
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode() + settings).hexdigest()


def software() -> str:
    """Return the digest of the code that shapes a mirror: a checkout changes without its version."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for module in [
        here.parent / "__init__.py",
        here.parent / "verification" / "manifest.py",
        *sorted(here.rglob("*.py")),
    ]:
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename} cannot be listed: {error.strerror}; make it readable, and run again") from error


def manifest_files(directory: Path) -> Iterator[Path]:
    """Yield the manifests below a directory, in the order of their paths; links are not followed.

    Raises ``UsageError`` for a directory that cannot be listed: its manifests would pass for gone.
    """
    for folder, folders, names in os.walk(directory, onerror=_refuse):
        folders.sort()
        if MANIFEST in names:
            yield Path(folder, MANIFEST)


def input_digest(path: Path) -> str:
    """Return the SHA-256 of a manifest's bytes, or of the names and bytes of every manifest below a directory."""
    if not path.is_dir():
        return _file_digest(path)
    index = [file for file in [path / "import.json"] if file.exists()]
    lines = (f"{file.relative_to(path)}\0{_file_digest(file)}\n" for file in chain(index, manifest_files(path)))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def branches(repository: Path) -> list[str | None]:
    """Return the commits of ``BRANCHES``."""
    return [resolve(repository, name) for name in BRANCHES]


def read_note(path: Path) -> LastRun | None:
    """Return the note, or None when there is none that this software wrote."""
    try:
        note = decode(LastRun, read_object(path))
    except (OSError, ValueError):
        return None
    return note if note.software == software() else None


def write_note(path: Path, note: LastRun) -> None:
    """Replace the note."""
    with atomic_write(path) as stream:
        json.dump(asdict(note), stream)


def current_refs(
    store: Path, repositories: Iterable[Path], failed: Iterable[Path], known: Mapping[str, list[str | None]]
) -> dict[str, list[str | None]]:
    """Return where every branch is, for a note; of what ``failed``, only what was ``known`` before."""
    refs = {os.path.relpath(repository, store): branches(repository) for repository in repositories}
    for repository in failed:
        where = os.path.relpath(repository, store)
        refs.pop(where, None)
        if where in known:
            refs[where] = known[where]
    return dict(sorted(refs.items()))


def nothing_to_do(arguments: argparse.Namespace) -> Path | None:
    """Return the store of a mirror that is as this request wants it, or None when that takes a closer look."""
    if any(getattr(arguments, name, None) for name in _MORE):
        return None
    try:
        settings = (read_yaml(arguments.config).value if arguments.config else {}) or {}
        place = settings.get("datasets", settings.get("dandisets", {"path": "datasets"}))
        root = arguments.backup_root or settings.get("backup_root", ".")
        store = Path(root).absolute() / (arguments.store or place["path"])
        note = read_note(store / ".lading" / "done.json")
        if note is None or note.request != request_of(arguments) or (arguments.push and not note.pushed):
            return None
        if any(settings.get(name, "timestamp") != "timestamp" for name in ("mode", "zarr_mode", "force")):
            return None
        if arguments.push and settings.get("force_push"):
            return None
        fetched = getattr(arguments, "fetched", None)  # of an address
        path = fetched.path if fetched else Path(arguments.manifest or settings.get("manifest", MANIFEST))
        if input_digest(path) != note.manifest:
            return None
        tags = settings.get("enable_tags", True) if arguments.enable_tags is None else arguments.enable_tags
        version = tags and settings.get("version")
        if version and not resolve(store / "alias" / "super", f"refs/tags/{version}"):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the long way says what is wrong with settings or note
    return store if all(branches(store / where) == held for where, held in note.refs.items()) else None
