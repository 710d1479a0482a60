"""Listings that are cut short or odd: what was not told is never taken for absent."""

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from lading.transfer.engine import Failure, Target
from lading.transfer.listed import StoreError
from lading.transfer.store import Store

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
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return Store(Target("b", "http://127.0.0.1:9"))


def told(*keys: str) -> list[dict[str, Any]]:
    common = {"Size": 1, "ETag": '"e"', "LastModified": datetime(2026, 1, 1, tzinfo=UTC)}
    return [{"Key": key, **common, "IsLatest": True, "VersionId": "v"} for key in keys]


def test_versions_cut_within_their_head_are_asked_for_again(store: Store) -> None:
    answers = Answers({}, {**HEAD, "Versions": told("a")})
    store._client = SimpleNamespace(list_object_versions=answers)
    assert [item.key for item in store.list_versions()] == ["a"]
    store._client = SimpleNamespace(list_object_versions=Answers(*[{}] * 9))
    with pytest.raises(StoreError, match="not as S3 does"):
        list(store.list_versions())


def test_versions_without_the_next_marker_are_not_the_end(store: Store) -> None:
    more = {**HEAD, "IsTruncated": True, "Versions": told("a")}
    store._client = SimpleNamespace(list_object_versions=Answers(more))
    with pytest.raises(StoreError, match="cut short") as caught:
        list(store.list_versions())
    assert caught.value.failure is Failure.TRANSIENT
    answers = Answers({**more, "NextKeyMarker": "a"}, {**HEAD, "Versions": told("b")})
    store._client = SimpleNamespace(list_object_versions=answers)
    assert [item.key for item in store.list_versions()] == ["a", "b"]
    assert answers.asked[1]["KeyMarker"] == "a"


def test_uploads_without_the_next_marker_are_a_sentence(store: Store) -> None:
    store._client = SimpleNamespace(list_multipart_uploads=Answers({"IsTruncated": True}))
    with pytest.raises(StoreError, match="cut short"):
        list(store.uploads(""))


def test_an_empty_page_with_more_is_gone_on_from(store: Store) -> None:
    empty = {**HEAD, "IsTruncated": True, "NextContinuationToken": "t"}
    answers = Answers(empty, {**HEAD, "Contents": told("a", "b")})
    store._client = SimpleNamespace(list_objects_v2=answers)
    assert set(store.find(["a", "b"])) == {"a", "b"}
    assert answers.asked[1]["ContinuationToken"] == "t"
