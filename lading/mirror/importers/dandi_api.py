"""What a DANDI instance says: its dandisets, their versions and assets, page by page.

Input: an instance, an API key for what is embargoed. Output: JSON objects as the API has them.
Invariant: a list is whole or an error. A list is read again when an item
came twice, when the count of its items is another than the server says, or
when the version changed while its pages were read.

Source: the DANDI API's OpenAPI document (``/swagger``).
"""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from lading.core.errors import LadingError, UsageError
from lading.mirror.web_api import WebApi

# Instances by their names in dandi-cli and in the reference's settings.
INSTANCES = {
    "dandi": "https://api.dandiarchive.org/api",
    "dandi-sandbox": "https://api.sandbox.dandiarchive.org/api",
    "dandi-staging": "https://api.sandbox.dandiarchive.org/api",
    "ember-dandi": "https://api-dandi.emberarchive.org/api",
    "linc": "https://api.lincbrain.org/api",
}
DRAFT = "draft"
PAGE = 1000
READINGS, PAUSE = 6, 0.2
_IDENTIFIER = re.compile(r"\d{6,9}")
_GONE = (401, 403, 404, 410)

Record = Mapping[str, Any]


class UnsettledPages(LadingError):
    """The pages of a list do not fit together: it changed while it was read."""


def api_address(instance: str) -> str:
    """Return the API's address of an instance: a known name, or an address."""
    if instance.startswith(("http://", "https://")):
        return instance.rstrip("/")
    if instance not in INSTANCES:
        raise UsageError(
            f"{instance!r} is not a DANDI instance; give one of {', '.join(INSTANCES)}, or the address of its API"
        )
    return INSTANCES[instance]


class DandiApi:
    """One instance. Safe to use from many threads."""

    def __init__(self, address: str, key: str | None) -> None:
        headers = {"Accept": "application/json", **({"Authorization": f"token {key}"} if key else {})}
        self._web = WebApi(address, headers, secret=key is not None)
        self.address = self._web.address
        self.has_key = key is not None

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON value at ``path``; ``LadingError`` when there is none."""
        answer = self._web.ask("GET", path, query=query)
        if answer.status != 200:
            raise LadingError(f"{self.address}{path}: the archive says {answer.status}{_why(answer.status)}")
        return answer.value

    def is_gone(self, identifier: str) -> bool:
        """Tell whether the archive has no such dandiset, or none that may be read."""
        return self._web.ask("GET", f"/dandisets/{quote(identifier)}/").status in _GONE

    def dandisets(self, *, newest_first: bool = False) -> Iterator[Record]:
        """Yield every dandiset that may be seen; lazily, in the order of their change, if ``newest_first``."""
        query = {"page_size": str(PAGE), "draft": "true", "empty": "true"}
        query |= {"embargoed": "true"} if self.has_key else {}
        if newest_first:
            yield from self._one_by_one("/dandisets/", {**query, "ordering": "-modified"})
        else:
            yield from self._whole("/dandisets/", {**query, "ordering": "id"}, "identifier")

    def versions(self, identifier: str) -> list[Record]:
        """Return the published versions of a dandiset, the oldest first, and the draft."""
        found = self._whole(f"/dandisets/{quote(identifier)}/versions/", {"page_size": str(PAGE)}, "version")
        return sorted(found, key=lambda version: (str(version.get("created")), str(version.get("version"))))

    def metadata(self, identifier: str, version: str) -> Record:
        """Return the metadata of a version, as ``dandiset.yaml`` holds it."""
        found = self.get(f"/dandisets/{quote(identifier)}/versions/{quote(version)}/")
        if not isinstance(found, dict):
            raise LadingError(f"{identifier}: the metadata of version {version} is not an object")
        return found

    def assets(self, identifier: str, version: str) -> list[Record]:
        """Return every asset of a version, with its metadata."""
        base = f"/dandisets/{quote(identifier)}/versions/{quote(version)}"
        query = {"page_size": str(PAGE), "metadata": "true", "order": "path"}
        for reading in range(READINGS):
            if reading:
                time.sleep(min(5.0, PAUSE * 2**reading))
            before = self.get(f"{base}/info/") if version == DRAFT else {}
            try:
                found = self._once(f"{base}/assets/", query, "asset_id")
            except UnsettledPages:
                continue
            # Two changes at once may leave the count as it was, and an asset on no page that was read.
            if len(found) <= PAGE or version != DRAFT:
                return found
            after = self.get(f"{base}/info/")
            if before.get("modified") == after.get("modified"):
                return found
        raise UnsettledPages(f"{identifier}: its assets changed each time they were listed; run again")

    def _whole(self, path: str, query: Mapping[str, str], name: str) -> list[Record]:
        for reading in range(READINGS):
            if reading:
                time.sleep(min(5.0, PAUSE * 2**reading))
            try:
                return self._once(path, query, name)
            except UnsettledPages:
                continue
        raise UnsettledPages(f"{self.address}{path} changed each time it was listed; run again")

    def _once(self, path: str, query: Mapping[str, str], name: str) -> list[Record]:
        """Return all items of a list; ``UnsettledPages`` when its pages do not fit together."""
        found: dict[str, Record] = {}
        count = 0
        for count, results in self._pages(path, query):  # noqa: B007 - the last count is the list's
            for item in results:
                key = item.get(name) if isinstance(item, dict) else None
                if not isinstance(key, str):
                    raise LadingError(f"{self.address}{path} lists something without {name!r}")
                if key in found:
                    raise UnsettledPages(f"{key} came twice")
                found[key] = item
        if len(found) != count:
            raise UnsettledPages(f"{len(found)} of {count} came")
        return list(found.values())

    def _one_by_one(self, path: str, query: Mapping[str, str]) -> Iterator[Record]:
        for _, results in self._pages(path, query):
            yield from results

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[tuple[int, list[Record]]]:
        asked: Mapping[str, str] | None = query
        previous: object = None
        while asked is not None:
            page = self.get(path, asked)
            if not isinstance(page, dict) or not isinstance(page.get("results"), list):
                raise LadingError(f"{self.address}{path} is not a list of the DANDI API")
            count, following = page.get("count"), page.get("next")
            if not isinstance(count, int) or (previous is not None and count != previous):
                raise UnsettledPages(f"{previous} became {count}")
            previous = count
            yield count, page["results"]
            # Whatever host it names: the next page is asked of this one, which the key is for.
            new = dict(parse_qsl(urlsplit(str(following)).query)) if following else None
            if new == dict(asked):
                raise UnsettledPages("a page leads to itself")
            asked = new


def is_identifier(text: object) -> bool:
    """Tell whether this is the number of a dandiset."""
    return isinstance(text, str) and _IDENTIFIER.fullmatch(text) is not None


def _why(status: int) -> str:
    if status in (401, 403):
        return "; embargoed data needs a key in DANDI_API_KEY"
    return "; check the number" if status == 404 else "; run again later"
