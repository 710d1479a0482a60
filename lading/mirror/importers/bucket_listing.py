"""A bucket's own listing, with versions where it keeps them.

Input: a store and a prefix. Output: its current objects in key order.
Invariant: content is never asked for; of a listing only a page is in memory.
"""

from collections.abc import Iterator

from lading.mirror.importers.claimed_rows import ClaimedObject
from lading.objectstore.client import ObjectStore


def list_objects(store: ObjectStore, prefix: str) -> Iterator[ClaimedObject]:
    """Yield the current objects below ``prefix``; their paths are their keys without it."""
    versions = store.listing.may_list_versions(prefix)
    for info in store.listing.versions(prefix) if versions else store.list(prefix):
        # "null" is what a bucket calls an object of before it kept versions: git-annex can ask for that, too.
        yield ClaimedObject(info.key[len(prefix) :], info.key, info.size, info.etag, info.modified, info.version_id)
