"""A tree's columns in memory that other processes of this host can map, without a file.

Input: a tree as read, or where another process holds one. Output: the tree
over one mapping, and the address that others open.
Invariant: the memory is sealed, so nobody can write into it, and belongs to
processes alone: with the last one of them it is gone, however it ended. What
is opened is the memory that the address names, or nothing is.
"""

import fcntl
import mmap
import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from lading.tree.json_reader import ReadTree
from lading.tree.size_tree import FlatTree

WRITTEN = 1 << 26  # bytes at a time


@dataclass(frozen=True)
class TreeAddress:
    """Where a process holds a sealed tree, and how long its columns are.

    pid, descriptor   the open memory of the process
    device, inode     those of the memory itself
    nodes, names      how many nodes the tree has, and how many bytes their names take
    timed             whether it has times
    sha256            the digest (hex) of the text that the tree was read from
    """

    pid: int
    descriptor: int
    device: int
    inode: int
    nodes: int
    names: int
    timed: bool
    sha256: str

    @property
    def bytes(self) -> int:
        """How much memory the columns take."""
        return self.nodes * (8 * (3 + self.timed) + 1) + 8 + self.names


def seal_tree(found: list[ReadTree]) -> tuple[ReadTree, TreeAddress]:
    """Move the one tree of a list into sealed memory; returns it as it lies there, and where.

    The list is emptied, and each column freed once it was moved: no more than one of them exists twice. Raises
    ``OSError`` where this system has no such memory, or not enough; the tree is lost then.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError("this Python or system has no memfd")
    tree, sha256 = found[0].tree, found.pop().sha256
    nodes, names, timed = len(tree), len(tree.names), tree.mtimes is not None
    # Wide columns first, so that each begins at a multiple of its width.
    columns = [tree.sizes, tree.ends, tree.offsets, *([] if tree.mtimes is None else [tree.mtimes]), tree.types]
    remaining: list[array[int] | bytes | bytearray] = [*columns, tree.names]
    del tree, columns
    descriptor = os.memfd_create("lading-tree", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        while remaining:
            _write(descriptor, memoryview(remaining.pop(0)).cast("B"))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
        # Sealed memory can be mapped by who opened it for reading alone.
        kept = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)
    state = os.fstat(kept)
    address = TreeAddress(os.getpid(), kept, state.st_dev, state.st_ino, nodes, names, timed, sha256)
    return _map(kept, address), address


def open_tree(address: TreeAddress) -> ReadTree | None:
    """Return the tree that another process of this host holds; None where it cannot be reached from here."""
    with suppress(OSError):
        # Not to open a device or a pipe by a number that means something else here.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(f"/proc/{address.pid}/fd/{address.descriptor}", flags)
        try:
            state = os.fstat(descriptor)
            if (state.st_dev, state.st_ino, state.st_size) != (address.device, address.inode, address.bytes):
                return None
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _seals() != _seals():
                return None
            return _map(descriptor, address)
        finally:
            os.close(descriptor)  # the mapping has its own
    return None


def _seals() -> int:
    return fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data[:WRITTEN]) :]


def _map(descriptor: int, address: TreeAddress) -> ReadTree:
    whole = memoryview(mmap.mmap(descriptor, address.bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))

    def cut() -> Iterator[memoryview]:
        start = 0
        for length in (address.nodes, address.nodes, address.nodes + 1, address.nodes * address.timed):
            yield whole[start : start + 8 * length].cast("q")
            start += 8 * length
        yield whole[start : start + address.nodes].cast("b")
        yield whole[start + address.nodes :]

    sizes, ends, offsets, mtimes, types, names = cut()
    # What readers of a tree ask of an array, a view answers too; it cannot be written to.
    wide = [cast("array[int]", column) for column in (types, sizes, ends, offsets, mtimes)]
    tree = FlatTree(wide[0], wide[1], wide[2], cast("bytes", names), wide[3], wide[4] if address.timed else None)
    return ReadTree(tree, address.sha256)
