"""What a walk is told and what it answers: the interface of both walks.

Input: nothing. Output: ``Options``, ``Walker`` and the numbers that they use.
Invariant: knows neither walk.
"""

import os
from array import array
from dataclasses import dataclass
from typing import Protocol

from lading.tree.globs import Glob

TREE, NCDU = 0, 1
# Which entries ``Walker.entries`` names: links, what is neither file nor directory and empty directories; or the rest.
SPECIAL, REST = 0, 1
# Where file systems show earlier states of a directory, and the number by which a walk reports one among its faults.
SNAPSHOTS = (".snapshot", ".snapshots", ".zfs", ".ckpt")
SNAPSHOT = -1


@dataclass(frozen=True)
class Options:
    """What the walk does.

    links       record (type 2, not followed), follow (as what they lead to, loops recorded) or skip
    exclude     patterns of entries to leave out, directories with all below them
    hard_links  each (every name of a file has its size) or once (the first in canonical order has it)
    form        TREE, or NCDU: then blocks are asked for too
    rate        metadata operations a second of this process, 0 for no cap
    log_depth   directories down to this depth are reported when they are opened, -1 for none
    metadata    attributes of every entry are recorded after the walk
    stamps      each directory's inode and times are kept, for a crawl that looks only at what changed since
    """

    workers: int = 32
    links: str = "record"
    mtime: bool = False
    one_file_system: bool = False
    exclude: tuple[Glob, ...] = ()
    hard_links: str = "each"
    form: int = TREE
    rate: float = 0.0
    log_depth: int = -1
    metadata: bool = False
    stamps: bool = False


class Walker(Protocol):
    """One walk; every method is called from one thread.

    Paths are bytes below the root, the root itself is empty.
    """

    def know(
        self,
        types: "array[int]",
        sizes: "array[int]",
        ends: "array[int]",
        names: bytes | bytearray,
        offsets: "array[int]",
        mtimes: "array[int] | None",
        stamps: bytes,
        /,
    ) -> None:
        """Take an earlier crawl's tree (``FlatTree``) before the start: what did not change of it is not listed.

        ``stamps`` are as of the method of that name. Raises ``ValueError`` for a tree that does not fit this walk.
        """

    def stamps(self, limit: int, room: int, /) -> bytes:
        """Return inode, mtime and ctime of the next directories of a settled tree, 24 bytes each; empty at the end.

        Zeros for one that may have changed since it was read: at ``limit`` (ns since 1970) or later, or it holds what
        is neither file, link nor directory.
        """

    def unchanged(self) -> int:
        """Return how many directories of a settled tree are as the earlier crawl had them."""

    def start(self) -> None: ...  # noqa: D102
    def wait(self, seconds: float, /) -> bool:
        """Return after ``seconds``, or with True as soon as nothing is left to do here."""

    def stop(self) -> None:
        """Drop what is left; ``wait`` then ends soon. Such a walk has no result: ``settle`` and ``shard`` refuse it."""

    def end(self) -> None:
        """Join the threads."""

    def state(self) -> tuple[int, int, int, int]:
        """Return (entries, bytes, directories waiting, threads without work)."""

    def slowest(self) -> tuple[bytes, float] | None:
        """Return the directory that takes longest now, after the end the one that did, and its seconds."""

    def logged(self) -> list[bytes]:
        """Return the directories down to ``log_depth`` opened since the last call."""

    def faults(self) -> list[tuple[bytes, int]]:
        """Return what could not be read with its errno, and directories of snapshots with ``SNAPSHOT``."""

    def take(self, most: int, /) -> list[tuple[int, bytes, int, bytes]]:
        """Lend directories that wait: (number, path, depth, ancestors); 0 says that nobody asks any more."""

    def give(self, rank: int, number: int, path: bytes, depth: int, ancestors: bytes, /) -> None:
        """Borrow a directory."""

    def shard(self, index: int, /) -> bytes | None:
        """Return what the ``index``-th borrowed directory holds, None beyond the last."""

    def add_shard(self, rank: int, data: bytes, /) -> None:
        """Take in what a rank found; all must be in before ``settle``."""

    def settle(self) -> tuple[int, int, int, int, int, int]:
        """Sum up; return (entries, files, directories, links, others, bytes). Once only.

        Raises ``OverflowError`` when the sizes do not add up in 64 bits.
        """

    def render(self, form: int, depth: int, room: int, /) -> bytes:
        """Return the next piece of text, at most ``room`` bytes; empty at the end. ``depth`` -1 is all."""

    def entries(self, which: int, room: int, /) -> bytes:
        """Return the next entries of a settled tree, at most ``room`` bytes; empty at the end.

        Of each a letter (d, e for a directory without entries, f, l, o for what else there is), its path and a NUL.
        """


def root_name(root: str) -> str:
    """Return the name of the root's node: the base name of its absolute path, ``/`` for the root of all."""
    return os.path.basename(os.path.abspath(root)) or "/"
