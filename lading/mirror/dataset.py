"""Brings one dataset to what the manifest says: compare, plan, write.

Input: the rows of the dataset and its repository. Output: at most one commit
on git-annex and one on main.
Invariant: compared by object ids, content is never read; equal input gives
equal commits; nothing is removed unless a complete manifest lacks it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from lading.checksums.zarr_checksum import zarr_checksum
from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, LadingError
from lading.core.progress import counted
from lading.mirror.engine import DatasetEngine, DatasetUpdate
from lading.mirror.git.annex import MOST_PLACES, AnnexAccess, ObjectAddress, blob_sha
from lading.mirror.git.annex_keys import link_target, make_key, suffixes
from lading.mirror.git.commands import Held, commit_epoch, list_tree, read_blobs, resolve, run
from lading.mirror.git.fast_import import COMMIT, FILE, LINK, Change
from lading.mirror.git.portable_names import original_path, repository_path, to_bytes, to_text
from lading.mirror.layout import Dataset
from lading.mirror.text_files import TextSource, proven
from lading.mirror.zarr import CHECKSUM_FILE
from lading.verification.manifest import SIZE_ONLY, ManifestRow

MAIN, ANNEX = "refs/heads/main", "refs/heads/git-annex"
OWN = re.compile(rb"\.datalad/|\.mirror/|\.gitattributes$|\.gitmodules$")
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Rules:
    """What an update may do.

    ``source`` is the address of the release; ``covers`` tells of a path
    whether a complete manifest speaks of it, ``manifest`` of a dataset the
    digest of its manifest; ``only`` is the asset filter.
    """

    access: AnnexAccess
    source: str
    text: TextSource
    covers: Callable[[str], bool]
    only: "re.Pattern[str] | None"
    max_removed: float
    manifest: Callable[[str], str]

    def whole(self, path: str) -> bool:
        """Tell whether the rows below ``path`` are all there is: what has none there is gone."""
        return self.only is None and self.covers(path)


@dataclass(frozen=True)
class DatasetCounts:
    """Files of one update."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    def __str__(self) -> str:
        return f"{self.added:,} added, {self.changed:,} changed, {self.removed:,} removed"

    def __add__(self, other: "DatasetCounts") -> "DatasetCounts":
        return DatasetCounts(self.added + other.added, self.changed + other.changed, self.removed + other.removed)

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True)
class DatasetOutcome:
    """What an update of one dataset did: its commit afterwards, and whether a branch moved.

    ``tagged`` is how many versions were published, ``failed`` those that could not be, and why.
    """

    commit: str
    counts: DatasetCounts
    moved: bool
    tagged: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SubdatasetLink:
    """A subdataset: the commit to link, and the repository that has it."""

    commit: str
    repository: Path


@dataclass(frozen=True)
class Content:
    """What a dataset shall hold.

    rows      path in the dataset, and row
    extra     more files of its own
    links     its subdatasets by path
    since     earliest date of a commit, seconds since 1970
    expected  False makes any change a ``ConsistencyError`` (mode verify)
    label     what the commit's message begins with
    """

    rows: Sequence[tuple[str, ManifestRow]]
    extra: Mapping[bytes, bytes]
    links: Mapping[bytes, SubdatasetLink]
    since: int = 0
    expected: bool = True
    label: str = ""


@dataclass
class _Wanted:
    """The tree that should be: symlinks to keys, regular files, gitlinks."""

    files: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)
    places: dict[bytes, list[ObjectAddress]] = field(default_factory=dict)


def epoch_of(uploaded_at: str) -> int:
    """Return seconds since 1970 of an ISO 8601 time."""
    return int(datetime.fromisoformat(uploaded_at).timestamp())


def find_errors(rows: Iterable[tuple[str, ManifestRow]]) -> list[str]:
    """Return why rows cannot be registered, a sentence each."""
    return [
        f"{row.path}: the manifest has no checksum for it"
        for _, row in rows
        if not (row.sha256 or row.md5 or row.level == SIZE_ONLY)
    ]


def lacks_sha256(row: ManifestRow) -> bool:
    """Tell whether a row is of an upload of ours that made no SHA-256."""
    return row.sha256 is None and row.file_sha256 is None and row.level is None and row.md5 is not None


def key_of(dataset: Dataset, row: ManifestRow, suffix: bytes) -> bytes:
    """Return the key of a row: by the dataset's kind of checksum, or by the other where the manifest lacks it.

    A row that was imported with nothing but its size gets a key of its address: git-annex compares the size alone.
    """
    backend = dataset.backend
    if not (row.sha256 or row.md5):
        return make_key("URL", row.size, address_digest(row), b"")
    if not (row.md5 if backend == "MD5E" else row.sha256):
        backend = "SHA256E" if backend == "MD5E" else "MD5E"
    digest = row.md5 if backend == "MD5E" else row.sha256
    assert digest is not None
    return make_key(backend, row.size, digest, suffix)


def address_digest(row: ManifestRow) -> str:
    """Return a digest of what an object is called, its version and its ETag: another object has another one."""
    said = "\0".join((row.key, row.version_id or "", row.etag))
    return hashlib.md5(said.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def _want_rows(
    dataset: Dataset, rows: Sequence[tuple[str, ManifestRow]], held: Mapping[bytes, Held], rules: Rules
) -> _Wanted:
    faults = find_errors(rows)
    if faults:
        more = f"; and {len(faults) - _MOST_FAULTS:,} more" if len(faults) > _MOST_FAULTS else ""
        raise ConsistencyError(
            "; ".join(faults[:_MOST_FAULTS])
            + more
            + "; git-annex knows content by a checksum, so read these objects once: make verify "
            "verify_flags=--adopt=download"
        )
    paths = [repository_path(to_bytes(path)) for path, _ in rows]
    suffix = suffixes((path.rpartition(b"/")[2] for path in paths), dataset.repository)
    wanted = _Wanted()
    for path, (_, row) in zip(paths, rows, strict=True):
        if path in wanted.files:
            raise ConsistencyError(f"{row.path}: two rows of the manifest are the same file")
        key = key_of(dataset, row, suffix[path.rpartition(b"/")[2]])
        place = ObjectAddress(row.key, row.version_id, epoch_of(row.uploaded_at))
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


def _text(dataset: Dataset, row: ManifestRow, place: ObjectAddress, before: Held | None, rules: Rules) -> bytes | None:
    if before and before.mode == FILE:
        (content,) = read_blobs(dataset.repository, [before.sha])
        if proven(row, content):
            return content
    return rules.text.read(row, place)


def own_files(dataset: Dataset, rows: Sequence[tuple[str, ManifestRow]], rules: Rules) -> dict[bytes, bytes]:
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
    if dataset.kind == "zarr" and rules.whole(dataset.path) and all(row.md5 for _, row in rows):
        checksum = zarr_checksum((path, row.md5 or "", row.size) for path, row in rows)
        files[CHECKSUM_FILE] = checksum.encode() + b"\n"
    return files


def update_dataset(dataset: Dataset, content: Content, rules: Rules, engine: DatasetEngine) -> DatasetOutcome:
    """Bring ``dataset`` to its ``content`` and return what happened."""
    parent = resolve(dataset.repository, MAIN)
    held = list_tree(dataset.repository, parent) if parent else {}
    wanted = _want(dataset, content, held, rules)
    leftovers = _Leftovers(dataset, wanted, content.links, check_tree(wanted.files), rules)
    changes, counts = _compare(held, wanted, leftovers, rules.max_removed)
    if counts and not content.expected:
        raise ConsistencyError(f"mode verify: {counts}, but no object is newer than at the last update")
    epoch = max([content.since, *(epoch_of(row.uploaded_at) for _, row in content.rows)])
    if parent:
        epoch = max(epoch, commit_epoch(dataset.repository, parent))
    moved = engine(
        DatasetUpdate(
            dataset=dataset,
            access=rules.access,
            message=_message(dataset, rules, counts, held, content),
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
    if moved:
        _check_written(dataset, final, wanted)
    # For readers over plain http. Also when nothing moved: a killed run may have stopped before this.
    run(["update-server-info"], dataset.repository)
    return DatasetOutcome(final, counts, moved)


def _want(dataset: Dataset, content: Content, held: Mapping[bytes, Held], rules: Rules) -> _Wanted:
    """Return the tree of a dataset's content: rows, own files, links."""
    wanted = _want_rows(dataset, content.rows, held, rules)
    for path, data in {**own_files(dataset, content.rows, rules), **content.extra}.items():
        wanted.files[path] = (FILE, data)
    for path, link in content.links.items():
        if path in wanted.files:
            raise ConsistencyError(f"{to_text(path)} is both a file and a subdataset")
        wanted.files[path] = (COMMIT, link.commit.encode())
    return wanted


def check_tree(paths: Iterable[bytes]) -> set[bytes]:
    """Return the directories of a tree of ``paths``; ``ConsistencyError`` when one of them is a file or a link, too."""
    directories: set[bytes] = set()
    for path in paths:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition(b"/")[0]
    clashes = sorted(path for path in paths if path in directories)
    if clashes:
        shown = ", ".join(to_text(path) for path in clashes[:_MOST_FAULTS])
        raise ConsistencyError(
            f"the manifest has a file and a directory of one name: {shown}; "
            "git holds one of the two, so remove or rename the other in the bucket, then run make verify"
        )
    return directories


def _check_written(dataset: Dataset, commit: str, wanted: _Wanted) -> None:
    """Raise ``ConsistencyError`` unless the commit holds everything ``wanted``: what it lacks, no clone would reach."""
    tree = list_tree(dataset.repository, commit)
    lost = [path for path, (mode, _) in wanted.files.items() if path not in tree or tree[path].mode != mode]
    if lost:
        raise ConsistencyError(f"{dataset.repository}: {to_text(lost[0])} is not in the commit; run: git fsck there")


def _above(path: bytes) -> Iterator[bytes]:
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


class _Leftovers:
    """Decides about each held path that the wanted tree lacks: it stays, goes, or has moved."""

    def __init__(
        self,
        dataset: Dataset,
        wanted: _Wanted,
        links: Mapping[bytes, SubdatasetLink],
        directories: set[bytes],
        rules: Rules,
    ) -> None:
        self._wanted, self._links, self._directories, self._rules = wanted, links, directories, rules
        self._prefix = f"{dataset.path}/" if dataset.path else ""
        self._trees: dict[bytes, Mapping[bytes, Held]] = {}

    def fate(self, path: bytes) -> str:
        """Return ``stays``, ``removed``, ``moved`` (to a subdataset) or ``renamed`` (written in another way now)."""
        for above in _above(path):
            if above in self._links:
                if self._has_moved(path, above):
                    return "moved"
                if self._rules.whole(self._original(path)):
                    return "removed"
                raise ConsistencyError(
                    f"{to_text(path)} would be lost: the subdataset {to_text(above)} takes its directory, and the "
                    "manifest, which is not complete, has nothing of it; upload the rest, then run make verify"
                )
            if above in self._wanted.files:
                return "removed"  # its directory is a file now
        if path in self._directories:
            return "removed"  # it is a directory now
        original = original_path(path)
        if original is not None:
            name = repository_path(original)
            if name != path and name in self._wanted.files:
                return "renamed"
        full, only = self._original(path), self._rules.only
        if self._rules.covers(full) and (only is None or only.search(full)):
            return "removed"
        return "stays"

    def _original(self, path: bytes) -> str:
        """Return the path in the release, as far as it is known."""
        return self._prefix + to_text(original_path(path) or path)

    def _has_moved(self, path: bytes, link: bytes) -> bool:
        full, above = original_path(path), original_path(link)
        if full is None or above is None:
            return False
        if link not in self._trees:
            found = self._links[link]
            self._trees[link] = list_tree(found.repository, found.commit)
        return repository_path(full[len(above) + 1 :]) in self._trees[link]


def _compare(
    held: Mapping[bytes, Held], wanted: _Wanted, leftovers: _Leftovers, max_removed: float
) -> tuple[list[Change], DatasetCounts]:
    """Return the changes of main, removals first, and their counts."""
    changes: list[Change] = []
    removed = renamed = 0
    for path, entry in held.items():
        if path in wanted.files:
            continue
        own = OWN.match(path) or entry.mode == COMMIT
        fate = "removed" if own else leftovers.fate(path)
        if fate != "stays":
            changes.append(Change(path, None))
        removed += not own and fate == "removed"
        renamed += fate == "renamed"
    added = changed = 0
    for path, (mode, data) in wanted.files.items():
        before = held.get(path)
        sha = data if mode == COMMIT else blob_sha(data)
        if before is not None and before.mode == mode and before.sha == sha:
            continue
        changes.append(Change(path, mode, data))
        if not OWN.match(path) and mode != COMMIT:
            fresh = before is None or before.mode == COMMIT
            added += fresh
            changed += not fresh
    total = sum(1 for path, entry in held.items() if not OWN.match(path) and entry.mode != COMMIT)
    if removed and removed > max_removed * total:
        raise LadingError(
            f"{removed:,} of {counted(total, 'file')} would be removed, more than max_removed allows "
            f"({max_removed:g}); if that is right, run again with --gc-assets"
        )
    return changes, DatasetCounts(added - renamed, changed + renamed, removed)


def _message(
    dataset: Dataset,
    rules: Rules,
    counts: DatasetCounts,
    held: Mapping[bytes, Held],
    content: Content,
) -> str:
    """Return the commit message: what changed in this tree, never what else a run did."""
    links = content.links
    lines = [f"Mirror: {counts}" if held or counts or not links else "Mirror: subdatasets"]
    if dataset.kind == "super":
        before = {path: entry.sha.decode() for path, entry in held.items() if entry.mode == COMMIT}
        new = sum(1 for path in links if path not in before)
        moved = sum(1 for path, link in links.items() if before.get(path, link.commit) != link.commit)
        gone = sum(1 for path in before if path not in links)
        lines[0] = f"Mirror: {counted(new, 'dataset')} added, {moved} updated, {gone} removed"
        if counts:
            lines += ["", str(counts)]
    if content.label:
        lines[0] = f"Mirror: {content.label}; {counts}"
    return (
        "\n".join([*lines, "", f"Source: {printable(rules.source)}", f"Manifest: {rules.manifest(dataset.path)}"])
        + "\n"
    )
