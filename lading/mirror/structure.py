"""Which datasets a mirror has after a run, what kind each is, and which dataset links it.

Input: the manifest's rows, the records of the last update and the settings.
Output: a ``Structure``.
Invariant: it depends on the rows alone once they are whole; where they are
not, no dataset of the last update goes, and none takes another one's files. Each
dataset is linked by the nearest one above it, so every file of the manifest
is reached from the superdataset by one chain of links; ``check`` says so
before anything is written.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice

from lading.core.errors import ConsistencyError
from lading.core.progress import counted
from lading.mirror.git.portable_names import unfit
from lading.mirror.group_rows import RowGroups, Rows, count_rows, group_rows
from lading.mirror.source import ManifestSource
from lading.mirror.split import FixedSplitter, Splitter, find_landmarks, link_parents, parents_of, unreachable
from lading.mirror.superdataset import DatasetRecord
from lading.verification.manifest import ManifestRow

_MOST_SHOWN = 20


@dataclass(frozen=True)
class Rule:
    """How rows become datasets.

    ``split_by``, ``only`` (the asset filter) and ``max_removed`` are of the
    settings; ``whole`` tells of a path whether the rows below it are all there is.
    """

    split_by: str
    only: "re.Pattern[str] | None"
    whole: Callable[[str], bool]
    max_removed: float = 1.0


@dataclass
class Structure:
    """The datasets of one run by their path ("" is the superdataset).

    ``kinds`` are all that the superdataset leads to; ``surveys`` what the
    manifest has of each; ``links`` the dataset that links it; ``vanished``
    what of the last update goes; ``refused`` what would go, and why not;
    ``clashes`` paths that are a file and a directory, with the file's dataset.
    """

    splitter: Splitter | FixedSplitter
    surveys: dict[str, RowGroups]
    kinds: dict[str, str]
    links: dict[str, str]
    clashes: dict[str, str]
    vanished: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def children(self) -> dict[str, list[str]]:
        """Return the datasets that each dataset links."""
        return children_of(self.links)

    def levels(self) -> Iterator[list[str]]:
        """Yield the datasets below the superdataset, the most deeply linked first."""
        depth: dict[str, int] = {"": 0}
        for path in sorted(self.links, key=len):
            depth[path] = depth[self.links[path]] + 1
        for level in range(max(depth.values()), 0, -1):
            yield [path for path in self.kinds if depth[path] == level]

    def check(self) -> None:
        """Raise ``ConsistencyError`` unless every file of the manifest can be reached from the superdataset."""
        above = {part: path for path in sorted(self.links, reverse=True) for part in chain((path,), parents_of(path))}
        found = chain(
            (
                (
                    above[path],
                    f"{path} is a file and a directory in the manifest, so the dataset is below a file",
                )
                for path in sorted(self.clashes)
                if path in above
            ),
            unreachable(self.splitter, self.links),
        )
        faults = [f"{path or 'superdataset'}: {what}" for path, what in islice(found, _MOST_SHOWN)]
        if faults:
            raise ConsistencyError("\n".join([*faults, "nothing was published: clones could not reach these files"]))


def children_of(links: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the datasets that each dataset links, in the order of their paths."""
    found: dict[str, list[str]] = {}
    for path in sorted(links):
        found.setdefault(links[path], []).append(path)
    return found


def lay_out(rows: ManifestSource, held: Mapping[str, DatasetRecord], rule: Rule) -> Structure:
    """Return the structure of ``rows`` over the datasets ``held`` of the last update."""
    before = {path: record for path, record in held.items() if path}
    kept = [path for path in before if not rule.whole(path)]
    found = _lay_out(rows, before, kept, rule)
    vanished = [path for path in before if path not in found.kinds]
    if vanished:
        elsewhere = dict.fromkeys(vanished, 0) if rows.fixed else _rows_below(rows, vanished)
        gone = sum(max(0, before[p].objects - elsewhere[p]) for p in vanished if not rows.is_confirmed_gone(p))
        total = sum(record.objects for record in held.values())
        if gone > rule.max_removed * total:
            reason = (
                f"the manifest has nothing of it any more ({gone:,} of {counted(total, 'file')} in all are "
                f"gone, more than "
                f"max_removed allows); if that is right, run again with --gc-assets"
            )
            found = _lay_out(rows, before, [*kept, *vanished], rule)
            found.refused = dict.fromkeys(vanished, reason)
        else:
            found.vanished = vanished
    return found


def rows_by_dataset(
    rows: ManifestSource, structure: Structure, wanted: Collection[str], only: "re.Pattern[str] | None"
) -> Iterator[tuple[str, Rows]]:
    """Yield (dataset, its rows with their path in it) for every wanted dataset.

    Where each dataset has a manifest of its own, no other manifest is read, and its importer has applied the filter.
    """
    if not rows.fixed:
        yield from group_rows(rows, structure.splitter, structure.surveys, wanted, only)
        return
    for path in sorted(wanted):
        yield path, _ManifestRows(rows, path)


@dataclass(frozen=True)
class _ManifestRows:
    """The rows of a dataset that has a manifest of its own, read each time: a Zarr store has millions of them."""

    source: ManifestSource
    dataset: str

    def __iter__(self) -> Iterator[tuple[str, ManifestRow]]:
        for row in fit_rows(self.source.rows_of(self.dataset)):
            yield row.path, row


def _lay_out_fixed(rows: ManifestSource, held: Mapping[str, DatasetRecord], kept: Collection[str]) -> Structure:
    """Return the structure that the importer chose: a dataset for each manifest."""
    kinds = {"": "super", **{path: note.kind for path, note in rows.notes.items()}}
    for path in kept:
        kinds.setdefault(path, held[path].kind)
    surveys = {path: RowGroups() for path in kinds}
    for path, note in rows.notes.items():
        surveys[path] = RowGroups(*rows.sums_of(path), note.newest)
    return Structure(FixedSplitter(kinds), surveys, kinds, link_parents(kinds), {})


def _lay_out(rows: ManifestSource, held: Mapping[str, DatasetRecord], kept: Collection[str], rule: Rule) -> Structure:
    if rows.fixed:
        return _lay_out_fixed(rows, held, kept)
    zarrs = {path for path in kept if held[path].kind == "zarr"}
    plain = frozenset(path for path in kept if path not in zarrs)
    landmarks = find_landmarks(fit_rows(rows), zarrs, plain)
    splitter = Splitter(rule.split_by, landmarks.zarrs, landmarks.shared, plain)
    clashes: dict[str, str] = {}
    surveys = count_rows(rows, splitter, rule.only, landmarks.directories, clashes)
    kinds = {path: "zarr" if path in landmarks.zarrs else "session" if path else "super" for path in surveys}
    for path in [path for path in surveys if path in landmarks.zarrs]:
        kinds.setdefault(splitter.parent_of(path.rpartition("/")[0]), "session")
    for path in kept:
        kinds.setdefault(path, held[path].kind)
    kinds[""] = "super"
    for path in kinds:
        surveys.setdefault(path, RowGroups())
    return Structure(splitter, surveys, kinds, link_parents(kinds), clashes)


def _rows_below(rows: ManifestSource, datasets: Collection[str]) -> dict[str, int]:
    """Return how many rows lie below each of ``datasets``, wherever they are now."""
    found = dict.fromkeys(datasets, 0)
    for row in rows:
        for parent in parents_of(row.path):
            if parent in found:
                found[parent] += 1
    return found


def fit_rows(rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    """Yield the rows; ``ConsistencyError`` when one has a path that no file of a release has."""
    for row in rows:
        path = row.path
        # The ordinary one at a glance, since there are millions.
        ordinary = "//" not in path and "/." not in path and "\0" not in path and path[:1] not in ("/", ".", "")
        if ordinary and path.isascii() and path[-1] != "/":
            yield row
            continue
        reason = unfit(path)
        if reason:
            raise ConsistencyError(f"the manifest names the file {row.path!r}: {reason}; nothing was published")
        yield row
