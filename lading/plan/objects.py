"""What a plan asks for, object by object, checked before anything is sent.

Input: ROOT, ``batch.json`` and its tree, bucket, remap. Output: items per
batch, and per batch how many are not proven yet.
Invariant: every fault of the plan (a key S3 cannot hold, two sources on one
key, a tree of another state) is found before the first byte moves. What is
proven is told by tree and journals; files are only looked at by ``look``, and
by ``check_mount`` when ROOT leads to them by a path that nobody knows yet.
Memory: the tree's arrays and 8 bytes an object.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.checksums.digest import FileState
from lading.core.errors import ConsistencyError, LadingError, UsageError, usage_errors
from lading.core.opening import Root
from lading.core.progress import counted
from lading.core.worker_threads import WorkerPool
from lading.journal.index_rows import FoundRecords, Hashes, hash_keys, mark_state
from lading.journal.journal_index import JournalIndex
from lading.journal.records import encode_header, is_state, read_headers
from lading.objectstore.capacity import Capacity
from lading.objectstore.keys import (
    KeyMap,
    KeyPrefix,
    collisions,
    is_below,
    key_error,
    parse_remap,
    relative,
)
from lading.plan.batch_plan import Batch, Plan, read_plan
from lading.plan.mounts import SAMPLED, compare, find_release, is_same_directory, refuse, spread
from lading.plan.ownership import BatchFiles, FileEntry, coverage_of, follows_links, load_tree
from lading.plan.planned_object import PlannedObject
from lading.tree.json_reader import TreeReader, read_tree
from lading.tree.size_tree import meta_path, read_meta

WIDE = Capacity()
MOST_FAULTS = 20  # shown at once
LOOKERS = 16  # threads: a network file system answers many at once
COPIED = 4  # one of so many files with another inode: it is a copy
COMPARED = 1 << 20  # hashes in a row, so that what they are compared by stays small
LOOKS = 500  # files that a thread looks at in a row

Doubts = tuple[Hashes, NDArray[np.int64]]  # of keys, and the rank of the record that is doubted
NO_DOUBTS: Doubts = (np.empty(0, np.uint64), np.empty(0, np.int64))


class PlannedObjects:
    """The objects of a plan; ``read`` is how its tree is read."""

    def __init__(
        self,
        root: str,
        place: KeyPrefix,
        batch_file: Path,
        remap: str,
        capacity: Capacity = WIDE,
        *,
        read: TreeReader = read_tree,
    ) -> None:
        self.root = os.path.abspath(root)
        self.capacity = capacity
        self.place = place
        self.directory = batch_file.absolute().parent
        self.plan: Plan = read_plan(batch_file)
        self.plan_digest = hashlib.sha256(batch_file.read_bytes()).hexdigest()
        if not os.path.isdir(self.root):
            raise UsageError(f"ROOT {self.root} is {'not a directory' if os.path.exists(self.root) else 'missing'}")
        self.release = self.plan.root
        tree = None
        if not (is_below(self.plan.root, self.root) and os.path.isdir(self.plan.root)):
            if is_below(self.plan.root, self.root):
                what = f"the plan's root {self.plan.root} is gone"
                raise UsageError(f"{what}; restore it, or run: rm find.json; make find.json batch.json")
            tree = load_tree(self.plan, self.directory, read)
            inner = (str(header["inner"]) for header in read_headers(self.journal) if "inner" in header)
            self.release = find_release(self.root, self.plan.root, tree, inner)
        self._rules = parse_remap(remap, self.root, self.release)
        self.keys = KeyMap(self.root, self.release, place.prefix, self._rules)
        self.open_bytes = self.withdrawn_files = 0
        self.coverage = coverage_of(self.plan, self.directory)
        self._base = self.release.rstrip("/") + "/"
        self._doubts = NO_DOUBTS
        self._tree = tree or load_tree(self.plan, self.directory, read)
        self._members = BatchFiles(self._tree, self.plan)
        self.seen_roots: set[str] = set()
        self.is_copy = False
        self.stored_with: dict[str, Any] = {}  # what is sent, as journals record it

    def open_root(self) -> Root:
        """Return the release's directory, open; files are reached through links only if the crawl followed them."""
        return Root(self.release, follow=follows_links(self.plan, self.directory))

    def check_mount(self, journal_index: JournalIndex, *, agreed: bool = False) -> None:
        """Raise ``ConsistencyError`` when the release lies under a path that is new, and is another there.

        To be called before ``look``. ``agreed``: somebody said that it is the same.
        """
        roots = self.seen_roots = journal_index.roots
        known = {*roots} if self.plan.root in roots or not roots else {*roots, self.plan.root}
        is_known = any(is_same_directory(self.release, root) for root in (roots or {self.plan.root}))
        if not is_known and not agreed:
            look = not is_same_directory(self.release, self.plan.root)
            with self.open_root() as root:
                found = compare(
                    self._tree,
                    root,
                    crawled=_crawl_start(self.plan, self.directory),
                    keys=self.keys,
                    journal_index=journal_index,
                    look=look,
                    gone=bool(roots) and self.plan.root not in roots,
                )
            what = f"{self.release} is not where the plan's {self.plan.root} lay"
            if found.count:
                raise refuse(what, found)
            if not found.known and journal_index.objects:
                raise ConsistencyError(f"{what}: the journals have none of the keys that ROOT {self.root} gives")
        if len({*known, self.release}) > 1:
            self.is_copy = self._is_copy(journal_index)

    def _is_copy(self, journal_index: JournalIndex) -> bool:
        """Tell whether other files lie under this path than those whose states are recorded, of equal size and time.

        Then inodes and ctimes of records say nothing. A few that differ are files that somebody replaced.
        """
        paths = spread(self._tree, SAMPLED)
        keys = [self.keys.key(path) for path in paths]
        same = others = 0
        with self.open_root() as root:
            for proof, status in zip(
                journal_index.proofs(keys, journal_index.find(hash_keys(keys))), root.statuses(paths)
            ):
                if proof is None or proof.inode is None or isinstance(status, OSError):
                    continue
                state = FileState.of(status)
                same += is_state(proof, state)
                others += not is_state(proof, state) and is_state(proof, state, is_copy=True)
        return others > 0 and others * COPIED >= same + others

    def head(self, writer: str, endpoint: str | None, started: str) -> dict[str, Any]:
        """Return the first record of a process's journal."""
        more: dict[str, Any] = {"roots": self.seen_roots, "stored_with": self.stored_with}
        inner = relative(self.release, self.root)
        return encode_header(writer, str(self.place), endpoint, self.release, started, inner=inner, **more)

    @property
    def journal(self) -> Path:
        """Where the journals of this plan lie."""
        return self.directory / "journal"

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches of the plan."""
        return self.plan.batches

    def members(self, number: int) -> list[FileEntry]:
        """Return a batch's files: (path, size, mtime in ns or None); ``ConsistencyError`` if they do not add up."""
        batch = self.batches[number]
        members = list(self._members.files(number))
        if (len(members), sum(member[1] for member in members)) != (batch.files, batch.size):
            raise ConsistencyError(
                f"batch {batch.id} holds {counted(len(members), 'file')} in the tree, but the plan says "
                f"{counted(batch.files, 'file')} of {batch.size} bytes; run: make batch.json"
            )
        return members

    def audit(self, journal_index: JournalIndex) -> list[int]:
        """Check every key, ``UsageError`` if one is bad; return how many of each batch are open, set ``open_bytes``."""
        faults: list[str] = []
        hashes, open_counts = np.empty(self.files, np.uint64), []
        self.open_bytes = self.withdrawn_files = start = fault_count = 0
        for number, batch in enumerate(self.batches):
            found, count, size = self._audit_batch(number, journal_index, hashes[start : start + batch.files])
            open_counts.append(count)
            self.open_bytes += size
            start += batch.files
            fault_count += len(found)
            faults += found[: max(0, MOST_FAULTS - len(faults))]
        found = _collisions(hashes, self._pairs)
        _refuse([*faults, *found], fault_count + len(found))
        return open_counts

    def _audit_batch(self, number: int, journal_index: JournalIndex, hashes: Hashes) -> tuple[list[str], int, int]:
        """Return what is wrong with keys of a batch, how many objects are not proven, their bytes; fills ``hashes``."""
        members = self.members(number)
        keys = [self.keys.key(member[0]) for member in members]
        faults = _key_faults(members, keys, self.capacity.key_bytes)
        hashes[:] = hash_keys(keys)
        left = ~self._proven(hashes, records := journal_index.find(hashes), members)
        self.withdrawn_files += int(np.count_nonzero(withdrawn(records, members)))
        size = sum(members[place][1] for place in np.flatnonzero(left).tolist())
        return faults, int(np.count_nonzero(left)), size

    def paths(self) -> Iterator[str]:
        """Yield the path of each file, relative to the plan's root."""
        for number in range(len(self.batches)):
            yield from (path for path, _, _ in self._members.files(number))

    def _pairs(self) -> Iterator[tuple[str, str]]:
        return ((path, self.keys.key(path)) for path in self.paths())

    def holds(self, keys: set[str]) -> set[str]:
        """Return those of ``keys`` that belong to this plan."""
        return {key for _, key in self._pairs() if key in keys}

    @property
    def files(self) -> int:
        """How many files the plan has."""
        return sum(batch.files for batch in self.batches)

    def look(self, journal_index: JournalIndex) -> Doubts:
        """Look at each file that is proven, and return (hashes of keys, ranks) of those in another state.

        Only what is still a regular file counts: a file that is gone, or
        cannot be looked at, says nothing against what was delivered.
        """
        keys, ranks = [], []
        with self.open_root() as root, closing(WorkerPool(LOOKERS, "look")) as pool:
            for number in range(len(self.batches)):
                members = self.members(number)
                hashed = hash_keys(self.keys.key(member[0]) for member in members)
                found = journal_index.find(hashed)
                places = np.flatnonzero(proven(found, members) & (found.state != 0)).tolist()
                paths = [self._base + members[place][0] for place in places]
                pieces = [paths[start : start + LOOKS] for start in range(0, len(paths), LOOKS)]
                marks = [mark for piece in pool.map(partial(_mark_files, root), pieces) for mark in piece]
                states = found.state[places].tolist()
                moved = [place for place, mark, state in zip(places, marks, states) if mark and mark != state]
                if moved and self.is_copy:
                    moved = self._changed(root, journal_index, members, moved)
                keys.append(hashed[moved])
                ranks.append(found.rank[moved])
        return (np.concatenate(keys), np.concatenate(ranks)) if keys else NO_DOUBTS

    def _changed(
        self, root: Root, journal_index: JournalIndex, members: list[FileEntry], places: list[int]
    ) -> list[int]:
        """Return those of the places whose files are in another state by size and time."""
        keys = [self.keys.key(members[place][0]) for place in places]
        proofs = journal_index.proofs(keys, journal_index.find(hash_keys(keys)))
        statuses = root.statuses([members[place][0] for place in places])
        return [
            place
            for place, proof, status in zip(places, proofs, statuses)
            if proof is None or isinstance(status, OSError) or not is_state(proof, FileState.of(status), is_copy=True)
        ]

    @property
    def doubted(self) -> int:
        """How many files are doubted."""
        return len(self._doubts[0])

    def doubt(self, doubts: Doubts) -> None:
        """Count what ``look`` found as not proven, until it is proven again."""
        order = np.argsort(doubts[0])
        self._doubts = doubts[0][order], doubts[1][order]

    def _proven(self, hashed: Hashes, found: FoundRecords, members: list[FileEntry]) -> NDArray[np.bool_]:
        mask = proven(found, members) | withdrawn(found, members)  # deleted on purpose: nothing is to be sent
        keys, ranks = self._doubts
        if len(keys):
            at = np.minimum(np.searchsorted(keys, hashed), len(keys) - 1)
            mask &= ~((keys[at] == hashed) & (ranks[at] == found.rank))
        return mask

    def unproven(self, number: int, journal_index: JournalIndex) -> list[PlannedObject]:
        """Return what of a batch is not proven."""
        left = [item for item, done in self.items(number, journal_index) if not done]
        known = [item for item in left if item.generation]
        if not known:
            return left
        keys = [item.key for item in known]
        found = journal_index.find(hash_keys(keys))
        earlier = dict(zip(keys, journal_index.proofs(keys, found)))
        rejected = dict(zip(keys, journal_index.rejected(keys, found)))
        return [replace(item, earlier=earlier.get(item.key), rejected=rejected.get(item.key)) for item in left]

    def count_open(self, number: int, journal_index: JournalIndex) -> int:
        """Return how many objects of a batch are not proven."""
        members = self.members(number)
        hashed = hash_keys(self.keys.key(member[0]) for member in members)
        return int(np.count_nonzero(~self._proven(hashed, journal_index.find(hashed), members)))

    def items(self, number: int, journal_index: JournalIndex) -> Iterator[tuple[PlannedObject, bool]]:
        """Yield (item, whether it is proven) of a batch."""
        members = self.members(number)
        keys = [self.keys.key(member[0]) for member in members]
        hashed = hash_keys(keys)
        found = journal_index.find(hashed)
        done = self._proven(hashed, found, members).tolist()
        batch = self.batches[number].id
        for position, ((path, size, mtime), key) in enumerate(zip(members, keys)):
            rank = int(found.rank[position])
            voids = rank >= 0 and rank % 2 == 0 and not done[position]
            item = PlannedObject(path, self._base + path, key, size, mtime, batch, found.generation(position), voids)
            yield item, done[position]


def _key_faults(members: list[FileEntry], keys: list[str], most: int) -> list[str]:
    return [f"{entry[0]!r}: {error}" for entry, key in zip(members, keys) if (error := key_error(key, most))]


def _refuse(faults: list[str], count: int) -> None:
    """Raise ``UsageError`` if there are faults, with a line for the first of ``count``."""
    if faults:
        more = [f"… and {count - MOST_FAULTS} more"] if count > MOST_FAULTS else []
        raise usage_errors(["nothing was sent:", *faults[:MOST_FAULTS], *more])


def _collisions(hashes: Hashes, pairs: Callable[[], Iterator[tuple[str, str]]]) -> list[str]:
    """Return a sentence for each key that two files of ``pairs`` have; sorts ``hashes`` in place, to hold them once."""
    wanted = {value.to_bytes(8, "little") for value in _repeated(hashes)}
    if not wanted:
        return []
    suspects = {key for _, key in pairs() if hash_keys([key]).tobytes() in wanted}
    return collisions(pairs(), suspects)


def _repeated(hashes: Hashes) -> set[int]:
    """Return the values that occur more than once, and leave the array sorted."""
    hashes.sort()
    pieces = (hashes[start : start + COMPARED + 1] for start in range(0, len(hashes), COMPARED))
    return {value for piece in pieces for value in piece[1:][piece[1:] == piece[:-1]].tolist()}


def _crawl_start(plan: Plan, directory: Path) -> int | None:
    """Return when the crawl began, in ns since 1970; None where that is not known."""
    path = meta_path(directory / str(plan.settings.get("tree", "find.json")))
    try:
        return read_meta(path).started_ns
    except LadingError:
        return None


def withdrawn(found: FoundRecords, members: list[FileEntry]) -> NDArray[np.bool_]:
    """Return which members were deleted from the bucket on purpose, or are about to be."""
    if not (found.state < 0).any():
        return np.zeros(len(members), np.bool_)
    timed = bool(members) and members[0][2] is not None
    return found.withdrawn([member[1] for member in members], [member[2] for member in members] if timed else None)


def proven(found: FoundRecords, members: list[FileEntry]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Return which members the journal index holds as proven in the state the tree says."""
    sizes = [member[1] for member in members]
    timed = bool(members) and members[0][2] is not None
    mask = found.proven(sizes, [member[2] for member in members] if timed else None)
    return np.asarray(mask, dtype=np.bool_)


def _mark_files(root: Root, paths: Sequence[str]) -> list[int]:
    """Return the mark of each file's state, 0 where it cannot be looked at or is no regular file."""
    marks = []
    for status in root.statuses(paths):
        if isinstance(status, OSError) or not stat.S_ISREG(status.st_mode):
            marks.append(0)
        else:
            state = FileState.of(status)
            marks.append(mark_state(state.size, state.mtime_ns, state.ctime_ns, state.inode))
    return marks
