"""Sends the mirror elsewhere: organisations on hosts with an API, RIA stores, any git host by its address.

Input: the stores and the settings. Output: branches and tags there; in RIA
stores and organisations also the repositories.
Invariant: subdatasets before those that link them; never forced; records that
others wrote to the git-annex branch there are merged first; a host that is
up to date costs no connection and no process. What was pushed is noted in each repository,
so a run that was stopped among thousands goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lading.core.errors import LadingError, UsageError
from lading.mirror.candidates import expand
from lading.mirror.dataset import ANNEX, MAIN
from lading.mirror.git.commands import add_remote, remote_address, resolve, run, succeeds, tag_refs
from lading.mirror.git.ria import is_ria, make_repository
from lading.mirror.hosts.host_accounts import HostAccount
from lading.mirror.layout import Dataset, MirrorLayout
from lading.mirror.split import link_parents
from lading.mirror.superdataset import read_records

_TRIES = 4
_BRANCHES = (ANNEX, MAIN)
_NOTES = "lading-pushed"


def levels(layout: MirrorLayout) -> list[list[Dataset]]:
    """Return all datasets of the mirror by how deeply they are linked, the superdataset last.

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
    found: dict[int, list[Dataset]] = {}
    for path in sorted(links):
        found.setdefault(depth[path], []).append(layout.dataset(records[path].kind, path))
    return [*(found[level] for level in sorted(found, reverse=True)), [superdataset]]


def everything(layout: MirrorLayout) -> list[Dataset]:
    """Return all datasets of the mirror, each after those that it links, the superdataset last."""
    return [dataset for level in levels(layout) for dataset in level]


def push_all(layout: MirrorLayout, accounts: Sequence[HostAccount], report: Callable[[str], None]) -> dict[str, str]:
    """Push every dataset to its hosts, several at a time; returns the reason for each that failed.

    A failed subdataset keeps the superdataset back: it would name a commit that is not there.
    """
    failed: dict[str, str] = {}

    def one(dataset: Dataset) -> None:
        try:
            for name in _push_everywhere(layout, accounts, dataset):
                report(f"{dataset.path or 'superdataset'}: pushed to {name}")
        except LadingError as error:
            failed[dataset.path] = str(error)

    with ThreadPoolExecutor(layout.config.workers) as pool:
        for level in levels(layout):
            if level[0].kind == "super" and failed:
                failed[""] = "not pushed, since a subdataset was not"
                break
            list(pool.map(one, level))
    return failed


def _push_everywhere(layout: MirrorLayout, accounts: Sequence[HostAccount], dataset: Dataset) -> Iterator[str]:
    """Push one dataset wherever it is not as it is here; yields the names of these places."""
    force = layout.config.force_push
    for sibling in layout.config.siblings:
        url = expand(sibling.url, dataset)
        if force or not _is_there(dataset, sibling.name, url):
            address = make_repository(url, dataset) if is_ria(url) else url
            _push(dataset, sibling.name, url, address)
            yield sibling.name
    private = layout.config.access == "private"
    for account in accounts:
        if not force and _is_there(dataset, account.name, None):
            continue
        make = partial(account.client.ensure, account.org(dataset.kind), dataset.name, private=private)
        known = remote_address(dataset.repository, account.name)
        # A private one is asked about each time: it may have been there before, or been opened since.
        url = make() if known is None or private else known
        account.reopen(dataset)
        _push(dataset, account.name, url, url)
        yield account.name


def archive_vanished(
    layout: MirrorLayout, accounts: Sequence[HostAccount], report: Callable[[str], None]
) -> dict[str, str]:
    """Archive the repositories of datasets that the superdataset links no more, on every host with an API.

    Returns what failed. Where a host cannot, its repositories are named, once each.
    """
    linked = {dataset.repository for dataset in everything(layout)}
    failed: dict[str, str] = {}
    for store in sorted({layout.store(kind) for kind in ("session", "zarr") if kind != "zarr" or layout.config.zarrs}):
        kind = "session" if store == layout.store("session") else "zarr"
        for account in accounts:
            for note in sorted(store.glob(f"???/*/{_NOTES}/{account.name}")):
                repository = note.parent.parent
                if repository in linked or account.archived(repository).exists():
                    continue
                url = _read(note).partition("\n")[0]
                name = url.removesuffix(".git").rpartition("/")[2]
                try:
                    done = account.client.archive(account.org(kind), name, archived=True)
                    account.archived(repository).touch()
                    note.unlink()  # should it come back, everything is pushed again
                except LadingError as error:
                    failed[name] = str(error)
                    continue
                report(
                    f"{name}: archived on {account.client.shown}, since the mirror has no such dataset any more"
                    if done
                    else f"{name}: the mirror has no such dataset any more; {account.client.shown} archives nothing "
                    f"by its API, so archive or delete {url} there"
                )
    return failed


def _state(repository: Path) -> str:
    tags = "".join(f"{name} {sha}\n" for name, sha in tag_refs(repository))
    return "\n".join([*(f"{branch} {resolve(repository, branch)}" for branch in _BRANCHES), tags]).strip()


def _read(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _is_there(dataset: Dataset, name: str, url: str | None) -> bool:
    """Tell whether the note says that a host, at ``url`` or wherever it was, has all that is here."""
    noted, _, state = _read(dataset.repository / _NOTES / name).partition("\n")
    return bool(noted) and url in (None, noted) and state == _state(dataset.repository)


def _push(dataset: Dataset, name: str, url: str, address: str) -> None:
    repository = dataset.repository
    add_remote(repository, name, address)
    for attempt in range(1, _TRIES + 1):
        try:
            if attempt > 1:
                _merge_theirs(dataset, name)
            branches = [branch for branch in _BRANCHES if resolve(repository, branch)]
            run(["push", "--quiet", "--tags", name, *(f"{branch}:{branch}" for branch in branches)], repository)
            break
        except LadingError:
            if attempt == _TRIES:
                raise
            time.sleep(0.5 * 2**attempt if attempt > 1 else 0.0)  # the first is refused where others wrote
    note = repository / _NOTES / name
    note.parent.mkdir(exist_ok=True)
    note.write_text(f"{url}\n{_state(repository)}", encoding="utf-8")


def _merge_theirs(dataset: Dataset, name: str) -> None:
    """Take over what others wrote to the git-annex branch there."""
    repository = dataset.repository
    run(["fetch", "--quiet", name], repository)
    theirs, ours = resolve(repository, f"refs/remotes/{name}/git-annex"), resolve(repository, ANNEX)
    if theirs and theirs != ours and not succeeds(["merge-base", "--is-ancestor", theirs, ANNEX], repository):
        run(["annex", "merge", "--quiet"], repository)
