"""What an earlier plan keeps when the tree is cut again.

Input: the earlier plan, a judge of what is proven, the new tree. Output: the
batches that stay, and which files of the new tree are theirs.
Invariant: a batch that holds a proven file keeps its id and its entries, and
every file that is proven in its present state (size, and time where the tree
has it) stays with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lading.plan.batch_plan import Batch, Plan
from lading.plan.entries import Boundaries
from lading.plan.ownership import owned_spans, paths_between
from lading.plan.spans import find_span
from lading.tree.tree_index import TreeIndex

# (paths relative to the root, sizes, times in ns or None) → which are proven in this state
IsVerified = Callable[[Sequence[str], Sequence[int], Sequence[int] | None], NDArray[np.bool_]]

# Files asked about at once.
GROUP = 100_000


@dataclass(frozen=True)
class History:
    """An earlier plan and a judge of what of it is proven."""

    plan: Plan
    judge: IsVerified


@dataclass(frozen=True)
class RetainedBatches:
    """Batches that stay, with the size they have now, and their files: ascending nodes, int64."""

    batches: tuple[Batch, ...]
    files: NDArray[np.int64]


NOTHING_RETAINED = RetainedBatches((), np.zeros(0, dtype=np.int64))


def retain_batches(tree_index: TreeIndex, history: History, excluded: Sequence[tuple[int, int]]) -> RetainedBatches:
    """Return what stays of a plan; ``excluded`` node ranges are not selected any more."""
    tree, plan = tree_index.tree, history.plan
    claims = [
        (*find_span(tree_index, entry), number) for number, batch in enumerate(plan.batches) for entry in batch.paths
    ]
    owned = owned_spans(claims, excluded)
    batches: list[Batch] = []
    files: list[NDArray[np.int64]] = []
    for number, batch in enumerate(plan.batches):
        found = [item for first, last in owned.get(number, ()) for item in paths_between(tree_index, first, last)]
        if not found:
            continue
        nodes = np.array([node for _, node in found], dtype=np.int64)
        sizes = np.frombuffer(tree.sizes, dtype=np.int64)[nodes]
        proven = _ask(tree_index, history.judge, found, nodes)
        if not proven.any():
            continue
        if (len(nodes), int(sizes.sum())) == (batch.files, batch.size):
            # Half sent and, as far as count and bytes tell, as it was: the rest travels where it was to travel.
            proven[:] = True
        batches.append(Batch(batch.id, int(sizes[proven].sum()), int(proven.sum()), batch.paths))
        files.append(nodes[proven])
    return RetainedBatches(tuple(batches), np.sort(np.concatenate(files)) if files else NOTHING_RETAINED.files)


def unproven(tree_index: TreeIndex, files: NDArray[np.int64], judge: IsVerified) -> NDArray[np.int64]:
    """Return those of ``files`` (ascending nodes) that are not proven in their present state."""
    tree = tree_index.tree
    wanted = np.zeros(len(tree), dtype=bool)
    wanted[files] = True
    chosen: list[NDArray[np.int64]] = [NOTHING_RETAINED.files]
    walk = ((path, node) for path, node in paths_between(tree_index, 0, len(tree)) if wanted[node])
    while group := list(islice(walk, GROUP)):
        nodes = np.array([node for _, node in group], dtype=np.int64)
        chosen.append(nodes[~_ask(tree_index, judge, group, nodes)])
    return np.concatenate(chosen)


def _ask(
    tree_index: TreeIndex, judge: IsVerified, found: Sequence[tuple[str, int]], nodes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    tree = tree_index.tree
    sizes = np.frombuffer(tree.sizes, dtype=np.int64)[nodes].tolist()
    times = None if tree.mtimes is None else np.frombuffer(tree.mtimes, dtype=np.int64)[nodes].tolist()
    return judge([path for path, _ in found], sizes, times)


def find_boundaries(tree_index: TreeIndex, kept: RetainedBatches, stream: NDArray[np.int64]) -> Boundaries:
    """Return what entries for ``stream`` (ascending file nodes) must not reach over.

    An entry of a kept batch below which no file of the stream lies is no
    obstacle: it wins over an entry around it, and shall.
    """
    spans = {find_span(tree_index, entry) for batch in kept.batches for entry in batch.paths}
    held = np.ones(len(kept.files), dtype=bool)
    edges: set[int] = set()
    for first, last in spans:
        if first < last:
            low, high = np.searchsorted(stream, [first, last])
            if low < high:
                edges.update((first, last))
            else:
                low, high = np.searchsorted(kept.files, [first, last])
                held[low:high] = False
    return Boundaries(kept.files[held], np.array(sorted(edges), dtype=np.int64))
