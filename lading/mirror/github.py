"""GitHub's API, as far as a mirror needs it: repositories of an organisation, descriptions, topics, releases.

Input: a token from ``GITHUB_TOKEN`` or git's ``hub.oauthtoken``. Output:
repositories that are there afterwards.
Invariant: the token goes in a header, only to the API's own host, and is in
no message; asking twice changes nothing. Limits of rate, the secondary ones
too, are waited for, and what changes something is asked at GitHub's own pace.

Source: GitHub REST API documentation, version 2022-11-28, "Repositories", "Releases" and "Best practices".
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lading.core.errors import LadingError, UsageError
from lading.mirror.git.commands import run, succeeds
from lading.mirror.web_api import WebApi
from lading.objectstore.endpoint import is_loopback

# Seconds between two requests that change something, as GitHub asks for.
PACE = 1.0
_MOST_TOPICS, _LONGEST_TOPIC = 20, 50


def find_token(directory: Path) -> str:
    """Return the access token; ``UsageError`` when there is none."""
    token = os.environ.get("GITHUB_TOKEN", "")
    if not token and succeeds(["config", "--get", "hub.oauthtoken"], directory):
        token = run(["config", "--get", "hub.oauthtoken"], directory).decode().strip()
    if not token:
        raise UsageError("no GitHub token: set GITHUB_TOKEN, or git config --global hub.oauthtoken")
    return token


class GitHub:
    """A client of one API host."""

    def __init__(self, api: str, token: str) -> None:
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "Content-Type": "application/json",
        }
        here = is_loopback(urlsplit(api).hostname or "")
        self._web = WebApi(api, headers, secret=True, pace=0.0 if here else PACE)

    def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> tuple[int, Any]:
        answer = self._web.ask(method, path, body)
        return answer.status, answer.value

    def _must(self, method: str, path: str, body: dict[str, object] | None, fine: tuple[int, ...]) -> Any:
        status, answer = self._ask(method, path, body)
        if status not in fine:
            said = answer.get("message", "") if isinstance(answer, dict) else ""
            raise LadingError(f"GitHub refused {method} {path} with {status} {said}; check the token's permissions")
        return answer

    def ensure(self, org: str, name: str, *, private: bool) -> str:
        """Return the address to push to, after making the repository if it is missing.

        Raises ``LadingError`` when it should be private and everyone can read it.
        """
        status, answer = self._ask("GET", f"/repos/{org}/{name}")
        if status == 404:
            body: dict[str, object] = {"name": name, "private": private, "has_issues": False, "has_wiki": False}
            # 422: it is there. An earlier attempt made it, though its answer never came.
            answer = self._must("POST", f"/orgs/{org}/repos", body, (201, 422))
            if "ssh_url" not in (answer or {}):
                answer = self._must("GET", f"/repos/{org}/{name}", None, (200,))
        elif status != 200:
            answer = self._must("GET", f"/repos/{org}/{name}", None, (200,))
        if private and not answer.get("private"):
            raise LadingError(
                f"{org}/{name} on GitHub can be read by everyone, but the settings say access: private, so nothing "
                "was pushed there; make it private in its settings on GitHub, then push again"
            )
        return str(answer["ssh_url"])

    def describe(self, org: str, name: str, description: str, homepage: str, topics: Sequence[str] = ()) -> None:
        """Set description, homepage and topics."""
        self._must("PATCH", f"/repos/{org}/{name}", {"description": description, "homepage": homepage}, (200,))
        if topics:
            self._must("PUT", f"/repos/{org}/{name}/topics", {"names": topics_of(topics)}, (200,))

    def archive(self, org: str, name: str, *, archived: bool) -> None:
        """Archive a repository, or open it again; one that is gone is left alone."""
        self._must("PATCH", f"/repos/{org}/{name}", {"archived": archived}, (200, 404))

    def release(self, org: str, name: str, version: str) -> None:
        """Make a release of a tag, unless it is there."""
        status, _ = self._ask("GET", f"/repos/{org}/{name}/releases/tags/{version}")
        if status == 404:
            body: dict[str, object] = {"tag_name": version, "name": version}
            self._must("POST", f"/repos/{org}/{name}/releases", body, (201,))


def topics_of(words: Sequence[str]) -> list[str]:
    """Return words as GitHub takes topics: small letters, digits and dashes, each once."""
    found = (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[:_LONGEST_TOPIC].strip("-") for word in words)
    return list(dict.fromkeys(topic for topic in found if topic))[:_MOST_TOPICS]
