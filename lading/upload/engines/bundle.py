"""Directories of links, by which one line of ``s5cmd run`` carries many small files.

Input: tasks, and for each a path that nobody can make lead elsewhere (of a
descriptor, ``lading.core.opening``). Output: a directory in memory that holds one
symbolic link per task, laid out as the keys are; it goes when its last task
is settled.
Invariant: nothing is ever made outside the private directory (mode 0700): a
folder is made only below folders this module made, so a link is never gone
through. Whoever cannot have such a directory gets None, never an error.

The private directory is locked as long as its owner lives, in whatever pid
namespace: one without its lock was left by a killed run, and the next one
removes it.

What the walk of s5cmd v2.3.0 does with such a directory (docs/explanation/decisions.md,
"Upload") is known here and nowhere else: its order, and its words when it
halts, as it does when someone clears the links away.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lading.checksums.digest import MIB
from lading.coordination.kernel_lock import try_lock
from lading.objectstore.object_attributes import PLAIN_OBJECT, ObjectAttributes
from lading.upload.engines.base import UploadTask

FILE_BYTES = 8 * MIB  # larger ones gain nothing by sharing a line
LEAST = 4  # fewer tasks are sooner sent than laid out
PREFIX = "lading-links-"
MEMORY = "/dev/shm"  # noqa: S108 - only a directory of our own inside it is used
# Segments that are no file names; signs of patterns; what s5cmd's error messages would show changed.
_UNFIT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|[*?]|  | \Z")
_PLAIN = re.compile(r"[A-Za-z0-9/_.+-]+")  # a path that needs no care in a pattern, a list or a message
_HALT = re.compile(r"given object (?P<missing>.*) not found|[a-z]+ (?P<failing>.*): (?P<why>[^:]*)", re.DOTALL)


def fits(task: UploadTask) -> bool:
    """Tell whether a task may share a line: a small file whose key is a relative path of names."""
    if task.size > FILE_BYTES or _UNFIT.search(task.key):
        return False
    return len(task.key) < 64 or all(len(name.encode()) <= 255 for name in task.key.split("/"))


def sort_out(tasks: Iterable[UploadTask]) -> list[list[UploadTask]]:
    """Return the tasks in groups that can share a line: of one type and the same attributes, their keys equally deep.

    So no key is a folder of another, which cannot be laid out together.
    """
    groups: dict[tuple[str, ObjectAttributes, int], list[UploadTask]] = {}
    for task in tasks:
        groups.setdefault((task.content_type, task.attributes, task.key.count("/")), []).append(task)
    return list(groups.values())


@dataclass
class Bundle:
    """One directory of links. ``waiting`` holds the tasks without an outcome, by key."""

    folder: str
    content_type: str
    attributes: ObjectAttributes = PLAIN_OBJECT
    waiting: dict[str, UploadTask] = field(default_factory=dict)
    _links: list[str] = field(default_factory=list)
    _folders: list[str] = field(default_factory=list)

    def fill(self, tasks: Iterable[tuple[UploadTask, str]]) -> None:
        """Make the links, each to the path beside its task; what an ``OSError`` leaves behind is for ``remove``."""
        os.mkdir(self.folder, 0o700)
        self._folders.append(self.folder)
        made = {self.folder}
        for task, source in tasks:
            link = self.link(task)
            parent = link.rpartition("/")[0]
            if parent not in made:
                names = parent.removeprefix(self.folder + "/").split("/")
                for count in range(1, len(names) + 1):
                    place = f"{self.folder}/{'/'.join(names[:count])}"
                    if place not in made:
                        os.mkdir(place, 0o700)
                        self._folders.append(place)
                        made.add(place)
            os.symlink(source, link)
            self._links.append(link)
            self.waiting[task.key] = task

    def link(self, task: UploadTask) -> str:
        """Return where a task's link lies."""
        return f"{self.folder}/{task.key}"

    def finish(self, task: UploadTask) -> None:
        """Note an outcome; the last one removes the directory."""
        self.waiting.pop(task.key, None)
        if not self.waiting:
            self.remove()

    def remove(self) -> None:
        """Take away the links and folders; what someone else took away first is no matter."""
        for link in self._links:
            with contextlib.suppress(OSError):
                os.unlink(link)
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        self._links.clear()
        self._folders.clear()

    def translate(self, task: UploadTask, message: str) -> str:
        """Return s5cmd's message with the file's own path instead of the link's."""
        return message.replace(self.link(task), task.path)

    def unsent(self, message: str) -> list[UploadTask] | None:
        """Return the tasks that s5cmd has not begun and never will, since its walk halted with ``message``.

        None: the message does not show where. The walk is in the order of
        the names, so what comes before the place is under way and will be
        reported by itself. At the place itself s5cmd looks twice: a file that
        is gone only at the second look ("stat …: no such file") was begun.
        """
        match = _HALT.fullmatch(message)
        if match is None:
            return None
        place = match["missing"] or match["failing"]
        if not (place + "/").startswith(self.folder + "/"):
            return None
        names = _names(place.rstrip("/")[len(self.folder) + 1 :])
        begun = bool(match["why"]) and match["why"] == "no such file or directory"
        return [
            task for key, task in self.waiting.items() if names < _names(key) or (names == _names(key) and not begun)
        ]


def _names(path: str) -> list[bytes]:
    """Return a path as the walk sorts it; the empty path comes before all."""
    return [name.encode() for name in path.split("/")] if path else []


class Links:
    """The private directory of one engine, made when first needed and made again when it is lost."""

    def __init__(self, places: Sequence[str] | None = None) -> None:
        self._places = places
        self._root = ""
        self._lock = -1
        self._number = 0
        self._failures = 0

    def bundle(self, tasks: Sequence[tuple[UploadTask, str]]) -> Bundle | None:
        """Lay out a group of ``sort_out``, each task with the path of its file; None when that cannot be done here."""
        if self._failures >= 3:
            return None
        if not self._root and not self._open():
            self._failures += 1
            return None
        self._number += 1
        first = tasks[0][0]
        bundle = Bundle(f"{self._root}/{self._number}", first.content_type, first.attributes)
        try:
            bundle.fill(tasks)
        except OSError:  # full, a quota, a path too long, or someone cleared it away
            bundle.remove()
            self._failures += 1
            if not os.path.isdir(self._root):
                self.close()
            return None
        self._failures = 0
        return bundle

    def close(self) -> None:
        """Remove everything; a later ``bundle`` begins anew."""
        if self._root:
            shutil.rmtree(self._root, ignore_errors=True)
            os.close(self._lock)
        self._root, self._lock, self._failures = "", -1, 0

    def owns(self, text: str) -> bool:
        """Tell whether a text names a place in here, which means nothing to people."""
        return bool(self._root) and self._root in text

    def _open(self) -> bool:
        places = self._places
        if places is None:
            memory = os.path.isdir(MEMORY) and os.access(MEMORY, os.W_OK | os.X_OK)
            places = [MEMORY] if memory else []
            with contextlib.suppress(OSError):
                places = [*places, tempfile.gettempdir()]
        for place in places:
            sweep(place)
            try:
                made = _make(place)
            except OSError:
                continue
            if made:
                self._root, self._lock = made
                return True
        return False


def _make(place: str) -> tuple[str, int] | None:
    """Return a new locked directory and the lock's descriptor."""
    if not _PLAIN.fullmatch(place):
        return None
    for _ in range(10):
        root = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        try:
            lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # a sweeper saw it before it was locked
        try:
            if try_lock(lock) and os.path.samestat(os.stat(root), os.fstat(lock)):
                return root, lock
        except FileNotFoundError:
            pass  # as above
        except OSError:
            os.close(lock)
            os.rmdir(root)
            raise  # a file system without locks
        os.close(lock)
    return None


def sweep(place: str) -> None:
    """Remove what killed runs of this user left: directories of ours that nobody locks."""
    try:
        entries = [entry for entry in os.scandir(place) if entry.name.startswith(PREFIX)]
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):  # another sweeper, another user, a living owner
            if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if try_lock(lock):
                    shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)
