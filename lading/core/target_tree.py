"""The directory that a restore writes to.

Input: recorded paths. Output: open directories below it.
Invariant: nothing is written outside of it, not through a symbolic link
either, whoever puts one in the way meanwhile.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lading.core.errors import LadingError


class Unsafe(LadingError):
    """A recorded path would leave the directory, or a link stands in its way."""


class UnsafePath(Unsafe):
    """A recorded path that no directory can hold."""


def split_path(path: str) -> list[bytes]:
    """Return the components of a recorded path as bytes; ``Unsafe`` when it could leave the directory."""
    parts = os.fsencode(path).split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise UnsafePath("its recorded path is absolute or has an empty, '.' or '..' component")
    return parts


class Tree:
    """A directory that is written below and never out of."""

    def __init__(self, top: Path) -> None:
        top.mkdir(parents=True, exist_ok=True)
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._top)

    @contextmanager
    def directory(self, parts: Iterable[bytes]) -> Iterator[int]:
        """Open the directory of ``parts``, made when absent, following no link; yields its descriptor."""
        current = os.dup(self._top)
        try:
            for part in parts:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
                try:
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    following = os.open(part, flags, dir_fd=current)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise Unsafe(f"{os.fsdecode(part)!r} on its way is a link or a file, no directory") from error
                    raise
                os.close(current)
                current = following
            yield current
        finally:
            os.close(current)

    def check(self, parts: Sequence[bytes], directory: int) -> None:
        """Raise ``Unsafe`` unless the directory of ``parts`` is still the open one: it may have been moved away."""
        current = os.dup(self._top)
        try:
            for part in parts:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                following = os.open(part, flags, dir_fd=current)
                os.close(current)
                current = following
            there = os.fstat(current)
        except OSError:
            there = None
        finally:
            os.close(current)
        mine = os.fstat(directory)
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise Unsafe("its directory was moved or replaced while it was fetched; run the same command again")
