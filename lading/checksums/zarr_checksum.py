"""The Zarr checksum, computed from digests that are known already.

Input: the MD5, size and path of each chunk. Output: ``<md5>-<files>--<bytes>``.
Invariant: equal to dandi's ``zarr-checksum``; no content is read.

Source of the definition: the zarr_checksum package's documentation: the MD5
of compact JSON that lists a directory's entries by name, bottom up.
"""

import hashlib
import json
from collections.abc import Iterable


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
