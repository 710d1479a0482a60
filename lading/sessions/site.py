"""What a site's own settings must look like, so that a slip shows when they are read and not in the middle of a job.

Input: the presets' site settings. Output: a sentence per fault.
Invariant: pure; names that nobody here knows are left to whoever does. No value of a secret is in a sentence.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lading.sessions import values

_TLS = ("starttls", "implicit", "none")


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
    folder = site.get("temp_directory")
    if folder and not isinstance(folder, str):
        found.append(f"temp_directory is a path, not {_kind(folder)}")
    return found


def _webhook(settings: Mapping[str, Any]) -> list[str]:
    return [*_lacking(settings, "url"), *_texts(settings, "secret"), *_url(settings)]


def _mail(settings: Mapping[str, Any]) -> list[str]:
    found = [*_lacking(settings, "host", "sender"), *_texts(settings, "host", "sender", "user", "password")]
    port = settings.get("port", 25)
    if not str(port).isdecimal() or isinstance(port, bool):
        found.append("port is not a whole number")
    if settings.get("tls", "starttls") not in _TLS:
        found.append(f"tls is one of {', '.join(_TLS)}")
    return found


def _docdb(settings: Mapping[str, Any]) -> list[str]:
    return [*_texts(settings, "api_token", "database", "collection"), *_url(settings)]


def _portal(settings: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name} is not known; use {', '.join(_PORTAL)}" for name in sorted(map(str, set(settings) - set(_PORTAL)))
    ]
    if not isinstance(settings.get("allow_programs", False), bool):
        found.append("allow_programs is true or false")
    for name in ("secrets", "domains"):
        listed = settings.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(item, str) and item for item in listed):
            found.append(f"{name} is a list of text")
        elif name == "secrets" and not all(item.startswith(("env:", "file:")) for item in listed):
            found.append("secrets are written as env:NAME or file:PATH, never themselves")
    return found


def _lacking(settings: Mapping[str, Any], *names: str) -> list[str]:
    return [f"{name} lacks" for name in names if not settings.get(name)]


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
_PORTAL = ("allow_programs", "secrets", "domains")
_JUDGES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "webhook": _webhook,
    "mail": _mail,
    "docdb": _docdb,
    "portal": _portal,
}
