"""The organisations that a mirror's settings name, on hosts with an API.

Input: the settings; tokens of the environment. Output: a ``HostAccount`` each.
Invariant: a token that is missing is an error before anything is sent.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.core.errors import UsageError
from lading.mirror.config import HostedOrganisation
from lading.mirror.hosts.forgejo import Forgejo
from lading.mirror.hosts.git_host import GitHost
from lading.mirror.hosts.github import GitHub, find_token
from lading.mirror.hosts.gogs import Gogs
from lading.mirror.layout import Dataset, MirrorLayout

GITHUB = "github"


@dataclass(frozen=True)
class HostAccount:
    """A host, what git calls it in each repository, and the organisation for each kind of dataset."""

    name: str
    client: GitHost
    orgs: Mapping[str, str]

    def org(self, kind: str) -> str:
        """Return the organisation that datasets of a kind go to."""
        return self.orgs["zarr" if kind == "zarr" else "session"]

    def archived(self, repository: Path) -> Path:
        """Return the note that a repository is archived there."""
        return repository / ("lading-archived" if self.name == GITHUB else f"lading-archived-{self.name}")

    def described(self, repository: Path) -> Path:
        """Return the note of what the host shows of a repository."""
        return repository / ("lading-described" if self.name == GITHUB else f"lading-described-{self.name}")

    def reopen(self, dataset: Dataset) -> None:
        """Open a repository again that was archived, since its dataset came back."""
        note = self.archived(dataset.repository)
        if note.exists():
            self.client.archive(self.org(dataset.kind), dataset.name, archived=False)
            note.unlink()


def host_accounts(layout: MirrorLayout) -> list[HostAccount]:
    """Return the accounts of the settings; ``UsageError`` when a token is missing."""
    config = layout.config
    found = []
    if config.datasets.github_org is not None:
        orgs = {"session": config.datasets.github_org}
        orgs["zarr"] = config.zarrs.github_org if config.zarrs and config.zarrs.github_org else orgs["session"]
        found.append(HostAccount(GITHUB, GitHub(config.github_api, find_token(layout.store("super"))), orgs))
    for host in config.hosts:
        found.append(HostAccount(host.name, _client(host), {"session": host.org, "zarr": host.org}))
    return found


def _client(host: HostedOrganisation) -> GitHost:
    variable = f"{host.name.upper().replace('-', '_')}_TOKEN"
    token = os.environ.get(variable, "")
    if not token:
        raise UsageError(f"no token for {host.name}: set {variable}")
    client = Gogs if host.kind in ("gin", "gogs") else Forgejo
    return client(host.name, host.address, token)
