"""The entries of a Zarr store of a DANDI instance.

Input: a Zarr asset. Output: its entries as objects, in key order.
Invariant: together they have the Zarr checksum that the archive computed, so
each ETag is the MD5 that the archive stands for; a store whose entries have
another one is refused, and nothing of it is written.

Sources: dandi-archive, "Zarr Manifest Files"; zarr_checksum's documentation.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from lading.checksums.zarr_checksum import zarr_checksum
from lading.core.errors import LadingError
from lading.mirror.importers.bucket_listing import list_objects
from lading.mirror.importers.claimed_rows import ClaimedObject
from lading.mirror.importers.dandi_assets import ZarrAsset
from lading.mirror.web_api import WebApi
from lading.objectstore.client import ObjectStore

READINGS, PAUSE = 4, 0.5
_FIELDS = ("versionId", "lastModified", "size", "ETag")


@dataclass(frozen=True)
class ZarrEntries:
    """Reads entries: of Zarr manifests below the address ``manifests``, else of the bucket's listing."""

    store: ObjectStore
    manifests: WebApi | None

    def of(self, asset: ZarrAsset) -> list[ClaimedObject]:
        """Return the entries; ``LadingError`` when they are not those of the asset's checksum."""
        found = self._from_manifest(asset)
        if found is not None:
            return found
        computed = ""
        for reading in range(READINGS):
            if reading:
                time.sleep(PAUSE * 2**reading)  # somebody writes to it
            found = list(list_objects(self.store, f"zarr/{asset.id}/"))
            computed = _checksum(found)
            if computed == asset.checksum:
                return _vouched(found)
        raise LadingError(
            f"its entries in the bucket have the Zarr checksum {computed}, but the archive says {asset.checksum}"
        )

    def _from_manifest(self, asset: ZarrAsset) -> list[ClaimedObject] | None:
        if self.manifests is None:
            return None
        path = f"/{asset.id[:3]}/{asset.id[3:6]}/{asset.id}/{quote(asset.checksum)}.json"
        answer = self.manifests.ask("GET", path)
        if answer.status != 200:
            return None  # there is none of this checksum: the bucket is listed
        try:
            found = list(_entries(answer.value, f"zarr/{asset.id}/"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LadingError(f"{self.manifests.address}{path} is not a Zarr manifest ({error})") from error
        found.sort(key=lambda item: item.key.encode("utf-8", "surrogateescape"))
        if _checksum(found) != asset.checksum:
            raise LadingError(f"{self.manifests.address}{path} has entries of another checksum than its name says")
        return _vouched(found)


def _checksum(found: list[ClaimedObject]) -> str:
    return zarr_checksum((item.path, item.etag, item.size) for item in found)


def _vouched(found: list[ClaimedObject]) -> list[ClaimedObject]:
    """Return the entries with their MD5: the checksum of all says that each ETag is one."""
    return [replace(item, md5=item.etag) for item in found]


def _entries(manifest: Any, prefix: str) -> Iterator[ClaimedObject]:
    version, modified, size, etag = (list(manifest["fields"]).index(name) for name in _FIELDS)
    waiting: list[tuple[str, dict[str, Any]]] = [("", manifest["entries"])]
    while waiting:
        above, directory = waiting.pop()
        for name, entry in directory.items():
            if not name or "/" in name:
                raise ValueError(f"the name {name[:60]!r}")
            path = above + name
            if isinstance(entry, dict):
                waiting.append((f"{path}/", entry))
                continue
            yield ClaimedObject(
                path, prefix + path, int(entry[size]), str(entry[etag]), str(entry[modified]), str(entry[version])
            )
