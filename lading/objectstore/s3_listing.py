"""What the bucket holds, page by page: its objects, their versions.

Input: prefixes. Output: ``ObjectInfo`` as the server lists them.
Invariant: a page that was cut short, or that cannot be understood, is asked
for again and then a ``StoreError``: what was not told is never taken for
absent. A listing that leads in a circle is left.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lading.objectstore.answers import UNFIT_ANSWER, AnswerReader
from lading.objectstore.failures import DENIED
from lading.objectstore.listing_pages import Trail
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.s3_requests import UNREADABLE_CHANCES, S3Requests
from lading.objectstore.target import FailureKind

T = TypeVar("T")
PAGE = 1000  # the most keys one ListObjectsV2 answers (Amazon S3 API reference)


class BucketListing:
    """The listings of one bucket."""

    def __init__(self, requests: S3Requests, answers: AnswerReader) -> None:
        self._requests, self._answers = requests, answers

    def page(self, prefix: str, after: str = "", token: str = "") -> tuple[list[ObjectInfo], str]:
        """Return up to 1,000 objects in key order and the token of the next page, empty at the end.

        ``after`` is exclusive; ``token`` continues an earlier page instead.
        """
        start = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}

        def parse(answer: Any) -> tuple[list[ObjectInfo], str]:
            found = [self._answers.listed(item, "ListObjectsV2") for item in answer.get("Contents", ())]
            following = answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""
            if answer.get("IsTruncated") and not following:
                raise self._answers.cut_short()
            return found, following

        return self._look("list_objects_v2", prefix, parse, **start)

    def _look(self, operation: str, prefix: str, parse: Callable[[Any], T], **start: str) -> T:
        """Return one page of a listing, asked for again while it was cut within its head, or cannot be understood."""
        fault: StoreError | None = None
        for _ in range(UNREADABLE_CHANCES):
            answer = self._requests.ask_again(operation, Prefix=prefix, MaxKeys=PAGE, **start)
            try:
                if "Name" in answer or "KeyCount" in answer:
                    return parse(answer)
                fault = None
            except StoreError as error:
                if error.code != UNFIT_ANSWER:
                    raise
                fault = error
            self._requests.pause()
        raise fault or StoreError(
            FailureKind.STOP, f"{self._requests.endpoint or 'AWS'} answers, but not like S3 (is it a web page?)"
        )

    def objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below ``prefix`` in key order."""
        for found in self.pages(prefix):
            yield from found

    def pages(self, prefix: str, after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        """Yield the pages of a listing."""
        trail, token = Trail(), ""
        while True:
            found, token = self.page(prefix, after, token)
            yield found
            if not token:
                return
            self._answers.follow(trail, token, found[-1] if found else None)

    def keeps_versions(self) -> bool:
        """Tell whether the bucket keeps versions (now or once)."""
        try:
            answer = self._requests.call("get_bucket_versioning")
        except StoreError as error:
            if error.failure is FailureKind.TRANSIENT:
                raise
            return False  # not known here, or not allowed to ask
        status = answer.get("Status")
        if status not in (None, "Enabled", "Suspended"):
            self._answers.field({"Status": False}, "Status", str, "GetBucketVersioning")
        return status is not None

    def may_list_versions(self, prefix: str) -> bool:
        """Tell whether the versions of the bucket's objects may be listed; says so once where they may not."""
        try:
            next(self.versions(prefix), None)
        except StoreError as error:
            if error.code not in (*DENIED, "NotImplemented"):
                raise
            print(f"note: the manifest will name no versions of objects: {error}", file=sys.stderr)
            return False
        return True

    def versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the current version of every object below ``prefix`` in key order."""
        trail = Trail()
        marker: dict[str, str] = {}
        while True:
            found, last, following = self._look("list_object_versions", prefix, self._parse_versions, **marker)
            yield from found
            if following is None:
                return
            self._answers.follow(trail, following, last)
            marker = following

    def _parse_versions(self, answer: Any) -> tuple[Sequence[ObjectInfo], object, dict[str, str] | None]:
        """Return a page's current versions, its last entry of any kind, and where the next begins, None at the end."""
        operation = "ListObjectVersions"
        items = answer.get("Versions", ())
        latest = [item for item in items if self._answers.field(item, "IsLatest", bool, operation)]
        found = [self._answers.listed(item, operation, version=True) for item in latest]
        last = (items[-1].get("Key"), items[-1].get("VersionId")) if items else None
        return found, last, self._answers.following(answer, "VersionIdMarker") if answer.get("IsTruncated") else None
