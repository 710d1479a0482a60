"""One JSON API with patience: retries, limits of rate, and errors as sentences.

Input: a method, a path below the API's address, a JSON body. Output: status and value.
Invariant: a token goes to the API's own host only (no redirects are followed),
over https unless that is this machine, and is in no message. While a server
asks for a pause, no thread asks it for anything. Half an answer is none.

Sources: RFC 9110, "Retry-After"; GitHub REST API documentation, "Rate limits".
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3

from lading.core.bounded import parse_json
from lading.core.errors import LadingError, UsageError
from lading.objectstore.endpoint import is_loopback
from lading.objectstore.web import LATER

ATTEMPTS, MOST_ROUNDS = 7, 100
TIMEOUT = 60.0
# Seconds that a server may ask for in one pause, and that all pauses of one request may take.
LONGEST_PAUSE, PATIENCE = 3600.0, 7200.0
# Seconds after the first failed attempt, doubled after each further one, and the least of a pause that is asked for.
FIRST_PAUSE, LEAST_PAUSE = 0.25, 0.5
# What GitHub asks for where a secondary limit names no time.
_UNNAMED_PAUSE = 60.0
_CHANGING = ("POST", "PATCH", "PUT", "DELETE")


@dataclass(frozen=True)
class WebAnswer:
    """A status, the JSON value of the body (None where it has none), and the bytes."""

    status: int
    value: Any
    data: bytes


class WebApi:
    """Talks to one API at ``address``. Safe to use from many threads.

    ``pace``: seconds between two requests that change something.
    """

    def __init__(self, address: str, headers: Mapping[str, str], *, secret: bool, pace: float = 0.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise UsageError("an API's address must be of the form https://host/path, without a user's name")
        if parts.scheme == "http" and secret and not is_loopback(parts.hostname):
            raise UsageError(f"{address} is plain http to another machine, and the token would be readable; use https")
        self.address = address.rstrip("/")
        self._headers = {"User-Agent": "lading", **headers}
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(TIMEOUT), retries=False, maxsize=32)
        self._pace = pace
        self._lock = threading.Lock()
        self._not_before = self._next_change = 0.0

    def ask(self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None) -> WebAnswer:
        """Return the answer, whatever its status; raises ``LadingError`` when there is none after all attempts."""
        url = self.address + path + ("?" + urlencode(query) if query else "")
        data = json.dumps(body) if body is not None else None
        reason, waited, attempt, rounds = "", 0.0, 0, 0
        while attempt < ATTEMPTS and waited <= PATIENCE and rounds < MOST_ROUNDS:
            rounds += 1
            self._wait(method)
            pause = min(30.0, FIRST_PAUSE * 2**attempt)
            try:
                answer = self._pool.request(method, url, headers=self._headers, body=data, redirect=False)
                asked = _pause_of(answer)
                if asked is None and answer.status not in LATER:
                    return _decode(answer)
                reason = f"it says {answer.status}"
                if asked is not None:
                    pause, attempt = (
                        max(asked, LEAST_PAUSE),
                        attempt - 1,
                    )  # a pause that was asked for is no failed attempt
                    if asked > LONGEST_PAUSE:
                        raise LadingError(f"{self.address}{path} asks to wait {asked:,.0f} seconds; run again then")
            except (urllib3.exceptions.HTTPError, ValueError) as error:
                reason = f"its answer broke off ({error})" if isinstance(error, ValueError) else type(error).__name__
            attempt += 1
            waited += pause
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + pause)
        raise LadingError(f"{self.address}{path}: no answer that could be used ({reason}); run again later")

    def _wait(self, method: str) -> None:
        """Wait until the server may be asked."""
        while True:
            with self._lock:
                now = time.monotonic()
                due = max(self._not_before, self._next_change if method in _CHANGING else 0.0)
                if due <= now:
                    if method in _CHANGING:
                        self._next_change = now + self._pace
                    return
            time.sleep(due - now)


def _decode(answer: urllib3.BaseHTTPResponse) -> WebAnswer:
    """Return an answer; ``ValueError`` when it should be JSON and is not whole."""
    data = answer.data
    said = answer.headers.get("Content-Length")
    if said is not None and said.isdigit() and int(said) != len(data) and not answer.headers.get("Content-Encoding"):
        raise ValueError(f"{len(data):,} of {said} bytes")
    if answer.status >= 300:
        try:
            return WebAnswer(answer.status, parse_json(data), data)
        except ValueError:
            return WebAnswer(answer.status, None, data)
    return WebAnswer(answer.status, parse_json(data) if data else None, data)


def _pause_of(answer: urllib3.BaseHTTPResponse) -> float | None:
    """Return how long the server asks to be left alone, or None."""
    after = answer.headers.get("Retry-After")
    limited = answer.status == 429 or answer.status == 503 or (answer.status == 403 and _is_limit(answer, after))
    if not limited:
        return None
    if after is not None:
        return _seconds(after)
    if answer.headers.get("X-RateLimit-Remaining") == "0":
        reset = answer.headers.get("X-RateLimit-Reset", "")
        if reset.isdigit():
            return max(1.0, int(reset) - time.time() + 1)
    return _UNNAMED_PAUSE if answer.status == 403 else None


def _is_limit(answer: urllib3.BaseHTTPResponse, after: str | None) -> bool:
    if after is not None or answer.headers.get("X-RateLimit-Remaining") == "0":
        return True
    return b"secondary rate limit" in answer.data


def _seconds(after: str) -> float:
    """Return the seconds of a Retry-After header: a number, or a date."""
    if after.strip().isdigit():
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return _UNNAMED_PAUSE
