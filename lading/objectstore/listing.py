"""The bucket's objects in key order, also from servers that list in another order.

Input: a store and key prefixes. Output: each object once, by ascending bytes
of its key.
Invariant: the order is checked, never trusted. Most servers list in order and
then nothing is held. A server that does not (S3's directory buckets, gateways
to file systems) is noticed at the first key out of place; its whole listing
is then sorted in pieces on disk.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lading.core.errors import LadingError
from lading.core.external_sort import ExternalSort, values_of
from lading.objectstore.object_info import ObjectInfo

if TYPE_CHECKING:
    from lading.objectstore.readable_store import ReadableStore


class OutOfOrder(LadingError):
    """A listing showed a key after one that sorts behind it."""


def key_order(key: str) -> bytes:
    """Return what S3 sorts keys by: their UTF-8 bytes."""
    return key.encode()


def list_objects(store: "ReadableStore", roots: Sequence[str], *, versions: bool) -> Iterator[ObjectInfo]:
    """Yield the bucket's objects below each of the prefixes, as the server lists them."""
    for prefix in roots:
        yield from store.listing.versions(prefix) if versions else store.list(prefix)


def in_order(listed: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Yield a listing, a repeated key once; raises ``OutOfOrder`` at a key that sorts before its predecessor."""
    previous: ObjectInfo | None = None
    last = b""
    for item in listed:
        key = key_order(item.key)
        if previous is not None:
            if key < last:
                raise OutOfOrder(f"{item.key!r} is listed after {previous.key!r}")
            if key == last:
                previous = _newer(previous, item)
                continue
            yield previous
        previous, last = item, key
    if previous is not None:
        yield previous


def _newer(one: ObjectInfo, other: ObjectInfo) -> ObjectInfo:
    """Return what holds of a key that is listed twice: it was replaced while the pages were made."""
    return other if other.modified >= one.modified else one


def newest(listed: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Yield a listing of any order, of a key that is listed several times in a row what holds of it."""
    previous: ObjectInfo | None = None
    for item in listed:
        if previous is not None and item.key == previous.key:
            previous = _newer(previous, item)
            continue
        if previous is not None:
            yield previous
        previous = item
    if previous is not None:
        yield previous


def sort_listing(listed: Iterable[ObjectInfo], scratch: Path) -> Iterator[ObjectInfo]:
    """Yield a listing of any order sorted, what memory does not hold from files below ``scratch``."""
    ordered = ExternalSort(scratch, "listed", _by_key, values_of(ObjectInfo), lambda fields: ObjectInfo(*fields))
    for item in listed:
        ordered.add(item)
    yield from in_order(iter(ordered))


def _by_key(item: ObjectInfo) -> bytes:
    return key_order(item.key)
