"""The metadata service: what is known of a subject.

Input: a domain, a kind (``subject``, ``procedures``) and a subject ID.
Output: the record, and whether the service vouches for it.
Invariant: every answer of the service has one meaning: 200 a valid record,
300 several of which the first counts, 406 one that fails its schema and is
kept as it is, 404 none; anything else, silence included, is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lading.sessions.services.http import HttpClient, RemoteError

KINDS = ("subject", "procedures")


@dataclass(frozen=True)
class ServiceRecord:
    """A record of the service; ``valid`` is False for one that it marks as breaking its schema."""

    content: Mapping[str, Any]
    valid: bool
    note: str


def fetch(service: HttpClient, kind: str, subject_id: str) -> ServiceRecord | None:
    """Return the record of a subject, or None when the service has none.

    Raises ``Unreachable`` when nobody answers, ``RemoteError`` for an answer
    without a record.
    """
    path = f"{kind}/{quote(subject_id, safe='')}"
    answer = service.request("GET", path, idempotent=True, accept=(300, 404, 406))
    if answer.status == 404:
        return None
    content = answer.body
    if isinstance(content, dict) and set(content) & {"data", "message"} and "data" in content:
        content = content["data"]
    several = isinstance(content, list)
    if several:
        content = content[0] if content else None
    if not isinstance(content, dict):
        raise RemoteError(f"the metadata service answered {answer.status} for {path} without a record")
    notes = {300: "first of several records", 406: "kept although it fails its schema"}
    return ServiceRecord(content, answer.status != 406, notes.get(answer.status, "from the metadata service"))
