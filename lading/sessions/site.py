"""What a site's own settings must look like, so that a slip shows when they are read and not in the middle of a job.

Input: the presets' site settings. Output: a sentence per fault.
Invariant: pure; a name that nothing reads is a fault. No value of a secret is in a sentence.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from lading.sessions import values
from lading.sessions.columns import JOB_COLUMNS
from lading.sessions.vocabulary import nearest

# Everything that is read of a site's settings.
KNOWN = (
    *("buckets", "defaults", "project_names", "temp_directory", "time_zone", "platforms", "mounts"),
    *("webhook", "mail", "docdb", "portal"),
)
_ALL = ", ".join(KNOWN)
# What a session is: never a default.
NO_DEFAULTS = ("subject_id", "acq_datetime", "s3_prefix", "aws_param_store_name")
_TLS = ("starttls", "implicit", "none")
# What a user of the portal may be given; and how users are written, those of this machine, those of a proxy.
SUBMIT, SEE_ALL, CANCEL_OWN, CANCEL_ALL, EDIT_PARAMETERS = PORTAL_RIGHTS = (
    *("submit", "see_all", "cancel_own", "cancel_all", "edit_parameters"),
)
UNIX, PROXY = "unix:", "proxy:"
# Headers that mean something else already.
_TAKEN_HEADERS = ("authorization", "cookie", "host", "origin", "forwarded", "via", "content-type", "content-length")


def faults(site: Mapping[str, Any]) -> list[str]:
    """Return every fault of a site's settings."""
    found = []
    for name in ("buckets", "defaults", "webhook", "mail", "docdb", "portal"):
        value = site.get(name)
        if value is not None and not isinstance(value, Mapping):
            example = _EXAMPLES.get(name, f"{name}: {{NAME: …}}")
            found.append(f"{name} is an object, not {_kind(value)}; write it like {example}")
        elif value and name in _JUDGES:
            found += [f"{name}: {fault}" for fault in _JUDGES[name](value)]
    names = site.get("project_names")
    if names and not isinstance(names, list):
        found.append(f"project_names is a list, not {_kind(names)}")
    found += _own(site)
    unknown = sorted(str(name) for name in site if name not in KNOWN)
    found += [f"{name} is not read{nearest(name, KNOWN) or f'; use {_ALL}'}" for name in unknown]
    defaults = site.get("defaults")
    for name in sorted(map(str, defaults)) if isinstance(defaults, Mapping) else ():
        if name not in JOB_COLUMNS or name in NO_DEFAULTS:
            found.append(f"defaults: {name} is not a default of a job{nearest(name, JOB_COLUMNS)}")
    folder = site.get("temp_directory")
    if folder and not isinstance(folder, str):
        found.append(f"temp_directory is a path, not {_kind(folder)}")
    return found


def _own(site: Mapping[str, Any]) -> list[str]:
    """Return the faults of the site's words: its time zone, its platforms, where it mounts its shares."""
    found = []
    if site.get("time_zone") is not None:
        try:
            values.zone(site["time_zone"])
        except ValueError as error:
            found.append(f"time_zone: {error}")
    platforms = site.get("platforms")
    if platforms is not None and not (isinstance(platforms, list) and all(_is_word(name) for name in platforms)):
        found.append("platforms is a list of names with letters, digits and hyphens, each as prefixes have it")
    mounts = site.get("mounts")
    if mounts is not None and not (
        isinstance(mounts, Mapping) and all(isinstance(path, str) and path.startswith("/") for path in mounts.values())
    ):
        found.append(r"mounts is an object of shares; write it like mounts: {'\\server\share': /mount}")
    return found


def _is_word(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name) is not None


def _webhook(settings: Mapping[str, Any]) -> list[str]:
    strange = _strange(settings, "url", "secret")
    return [*strange, *_lacking(settings, "url"), *_texts(settings, "secret"), *_url(settings)]


def _mail(settings: Mapping[str, Any]) -> list[str]:
    found = _strange(settings, "host", "port", "sender", "tls", "user", "password")
    found += [*_lacking(settings, "host", "sender"), *_texts(settings, "host", "sender", "user", "password")]
    port = settings.get("port", 25)
    if not str(port).isdecimal() or isinstance(port, bool):
        found.append("port is not a whole number")
    if settings.get("tls", "starttls") not in _TLS:
        found.append(f"tls is one of {', '.join(_TLS)}")
    return found


def _docdb(settings: Mapping[str, Any]) -> list[str]:
    strange = _strange(settings, "url", "api_token", "database", "collection", "docdb_version")
    if settings.get("docdb_version") not in (None, "v1", "v2"):
        strange.append("docdb_version is v1 or v2")
    return [*strange, *_texts(settings, "api_token", "database", "collection"), *_url(settings)]


def _portal(settings: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name} is not known; use {', '.join(_PORTAL)}" for name in sorted(map(str, set(settings) - set(_PORTAL)))
    ]
    if not isinstance(settings.get("allow_programs", False), bool):
        found.append("allow_programs is true or false")
    for name in ("secrets", "domains", "sources"):
        listed = settings.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(item, str) and item for item in listed):
            found.append(f"{name} is a list of text")
        elif name == "secrets" and not all(item.startswith(("env:", "file:")) for item in listed):
            found.append("secrets are written as env:NAME or file:PATH, never themselves")
        elif name == "sources" and not all(re.fullmatch("/+[^/].*", item) for item in listed):
            found.append(
                "sources are absolute paths of folders below which lists may look, like /data/lab, and not / itself"
            )
    return [*found, *_users(settings.get("users")), *_proxy(settings.get("proxy"))]


def _users(users: Any) -> list[str]:
    """Return the faults of what users of the portal may do."""
    if users is None:
        return []
    if not isinstance(users, Mapping):
        return [f"users is an object, not {_kind(users)}; write it like users: {{'unix:alice': [submit, cancel_own]}}"]
    found = []
    for name, rights in users.items():
        if not isinstance(name, str) or not re.fullmatch(f"({UNIX}|{PROXY}).+", name):
            found.append(
                f"users: {str(name)!r} is not a user; write {UNIX}NAME, {PROXY}NAME, or {UNIX}* for all others"
            )
        listed = rights if isinstance(rights, list) else []
        if rights is not None and not isinstance(rights, list):
            found.append(f"users: what {name} may do is a list of {', '.join(PORTAL_RIGHTS)}; [] is to look only")
        for item in listed:
            if item not in PORTAL_RIGHTS:
                hint = nearest(str(item), PORTAL_RIGHTS) or f"; use {', '.join(PORTAL_RIGHTS)}"
                found.append(f"users: {item!r} of {name} is not a right{hint}")
    return found


def _proxy(proxy: Any) -> list[str]:
    """Return the faults of which proxy is believed."""
    if proxy is None:
        return []
    if not isinstance(proxy, Mapping):
        return [f"proxy is an object, not {_kind(proxy)}; write it like {_PROXY_EXAMPLE}"]
    found = [f"proxy: {fault}" for fault in _strange(proxy, "header", "from")]
    header = proxy.get("header")
    if not isinstance(header, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9-]{1,63}", header):
        found.append(f"proxy: header is the name of a header, of letters, digits and hyphens, like {_PROXY_EXAMPLE}")
    elif header.lower() in _TAKEN_HEADERS or header.lower().startswith("x-forwarded-for"):
        found.append(f"proxy: header {header} has a meaning of its own; let the proxy use another, like X-Remote-User")
    places = proxy.get("from")
    if not isinstance(places, list) or not places:
        return [*found, f"proxy: from is a list of the places that the header is believed from, like {_PROXY_EXAMPLE}"]
    return [*found, *(f"proxy: from: {fault}" for place in places if (fault := _place(place)))]


def _place(place: Any) -> str:
    """Return what is wrong with a place that a proxy's header is believed from; "" for nothing."""
    if isinstance(place, str) and place.startswith(UNIX):
        return (
            ""
            if place[len(UNIX) :] not in ("", "*")
            else f"{place!r} names nobody; write {UNIX}USER, as the proxy runs"
        )
    try:
        network = ipaddress.ip_network(str(place))
    except ValueError as error:
        return f"{error}; write an address, a network like 10.0.0.0/28, or {UNIX}USER"
    if network.overlaps(ipaddress.ip_network("127.0.0.0/8" if network.version == 4 else "::1")):
        return (
            f"{place} is everybody on this machine; write {UNIX}USER, the user that the proxy runs as: "
            "the kernel says whose each connection is"
        )
    return ""


def _strange(settings: Mapping[str, Any], *known: str) -> list[str]:
    return [f"{name} is not read{nearest(str(name), known)}" for name in settings if name not in known]


def _lacking(settings: Mapping[str, Any], *names: str) -> list[str]:
    return [f"{name} is missing" for name in names if not settings.get(name)]


def _texts(settings: Mapping[str, Any], *names: str) -> list[str]:
    return [
        f"{name} is text, not {_kind(settings[name])}"
        for name in names
        if settings.get(name) is not None and not isinstance(settings[name], str)
    ]


def _url(settings: Mapping[str, Any]) -> list[str]:
    try:
        values.url(settings.get("url") or "https://example.org")
    except ValueError as error:
        return [f"url: {error}"]
    return []


def _kind(value: Any) -> str:
    return {"str": "text", "list": "a list", "dict": "an object"}.get(type(value).__name__, type(value).__name__)


_EXAMPLES = {
    "webhook": "webhook: {url: https://hooks.example.org/lading}",
    "mail": "mail: {host: mail.example.org, sender: lading@example.org}",
    "docdb": "docdb: {url: https://docdb.example.org}",
    "portal": "portal: {secrets: ['env:CODEOCEAN_TOKEN'], domains: ['https://codeocean.example.org']}",
}
_PROXY_EXAMPLE = "proxy: {header: X-Remote-User, from: ['unix:www-data']}"
_PORTAL = ("allow_programs", "secrets", "domains", "sources", "users", "proxy")
_JUDGES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "webhook": _webhook,
    "mail": _mail,
    "docdb": _docdb,
    "portal": _portal,
}
