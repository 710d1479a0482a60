"""The API of GIN and other Gogs: it makes repositories, and changes none.

Input: the address of the API, which ends in ``/api/v1``, and a token. Output: repositories that are there afterwards.
Invariant: as of every host. What this API cannot do is answered with False, so that a person hears of it.

Source: Gogs' API documentation (``gogs/docs-api``), "Repositories": there is no request that edits a repository.
"""

from collections.abc import Sequence

from lading.mirror.hosts.git_host import HostApi


class Gogs:
    """A client of one API host."""

    def __init__(self, shown: str, api: str, token: str) -> None:
        self.shown = shown
        self._api = HostApi(shown, api, {"Authorization": f"token {token}"})

    def ensure(self, org: str, name: str, *, private: bool) -> str:
        """Return the address to push to, after making the repository if it is missing."""
        return self._api.ensure(org, name, f"/org/{org}/repos", {"private": private, "auto_init": False})

    def describe(self, org: str, name: str, description: str, homepage: str, topics: Sequence[str] = ()) -> bool:
        """Return False: descriptions are changed on the host's own pages only."""
        del org, name, description, homepage, topics
        return False

    def archive(self, org: str, name: str, *, archived: bool) -> bool:
        """Return False: it archives nothing."""
        del org, name, archived
        return False

    def release(self, org: str, name: str, version: str) -> bool:
        """Return False: releases are made on the host's own pages only; the tag is there."""
        del org, name, version
        return False
