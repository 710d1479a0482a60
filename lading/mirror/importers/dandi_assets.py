"""Assets of a dandiset become objects of a bucket.

Input: assets as the API lists them. Output: objects with what the archive
says of their content, Zarr stores, and which assets are neither and why.
Invariant: each asset is exactly one of these. No two names that are taken
are equal up to case, so every clone can have them all.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lading.core.bounded import JsonMembers
from lading.mirror.importers.claimed_rows import ClaimedObject
from lading.mirror.importers.object_list import address_in

# What the dataset has of its own at its top.
_TAKEN = re.compile(r"dandiset\.yaml$|\.dandi(/|$)", re.IGNORECASE)
_ZARR = "dandi:dandi-zarr-checksum"
_CHECKSUM = re.compile(r"[0-9a-f]{32}-(\d+)--(\d+)")


@dataclass(frozen=True)
class ContentRule:
    """Where content is: the bucket and its endpoint, and which of an asset's URLs names it (``content_url_regex``)."""

    bucket: str
    endpoint: str | None
    pattern: "re.Pattern[str] | None"
    only: "re.Pattern[str] | None" = None

    def key_of(self, urls: Iterable[str]) -> tuple[str, str | None]:
        """Return the key and version of an asset's object; ``ValueError`` when no URL leads there."""
        given = list(urls)
        if self.pattern is not None:
            given = [url for url in given if self.pattern.search(url)]
            if not given:
                raise ValueError(f"content_url_regex {self.pattern.pattern!r} matches none of its contentUrl")
        for url in given:
            try:
                return address_in(url, self.bucket, self.endpoint)
            except ValueError:
                continue
        raise ValueError(f"none of its contentUrl is in the bucket {self.bucket}")


@dataclass(frozen=True)
class ZarrAsset:
    """A Zarr store: its place in the dandiset, its id, and the checksum that the archive computed of all entries."""

    path: str
    id: str
    checksum: str
    modified: str


@dataclass
class SortedAssets:
    """The assets of one version: objects in key order, Zarr stores, and what was refused."""

    objects: list[ClaimedObject] = field(default_factory=list)
    zarrs: list[ZarrAsset] = field(default_factory=list)
    records: list[Mapping[str, Any]] = field(default_factory=list)
    newest: str = ""


def sort_assets(
    assets: Iterable[Mapping[str, Any]], rule: ContentRule, refuse: Callable[[str, str], None]
) -> SortedAssets:
    """Return what ``assets`` are; ``refuse`` hears of each that is neither object nor Zarr store."""
    found, names = SortedAssets(), _Names()
    by_key: dict[str, ClaimedObject] = {}
    for asset in sorted(assets, key=lambda asset: str(asset.get("path")).encode("utf-8", "surrogatepass")):
        shown = str(asset.get("path") or asset.get("asset_id"))
        try:
            take = JsonMembers(asset, "an asset")
            path = take.text("path").lstrip("/")
            if rule.only is not None and not rule.only.search(path):
                continue
            modified = _moment(take.text("modified"))
            names.take(path)
            item = _content(take, path, modified, rule)
        except ValueError as error:
            refuse(shown, str(error))
            continue
        found.records.append(asset)
        found.newest = max(found.newest, modified)
        if isinstance(item, ZarrAsset):
            found.zarrs.append(item)
            continue
        same = by_key.get(item.key)
        if same is None:
            by_key[item.key] = item
        elif (same.size, same.sha256) == (item.size, item.sha256):
            # One blob, two assets: a manifest has each key once.
            by_key[item.key] = replace(same, also=(*same.also, path), modified=max(same.modified, modified))
        else:
            refuse(path, f"its blob is that of {same.path}, but size or digest is another")
    found.objects = [by_key[key] for key in sorted(by_key, key=lambda key: key.encode("utf-8", "surrogateescape"))]
    return found


def _content(take: JsonMembers, path: str, modified: str, rule: ContentRule) -> ClaimedObject | ZarrAsset:
    metadata = take.members("metadata")
    digests = metadata.object("digest", {})
    zarr = take.text_or_none("zarr", None)
    if zarr is not None or _ZARR in digests:
        checksum = digests.get(_ZARR)
        if not isinstance(checksum, str) or not _CHECKSUM.fullmatch(checksum):
            raise ValueError("the archive has no checksum of this Zarr store yet")
        if zarr is None or not re.fullmatch(r"[0-9a-f-]{36}", zarr):
            raise ValueError("it has no id of a Zarr store")
        return ZarrAsset(path, zarr, checksum, modified)
    key, version = rule.key_of(metadata.texts("contentUrl", []))
    etag = digests.get("dandi:dandi-etag")
    item = ClaimedObject(
        path,
        key,
        take.number("size"),
        etag if isinstance(etag, str) else "",
        modified,
        version,
        md5=_digest(digests, "dandi:md5"),
        sha256=_digest(digests, "dandi:sha2-256"),
    )
    if reason := item.fault():
        raise ValueError(reason)
    return item


def _digest(digests: Mapping[str, Any], name: str) -> str | None:
    found = digests.get(name)
    return found.lower() if isinstance(found, str) else None


def _moment(text: str) -> str:
    """Return a time as ISO 8601 in UTC, so that texts compare as times do."""
    when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


class _Names:
    """The names taken so far: of two that differ by case alone, the first is taken."""

    def __init__(self) -> None:
        self._spelled: dict[str, str] = {}
        self._files: set[str] = set()

    def take(self, path: str) -> None:
        """Note a path; ``ValueError`` when a clone cannot have it beside those before."""
        if _TAKEN.match(path):
            raise ValueError("the mirror has a file of its own of this name")
        parts = path.split("/")
        steps = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        for step in steps:
            other = self._spelled.get(step.casefold(), step)
            if other != step:
                raise ValueError(f"{step!r} equals {other!r} up to case, and not every clone can hold both")
            if step in self._files:
                what = "is listed twice" if step == path else f"is below {step!r}, which is an asset"
                raise ValueError(f"it {what}")
        if path.casefold() in self._spelled:
            raise ValueError("it is an asset and a directory of others")
        self._spelled.update((step.casefold(), step) for step in steps)
        self._files.add(path)
