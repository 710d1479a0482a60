"""Who may talk to the portal, and how much they may say.

Input: ASGI requests. Output: the same requests, or 401, 403, 413.
Invariant: nothing is answered to a stranger, static pages included. Let in
are: whoever reaches the Unix socket (mode 0600: the owner), the owner's own
processes over loopback, and whoever shows the token. A proxy that the owner
runs speaks for strangers: what it hands on needs the token. A foreign page in the
owner's browser is none of them: its Origin, or a Host that is not ours,
betrays it, on the socket file too: ``ssh -L`` gives it an address that any
page in the browser can reach under a name of its own.
"""

import hashlib
import hmac
import html
import ipaddress
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from lading.core.errors import UsageError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "lading"
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
    socket file whose mode guards it.
    """

    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    unix: bool = False

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
        refusal = self._refuse(scope, headers)
        looked_at = scope["method"] == "GET" and wants_page(headers.get("accept", ""), scope["path"])
        if refusal and refusal[0] == 401 and self._access.token and looked_at:
            await self._application(_of_login(scope), receive, _with_status(send, 401))
            return
        if refusal:
            await (_show if looked_at else _answer)(send, *refusal)
            return
        if _declared_length(headers) > LARGEST_BODY:
            await _answer(send, 413, TOO_LARGE)
            return
        scope["lading.token"] = self._shows_token(headers)
        await self._application(scope, _bounded(receive), send)

    def _refuse(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        host = _split(f"//{headers.get('host', '')}")[0]
        if host not in map(str.lower, self._access.hosts) and not _is_loopback(host):
            return 403, "this host name is not served; start the portal with --host NAME to allow it"
        origin = headers.get("origin")
        if origin and _split(origin)[1] != headers.get("host"):
            return 403, "a page of another site may not use the portal"
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return 403, "a page of another site may not use the portal"
        if self._shows_token(headers) or (self._is_direct(headers) and self._comes_from_owner(scope)):
            return None
        if self._access.token and scope["path"] in OPEN_PATHS:
            return None
        if not self._access.token:
            return (
                401,
                "only the owner's own processes are answered; start the portal with --token-file to let others in",
            )
        return 401, "give the token as Authorization: Bearer, or sign in at /login"

    def _is_direct(self, headers: Mapping[str, str]) -> bool:
        """Tell whether who connected may be taken for who asks: no proxy shows, and none is to be expected.

        A proxy that adds no header looks like the owner; but a portal that is
        known by another name and has a token is made for others.
        """
        if self._access.token and self._access.hosts:
            return False
        return not any(name in _PROXIED or name.startswith(_PROXIED_PREFIX) for name in headers)

    def _comes_from_owner(self, scope: Scope) -> bool:
        return self._access.unix or _is_owner(scope.get("client"), scope.get("server"))

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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_owner(client: tuple[str, int] | None, server: tuple[str, int] | None) -> bool:
    """Tell whether the other end of a loopback connection is a process of this user.

    On a login node loopback is shared with strangers; the kernel's tables of
    TCP sockets name the user of the other end (proc(5), /proc/net/tcp).
    """
    if not client or not server:
        return False
    near, far = _plain(client[0]), _plain(server[0])
    if near is None or far is None or not near.is_loopback:
        return False
    places = [("/proc/net/tcp6", 6)]
    if near.version == 4:
        # The other end may have opened either kind of socket for it.
        places.insert(0, ("/proc/net/tcp", 4))
    for table, version in places:
        try:
            with open(table, encoding="ascii") as stream:
                user = find_user(stream, _hexed(near, client[1], version), _hexed(far, server[1], version))
        except FileNotFoundError:  # a kernel without IPv6
            continue
        if user is not None:
            return user == os.geteuid()
    return False


def find_user(table: Iterable[str], local: str, remote: str) -> int | None:
    """Return the user of the open connection from ``local`` to ``remote``, both as the table writes them.

    Both ends count, address and port: ports alone are free to be the same
    elsewhere on 127.0.0.0/8. Lines of another state than ESTABLISHED (01) or
    without an inode have lost their process, and say user 0 for anyone's.
    """
    for line in table:
        fields = line.split()
        if fields[1:4] == [local, remote, "01"] and fields[9] != "0":
            return int(fields[7])
    return None


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, an IPv4 one out of its IPv6 form; None for what is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _hexed(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, version: int) -> str:
    """Return an end as the kernel's table writes it: words of 32 bits in the machine's order, colon, port."""
    packed = address.packed
    if address.version < version:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    words = [int.from_bytes(packed[place : place + 4], sys.byteorder) for place in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


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
    body = f'{{"message": "{message}", "data": {{"errors": ["{message}"]}}}}\n'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
