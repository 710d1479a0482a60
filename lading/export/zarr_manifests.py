"""The Zarr stores of a manifest, each as a Zarr manifest of the form that DANDI publishes.

Input: a manifest. Output: a directory with ``STORE/CHECKSUM.json`` for each directory whose name ends in ``.zarr`` or
``.ngff``.
Invariant: a store is written only when the MD5 of each of its objects is known, since its checksum is made of these.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from lading.checksums.zarr_checksum import zarr_checksum
from lading.core.errors import UsageError
from lading.export.addresses import Addresses
from lading.export.writers import Exported, below, new_directory
from lading.verification.manifest import Manifest, ManifestRow

SCHEMA = 2
FIELDS = ("versionId", "lastModified", "size", "ETag")
ENDINGS = (".zarr", ".ngff")


def store_of(path: str) -> str | None:
    """Return the outermost directory on a path that is a Zarr store by its name, None where there is none."""
    folders = path.split("/")[:-1]
    for count, folder in enumerate(folders, 1):
        if folder.endswith(ENDINGS):
            return "/".join(folders[:count])
    return None


def write_zarr_manifests(manifest: Manifest, out: Path, _: Addresses) -> Exported:
    """Write a Zarr manifest for each store; files outside of stores are in none, and are not counted."""
    done = Exported()
    written: set[str] = set()
    with new_directory(out) as top:
        for store, rows in _stores(manifest):
            if store in written:
                raise UsageError(f"the keys of {store} do not follow one another, so it cannot be written")
            written.add(store)
            if lacking := [row for row in rows if row.md5 is None]:
                for row in lacking:
                    done.leave_out(row, "the manifest has no MD5 of these objects, so of their stores no checksum")
                continue
            done.rows += len(rows)
            found = describe_store(store, rows)
            place = below(top, store) / f"{found['statistics']['zarrChecksum']}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(found, indent=None) + "\n", encoding="ascii")
        if not written:
            raise UsageError(f"{manifest} has no Zarr store: no directory that ends in .zarr or .ngff")
    return done


def _stores(manifest: Manifest) -> Iterator[tuple[str, list[ManifestRow]]]:
    for store, rows in groupby(manifest.rows(), lambda row: store_of(row.path)):
        if store is not None:
            yield store, list(rows)


def describe_store(store: str, rows: list[ManifestRow]) -> dict[str, Any]:
    """Return the Zarr manifest of a store."""
    entries: dict[str, Any] = {}
    depth = 0
    for row in rows:
        *folders, name = row.path[len(store) + 1 :].split("/")
        here = entries
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = [row.version_id, row.uploaded_at.replace("Z", "+00:00"), row.size, row.etag]
        depth = max(depth, len(folders))
    checksum = zarr_checksum((row.path[len(store) + 1 :], row.md5 or "", row.size) for row in rows)
    return {
        "schemaVersion": SCHEMA,
        "fields": FIELDS,
        "statistics": {
            "entries": len(rows),
            "depth": depth,
            "totalSize": sum(row.size for row in rows),
            "lastModified": max(row.uploaded_at for row in rows).replace("Z", "+00:00"),
            "zarrChecksum": checksum,
        },
        "entries": entries,
    }
