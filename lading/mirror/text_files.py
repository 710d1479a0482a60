"""Small text files whose content goes into git itself, once it is proven.

Input: a row. Output: its bytes, or None when they are not at hand.
Invariant: what is returned has the size and digest of the row; a file that
changed since its upload, or that cannot be read, stays with git-annex.
"""

import fnmatch
import hashlib
import http.client
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lading.mirror.config import Text
from lading.mirror.git.annex import AnnexAccess, ObjectAddress
from lading.verification.manifest import ManifestRow

_TIMEOUT = 30.0


@dataclass(frozen=True)
class TextSource:
    """Reads text files from where they were uploaded from, else from the bucket's public URL."""

    rule: Text
    local_path: Callable[[str], Path | None]
    access: AnnexAccess

    def eligible(self, row: ManifestRow) -> bool:
        """Tell whether a file belongs into git by name and size."""
        name = row.path.rpartition("/")[2]
        # Files that steer git must never come from the data.
        if row.size > self.rule.max_size or name.lower().startswith(".git"):
            return False
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.rule.patterns)

    def read(self, row: ManifestRow, place: ObjectAddress) -> bytes | None:
        """Return the proven content of ``row``, or None."""
        data = self._local(row)
        if (data is None or not proven(row, data)) and self.access.remote is None:
            data = self._web(row, place)
        return data if data is not None and proven(row, data) else None

    def _local(self, row: ManifestRow) -> bytes | None:
        path = self.local_path(row.path)
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None  # the mirror may run where the data is not
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return stream.read(row.size + 1)

    def _web(self, row: ManifestRow, place: ObjectAddress) -> bytes | None:
        try:
            # The scheme is http or https: config and manifest allow no other.
            with urllib.request.urlopen(self.access.url(place), timeout=_TIMEOUT) as answer:  # noqa: S310
                data: bytes = answer.read(row.size + 1)
                return data
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException):
            return None  # git-annex gets it later


def proven(row: ManifestRow, data: bytes) -> bool:
    """Tell whether ``data`` is the content that the row's digests prove."""
    if len(data) != row.size:
        return False
    if row.sha256:
        return hashlib.sha256(data).hexdigest() == row.sha256
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == row.md5
