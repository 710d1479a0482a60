"""The Zarr checksum, computed from digests that are known already.

Input: the MD5, size and path of each chunk. Output: ``<md5>-<files>--<bytes>``.
Invariant: equal to dandi's ``zarr-checksum``; no content is read.

Source of the definition: the zarr_checksum package's documentation: the MD5
of compact JSON that lists a directory's entries by name, bottom up.
"""

import hashlib
import json
import re
from collections.abc import Iterable

from lading.core.errors import LadingError
from lading.mirror.git.annex_keys import key_of_target
from lading.mirror.git.commands import list_tree, read_blobs
from lading.mirror.layout import Dataset

_MD5_KEY = re.compile(rb"MD5E?-s(\d+)--([0-9a-f]{32})")
CHECKSUM_FILE = b".mirror/zarr-checksum"


class _Directory:
    def __init__(self) -> None:
        self.files: dict[str, tuple[str, int]] = {}
        self.directories: dict[str, _Directory] = {}


def zarr_checksum(files: Iterable[tuple[str, str, int]]) -> str:
    """Return the checksum of a store given as (path, md5 hex, size in bytes)."""
    top = _Directory()
    for path, md5, size in files:
        *folders, name = path.split("/")
        here = top
        for folder in folders:
            here = here.directories.setdefault(folder, _Directory())
        here.files[name] = (md5, size)
    return _digest(top)[0]


def _digest(directory: _Directory) -> tuple[str, int, int]:
    """Return (checksum, files, bytes) of a directory; Zarr trees are a few levels deep."""
    folders = []
    count = len(directory.files)
    total = sum(size for _, size in directory.files.values())
    for name in sorted(directory.directories):
        checksum, files, size = _digest(directory.directories[name])
        folders.append({"digest": checksum, "name": name, "size": size})
        count += files
        total += size
    listing = {
        "directories": folders,
        "files": [
            {"digest": digest, "name": name, "size": size} for name, (digest, size) in sorted(directory.files.items())
        ],
    }
    text = json.dumps(listing, separators=(",", ":")).encode()
    return f"{hashlib.md5(text, usedforsecurity=False).hexdigest()}-{count}--{total}", count, total


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
