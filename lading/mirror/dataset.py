"""Brings one dataset to what the manifest says: compare, plan, write.

Input: the rows of the dataset and its repository. Output: at most one commit
on git-annex and one on main.
Invariant: compared by object ids, content is never read; equal input gives
equal commits; nothing is removed unless a complete manifest lacks it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path

from lading.checksums.zarr_checksum import ZarrSums
from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, LadingError
from lading.core.progress import counted
from lading.mirror.engine import DatasetEngine, DatasetUpdate
from lading.mirror.git.annex import AnnexAccess, KeyPlaces, ObjectAddress, blob_sha
from lading.mirror.git.annex_keys import link_target, make_key, plain_suffix, suffixes
from lading.mirror.git.commands import Held, commit_epoch, list_tree, read_blobs, resolve, run, tree_entries
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

    ``tagged`` is how many versions were published, ``failed`` those that could not be, and why; ``lost`` those that no
    later run can publish.
    """

    commit: str
    counts: DatasetCounts
    moved: bool
    tagged: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SubdatasetLink:
    """A subdataset: the commit to link, and the repository that has it."""

    commit: str
    repository: Path


@dataclass(frozen=True)
class Content:
    """What a dataset shall hold.

    rows      path in the dataset, and row; read once
    extra     more files of its own
    links     its subdatasets by path
    since     earliest date of a commit, seconds since 1970
    expected  False makes any change a ``ConsistencyError`` (mode verify)
    label     what the commit's message begins with
    """

    rows: Iterable[tuple[str, ManifestRow]]
    extra: Mapping[bytes, bytes]
    links: Mapping[bytes, SubdatasetLink]
    since: int = 0
    expected: bool = True
    label: str = ""


class _Wanted:
    """The tree that should be: keys of what git-annex holds, and mode and data of all else.

    ``places`` is where each key's content is, ``epoch`` the latest time of a row, ``sums`` what a Zarr checksum needs.
    Of a million chunks nothing is held twice: a link's target follows from its path and its key.
    """

    def __init__(self) -> None:
        self.files: dict[bytes, tuple[bytes, bytes]] = {}
        self.keys: dict[bytes, bytes] = {}
        self.places = KeyPlaces()
        self.epoch = 0
        self.sums: ZarrSums | None = ZarrSums()

    def __contains__(self, path: bytes) -> bool:
        return path in self.keys or path in self.files

    def __iter__(self) -> Iterator[bytes]:
        return chain(self.keys, self.files)

    def __len__(self) -> int:
        return len(self.keys) + len(self.files)

    def put(self, path: bytes, mode: bytes, data: bytes) -> None:
        """Let ``path`` be a file or a link to a subdataset, whatever it was."""
        self.keys.pop(path, None)
        self.files[path] = (mode, data)

    def entry(self, path: bytes) -> tuple[bytes, bytes]:
        """Return mode and data of a path."""
        key = self.keys.get(path)
        return self.files[path] if key is None else (LINK, link_target(path, key))

    def mode(self, path: bytes) -> bytes | None:
        """Return the mode of a path, or None where nothing should be."""
        if path in self.keys:
            return LINK
        return self.files[path][0] if path in self.files else None


class _Changes(Collection[Change]):
    """Removals, then what is to be written, sorted by path; each is made when it is asked for."""

    def __init__(self, removed: list[bytes], written: Iterable[bytes], wanted: _Wanted) -> None:
        self._removed, self._written, self._wanted = removed, sorted(written), wanted

    def __len__(self) -> int:
        return len(self._removed) + len(self._written)

    def __iter__(self) -> Iterator[Change]:
        yield from (Change(path, None) for path in self._removed)
        yield from (Change(path, *self._wanted.entry(path)) for path in self._written)

    def __contains__(self, change: object) -> bool:
        return any(change == other for other in self)


@lru_cache(maxsize=4096)
def epoch_of(uploaded_at: str) -> int:
    """Return seconds since 1970 of an ISO 8601 time."""
    return int(datetime.fromisoformat(uploaded_at).timestamp())


def is_known(row: ManifestRow) -> bool:
    """Tell whether git-annex can know the content of a row."""
    return bool(row.sha256 or row.md5 or row.level == SIZE_ONLY)


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
    dataset: Dataset, rows: Iterable[tuple[str, ManifestRow]], held: Mapping[bytes, Held], rules: Rules
) -> _Wanted:
    wanted = _Wanted()
    faults: list[str] = []
    lacking = 0
    unusual: list[tuple[bytes, ManifestRow]] = []
    for name, row in rows:
        if not is_known(row):
            lacking += 1
            faults += [f"{row.path}: the manifest has no checksum for it"] if lacking <= _MOST_FAULTS else []
            continue
        wanted.epoch = max(wanted.epoch, epoch_of(row.uploaded_at))
        if row.md5 is None:
            wanted.sums = None
        elif dataset.kind == "zarr" and wanted.sums is not None:
            wanted.sums.add(name, row.md5, row.size)
        path = repository_path(to_bytes(name))
        suffix = plain_suffix(path.rpartition(b"/")[2])
        if suffix is None:
            unusual.append((path, row))
        else:
            _want_row(dataset, wanted, path, row, suffix, held.get(path), rules)
    if faults:
        more = f"; and {lacking - _MOST_FAULTS:,} more" if lacking > _MOST_FAULTS else ""
        raise ConsistencyError(
            "; ".join(faults)
            + more
            + "; git-annex knows content by a checksum, so read these objects once: make verify "
            "verify_flags=--adopt=download"
        )
    # In one question to git-annex.
    asked = suffixes((path.rpartition(b"/")[2] for path, _ in unusual), dataset.repository)
    for path, row in unusual:
        _want_row(dataset, wanted, path, row, asked[path.rpartition(b"/")[2]], held.get(path), rules)
    return wanted


def _want_row(
    dataset: Dataset,
    wanted: _Wanted,
    path: bytes,
    row: ManifestRow,
    suffix: bytes,
    before: Held | None,
    rules: Rules,
) -> None:
    """Add a row to the tree that should be."""
    if path in wanted:
        raise ConsistencyError(f"{row.path}: two rows of the manifest are the same file")
    key = key_of(dataset, row, suffix)
    place = ObjectAddress(row.key, row.version_id, epoch_of(row.uploaded_at))
    if (
        dataset.kind != "zarr"
        and rules.text.eligible(row)
        and not (before and before.mode == LINK and before.sha == blob_sha(link_target(path, key)))
    ):
        content = _text(dataset, row, place, before, rules)
        if content is not None:
            wanted.files[path] = (FILE, content)
            return
    wanted.keys[path] = key
    wanted.places.add(key, place)


def _text(dataset: Dataset, row: ManifestRow, place: ObjectAddress, before: Held | None, rules: Rules) -> bytes | None:
    if before and before.mode == FILE:
        (content,) = read_blobs(dataset.repository, [before.sha])
        if proven(row, content):
            return content
    return rules.text.read(row, place)


def own_files(dataset: Dataset, sums: ZarrSums | None, rules: Rules) -> dict[bytes, bytes]:
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
    if dataset.kind == "zarr" and sums is not None and rules.whole(dataset.path):
        files[CHECKSUM_FILE] = sums.checksum().encode() + b"\n"
    return files


def update_dataset(dataset: Dataset, content: Content, rules: Rules, engine: DatasetEngine) -> DatasetOutcome:
    """Bring ``dataset`` to its ``content`` and return what happened."""
    parent = resolve(dataset.repository, MAIN)
    held = list_tree(dataset.repository, parent) if parent else {}
    wanted = _want(dataset, content, held, rules)
    leftovers = _Leftovers(dataset, wanted, content.links, check_tree(wanted), rules)
    changes, counts = _compare(held, wanted, leftovers, rules.max_removed)
    if counts and not content.expected:
        raise ConsistencyError(f"mode verify: {counts}, but no object is newer than at the last update")
    epoch = max(content.since, wanted.epoch)
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
    for path, data in {**own_files(dataset, wanted.sums, rules), **content.extra}.items():
        wanted.put(path, FILE, data)
    wanted.sums = None  # its memory serves the comparison
    for path, link in content.links.items():
        if path in wanted:
            raise ConsistencyError(f"{to_text(path)} is both a file and a subdataset")
        wanted.put(path, COMMIT, link.commit.encode())
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
    there = sum(1 for path, entry in tree_entries(dataset.repository, commit) if wanted.mode(path) == entry.mode)
    if there == len(wanted):
        return
    tree = list_tree(dataset.repository, commit)
    lost = [path for path in wanted if path not in tree or tree[path].mode != wanted.mode(path)]
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
            if above in self._wanted:
                return "removed"  # its directory is a file now
        if path in self._directories:
            return "removed"  # it is a directory now
        original = original_path(path)
        if original is not None:
            name = repository_path(original)
            if name != path and name in self._wanted:
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
) -> tuple[_Changes, DatasetCounts]:
    """Return the changes of main, removals first, and their counts."""
    gone: list[bytes] = []
    removed = renamed = 0
    for path, entry in held.items():
        if path in wanted:
            continue
        own = OWN.match(path) or entry.mode == COMMIT
        fate = "removed" if own else leftovers.fate(path)
        if fate != "stays":
            gone.append(path)
        removed += not own and fate == "removed"
        renamed += fate == "renamed"
    written: list[bytes] = []
    added = changed = 0
    for path in wanted:
        before, mode = held.get(path), wanted.mode(path)
        if before is not None and before.mode == mode and before.sha == _sha(wanted, path):
            continue
        written.append(path)
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
    return _Changes(gone, written, wanted), DatasetCounts(added - renamed, changed + renamed, removed)


def _sha(wanted: _Wanted, path: bytes) -> bytes:
    mode, data = wanted.entry(path)
    return data if mode == COMMIT else blob_sha(data)


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
