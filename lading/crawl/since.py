"""Crawl only what changed: ``find ROOT --since find.json``.

Input: the tree of an earlier crawl with its meta file and its directories.
Output: what a walk needs to leave out directories that are as they were.
Invariant: a directory's names hold only where inode, mtime and ctime are
those of the earlier crawl and both times lie before that crawl by more than
``SLACK_NS``. Everything else is listed. What no directory tells is the
stated limit: a file rewritten in place, under the same name, keeps the size
(and with --mtime the time) that the earlier crawl had.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.core.errors import UsageError
from lading.core.times import LATEST
from lading.crawl.options import Walker
from lading.tree.directory_stamps import StampsHeader, read_stamps, stamps_path, write_stamps
from lading.tree.size_tree import DIRECTORY, FlatTree, meta_path, read_meta

# The steps in which file systems count time are 2 s at most; the rest is for a file server whose clock is behind.
SLACK_NS = 10 * 10**9
ROOM = 1 << 20
# Those whose directories change both times with their names, and whose inodes stay.
_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay")
_SHARED = ("nfs", "nfs4", "lustre", "gpfs", "ceph", "beegfs", "wekafs", "panfs")
PROVING = frozenset((*_LOCAL, *_SHARED))
_WHOLE = "crawl whole: leave --since out"
_COMPARED = ("links", "mtime", "one_file_system", "exclude", "hard_links")


@dataclass(frozen=True)
class EarlierCrawl:
    """The tree of an earlier crawl, and what ``find.meta.json`` of this one says of it."""

    tree: FlatTree
    stamps: bytes
    record: Mapping[str, Any]

    def give_to(self, walker: Walker) -> None:
        """Let a walk that has not begun know it."""
        tree = self.tree
        walker.know(tree.types, tree.sizes, tree.ends, tree.names, tree.offsets, tree.mtimes, self.stamps)


def describe_file_system(root: str) -> tuple[str, str]:
    """Return type and source of the file system that a directory is on; empty where that is not told."""
    real, found, longest = os.path.realpath(root), ("", ""), -1
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            lines = [line.split() for line in stream]
    except OSError:
        return found
    for fields in lines:
        point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
        place = os.fsdecode(point).rstrip("/")
        # A later mount covers an earlier one of the same place.
        if (real == place or real.startswith(place + "/")) and len(place) >= longest and "-" in fields:
            kind, source = fields[fields.index("-") + 1 :][:2]
            found, longest = (kind, source), len(place)
    return found


def read_earlier(path: Path, root: str, settings: Mapping[str, Any]) -> EarlierCrawl:
    """Return the earlier crawl of a tree file; ``UsageError`` when nothing can be proven by it.

    ``settings`` are those of this crawl, as ``find.meta.json`` will have them.
    """
    from lading.tree.json_reader import read_tree  # here: a crawl seldom reads a tree

    for needed in (path, meta_path(path)):
        if not needed.exists():
            raise UsageError(
                f"--since needs {needed}, which is missing; give the tree of an earlier crawl, or {_WHOLE}"
            )
    meta = read_meta(meta_path(path))
    if "from" in meta.settings:
        raise UsageError(f"{path} was made from a list, which tells nothing of directories; {_WHOLE}")
    if os.path.realpath(meta.root) != os.path.realpath(root):
        raise UsageError(f"{path} is of {meta.root}, not of {root}; {_WHOLE}")
    if meta.settings.get("depth") is not None:
        raise UsageError(f"{path} ends at --depth {meta.settings['depth']}; {_WHOLE}")
    differing = [name for name in _COMPARED if meta.settings.get(name) != settings.get(name)]
    if differing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in differing)
        raise UsageError(f"{path} was crawled with other settings ({flags}); crawl as then, or {_WHOLE}")
    found = read_tree(path)
    if found.sha256 != meta.sha256:
        raise UsageError(f"{path} is not the file that {meta_path(path).name} describes: it was edited; {_WHOLE}")
    given = read_stamps(stamps_path(path), found.sha256, found.tree.types.count(DIRECTORY))
    _check_file_system(path, root, given.header)
    since = meta.settings.get("since")
    whole = since.get("whole_started") if isinstance(since, dict) else None
    record = {"sha256": found.sha256, "started": meta.started, "whole_started": whole or meta.started}
    return EarlierCrawl(found.tree, given.stamps, record)


def _check_file_system(path: Path, root: str, header: StampsHeader) -> None:
    kind, source = describe_file_system(root)
    if kind not in PROVING:
        name = f"of type {kind}" if kind else "of a type that is not told"
        raise UsageError(f"{root} is on a file system {name}, whose directory times do not show what changed; {_WHOLE}")
    if (kind, source) != header.file_system:
        before = " ".join(header.file_system)
        raise UsageError(f"{root} is on {kind} {source}, but was on {before} when {path} was made; {_WHOLE}")
    if header.uid != os.geteuid():
        raise UsageError(f"{path} was made by user {header.uid}, who may read other directories than you; {_WHOLE}")
    if header.started_ns > time.time_ns():
        raise UsageError(
            f"{path} was begun later than the clock of this host says it is now; set it right, or {_WHOLE}"
        )


def record_stamps(output: Path, walker: Walker, root: str, sha256: str, started_ns: int) -> None:
    """Write inode and times of the tree's directories beside it."""
    limit = min(started_ns - SLACK_NS, LATEST)

    def pieces() -> Iterator[bytes]:
        while piece := walker.stamps(limit, ROOM):
            yield piece

    header = StampsHeader(sha256, started_ns, describe_file_system(root), os.geteuid())
    write_stamps(stamps_path(output), header, pieces())
