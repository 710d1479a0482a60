"""Recognises a run with nothing to do before anything heavy is loaded.

Input: the command line, the bytes of the settings, the manifest, the note of
the last run. Output: True when the same request saw the same manifest and
every repository is still where that run left it.
Invariant: any doubt means False; the note is written only after a run
without failures, and deleting it costs time only.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from lading.files import replacing
from lading.formats.manifest import read_manifest
from lading.mirror.git import resolve

# What of a command line shapes the result.
_SHAPING = ("backup_root", "store", "s3endpoint", "manifest", "asset_filter", "enable_tags")
# What asks for more than the comparison of a note.
_MORE = ("mode", "zarr_mode", "force", "push")


def request_of(arguments: argparse.Namespace) -> str:
    """Return the digest of what was asked: flags and the settings' bytes."""
    given = {name: str(getattr(arguments, name, None)) for name in _SHAPING}
    settings = arguments.config.read_bytes() if arguments.config else b""
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode() + settings).hexdigest()


def nothing_to_do(arguments: argparse.Namespace) -> Path | None:
    """Return the store of a mirror that is as this request wants it, or None when that takes a closer look."""
    if any(getattr(arguments, name, None) for name in _MORE):
        return None
    try:
        settings = yaml.safe_load(arguments.config.read_bytes()) if arguments.config else {}
        place = settings.get("datasets", settings.get("dandisets", {"path": "datasets"}))
        root = arguments.backup_root or settings.get("backup_root", ".")
        store = Path(root).absolute() / (arguments.store or place["path"])
        note = json.loads((store / ".lading" / "done.json").read_bytes())
        if any(settings.get(name, "timestamp") != "timestamp" for name in ("mode", "zarr_mode", "force", "version")):
            return None
        same = note["request"] == request_of(arguments)
        manifest = arguments.manifest or settings.get("manifest", "manifest.jsonl.zst")
        heads = note["heads"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None  # the long way says what is wrong with settings or note
    if not same or not all(resolve(store / where, "refs/heads/main") == commit for where, commit in heads):
        return None
    end = read_manifest(Path(manifest)).end
    return store if (end.sha256, end.complete) == (note["manifest"], note["complete"]) else None


def take_note(path: Path, request: str, manifest: str, complete: bool, heads: Mapping[str, str]) -> None:
    """Write the note: ``heads`` are the commits of main by repository, relative to the store."""
    note = {"request": request, "manifest": manifest, "complete": complete, "heads": dict(sorted(heads.items()))}
    with replacing(path) as stream:
        json.dump(note, stream)
