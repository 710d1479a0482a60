"""Find out what a person named as one side of a comparison, and open it.

Input: a path or an address. Output: a ``DiffSide``.
Invariant: nothing is written but below ``scratch``; a bucket is listed, and no object of it is read.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lading.core.errors import UsageError
from lading.diff.sides import (
    DiffSide,
    ManifestSide,
    find_kind,
    list_directory_side,
    listing_side,
    read_digests_side,
    read_tree_side,
)
from lading.objectstore.client import open_for_reading
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import parse_key_prefix
from lading.objectstore.listing import list_objects
from lading.objectstore.manner import read_manner
from lading.objectstore.target import Target
from lading.verification.manifest_address import is_address, locate_manifest

HELP = (
    "a manifest (a path, an s3:// or an https:// address), a find.json, a directory, the digests of a sign-off, or "
    "s3://bucket/prefix for what a bucket lists"
)
_MANIFEST_ENDINGS = (".zst", ".jsonl", "/")


@dataclass
class OpenedSides:
    """Both sides; ``unread`` names what of a directory could not be read, ``by_key``: whole keys are compared."""

    old: DiffSide
    new: DiffSide
    by_key: bool = False
    unread: list[str] = field(default_factory=list)


def is_bucket(where: str) -> bool:
    """Tell whether a bucket is meant, whose listing is a side: a manifest's address ends in its name, or in a slash."""
    return where.startswith("s3://") and not where.endswith(_MANIFEST_ENDINGS)


def open_sides(old: str, new: str, arguments: argparse.Namespace, scratch: Path) -> OpenedSides:
    """Open what was named; a bucket last, since the manifest beside it says on which server it is."""
    unread: list[str] = []
    sides: dict[str, DiffSide] = {}
    names = {"old": old, "new": new}
    buckets = [name for name, where in names.items() if is_bucket(where)]
    manifest: ManifestSide | None = None
    for name, where in names.items():
        if name in buckets:
            continue
        side = sides[name] = _open(where, arguments, scratch, name, unread.extend)
        manifest = side if isinstance(side, ManifestSide) else manifest
    by_key = False
    for name in buckets:
        place = parse_key_prefix(names[name])
        # Keys are whole names of one bucket: a release below a root may have more before its paths than its prefix.
        by_key = manifest is not None and manifest.bucket == place.bucket
        sides[name] = _list(names[name], arguments, scratch, name, manifest, whole=by_key)
    return OpenedSides(sides["old"], sides["new"], by_key, unread)


def _open(
    where: str, arguments: argparse.Namespace, scratch: Path, name: str, note: Callable[[list[str]], None]
) -> DiffSide:
    if is_address(where):
        return ManifestSide(locate_manifest(where, arguments))
    path = Path(where)
    if path.is_dir():
        side, unread = list_directory_side(path, scratch, name)
        note(unread)
        return side
    try:
        kind = find_kind(path)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}; give {HELP}") from error
    if kind == "tree":
        return read_tree_side(path, scratch, name)
    if kind == "digests":
        return read_digests_side(path, scratch, name)
    return ManifestSide(locate_manifest(where, arguments))


def _list(
    where: str, arguments: argparse.Namespace, scratch: Path, name: str, manifest: ManifestSide | None, *, whole: bool
) -> DiffSide:
    """List a bucket; ``whole``: its keys are compared whole, and its paths are them."""
    place = parse_key_prefix(where)
    endpoint = resolve_endpoint(arguments.endpoint_url or (manifest.endpoint if manifest and whole else None))
    store = open_for_reading(Target(place.bucket, endpoint, manner=read_manner(arguments)))
    store.page(place.prefix)  # a bucket that cannot be listed is said before anything is compared
    listed = list_objects(store, [place.prefix], versions=False)
    named = {"bucket": place.bucket, "prefix": place.prefix}
    return listing_side(listed, named, "" if whole else place.prefix, scratch, name)
