"""GitHub's API, as far as a mirror needs it: repositories of an organisation, descriptions, topics, releases.

Input: a token from ``GITHUB_TOKEN`` or git's ``hub.oauthtoken``. Output:
repositories that are there afterwards.
Invariant: as of every host; limits of rate, the secondary ones too, are
waited for, and what changes something is asked at GitHub's own pace.

Source: GitHub REST API documentation, version 2022-11-28, "Repositories", "Releases" and "Best practices".
"""

import os
from collections.abc import Sequence
from pathlib import Path

from lading.core.errors import UsageError
from lading.mirror.git.commands import run, succeeds
from lading.mirror.hosts.git_host import HostApi, ReleasingHost, repository, topic_words

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


class GitHub(ReleasingHost):
    """A client of one API host."""

    shown = "GitHub"

    def __init__(self, api: str, token: str) -> None:
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        self._api = HostApi(self.shown, api, headers, PACE)

    def ensure(self, org: str, name: str, *, private: bool) -> str:
        """Return the address to push to, after making the repository if it is missing."""
        body = {"private": private, "has_issues": False, "has_wiki": False}
        return self._api.ensure(org, name, f"/orgs/{org}/repos", body)

    def describe(self, org: str, name: str, description: str, homepage: str, topics: Sequence[str] = ()) -> bool:
        """Set description, homepage and topics."""
        where = repository(org, name)
        self._api.must("PATCH", where, {"description": description, "homepage": homepage}, (200,))
        if topics:
            names = topic_words(topics, _MOST_TOPICS, _LONGEST_TOPIC)
            self._api.must("PUT", f"{where}/topics", {"names": names}, (200,))
        return True
