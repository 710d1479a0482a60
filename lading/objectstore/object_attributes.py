"""What one object is stored with beside its bytes and its content type.

Input: values that were checked (``lading.plan.object_settings``). Output: the same as the headers of S3, and as each
client is told them.
Invariant: knows of no path and no pattern.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Pairs = tuple[tuple[str, str], ...]
STANDARD = "STANDARD"


@dataclass(frozen=True, slots=True)
class ObjectAttributes:
    """What one object is stored with; None and empty: nothing is said of it."""

    storage_class: str | None = None
    cache_control: str | None = None
    tags: Pairs = ()
    metadata: Pairs = ()

    @property
    def tagging(self) -> str:
        """The tags as S3's header has them."""
        return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.tags)

    def request_headers(self) -> dict[str, str]:
        """Return the same as the headers that S3 knows."""
        if self is PLAIN_OBJECT:  # as nearly all are
            return {}
        named = {
            "x-amz-storage-class": self.storage_class,
            "Cache-Control": self.cache_control,
            "x-amz-tagging": self.tagging,
        }
        found = {name: value for name, value in named.items() if value}
        return found | {f"x-amz-meta-{name}": value for name, value in self.metadata}

    def parameters(self) -> dict[str, Any]:
        """Return what botocore is told with a new object."""
        named: dict[str, Any] = {
            "StorageClass": self.storage_class,
            "CacheControl": self.cache_control,
            "Tagging": self.tagging,
            "Metadata": dict(self.metadata),
        }
        return {name: value for name, value in named.items() if value}


PLAIN_OBJECT = ObjectAttributes()
