"""Sends the mirror elsewhere: GitHub organisations through their API, RIA stores, any git host by its address.

Input: the stores and the settings. Output: branches and tags there; in RIA
stores also the repositories.
Invariant: subdatasets before the superdataset; never forced; records that
others wrote to the git-annex branch there are merged first; a host that is
up to date costs no connection. What was pushed is noted in each repository,
so a run that was stopped among thousands goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from lading.core.errors import LadingError, UsageError
from lading.mirror.candidates import expand
from lading.mirror.dataset import ANNEX, MAIN
from lading.mirror.git.commands import resolve, run, succeeds
from lading.mirror.git.ria import is_ria, make_repository
from lading.mirror.layout import Dataset, MirrorLayout
from lading.mirror.split import link_parents
from lading.mirror.superdataset import read_records

if TYPE_CHECKING:
    from lading.mirror.github import GitHub

_TRIES = 4
_BRANCHES = (ANNEX, MAIN)
_ARCHIVED = "lading-archived"


def everything(layout: MirrorLayout) -> list[Dataset]:
    """Return all datasets of the mirror, each after those that it links, the superdataset last.

    Raises ``UsageError`` before there are any.
    """
    superdataset = layout.dataset("super", "")
    if resolve(superdataset.repository, MAIN) is None:
        raise UsageError(f"{layout.store('super')} has no datasets yet; run: make mirror")
    records = read_records(superdataset).datasets
    links = link_parents(records)
    depth = {"": 0}
    for path in sorted(links, key=len):
        depth[path] = depth[links[path]] + 1
    deepest_first = sorted(links, key=lambda path: (-depth[path], path))
    return [*(layout.dataset(records[path].kind, path) for path in deepest_first), superdataset]


def targets(layout: MirrorLayout, dataset: Dataset, github: "GitHub | None") -> dict[str, str]:
    """Return the address of a dataset on every host of the settings, repositories on GitHub made when missing."""
    found = {sibling.name: expand(sibling.url, dataset) for sibling in layout.config.siblings}
    org = layout.place(dataset.kind).github_org
    if org and github:
        private = layout.config.access == "private"
        found["github"] = _known(dataset) or github.ensure(org, dataset.name, private=private)
        if (note := dataset.repository / _ARCHIVED).exists():  # it came back
            github.archive(org, dataset.name, archived=False)
            note.unlink()
    return found


def _known(dataset: Dataset) -> str | None:
    if not succeeds(["config", "--local", "--get", "remote.github.url"], dataset.repository):
        return None
    return run(["config", "--local", "--get", "remote.github.url"], dataset.repository).decode().rstrip("\n")


def push_all(
    layout: MirrorLayout, datasets: Iterable[Dataset], github: "GitHub | None", report: Callable[[str], None]
) -> dict[str, str]:
    """Push every dataset to its hosts; returns the reason for each that failed.

    A failed subdataset keeps the superdataset back: it would name a commit that is not there.
    """
    failed: dict[str, str] = {}
    for dataset in datasets:
        if dataset.kind == "super" and failed:
            failed[""] = "not pushed, since a subdataset was not"
            break
        try:
            for name, url in targets(layout, dataset, github).items():
                check = _privacy(layout, dataset, github) if name == "github" else None
                if _push(dataset, name, url, check, force=layout.config.force_push):
                    report(f"{dataset.path or 'superdataset'}: pushed to {name}")
        except LadingError as error:
            failed[dataset.path] = str(error)
    return failed


def archive_vanished(layout: MirrorLayout, github: "GitHub", report: Callable[[str], None]) -> dict[str, str]:
    """Archive the repositories on GitHub of datasets that the superdataset links no more; returns what failed."""
    linked = {dataset.repository for dataset in everything(layout)}
    failed: dict[str, str] = {}
    for store in {layout.store(kind) for kind in ("session", "zarr") if kind != "zarr" or layout.config.zarrs}:
        for note in sorted(store.glob("???/*/lading-pushed/github")):
            repository = note.parent.parent
            if repository in linked or (repository / _ARCHIVED).exists():
                continue
            url = note.read_text(encoding="utf-8").partition("\n")[0]
            name = url.removesuffix(".git").rpartition("/")[2]
            org = layout.config.datasets.github_org
            try:
                if org:
                    github.archive(org, name, archived=True)
                    (repository / _ARCHIVED).touch()
                    note.unlink()  # should it come back, everything is pushed again
                    report(f"{name}: archived on GitHub, since the mirror has no such dataset any more")
            except LadingError as error:
                failed[name] = str(error)
    return failed


def _privacy(layout: MirrorLayout, dataset: Dataset, github: "GitHub | None") -> Callable[[], object] | None:
    """Return what must not fail before a push to GitHub: the repository may have been there, or opened since."""
    org = layout.place(dataset.kind).github_org
    if layout.config.access != "private" or not org or not github:
        return None
    return partial(github.ensure, org, dataset.name, private=True)


def _push(dataset: Dataset, name: str, url: str, check: Callable[[], object] | None, *, force: bool) -> bool:
    repository = dataset.repository
    tags = run(["for-each-ref", "--format=%(refname) %(objectname)", "refs/tags"], repository).decode()
    state = "\n".join([*(f"{branch} {resolve(repository, branch)}" for branch in _BRANCHES), tags]).strip()
    note = repository / "lading-pushed" / name
    if not force and note.exists() and note.read_text() == f"{url}\n{state}":
        return False
    if check:
        check()
    address = make_repository(url, dataset) if is_ria(url) else url
    for setting, value in (
        (f"remote.{name}.url", address),
        (f"remote.{name}.fetch", f"+refs/heads/*:refs/remotes/{name}/*"),
        # The mirror never asks this host for content.
        (f"remote.{name}.annex-ignore", "true"),
    ):
        run(["config", "--local", "--replace-all", setting, value], repository)
    for attempt in range(1, _TRIES + 1):
        try:
            _push_once(dataset, name)
            break
        except LadingError:
            if attempt == _TRIES:
                raise
            time.sleep(0.5 * 2**attempt)
    annex = resolve(repository, ANNEX)
    state = "\n".join([f"{ANNEX} {annex}", f"{MAIN} {resolve(repository, MAIN)}", tags]).strip()
    note.parent.mkdir(exist_ok=True)
    note.write_text(f"{url}\n{state}")
    return True


def _push_once(dataset: Dataset, name: str) -> None:
    repository = dataset.repository
    run(["fetch", "--quiet", name], repository)
    theirs, ours = resolve(repository, f"refs/remotes/{name}/git-annex"), resolve(repository, ANNEX)
    if theirs and theirs != ours and not succeeds(["merge-base", "--is-ancestor", theirs, ANNEX], repository):
        run(["annex", "merge", "--quiet"], repository)
    branches = [branch for branch in _BRANCHES if resolve(repository, branch)]
    run(["push", "--quiet", "--tags", name, *(f"{branch}:{branch}" for branch in branches)], repository)
