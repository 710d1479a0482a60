"""The Zarr checksum, computed from digests that are known already.

Input: the MD5, size and path of each chunk. Output: ``<md5>-<files>--<bytes>``.
Invariant: equal to dandi's ``zarr-checksum``; no content is read.

Source of the definition: the zarr_checksum package's documentation: the MD5
of compact JSON that lists a directory's entries by name, bottom up.
"""

import hashlib
import json
from collections.abc import Iterable


class ZarrSums:
    """What is known of a store so far, a hundred bytes for a chunk; ``checksum`` is of what was added."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {"": []}

    def add(self, path: str, md5: str, size: int) -> None:
        """Add one chunk."""
        above, _, name = path.rpartition("/")
        here = self._files.get(above)
        if here is None:
            here = self._files[above] = []
            while above and (above := above.rpartition("/")[0]) not in self._files:
                self._files[above] = []
        here.append(f"{name}\0{size}\0{md5}")

    def checksum(self) -> str:
        """Return ``<md5>-<files>--<bytes>``."""
        below: dict[str, list[str]] = {}
        for directory in self._files:
            if directory:
                below.setdefault(directory.rpartition("/")[0], []).append(directory)
        found: dict[str, tuple[str, int, int]] = {}
        # The deepest first; a store is a few levels deep.
        for directory in sorted(self._files, key=lambda path: -path.count("/") - bool(path)):
            folders = [(path.rpartition("/")[2], *found.pop(path)) for path in below.get(directory, ())]
            found[directory] = _digest(folders, self._files[directory])
        return found[""][0]


def zarr_checksum(files: Iterable[tuple[str, str, int]]) -> str:
    """Return the checksum of a store given as (path, md5 hex, size in bytes)."""
    sums = ZarrSums()
    for path, md5, size in files:
        sums.add(path, md5, size)
    return sums.checksum()


def _digest(folders: list[tuple[str, str, int, int]], files: list[str]) -> tuple[str, int, int]:
    """Return (checksum, files, bytes) of a directory."""
    chunks = sorted((name, int(size), md5) for name, size, md5 in (line.split("\0") for line in files))
    folders.sort()
    count = len(chunks) + sum(files for _, _, files, _ in folders)
    total = sum(size for _, size, _ in chunks) + sum(size for _, _, _, size in folders)
    listing = {
        "directories": [{"digest": digest, "name": name, "size": size} for name, digest, _, size in folders],
        "files": [{"digest": md5, "name": name, "size": size} for name, size, md5 in chunks],
    }
    text = json.dumps(listing, separators=(",", ":")).encode()
    return f"{hashlib.md5(text, usedforsecurity=False).hexdigest()}-{count}--{total}", count, total
