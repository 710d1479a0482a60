"""Do one task of a sign-off: list a directory, or look at some of its entries and read the files among them.

Input: tasks, a root, checks, what an earlier run kept. Output: ``TaskFindings``, and the tasks that follow.
Invariant: nothing is gone through below the root but directories; what could not be read is a finding.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

from lading.checksums.digest import CHUNK_FILES, CORES, FileDigests, FileState, chunk_slices, digest_files
from lading.checksums.kept_digests import KeptDigest, KeptDigests
from lading.core.opening import Root, not_regular
from lading.signoff.entry_checks import EntryChecks
from lading.signoff.fault_kinds import show_path
from lading.signoff.run_log import SignoffFinding
from lading.signoff.sum_files import is_sum_file
from lading.signoff.sum_reading import read_sum_file

GONE = "it is gone since its directory was listed"
Excluded = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class WalkTask:
    """What waits: a directory to list (``names`` None), or some entries of one that was listed."""

    path: str
    names: tuple[str, ...] | None = None

    def pack(self) -> tuple[int, bytes, int, bytes]:
        """Return it as it travels between ranks."""
        names = "" if self.names is None else "\0".join(self.names)
        return 0, os.fsencode(self.path), int(self.names is not None), os.fsencode(names)

    @classmethod
    def unpack(cls, path: bytes, depth: int, names: bytes) -> "WalkTask":
        """Return what another rank packed."""
        return cls(os.fsdecode(path), tuple(os.fsdecode(names).split("\0")) if depth else None)


@dataclass
class SignoffCounts:
    """What a rank did; ``reused`` files were read by an earlier run, and are as they were."""

    directories: int = 0
    files: int = 0
    links: int = 0
    others: int = 0
    bytes: int = 0
    sum_files: int = 0
    read_files: int = 0
    read_bytes: int = 0
    reused_files: int = 0
    reused_bytes: int = 0

    def add(self, other: "SignoffCounts") -> None:
        """Add what another did."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass
class TaskFindings:
    """What one task came to."""

    digests: list[KeptDigest] = field(default_factory=list)
    findings: list[SignoffFinding] = field(default_factory=list)
    claims: list[dict[str, str | int | bool]] = field(default_factory=list)
    counts: SignoffCounts = field(default_factory=SignoffCounts)

    def note(self, path: str, faults: Iterator[tuple[str, str]]) -> None:
        """Take the faults of an entry."""
        self.findings += [SignoffFinding(kind, show_path(path), detail) for kind, detail in faults]

    def unread(self, path: str, reason: str, kind: str = "unreadable") -> None:
        """Take an entry that was not read."""
        self.findings.append(SignoffFinding(kind, show_path(path), reason))


def _size(status: os.stat_result | OSError) -> int:
    """Return how many bytes an entry has to be read."""
    return status.st_size if not isinstance(status, OSError) and stat.S_ISREG(status.st_mode) else 0


class TaskReader:
    """Does tasks below a root; safe to use from many threads. ``stop``: set when the run is being ended."""

    def __init__(
        self, root: str, checks: EntryChecks, kept: KeptDigests | None = None, excluded: Excluded | None = None
    ) -> None:
        self.stop = bytearray(1)
        self._root, self._checks, self._kept, self._excluded = Root(root), checks, kept, excluded
        self._real = os.path.realpath(root).rstrip("/") + "/"
        self._device = os.stat(root).st_dev

    def close(self) -> None:
        """Close the root."""
        self._root.close()

    def do(self, task: WalkTask, found: TaskFindings) -> list[WalkTask]:
        """Do a task; returns what is to be done next."""
        return self._list(task.path, found) if task.names is None else self._look(task, found)

    def _list(self, path: str, found: TaskFindings) -> list[WalkTask]:
        """List a directory: its own faults and those of its names; returns what is to be done below it."""
        directories: list[str] = []
        others: list[str] = []
        try:
            descriptor = self._root.directory(path)
            try:
                status = os.fstat(descriptor)
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        (directories if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
            finally:
                os.close(descriptor)
        except OSError as error:
            found.unread(path, error.strerror or str(error))
            return []
        prefix = f"{path}/" if path else ""
        if self._excluded is not None:
            left_out = self._excluded
            directories, others = (
                [name for name in names if not left_out(name, prefix + name)] for names in (directories, others)
            )
        checks, names = self._checks, directories + others
        found.counts.directories += 1
        found.note(path, checks.directory(status, len(names), self._device))
        for name in names:
            found.note(prefix + name, checks.name(prefix + name))
        for name, kind, detail in checks.names(names):
            found.findings.append(SignoffFinding(kind, prefix + name, detail))
        others.sort()
        pieces = [others[start : start + CHUNK_FILES] for start in range(0, len(others), CHUNK_FILES)]
        # What is pushed last is done first: files before directories, so that little waits.
        return [
            *(WalkTask(prefix + name) for name in sorted(directories, reverse=True)),
            *(WalkTask(path, tuple(piece)) for piece in reversed(pieces)),
        ]

    def _look(self, task: WalkTask, found: TaskFindings) -> list[WalkTask]:
        """Look at some entries of a directory, and read the files among them.

        Returns what is left for others: so many files are read at once as are worth one call (``chunk_slices``).
        """
        assert task.names is not None
        prefix = f"{task.path}/" if task.path else ""
        try:
            directory = self._root.hold_directory(task.path) if task.path else os.dup(self._root.descriptor)
        except OSError as error:
            for name in task.names:
                found.unread(prefix + name, error.strerror or str(error))
            return []
        try:
            statuses = self._statuses(task.names, directory)
            pieces = [task.names[piece] for piece in chunk_slices(list(map(_size, statuses)), CORES)]
            files: list[tuple[str, os.stat_result]] = []
            for name, status in zip(pieces[0], statuses):
                try:
                    if self._is_file(prefix + name, name, status, directory, found):
                        assert not isinstance(status, OSError)
                        files.append((prefix + name, status))
                except OSError as error:
                    found.unread(prefix + name, GONE if error.errno == errno.ENOENT else error.strerror or str(error))
        finally:
            os.close(directory)
        self._read([file for file in files if not is_sum_file(file[0].rpartition("/")[2])], found)
        for path, status in files:
            if is_sum_file(path.rpartition("/")[2]):
                self._read_sums(path, status, found)
        return [WalkTask(task.path, piece) for piece in reversed(pieces[1:])]

    @staticmethod
    def _statuses(names: Sequence[str], directory: int) -> list[os.stat_result | OSError]:
        """Return the state of each, or why it cannot be looked at."""
        found: list[os.stat_result | OSError] = []
        for name in names:
            try:
                found.append(os.stat(name, dir_fd=directory, follow_symlinks=False))
            except OSError as error:
                found.append(error)
        return found

    def _is_file(
        self, path: str, name: str, status: os.stat_result | OSError, directory: int, found: TaskFindings
    ) -> bool:
        """Check one entry; True for a file, which is to be read. Raises ``OSError`` for what cannot be looked at."""
        if isinstance(status, OSError):
            raise status
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            found.counts.files += 1
            found.counts.bytes += status.st_size
            found.note(path, self._checks.file(status))
            return True
        if kind == stat.S_IFLNK:
            found.counts.links += 1
            found.note(path, self._checks.link(path, name, directory, self._real))
        elif kind == stat.S_IFDIR:
            found.unread(path, str(not_regular(status.st_mode).strerror), "unsteady")
        else:
            found.counts.others += 1
            found.note(path, self._checks.other(status))
        return False

    def _read(self, files: Sequence[tuple[str, os.stat_result]], found: TaskFindings) -> None:
        """Take the digests of files that an earlier run read, and read the others."""
        rest: list[tuple[str, os.stat_result]] = []
        for path, status in files:
            kept = self._kept.find(path) if self._kept is not None else None
            if kept is not None and kept.is_of(FileState.of(status)):
                found.counts.reused_files += 1
                found.counts.reused_bytes += kept.size
                found.digests.append(kept)
            else:
                rest.append((path, status))
        if not rest:
            return
        began = time.time_ns()
        answers = digest_files([(path, status.st_size) for path, status in rest], self.stop, self._root)
        for (path, status), answer in zip(rest, answers):
            self._take(path, status, answer, began, found)

    def _take(
        self, path: str, status: os.stat_result, answer: FileDigests | OSError, began: int, found: TaskFindings
    ) -> None:
        if isinstance(answer, OSError):
            found.unread(path, GONE if answer.errno == errno.ENOENT else answer.strerror or str(answer))
            return
        found.counts.read_files += 1
        found.counts.read_bytes += answer.after.size
        if not answer.steady or answer.after != FileState.of(status):
            found.unread(path, "it changed while it was read; sign off again when nobody writes", "unsteady")
            return
        found.digests.append(KeptDigest.of(path, answer, began))

    def _read_sums(self, path: str, status: os.stat_result, found: TaskFindings) -> None:
        """Read a checksum file: its own digests, and what it claims of others."""
        found.counts.sum_files += 1
        began = time.time_ns()
        sums = read_sum_file(self._root, path, self._real, self.stop)
        self._take(path, status, sums.digests, began, found)
        if isinstance(sums.digests, OSError):
            return
        found.claims += sums.claims
        found.findings += [finding for finding in sums.findings if finding.kind in self._checks.wanted]
