"""Gives a finished file its name without ever losing what has that name.

Input: an open directory, a finished file in it, the name it shall get.
Output: the name is the finished file's, or an exception says what is there.
Invariant: what was not examined keeps its name and its bytes, whenever it
appeared and whatever kills this process. Where the file system has neither
``RENAME_NOREPLACE`` nor links, a placeholder that says so holds the name for
an instant. It is looked at before anything takes its place, so what somebody
put there is lost only if that comes between that look and the rename, which
are two system calls in a row.

Source of the calls: renameat2(2) of Linux 3.15, link(2).
"""

import ctypes
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from lading.core.errors import LadingError
from lading.core.identity import is_abandoned, owner_tag

_NOREPLACE, _EXCHANGE = 1, 2
# How file systems say that they have no such call, or not with these flags.
_LACKING = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EMLINK)
# No sweep takes this name: a killed run leaves under it what it found in the way.
KEPT = ".lading-replaced-"
_PLACEHOLDER = "Lading holds this name for a file that it is putting here ({}). If no restore runs, remove this one.\n"
_HELD = re.compile(re.escape(_PLACEHOLDER).replace(r"\{\}", "([0-9a-f-]+)").encode())
_MOST_HELD = 256  # bytes of a placeholder at most
_TWICE = "it was replaced twice meanwhile; the newest file has the name, the other one is kept beside it as {}"


class Taken(LadingError):
    """Something has the name that was not examined."""


class TakenByDirectory(Taken):
    """A directory has the name of a file."""


@dataclass(frozen=True)
class Identity:
    """Which file was examined, and in which state."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """Return the identity that a stat tells."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_moved(self, status: os.stat_result) -> bool:
        """Tell whether a stat is of the same file with the same content; a rename changes its ctime."""
        found = Identity.of(status)
        return stat.S_ISREG(status.st_mode) and (found.device, found.inode, found.size, found.mtime_ns) == (
            self.device,
            self.inode,
            self.size,
            self.mtime_ns,
        )


def _is_directory(name: bytes, directory: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def appear(finished: bytes, name: bytes, directory: int) -> None:
    """Rename ``finished`` to ``name``; ``Taken`` when there is such a name."""
    try:
        if not rename_new(finished, name, directory):
            _reserve(finished, name, directory)
    except FileExistsError:
        if _is_directory(name, directory):
            raise TakenByDirectory("a directory has its name") from None
        raise Taken("a file appeared under its name meanwhile; it was left as it is") from None


def rename_new(finished: bytes, name: bytes, directory: int) -> bool:
    """Rename without replacing; False where the file system cannot do that. Raises ``FileExistsError``."""
    try:
        _rename(finished, name, directory, _NOREPLACE)
        return True
    except OSError as error:
        if error.errno not in _LACKING:
            raise
    try:
        os.link(finished, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        return False
    os.unlink(finished, dir_fd=directory)
    return True


def _reserve(finished: bytes, name: bytes, directory: int) -> None:
    """Take a free name by a placeholder, which the finished file replaces when it is seen to be untouched."""
    text = _PLACEHOLDER.format(f"{owner_tag()}-{secrets.token_hex(8)}").encode()
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    written = 0
    try:
        written = os.write(descriptor, text)
        if not _is_untouched(descriptor, text[:written], name, directory):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(finished, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with suppress(OSError):
            if _is_untouched(descriptor, text[:written], name, directory):
                os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def _is_untouched(descriptor: int, text: bytes, name: bytes, directory: int) -> bool:
    """Tell whether ``name`` still is the open placeholder, and that one as it was written."""
    mine = os.fstat(descriptor)
    if mine.st_size != len(text) or os.pread(descriptor, len(text) + 1, 0) != text:
        return False
    try:
        return os.path.samestat(mine, os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def still_there() -> Iterator[None]:
    """Raise ``Taken`` when a file that was examined under a name is gone, or a link has its name."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        raise Taken("the file under its name was removed or replaced meanwhile; run the same command again") from error


def is_left_placeholder(name: bytes, directory: int, examined: Identity) -> bool:
    """Tell whether the file ``examined`` is a placeholder of a process that was killed before it took the name."""
    if examined.size > _MOST_HELD:
        return False
    with still_there():
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        match = _HELD.fullmatch(os.pread(descriptor, _MOST_HELD, 0)) if Identity.of(status) == examined else None
        return match is not None and is_abandoned(match[1].decode(), status.st_mtime)
    finally:
        os.close(descriptor)


def replace(finished: bytes, name: bytes, directory: int, examined: Identity) -> None:
    """Put ``finished`` in the place of the file ``examined``; ``Taken`` when another is there by now."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        appear(finished, name, directory)
        return
    if not stat.S_ISREG(status.st_mode) or Identity.of(status) != examined:
        raise Taken("it was changed or replaced meanwhile; it was left as it is")
    ours = Identity.of(os.stat(finished, dir_fd=directory, follow_symlinks=False))
    kept = f"{KEPT}{secrets.token_hex(8)}".encode()
    # From here on a kill leaves the old file or the new one under this name, and nothing is lost.
    os.rename(finished, kept, src_dir_fd=directory, dst_dir_fd=directory)
    try:
        _rename(kept, name, directory, _EXCHANGE)
    except OSError as error:
        os.rename(kept, finished, src_dir_fd=directory, dst_dir_fd=directory)
        if error.errno == errno.ENOENT:
            appear(finished, name, directory)
            return
        if error.errno not in _LACKING:
            raise
        _replace_by_two(finished, name, directory, examined)
        return
    if not examined.is_moved(os.stat(kept, dir_fd=directory, follow_symlinks=False)):
        _put_back(kept, finished, name, directory, ours)
    os.unlink(kept, dir_fd=directory)


def _put_back(kept: bytes, finished: bytes, name: bytes, directory: int, ours: Identity) -> NoReturn:
    """Give the name back to what had it, and the finished file its own."""
    try:
        _rename(kept, name, directory, _EXCHANGE)
    except FileNotFoundError:  # someone removed ours; then the name is free
        _give_back(kept, name, directory)
    if ours.is_moved(os.stat(kept, dir_fd=directory, follow_symlinks=False)):
        os.rename(kept, finished, src_dir_fd=directory, dst_dir_fd=directory)
        raise Taken("it was replaced meanwhile; it was left as it is")
    # A third file had taken the name from ours, and is the newest.
    _rename(kept, name, directory, _EXCHANGE)
    raise Taken(_TWICE.format(kept.decode()))


def _replace_by_two(finished: bytes, name: bytes, directory: int, examined: Identity) -> None:
    """The same where names cannot be exchanged: for an instant there is no file of the name."""
    kept = f"{KEPT}{secrets.token_hex(8)}".encode()
    os.rename(name, kept, src_dir_fd=directory, dst_dir_fd=directory)
    if not examined.is_moved(os.stat(kept, dir_fd=directory, follow_symlinks=False)):
        _give_back(kept, name, directory)
    try:
        appear(finished, name, directory)
    except BaseException:
        with suppress(Taken):
            appear(kept, name, directory)
        raise
    os.unlink(kept, dir_fd=directory)


def _give_back(kept: bytes, name: bytes, directory: int) -> NoReturn:
    """Give ``kept`` its name back and raise ``Taken``; where a third file has the name, say where this one is."""
    try:
        appear(kept, name, directory)
    except Taken:
        raise Taken(_TWICE.format(kept.decode())) from None
    raise Taken("it was replaced meanwhile; it was left as it is")


def _rename(old: bytes, new: bytes, directory: int, flags: int) -> None:
    call = getattr(_libc(), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(directory, old, directory, new, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
