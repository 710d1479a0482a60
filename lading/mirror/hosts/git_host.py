"""What a mirror asks of a host of git repositories, and what all of them share.

Input: an organisation and the name of a repository. Output: repositories that are there afterwards.
Invariant: the token goes in a header, only to the API's own host, and is in
no message; asking twice changes nothing, and nothing is ever deleted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from lading.core.errors import LadingError
from lading.mirror.web_api import WebApi
from lading.objectstore.endpoint import is_loopback


class GitHost(Protocol):
    """A host; ``shown`` is its name in messages."""

    shown: str

    def ensure(self, org: str, name: str, *, private: bool) -> str:
        """Return the address to push to, after making the repository if it is missing.

        Raises ``LadingError`` when it should be private and everyone can read it.
        """

    def describe(self, org: str, name: str, description: str, homepage: str, topics: Sequence[str] = ()) -> bool:
        """Set description, homepage and topics; returns False where the host has no API for them."""

    def archive(self, org: str, name: str, *, archived: bool) -> bool:
        """Archive a repository, or open it again; returns False where the host has no API for that.

        One that is gone is left alone.
        """

    def release(self, org: str, name: str, version: str) -> bool:
        """Make a release of a tag, unless it is there; returns False where the host has no API for that."""


class HostApi:
    """The API of one host.

    ``pace``: seconds between two requests that change something; none where the host is this machine.
    """

    def __init__(self, shown: str, address: str, headers: Mapping[str, str], pace: float = 0.0) -> None:
        self.shown = shown
        here = is_loopback(urlsplit(address).hostname or "")
        sent = {"Accept": "application/json", "Content-Type": "application/json", **headers}
        self._web = WebApi(address, sent, secret=True, pace=0.0 if here else pace)

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[int, Any]:
        """Return status and value of the answer."""
        answer = self._web.ask(method, path, body)
        return answer.status, answer.value

    def must(self, method: str, path: str, body: Mapping[str, object] | None, fine: tuple[int, ...]) -> Any:
        """Return the value of an answer with one of the statuses ``fine``; ``LadingError`` for any other."""
        status, answer = self.ask(method, path, body)
        if status not in fine:
            said = answer.get("message", "") if isinstance(answer, dict) else ""
            raise LadingError(
                f"{self.shown} refused {method} {path} with {status} {said}; check the token's permissions"
            )
        return answer

    def ensure(self, org: str, name: str, making: str, body: Mapping[str, object]) -> str:
        """Return the address of a repository; one that is missing is made by posting ``body`` to ``making``.

        Raises ``LadingError`` when the body says that it is private and everyone can read it.
        """
        where = repository(org, name)
        status, answer = self.ask("GET", where)
        if status == 404:
            # 409 or 422: it is there. An earlier attempt made it, though its answer never came.
            answer = self.must("POST", making, {"name": name, **body}, (201, 409, 422))
            if "ssh_url" not in (answer or {}):
                answer = self.must("GET", where, None, (200,))
        elif status != 200:
            answer = self.must("GET", where, None, (200,))
        if body.get("private") and not answer.get("private"):
            raise LadingError(
                f"{org}/{name} on {self.shown} can be read by everyone, but the settings say access: private, so "
                f"nothing was pushed there; make it private in its settings on {self.shown}, then push again"
            )
        return str(answer["ssh_url"])


class ReleasingHost:
    """What GitHub, Forgejo and Gitea do by the same requests."""

    _api: HostApi

    def archive(self, org: str, name: str, *, archived: bool) -> bool:
        """Archive a repository, or open it again; one that is gone is left alone."""
        self._api.must("PATCH", repository(org, name), {"archived": archived}, (200, 404))
        return True

    def release(self, org: str, name: str, version: str) -> bool:
        """Make a release of a tag, unless it is there."""
        where = repository(org, name)
        status, _ = self._api.ask("GET", f"{where}/releases/tags/{version}")
        if status == 404:
            self._api.must("POST", f"{where}/releases", {"tag_name": version, "name": version}, (201,))
        return True


def repository(org: str, name: str) -> str:
    """Return where an API has a repository."""
    return f"/repos/{quote(org)}/{quote(name)}"


def topic_words(words: Sequence[str], most: int, longest: int) -> list[str]:
    """Return words as hosts take topics: small letters, digits and dashes, each once."""
    letters = ("".join(char if char.isascii() and char.isalnum() else " " for char in word.lower()) for word in words)
    found = ("-".join(text.split())[:longest].strip("-") for text in letters)
    return list(dict.fromkeys(topic for topic in found if topic))[:most]
