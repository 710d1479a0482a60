"""What can be asked of any store of objects: a bucket of S3, a bucket of another cloud, a directory.

Invariant: a listing is by rising bytes of the key, or says so by being checked (``listing.in_order``); every failure is
a ``StoreError``.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from lading.objectstore.object_info import ObjectHead, ObjectInfo


class VersionListing(Protocol):
    """What is known of the versions of a store's objects."""

    def keeps_versions(self) -> bool:
        """Tell whether the store keeps versions."""
        ...

    def may_list_versions(self, prefix: str) -> bool:
        """Tell whether they may be listed."""
        ...

    def versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the current version of every object below ``prefix``."""
        ...


class ReadableStore(Protocol):
    """A store that is listed and read."""

    @property
    def listing(self) -> VersionListing:
        """Return what lists versions."""
        ...

    def page(self, prefix: str, after: str = "", token: str = "") -> tuple[Sequence[ObjectInfo], str]:
        """Return some objects below ``prefix``; raises where nothing can be listed."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below ``prefix``."""
        ...

    def head(self, key: str, version_id: str | None = None) -> ObjectHead:
        """Return what is known of one object."""
        ...

    def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object from ``start`` on."""
        ...

    def thaw(self, key: str, tier: str, days: int | None, version_id: str | None = None) -> None:
        """Ask for an archived object to be readable."""
        ...
