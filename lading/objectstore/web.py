"""Fetch one file by its https address, as a browser would: no account, no bucket, no library.

Input: an address. Output: the file's bytes in a stream.
Invariant: plain http goes to loopback only, also after a redirect. No message holds what follows a ``?``, which may be
a signature. What broke goes on where it stopped, if the server can do that; whether the bytes are the right ones is
for the caller to say.
"""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from typing import IO, Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from lading.core.errors import LadingError, UsageError
from lading.objectstore.endpoint import is_loopback, split_address
from lading.objectstore.network import choose_way
from lading.objectstore.target import Target

ATTEMPTS = 5
TIMEOUT = 60.0
BLOCK = 1 << 20
_PATH = "/%!$&'()*+,;=:@~-._"  # what a path of RFC 3986 may hold as it is, and escapes that are there already
LATER = (408, 425, 429, 500, 502, 503, 504)


def written_address(url: str) -> str:
    """Return an address as it is sent: what cannot be in one is percent-encoded, and nothing is encoded twice."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return urlunsplit(parts._replace(path=quote(parts.path, safe=_PATH), query=quote(parts.query, safe=_PATH + "?")))


def shown_address(url: str) -> str:
    """Return an address without its query, which may hold a signature."""
    return url.partition("?")[0]


def check_address(url: str) -> None:
    """Refuse what is no https address, plain http to another machine, and credentials inside."""
    parts = split_address(written_address(url))
    if parts is None or parts.scheme not in ("http", "https"):
        raise UsageError(
            f"{shown_address(url)} is not an address; write it like https://example.org/manifest.jsonl.zst"
        )
    if "@" in parts.netloc:
        raise UsageError("the address holds a user name; give one without")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise UsageError(f"{shown_address(url)} is plain http to another machine; use https")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that could have been given in the first place."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(urljoin(req.full_url, newurl))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, stream: IO[bytes]) -> None:
    """Write the file at an address to a stream; raises ``UsageError`` when it is not there, ``LadingError`` else."""
    check_address(url)
    parts = urlsplit(url)
    way = choose_way(Target("", f"{parts.scheme}://{parts.netloc}"))
    handlers: list[Any] = [
        urllib.request.ProxyHandler({"http": way.proxy, "https": way.proxy} if way.proxy else {}),
        _SafeRedirects(),
    ]
    if parts.scheme == "https":
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=way.bundle)))
    opener = urllib.request.build_opener(*handlers)
    failed = 0
    while True:
        before = stream.tell()
        try:
            if _take(opener, url, stream):
                return
            reason = "the answer broke off"
        except urllib.error.HTTPError as error:
            if error.code not in LATER:
                raise UsageError(_refused(url, error.code)) from error
            reason = f"the server says {error.code}"
        except (OSError, http.client.HTTPException) as error:
            inner = getattr(error, "reason", error)
            if isinstance(inner, ssl.SSLCertVerificationError):
                raise LadingError(
                    f"{shown_address(url)}: the server does not show a trusted certificate; for an own one set "
                    "AWS_CA_BUNDLE"
                ) from error
            reason = str(inner).split("\n")[0][:200] or type(inner).__name__
        failed = 1 if stream.tell() - before >= BLOCK else failed + 1
        if failed >= ATTEMPTS:
            raise LadingError(f"{shown_address(url)} cannot be fetched: {reason}; run the same command again")
        time.sleep(min(10.0, 0.2 * 2**failed))


def _refused(url: str, code: int) -> str:
    if 300 <= code < 400:
        return f"{shown_address(url)} redirects in a circle, or to what is not http; check the address"
    said = {401: "asks for a password", 403: "may not be read, or is not there", 404: "is not there"}
    return f"{shown_address(url)} {said.get(code, f'cannot be had: the server says {code}')}; check the address"


def _take(opener: urllib.request.OpenerDirector, url: str, stream: IO[bytes]) -> bool:
    """Add what is lacking to the stream; True when the answer came to its end."""
    held = stream.tell()
    request = urllib.request.Request(written_address(url), headers={"Accept-Encoding": "identity"})  # noqa: S310 - checked
    if held:
        request.add_header("Range", f"bytes={held}-")
    with opener.open(request, timeout=TIMEOUT) as answer:
        if held and not (answer.status == 206 and _begins_at(answer.headers.get("Content-Range"), held)):
            stream.seek(0)
            stream.truncate()
        length = answer.length  # None where the server does not say it, or says what is no number
        count = 0
        while block := answer.read(BLOCK):
            stream.write(block)
            count += len(block)
    return length is None or count == length


def _begins_at(content_range: str | None, first: int) -> bool:
    return (content_range or "").startswith(f"bytes {first}-")
