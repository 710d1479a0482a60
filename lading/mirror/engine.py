"""How a plan becomes commits: both branches through ``git fast-import``.

Input: a ``DatasetUpdate``. Output: the branches git-annex and main moved, in this order.
Invariant: trees and places of content are those that git-annex' own commands
make (the tests compare the two); a commit never names a key whose place is unknown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lading.mirror.git.annex import AnnexAccess, ObjectAddress, log_changes, wanted_logs
from lading.mirror.git.annex_keys import check_against_annex
from lading.mirror.git.commands import list_tree, read_blobs
from lading.mirror.git.fast_import import Change, commit_changes
from lading.mirror.layout import Dataset


@dataclass(frozen=True)
class DatasetUpdate:
    """One update of one dataset, ready to be written.

    ``changes`` go to main; ``keys`` is the key of every annexed path of the
    wanted tree, ``places`` where each key's content is.
    """

    dataset: Dataset
    access: AnnexAccess
    message: str
    epoch: int
    parent: str | None
    annex_parent: str | None
    changes: Sequence[Change]
    keys: Mapping[bytes, bytes]
    places: Mapping[bytes, list[ObjectAddress]]


# Writes a plan; returns whether any branch moved.
DatasetEngine = Callable[[DatasetUpdate], bool]


# Backends of which a key was compared in this run: starting git-annex for each of a thousand datasets took minutes.
_COMPARED: set[bytes] = set()


def _check_once(key: bytes, repository: Path) -> None:
    backend = key.partition(b"-")[0]
    if backend not in _COMPARED:
        check_against_annex(key, repository)
        _COMPARED.add(backend)


def write_by_import(write: DatasetUpdate) -> bool:
    """Write git-annex first, main second; returns whether any branch moved."""
    repository = write.dataset.repository
    held = list_tree(repository, write.annex_parent) if write.annex_parent else {}
    wanted = wanted_logs(write.access, write.places, write.dataset.uuid, write.epoch)
    known = next(read_blobs(repository, [held[b"remote.log"].sha]), b"") if b"remote.log" in held else b""
    logs = list(log_changes(repository, held, chain(write.access.retired(known, write.epoch), wanted)))
    if logs:
        if write.places:
            _check_once(next(iter(write.places)), repository)
        commit_changes(repository, "refs/heads/git-annex", "update\n", write.epoch, logs, write.annex_parent)
    if write.changes:
        commit_changes(repository, "refs/heads/main", write.message, write.epoch, write.changes, write.parent)
    return bool(logs or write.changes)
