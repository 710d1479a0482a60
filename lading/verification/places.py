"""Where a release is: the places that its manifest lists beside the first one.

Input: ``NAME.places.json`` beside a manifest. Output: the places by name, each with a manifest of its own.
Invariant: the first manifest stays as it was signed. A place's manifest is a manifest like any other, of the objects
there; ``settings.place`` of its header says how they are reached, where that is not S3.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write, read_record
from lading.core.bounded import JsonMembers
from lading.core.errors import UsageError
from lading.core.version import provenance
from lading.objectstore.keys import KeyPrefix
from lading.verification.manifest import ManifestHeader

FORMAT = 1
ORIGIN = "origin"  # the place of the manifest itself
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ReleasePlace:
    """One place of a release.

    url       ``s3://bucket/prefix``, ``gs://…``, ``az://container/…`` or the absolute path of a directory
    endpoint  of a server that is not the provider's own
    manifest  the name of the place's manifest, beside the first one
    copied    the digest in the end record of the first manifest when it was copied; ``sha256``: of the place's own
    objects, bytes, complete  as the place's manifest has them
    verified_at when the last copy came to its end
    """

    name: str
    url: str
    endpoint: str | None
    manifest: str
    copied: str
    sha256: str
    objects: int
    bytes: int
    complete: bool
    verified_at: str


def check_place_name(name: str) -> str:
    """Return the name of a place; ``UsageError`` for one that no file can have."""
    if not _NAME.fullmatch(name) or name == ORIGIN:
        raise UsageError(
            f"{name!r} cannot be the name of a place; give one of letters, digits, '.', '_' and '-': --name NAME "
            "(make: place=NAME)"
        )
    return name


def stem_of(manifest: Path) -> str:
    """Return what the files beside a manifest begin with."""
    name = manifest.name
    for ending in (".jsonl.zst", ".zst", ".jsonl"):
        name = name.removesuffix(ending)
    return name


def places_path(manifest: Path) -> Path:
    """Return where the places of a manifest are: ``manifest.places.json`` beside ``manifest.jsonl.zst``."""
    return manifest.with_name(f"{stem_of(manifest)}.places.json")


def place_manifest_path(manifest: Path, name: str) -> Path:
    """Return where the manifest of a place is: ``manifest.NAME.jsonl.zst``."""
    return manifest.with_name(f"{stem_of(manifest)}.{name}.jsonl.zst")


def read_places(manifest: Path) -> list[ReleasePlace]:
    """Return the places that a manifest lists beside its own; none where there is no such file."""
    path = places_path(manifest)
    if not path.exists():
        return []
    return read_record(path, _decode, "copy the release again: make copy to=PLACE")


def check_origin(manifest: Path, header: ManifestHeader) -> None:
    """Refuse to list the places of one release beside those of another: a manifest of this name was of that one."""
    path = places_path(manifest)
    if not path.exists():
        return
    said = read_record(path, _origin_url, "move it away, and copy the release again")
    if said and said not in (describe_place(header), str(KeyPrefix(header.bucket, header.prefix))):
        raise UsageError(f"{path} lists the places of {said}, not of {describe_place(header)}; work in another folder")


def _origin_url(record: dict[str, Any]) -> str:
    origin = record.get("origin")
    return origin["url"] if isinstance(origin, dict) and isinstance(origin.get("url"), str) else ""


def _decode(record: dict[str, Any]) -> list[ReleasePlace]:
    take = JsonMembers(record, "the file")
    if (take.text("kind"), take.number("format")) != ("places", FORMAT):
        raise ValueError(f"it is not a list of places of format {FORMAT}")
    return list(take.items("places", _decode_place))


def _decode_place(value: Any) -> ReleasePlace:
    take = JsonMembers(value, "a place")
    return ReleasePlace(
        check_place_name(take.text("name")),
        take.text("url"),
        take.text_or_none("endpoint"),
        take.text("manifest"),
        take.text("copied"),
        take.text("sha256"),
        take.number("objects"),
        take.number("bytes"),
        take.flag("complete"),
        take.text("verified_at"),
    )


def write_places(manifest: Path, header: ManifestHeader, places: Iterable[ReleasePlace]) -> None:
    """Write the places of a manifest; its own is the first of them, for people who read the file."""
    first = {"name": ORIGIN, "url": describe_place(header), "endpoint": header.endpoint}
    listed = [asdict(place) for place in sorted(places, key=lambda place: place.name)]
    record: Mapping[str, Any] = {
        "format": FORMAT,
        "kind": "places",
        "written_by": provenance(),
        "origin": first,
        "places": listed,
    }
    with atomic_write(places_path(manifest), sweep=True) as stream:
        json.dump(record, stream, indent=1)
        stream.write("\n")


def find_place(manifest: Path, name: str) -> Path:
    """Return the manifest of a place by its name; ``UsageError`` that lists the names where there is none."""
    if name == ORIGIN:
        return manifest
    places = read_places(manifest)
    found = next((place for place in places if place.name == name), None)
    if found is None:
        known = ", ".join([ORIGIN, *(place.name for place in places)])
        raise UsageError(f"{manifest} lists no place {name!r}; it has {known}; copy there first: make copy to=PLACE")
    if "/" in found.manifest or found.manifest in ("", ".", ".."):
        raise UsageError(f"{places_path(manifest)} names a manifest outside its folder; copy again: make copy to=PLACE")
    return manifest.with_name(found.manifest)


def describe_place(header: ManifestHeader) -> str:
    """Return where the objects of a manifest are, as people write it."""
    place = header.settings.get("place")
    if isinstance(place, dict) and isinstance(place.get("url"), str):
        return str(place["url"])
    return str(KeyPrefix(header.bucket, header.prefix))
