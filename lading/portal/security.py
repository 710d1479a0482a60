"""Who may talk to the portal, and how much they may say.

Input: ASGI requests. Output: the same requests, or 401, 403, 413.
Invariant: nothing is answered to a stranger, static pages included. Let in
are: whoever reaches the Unix socket (mode 0600: the owner), the owner's own
processes over loopback, whoever shows the token, and the users whom the
site's settings name (``callers``). Any other proxy speaks for strangers: what
it hands on needs the token. A foreign page in the
owner's browser is none of them: its Origin, or a Host that is not ours,
betrays it, on the socket file too: ``ssh -L`` gives it an address that any
page in the browser can reach under a name of its own.
"""

import hashlib
import hmac
import html
import json
import stat
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from lading.core.errors import UsageError
from lading.portal.callers import NOBODY, Caller, Connected, Refusal, UserRules, with_token
from lading.portal.peers import is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "lading"
# Where a request's scope has its ``Caller``.
CALLER = "lading.caller"
PAGE_HEADERS = {
    # Nothing from elsewhere, no frame around us: what a cell holds can at worst be text.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; img-src data:",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: it would turn the Origin of our own forms into "null".
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LARGEST_BODY = 10_000_000
TOO_LARGE = f"the body is larger than {LARGEST_BODY} bytes; split the list"
SHORTEST_TOKEN = 16
# What a stranger may ask for: the form that takes the token.
OPEN_PATHS = ("/login",)
# Headers by which a proxy tells that it hands on another's request (RFC 7239, RFC 9110 7.6.3, and by custom).
_PROXIED = ("forwarded", "via", "x-real-ip", "x-client-ip")
_PROXIED_PREFIX = "x-forwarded-"


@dataclass(frozen=True)
class PortalAccess:
    """The rules of one service.

    ``token`` is None when only the owner may come; ``hosts`` are names beside
    loopback under which the service is reached; ``unix`` when it listens on a
    socket file whose mode guards it; ``rules`` are what the settings say of users.
    """

    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    unix: bool = False
    rules: UserRules = field(default_factory=UserRules)

    def session(self) -> str:
        """Return the cookie that stands for the token: it tells nothing of it."""
        return hmac.new((self.token or "").encode(), b"lading portal session", hashlib.sha256).hexdigest()


def read_token(path: Path) -> str:
    """Return the token in a file that only its owner may read; ``UsageError`` otherwise."""
    try:
        status = path.stat()
        token = path.read_text().strip()
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UsageError(f"the token file {path} can be read by others; run: chmod 600 {path}")
    if len(token) < SHORTEST_TOKEN:
        raise UsageError(f"the token in {path} has fewer than {SHORTEST_TOKEN} characters; make a longer one")
    return token


class Guard:
    """ASGI middleware that applies an ``PortalAccess`` and bounds the body."""

    def __init__(self, application: Application, access: PortalAccess) -> None:
        self._application = application
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer 401, 403 or 413."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        found = self._foreign(scope, headers) or self._identify(scope, headers)
        looked_at = scope["method"] == "GET" and wants_page(headers.get("accept", ""), scope["path"])
        if isinstance(found, Refusal) and found.status == 401 and self._access.token and looked_at:
            scope[CALLER] = NOBODY
            await self._application(_of_login(scope), receive, _with_status(send, 401))
            return
        if isinstance(found, Refusal):
            await (_show if looked_at else _answer)(send, found.status, found.message)
            return
        if _declared_length(headers) > LARGEST_BODY:
            await _answer(send, 413, TOO_LARGE)
            return
        scope[CALLER] = found
        await self._application(scope, _bounded(receive), send)

    def _foreign(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        """Refuse what a page of another site sends."""
        host = _split(f"//{headers.get('host', '')}")[0]
        if host not in map(str.lower, self._access.hosts) and not is_loopback(host):
            return Refusal(403, "this host name is not served; start the portal with --host NAME to allow it")
        origin = headers.get("origin")
        if origin and _split(origin)[1] != headers.get("host"):
            return Refusal(403, "a page of another site may not use the portal")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return Refusal(403, "a page of another site may not use the portal")
        return None

    def _identify(self, scope: Scope, headers: Mapping[str, str]) -> Caller | Refusal:
        """Return who asks, or why nobody is answered."""
        access, shown = self._access, self._shows_token(headers)
        wanted = access.rules.header.encode()
        # Every value counts: of two, a proxy may have meant the other.
        values = [value.decode("latin-1") for name, value in scope["headers"] if wanted and name.lower() == wanted]
        ends = (scope.get("client"), scope.get("server"))
        must_name = not shown and not access.token
        found = access.rules.identify(Connected(*ends, access.unix, self._is_direct(headers), must_name), values)
        if shown and not (isinstance(found, Refusal) and not found.name):
            return with_token(found, ends[0])
        if access.token and scope["path"] in OPEN_PATHS and not isinstance(found, Caller):
            return Caller(peer=ends[0][0] if ends[0] else "")
        if found is not None:
            return found
        if not access.token:
            return Refusal(
                401, "only the owner's own processes are answered; start the portal with --token-file to let others in"
            )
        return Refusal(401, "give the token as Authorization: Bearer, or sign in at /login")

    def _is_direct(self, headers: Mapping[str, str]) -> bool:
        """Tell whether who connected may be taken for who asks: no proxy shows, and none is to be expected.

        A proxy that adds no header looks like the owner; but a portal that is
        known by another name and has a token is made for others, unless the
        settings name the proxy.
        """
        if self._access.token and self._access.hosts and not self._access.rules.header:
            return False
        return not any(name in _PROXIED or name.startswith(_PROXIED_PREFIX) for name in headers)

    def _shows_token(self, headers: Mapping[str, str]) -> bool:
        if not self._access.token:
            return False
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), self._access.token.encode()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._access.session().encode())


def _split(url: str) -> tuple[str, str]:
    """Return the host name, in small letters, and the host with its port; both "" where there is none."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as "//["
        return "", ""
    return parts.hostname or "", parts.netloc


def wants_page(accept: str, path: str) -> bool:
    """Tell whether a person looks at an answer: a browser, and none of the paths of the REST interface."""
    return "text/html" in accept and not path.startswith("/api/")


def _of_login(scope: Scope) -> Scope:
    """Return a request for the page on which one signs in."""
    return {**scope, "path": "/login", "raw_path": b"/login", "query_string": b""}


def _with_status(send: Send, status: int) -> Send:
    async def altered(message: Message) -> None:
        await send({**message, "status": status} if message["type"] == "http.response.start" else message)

    return altered


def _declared_length(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isdigit() else 0


def _bounded(receive: Receive) -> Receive:
    """Return ``receive`` that refuses an undeclared body once it grows past the bound."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > LARGEST_BODY:
                raise HTTPException(413, TOO_LARGE)
        return message

    return bounded


async def _show(send: Send, status: int, message: str) -> None:
    """Answer a browser: a page without links, since none of them would be answered."""
    text = html.escape(message)
    body = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        "<title>Not let in</title><style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;"
        f"margin:2rem}}</style></head><body><main><h1>Not let in</h1><p>{text}.</p></main></body></html>\n"
    ).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in PAGE_HEADERS.items()]
    headers += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _answer(send: Send, status: int, message: str) -> None:
    body = (json.dumps({"message": message, "data": {"errors": [message]}}) + "\n").encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
