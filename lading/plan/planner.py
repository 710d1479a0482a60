"""From a tree to a plan.

Input: a tree, what is selected of it, the bounds, and what an earlier plan
already proved. Output: batches and the paths of files above the bound.
Invariant: every selected file is in exactly one batch, checked by the very
rules that the reader of the plan applies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lading.core.progress import counted
from lading.plan.batch_plan import Batch, Entry, batch_id
from lading.plan.boundaries import boundary_depths, boundary_hash
from lading.plan.bounds import Bounds, least_count
from lading.plan.entries import EntryBuilder
from lading.plan.history import NOTHING_RETAINED, History, RetainedBatches, find_boundaries, retain_batches
from lading.plan.ownership import owned_spans, selected_directories, unselected
from lading.plan.packing import pack
from lading.plan.spans import find_span
from lading.tree.size_tree import FILE, LINK, OTHER, FlatTree
from lading.tree.tree_index import TreeIndex


@dataclass(frozen=True)
class BatchPlanner:
    """The outcome.

    batches   kept ones first (``kept`` of them), then new ones
    oversize  paths of files above the bound
    files, bytes  what was selected
    least     the least possible number of new batches
    links, others  entries of the selection that no batch holds: links; neither file, directory nor link
    """

    batches: tuple[Batch, ...]
    oversize: tuple[str, ...]
    files: int
    bytes: int
    least: int
    kept: int = 0
    links: int = 0
    others: int = 0


def plan_batches(
    tree: FlatTree, bounds: Bounds, subdirs: Sequence[str], exclude: Sequence[str], history: History | None = None
) -> BatchPlanner:
    """Return the batches of the selected files of ``tree``.

    Raises ``UsageError`` when a subdirectory is not in the tree.
    """
    tree_index = TreeIndex(tree)
    tops = selected_directories(tree_index, subdirs)
    excluded = unselected(tree_index, subdirs, exclude)
    selected = selected_files(tree, excluded)
    all_sizes = np.frombuffer(tree.sizes, dtype=np.int64)
    sizes = all_sizes[selected]
    count, total = len(selected), int(sizes.sum())
    oversize = tuple(tree_index.path(node) for node in selected[sizes > bounds.most].tolist())
    kept = retain_batches(tree_index, history, excluded) if history else NOTHING_RETAINED
    files = selected
    if len(kept.files):
        files = np.setdiff1d(selected, kept.files, assume_unique=True)
        sizes = all_sizes[files]
    del selected
    least = least_count(sizes, bounds)
    del sizes
    batches = [*kept.batches, *_plan_files(tree_index, tops, files, bounds, kept)]
    _check(tree_index, batches, excluded, count, total)
    links, others = (int(count_kind(tree, excluded, kind)) for kind in (LINK, OTHER))
    return BatchPlanner(tuple(batches), oversize, count, total, least, len(kept.batches), links, others)


def _plan_files(
    tree_index: TreeIndex, tops: Sequence[int], files: NDArray[np.int64], bounds: Bounds, kept: RetainedBatches
) -> Iterator[Batch]:
    """Yield batches of ``files`` (ascending nodes, int64, shape (n,))."""
    tree = tree_index.tree
    sizes = np.frombuffer(tree.sizes, dtype=np.int64)[files]
    above = np.flatnonzero(sizes > bounds.most)
    alone = list(zip(files[above].tolist(), sizes[above].tolist()))
    if alone:
        files, sizes = np.delete(files, above), np.delete(sizes, above)

    def tie(place: int) -> int:
        return boundary_hash(tree, int(files[place - 1]), int(files[place]))

    packing = pack(sizes, boundary_depths(tree, files), tie, bounds)
    del sizes
    stream = files[packing.stream] if len(packing.stream) < len(files) else files
    obstacles = find_boundaries(tree_index, kept, stream) if kept.batches else None
    cover = EntryBuilder(tree_index, stream, tops, obstacles)
    for group in packing.groups:
        entries = [entry for low, high in group.runs for entry in cover.entries(low, high)]
        entries += [tree_index.path(int(files[place])) for place in group.singles]
        yield make_batch(entries, group.bytes, group.files)
    for node, size in alone:
        yield make_batch([tree_index.path(node)], size, 1)


def _check(
    tree_index: TreeIndex, batches: Sequence[Batch], excluded: Sequence[tuple[int, int]], count: int, total: int
) -> None:
    """Assert that the entries mean what was packed: the reader's rules give each batch its files and its bytes."""
    tree = tree_index.tree
    claims = [(*find_span(tree_index, entry), number) for number, batch in enumerate(batches) for entry in batch.paths]
    owned = owned_spans(claims, excluded)
    is_file = np.frombuffer(tree.types, dtype=np.int8) == FILE
    sizes = np.frombuffer(tree.sizes, dtype=np.int64)
    for number, batch in enumerate(batches):
        spans = owned.get(number, ())
        files = sum(int(np.count_nonzero(is_file[first:last])) for first, last in spans)
        size = sum(int(sizes[first:last].sum(where=is_file[first:last])) for first, last in spans)
        assert (files, size) == (batch.files, batch.size), (
            f"batch {batch.id}: {counted(files, 'file')} of {size} bytes, {batch}"
        )
    assert (sum(batch.files for batch in batches), sum(batch.size for batch in batches)) == (count, total)
    assert len({batch.id for batch in batches}) == len(batches)


def make_batch(paths: Sequence[Entry], size: int, files: int) -> Batch:
    """Return a batch with the id of its entries."""
    return Batch(batch_id(paths), size, files, tuple(paths))


def count_kind(tree: FlatTree, excluded: Sequence[tuple[int, int]], kind: int) -> int:
    """Return how many nodes of a kind lie outside the ``excluded`` ranges."""
    types = np.frombuffer(tree.types, dtype=np.int8)
    whole = np.count_nonzero(types == kind)
    return int(whole - sum(np.count_nonzero(types[first:last] == kind) for first, last in excluded))


def selected_files(tree: FlatTree, excluded: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the nodes of the files outside the ``excluded`` ranges, ascending, int64, shape (n,)."""
    chosen = np.frombuffer(tree.types, dtype=np.int8) == FILE
    for first, last in excluded:
        chosen[first:last] = False
    return np.flatnonzero(chosen)
