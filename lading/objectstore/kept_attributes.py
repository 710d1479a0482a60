"""What an object is stored with, to be given to its copy.

Input: one object of a bucket. Output: its headers, metadata, tags and storage class, and the names of what could not
be read.
Invariant: what the server does not say is not made up; what may not be read is named.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lading.objectstore.answers import class_of
from lading.objectstore.object_attributes import ObjectAttributes, Pairs
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

_HEADERS = ("ContentDisposition", "ContentEncoding", "ContentLanguage", "WebsiteRedirectLocation")
DEFAULT_TYPE = "binary/octet-stream"  # that of S3 for an object without one


@dataclass(frozen=True, slots=True)
class KeptAttributes(ObjectAttributes):
    """What an object is stored with; ``lacking`` names what could not be read of it."""

    content_type: str = DEFAULT_TYPE
    headers: Pairs = ()
    lacking: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Return what botocore is told with a new object."""
        return {**ObjectAttributes.parameters(self), **dict(self.headers)}


def read_attributes(store: "ObjectStore", key: str, version_id: str | None = None) -> KeptAttributes:
    """Return what one object, or one version of it, is stored with."""
    extra = {"VersionId": version_id} if version_id else {}
    answer = store.requests.call("head_object", Key=key, **extra)
    count = answer.get("TagCount")
    tags = store.tags(key, version_id) if count != 0 else {}
    metadata = answer.get("Metadata") or {}
    return KeptAttributes(
        class_of(answer),
        answer.get("CacheControl"),
        tuple(sorted(tags.items())),
        tuple(sorted((str(name), str(value)) for name, value in metadata.items())),
        str(answer.get("ContentType") or DEFAULT_TYPE),
        tuple((name, str(answer[name])) for name in _HEADERS if answer.get(name)),
        ("tags",) if count and not tags else (),
    )


def complete_tags(store: "ObjectStore", key: str, kept: KeptAttributes) -> tuple[str, ...]:
    """Give an object of parts its tags where the server left them out (Ceph does); returns what it lacks then."""
    if not kept.tags or store.tags(key) == dict(kept.tags):
        return kept.lacking
    tags = [{"Key": name, "Value": value} for name, value in kept.tags]
    try:
        store.requests.call("put_object_tagging", Key=key, Tagging={"TagSet": tags})
    except StoreError as error:
        if error.failure is FailureKind.TRANSIENT:
            raise
        return (*kept.lacking, "tags")
    return kept.lacking
