"""Copies content from the bucket to a git-annex special remote, dataset by dataset.

Input: datasets with their URLs and the ``remote`` of the settings. Output:
the content there, and git-annex' own record of it.
Invariant: git-annex checks each file against its key on the way; what is
there already is not copied again, so a killed run goes on where it was.
"""

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from lading.core.errors import LadingError
from lading.mirror.config import Remote
from lading.mirror.dataset import MAIN
from lading.mirror.git.annex import AnnexAccess
from lading.mirror.git.commands import list_tree, resolve, run, succeeds
from lading.mirror.git.fast_import import LINK
from lading.mirror.layout import Dataset

_POPULATED = "lading.populated"


def populate(
    datasets: Iterable[Dataset],
    remote: Remote,
    access: AnnexAccess,
    *,
    jobs: int,
    workers: int,
    fast: bool,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Copy every dataset's content from the bucket to ``remote``; returns the reason for each failure.

    A dataset whose commit was copied before is left alone; ``fast`` False
    asks the remote itself what it has instead of trusting the records.
    """
    failed: dict[str, str] = {}

    def one(dataset: Dataset) -> None:
        try:
            if _populate_one(dataset, remote, access, jobs, fast):
                report(f"{dataset.path or 'superdataset'}: copied to {remote.name}")
        except LadingError as error:
            failed[dataset.path] = str(error)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, datasets))
    return failed


def _populate_one(dataset: Dataset, remote: Remote, access: AnnexAccess, jobs: int, fast: bool) -> bool:
    repository = dataset.repository
    commit = resolve(repository, MAIN)
    if commit is None:
        return False
    mark = f"{remote.name} {commit}"
    if fast and succeeds(["config", "--local", "--get", "--fixed-value", _POPULATED, mark], repository):
        return False
    if not any(entry.mode == LINK for entry in list_tree(repository, commit).values()):
        return False
    source = "bucket" if access.remote else "web"
    if access.remote and not _is_verified(dataset, source):
        _enable_bucket(dataset, source, access)
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


def _enable_bucket(dataset: Dataset, name: str, access: AnnexAccess) -> None:
    """Enable the S3 remote and vouch for it, as newer versions of git-annex ask, once it is what the mirror wrote."""
    repository = dataset.repository
    run(["annex", "enableremote", "--quiet", name], repository)
    if _is_verified(dataset, name):
        return
    shown = os.fsdecode(run(["annex", "verifyremote", name], repository))
    number = re.search(r"--safe (\d+)", shown)
    found = dict(re.findall(r"(\S+?)=(\S*)", shown))
    if number is None or not found or any(access.options().get(key) != value for key, value in found.items()):
        raise LadingError(
            f"someone changed the remote {name} of {repository}, so it is not used; "
            f"look at it: git -C {repository} annex verifyremote {name}"
        )
    run(["annex", "verifyremote", "--quiet", name, "--safe", number[1]], repository)


def _is_verified(dataset: Dataset, name: str) -> bool:
    # Versions that know no verification leave no note of it.
    manual = ["config", "--local", "--get", "--fixed-value", f"remote.{name}.annex-verified", "manual"]
    return _has_remote(dataset, name) and not succeeds(manual, dataset.repository)


def _has_remote(dataset: Dataset, name: str) -> bool:
    return succeeds(["config", "--local", "--get", f"remote.{name}.annex-uuid"], dataset.repository)


def _remote_log(dataset: Dataset) -> str:
    if not succeeds(["cat-file", "-e", "refs/heads/git-annex:remote.log"], dataset.repository):
        return ""
    return os.fsdecode(run(["cat-file", "blob", "refs/heads/git-annex:remote.log"], dataset.repository))
