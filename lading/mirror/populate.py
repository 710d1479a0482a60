"""Copies content from the bucket to a git-annex special remote, dataset by dataset.

Input: datasets with their URLs and the ``remote`` of the settings. Output:
the content there, and git-annex' own record of it.
Invariant: git-annex checks each file against its key on the way; what is
there already is not copied again, so a killed run goes on where it was.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from lading.errors import LadingError
from lading.mirror.config import Remote
from lading.mirror.dataset import MAIN
from lading.mirror.fastimport import LINK
from lading.mirror.git import list_tree, resolve, run, succeeds
from lading.mirror.layout import Dataset

_POPULATED = "lading.populated"


def populate(
    datasets: Iterable[Dataset],
    remote: Remote,
    source: str,
    *,
    jobs: int,
    workers: int,
    fast: bool,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Copy every dataset's content from ``source`` (web or bucket) to ``remote``; returns the reason for each failure.

    A dataset whose commit was copied before is left alone; ``fast`` False
    asks the remote itself what it has instead of trusting the records.
    """
    failed: dict[str, str] = {}

    def one(dataset: Dataset) -> None:
        try:
            if _populate_one(dataset, remote, source, jobs, fast):
                report(f"{dataset.path or 'superdataset'}: copied to {remote.name}")
        except LadingError as error:
            failed[dataset.path] = str(error)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, datasets))
    return failed


def _populate_one(dataset: Dataset, remote: Remote, source: str, jobs: int, fast: bool) -> bool:
    repository = dataset.repository
    commit = resolve(repository, MAIN)
    if commit is None:
        return False
    mark = f"{remote.name} {commit}"
    if fast and succeeds(["config", "--local", "--get", "--fixed-value", _POPULATED, mark], repository):
        return False
    if not any(entry.mode == LINK for entry in list_tree(repository, commit).values()):
        return False
    if source != "web" and not _has_remote(dataset, source):
        run(["annex", "enableremote", "--quiet", source], repository)
    if not _has_remote(dataset, remote.name):
        options = [f"{name}={value}" for name, value in sorted(remote.options.items())]
        known = f" name={remote.name} " in f" {_remote_log(dataset)} ".replace("\n", " ")
        verb = "enableremote" if known else "initremote"
        kind = [] if known else [f"type={remote.type}"]
        run(["annex", verb, "--quiet", remote.name, *kind, *options], repository)
    copy = ["annex", "copy", "--quiet", "--all", f"--jobs={jobs}", "--to", remote.name]
    run([*copy, "--from", source, *(["--fast"] if fast else [])], repository)
    run(["update-server-info"], repository)
    run(["config", "--local", "--replace-all", _POPULATED, mark], repository)
    return True


def _has_remote(dataset: Dataset, name: str) -> bool:
    return succeeds(["config", "--local", "--get", f"remote.{name}.annex-uuid"], dataset.repository)


def _remote_log(dataset: Dataset) -> str:
    if not succeeds(["cat-file", "-e", "refs/heads/git-annex:remote.log"], dataset.repository):
        return ""
    return os.fsdecode(run(["cat-file", "blob", "refs/heads/git-annex:remote.log"], dataset.repository))
