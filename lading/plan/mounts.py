"""Where a release lies today: a root is a mount, and may have another path on another machine or tomorrow.

Input: ROOT, the path that a plan was cut from, the plan's tree, the journals.
Output: the directory in which the plan's files lie below ROOT; what of them
differs there.
Invariant: the identity of a release is bucket, prefix and relative paths. A
path that neither plan nor journals name is believed only after every entry
was compared with what they record: equal, or newer, or it is another release.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np

from lading.core.command_line import printable
from lading.core.errors import ConsistencyError
from lading.core.opening import Root
from lading.core.progress import counted, format_count
from lading.core.times import mtime_of
from lading.core.worker_threads import WorkerPool
from lading.journal.index_rows import Hashes, hash_keys
from lading.journal.journal_index import JournalIndex
from lading.objectstore.keys import KeyMap, is_below
from lading.plan.ownership import FileEntry, files_between
from lading.tree.size_tree import FlatTree
from lading.tree.tree_index import TreeIndex

NAMED = 5
PROBED = 100  # files by which a place is chosen among several
SAMPLED = 200  # proven files by which another copy of a release is told from the same files under another path
GROUP = 10_000  # files at a time
LOOKS = 500  # files that a thread looks at in a row
LOOKERS = 16
# Finest to coarsest steps in which file systems keep times: SMB, some FUSE, FAT.
_STEPS = (100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)


@dataclass
class Differences:
    """Which entries differ: all counted, the first ``NAMED`` of them named; ``known`` have a record."""

    total: int = 0
    count: int = 0
    known: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(name)

    def describe(self) -> str:
        """Return them as one clause."""
        names = ", ".join(map(printable, self.names)) + (" …" if self.count > len(self.names) else "")
        return f"{format_count(self.count)} of {counted(self.total, 'entry', 'entries')} differ: {names}"


def refuse(what: str, found: Differences) -> ConsistencyError:
    """Return the error for a root under which a release is not what plan and journals say."""
    return ConsistencyError(
        f"{what}, and it holds another release: {found.describe()}; give each release a directory of its own, or take "
        "this as the same release with --same-release"
    )


def all_files(tree: FlatTree) -> Iterator[FileEntry]:
    """Yield every file of a tree."""
    tree_index = TreeIndex(tree)
    yield from files_between(tree_index, 0, len(tree.types))


def spread(tree: FlatTree, count: int) -> list[str]:
    """Return the paths of up to ``count`` files, from all over a tree."""
    step = max(1, len(tree.types) // count)
    return [path for path, _, _ in islice(all_files(tree), 0, step * count, step)]


def is_same_directory(one: str, other: str) -> bool:
    """Tell whether two paths are one directory, as through links and bind mounts they may be."""
    if one == other:
        return True
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def find_release(root: str, planned: str, tree: FlatTree, inner: Iterable[str]) -> str:
    """Return the directory below ``root`` that holds what was planned at the path ``planned``.

    ``inner``: that directory relative to the root, as journals record it;
    else the ends of the planned path are tried, by where most of the files are.
    """
    if is_below(planned, root) and os.path.isdir(planned):
        return planned
    parts = planned.strip("/").split("/")
    ends = sorted(set(inner)) or ["/".join(parts[start:]) for start in range(len(parts) + 1)]
    places = [os.path.join(root, end).rstrip("/") or "/" for end in ends]
    probe = spread(tree, PROBED)
    counts = [sum(_is_file(f"{place}/{path}") for path in probe) if os.path.isdir(place) else -1 for place in places]
    best = max(range(len(places)), key=lambda place: counts[place])  # the longest end of those that are alike
    return places[best] if counts[best] >= 0 else root


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(os.fsencode(path)).st_mode)
    except OSError:
        return False


def same_time(one: int, other: int) -> bool:
    """Tell whether two times (ns) are one, perhaps kept in coarser steps by one of two mounts."""
    return one == other or any(one // step == other // step and 0 in (one % step, other % step) for step in _STEPS)


def compare(
    tree: FlatTree,
    root: Root | None,
    *,
    crawled: int | None,
    keys: KeyMap | None = None,
    journal_index: JournalIndex | None = None,
    look: bool,
    gone: bool,
) -> Differences:
    """Compare a tree with the files below ``root`` (None: it is gone) and with what the journals know of it.

    look     whether the files were crawled elsewhere, so that all must be looked at; else only those are whose
             record differs
    gone     whether what is proven and not in the tree differs; not where the tree is that of the journals
    crawled  when the crawl began (ns): what changed later is newer
    """
    found = Differences()
    hashes: list[Hashes] = []
    files = all_files(tree)
    with closing(WorkerPool(LOOKERS, "mount")) as pool:
        while group := list(islice(files, GROUP)):
            found.total += len(group)
            hashed, times, suspects, known = _expect(group, keys, journal_index, look)
            hashes.append(hashed)
            found.known += known
            pieces = [suspects[start : start + LOOKS] for start in range(0, len(suspects), LOOKS)]
            looked = pool.map(partial(_look, root), ([group[place][0] for place in piece] for piece in pieces))
            for piece, statuses in zip(pieces, looked):
                for place, status in zip(piece, statuses):
                    if _is_other(group[place], status, times[place], crawled):
                        found.add(group[place][0])
    if gone and journal_index is not None and hashes:
        lost = np.setdiff1d(journal_index.proven_hashes(), np.concatenate(hashes))
        found.total += len(lost)
        for name in journal_index.names(lost[:NAMED]):
            found.add(name)
        found.count += max(0, len(lost) - NAMED)
    return found


def _look(root: Root | None, paths: Sequence[str]) -> list[os.stat_result | OSError]:
    return [FileNotFoundError()] * len(paths) if root is None else root.statuses(paths)


def _expect(
    group: Sequence[FileEntry], keys: KeyMap | None, journal_index: JournalIndex | None, look: bool
) -> tuple[Hashes, list[int | None], list[int], int]:
    """Return the hashes of a group's keys, each file's time, which are to be looked at, and how many have a record."""
    times = [member[2] for member in group]
    if keys is None or journal_index is None:
        return np.empty(0, np.uint64), times, list(range(len(group))), 0
    hashed = hash_keys(keys.key(member[0]) for member in group)
    known = journal_index.find(hashed)
    proven = (known.rank >= 0) & (known.rank % 2 == 0)
    suspects = []
    for place, (is_proven, size, mtime) in enumerate(zip(proven.tolist(), known.size.tolist(), known.mtime.tolist())):
        planned = group[place]
        if is_proven:
            if planned[1] != size or (planned[2] is not None and planned[2] < mtime):
                suspects.append(place)
            times[place] = mtime
    return hashed, times, list(range(len(group))) if look else suspects, int((known.rank >= 0).sum())


def _is_other(member: FileEntry, status: os.stat_result | OSError, time: int | None, crawled: int | None) -> bool:
    """Tell whether a file is neither what is recorded nor newer."""
    if isinstance(status, OSError) or not stat.S_ISREG(status.st_mode):
        return True
    now = mtime_of(status)
    if status.st_size == member[1] and (time is None or same_time(now, time)):
        return False
    newer_than = time if time is not None else crawled
    return newer_than is None or now <= newer_than
