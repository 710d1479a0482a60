"""Which dataset a file belongs to, and what it is called there.

Input: the manifest's rows. Output: a ``Placement`` for each path.
Invariant: every row has exactly one dataset; names that git cannot hold
(``.git``, ``.gitmodules``) or that the dataset itself needs are written with
their first dot as ``%2E``, one to one.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lading.formats.manifest import Row

ZARR_MARKERS = (".zgroup", ".zarray", "zarr.json")
# The name of a job's session ends in its date and time.
_SESSION = re.compile(r".*\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}", re.DOTALL)
# What a dataset keeps for itself at its top.
_OWN = (b".datalad", b".mirror", b".gitattributes")
# What an escaped name begins with, so that a file really called so is escaped in turn.
_ESCAPED = re.compile(rb"%(?:2E|67|47|25)")
_SUSPECT = re.compile(rb"^\.|(?:^|/)%|[gG][iI][tT]")


@dataclass(frozen=True, slots=True)
class Placement:
    """The path of a dataset below the superdataset ("" is the superdataset) and of a file in it."""

    dataset: str
    path: str


def zarr_roots(rows: Iterable[Row], held: Collection[str] = ()) -> frozenset[str]:
    """Return the directories that are Zarr stores: the topmost ones that hold a Zarr's own metadata file.

    ``held`` are stores of the mirror that ``rows`` cannot take back: they stay, whatever is marked above or below.

    Sources of the names: Zarr storage specification, versions 2 and 3.
    """
    marked: set[str] = set()
    for row in rows:
        directory, _, name = row.path.rpartition("/")
        if directory and name in ZARR_MARKERS:
            marked.add(directory)
    marked.difference_update({parent for path in held for parent in _parents(path)})
    marked.update(held)
    return frozenset(d for d in marked if not any(parent in marked for parent in _parents(d)))


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


class Splitter:
    """Places paths by a rule: ``job``, ``top`` or ``depth=N``, and Zarr stores by themselves."""

    def __init__(self, rule: str, zarrs: frozenset[str]) -> None:
        self._depth = int(rule.partition("=")[2]) if rule.startswith("depth=") else 1
        self._by_session = rule == "job"
        self.zarrs = zarrs
        self._known: dict[str, tuple[str, int]] = {}

    def place(self, path: str) -> Placement:
        """Return where ``path`` goes."""
        directory = path.rpartition("/")[0]
        found = self._known.get(directory)
        if found is None:
            dataset = self._zarr_of(directory)
            dataset = self.parent_of(directory) if dataset is None else dataset
            found = self._known[directory] = (dataset, len(dataset) + 1 if dataset else 0)
        return Placement(found[0], path[found[1] :])

    def _zarr_of(self, directory: str) -> str | None:
        if self.zarrs and directory:
            for candidate in (directory, *_parents(directory)):
                if candidate in self.zarrs:
                    return candidate
        return None

    def parent_of(self, directory: str) -> str:
        """Return the dataset by the rule alone: for a Zarr store's path without its last part, its parent."""
        parts = directory.split("/") if directory else []
        if self._by_session:
            for index, part in enumerate(parts):
                if _SESSION.fullmatch(part):
                    return "/".join(parts[: index + 1])
        return "/".join(parts[: self._depth]) if len(parts) >= self._depth else ""


def _is_git(part: bytes) -> bool:
    # As git's own check of dangerous names (core.protectNTFS): case, trailing dots and spaces, streams.
    folded = part.split(b":")[0].rstrip(b" .").lower()
    return folded in (b".git", b"git~1", b".gitmodules")


def repository_path(path: bytes) -> bytes:
    """Return the name under which a file is kept in its dataset; no two files share one.

    >>> repository_path(b"a/.git/config"), repository_path(b".datalad/x"), repository_path(b"a/.datalad/x")
    (b'a/%2Egit/config', b'%2Edatalad/x', b'a/.datalad/x')
    >>> repository_path(b"a/%2Egit/config")
    b'a/%252Egit/config'
    """
    if not _SUSPECT.search(path):
        return path
    parts = path.split(b"/")
    for index, part in enumerate(parts):
        if _is_git(part) or (index == 0 and part in _OWN) or _ESCAPED.match(part):
            parts[index] = b"%%%02X" % part[0] + part[1:]
    return b"/".join(parts)
