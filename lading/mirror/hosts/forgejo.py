"""The API of Forgejo and Gitea, Codeberg among them: repositories of an organisation.

Input: the address of the API, which ends in ``/api/v1``, and a token. Output: repositories that are there afterwards.
Invariant: as of every host.

Source: the OpenAPI document of Forgejo (``/swagger.v1.json``): repository, organization. Gitea's is the same there.
"""

from collections.abc import Sequence

from lading.mirror.hosts.git_host import HostApi, ReleasingHost, repository, topic_words

_MOST_TOPICS, _LONGEST_TOPIC = 25, 35


class Forgejo(ReleasingHost):
    """A client of one API host."""

    def __init__(self, shown: str, api: str, token: str) -> None:
        self.shown = shown
        self._api = HostApi(shown, api, {"Authorization": f"token {token}"})

    def ensure(self, org: str, name: str, *, private: bool) -> str:
        """Return the address to push to, after making the repository if it is missing."""
        body = {"private": private, "auto_init": False, "default_branch": "main"}
        return self._api.ensure(org, name, f"/orgs/{org}/repos", body)

    def describe(self, org: str, name: str, description: str, homepage: str, topics: Sequence[str] = ()) -> bool:
        """Set description, homepage and topics."""
        where = repository(org, name)
        self._api.must("PATCH", where, {"description": description, "website": homepage}, (200,))
        if topics:
            names = topic_words(topics, _MOST_TOPICS, _LONGEST_TOPIC)
            self._api.must("PUT", f"{where}/topics", {"topics": names}, (204,))
        return True
