"""Files that exactly one process makes.

Input: paths and contents. Output: the file, or who was first.
Invariant: a file appears whole from its first instant wherever the file
system can do that, by a hard link within one directory or by a rename that
never replaces. Elsewhere it is made exclusively and filled a moment later: a
reader that finds it empty takes it for one of a process unknown, which its
age alone judges.
"""

import ctypes
import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from lading.core.errors import LadingError

# How file systems say that they have no such call: EPERM is link(2)'s answer on FAT and SMB, EMLINK that of some FUSE.
LACKING = {
    errno.EPERM,
    errno.EACCES,
    errno.EXDEV,
    errno.EMLINK,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # renameat2(2)


def create_whole(path: Path, content: bytes) -> None:
    """Make ``path`` with this content; raises ``FileExistsError`` when it is there, ``LadingError`` naming the file."""
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    try:
        try:
            _write_new(draft, content)
            if not (_link(draft, path) or _rename_new(draft, path)):
                _write_new(path, content)
        finally:
            with suppress(OSError):
                draft.unlink()
    except FileExistsError:
        raise
    except OSError as error:
        raise LadingError(f"cannot write {path}: {error.strerror}") from error


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        block = memoryview(content)
        while block:
            block = block[os.write(descriptor, block) :]
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> bool:
    """Make a second name of a file; False where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        # NFS: the answer to a request that did its work may be lost, and the repeated one finds its own link.
        if os.stat(source).st_nlink == 2 and os.path.samefile(source, target):
            return True
        raise
    except OSError as error:
        if error.errno not in LACKING:
            raise
        return False
    return True


def _rename_new(source: Path, target: Path) -> bool:
    """Rename without replacing; False where the file system or the C library cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if not libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        return True
    number = ctypes.get_errno()
    if number not in LACKING:
        raise OSError(number, os.strerror(number), str(source), None, str(target))
    return False
