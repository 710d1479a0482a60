"""Organisations on hosts with an API: GitHub, Forgejo, GIN on loopback; limits, kills, thousands of repositories."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.mirror.config import load_config
from tests.conftest import need_program
from tests.mirrors import REPOSITORY, git, head, repository
from tests.servers.git_hosts import TOKEN, limited, serve_host

KINDS = {"forgejo": "forgejo", "gin": "gogs"}


def settings(kind: str, api: str) -> str:
    return f"datasets: {{path: datasets}}\nhosts: [{{name: {kind}, kind: {kind}, api: {api}, org: lab}}]\n"


@pytest.mark.parametrize("kind", ["forgejo", "gin"])
def test_a_host_is_kept_up_by_the_same_verbs_as_github(mirror, listing, tmp_path, monkeypatch, kind: str) -> None:
    need_program("git-annex")
    with serve_host(KINDS[kind], tmp_path / "host") as host:
        config = settings(kind, host.api)
        assert f"no token for {kind}: set {kind.upper()}_TOKEN" in mirror(
            listing, "update", "--push", config=config, code=2, zarrs=False
        )
        monkeypatch.setenv(f"{kind.upper()}_TOKEN", "wr0ng")
        said = mirror(listing, "push", config=config, code=3, zarrs=False)
        assert "401" in said
        assert "wr0ng" not in said
        monkeypatch.setenv(f"{kind.upper()}_TOKEN", TOKEN)
        said = mirror(listing, "push", config=config, zarrs=False)
        assert said.count(f"pushed to {kind}") == 3
        assert set(host.repositories) == {"a", "b", "bucket"}
        for path, name in (("", "bucket"), ("a", "a"), ("b", "b")):
            for branch in ("main", "git-annex"):
                assert head(tmp_path / "host" / name, branch) == head(repository(tmp_path, path), branch)
        # Clones look there for subdatasets.
        shown = git("show", "main:.datalad/config", cwd=repository(tmp_path, "")).decode()
        assert f'candidate-750{kind} = "{host.url}/lab/{{mirror-name}}"' in shown
        count = len(host.asked)
        mirror(listing, "push", config=config, zarrs=False)
        assert len(host.asked) == count
        said = mirror(listing, "update-metadata", config=config, zarrs=False)
        if kind == "forgejo":
            assert host.repositories["a"]["description"].startswith("6 files, ")
            assert host.topics["a"] == ["datalad", "git-annex"]
        else:
            assert said.count("has no API for descriptions and topics") == 1
        assert mirror(listing, "update-metadata", config=config, zarrs=False) == ""
        for path in [path for path in listing.rows if path.startswith("b/")]:
            del listing.rows[path]
        said = mirror(listing, "update", "--push", "--gc-assets", config=config, zarrs=False)
        if kind == "forgejo":
            assert "b: archived on forgejo" in said
            assert host.repositories["b"]["archived"] is True
        else:
            assert "archives nothing by its API, so archive or delete" in said
        # Named once.
        assert "b:" not in mirror(listing, "push", config=config, zarrs=False)
        listing.put("b/new.dat", b"again")
        said = mirror(listing, "update", "--push", "--gc-assets", config=config, zarrs=False)
        assert f"b: pushed to {kind}" in said
        assert host.repositories["b"]["archived"] is False
        mirror(listing, "release", "1.0", "--push", config=config, zarrs=False)
        assert git("tag", cwd=tmp_path / "host" / "a") == b"1.0\n"
        assert host.releases == (["bucket@1.0"] if kind == "forgejo" else [])


def test_nothing_private_goes_to_an_open_repository_there(mirror, listing, tmp_path, monkeypatch) -> None:
    need_program("git-annex")
    monkeypatch.setenv("GIN_TOKEN", TOKEN)
    for path in list(listing.rows):
        listing.put(path, path.encode(), version_id="v")
    with serve_host("gogs", tmp_path / "host") as host:
        config = settings("gin", host.api) + "access: private\n"
        mirror(listing, "update", "--push", config=config, zarrs=False)
        assert all(found["private"] for found in host.repositories.values())
        host.repositories["a"]["private"] = False
        before = head(tmp_path / "host" / "a")
        listing.put("a/more.dat", b"more", version_id="v")
        said = mirror(listing, "update", "--push", config=config, zarrs=False, code=3)
        assert "lab/a on gin can be read by everyone" in said
        assert head(tmp_path / "host" / "a") == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hosts: [{name: x, kind: forgejo, org: lab}]", "api is missing"),
        ("hosts: [{name: github, kind: gin, org: lab}]", "taken"),
        ("hosts: [{name: x, kind: gitlab, org: lab}]", "kind"),
        ("hosts: [{name: x, kind: gin, org: lab}]\nsiblings: [{name: x, url: 'h:x'}]", "given twice"),
        ("hosts: [{name: x, kind: gitea, org: lab, api: 'http://example.org/api/v1'}]", "https"),
    ],
)
def test_faults_of_hosts(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UsageError, match=reason):
        load_config(tmp_path / "m.yaml", {})


@pytest.mark.long
def test_sixty_repositories_though_limited_and_killed(mirror, listing, tmp_path, monkeypatch) -> None:
    """``python -m benchmarks.hosts`` does this with 5,000."""
    need_program("git-annex")
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    listing.rows.clear()
    for number in range(60):
        listing.put(f"d{number:02d}/f.dat", b"%d" % number)
    with serve_host("github", tmp_path / "host") as host:
        config = f"datasets: {{path: datasets, github_org: lab}}\ngithub_api: {host.api}\n"
        mirror(listing, "update", config=config, zarrs=False)
        host.fault = limited(25, 1)
        command = [sys.executable, "-m", "lading", "mirror", "-c", "mirror.yaml", "push"]
        with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:  # fmt: skip
            while host.made() < 25 and killed.poll() is None:
                time.sleep(0.01)
            killed.send_signal(signal.SIGKILL)
        assert host.made() >= 25
        pushed = len(list((tmp_path / "datasets").glob("???/*/lading-pushed/github")))
        assert 0 < pushed < 61
        said = mirror(listing, "push", config=config, zarrs=False)
        assert said.count("pushed to github") == 61 - pushed
        # At most what the killed run had in hand, and requests that met a limit, are asked for again.
        limits = len(host.asked) // 25
        assert host.made() <= 61 + 5 + limits
        for path, name in (("", "bucket"), *((f"d{number:02d}", f"d{number:02d}") for number in range(60))):
            assert head(tmp_path / "host" / name) == head(repository(tmp_path, path))
        for number, one in enumerate(host.asked, 1):
            if number % 25 == 0:  # this one met a limit: nobody asks for a second; others may have been on their way
                assert not [other for other in host.asked if one.when + 0.3 < other.when < one.when + 0.9]
        count = len(host.asked)
        trace = tmp_path / "trace"
        monkeypatch.setenv("GIT_TRACE", str(trace))
        assert mirror(listing, "push", config=config, zarrs=False) == ""
        assert len(host.asked) == count
        # Only the superdataset's records are read.
        assert trace.read_text().count("built-in: git") <= 3
