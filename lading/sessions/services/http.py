"""One JSON request with patience: retries, back-off, and errors as sentences.

Input: method, URL, headers, JSON body. Output: status and parsed body.
Invariant: a request that may have been acted on is repeated only when the
caller calls it idempotent; a token goes to the host it was meant for (no
redirects are followed) and never into a message; plain http only to loopback.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import urllib3

from lading.core.bounded import parse_json
from lading.core.errors import LadingError, UsageError
from lading.sessions.values import LOOPBACK

ATTEMPTS = 5
# Seconds before the second, third, … attempt: 0.5, 1, 2, 4; a Retry-After header goes first.
BACKOFF = 0.5
TIMEOUT = 30.0
# 429 and 503: the server says it did nothing. The others may follow an action.
_REFUSED = (429, 503)
_MAYBE_DONE = (500, 502, 504)


class RemoteError(LadingError):
    """A service answered with an error, or not at all (exit 1)."""


class Unreachable(RemoteError):
    """A service did not answer (exit 1)."""


@dataclass(frozen=True)
class HttpAnswer:
    """A status with its body: JSON data, or None where the body is no JSON."""

    status: int
    body: Any
    text: str


@dataclass(frozen=True)
class HttpClient:
    """Talks to one service at ``url``; ``headers`` go with every request (authorisation among them).

    ``plain``: http beyond this machine is fine, for no token is sent.
    ``heeds_delay``: wait as long as a Retry-After header says, not by back-off.
    """

    service: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = TIMEOUT
    attempts: int = ATTEMPTS
    backoff: float = BACKOFF
    heeds_delay: bool = True
    plain: bool = False

    def request(
        self, method: str, path: str, body: Any = None, *, idempotent: bool, accept: tuple[int, ...] = ()
    ) -> HttpAnswer:
        """Send one request and return its answer.

        Any 2xx and the statuses of ``accept`` are answers. Raises
        ``Unreachable`` when nobody answers, ``RemoteError`` for any other
        status, ``UsageError`` for plain http beyond this machine.
        """
        target = f"{self.url.rstrip('/')}/{path.lstrip('/')}" if path else self.url
        parts = urlsplit(target)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK and not self.plain:
            raise UsageError(f"{self.service}: {target} is not https; its token would be sent unencrypted")
        retry = urllib3.Retry(
            total=self.attempts - 1,
            connect=self.attempts - 1,
            read=self.attempts - 1 if idempotent else 0,
            redirect=0,
            backoff_factor=self.backoff,
            backoff_jitter=self.backoff / 2,
            status_forcelist=_REFUSED + (_MAYBE_DONE if idempotent else ()),
            allowed_methods=None,
            raise_on_status=False,
            respect_retry_after_header=self.heeds_delay,
        )
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", **({"Content-Type": "application/json"} if content else {})}
        try:
            with urllib3.PoolManager() as pool:
                response = pool.request(
                    method,
                    target,
                    body=content,
                    headers={**headers, **self.headers},
                    timeout=self.timeout,
                    retries=retry,
                    redirect=False,
                )
                answer = _answer(response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"{self.service} at {target} does not answer: {_reason(reason)}; run again") from error
        if 200 <= answer.status < 300 or answer.status in accept:
            return answer
        detail = " ".join(answer.text.split())[:300]
        raise RemoteError(f"{self.service}: {method} {target} got the answer {answer.status}: {detail or 'no text'}")


def _answer(response: urllib3.BaseHTTPResponse) -> HttpAnswer:
    text = response.data.decode("utf-8", "replace")
    try:
        return HttpAnswer(response.status, parse_json(text), text)
    except ValueError:
        return HttpAnswer(response.status, None, text)


def _reason(error: object) -> str:
    # urllib3 puts its connection object in front of the words.
    return str(error).rsplit("object at ", 1)[-1].split(": ", 1)[-1].strip("'\") ") or type(error).__name__
