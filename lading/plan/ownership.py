"""Which files a batch holds: the one place that turns a plan's entries into files.

Input: a plan and the tree it was cut from. Output: per batch, its files.
Invariant: the entry nearest to a file decides. ``dir/`` claims a subtree
except what another entry of the plan claims inside it; of two entries for
the same nodes the later batch wins. So every selected file belongs to at
most one batch, and a batch stays a short list.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from pathlib import Path

from lading.core.errors import ConsistencyError, UsageError
from lading.core.progress import counted
from lading.plan.batch_plan import Batch, Plan
from lading.plan.spans import find_span
from lading.tree.coverage import UNKNOWN, Coverage, make_coverage
from lading.tree.json_reader import TreeReader, read_tree
from lading.tree.metadata_file import open_metadata
from lading.tree.not_regular import NotRegular
from lading.tree.size_tree import DIRECTORY, FILE, FlatTree, TreeMeta, Unreadable, meta_path, read_meta
from lading.tree.tree_index import TreeIndex

# (path relative to the plan's root, bytes, nanoseconds since 1970 or None in a tree without times)
FileEntry = tuple[str, int, int | None]
# Nodes [first, last) of a tree and the number of the batch that claims them.
Span = tuple[int, int, int]


def load_tree(plan: Plan, directory: Path, read: TreeReader = read_tree) -> FlatTree:
    """Return the tree that ``plan``, found in ``directory``, was cut from; ``read`` is how a tree is read.

    Raises ``UsageError`` when the tree is missing or damaged, ``ConsistencyError``
    when it is not the one the plan was made from. A tree of equal bytes is, whatever path it was crawled by.
    """
    path = directory / str(plan.settings.get("tree", "find.json"))
    found = read(path)
    if found.sha256 != plan.settings.get("tree_sha256"):
        raise ConsistencyError(
            f"{path} is not the tree that the plan was made from: it changed since; run: make batch.json"
        )
    return found.tree


def expand(
    plan: Plan, directory: Path, batches: Iterable[Batch] | None = None
) -> Iterator[tuple[Batch, Iterator[FileEntry]]]:
    """Yield (batch, its files) for the chosen batches, by default all, in the order given.

    ``directory`` is where batch.json lies. The files come in canonical order
    as (path, size, mtime_ns or None), paths relative to ``plan.root``; their
    iterator is good until the next batch is asked for or later. Memory: the
    tree's arrays (41 bytes an entry).

    Raises as ``load_tree`` does, and ``ConsistencyError`` from a batch's iterator
    when its files do not sum to what the plan says.
    """
    tree = load_tree(plan, directory)
    members = BatchFiles(tree, plan)
    numbers = {batch.id: number for number, batch in enumerate(plan.batches)}
    for batch in plan.batches if batches is None else batches:
        if batch.id not in numbers:
            raise ConsistencyError(f"batch {batch.id} is not in the plan; run: make batch.json")
        yield batch, _checked(batch, members.files(numbers[batch.id]))


def _checked(batch: Batch, files: Iterator[FileEntry]) -> Iterator[FileEntry]:
    count = size = 0
    for member in files:
        count += 1
        size += member[1]
        yield member
    if (count, size) != (batch.files, batch.size):
        raise ConsistencyError(
            f"batch {batch.id} holds {counted(count, 'file')} of {size} bytes in the tree, "
            f"but the plan says {counted(batch.files, 'file')} of {batch.size} bytes; run: make batch.json"
        )


class BatchFiles:
    """The files of each batch of a plan in one tree."""

    def __init__(self, tree: FlatTree, plan: Plan) -> None:
        self._tree = tree
        self._plan = plan
        self._tree_index = tree_index = TreeIndex(tree)
        claims = [
            (*find_span(tree_index, entry), number)
            for number, batch in enumerate(plan.batches)
            for entry in batch.paths
        ]
        excluded = unselected(tree_index, plan.subdir, plan.settings.get("exclude", ()))
        self._owned = owned_spans(claims, excluded)

    def files(self, number: int) -> Iterator[FileEntry]:
        """Yield the files of the batch at a place of the plan."""
        for first, last in self._owned.get(number, ()):
            yield from files_between(self._tree_index, first, last)


def owned_spans(claims: Iterable[Span], excluded: Iterable[tuple[int, int]] = ()) -> dict[int, list[tuple[int, int]]]:
    """Return per batch the disjoint, ascending node ranges that are its own after inner claims took theirs.

    ``claims`` come in the order of the plan; they nest or are disjoint.
    ``excluded`` ranges belong to nobody, whatever claims them.
    """
    ordered = sorted(
        [(first, -last, place, number) for place, (first, last, number) in enumerate(claims) if first < last]
    )
    owned: dict[int, list[tuple[int, int]]] = {}
    excluded_ranges = sorted(excluded)

    def give(first: int, last: int, number: int) -> None:
        """Add [first, last) minus the hidden ranges to a batch."""
        place = max(0, bisect_right(excluded_ranges, (first, first)) - 1)
        while first < last and place < len(excluded_ranges):
            start, stop = excluded_ranges[place]
            if start >= last:
                break
            if stop > first:
                if start > first:
                    _append(owned.setdefault(number, []), first, start)
                first = stop
            place += 1
        if first < last:
            _append(owned.setdefault(number, []), first, last)

    open_claims: list[tuple[int, int]] = []  # (last, batch), outermost first
    position = 0
    for first, minus_last, _, number in ordered:
        while open_claims and open_claims[-1][0] <= first:
            last, owner = open_claims.pop()
            if position < last:
                give(position, last, owner)
                position = last
        if open_claims:
            if -minus_last > open_claims[-1][0]:
                raise ConsistencyError("two entries of the plan overlap; run: make batch.json")
            if position < first:
                give(position, first, open_claims[-1][1])
        position = max(position, first)
        open_claims.append((-minus_last, number))
    while open_claims:
        last, owner = open_claims.pop()
        if position < last:
            give(position, last, owner)
            position = last
    return owned


def _append(spans: list[tuple[int, int]], first: int, last: int) -> None:
    if spans and spans[-1][1] == first:
        spans[-1] = (spans[-1][0], last)
    else:
        spans.append((first, last))


def files_between(tree_index: TreeIndex, first: int, last: int) -> Iterator[FileEntry]:
    """Yield the files among the nodes [first, last), in canonical order."""
    sizes, mtimes = tree_index.tree.sizes, tree_index.tree.mtimes
    for path, node in paths_between(tree_index, first, last):
        yield path, sizes[node], mtimes[node] if mtimes is not None else None


def paths_between(tree_index: TreeIndex, first: int, last: int) -> Iterator[tuple[str, int]]:
    """Yield (path relative to the root, node) of the files among the nodes [first, last), in canonical order."""
    tree = tree_index.tree
    types, ends, name = tree.types, tree.ends, tree.name
    prefixes, stops = _enter(tree_index, first)
    position = first
    while position < last:
        while position >= stops[-1]:
            prefixes.pop(), stops.pop()
        kind = types[position]
        if kind == FILE:
            yield prefixes[-1] + name(position), position
        elif kind == DIRECTORY and position:
            prefixes.append(f"{prefixes[-1]}{name(position)}/")
            stops.append(ends[position])
        position += 1


def _enter(tree_index: TreeIndex, node: int) -> tuple[list[str], list[int]]:
    """Return path prefixes and ends of the directories around ``node``, outermost first."""
    tree = tree_index.tree
    prefixes, stops = [""], [tree.ends[0]]
    at = 0
    while at < node:
        directories = tree_index.listing(at).directories
        place = bisect_right(directories, node) - 1
        if place < 0 or tree.ends[directories[place]] <= node or directories[place] == node:
            break
        at = directories[place]
        prefixes.append(f"{prefixes[-1]}{tree.name(at)}/")
        stops.append(tree.ends[at])
    return prefixes, stops


def selected_directories(tree_index: TreeIndex, subdirs: Sequence[str]) -> list[int]:
    """Return the nodes of the chosen subdirectories, outermost only, in canonical order.

    Raises ``UsageError`` with a line for each that is not in the tree.
    """
    nodes = {subdir: tree_index.directory(subdir) for subdir in subdirs or (".",)}
    lacking = [subdir for subdir, node in nodes.items() if node is None]
    if lacking:
        raise UsageError(
            "\n".join(
                f"the subdirectory {subdir!r} is not in the tree; correct it, or crawl again: rm find.json; make "
                "find.json"
                for subdir in lacking
            )
        )
    chosen: list[int] = []
    for node in sorted(node for node in nodes.values() if node is not None):
        if not chosen or node >= tree_index.tree.ends[chosen[-1]]:
            chosen.append(node)
    return chosen


def unselected(tree_index: TreeIndex, subdirs: Sequence[str], patterns: Sequence[str]) -> list[tuple[int, int]]:
    """Return the ascending, disjoint node ranges that no batch may hold."""
    tree = tree_index.tree
    excluded: list[tuple[int, int]] = []
    position = 0
    exclude = compile_patterns(patterns)
    for node in selected_directories(tree_index, subdirs):
        if position < node:
            excluded.append((position, node))
        position = tree.ends[node]
        if exclude:
            excluded.extend(_excluded(tree_index, node, exclude))
    if position < len(tree):
        excluded.append((position, len(tree)))
    return excluded


def selected_unreadable(
    unreadable: Iterable[Unreadable], subdirs: Sequence[str], patterns: Sequence[str]
) -> list[Unreadable]:
    """Return those of the unreadable paths that a selection would hold had they been read."""
    is_selected = select_paths(subdirs, patterns)
    return [bad for bad in unreadable if is_selected(bad.path)]


def select_paths(subdirs: Sequence[str], patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a test of paths relative to the root: whether a selection would hold what has that path."""
    everything = not subdirs or "." in subdirs
    exclude = compile_patterns(patterns)

    def chosen(path: str) -> bool:
        return everything or any(path == subdir or path.startswith(f"{subdir}/") for subdir in subdirs)

    def excluded(path: str) -> bool:
        parts = path.split("/")
        return exclude is not None and any(
            exclude(name, "/".join(parts[: depth + 1])) for depth, name in enumerate(parts)
        )

    return lambda path: chosen(path) and not excluded(path)


def selected_entries(
    meta: TreeMeta, tree_file: Path, subdirs: Sequence[str], patterns: Sequence[str]
) -> NotRegular | None:
    """Return the counts of what a selection holds that is no regular file; None: all that the crawl found, or unknown.

    Raises ``LadingError`` when the crawl recorded these entries and its file is not there, or another.
    """
    if meta.not_regular is None or not meta.metadata_file or (not patterns and (not subdirs or "." in subdirs)):
        return None
    is_selected = select_paths(subdirs, patterns)
    found = NotRegular()
    file = open_metadata(tree_file.with_name(os.path.basename(meta.metadata_file)), meta.sha256)
    for entry in file.entries(only_special=True):
        if is_selected(entry.path):
            found.add_entry(entry)
    return found


def coverage_of(plan: Plan, directory: Path) -> Coverage:
    """Return what ``plan``, found in ``directory``, leaves behind: as it says itself, else as its tree's meta data say.

    Raises ``UsageError`` when a plan of an earlier edition lies beside damaged meta data.
    """
    if plan.coverage is not None:
        return plan.coverage
    path = meta_path(directory / str(plan.settings.get("tree", "find.json")))
    if not path.exists():
        return UNKNOWN
    meta = read_meta(path)
    if meta.sha256 != plan.settings.get("tree_sha256"):
        return UNKNOWN
    bad = selected_unreadable(meta.unreadable, plan.subdir, plan.settings.get("exclude", ()))
    chosen = selected_entries(meta, path, plan.subdir, plan.settings.get("exclude", ()))
    return make_coverage(meta, bad, meta.links, meta.others, chosen)


def follows_links(plan: Plan, directory: Path) -> bool:
    """Tell whether the files of ``plan``, found in ``directory``, are those that links lead to.

    The plan says so itself, else the meta data of its tree. What is not known
    is no: a link that was recorded is never gone through later.
    """
    if "links" in plan.settings:
        return bool(plan.settings["links"] == "follow")
    path = meta_path(directory / str(plan.settings.get("tree", "find.json")))
    if not path.exists():
        return False
    meta = read_meta(path)
    return meta.sha256 == plan.settings.get("tree_sha256") and bool(meta.settings.get("links") == "follow")


def compile_patterns(patterns: Sequence[str]) -> Callable[[str, str], bool] | None:
    """Return a test of (base name, path), or None when there is no pattern.

    A pattern without a slash is matched against base names at any depth, one
    with a slash against the path relative to the root; ``*`` and ``?`` as in
    ``fnmatch``. An excluded directory takes all below it along.
    """
    by_name = [pattern for pattern in patterns if "/" not in pattern.rstrip("/")]
    by_path = [pattern for pattern in patterns if "/" in pattern.rstrip("/")]
    if not patterns:
        return None
    names = _any_of(pattern.rstrip("/") for pattern in by_name)
    paths = _any_of(pattern.removeprefix("./").strip("/") for pattern in by_path)

    def excluded(name: str, path: str) -> bool:
        return bool((names and names(name)) or (paths and paths(path)))

    return excluded


def _any_of(patterns: Iterable[str]) -> "Callable[[str], re.Match[str] | None] | None":
    joined = "|".join(map(translate, patterns))
    return re.compile(joined).match if joined else None


def _excluded(tree_index: TreeIndex, top: int, exclude: Callable[[str, str], bool]) -> Iterator[tuple[int, int]]:
    tree = tree_index.tree
    types, ends, name = tree.types, tree.ends, tree.name
    top_path = tree_index.path(top)
    prefixes, stops = ["" if top == 0 else top_path], [ends[top]]
    position, stop = top + 1, ends[top]
    while position < stop:
        while position >= stops[-1]:
            prefixes.pop(), stops.pop()
        base = name(position)
        path = prefixes[-1] + base
        if exclude(base, path):
            yield position, ends[position]
            position = ends[position]
            continue
        if types[position] == DIRECTORY:
            prefixes.append(f"{path}/")
            stops.append(ends[position])
        position += 1
