"""The store of a place: a bucket of S3, of another cloud, or a directory, as a manifest or an address names it.

Input: a manifest, or an address. Output: a store that is read.
Invariant: obstore is loaded only for what it reads.
"""

import argparse
from pathlib import Path

from lading.core.errors import UsageError
from lading.core.extras import require
from lading.objectstore.client import open_for_reading
from lading.objectstore.directory_store import DirectoryStore
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.manner import read_manner
from lading.objectstore.readable_store import ReadableStore
from lading.objectstore.target import Target
from lading.verification.manifest import Manifest, ManifestHeader
from lading.verification.manifest_address import is_address, read_manifest_of
from lading.verification.places import describe_place, find_place

CLOUDS = ("gs://", "az://")


def is_s3(url: str) -> bool:
    """Tell whether an address is of S3."""
    return url.startswith("s3://")


def read_placed_manifest(arguments: argparse.Namespace, name: str | None) -> Manifest:
    """Return the manifest that is named, or that of a place of its."""
    if name is None:
        return read_manifest_of(arguments.manifest, arguments)
    if is_address(arguments.manifest):
        raise UsageError(f"the places of a manifest are listed beside it; fetch {arguments.manifest} and its files")
    found = find_place(Path(arguments.manifest), name)
    return read_manifest_of(str(found), arguments)


def open_place(header: ManifestHeader, arguments: argparse.Namespace, *, profile: str | None = None) -> ReadableStore:
    """Return the store of a manifest's objects, read by the credentials of ``profile`` where one is given."""
    url = describe_place(header)
    if not is_s3(url):
        return open_foreign(url, header.endpoint)
    endpoint = resolve_endpoint(arguments.endpoint_url or header.endpoint)
    manner = read_manner(arguments)
    return open_for_reading(Target(header.bucket, endpoint, arguments.max_workers, manner=manner, profile=profile))


def open_foreign(url: str, endpoint: str | None) -> ReadableStore:
    """Return the store of a place that is not S3."""
    if not url.startswith(CLOUDS):
        return DirectoryStore(Path(url))
    require(["obstore"])
    from lading.objectstore.cloud_store import CloudStore, parse_cloud_place

    return CloudStore(parse_cloud_place(url), endpoint)
