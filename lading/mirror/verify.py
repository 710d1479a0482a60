"""Checks the mirror against the manifest and git's own rules; changes nothing.

Input: the stores and a manifest. Output: findings, a sentence each.
Invariant: no finding means: every row is in its dataset under its key, every
key has a place, every link leads to a commit that is there, and git finds no
damage.
"""

import os
import re
from collections.abc import Iterator

from lading.formats.manifest import Manifest
from lading.mirror.annex import Access
from lading.mirror.dataset import ANNEX, MAIN
from lading.mirror.git import list_tree, read_blobs, resolve, succeeds
from lading.mirror.keys import key_of_target, lower_directory
from lading.mirror.layout import Dataset, Layout
from lading.mirror.split import Splitter, repository_path, zarr_roots
from lading.mirror.superdataset import read_records
from lading.mirror.survey import RowSource, gather, survey

_KEY = re.compile(rb"(SHA256E|MD5E)-s(\d+)--([0-9a-f]+)")


def verify(layout: Layout, manifest: Manifest, access: Access) -> Iterator[str]:
    """Yield what is wrong."""
    superdataset = layout.dataset("super", "")
    if resolve(superdataset.repository, MAIN) is None:
        yield f"{superdataset.repository} has no commit; run: make mirror"
        return
    records = read_records(superdataset).datasets
    rows_of = RowSource(manifest)
    zarrs = zarr_roots(rows_of)
    splitter = Splitter(layout.config.split_by, zarrs)
    only = re.compile(layout.config.asset_filter) if layout.config.asset_filter else None
    surveys = survey(rows_of, splitter, only)
    for path in surveys.keys() - records.keys():
        yield f"{path}: not in the superdataset"
    known = {path for path in surveys if path in records}
    for path, rows in gather(rows_of, splitter, surveys, known, only):
        dataset = layout.dataset("zarr" if path in zarrs else "session" if path else "super", path)
        wanted = {repository_path(os.fsencode(p)): (row.size, {row.sha256, row.md5} - {None}) for p, row in rows}
        yield from (f"{path or 'superdataset'}: {finding}" for finding in _verify_one(dataset, wanted, access))
    for path, record in sorted(records.items()):
        if path and resolve(layout.dataset(record.kind, path).repository, MAIN) != record.commit:
            yield f"{path}: its repository is not at the commit that the superdataset names; run: make mirror"


def _verify_one(dataset: Dataset, wanted: dict[bytes, tuple[int, set[str | None]]], access: Access) -> Iterator[str]:
    repository = dataset.repository
    if not succeeds(["fsck", "--strict", "--connectivity-only", "--no-dangling"], repository):
        yield f"git fsck finds damage in {repository}"
        return
    commit = resolve(repository, MAIN)
    if commit is None:
        yield f"{repository} has no branch main"
        return
    tree = list_tree(repository, commit)
    links = {path: entry.sha for path, entry in tree.items() if entry.mode == b"120000"}
    keys = {
        path: key_of_target(target) for path, target in zip(links, read_blobs(repository, links.values()), strict=True)
    }
    annex = list_tree(repository, ANNEX) if resolve(repository, ANNEX) else {}
    suffix = b".log.rmet" if access.remote else b".log.web"
    for path, key in keys.items():
        match = _KEY.match(key or b"")
        if key is None or not match:
            yield f"{os.fsdecode(path)}: no key with a checksum"
        elif lower_directory(key) + key + suffix not in annex:
            yield f"{os.fsdecode(path)}: nowhere to get {key.decode('ascii', 'replace')} from"
        elif path in wanted and (int(match[2]), match[3].decode()) not in {
            (wanted[path][0], d) for d in wanted[path][1]
        }:
            yield f"{os.fsdecode(path)}: its key is not of the content in the manifest"
    for path in wanted.keys() - tree.keys():
        yield f"{os.fsdecode(path)}: in the manifest, not in the dataset"
