"""Where an entry of a plan is in a tree."""

from bisect import bisect_left, bisect_right

from lading.plan.batch_plan import Entry, NameRange
from lading.tree.tree_index import TreeIndex


def find_span(index: TreeIndex, entry: Entry) -> tuple[int, int]:
    """Return the nodes [first, last) that an entry of a plan covers; an empty range when nothing is left of it."""
    if isinstance(entry, NameRange):
        return _span_of_names(index, entry)
    if entry.endswith("/"):
        node = index.directory(entry)
        return (0, 0) if node is None else (node, index.tree.ends[node])
    parent, _, name = entry.rpartition("/")
    return _span_of_names(index, NameRange(f"{parent}/", name, name))


def _span_of_names(index: TreeIndex, entry: NameRange) -> tuple[int, int]:
    node = index.directory(entry.directory)
    if node is None:
        return 0, 0
    children, name = index.listing(node), index.tree.name
    if entry.of_directories:
        nodes = children.directories
        low = bisect_left(nodes, entry.first[:-1], key=name)
        high = bisect_right(nodes, entry.last[:-1], key=name)
        return (nodes[low], index.tree.ends[nodes[high - 1]]) if low < high else (0, 0)
    files = range(children.first, children.last)
    low = bisect_left(files, entry.first, key=name)
    high = bisect_right(files, entry.last, key=name)
    return (files[low], files[high - 1] + 1) if low < high else (0, 0)
