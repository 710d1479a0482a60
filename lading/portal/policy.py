"""What a list that came through the portal may ask for: what its owner allows in the site's settings, and no more.

Input: the site's ``portal`` settings; cells of a list, or a preset that
somebody sets. Output: a sentence for each thing that is not allowed, with
the setting that would allow it.
Invariant: off by default. Whoever may send lists cannot run a program of
their own, name a secret that the owner did not list, or have one sent to an
address that the owner did not list. Lists that the owner runs at the command
line, and presets in the owner's files, never come here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lading.sessions.columns import SECRET_COLUMNS
from lading.sessions.precedence import is_secret, leaves, literal
from lading.sessions.table import Value
from lading.sessions.vocabulary import TASKS

# Fields of a task that bring a program of their own, and settings that can: files of settings hold any of them.
_PROGRAMS = ("command_script", "image", "image_version")
_ARGUMENTS = ("command_script", "ffmpeg_arguments", "extra_configs")
_REFERENCES = ("env:", "file:")
_PORTS = {"https": 443, "http": 80}


def address(text: str) -> tuple[str, int | None] | None:
    """Return host and port of an address or of a bare host name; None for anything else."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.username or parts.password:
        return None
    return parts.hostname.lower(), port or _PORTS.get(parts.scheme)


@dataclass(frozen=True)
class Policy:
    """What the site's settings allow (``portal`` of site.json or site.yaml)."""

    programs: bool = False
    secrets: frozenset[str] = frozenset()
    domains: frozenset[tuple[str, int | None]] = frozenset()
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, site: Mapping[str, Any]) -> "Policy":
        """Return the policy of a site's settings, which were judged when they were read."""
        settings = site.get("portal") or {}
        domains = (address(text) for text in settings.get("domains") or [])
        return cls(
            settings.get("allow_programs") is True,
            frozenset(settings.get("secrets") or []),
            # A bare name is that of a server with TLS.
            frozenset((found[0], found[1] or 443) for found in domains if found),
            tuple(settings.get("sources") or ()),
        )

    def cell(self, name: str, value: Value) -> Iterator[str]:
        """Yield what a cell asks for that is not allowed."""
        settings = name.split(".", 1)[0] in TASKS or ".job_settings" in name
        data = literal(value) if settings else value
        yield from self.setting(name, data)

    def preset(self, task: str, value: Mapping[str, Any]) -> Iterator[str]:
        """Yield what a preset asks for that is not allowed to come through the portal."""
        yield from self.setting(task, dict(value))

    def setting(self, name: str, value: Any) -> Iterator[str]:
        """Yield what one setting, or all in it, asks for that is not allowed."""
        for place, item in _items(name, value):
            if item in (None, "", False):
                continue
            parts = place.lower().replace("-", "_").split(".")
            outside = parts[: parts.index("job_settings")] if "job_settings" in parts else parts
            if not self.programs and (set(outside[1:]) & set(_PROGRAMS) or set(parts) & set(_ARGUMENTS)):
                yield (
                    f"{place}: the portal does not run programs that lists name; the owner can allow it with "
                    "portal.allow_programs in the site's settings, or put it into a preset file"
                )
            secret = name in SECRET_COLUMNS or any(map(is_secret, parts))
            if secret and str(item).startswith(_REFERENCES) and str(item) not in self.secrets:
                yield (
                    f"{place}: the portal reads only secrets that its owner lists; "
                    "the owner can add this one to portal.secrets in the site's settings"
                )
            if _receives_secrets(parts) and self._unlisted(str(item)):
                yield (
                    f"{place}: the portal sends secrets only to addresses that its owner lists; "
                    "the owner can add this one to portal.domains in the site's settings"
                )

    def _unlisted(self, text: str) -> bool:
        found = address(text)
        return found is None or (found[0], found[1] or 443) not in self.domains


def _receives_secrets(parts: list[str]) -> bool:
    if len(parts) == 1:
        return parts[0] == "codeocean_domain"
    return parts[0] in TASKS and parts[-1].endswith(("url", "domain", "endpoint", "host"))


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, plain value) of everything in a setting."""
    if isinstance(value, Mapping):
        for key, item in leaves(value):
            yield from _items(f"{name}.{key}", item) if not isinstance(item, Mapping) else iter(())
    elif isinstance(value, list):
        for item in value:
            yield from _items(name, item)
    else:
        yield name, value
