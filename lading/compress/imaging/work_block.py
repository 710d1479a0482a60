"""The work of one imaging unit: a superblock of shards, its next level, and the proof.

Input: an open reader (or the level below) and a window. Output: the shard
files of that window.
Invariant: what is compared was decoded from files as they are now and read from
the source a second time, so neither a bit that flipped in memory nor one that
flipped on a disk passes. Memory: four shards of the source, two of the next
level and what is being encoded or compared, whatever the size of the image.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lading.compress.buffers import POISON, poison_fill, scratch_buffer
from lading.compress.destination import Destination
from lading.compress.imaging import ome_zarr as omezarr
from lading.compress.imaging.ome_zarr import OmeZarrLayout
from lading.compress.imaging.pyramid import halve_window, mean_halved
from lading.compress.imaging.volume import Array, Shape, VolumeReader, Window
from lading.compress.job import VerificationFailed, digest, new_digest
from lading.compress.read_back import ReadBack

# Shards of the source in memory at a time, side by side along x before y.
_SLAB_SHARDS = 4
# Voxels by which the mark of a row is before that of the row above: no tile is narrower in practice.
_MARKED = 128


@dataclass(frozen=True)
class BlockProof:
    """What was compared: the digest of each shard's voxels, by T.C.Z.Y.X in shards, and the files as they were read."""

    digests: dict[str, str] = field(default_factory=dict)
    files: ReadBack = field(default_factory=ReadBack)


@dataclass(frozen=True)
class WorkBlock:
    """A window of one level of the image ``top`` of a place; starts at borders of shards."""

    place: Destination
    top: str
    layout: OmeZarrLayout
    shapes: Sequence[Shape]
    window: Window
    level: int

    def copy_level(self, reader: VolumeReader, *, coarser: bool) -> BlockProof:
        """Write the window from the source, with ``coarser`` also its mean into the next level.

        Raises ``VerificationFailed`` or ``SourceFault``.
        """
        directory = f"{self.top}/{self.level}"
        where = f"{self.place.name}/{directory}"
        dtype = omezarr.level_dtype(self.place, directory)
        coarse = halve_window(self.window)
        mean = _buffer("mean", dtype, coarse) if coarser else None
        down, tall, wide = self.layout.shard
        rows = tall * max(1, _SLAB_SHARDS * wide // self.window.shape[2])
        proof = BlockProof()
        halves: dict[Window, str] = {}
        for slab in _split(self.window, (down, rows, self.window.shape[2])):
            voxels = reader.read(slab, self.level, _marked(dtype, slab, POISON))
            for shard in _split(slab, self.layout.shard):
                block = voxels[shard.inside(slab)]
                omezarr.write_box(self.place, directory, shard, block)
                if mean is not None:
                    mean[halve_window(shard).inside(coarse)] = mean_halved(block)
            voxels = reader.read(slab, self.level, _marked(dtype, slab, ~POISON & 0xFF))
            for shard in _split(slab, self.layout.shard):
                expected = voxels[shard.inside(slab)]
                again = self._check(self.level, shard, expected, proof, "source and output", halved=mean is not None)
                if mean is not None and again is not None:
                    half = halve_window(shard)
                    omezarr.require_equal(again, mean[half.inside(coarse)], where, shard, "mean and level 0")
                    halves[half] = digest(again)
            self.place.drop_cache()
        if mean is not None:
            self._write(self.level + 1, coarse, mean)
            proof.files.extend(self._compare(self.level + 1, coarse, mean).files)
            # What was written was in memory for as long as the rest of the superblock took.
            for half, known in halves.items():
                if digest(np.ascontiguousarray(mean[half.inside(coarse)])) != known:
                    raise VerificationFailed(f"{where}: the mean of {half} changed in memory; run again")
        return proof

    def reduce_level(self) -> BlockProof:
        """Write the window from the level below."""
        directory = f"{self.top}/{self.level}"
        mean = self._mean_below(directory)
        self._write(self.level, self.window, mean)
        return self._compare(self.level, self.window, self._mean_below(directory))

    def _mean_below(self, directory: str) -> Array:
        below = self.shapes[self.level - 1]
        doubled = Window(
            self.window.t,
            self.window.c,
            *(
                (2 * start, min(2 * end, length))
                for (start, end), length in zip((self.window.z, self.window.y, self.window.x), below[2:])
            ),
        )
        mean = np.empty(self.window.shape, omezarr.level_dtype(self.place, directory))
        for shard in _split(doubled, self.layout.shard):
            block = self._read(self.level - 1, shard, mean.dtype)
            mean[halve_window(shard).inside(self.window)] = mean_halved(block)
        return mean

    def _write(self, level: int, window: Window, voxels: Array) -> None:
        for shard in _split(window, self.layout.shard):
            omezarr.write_box(self.place, f"{self.top}/{level}", shard, voxels[shard.inside(window)])

    def _read(self, level: int, shard: Window, dtype: np.dtype[Any], found: ReadBack | None = None) -> Array:
        return omezarr.read_box(self.place, f"{self.top}/{level}", shard, _buffer("shard", dtype, shard), found)

    def _compare(self, level: int, window: Window, voxels: Array) -> BlockProof:
        proof = BlockProof()
        for shard in _split(window, self.layout.shard):
            self._check(level, shard, voxels[shard.inside(window)], proof, "mean and output")
        return proof

    def _check(
        self, level: int, shard: Window, expected: Array, proof: BlockProof, what: str, *, halved: bool = False
    ) -> Array | None:
        """Compare a shard, newly read and decoded, with ``expected``; return the mean of what was decoded if wanted."""
        directory = f"{self.top}/{level}"
        mean = _buffer("again", expected.dtype, halve_window(shard)) if halved else None
        if not omezarr.holds(self.place, directory, shard, expected, proof.files, mean):
            decoded = self._read(level, shard, expected.dtype, proof.files)
            omezarr.require_equal(decoded, expected, f"{self.place.name}/{directory}", shard, what)
            mean = mean_halved(decoded) if halved else None
        # What was decoded equals this. Plane by plane, so that each is side by side, and in the cache.
        state = new_digest()
        for plane in expected:
            state.update(np.ascontiguousarray(plane))
        proof.digests[self._name(shard)] = state.hexdigest()
        return mean

    def _name(self, shard: Window) -> str:
        """Return T.C.Z.Y.X of a shard, counted in shards."""
        starts = (start // size for (start, _), size in zip((shard.z, shard.y, shard.x), self.layout.shard))
        return ".".join(map(str, (shard.t, shard.c, *starts)))


def _split(window: Window, step: Sequence[int]) -> Iterator[Window]:
    """Yield the parts of ``window`` in steps of ``step`` voxels from its start, z slowest."""
    ranges = [
        [(start, min(start + size, end)) for start in range(begin, end, size)]
        for (begin, end), size in zip((window.z, window.y, window.x), step)
    ]
    for z, y, x in itertools.product(*ranges):
        yield Window(window.t, window.c, z, y, x)


def _marked(dtype: np.dtype[Any], slab: Window, mark: int) -> Array:
    """Return memory for a slab, marked otherwise for each reading: no reader's gap compares equal with itself.

    Every row has a mark, and every few rows have one wherever a tile may be; more would take as long as the reading.
    """
    memory, width = _buffer("slab", dtype, slab), slab.shape[2]
    poison_fill(memory.reshape(-1), mark, min(width, max(_MARKED, width - _MARKED)))
    return memory


def _buffer(role: str, dtype: np.dtype[Any], window: Window) -> Array:
    return scratch_buffer(role, dtype, window.shape)
