"""GitHub's API, as far as a mirror needs it: repositories of an organisation, descriptions, releases.

Input: a token from ``GITHUB_TOKEN`` or git's ``hub.oauthtoken``. Output:
repositories that are there afterwards.
Invariant: the token goes in a header, only to the API's own host, and is in
no message; asking twice changes nothing.

Source: GitHub REST API documentation, version 2022-11-28, "Repositories" and "Releases".
"""

import json
import os
from pathlib import Path
from typing import Any

import urllib3

from lading.core.errors import LadingError, UsageError
from lading.mirror.git.commands import run, succeeds

_RETRIES = urllib3.Retry(
    total=5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None, redirect=0,
    raise_on_status=False,
)  # fmt: skip


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
        self._api = api.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "Content-Type": "application/json",
            "User-Agent": "lading",
        }
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(30), retries=_RETRIES)

    def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> tuple[int, Any]:
        try:
            answer = self._pool.request(
                method, self._api + path, headers=self._headers, body=json.dumps(body) if body is not None else None
            )
        except urllib3.exceptions.HTTPError as error:
            raise LadingError(f"{self._api}{path}: no answer ({type(error).__name__}); run again later") from error
        try:
            return answer.status, json.loads(answer.data or b"null")
        except ValueError:
            return answer.status, None

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
            answer = self._must("POST", f"/orgs/{org}/repos", body, (201,))
        elif status != 200:
            answer = self._must("GET", f"/repos/{org}/{name}", None, (200,))
        if private and not answer.get("private"):
            raise LadingError(
                f"{org}/{name} on GitHub can be read by everyone, but the settings say access: private, so nothing "
                "was pushed there; make it private in its settings on GitHub, then push again"
            )
        return str(answer["ssh_url"])

    def describe(self, org: str, name: str, description: str, homepage: str) -> None:
        """Set description and homepage."""
        self._must("PATCH", f"/repos/{org}/{name}", {"description": description, "homepage": homepage}, (200,))

    def release(self, org: str, name: str, version: str) -> None:
        """Make a release of a tag, unless it is there."""
        status, _ = self._ask("GET", f"/repos/{org}/{name}/releases/tags/{version}")
        if status == 404:
            body: dict[str, object] = {"tag_name": version, "name": version}
            self._must("POST", f"/repos/{org}/{name}/releases", body, (201,))
