"""Files opened below a directory that was opened once, without going through a link.

Input: a directory, then names below it. Output: descriptors and states of
what lies there.
Invariant: neither a link nor ``..`` is ever gone through below the root, at
the end of a name or before it, whatever is swapped meanwhile; what is opened
is a regular file, and nothing else is waited for. Whoever puts a link in a
file's or a directory's place gets a sentence instead of another file's bytes.

A release that was crawled with ``--links follow`` consists of what its links
lead to: its root is opened with ``follow``, and only the kind of file counts.

``openat2`` (Linux 5.6) resolves a whole name in one call; where it is missing
or forbidden the components are opened one by one. ``_digest.c`` does the same
with the root's descriptor.
"""

import ctypes
import errno
import functools
import os
import resource
import stat
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

_OPENAT2 = 437  # on every architecture
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH: linux/openat2.h
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would wait for its writer
_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
MOST_DESCRIPTORS = 16384  # more are of no use here, and some programs walk through all that they might have


class SeenFile(NamedTuple):
    """What is still known of a file that was looked at: it has this device and inode, or at least this size."""

    size: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> "SeenFile":
        """Return what a stat says of a file."""
        return cls(status.st_size, status.st_ino, status.st_dev)


class Replaced(OSError):
    """Something else is where a regular file was; ``strerror`` is the sentence."""


def not_regular(mode: int) -> Replaced:
    """Return the error for what ``mode`` says is no regular file."""
    kind = stat.S_IFMT(mode)
    number = {stat.S_IFLNK: errno.ELOOP, stat.S_IFDIR: errno.EISDIR}.get(kind, errno.EINVAL)
    return Replaced(number, f"it is {_KINDS[kind]} now" if kind in _KINDS else "it is no longer a regular file")


def another_file() -> Replaced:
    """Return the error for a regular file that is neither the one that was looked at nor as long."""
    return Replaced(errno.ESTALE, "another file of another size is in its place now")


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_How), ctypes.c_size_t)
_syscall.restype = ctypes.c_long


@functools.cache
def _how(flags: int) -> "ctypes._Pointer[_How]":
    return ctypes.pointer(_How(flags, 0, _RESOLVE))


def _openat2(directory: int, name: bytes, flags: int) -> int:
    """Return a descriptor by one call of ``openat2``; raises ``OSError``."""
    how = _how(flags)
    while True:
        descriptor: int = _syscall(_OPENAT2, directory, name, how, 24)
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number))


class Root:
    """A directory that is open, and what lies below it. Safe to use from any thread.

    Names are relative to the root, or absolute and begin with its path as it
    was given; lone surrogates stand for bytes that are no UTF-8.
    """

    def __init__(self, path: "str | os.PathLike[str]", *, follow: bool = False, descriptor: int | None = None) -> None:
        """Open ``path``, which may itself lead through links: whoever named it means what it leads to.

        ``descriptor``: one that is open already, as a parent process left it.
        """
        self.path = os.path.abspath(path)
        self.follow = follow
        self._prefix = self.path.rstrip("/") + "/"
        if descriptor is None:
            descriptor = os.open(os.fsencode(self.path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.descriptor = descriptor
        try:
            os.close(_openat2(self.descriptor, b".", _DIRECTORY))
            self._by_components = False
        except OSError:  # ENOSYS; EPERM is what containers answer to calls that they do not know
            self._by_components = True

    def __enter__(self) -> Self:
        """Nothing to do: it is open from the beginning."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the root."""
        self.close()

    def close(self) -> None:
        """Close the root; descriptors of what lies below stay. Twice is no harm."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def name(self, path: str) -> str:
        """Return a path relative to the root; "" is the root itself."""
        if path == self.path:
            return ""
        return path[len(self._prefix) :] if path.startswith(self._prefix) else path

    def open(self, path: str, seen: SeenFile | None = None) -> int:
        """Return a descriptor to read a regular file, the one that was ``seen`` or one as long.

        Raises ``OSError``, ``Replaced`` for anything else.
        """
        return _checked(self._open(path, _READ), seen, wait=True)

    def hold(self, path: str, seen: SeenFile | None = None) -> int:
        """Return a descriptor that stands for a regular file without opening it (``O_PATH``); else as ``open``.

        Neither rights to read nor a request to the file server are needed
        for it. It is read by its name in ``descriptor_folder``.
        """
        return _checked(self._open(path, _HOLD), seen)

    def directory(self, path: str) -> int:
        """Return a descriptor of a directory below the root ("" is the root) to list, and to open and unlink in."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return self._open(path, flags) if self.name(path) else os.open(".", flags, dir_fd=self.descriptor)

    def hold_directory(self, path: str) -> int:
        """Return a descriptor that stands for a directory below the root without opening it (``O_PATH``)."""
        return self._open(path, _DIRECTORY) if self.name(path) else os.open(".", _DIRECTORY, dir_fd=self.descriptor)

    def status(self, path: str) -> os.stat_result:
        """Return the state of what lies at ``path`` ("" is the root), of a link itself; raises ``OSError``."""
        found = self.statuses([path])[0]
        if isinstance(found, OSError):
            raise found
        return found

    def statuses(self, paths: Iterable[str]) -> list[os.stat_result | OSError]:
        """Return the state of each, or the error; names of one directory after another cost one opening of it."""
        found: list[os.stat_result | OSError] = []
        at, directory = "", self.descriptor
        try:
            for path in paths:
                try:
                    name = self.name(path)
                    if self.follow or not name:
                        name = _sound(name) if name else "."
                        found.append(os.stat(os.fsencode(name), dir_fd=self.descriptor))
                        continue
                    above, _, last = name.rpartition("/")
                    if above != at:
                        try:
                            opened = self._open(above, _DIRECTORY) if above else self.descriptor
                        except OSError as error:
                            raise self.explain(path, error) from None
                        if directory != self.descriptor:
                            os.close(directory)
                        at, directory = above, opened
                    found.append(os.stat(os.fsencode(_sound(last)), dir_fd=directory, follow_symlinks=False))
                except OSError as error:
                    found.append(error)
        finally:
            if directory != self.descriptor:
                os.close(directory)
        return found

    def explain(self, path: str, error: OSError) -> OSError:
        """Return the error by what now lies at ``path`` or above it, where that is a link or no regular file."""
        if self.follow or error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR):
            return error
        directory = os.dup(self.descriptor)
        done = []
        try:
            *above, last = self.name(path).split("/")
            for part in above:
                done.append(part)
                mode = os.stat(os.fsencode(part), dir_fd=directory, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    return Replaced(errno.ELOOP, f"the directory {'/'.join(done)} above it is a symbolic link now")
                following = os.open(os.fsencode(part), _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = following
            mode = os.stat(os.fsencode(last), dir_fd=directory, follow_symlinks=False).st_mode
            return error if stat.S_ISREG(mode) else not_regular(mode)
        except OSError as other:
            return other if other.errno in (errno.ENOENT, errno.ENOTDIR) else error
        finally:
            os.close(directory)

    def _open(self, path: str, flags: int) -> int:
        """Open what lies at ``path`` whatever it is, a link at the end only by ``O_PATH``."""
        name = self.name(path)
        try:
            if self.follow:
                return os.open(os.fsencode(_sound(name)), flags & ~os.O_NOFOLLOW, dir_fd=self.descriptor)
            if self._by_components:
                return self._walk(_sound(name), flags)
            return _openat2(self.descriptor, os.fsencode(_sound(name)), flags)
        except OSError as error:
            raise self.explain(path, error) from None

    def _walk(self, name: str, flags: int) -> int:
        """Open the components of a name one by one."""
        *above, last = name.split("/")
        directory = self.descriptor
        try:
            for part in above:
                following = os.open(os.fsencode(part), _DIRECTORY, dir_fd=directory)
                if directory != self.descriptor:
                    os.close(directory)
                directory = following
            return os.open(os.fsencode(last), flags, dir_fd=directory)
        finally:
            if directory != self.descriptor:
                os.close(directory)


def open_plain(path: str, seen: SeenFile | None = None) -> int:
    """Return a descriptor to read a regular file, going through links: for places that nobody else may change."""
    return _checked(os.open(os.fsencode(path), _READ & ~os.O_NOFOLLOW), seen, wait=True)


def hold_plain(path: str, seen: SeenFile | None = None) -> int:
    """Return a descriptor that stands for a regular file as ``Root.hold``, going through links as ``open_plain``."""
    return _checked(os.open(os.fsencode(path), _HOLD & ~os.O_NOFOLLOW), seen)


def descriptor_folder() -> str | None:
    """Return the directory in which child processes of this user find this process's descriptors by their numbers.

    Nobody can swap what such a name leads to while the descriptor is open.
    None where /proc is absent, or of other processes than ours.
    """
    try:
        folder = f"/proc/{os.readlink('/proc/self')}/fd"  # the pid as this /proc counts it
        directory = os.open("/", _DIRECTORY)
        try:
            return folder if os.path.samestat(os.stat(f"{folder}/{directory}"), os.fstat(directory)) else None
        finally:
            os.close(directory)
    except OSError:
        return None


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may (``ulimit -n``), within reason; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError):
            pass  # it goes on with what it has
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _checked(descriptor: int, seen: SeenFile | None, *, wait: bool = False) -> int:
    """Return the descriptor if it is of what was wanted; else close it and raise ``Replaced``."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise not_regular(status.st_mode)
        if seen and seen.size != status.st_size and (seen.inode, seen.device) != (status.st_ino, status.st_dev):
            raise another_file()
        if wait:
            os.set_blocking(descriptor, True)  # a file on tape is waited for
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sound(name: str) -> str:
    """Return a name without components that lead elsewhere; raises ``OSError`` for others."""
    odd = "/." in name or name.startswith(".") or "//" in f"/{name}/" or "\0" in name
    if odd and ("\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/"))):
        raise OSError(errno.EXDEV, "its path is not below the root")
    return name
