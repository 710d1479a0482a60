"""Counts a manifest by dataset, then hands out each dataset's rows as soon as they are together.

Input: a manifest and a ``Splitter``. Output: a ``RowGroups`` a dataset; later
the rows of the datasets that are wanted.
Invariant: of a large manifest only rows of wanted, unfinished datasets are in memory.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lading.mirror.split import FixedSplitter, Splitter
from lading.verification.manifest import ManifestRow

# Rows with their path in the dataset, as often as they are asked for.
Rows = Iterable[tuple[str, ManifestRow]]


@dataclass
class RowGroups:
    """What the manifest has of one dataset: objects, bytes, the latest ``uploaded_at``."""

    objects: int = 0
    bytes: int = 0
    newest: str = ""


def count_rows(
    manifest: Iterable[ManifestRow],
    splitter: Splitter,
    only: "re.Pattern[str] | None",
    directories: Collection[str] = (),
    clashes: dict[str, str] | None = None,
) -> dict[str, RowGroups]:
    """Return the survey of every dataset by its path; the superdataset's own files are under "".

    A file whose path is also one of ``directories`` goes to ``clashes``: the
    path, and the dataset that it would be in.
    """
    found: dict[str, RowGroups] = {"": RowGroups()}
    for row in manifest:
        if clashes is not None and row.path in directories:
            clashes[row.path] = splitter.place(row.path).dataset
        if only is not None and not only.search(row.path):
            continue
        dataset = splitter.place(row.path).dataset
        here = found.get(dataset)
        if here is None:
            here = found[dataset] = RowGroups()
        here.objects += 1
        here.bytes += row.size
        if row.uploaded_at > here.newest:
            here.newest = row.uploaded_at
    return found


def group_rows(
    manifest: Iterable[ManifestRow],
    splitter: Splitter | FixedSplitter,
    surveys: Mapping[str, RowGroups],
    wanted: Collection[str],
    only: "re.Pattern[str] | None",
) -> Iterator[tuple[str, Rows]]:
    """Yield (dataset, its rows with their path in it) for every wanted dataset, each once it is whole."""
    waiting: dict[str, list[tuple[str, ManifestRow]]] = {}
    for dataset in sorted(wanted):
        if not surveys[dataset].objects:
            yield dataset, []
    left = {dataset for dataset in wanted if surveys[dataset].objects}
    if not left:
        return
    for row in manifest:
        if only is not None and not only.search(row.path):
            continue
        placement = splitter.place(row.path)
        if placement.dataset not in left:
            continue
        rows = waiting.setdefault(placement.dataset, [])
        rows.append((placement.path, row))
        if len(rows) == surveys[placement.dataset].objects:
            left.discard(placement.dataset)
            yield placement.dataset, waiting.pop(placement.dataset)
