"""Make again what is no object: links, directories, and their attributes.

Input: the manifest's entries, a directory before all below it. Output: links
and directories below the target; counts and names of what was not made.
Invariant: never through a link, never outside the target: a link is made in
a directory that was reached without one, after all files, and what has its
name stays. A link that leads out of the target is made only where that was
asked for. A directory gets its mode and times after everything below it.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from lading.core.appear import Identity, Taken, appear, replace
from lading.core.errors import LadingError
from lading.core.target_tree import Tree, Unsafe, split_path
from lading.core.temporary_files import TemporaryFiles
from lading.restore.attributes import AttributeRestorer
from lading.tree.entry_record import DIRECTORY_KIND, LINK_KIND, RecordedEntry
from lading.tree.not_regular import NotRegular

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass
class EntryCounters:
    """What was done: ``seen`` counts what the manifest holds, ``left`` what was not made, by kind."""

    links: int = 0
    directories: int = 0
    present: int = 0
    seen_directories: int = 0
    seen: NotRegular = field(default_factory=NotRegular)
    left: NotRegular = field(default_factory=NotRegular)
    faults: list[tuple[str, str]] = field(default_factory=list)


def leads_out(path: str, target: str) -> bool:
    """Tell whether a link at ``path`` may lead out of the directory that paths are relative to.

    ``..`` is followed only at the beginning, where it leads from directories that are no links. Behind another
    name, which may be a link, nobody can tell without going there.
    """
    if target.startswith("/"):
        return True
    depth, down = path.count("/"), False
    for part in target.split("/"):
        if part == "..":
            if down or depth == 0:
                return True
            depth -= 1
        elif part not in ("", "."):
            down = True
    return False


class EntryRestorer:
    """Makes entries one by one; ``whole``: all files are there, so that directories may get their modes."""

    def __init__(
        self,
        tree: Tree,
        attributes: AttributeRestorer | None,
        *,
        overwrite: bool = False,
        outside_links: bool = False,
        whole: bool = True,
    ) -> None:
        self.counters = EntryCounters()
        self._tree, self._attributes = tree, attributes
        self._overwrite, self._outside_links, self._whole = overwrite, outside_links, whole
        self._scratch = TemporaryFiles()

    def restore_all(self, entries: Iterable[RecordedEntry]) -> EntryCounters:
        """Make the entries; what fails is among the faults and ends nothing."""
        for entry in self._leave_directories(entries):
            self._counted(entry)
            try:
                self._make(entry)
            except OSError as error:
                if error.errno in _FULL:
                    raise LadingError(f"cannot write below the target: {error.strerror}") from error
                self.counters.faults.append((entry.path, error.strerror or str(error)))
            except LadingError as error:
                self.counters.faults.append((entry.path, str(error)))
        return self.counters

    def _counted(self, entry: RecordedEntry) -> None:
        self.counters.seen_directories += entry.kind == DIRECTORY_KIND
        if entry.kind != DIRECTORY_KIND or entry.empty:
            self.counters.seen.add_entry(entry)

    def _leave_directories(self, entries: Iterable[RecordedEntry]) -> Iterator[RecordedEntry]:
        """Yield the entries, and give each directory its attributes when all below it went by."""
        above: list[RecordedEntry] = []
        for entry in entries:
            while above and above[-1].path != "." and not entry.path.startswith(above[-1].path + "/"):
                self._leave(above.pop())
            if entry.kind == DIRECTORY_KIND and entry.metadata is not None:
                above.append(entry)
            yield entry
        while above:
            self._leave(above.pop())

    def _leave(self, entry: RecordedEntry) -> None:
        if self._attributes is None or entry.metadata is None or not self._whole:
            return
        try:
            with self._tree.directory(_parts(entry.path)) as directory:
                self._attributes.apply(directory, entry.metadata, entry.path, entry.metadata.mtime_ns)
        except (OSError, LadingError) as error:
            self._attributes.note(
                f"the attributes of a directory ({getattr(error, 'strerror', None) or error})", entry.path
            )

    def _make(self, entry: RecordedEntry) -> None:
        if entry.kind == DIRECTORY_KIND:
            *parents, name = _parts(entry.path) or [b"."]
            with self._tree.directory(parents) as above:
                there = name == b"." or _exists(name, above)
            if not there:
                with self._tree.directory([*parents, name]):
                    self.counters.directories += 1
            self.counters.present += there and entry.empty
        elif entry.kind != LINK_KIND or entry.target is None:
            self.counters.left.add_entry(entry)
        elif leads_out(entry.path, entry.target) and not self._outside_links:
            self.counters.left.add("outside_links", entry.path)
        else:
            self._link(entry, os.fsencode(entry.target))

    def _link(self, entry: RecordedEntry, target: bytes) -> None:
        *parents, name = split_path(entry.path)
        with self._tree.directory(parents) as directory:
            made = self._place_link(parents, name, target, directory)
            self.counters.links += made
            self.counters.present += not made
            if self._attributes is not None and entry.metadata is not None:
                self._attributes.apply_link(directory, name, entry.metadata, entry.path)

    def _place_link(self, parents: list[bytes], name: bytes, target: bytes, directory: int) -> bool:
        """Make a link; False when it is there already. Raises for anything else that has its name."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            status = None
        if status is not None and stat.S_ISLNK(status.st_mode):
            if os.readlink(name, dir_fd=directory) == target:
                return False
            raise Unsafe("another link is there under its name; move it away")
        if status is not None and not (self._overwrite and stat.S_ISREG(status.st_mode)):
            raise Unsafe("something else is there under the name of this link; move it away")
        scratch = self._scratch.name(name)
        os.symlink(target, scratch, dir_fd=directory)
        try:
            self._tree.check(parents, directory)
            if status is not None:
                replace(scratch, name, directory, Identity.of(status))
            else:
                appear(scratch, name, directory)
        except Taken:
            raise Unsafe("something appeared under the name of this link meanwhile; it was left as it is") from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(scratch, dir_fd=directory)
        return True


def _parts(path: str) -> list[bytes]:
    return [] if path == "." else split_path(path)


def _exists(name: bytes, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
