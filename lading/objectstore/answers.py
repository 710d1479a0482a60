"""The fields of the server's answers, each looked at before it is used.

Input: parsed answers. Output: values of the right type.
Invariant: no answer is used but through here: what lacks a field that S3
always sends, or has nonsense in its place, is a ``StoreError``, never a value;
so is a listing that says it goes on and does not say where.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from lading.objectstore.listing_pages import Trail
from lading.objectstore.object_attributes import STANDARD
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.target import FailureKind

T = TypeVar("T")
_MD5 = re.compile(r'"([0-9a-f]{32}(?:-[0-9]{1,5})?)"')
UNFIT_ANSWER = "UnfitAnswer"  # our code for what S3 has none: success that says nothing


class AnswerReader:
    """Reads the answers of one bucket; ``place`` is what sentences call it."""

    def __init__(self, place: str) -> None:
        self._place = place

    def field(self, answer: Mapping[str, Any], name: str, kind: type[T], operation: str) -> T:
        """Return a field that an answer must have; no answer is used but through here."""
        value = answer.get(name)
        if isinstance(value, kind) and value != "" and not (isinstance(value, int) and value < 0):
            return value
        what = f"has no {name}" if value in (None, "") else f"has an invalid {name}"
        raise StoreError(
            FailureKind.TRANSIENT,
            f"{self._place}: the answer to {operation} {what}; this is an error of the server, so run again later",
            UNFIT_ANSWER,
        )

    def etag(self, answer: Mapping[str, Any], operation: str) -> str:
        """Return an ETag without its quotes; any other word than a short one of printable signs is nonsense."""
        etag = self.field(answer, "ETag", str, operation).strip('"')
        if etag.startswith("W/"):  # weak, as some proxies make them
            etag = etag[2:].strip('"')
        fit = 0 < len(etag) <= 256 and etag.isascii() and etag.isprintable() and not set(etag) & set(' <>&"')
        return self.field({"ETag": etag if fit else False}, "ETag", str, operation)

    def word(self, answer: Mapping[str, Any], name: str, operation: str) -> str:
        """Return an id that the server made: printable, without spaces."""
        word = self.field(answer, name, str, operation)
        fit = len(word) <= 2048 and word.isprintable() and " " not in word
        return self.field({name: word if fit else False}, name, str, operation)

    def listed(self, item: Mapping[str, Any], operation: str, version: bool = False) -> ObjectInfo:
        """Return an entry of a listing; ``version``: with the id of its version."""
        key, size, modified = item.get("Key"), item.get("Size"), item.get("LastModified")
        etag = _MD5.fullmatch(str(item.get("ETag")))
        # What nearly every entry is, in one look: listings are most of what a run of small files waits for.
        sized = type(size) is int and size >= 0
        if etag and sized and isinstance(key, str) and key and isinstance(modified, datetime) and not version:
            return ObjectInfo(key, int(size or 0), etag[1], _iso(modified), None, class_of(item))
        return ObjectInfo(
            self.field(item, "Key", str, operation),
            self.field(item, "Size", int, operation),
            self.etag(item, operation),
            _iso(self.field(item, "LastModified", datetime, operation)),
            self.field(item, "VersionId", str, operation) if version else None,
            class_of(item),
        )

    def following(self, answer: Any, second: str) -> dict[str, str]:
        """Return the parameters of the page after ``answer``, a page that says there is one."""
        if not answer.get("NextKeyMarker"):
            raise self.cut_short()
        # The second tells apart what is under one key; a server that cuts between keys may leave it out.
        names = ("KeyMarker", second)
        return {name: answer[f"Next{name}"] for name in names if answer.get(f"Next{name}")}

    def follow(self, trail: Trail, mark: object, last: object | None) -> None:
        """Take the way to the next page; a server that leads in a circle would be followed for ever."""
        if not trail.leads_on(mark, last):
            raise StoreError(
                FailureKind.TRANSIENT,
                f"{self._place}: the server's listing repeats itself; this is an error of the server, so run again "
                "later",
            )

    def cut_short(self) -> StoreError:
        """Return the error of a listing that goes on and does not say where."""
        return StoreError(FailureKind.TRANSIENT, f"{self._place}: a listing was truncated")


def class_of(answer: Mapping[str, Any]) -> str | None:
    """Return the storage class that an answer names, None for STANDARD and for what is no name of one."""
    named = answer.get("StorageClass")
    fit = (
        isinstance(named, str)
        and named != STANDARD
        and 0 < len(named) <= 64
        and named.isascii()
        and named.isprintable()
    )
    return str(named) if fit else None


def stored_with(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer to HEAD says of how an object was stored; what it does not say is left out."""
    names = {
        "content_type": "ContentType",
        "content_encoding": "ContentEncoding",
        "cache_control": "CacheControl",
        "encryption": "ServerSideEncryption",
        "kms_key": "SSEKMSKeyId",
    }
    found: dict[str, Any] = {name: answer[theirs] for name, theirs in names.items() if _is_word(answer.get(theirs))}
    metadata = answer.get("Metadata")
    if isinstance(metadata, dict):
        kept = {name: value for name, value in metadata.items() if _is_word(name) and isinstance(value, str)}
        if kept:
            found["metadata"] = kept
    return found


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 8192


def _iso(moment: Any) -> str:
    return f"{moment.isoformat()[:19]}Z"  # a third of strftime's time, and there are a thousand to a page
