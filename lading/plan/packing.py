"""Decide which files travel together.

Input: sizes of the selected files in canonical order, how good a cut before
each is, and the bounds. Output: groups of files: contiguous runs and single
files.
Invariant: every file is in exactly one group; no group is above a bound; a
group below the least size fits together with no other.

Files above a quarter of the bound go into bins by best fit, largest first.
The others form one stream in canonical order. It is cut into runs that fill
the bins' rooms and then whole batches. A run ends where it is full, or a
little earlier at the shallowest directory boundary: as much earlier as the
least number of batches leaves room for.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lading.plan.bounds import Bounds, least_count
from lading.plan.gap_fillers import GapFillers

# Single files are looked for when a batch has more than this share of its bound left.
MIN_FILLED_SHARE = 500
# How small a single file may be: as a share of the bound.
MIN_NAMED_SHARE = 1000
MOST_SINGLES = 4
# One batch in a hundred may be spent on better boundaries.
SLACK_RATIO = 100
# Ties are broken among at most as many boundaries.
MOST_TIES = 1024


@dataclass
class FileGroup:
    """Files of one batch: ``runs`` of places [low, high) in the stream, ``singles`` places in the sizes given."""

    bytes: int = 0
    files: int = 0
    singles: list[int] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Packing:
    """Groups over ``stream`` (places of its files in the sizes given, ascending; singles excepted)."""

    groups: list[FileGroup]
    stream: NDArray[np.int32]


def pack(
    sizes: NDArray[np.int64],
    depths: NDArray[np.int32],
    tie: Callable[[int], int],
    bounds: Bounds,
) -> Packing:
    """Group files of ``sizes`` (int64, shape (n,), none above ``bounds.most``).

    ``depths`` is the depth of the boundary before each file (int32, shape
    (n,)), ``tie`` maps a place to a hash that decides between equal depths.
    """
    big = sizes > bounds.most // 4
    bins = best_fit(np.flatnonzero(big), sizes, bounds)
    stream = np.flatnonzero(~big).astype(np.int32) if bins else np.arange(len(sizes), dtype=np.int32)
    cutter = _Cutter(sizes, stream, depths, tie, bounds)
    return Packing(merge_small(cutter.fill(bins), bounds), cutter.remaining())


def best_fit(places: NDArray[np.int64], sizes: NDArray[np.int64], bounds: Bounds) -> list[FileGroup]:
    """Return bins for the files at ``places``, largest first, each into the fullest bin that has room."""
    order = places[np.argsort(-sizes[places], kind="stable")]
    bins: list[FileGroup] = []
    rooms: list[tuple[int, int]] = []  # (room, bin), ascending
    for place in order.tolist():
        size = int(sizes[place])
        found = bisect_left(rooms, (size, -1))
        if found < len(rooms):
            _, number = rooms.pop(found)
        else:
            number = len(bins)
            bins.append(FileGroup())
        group = bins[number]
        group.singles.append(place)
        group.bytes += size
        group.files += 1
        room = bounds.most - group.bytes
        # Every file here is above a quarter of the bound: less room than that is of no use to another.
        if room > bounds.most // 4 and group.files < bounds.file_room:
            insort(rooms, (room, number))
    for group in bins:
        group.singles.sort()
    bins.sort(key=lambda group: group.singles[0])
    return bins


class _Cutter:
    """Cuts the stream into the rooms of bins and whole batches, in one pass."""

    def __init__(
        self,
        sizes: NDArray[np.int64],
        stream: NDArray[np.int32],
        depths: NDArray[np.int32],
        tie: Callable[[int], int],
        bounds: Bounds,
    ) -> None:
        self._bounds = bounds
        self._stream = stream
        self._tie = tie
        self._sizes, self._depths = sizes, depths
        if len(stream) < len(sizes):
            self._sizes = sizes[stream]
            # A boundary in the stream is as shallow as the shallowest one since its file before.
            self._depths = np.minimum.reduceat(depths, _starts(stream)) if len(stream) else depths[:0]
        self._total = np.zeros(len(stream) + 1, dtype=np.int64)
        np.cumsum(self._sizes, out=self._total[1:])
        self._pool = GapFillers(self._sizes, bounds.most // MIN_NAMED_SHARE)
        self._taken: list[int] = []  # places ahead that singles took, ascending
        self._gone: list[int] = []  # all of them
        self._cursor = 0
        self._bytes_left = int(sizes.sum())
        self._files_left = len(sizes)
        least = least_count(sizes, bounds)
        self._batches_left = least + least // SLACK_RATIO

    def remaining(self) -> NDArray[np.int32]:
        """Return the places of the stream without the singles; runs are over these."""
        return np.delete(self._stream, self._gone) if self._gone else self._stream

    def fill(self, bins: list[FileGroup]) -> list[FileGroup]:
        """Return all groups: the bins with what fits beside, then or between them whole batches."""
        groups: list[FileGroup] = []
        most, count = self._bounds.most, len(self._stream)
        self._batches_left = max(self._batches_left, len(bins))
        room = sum(most - group.bytes for group in bins)
        waiting = iter(bins)
        following = next(waiting, None)
        while True:
            self._skip_taken()
            if self._cursor >= count:
                break
            stream_left = int(self._total[-1] - self._total[self._cursor]) - self._sum_taken(count)
            if following and (stream_left <= room or following.singles[0] < self._stream[self._cursor]):
                group, following = following, next(waiting, None)
                room -= most - group.bytes
                # A bin that is as good as full is left alone: its batch stays a list of single files.
                if most - group.bytes > most // MIN_FILLED_SHARE or group.bytes < self._bounds.least:
                    self._extend(group)
            else:
                group = FileGroup()
                self._extend(group)
            groups.append(group)
            self._batches_left -= 1
            self._bytes_left -= group.bytes
            self._files_left -= group.files
        if following:
            groups += [following, *waiting]
        # Runs count places of the stream; without the singles they move up.
        gone = np.array(sorted(self._gone), dtype=np.int64)
        for group in groups:
            group.runs = [
                (low - int(np.searchsorted(gone, low)), high - int(np.searchsorted(gone, high)))
                for low, high in group.runs
            ]
            group.runs = [(low, high) for low, high in group.runs if low < high]
        return groups

    def _skip_taken(self) -> None:
        while self._taken and self._taken[0] == self._cursor:
            self._taken.pop(0)
            self._cursor += 1

    def _sum_taken(self, stop: int) -> int:
        """Return the bytes of singles between the cursor and ``stop``."""
        if not self._taken:
            return 0
        return int(self._sizes[self._taken[: bisect_left(self._taken, stop)]].sum())

    def _reach(self, size: int, side: str = "right") -> int:
        """Return how far a run of ``size`` bytes from the cursor goes, over singles that were taken."""
        total, start = self._total, int(self._total[self._cursor])
        skipped = 0
        while True:
            if side == "right":
                stop = int(np.searchsorted(total, start + skipped + size, side="right")) - 1
            else:
                stop = int(np.searchsorted(total, start + skipped + size, side="left"))
            more = self._sum_taken(stop)
            if more == skipped:
                return min(stop, len(self._stream))
            skipped = more

    def _allowance(self) -> tuple[int, int]:
        """Return how many bytes and files this batch may leave empty without costing a batch in the end."""
        left = max(1, self._batches_left)
        by_bytes = left * self._bounds.most - self._bytes_left
        by_files = left * self._bounds.file_room - self._files_left
        return max(0, by_bytes) // left, max(0, by_files) // left

    def _extend(self, group: FileGroup) -> None:
        """Add a run from the cursor to a group, and single files where much room is left."""
        bounds = self._bounds
        spare_bytes, spare_files = self._allowance()
        room, file_room = bounds.most - group.bytes, bounds.file_room - group.files
        low = self._cursor
        high = min(self._reach(room), self._nth(file_room))
        empty = room - self._run_bytes(high)
        if low < high < len(self._stream):
            high = self._best_cut(group, high, spare_bytes - empty, spare_files)
        if low < high:
            size = self._run_bytes(high)
            group.runs.append((low, high))
            group.bytes += size
            group.files += high - low - bisect_left(self._taken, high)
            self._cursor = high
            del self._taken[: bisect_left(self._taken, high)]
            self._pool.pass_by(high)
        self._add_singles(
            group, min(empty, bounds.most - group.bytes), max(spare_bytes, bounds.most // MIN_FILLED_SHARE)
        )

    def _nth(self, files: int) -> int:
        """Return where a run of that many files from the cursor ends."""
        if files >= len(self._stream):
            return len(self._stream)
        stop = self._cursor + files
        while True:
            wanted = self._cursor + files + bisect_left(self._taken, stop)
            if wanted == stop:
                return min(stop, len(self._stream))
            stop = wanted

    def _run_bytes(self, high: int) -> int:
        return int(self._total[high] - self._total[self._cursor]) - self._sum_taken(high)

    def _best_cut(self, group: FileGroup, high: int, spare_bytes: int, spare_files: int) -> int:
        """Return the shallowest boundary that leaves at most the spare bytes and files empty."""
        if spare_bytes <= 0:
            return high
        least = max(self._run_bytes(high) - spare_bytes, self._bounds.least - group.bytes, 0)
        low = max(self._reach(least, "left"), high - spare_files, self._cursor + 1)
        if low >= high:
            return high
        window = self._depths[low : high + 1]
        ties = np.flatnonzero(window == window.min())[-MOST_TIES:]
        if len(ties) == 1:
            return low + int(ties[0])
        choices = [(self._tie(int(self._stream[low + place])), -place) for place in ties.tolist()]
        return low - int(min(choices)[1])

    def _add_singles(self, group: FileGroup, room: int, worth: int) -> None:
        for _ in range(MOST_SINGLES):
            if room <= worth or group.files >= self._bounds.file_room:
                return
            place = self._pool.take(room, self._bounds.most // MIN_NAMED_SHARE)
            if place is None:
                return
            size = int(self._sizes[place])
            insort(self._taken, place)
            self._gone.append(place)
            group.singles.append(int(self._stream[place]))
            group.bytes += size
            group.files += 1
            room -= size


def _starts(stream: NDArray[np.int32]) -> NDArray[np.int64]:
    starts = np.empty(len(stream), dtype=np.int64)
    starts[0], starts[1:] = 0, stream[:-1] + 1
    return starts


def merge_small(groups: list[FileGroup], bounds: Bounds) -> list[FileGroup]:
    """Put each group below the least size into the fullest other one that has room for it."""
    sizes = np.array([group.bytes for group in groups], dtype=np.int64)
    files = np.array([group.files for group in groups], dtype=np.int64)
    gone = np.zeros(len(groups), dtype=bool)
    small = np.flatnonzero(sizes < bounds.least)
    for number in small[np.argsort(sizes[small], kind="stable")].tolist():
        if sizes[number] >= bounds.least:
            continue
        fits = ~gone & (sizes <= bounds.most - sizes[number]) & (files <= bounds.file_room - files[number])
        fits[number] = False
        hosts = np.flatnonzero(fits)
        if len(hosts):
            other = int(hosts[np.argmax(sizes[hosts])])
            host, group = groups[other], groups[number]
            host.bytes += group.bytes
            host.files += group.files
            host.singles += group.singles
            host.runs += group.runs
            sizes[other], files[other] = host.bytes, host.files
            gone[number] = True
    return [group for group, merged in zip(groups, gone.tolist()) if not merged]
