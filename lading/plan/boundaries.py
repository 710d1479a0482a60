"""How good a place between two files is for a cut.

Input: a tree and its selected files in canonical order. Output: per file the
depth of the directory that holds both it and the file before it.
Invariant: 0 is a boundary between two children of the root; a cut there
keeps most siblings together.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from lading.tree.size_tree import DIRECTORY, FlatTree

PIECE = 1 << 20


def node_depths(tree: FlatTree) -> NDArray[np.int32]:
    """Return the depth of each node, the root's is 0: int32, shape (n,)."""
    count = len(tree)
    directories = np.flatnonzero(np.frombuffer(tree.types, dtype=np.int8) == DIRECTORY)
    # Entering a directory is one deeper, its end is as many shallower as directories end there.
    step = np.zeros(count + 1, dtype=np.int32)
    step[directories + 1] = 1
    ends = np.frombuffer(tree.ends, dtype=np.int64)[directories]
    ends.sort()
    first = np.flatnonzero(np.diff(ends, prepend=-1))
    step[ends[first]] -= np.diff(first, append=len(ends)).astype(np.int32)
    return np.cumsum(step[:count], dtype=np.int32, out=step[:count])


def boundary_depths(tree: FlatTree, files: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return, for each of ``files`` (ascending nodes), the depth of the directory it shares with the one before.

    Shape and order of ``files``, int32. In depth-first order the lowest
    common ancestor of two leaves is the parent of the shallowest node behind
    the first up to the second.
    """
    if not len(files):
        return np.zeros(0, dtype=np.int32)
    depths = node_depths(tree)
    shared = np.empty(len(files), dtype=np.int32)
    # In pieces, so that the starts of all segments need not be held at once.
    for low in range(0, len(files), PIECE):
        piece = files[low : low + PIECE]
        first = int(files[low - 1]) + 1 if low else 0
        starts = np.concatenate([[0], piece[:-1] + 1 - first])
        shared[low : low + PIECE] = np.minimum.reduceat(depths[first : int(piece[-1]) + 1], starts)
    shared -= 1
    return shared


def boundary_hash(tree: FlatTree, before: int, after: int) -> int:
    """Return a hash of the names between two file nodes: what a cut there depends on when depths tie.

    It knows nothing of positions or sizes, so the same cut wins again after a
    change elsewhere in the tree.
    """
    return zlib.crc32(tree.names[tree.offsets[before + 1] : tree.offsets[after + 1]])
