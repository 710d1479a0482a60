"""The way to the server: region, form of names, proxy and certificates; decided once for all clients of a run.

Input: the endpoint, the bucket, the environment. Output: a ``Way`` that each
client is told, so that none looks at the environment itself.
Invariant: loopback is never reached by a proxy, so what is sent to this
machine stays on it. Elsewhere ``HTTP(S)_PROXY`` and ``NO_PROXY`` mean the
same for every client, as do the four variables that name certificates.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from lading.core.errors import UsageError
from lading.objectstore.endpoint import configuration_files, is_loopback, mentions, resolve_region
from lading.objectstore.manner import STYLES, check_style
from lading.objectstore.profile import profile_bundle, profile_style
from lading.objectstore.target import Target

# Each is known to some client: AWS_CA_BUNDLE to SDKs of AWS, the next two to botocore, SSL_CERT_FILE to Go and OpenSSL.
CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Way:
    """How clients reach the server: ``proxy`` a URL or None, ``bundle`` a file of certificates (PEM) or None.

    ``hosts`` are the names under which it may be asked for. ``region`` is what requests are signed for, None where
    AWS's is not told. ``style``: path or virtual, None where nobody chose.
    """

    hosts: tuple[str, ...]
    proxy: str | None = None
    bundle: str | None = None
    region: str | None = None
    style: str | None = None

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a child process that shall go this way and no other.

        Credentials of the machine come by http, so there is never an ``HTTP_PROXY`` for them where we name a proxy.
        """
        found = dict(environment)
        if self.proxy:
            for name in environment:
                if name.lower() in _PROXIES:
                    del found[name]
            found["HTTPS_PROXY"] = self.proxy
        else:
            past = found.get("no_proxy") or found.get("NO_PROXY") or ""
            more = [host for host in self.hosts if not is_exempt(host, past)]
            if more and any(found.get(name) or found.get(name.upper()) for name in _PROXIES):
                found.pop("no_proxy", None)
                found["NO_PROXY"] = ",".join([*filter(None, [past]), *more])
        if self.bundle:
            found["AWS_CA_BUNDLE"] = found["SSL_CERT_FILE"] = self.bundle
        return found


def choose_way(target: Target) -> Way:
    """Return the way to a target; ``UsageError`` for certificates that cannot be read, or a style that cannot be."""
    region = target.region or resolve_region(target.endpoint)
    style = target.manner.style or _find_style()
    check_style(style, target.bucket, target.endpoint)
    parts = urlsplit(target.endpoint) if target.endpoint else None
    scheme = parts.scheme if parts else "https"
    if parts and parts.hostname:
        hosts: tuple[str, ...] = (parts.hostname,)
        if style == "virtual":
            hosts = (*hosts, f"{target.bucket}.{parts.hostname}")
    else:
        hosts = (f"s3.{region or 'us-east-1'}.amazonaws.com", "s3.amazonaws.com")
    bundle = _find_bundle() if scheme == "https" else None
    proxy = target.proxy or find_proxy(scheme, hosts[0], f"{target.bucket}.")
    return Way(hosts, proxy, bundle, region, style)


def _find_style() -> str | None:
    """Return the style that the AWS profile asks for, None for none."""
    if any(mentions(file, b"addressing_style") for file in configuration_files()):
        found = profile_style()
        return found if found in STYLES else None
    return None


def find_proxy(scheme: str, host: str, front: str = "") -> str | None:
    """Return the proxy that the environment names for a host, None for none; ``front`` may stand before its name."""
    proxies = getproxies_environment()
    past = proxies.get("no", "")
    if is_loopback(host) or is_exempt(host, past) or is_exempt(front + host, past):
        return None
    return proxies.get(scheme) or proxies.get("all")


def is_exempt(host: str, past: str) -> bool:
    """Tell whether ``NO_PROXY=past`` takes a host off: names and their subdomains, addresses, networks, ``*``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in (part.strip().lower() for part in past.split(",")):
        name = entry.rpartition(":")[0] if entry.count(":") == 1 else entry
        if name == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(name.strip("[]"), strict=False):
                    return True
            except ValueError:
                continue
        elif name and (host.lower() == name.lstrip(".*") or host.lower().endswith("." + name.lstrip(".*"))):
            return True
    return False


def _find_bundle() -> str | None:
    for name in CERTIFICATES:
        path = os.environ.get(name)
        if path:
            return _readable(os.path.expanduser(path), name)
    if any(mentions(file, b"ca_bundle") for file in configuration_files()):
        path = profile_bundle()
        if path:
            return _readable(os.path.expanduser(path), "ca_bundle of the AWS profile")
    return None


def _readable(path: str, where: str) -> str:
    try:
        if b"-----BEGIN" not in Path(path).read_bytes():
            raise UsageError(f"{where} names {path}, which contains no certificate; give a PEM file, or unset it")
    except OSError as error:
        raise UsageError(
            f"{where} names {path}, which cannot be read: {error.strerror}; correct or unset it"
        ) from error
    return os.path.abspath(path)
