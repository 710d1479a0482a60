"""A source whose files are looked at, and deleted, by descriptors: no name is followed through a link.

Input: the path of a source, and records of its files. Output: what each file
is now; after ``remove`` it is gone.
Invariant: what is unlinked is the very file that was compared a moment ago,
or, where a lease keeps writers away, in that moment: it is first renamed to a
name of its own, which was written down before, looked at once more, and else
put back without replacing anything. What a killed run leaves under such a
name is put back by ``restore``, in the very directory that was held then.
"""

import errno
import fcntl
import hashlib
import os
import signal
import stat
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lading.checksums.digest import FileState
from lading.core.appear import rename_new
from lading.core.opening import Root
from lading.sessions.provenance import SourceRecord, Top, settled

BLOCK = 1 << 20
# Names under which files wait to be unlinked; a random token follows, which the job's state holds.
ASIDE = ".lading-removing-"
# A pipe that took the place of a file must not be waited for, a terminal not be taken.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# What opening says of a name that is a link, or has one on its way.
_LINKS = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
# File systems whose kernel tells whether a file is open for writing; of others no answer says anything.
_TELLING = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs")

CHANGED = "it changed since it was read"
BUSY = "it is open for writing"
UNKNOWN = "there is no record that it was read"
LINK = "it is a link to a directory"


class Stays(Exception):
    """A file may not go; the message says why, as in "… stays: <message>"."""


class NotPlain(Stays):
    """What has the name of a file is a link or anything else, or a link is on the way to it."""


class Stranded(Stays):
    """A file waits under another name, for its own one is taken."""


class Away(Stranded):
    """A file may wait under another name in a directory that is not there now."""


class HeldSource(NamedTuple):
    """The directory that holds a source that is a directory, or that is a file: resolved path, device, inode."""

    path: str
    device: int
    inode: int

    def is_at(self, status: os.stat_result) -> bool:
        """Tell whether this is the directory of a stat, as far as its file system keeps the number of its device."""
        same = self.device == status.st_dev or _file_system(status.st_dev) not in _TELLING
        return same and self.inode == status.st_ino


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file that is renamed, or about to be, so that it can be unlinked.

    source     as people know it
    directory  below what is held, "" for that itself
    name       of the file there; aside: under which it waits
    held       None in what earlier versions wrote
    """

    source: str
    directory: str
    name: str
    aside: str
    held: HeldSource | None

    @property
    def path(self) -> str:
        """The path of the file for people."""
        real = os.path.realpath(self.source)
        if self.held and not self.directory and os.path.dirname(real) == self.held.path != real:
            return self.source  # it is that file
        return os.path.join(self.source, self.directory, self.name)


@dataclass(frozen=True, slots=True)
class RecordedSource:
    """A file that is what its record says: its state, and a moment not after it was read in that state."""

    state: FileState
    read_ns: int

    def stands(self, state: FileState) -> bool:
        """Tell by its state alone that the file still is what was seen."""
        return self.state == state and settled(state, self.read_ns)


class SourceTree:
    """A source, opened below the root of the file system without following a link; ``close`` it."""

    def __init__(self, source: Path, check: Callable[[], None]) -> None:
        """Raises ``FileNotFoundError`` when the source is not there.

        ``check`` is called between blocks that are read, and may raise.
        """
        self.source = source
        self._check = check
        # The way to a source may lead over links, as a mount does; resolved once, it must not change from here on.
        self._real = Path(os.path.realpath(source))
        self._single = not stat.S_ISDIR(os.stat(self._real).st_mode)
        with Root("/") as slash:
            top = slash.directory(str(self._real.parent if self._single else self._real))
        try:
            self._root = Root(f"/proc/self/fd/{top}")
            status = os.fstat(top)
            self.top = Top(str(self._real), status.st_dev, status.st_ino)
            self.held = HeldSource(str(self._real.parent if self._single else self._real), *self.top[1:])
            self._tells = _file_system(status.st_dev) in _TELLING
        finally:
            os.close(top)

    def close(self) -> None:
        """Let the directory go."""
        self._root.close()

    def path(self, record: SourceRecord) -> str:
        """Return the path of a record for people."""
        return str(self.source) if record.path == "." else os.path.join(self.source, record.path)

    def place(self, record: SourceRecord) -> tuple[str, str]:
        """Return (directory, name) of a record, both below what is held open."""
        if self._single:
            return "", self._real.name
        directory, _, name = record.path.rpartition("/")
        return directory, name

    @contextmanager
    def directory(self, below: str) -> Iterator[int]:
        """Open a directory below the source; raises ``Stays``, and ``FileNotFoundError`` when it is gone."""
        with _opened(self._root, below) as descriptor:
            yield descriptor

    def look(self, directory: int, name: str, record: SourceRecord, sha256: str) -> RecordedSource | None:
        """Return a file that is what a record says, reading it where its state does not tell; None when it is gone.

        Raises ``Stays``.
        """
        try:
            descriptor = open_regular(directory, name)
        except FileNotFoundError:
            return None
        try:
            state = FileState.of(os.fstat(descriptor))
            if record.sha256 == sha256 and record.unchanged(state):
                return RecordedSource(state, record.read_ns)
            return self._read(descriptor, state, sha256)
        finally:
            os.close(descriptor)

    def _read(
        self, descriptor: int, state: FileState, sha256: str, watch: Callable[[], None] | None = None
    ) -> RecordedSource:
        """Read an open file and return it when it has a digest; raises ``Stays``."""
        began = time.time_ns()
        digest = hashlib.sha256()
        try:
            while block := os.read(descriptor, BLOCK):
                self._check()
                if watch:
                    watch()
                digest.update(block)
        except OSError as error:
            raise Stays(f"it cannot be read: {error.strerror}") from error
        if FileState.of(os.fstat(descriptor)) != state:
            raise Stays("it changes while it is read")
        if digest.hexdigest() != sha256:
            raise Stays(CHANGED)
        return RecordedSource(state, began)

    def remove(self, directory: int, name: str, seen: RecordedSource, sha256: str, aside: str) -> bool:
        """Unlink a file that is what was seen; False when it is gone. Raises ``Stays``, and ``OSError``.

        ``aside`` is a name that nobody else has, written down before.
        """
        try:
            descriptor = open_regular(directory, name)
        except FileNotFoundError:
            return False
        try:
            lease = _Lease(descriptor, self._tells)
            state = FileState.of(os.fstat(descriptor))
            if not seen.stands(state):
                state = self._read(descriptor, state, sha256, lease.check).state
            try:
                os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
            except FileNotFoundError:
                return False
            try:
                lease.check()
                if not _same_but_renamed(state, FileState.of(os.fstat(descriptor))):
                    raise Stays(CHANGED)
                if FileState.of(_stat(directory, aside)) != FileState.of(os.fstat(descriptor)):
                    raise Stays("another file took its place")
                os.unlink(aside, dir_fd=directory)
            except BaseException as error:
                if not put_back(directory, aside, name) and isinstance(error, (Stays, OSError)):
                    why = error if isinstance(error, Stays) else f"it cannot be removed: {error.strerror}"
                    raise Stranded(f"{why}; it is beside it as {aside}") from error
                raise
        finally:
            os.close(descriptor)
        return True

    def prune(self, directories: set[str]) -> None:
        """Remove the directories that are empty, and those above that this leaves empty, up to the source itself."""
        if self._single:
            return
        closed: set[str] = set()
        for below in sorted(directories, key=lambda one: (-one.count("/"), one)):
            while below and below not in closed:
                above, _, name = below.rpartition("/")
                try:
                    with self.directory(above) as directory:
                        os.rmdir(name, dir_fd=directory)
                except (OSError, Stays):
                    break  # not empty: something stays there
                closed.add(below)
                below = above
        # By its own name, so that a link to it is left alone.
        with suppress(OSError):
            os.rmdir(self.source)

    def real_path(self, record: SourceRecord) -> str:
        """Return the path of a record with no link on the way to the source, by which ``others`` knows it."""
        return str(self._real) if record.path == "." else os.path.join(self._real, record.path)

    def others(self, known: Container[str]) -> Iterator[tuple[str, str]]:
        """Yield the path below the source, and why it stays, of all that is not among the known ``real_path``s.

        Links are not followed: one that leads to a directory is named itself.
        """
        if self._single:
            return
        unread: list[OSError] = []
        for directory, names, files in os.walk(self._real, onerror=unread.append):
            names.sort()
            links = [name for name in names if os.path.islink(os.path.join(directory, name))]
            for name in sorted([*files, *links]):
                path = os.path.join(directory, name)
                if path not in known:
                    yield self._shown(path), LINK if name in links else UNKNOWN
        for error in unread:
            yield self._shown(error.filename), f"what is in it cannot be listed: {error.strerror}"

    def _shown(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.source, os.path.relpath(path, self._real)))


def restore(waiting: Waiting) -> None:
    """Give a file that a killed run left under another name its own one again; raises ``Stays``.

    Returns as well when nothing waits. That is known only while the directory that was held then is there: a file
    system that is not mounted, or another directory in its place, tells nothing.
    """
    held = waiting.held
    paths = [held.path] if held else _perhaps_held(waiting)
    for path in paths:
        try:
            with Root("/") as slash:
                top = slash.directory(path)
        except OSError:
            continue
        try:
            with Root(f"/proc/self/fd/{top}") as root, _opened(root, waiting.directory) as directory:
                _stat(directory, waiting.aside)
                if not put_back(directory, waiting.aside, waiting.name):
                    raise Stranded(f"an interrupted deletion left it as {waiting.aside}, and its own name is taken")
                return
        except FileNotFoundError:
            if held and held.is_at(os.fstat(top)):
                return
        except OSError as error:
            raise Stays(f"it cannot be looked at: {error.strerror}") from error
        finally:
            os.close(top)
    raise Away(
        f"an interrupted deletion may have left it as {waiting.aside}, and {paths[0]} is not there now, or is another "
        "directory; mount its file system"
    )


def _perhaps_held(waiting: Waiting) -> list[str]:
    """Return which directories an earlier version may have held: that of the source, or that of a source file."""
    real = os.path.realpath(waiting.source)
    return [real] if waiting.directory else [real, os.path.dirname(real)]


@contextmanager
def _opened(root: Root, below: str) -> Iterator[int]:
    try:
        descriptor = root.directory(below)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _LINKS:
            raise NotPlain("a link or a file is in its path") from error
        raise Stays(f"its directory cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_same_top(noted: Top, now: Top) -> bool:
    """Tell whether a source is the directory that was noted.

    Devices are compared where a file system keeps its number; a network file system has another one at each mount.
    """
    if (noted.real, noted.inode) != (now.real, now.inode):
        return False
    return noted.device == now.device or _file_system(now.device) not in _TELLING


def open_regular(directory: int, name: str) -> int:
    """Open a regular file to be read; raises ``FileNotFoundError`` when it is gone and ``Stays`` for all else."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (*_LINKS, errno.ENXIO):
            raise NotPlain("it is not a regular file") from error
        raise Stays(f"it cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlain("it is not a regular file")
    os.set_blocking(descriptor, True)  # a file on tape is waited for
    return descriptor


def put_back(directory: int, aside: str, name: str) -> bool:
    """Rename without replacing; False when another file has the name, or the file system cannot tell."""
    try:
        return rename_new(os.fsencode(aside), os.fsencode(name), directory)
    except OSError:
        return False


class _Lease:
    """A read lease (fcntl(2)): while it is held, nobody writes to the file; where there are none, nothing."""

    def __init__(self, descriptor: int, tells: bool) -> None:
        self._descriptor = descriptor
        self._held = False
        try:
            # The kernel's sign that somebody wants to write would else end this process.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            self._held = True
        except OSError as error:
            if tells and error.errno == errno.EAGAIN:
                raise Stays(BUSY) from error

    def check(self) -> None:
        """Raise ``Stays`` when somebody wants to write; the lease ends with the descriptor, and they go on."""
        if self._held and fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise Stays(BUSY)


def _same_but_renamed(before: FileState, after: FileState) -> bool:
    """Compare all that a rename leaves as it is."""
    return (before.size, before.mtime_ns, before.inode, before.device) == (
        after.size, after.mtime_ns, after.inode, after.device,
    )  # fmt: skip


def _stat(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _file_system(device: int) -> str:
    """Return the type of a mounted file system, "" when it is not told."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            fields = line.split()
            if fields[2] == wanted and "-" in fields:
                return fields[fields.index("-") + 1]
    return ""
