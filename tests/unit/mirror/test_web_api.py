"""Requests to an API: limits of rate are waited for by every thread, secrets stay, half answers are none."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from lading.core.errors import LadingError, UsageError
from lading.mirror import web_api
from lading.mirror.web_api import WebApi
from tests.servers.web import Reply, Request, serve


class Clock:
    """A clock that stands still unless somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(web_api, "time", found)
    return found


def replies(*answers: Reply | None) -> Callable[[Request], Reply | None]:
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ((429, {}, {"Retry-After": "17"}), 17),
        ((503, {}, {"Retry-After": "5"}), 5),
        ((403, {"message": "You have exceeded a secondary rate limit"}, {"Retry-After": "90"}), 90),
        ((403, {"message": "You have exceeded a secondary rate limit"}), 60),
        (
            (403, {"message": "API rate limit exceeded"}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1600"}),
            601,
        ),
        ((500, {}), web_api.FIRST_PAUSE),
        (None, web_api.FIRST_PAUSE),
    ],
)
def test_a_limit_is_waited_for(clock: Clock, answer: Any, seconds: float) -> None:
    with serve(replies(answer, (200, {"fine": True}))) as web:
        found = WebApi(web.url, {}, secret=True).ask("GET", "/x")
    assert found.value == {"fine": True}
    assert sum(clock.slept) == pytest.approx(seconds)


def test_a_refusal_is_no_limit(clock: Clock) -> None:
    with serve(replies((403, {"message": "Resource not accessible"}))) as web:
        assert WebApi(web.url, {}, secret=True).ask("GET", "/x").status == 403
    assert not clock.slept


def test_a_server_that_never_answers_is_an_error_without_the_token(clock: Clock) -> None:
    with serve(replies(None)) as web, pytest.raises(LadingError, match="no answer that could be used") as caught:
        WebApi(web.url, {"Authorization": "token s3cret"}, secret=True).ask("GET", "/x", query={"key": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_one_that_asks_for_hours_is_left(clock: Clock) -> None:
    with serve(replies((429, {}, {"Retry-After": "86400"}))) as web, pytest.raises(LadingError, match="86,400 seconds"):
        WebApi(web.url, {}, secret=True).ask("GET", "/x")
    assert not clock.slept


def test_all_threads_wait_together(clock: Clock) -> None:
    with serve(replies((429, {}, {"Retry-After": "30"}), (200, {}))) as web:
        api = WebApi(web.url, {}, secret=True)
        api.ask("GET", "/x")
        moment = clock.now
        threads = [Thread(target=api.ask, args=("GET", f"/{n}")) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert clock.now == moment >= 1030


def test_changes_keep_their_pace(clock: Clock) -> None:
    with serve(replies((200, {}))) as web:
        api = WebApi(web.url, {}, secret=True, pace=1.0)
        for _ in range(4):
            api.ask("PATCH", "/x", {})
        api.ask("GET", "/x")
    assert sum(clock.slept) == pytest.approx(3.0)


@pytest.mark.parametrize("address", ["http://example.org/api", "ftp://example.org", "https://me:pw@example.org", "x"])
def test_an_address_that_would_show_the_token_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        WebApi(address, {}, secret=True)
