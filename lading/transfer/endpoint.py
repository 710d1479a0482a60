"""Which endpoints may be spoken to.

Input: the URL of an S3 server. Output: nothing, or a ``UsageError``.
Invariant: plain http goes to loopback only.
"""

import ipaddress
from urllib.parse import urlsplit

from lading.errors import UsageError


def check_endpoint(endpoint: str | None) -> None:
    """Refuse an endpoint that would carry data or signatures in the clear."""
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise UsageError(f"{endpoint!r} is not an endpoint; write it like endpoint=https://s3.example.org")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise UsageError(f"{endpoint} is plain http to another machine; use https (http is for this machine only)")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
