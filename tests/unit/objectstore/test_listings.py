"""Listings that are cut short or odd: what was not told is never taken for absent."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from lading.objectstore.client import ObjectStore
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind, Target

HEAD = {"Name": "b", "IsTruncated": False}


class Answers:
    """A client whose listings are these answers, one after another; ``asked`` holds the parameters."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers: Iterator[dict[str, Any]] = iter(answers)

    def __call__(self, **parameters: Any) -> dict[str, Any]:
        self.asked.append(parameters)
        return next(self._answers)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return ObjectStore(Target("b", "http://127.0.0.1:9"))


def told(*keys: str) -> list[dict[str, Any]]:
    common = {"Size": 1, "ETag": '"e"', "LastModified": datetime(2026, 1, 1, tzinfo=UTC)}
    return [{"Key": key, **common, "IsLatest": True, "VersionId": "v"} for key in keys]


def test_versions_cut_within_their_head_are_asked_for_again(store: ObjectStore) -> None:
    answers = Answers({}, {**HEAD, "Versions": told("a")})
    store.requests.client = SimpleNamespace(list_object_versions=answers)
    assert [item.key for item in store.listing.versions()] == ["a"]
    store.requests.client = SimpleNamespace(list_object_versions=Answers(*[{}] * 9))
    with pytest.raises(StoreError, match="not like S3"):
        list(store.listing.versions())


def test_versions_without_the_next_marker_are_not_the_end(store: ObjectStore) -> None:
    more = {**HEAD, "IsTruncated": True, "Versions": told("a")}
    store.requests.client = SimpleNamespace(list_object_versions=Answers(more))
    with pytest.raises(StoreError, match="truncated") as caught:
        list(store.listing.versions())
    assert caught.value.failure is FailureKind.TRANSIENT
    answers = Answers({**more, "NextKeyMarker": "a"}, {**HEAD, "Versions": told("b")})
    store.requests.client = SimpleNamespace(list_object_versions=answers)
    assert [item.key for item in store.listing.versions()] == ["a", "b"]
    assert answers.asked[1]["KeyMarker"] == "a"


def test_uploads_without_the_next_marker_are_a_sentence(store: ObjectStore) -> None:
    store.requests.client = SimpleNamespace(list_multipart_uploads=Answers({"IsTruncated": True}))
    with pytest.raises(StoreError, match="truncated"):
        list(store.multipart.unfinished(""))


def test_an_empty_page_with_more_is_gone_on_from(store: ObjectStore) -> None:
    empty = {**HEAD, "IsTruncated": True, "NextContinuationToken": "t"}
    answers = Answers(empty, {**HEAD, "Contents": told("a", "b")})
    store.requests.client = SimpleNamespace(list_objects_v2=answers)
    assert set(store.find(["a", "b"])) == {"a", "b"}
    assert answers.asked[1]["ContinuationToken"] == "t"


def read_objects(store: ObjectStore) -> list[object]:
    return list(store.list("p/"))


def read_versions(store: ObjectStore) -> list[object]:
    return list(store.listing.versions("p/"))


def read_uploads(store: ObjectStore) -> list[object]:
    return list(store.multipart.unfinished("p/"))


def read_parts(store: ObjectStore) -> list[object]:
    return list(store.multipart.list_parts("p/a", "u"))


def seek_keys(store: ObjectStore) -> dict[str, object]:
    return dict(store.find([f"p/{n}" for n in range(3000)]))


def ask_keys(store: ObjectStore) -> dict[str, object]:
    return dict(store.keys.ask(["p/z"]))


@pytest.mark.parametrize("entries", [0, 1])
@pytest.mark.parametrize("period", [1, 2, 3, 50, None])
@pytest.mark.parametrize("read", [read_objects, read_versions, read_uploads, read_parts, seek_keys, ask_keys])
def test_a_listing_that_leads_in_a_circle_ends(
    store: ObjectStore, read: Callable[[ObjectStore], object], period: int | None, entries: int
) -> None:
    """Marks that come again after ``period`` pages, or never while the entries do: pages without end in any case."""
    asked = count()

    def answer(**_: Any) -> dict[str, Any]:
        number = next(asked)
        assert number < 20_000, "followed for ever"
        mark = number % period if period else number
        keys = [f"o/{number % 7}"] * entries  # before what is sought
        listed = told(*keys)
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        return {
            "Name": "b",
            "IsTruncated": True,
            "Contents": listed,
            "Versions": listed,
            "Uploads": [{"Key": key, "UploadId": key, "Initiated": moment} for key in keys],
            "Parts": [{"PartNumber": 1 + number % 7, "Size": 1, "ETag": '"e"'} for _ in keys],
            "NextContinuationToken": f"t{mark}",
            "NextKeyMarker": f"k{mark}",
            "NextUploadIdMarker": "u",
            "NextVersionIdMarker": "v",
            "NextPartNumberMarker": mark + 1,
        }

    operations = ("list_objects_v2", "list_object_versions", "list_multipart_uploads", "list_parts")
    store.requests.client = SimpleNamespace(**dict.fromkeys(operations, answer))
    # A listing that shows another key than what is sought is not read to its end.
    sought = entries and read is ask_keys
    with nullcontext() if sought else pytest.raises(StoreError, match="repeats itself"):
        read(store)
    assert next(asked) <= 4000


def test_a_long_listing_is_no_circle(store: ObjectStore) -> None:
    pages = [
        {**HEAD, "IsTruncated": True, "NextContinuationToken": f"t{n}", "Contents": told(f"{n:04}")} for n in range(900)
    ]
    gaps = [{**HEAD, "IsTruncated": True, "NextContinuationToken": f"g{n}"} for n in range(900)]
    store.requests.client = SimpleNamespace(list_objects_v2=Answers(*pages, *gaps, {**HEAD, "Contents": told("end")}))
    assert len(list(store.list())) == 901
