"""Checks the mirror against the manifest and git's own rules; changes nothing.

Input: the stores and a manifest. Output: findings, a sentence each.
Invariant: no finding means: every row is in its dataset under its key or with
its proven content, every key can be had in the version of the manifest, a
complete manifest has every file, every link leads to a commit that is there,
and git finds no damage.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.core.progress import counted
from lading.mirror.dataset import ANNEX, MAIN, OWN, address_digest
from lading.mirror.git.annex import MOST_PLACES, AnnexAccess, ObjectAddress, states
from lading.mirror.git.annex_keys import key_of_target, lower_directory
from lading.mirror.git.commands import list_tree, read_blobs, resolve, succeeds
from lading.mirror.git.fast_import import COMMIT, LINK
from lading.mirror.git.portable_names import original_path, repository_path, to_bytes, to_text
from lading.mirror.group_rows import Rows
from lading.mirror.layout import Dataset, MirrorLayout
from lading.mirror.source import ManifestSource
from lading.mirror.split import link_parents
from lading.mirror.structure import Rule, children_of, lay_out, rows_by_dataset
from lading.mirror.superdataset import DatasetRecord, read_records
from lading.mirror.text_files import proven
from lading.verification.manifest import ManifestRow

_KEY = re.compile(rb"(SHA256E|MD5E|URL)-s(\d+)--([0-9a-f]+)")


def verify(layout: MirrorLayout, source: ManifestSource, access: AnnexAccess) -> Iterator[str]:
    """Yield what is wrong."""
    yield from (f"{file}: {reason}" for file, reason in source.failed.items())
    superdataset = layout.dataset("super", "")
    if resolve(superdataset.repository, MAIN) is None:
        yield f"{superdataset.repository} has no commit; run: make mirror"
        return
    records = read_records(superdataset).datasets
    only = re.compile(layout.config.asset_filter) if layout.config.asset_filter else None

    def whole(path: str) -> bool:
        return only is None and source.covers(path)

    structure = lay_out(source, records, Rule(layout.config.split_by, only, whole))
    structure.check()
    surveys = {path: seen for path, seen in structure.surveys.items() if seen.objects or not path}
    for path in sorted(surveys.keys() - records.keys()):
        yield f"{path}: not in the superdataset"
    for path in structure.vanished:
        yield f"{path}: in the superdataset, not in the manifest"
    known = {path for path in surveys if path in records}
    for path, rows in rows_by_dataset(source, structure, known, only):
        dataset = layout.dataset(structure.kinds[path], path)
        found = _verify_one(dataset, rows, access, _Gone(whole, _attached(source, path)))
        yield from (f"{path or 'superdataset'}: {finding}" for finding in found)
    for path, record in sorted(records.items()):
        if path and resolve(layout.dataset(record.kind, path).repository, MAIN) != record.commit:
            yield f"{path}: its repository is not at the commit that the superdataset names; run: make mirror"
    reached: set[str] = {""}
    yield from _verify_links(layout, records, reached)
    for path in sorted(known - reached):
        yield (
            f"{path}: nothing links it, so clones do not have its "
            f"{counted(surveys[path].objects, 'file')}; run: make mirror"
        )


@dataclass(frozen=True)
class _Gone:
    """Tells of a path that no row has whether it should be gone from its dataset."""

    whole: Callable[[str], bool]
    attached: frozenset[str]

    def __call__(self, path: str) -> bool:
        return path not in self.attached and self.whole(path)


def _attached(source: ManifestSource, path: str) -> frozenset[str]:
    """Return the files of a dataset that an importer put beside its manifest, by their path in the mirror."""
    note = source.notes.get(path)
    return frozenset(f"{path}/{name}" for name in note.attached) if note else frozenset()


def _verify_links(layout: MirrorLayout, records: Mapping[str, DatasetRecord], reached: set[str]) -> Iterator[str]:
    """Walk the links from the superdataset, fill ``reached``, and yield where links and records differ."""
    children = children_of(link_parents(records))
    waiting = [""]
    while waiting:
        path = waiting.pop()
        record = records[path]
        if record.kind == "zarr" and path not in children:
            continue
        dataset = layout.dataset(record.kind, path)
        commit = resolve(dataset.repository, MAIN)
        if commit is None:
            continue
        wanted = {layout.dataset(records[c].kind, c).below(dataset): c for c in children.get(path, ())}
        tree = list_tree(dataset.repository, commit)
        linked = {name: entry.sha.decode() for name, entry in tree.items() if entry.mode == COMMIT}
        for name in sorted(wanted.keys() | linked.keys()):
            child = wanted.get(name)
            said = records[child].commit if child else "none"
            if linked.get(name) != said:
                yield (
                    f"{path or 'superdataset'}: links {to_text(name)} at {linked.get(name, 'no commit')}, "
                    f"its records say {said}"
                )
            elif child:
                reached.add(child)
                waiting.append(child)


def _verify_one(dataset: Dataset, rows: Rows, access: AnnexAccess, whole: Callable[[str], bool]) -> Iterator[str]:
    repository = dataset.repository
    if not succeeds(["fsck", "--strict", "--no-dangling"], repository):
        yield f"git fsck finds damage in {repository}"
        return
    commit = resolve(repository, MAIN)
    if commit is None:
        yield f"{repository} has no branch main"
        return
    wanted = {repository_path(to_bytes(path)): row for path, row in rows}
    tree = {path: entry for path, entry in list_tree(repository, commit).items() if entry.mode != COMMIT}
    content = dict(zip(tree, read_blobs(repository, [entry.sha for entry in tree.values()]), strict=True))
    keys = {path: key_of_target(content[path]) for path, entry in tree.items() if entry.mode == LINK}
    logs = _logs(repository, keys.values(), b".log.rmet" if access.remote else b".log.web")
    sharing = Counter(keys.values())
    for path, key in keys.items():
        name, row, log = to_text(path), wanted.get(path), logs.get(key or b"")
        match = _KEY.match(key or b"")
        if key is None or not match:
            yield f"{name}: no key with a checksum"
        elif log is None:
            yield f"{name}: nowhere to get {key.decode('ascii', 'replace')} from"
        elif row and (int(match[2]), match[3].decode()) not in _digests(row):
            yield f"{name}: its key is not of the content in the manifest"
        elif row and dataset.kind != "zarr" and sharing[key] <= MOST_PLACES and not _has_place(log, row, access):
            yield f"{name}: its version in the manifest is not among the places of its key"
    for path in wanted.keys() & tree.keys() - keys.keys():
        if not proven(wanted[path], content[path]):
            yield f"{to_text(path)}: its content is not that in the manifest"
    for path in sorted(wanted.keys() - tree.keys()):
        yield f"{to_text(path)}: in the manifest, not in the dataset"
    above = f"{dataset.path}/" if dataset.path else ""
    for path in sorted(tree.keys() - wanted.keys()):
        if not OWN.match(path) and whole(above + to_text(original_path(path) or path)):
            yield f"{to_text(path)}: in the dataset, not in the manifest"


def _digests(row: ManifestRow) -> set[tuple[int, str | None]]:
    """Return the size and digests that the key of a row may have."""
    if row.sha256 or row.md5:
        return {(row.size, row.sha256), (row.size, row.md5)}
    return {(row.size, address_digest(row))}


def _logs(repository: Path, keys: Iterable[bytes | None], suffix: bytes) -> dict[bytes, bytes]:
    """Return the log of every key that has one."""
    annex = list_tree(repository, ANNEX) if resolve(repository, ANNEX) else {}
    found = {key: annex.get(lower_directory(key) + key + suffix) for key in keys if key}
    present = [(key, entry.sha) for key, entry in found.items() if entry]
    return {
        key: log for (key, _), log in zip(present, read_blobs(repository, [sha for _, sha in present]), strict=True)
    }


def _has_place(log: bytes, row: ManifestRow, access: AnnexAccess) -> bool:
    lines = access.logs([ObjectAddress(row.key, row.version_id, 0)])
    return states(log, lines[b".log.rmet" if access.remote else b".log.web"])
