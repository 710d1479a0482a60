"""How a plan becomes commits: the first ones as one pack, later ones through ``git fast-import``.

Input: a ``DatasetUpdate``. Output: the branches git-annex and main moved, in this order.
Invariant: trees and places of content are those that git-annex' own commands
make (the tests compare the two), and commits are the same on both ways; a
commit never names a key whose place is unknown.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from lading.mirror.git.annex import AnnexAccess, ObjectAddress, key_logs, log_changes, own_logs
from lading.mirror.git.annex_keys import check_against_annex
from lading.mirror.git.commands import IDENTITY, Held, read_blobs, run, tree_entries
from lading.mirror.git.fast_import import COMMIT, FILE, Change, commit_changes
from lading.mirror.git.pack_file import PackFile, commit_object
from lading.mirror.layout import Dataset

UPDATE = "update\n"  # what git-annex writes of a change of its branch


@dataclass(frozen=True)
class DatasetUpdate:
    """One update of one dataset, ready to be written.

    ``changes`` go to main, removals first and the rest sorted by path; ``keys`` is the key of every annexed path of the
    wanted tree, ``places`` where each key's content is.
    """

    dataset: Dataset
    access: AnnexAccess
    message: str
    epoch: int
    parent: str | None
    annex_parent: str | None
    changes: Collection[Change]
    keys: Mapping[bytes, bytes]
    places: Mapping[bytes, list[ObjectAddress]]


# Writes a plan; returns whether any branch moved.
DatasetEngine = Callable[[DatasetUpdate], bool]


# Backends of which a key was compared in this run: starting git-annex for each of a thousand datasets took minutes.
_COMPARED: set[bytes] = set()


def _check_key(write: DatasetUpdate) -> None:
    key = next(iter(write.places), None)
    if key is not None and (backend := key.partition(b"-")[0]) not in _COMPARED:
        check_against_annex(key, write.dataset.repository)
        _COMPARED.add(backend)


def write_by_import(write: DatasetUpdate) -> bool:
    """Write git-annex first, main second; returns whether any branch moved."""
    repository = write.dataset.repository
    if write.parent is None and write.annex_parent is None:
        _check_key(write)
        _write_first(write)
        return True
    logs = list(_changed_logs(write))
    if logs:
        _check_key(write)
        commit_changes(repository, "refs/heads/git-annex", UPDATE, write.epoch, logs, write.annex_parent)
    if write.changes:
        commit_changes(repository, "refs/heads/main", write.message, write.epoch, write.changes, write.parent)
    return bool(logs or write.changes)


def _changed_logs(write: DatasetUpdate) -> Iterator[Change]:
    """Yield the logs to write so that the branch git-annex says where everything is."""
    repository = write.dataset.repository
    general: dict[bytes, Held] = {}  # what is of no key

    def entries() -> Iterator[tuple[bytes, Held]]:
        for path, entry in tree_entries(repository, write.annex_parent) if write.annex_parent else ():
            if b"/" not in path:
                general[path] = entry
            yield path, entry

    held = entries()
    yield from log_changes(repository, held, key_logs(write.access, write.places))
    for _ in held:
        pass  # what comes after the last key
    wanted = own_logs(write.access, write.dataset.uuid, write.epoch)
    known = next(read_blobs(repository, [general[b"remote.log"].sha]), b"") if b"remote.log" in general else b""
    for lines in (wanted, dict(write.access.retired(known, write.epoch))):
        yield from log_changes(repository, iter(sorted(general.items())), sorted(lines.items()))


def _write_first(write: DatasetUpdate) -> None:
    """Write the first commits of both branches as one pack, and let both branches appear at once."""
    repository, epoch = write.dataset.repository, write.epoch
    logs = chain(
        key_logs(write.access, write.places), sorted(own_logs(write.access, write.dataset.uuid, epoch).items())
    )
    pack = PackFile(repository)
    try:
        annex = pack.add_tree(
            (path, FILE, pack.add(b"blob", b"".join(line + b"\n" for line in lines))) for path, lines in logs
        )
        main = pack.add_tree(
            (change.path, change.mode, _object(pack, change)) for change in write.changes if change.mode is not None
        )
        heads = [
            pack.add(b"commit", commit_object(tree, (), IDENTITY, epoch, message)).hex()
            for tree, message in ((annex, UPDATE), (main, write.message))
        ]
        pack.finish()
    except BaseException:
        pack.abandon()
        raise
    # "create": a branch that somebody made meanwhile is never lost.
    orders = (f"create refs/heads/{name} {head}\n" for name, head in zip(("git-annex", "main"), heads, strict=True))
    run(["update-ref", "--stdin"], repository, "".join(orders).encode())


def _object(pack: PackFile, change: Change) -> bytes:
    return bytes.fromhex(change.data.decode()) if change.mode == COMMIT else pack.add(b"blob", change.data)
