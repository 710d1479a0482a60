"""The Zarr checksum of a mirror's dataset.

Input: the keys of its links. Output: the checksum.
Invariant: no content is read.
"""

import re

from lading.checksums.zarr_checksum import zarr_checksum
from lading.core.errors import LadingError
from lading.mirror.git.annex_keys import key_of_target
from lading.mirror.git.commands import list_tree, read_blobs, resolve, run, succeeds
from lading.mirror.layout import Dataset

_MD5_KEY = re.compile(rb"MD5E?-s(\d+)--([0-9a-f]{32})")
CHECKSUM_FILE = b".mirror/zarr-checksum"


def held_checksum(dataset: Dataset) -> str:
    """Return the Zarr checksum of what a mirror's dataset holds, from its keys."""
    tree = list_tree(dataset.repository, "refs/heads/main")
    links = [(path, entry.sha) for path, entry in tree.items() if entry.mode == b"120000"]
    files = []
    for (path, _), target in zip(links, read_blobs(dataset.repository, [sha for _, sha in links]), strict=True):
        match = _MD5_KEY.match(key_of_target(target) or b"")
        if not match:
            raise LadingError(f"{dataset.path}: {path!r} has no MD5 key, so there is no Zarr checksum")
        files.append((path.decode("utf-8", "surrogateescape"), match[2].decode(), int(match[1])))
    return zarr_checksum(files)


def commit_of_checksum(dataset: Dataset, checksum: str) -> str | None:
    """Return the latest commit at which a Zarr dataset had a Zarr checksum, or None."""
    repository, name = dataset.repository, CHECKSUM_FILE.decode()
    if not repository.exists() or resolve(repository, "refs/heads/main") is None:
        return None
    for commit in run(["log", "--format=%H", "refs/heads/main", "--", name], repository).decode().split():
        shown = f"{commit}:{name}"
        there = succeeds(["cat-file", "-e", shown], repository)
        if there and run(["cat-file", "blob", shown], repository).strip().decode() == checksum:
            return commit
    return None
