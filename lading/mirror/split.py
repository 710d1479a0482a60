"""Which dataset a file belongs to, and which dataset links another.

Input: the manifest's rows. Output: a ``Placement`` for each path, and for
each dataset the one above it.
Invariant: every row has exactly one dataset, the nearest one above it. A
dataset below another is linked by the nearest above it, so that each file is
reached from the superdataset by one chain of links. Files beside sessions
stay in the superdataset: they come and go without moving a session.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from lading.mirror.git.portable_names import repository_path as repository_path
from lading.verification.manifest import ManifestRow

ZARR_MARKERS = (".zgroup", ".zarray", "zarr.json")
# The name of a job's session ends in its date and time.
_SESSION = re.compile(r".*\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Placement:
    """The path of a dataset below the superdataset ("" is the superdataset) and of a file in it."""

    dataset: str
    path: str


@dataclass(frozen=True)
class Landmarks:
    """What of a manifest decides where datasets begin.

    ``zarrs`` are its Zarr stores, ``shared`` the directories above sessions,
    ``directories`` all directories that hold something.
    """

    zarrs: frozenset[str]
    shared: frozenset[str]
    directories: Collection[str]


def find_landmarks(rows: Iterable[ManifestRow], zarrs: Collection[str] = (), plain: Collection[str] = ()) -> Landmarks:
    """Return the landmarks of ``rows``; datasets that they cannot take back are ``zarrs`` and ``plain``.

    A directory that holds one of Zarr's own metadata files is a store, the
    topmost of them counts.

    Sources of the names: Zarr storage specification, versions 2 and 3.
    """
    marked: set[str] = set()
    sessions = {session for path in chain(zarrs, plain) if (session := session_of(path)) is not None}
    seen: set[str] = {""}
    for row in rows:
        directory, _, name = row.path.rpartition("/")
        if directory and name in ZARR_MARKERS:
            marked.add(directory)
        if directory not in seen:
            seen.add(directory)
            session = session_of(directory)
            if session is not None:
                sessions.add(session)
            for parent in parents_of(directory):
                if parent in seen:
                    break
                seen.add(parent)
    for path in chain(zarrs, plain):
        marked.difference_update(parents_of(path))
    marked.difference_update(plain)
    marked.update(zarrs)
    stores = frozenset(d for d in marked if not any(parent in marked for parent in parents_of(d)))
    shared = {
        parent
        for session in sessions
        if not any(parent in stores for parent in parents_of(session))
        for parent in parents_of(session)
    }
    return Landmarks(stores, frozenset(shared), seen)


def session_of(directory: str) -> str | None:
    """Return the outermost session on the way to a directory, itself included."""
    if not _SESSION.match(directory):
        return None
    parts = directory.split("/")
    for index, part in enumerate(parts):
        if _SESSION.fullmatch(part):
            return "/".join(parts[: index + 1])
    return None


def parents_of(path: str) -> Iterator[str]:
    """Yield the directories above a path, the nearest first, without the top."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


class Splitter:
    """Places paths by a rule: ``job``, ``top``, ``depth=N`` or ``regex=PATTERN``, and Zarr stores by themselves.

    A pattern matches the beginning of a directory, and what it matches (its
    first group, if it has one) is the dataset: whole components of the path.

    ``shared`` are the directories that hold sessions somewhere below:
    with ``job`` none of them is a dataset. ``held`` are datasets that must
    stay as they are, since the manifest may lack files of theirs.
    """

    def __init__(
        self,
        rule: str,
        zarrs: frozenset[str],
        shared: frozenset[str] = frozenset(),
        held: frozenset[str] = frozenset(),
    ) -> None:
        self._depth = int(rule.partition("=")[2]) if rule.startswith("depth=") else 1
        self._by_session = rule == "job"
        self._pattern = re.compile(rule.removeprefix("regex=")) if rule.startswith("regex=") else None
        self.zarrs = zarrs
        self._shared = shared if self._by_session else frozenset()
        self._held = held - {""}
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
            for candidate in chain((directory,), parents_of(directory)):
                if candidate in self.zarrs:
                    return candidate
        return None

    def parent_of(self, directory: str) -> str:
        """Return the dataset by the rule alone: for a Zarr store's path without its last part, its parent."""
        if not directory:
            return ""
        held = ""
        if self._held:
            held = next((path for path in chain((directory,), parents_of(directory)) if path in self._held), "")
        if self._by_session:
            session = session_of(directory)
            if session is not None:
                return max(session, held, key=len)
        return held or self._ruled(directory)

    def placed(self) -> Iterator[tuple[str, str]]:
        """Yield (directory, its dataset) for all that was placed."""
        for directory, (dataset, _) in self._known.items():
            yield directory, dataset

    def _ruled(self, directory: str) -> str:
        if self._pattern is not None:
            match = self._pattern.match(directory)
            found = ((match[1] if self._pattern.groups else match[0]) or "").strip("/") if match else ""
            return found if f"{directory}/".startswith(f"{found}/") else ""
        parts = directory.split("/")
        if self._by_session:
            for depth in range(1, len(parts) + 1):
                candidate = "/".join(parts[:depth])
                if candidate not in self._shared:
                    return candidate
            return ""
        return "/".join(parts[: self._depth]) if len(parts) >= self._depth else ""


class FixedSplitter:
    """Places paths in datasets that are given: in the nearest one above."""

    def __init__(self, datasets: Collection[str]) -> None:
        self._datasets = frozenset(datasets)

    def place(self, path: str) -> Placement:
        """Return where ``path`` goes."""
        dataset = next((above for above in parents_of(path) if above in self._datasets), "")
        return Placement(dataset, path[len(dataset) + 1 :] if dataset else path)

    def placed(self) -> Iterator[tuple[str, str]]:
        """Yield nothing: each row is where its manifest says."""
        return iter(())


def link_parents(datasets: Collection[str]) -> dict[str, str]:
    """Return for each dataset but the superdataset ("") the nearest one above it, which links it."""
    known = set(datasets)
    return {path: next((parent for parent in parents_of(path) if parent in known), "") for path in datasets if path}


def unreachable(splitter: Splitter | FixedSplitter, links: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (dataset, sentence) for each dataset whose files no chain of links leads to, or not to all of them.

    ``links`` names the dataset that links each dataset but the superdataset;
    ``splitter`` has placed all rows.
    """
    known = {"", *links}
    for path, parent in links.items():
        nearest = next((above for above in parents_of(path) if above in known), "")
        if parent != nearest:
            yield path, f"{_named(parent)} links it, but it is in {_named(nearest)}"
    for directory, dataset in splitter.placed():
        nearest = next((above for above in chain((directory,), parents_of(directory)) if above in known), "")
        if dataset != nearest:
            yield dataset, f"files of {directory} belong to it, but are below the link to {_named(nearest)}"


def _named(dataset: str) -> str:
    return dataset or "the superdataset"
