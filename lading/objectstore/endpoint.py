"""Which S3 server is spoken to, and in which region: decided once for all clients.

Input: what a command line names, else the environment, else the profile of
the AWS configuration files. Output: the endpoint, None for AWS; or a
``UsageError``.
Invariant: plain http goes to loopback only; listings and every engine speak
to the server that the journal names, whatever each client would find itself.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from lading.core.errors import UsageError
from lading.objectstore.profile import profile_endpoint, profile_region

# As AWS SDKs look: the service's own first. s5cmd's SDK does not know them.
VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# By these, each of some client, an engine could be led elsewhere (S3_ENDPOINT_URL: s5cmd; AWS_ENDPOINT: obstore).
_LEADING = (*VARIABLES, "S3_ENDPOINT_URL", "AWS_ENDPOINT")
_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))


def resolve_endpoint(given: str | None) -> str | None:
    """Return the endpoint to speak to, ``given`` before all else; None is AWS."""
    if given:
        check_endpoint(given)
        return given
    found, where = _configured()
    check_endpoint(found, where)
    return found


def _configured() -> tuple[str | None, str]:
    """Return what the environment or the profile names, and where it does."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None, ""
    for name in VARIABLES:
        if os.environ.get(name):
            return os.environ[name], name
    if any(mentions(file, b"endpoint_url") for file in configuration_files()):
        return profile_endpoint(), "endpoint_url of the AWS profile"
    return None, ""


def mentions(file: Path, word: bytes) -> bool:
    """Tell whether a configuration file holds a word: so botocore is loaded only where it matters."""
    try:
        return word in file.read_bytes()
    except OSError:
        return False  # absent, or not ours to read: no client can read it either


def resolve_region(endpoint: str | None) -> str | None:
    """Return the region to sign for, None when AWS's is not told; servers that are not AWS ignore it."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or endpoint:
        return region or "us-east-1"
    return profile_region()


def configuration_files() -> list[Path]:
    """Return where the AWS configuration may lie."""
    return [Path(os.environ.get(name) or place).expanduser() for name, place in _FILES]


def scrubbed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an engine's process: without what would lead it to another server than it is told."""
    return {name: value for name, value in environment.items() if name not in _LEADING}


def check_endpoint(endpoint: str | None, where: str = "") -> None:
    """Refuse an endpoint that would carry data or signatures in the clear; ``where`` it was found, if not given."""
    if endpoint is None:
        return
    found = f"{where}: " if where else ""
    if "@" in endpoint:  # perhaps with a password, which no message may show
        raise UsageError(f"{found}the endpoint holds a user name; write it like endpoint=https://s3.example.org")
    parts = split_address(endpoint)
    if parts is None or parts.scheme not in ("http", "https") or parts.query:
        raise UsageError(f"{found}{endpoint!r} is not an endpoint; write it like endpoint=https://s3.example.org")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise UsageError(
            f"{found}{endpoint} is plain http to another machine; use https (http is for this machine only)"
        )


def split_address(address: str) -> SplitResult | None:
    """Return the parts of an address, None where no machine can have it."""
    if not address.isprintable() or " " in address:
        return None
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        if host:
            host.encode("idna")
    except ValueError:  # brackets, a port that is no number or too large, a name that no server can have
        return None
    return parts if host and port != 0 else None


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_of(endpoint: str | None) -> str:
    """Return the server that an endpoint names, however it is written."""
    if endpoint is None:
        return "aws"
    parts = urlsplit(endpoint)
    host = (parts.hostname or "").lower().rstrip(".")
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return f"{'loopback' if is_loopback(host) else host}:{port}"
