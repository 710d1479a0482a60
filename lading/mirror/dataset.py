"""Brings one dataset to what the manifest says: compare, plan, write.

Input: the rows of the dataset and its repository. Output: at most one commit
on git-annex and one on main.
Invariant: compared by object ids, content is never read; equal input gives
equal commits; nothing is removed unless the manifest is complete.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lading.errors import Disagreement, LadingError
from lading.formats.manifest import Row
from lading.mirror.annex import MOST_PLACES, Access, Place, blob_sha
from lading.mirror.engine import Engine, Write
from lading.mirror.fastimport import COMMIT, FILE, LINK, Change
from lading.mirror.git import Held, commit_epoch, list_tree, read_blobs, resolve, run
from lading.mirror.keys import link_target, make_key, suffixes
from lading.mirror.layout import Dataset
from lading.mirror.split import repository_path
from lading.mirror.text import TextSource, proven
from lading.mirror.zarr import CHECKSUM_FILE, zarr_checksum

MAIN, ANNEX = "refs/heads/main", "refs/heads/git-annex"
OWN = re.compile(rb"\.datalad/|\.mirror/|\.gitattributes$|\.gitmodules$")
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Rules:
    """What an update may do."""

    access: Access
    source: str
    text: TextSource
    complete: bool
    only: "re.Pattern[str] | None"
    max_removed: float
    manifest: str


@dataclass(frozen=True)
class Counts:
    """Files of one update."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    def __str__(self) -> str:
        return f"{self.added:,} added, {self.changed:,} changed, {self.removed:,} removed"

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True)
class Outcome:
    """What an update of one dataset did: its commit afterwards, and whether a branch moved."""

    commit: str
    counts: Counts
    moved: bool


@dataclass
class _Wanted:
    """The tree that should be: symlinks to keys, regular files, gitlinks."""

    files: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)
    places: dict[bytes, list[Place]] = field(default_factory=dict)


def epoch_of(uploaded_at: str) -> int:
    """Return seconds since 1970 of an ISO 8601 time."""
    return int(datetime.fromisoformat(uploaded_at).timestamp())


def faults_of(rows: Iterable[tuple[str, Row]], backend: str) -> list[str]:
    """Return why rows cannot be registered, a sentence each."""
    found = []
    for _, row in rows:
        if not (row.md5 if backend == "MD5E" else row.sha256 or row.md5):
            found.append(f"{row.path}: the manifest has no {'MD5' if backend == 'MD5E' else 'checksum'} for it")
    return found


def _want_rows(dataset: Dataset, rows: Sequence[tuple[str, Row]], held: Mapping[bytes, Held], rules: Rules) -> _Wanted:
    faults = faults_of(rows, dataset.backend)
    if faults:
        more = f"\nand {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise Disagreement(
            "\n".join(faults[:_MOST_FAULTS])
            + more
            + "\nrun make verify with checksums, so that every file can be proven"
        )
    paths = [repository_path(os.fsencode(path)) for path, _ in rows]
    suffix = suffixes((path.rpartition(b"/")[2] for path in paths), dataset.repository)
    wanted = _Wanted()
    for path, (_, row) in zip(paths, rows, strict=True):
        if path in wanted.files:
            raise Disagreement(f"{row.path}: two rows of the manifest are the same file")
        backend = dataset.backend if row.sha256 or dataset.backend == "MD5E" else "MD5E"
        proof = row.md5 if backend == "MD5E" else row.sha256
        assert proof is not None
        key = make_key(backend, row.size, proof, suffix[path.rpartition(b"/")[2]])
        place = Place(row.key, row.version_id, epoch_of(row.uploaded_at))
        target = link_target(path, key)
        before = held.get(path)
        if (
            dataset.kind != "zarr"
            and rules.text.eligible(row)
            and not (before and before.mode == LINK and before.sha == blob_sha(target))
        ):
            content = _text(dataset, row, place, before, rules)
            if content is not None:
                wanted.files[path] = (FILE, content)
                continue
        wanted.files[path] = (LINK, target)
        wanted.keys[path] = key
        places = wanted.places.setdefault(key, [])
        if len(places) < MOST_PLACES:
            places.append(place)
    return wanted


def _text(dataset: Dataset, row: Row, place: Place, before: Held | None, rules: Rules) -> bytes | None:
    if before and before.mode == FILE:
        (content,) = read_blobs(dataset.repository, [before.sha])
        if proven(row, content):
            return content
    return rules.text.read(row, place)


def own_files(dataset: Dataset, rows: Sequence[tuple[str, Row]], rules: Rules) -> dict[bytes, bytes]:
    """Return what the dataset says of itself."""
    state = {
        "format": 1,
        "kind": dataset.kind,
        "source": rules.source,
        "path": dataset.path,
    }
    files = {
        b".datalad/config": f'[datalad "dataset"]\n\tid = {dataset.id}\n'.encode(),
        b".gitattributes": f"* annex.backend={dataset.backend}\n**/.git* annex.largefiles=nothing\n".encode(),
        b".mirror/state.json": json.dumps(state, indent=1, sort_keys=True).encode("ascii") + b"\n",
    }
    if dataset.kind == "zarr" and rules.complete and rules.only is None:
        checksum = zarr_checksum((path, row.md5 or "", row.size) for path, row in rows)
        files[CHECKSUM_FILE] = checksum.encode() + b"\n"
    return files


def update_dataset(
    dataset: Dataset,
    rows: Sequence[tuple[str, Row]],
    rules: Rules,
    engine: Engine,
    *,
    extra: Mapping[bytes, bytes],
    links: Mapping[bytes, str],
    since: int = 0,
    expected: bool = True,
) -> Outcome:
    """Bring ``dataset`` to ``rows`` (path in the dataset, row) and return what happened.

    ``extra`` are more files of its own, ``links`` its subdatasets' commits by
    path, ``since`` the earliest date of a commit (seconds since 1970).
    ``expected`` False makes any change a ``Disagreement`` (mode verify).
    """
    parent = resolve(dataset.repository, MAIN)
    held = list_tree(dataset.repository, parent) if parent else {}
    wanted = _want_rows(dataset, rows, held, rules)
    for path, data in {**own_files(dataset, rows, rules), **extra}.items():
        wanted.files[path] = (FILE, data)
    for path, commit in links.items():
        if path in wanted.files:
            raise Disagreement(f"{os.fsdecode(path)} is both a file and a subdataset")
        wanted.files[path] = (COMMIT, commit.encode())

    changes, counts = _compare(dataset, held, wanted, rules)
    if counts and not expected:
        raise Disagreement(f"mode verify: {counts}, but no object is newer than at the last update")
    epoch = max([since, *(epoch_of(row.uploaded_at) for _, row in rows)])
    if parent:
        epoch = max(epoch, commit_epoch(dataset.repository, parent))
    moved = engine.write(
        Write(
            dataset=dataset,
            access=rules.access,
            message=_message(dataset, rules, counts, held, links),
            epoch=epoch,
            parent=parent,
            annex_parent=resolve(dataset.repository, ANNEX),
            changes=changes,
            keys=wanted.keys,
            places=wanted.places,
        )
    )
    final = resolve(dataset.repository, MAIN)
    if final is None:
        raise LadingError(f"{dataset.repository} has no branch main after its update")
    # For readers over plain http. Also when nothing moved: a killed run may have stopped before this.
    run(["update-server-info"], dataset.repository)
    return Outcome(final, counts, moved)


def _compare(
    dataset: Dataset, held: Mapping[bytes, Held], wanted: _Wanted, rules: Rules
) -> tuple[list[Change], Counts]:
    """Return the changes of main, removals first, and their counts."""
    above = f"{dataset.path}/" if dataset.path else ""
    removed = [
        path
        for path, entry in held.items()
        if path not in wanted.files
        and (
            OWN.match(path)
            or entry.mode == COMMIT
            or (rules.complete and (rules.only is None or rules.only.search(above + os.fsdecode(path))))
        )
    ]
    changes = [Change(path, None) for path in removed]
    added = changed = 0
    for path, (mode, data) in wanted.files.items():
        before = held.get(path)
        sha = data if mode == COMMIT else blob_sha(data)
        if before is not None and before.mode == mode and before.sha == sha:
            continue
        changes.append(Change(path, mode, data))
        if not OWN.match(path) and mode != COMMIT:
            added += before is None
            changed += before is not None
    files = [path for path in removed if not OWN.match(path) and held[path].mode != COMMIT]
    total = sum(1 for path, entry in held.items() if not OWN.match(path) and entry.mode != COMMIT)
    if files and len(files) > rules.max_removed * total:
        raise LadingError(
            f"{len(files):,} of {total:,} files would be removed, more than max_removed allows "
            f"({rules.max_removed:g}); if that is right, run again with --gc-assets"
        )
    return changes, Counts(added, changed, len(files))


def _message(
    dataset: Dataset, rules: Rules, counts: Counts, held: Mapping[bytes, Held], links: Mapping[bytes, str]
) -> str:
    """Return the commit message: what changed in this tree, never what else a run did."""
    lines = [f"Mirror: {counts}" if held or counts or not links else "Mirror: subdatasets"]
    if dataset.kind == "super":
        before = {path: entry.sha.decode() for path, entry in held.items() if entry.mode == COMMIT}
        new = sum(1 for path in links if path not in before)
        moved = sum(1 for path, commit in links.items() if before.get(path, commit) != commit)
        gone = sum(1 for path in before if path not in links)
        lines[0] = f"Mirror: {new} datasets added, {moved} updated, {gone} removed"
        if counts:
            lines += ["", str(counts)]
    return "\n".join([*lines, "", f"Source: {rules.source}", f"Manifest: {rules.manifest}"]) + "\n"
