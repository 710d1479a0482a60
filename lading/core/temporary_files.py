"""Unfinished files of one run: names that no other run takes and that tell whose they are.

Input: an open directory, the name that a file shall get. Output: a new file;
what killed runs left there is removed.
Invariant: no living run's file is touched, and no file of the release. A run of this host is dead when
its process is gone, one of another host when its file was not written to for
``STALE_SECONDS``; a wrong verdict costs that run one file, which it reports.
"""

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from lading.core.identity import STALE_SECONDS, is_abandoned, owner_tag

PREFIX = ".lading-restore-"
# Earlier releases wrote names without the part that tells whose they are.
_NAME = re.compile(r"\.lading-restore-[0-9a-f]{24}(?:-([0-9a-f]{8}-\d+-\d+-[0-9a-f]{16}))?")


class TemporaryFiles:
    """The unfinished files of this process; safe to use from many threads."""

    def __init__(self, names: Callable[[], Iterable[str]] = tuple) -> None:
        """``names`` returns the paths of the release that hold ``PREFIX``; it is called when one could be swept."""
        self._mine = owner_tag()
        self._lock = threading.Lock()
        self._swept: set[int] = set()
        self._names = names
        self._kept: frozenset[bytes] | None = None

    def create(self, name: bytes, directory: int) -> tuple[bytes, int]:
        """Create the file that shall become ``name``; returns its name and a descriptor."""
        scratch = self.name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return scratch, os.open(scratch, flags, 0o666, dir_fd=directory)

    def name(self, name: bytes) -> bytes:
        """Return a name for what shall become ``name`` and is made in another way, as a link is."""
        digest = hashlib.sha256(name).hexdigest()[:24]
        return f"{PREFIX}{digest}-{self._mine}-{secrets.token_hex(8)}".encode()

    def sweep(self, parts: Sequence[bytes], directory: int) -> None:
        """Remove what dead runs left in the directory of ``parts``, once in this run."""
        mark = hash(tuple(parts))
        with self._lock:
            if mark in self._swept:
                return
            self._swept.add(mark)
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
        for name in names:
            with suppress(FileNotFoundError, PermissionError):  # its run has just finished it; or it is another user's
                if self._is_dead(name, directory) and not self._is_of_the_release(parts, name):
                    os.unlink(name, dir_fd=directory)

    def _is_of_the_release(self, parts: Sequence[bytes], name: str) -> bool:
        with self._lock:
            if self._kept is None:
                self._kept = frozenset(path.encode("utf-8", "surrogateescape") for path in self._names())
        return b"/".join([*parts, name.encode()]) in self._kept

    def _is_dead(self, name: str, directory: int) -> bool:
        match = _NAME.fullmatch(name)
        if match is None:
            return False
        written = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
        return is_abandoned(match[1], written) if match[1] else time.time() - written > STALE_SECONDS
