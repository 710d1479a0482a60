"""A dry run: what the run would send, what it would read to compare, and what is there.

Input: an inventory and the bucket's listing. Output: one line per object on
stdout and the sums on stderr, or the sums alone as JSON.
Invariant: reads the tree, the journals and the listing; writes nothing, reads
no file of the release. What the listing shows to be missing, or to have
another size, is what the run sends; what has the file's size the run reads
first. Memory: 17 bytes an object that is not verified yet.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lading.core.command_line import printable
from lading.core.errors import LadingError
from lading.core.progress import Progress, counted, format_bytes, format_count
from lading.journal.index_rows import Hashes, hash_keys
from lading.journal.journal_index import JournalIndex
from lading.objectstore.keys import KeyMap
from lading.objectstore.listing import list_objects
from lading.objectstore.object_info import ObjectInfo
from lading.objectstore.target import Target
from lading.plan.object_settings import ObjectSettings
from lading.plan.objects import PlannedObjects
from lading.plan.planned_object import PlannedObject
from lading.tree.coverage import describe_gap, describe_rest, encode_coverage
from lading.upload.engines.base import UploadTask
from lading.upload.engines.s5cmd import command_line
from lading.upload.prepare import choose_type
from lading.upload.upload_launch import look

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore

GROUP = 10_000  # listed objects at a time
MISSING, DIFFERENT, TO_READ, EQUAL = range(4)
REFUSED = "the bucket holds another object under its key, and --no-overwrite was given"
_EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@dataclass
class Sum:
    """Some objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one."""
        self.objects += 1
        self.bytes += size

    def __str__(self) -> str:
        return f"{counted(self.objects, 'object')}, {format_bytes(self.bytes)}"


@dataclass
class Preview:
    """What the run would do; ``looked`` is False where the bucket could not be listed.

    missing    not in the bucket, so sent
    different  there with another size, so sent
    to_read    there with its size: read, compared, and sent if it differs
    equal      there and equal, which no reading is needed to tell
    verified   by earlier runs
    refused    more than the server holds in one object, or another object that may not be overwritten
    """

    missing: Sum = field(default_factory=Sum)
    different: Sum = field(default_factory=Sum)
    to_read: Sum = field(default_factory=Sum)
    equal: Sum = field(default_factory=Sum)
    verified: int = 0
    refused: int = 0
    looked: bool = True

    def by_state(self) -> dict[int, Sum]:
        """Return the sums by what the listing says."""
        return {MISSING: self.missing, DIFFERENT: self.different, TO_READ: self.to_read, EQUAL: self.equal}

    @property
    def sent(self) -> Sum:
        """What is sent whatever the reading comes to."""
        return Sum(self.missing.objects + self.different.objects, self.missing.bytes + self.different.bytes)

    def describe(self) -> str:
        """Return the line that ends a dry run."""
        if not self.looked:
            return f"would send at most {self.sent}; the bucket was not listed; nothing was sent"
        parts = [
            f"{format_count(self.missing.objects)} missing, {format_count(self.different.objects)} of another size"
        ]
        text = f"would send {self.sent} ({parts[0]})"
        if self.to_read.objects:
            text += f"; would read {self.to_read} that are in the bucket with their size, and send those that differ"
        if self.equal.objects:
            text += f"; {format_count(self.equal.objects)} are in the bucket and equal"
        return f"{text}; nothing was sent"


class Known:
    """The objects that are not verified, and what the listing says of each."""

    def __init__(self, hashes: Hashes, sizes: NDArray[np.int64], rejected: dict[str, tuple[str, str]]) -> None:
        order = np.argsort(hashes)
        self._hashes, self._sizes, self._rejected = hashes[order], sizes[order], rejected
        self._states = np.full(len(order), MISSING, np.uint8)
        self._places = np.empty(len(order), np.int64)
        self._places[order] = np.arange(len(order))

    def see(self, listed: Iterable[ObjectInfo]) -> None:
        """Take a listing, in any order."""
        rest = iter(listed)
        while len(self._hashes) and (group := list(islice(rest, GROUP))):
            hashed = hash_keys(info.key for info in group)
            at = np.minimum(np.searchsorted(self._hashes, hashed), len(self._hashes) - 1)
            for position in np.flatnonzero(self._hashes[at] == hashed).tolist():
                place = int(at[position])
                self._states[place] = self._judge(group[position], int(self._sizes[place]))

    def _judge(self, info: ObjectInfo, size: int) -> int:
        if info.size != size or self._rejected.get(info.key) == (info.etag, info.modified):
            return DIFFERENT
        return EQUAL if size == 0 and info.etag == _EMPTY_MD5 else TO_READ

    def state(self, number: int) -> int:
        """Return the state of the object at a place of the order in which they were given."""
        return int(self._states[self._places[number]])


class BucketView:
    """Which files of a tree the bucket holds with their size, asked in the order in which they were collected."""

    def __init__(self, keys: KeyMap) -> None:
        self._keys = keys
        self._hashes: list[Hashes] = []
        self._sizes: list[int] = []
        self._known: Known | None = None
        self._next = 0
        self.found = Preview()

    def collect(self, paths: Sequence[str], sizes: Sequence[int], times: Sequence[int] | None) -> NDArray[np.bool_]:
        """Take files to ask about; a ``Judge`` of which none is there."""
        self._hashes.append(hash_keys(self._keys.key(path) for path in paths))
        self._sizes += sizes
        return np.zeros(len(paths), np.bool_)

    def look(self, store: "ObjectStore") -> None:
        """List the bucket; raises ``LadingError`` where that is not possible."""
        hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes])
        self._known = Known(hashes, np.array(self._sizes, np.int64), {})
        self._known.see(list_objects(store, self._keys.roots(), versions=False))

    def __call__(self, paths: Sequence[str], sizes: Sequence[int], times: Sequence[int] | None) -> NDArray[np.bool_]:
        """Return which files are there with their size; a ``Judge``."""
        assert self._known is not None
        there = np.zeros(len(paths), np.bool_)
        sums = self.found.by_state()
        for place, size in enumerate(sizes):
            state = self._known.state(self._next)
            self._next += 1
            sums[state].add(size)
            there[place] = state in (TO_READ, EQUAL)
        return there


def left_items(inventory: PlannedObjects, journal_index: JournalIndex) -> Iterator[PlannedObject]:
    """Yield what is not verified, in the plan's order."""
    for number in range(len(inventory.batches)):
        yield from inventory.unproven(number, journal_index)


def look_at_bucket(inventory: PlannedObjects, journal_index: JournalIndex, store: "ObjectStore") -> Known:
    """Return what the bucket holds of what is not verified; raises ``LadingError`` where it cannot be listed."""
    hashes: list[Hashes] = []
    sizes: list[int] = []
    rejected: dict[str, tuple[str, str]] = {}
    left = left_items(inventory, journal_index)
    while group := list(islice(left, GROUP)):
        hashes.append(hash_keys(item.key for item in group))
        sizes += [item.size for item in group]
        rejected.update({item.key: item.rejected for item in group if item.rejected})
    known = Known(np.concatenate([np.empty(0, np.uint64), *hashes]), np.array(sizes, np.int64), rejected)
    known.see(list_objects(store, inventory.keys.roots(), versions=False))
    return known


def make_task(item: PlannedObject, objects: ObjectSettings) -> UploadTask:
    """Return the task that the run would make of an object, its file not looked at."""
    kind, wanted = choose_type(objects, item.path), objects.attributes(item.path)
    return UploadTask(item.local, item.key, item.size, item.mtime or 0, kind, None, wanted)


def run_dry(
    inventory: PlannedObjects,
    target: Target,
    *,
    as_json: bool = False,
    looks: str = "auto",
    objects: ObjectSettings | None = None,
) -> int:
    """Print what would be done with each object that is not verified; returns 0.

    ``looks``: whether verified files are looked at for changes, as the run does.
    Raises ``ConsistencyError`` when the journals are of another bucket.
    """
    from lading.objectstore.client import open_for_reading  # here: a run loads it while the first files are read

    journal_index = JournalIndex(inventory.journal)
    journal_index.check(str(inventory.place), target.endpoint)
    inventory.doubt(look(looks, inventory, journal_index))
    inventory.audit(journal_index)
    found = Preview()
    known: Known | None = None
    try:
        with Progress("dry run") as progress:
            progress.show("listing the bucket")
            known = look_at_bucket(inventory, journal_index, open_for_reading(target))
    except LadingError as error:
        found.looked = False
        print(f"note: the bucket cannot be listed: {printable(str(error))}", file=sys.stderr)
    sums = found.by_state()
    for number, item in enumerate(left_items(inventory, journal_index)):
        fault = inventory.capacity.object_fault(item.size)
        if fault:
            found.refused += 1
            print(f"not sent: {printable(item.path)}: {fault}", file=sys.stderr)
            continue
        state = known.state(number) if known else MISSING
        if state == DIFFERENT and target.no_overwrite:
            found.refused += 1
            print(f"not sent: {printable(item.path)}: {REFUSED}", file=sys.stderr)
            continue
        sums[state].add(item.size)
        if as_json or state == EQUAL:
            continue
        task = make_task(item, objects or ObjectSettings())
        line = command_line(task, task.path, target.bucket, target.manner)
        print(f"# read first, it is there with this size: {line}" if state == TO_READ else line)
    found.verified = inventory.files - sum(part.objects for part in sums.values()) - found.refused
    if as_json:
        crawl = encode_coverage(inventory.coverage)
        sent = asdict(found.sent)
        print(json.dumps({"format": 1, "kind": "rehearsal", **sent, **asdict(found), "crawl": crawl}))
    if gap := describe_gap(inventory.coverage, printable):
        print(f"incomplete: {gap}", file=sys.stderr)
    if rest := describe_rest(inventory.coverage, printable):
        print(f"note: in no batch, so not in the bucket: {rest}", file=sys.stderr)
    print(found.describe(), file=sys.stderr)
    return 0
