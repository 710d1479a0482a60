"""Writes git objects straight into one pack and its index.

Input: objects, and trees as sorted entries. Output: ``pack-<digest>.pack`` and ``.idx`` in a repository.
Invariant: pack and index are whole or not there, and each object is in them
once. Of an object 32 bytes are in memory, so a million files take no more than a list of them.

``git fast-import`` looks through a whole directory for every file that it puts there, and keeps every tree: a
directory of a million chunks takes it hours, and git-annex' branch has as many directories as keys.

Source of the format: gitformat-pack(5), packs of version 2 and indexes of version 2.
"""

import hashlib
import os
import struct
import zlib
from array import array
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {b"commit": 1, b"tree": 2, b"blob": 3}
_BLOCK = 1 << 20
# Up to here an object gets a small window: setting up a large one takes five times as long as compressing 100 bytes.
_SMALL = 1024
# What is written again and again, as git-annex' location logs are, is mostly found among the latest.
_RECENT = 100_000
_FAR = 1 << 31


class PackFile:
    """One pack that is being written to ``repository``; ``finish`` puts it in place, ``abandon`` removes it."""

    def __init__(self, repository: Path) -> None:
        self._directory = repository / "objects" / "pack"
        self._directory.mkdir(parents=True, exist_ok=True)
        # git calls its own half packs so, and what a killed run leaves is removed by this name.
        self._path = self._directory / "tmp_pack_lading"
        self._path.unlink(missing_ok=True)
        self._stream = open(self._path, "wb+", buffering=_BLOCK)  # noqa: SIM115 - closed by finish or abandon
        self._stream.write(b"PACK" + struct.pack(">II", 2, 0))
        self._at = self._stream.tell()
        self._ids = bytearray()
        self._offsets, self._sums = array("Q"), array("I")
        self._recent: dict[bytes, None] = {}

    def add(self, kind: bytes, data: bytes) -> bytes:
        """Write an object, unless it was among the latest; returns its id, 20 bytes."""
        name = hashlib.sha1(b"%b %d\0%b" % (kind, len(data), data), usedforsecurity=False).digest()
        if name in self._recent:
            return name
        if len(self._recent) >= _RECENT:
            self._recent.clear()
        self._recent[name] = None
        small = len(data) <= _SMALL
        deflate = zlib.compressobj(6, zlib.DEFLATED, 10, 3) if small else zlib.compressobj(6)
        entry = _head(_KINDS[kind], len(data)) + deflate.compress(data) + deflate.flush()
        self._ids += name
        self._offsets.append(self._at)
        self._sums.append(zlib.crc32(entry))
        self._at += len(entry)
        self._stream.write(entry)
        return name

    def add_tree(self, entries: Iterable[tuple[bytes, bytes, bytes]]) -> bytes:
        """Write the trees of (path, mode, id), sorted by path as bytes, each path once; returns the topmost's id."""
        # In this order the entries of a directory come together, and in git's own order of a tree.
        above, names, bodies = b"", list[bytes](), [bytearray()]
        for path, mode, name in entries:
            directory, _, last = path.rpartition(b"/")
            if directory != above:
                parts = directory.split(b"/") if directory else []
                same = _common(names, parts)
                self._close(names, bodies, same)
                names += parts[same:]
                bodies += (bytearray() for _ in parts[same:])
                above = directory
            bodies[-1] += b"%b %b\0%b" % (mode, last, name)
        self._close(names, bodies, 0)
        return self.add(b"tree", bytes(bodies[0]))

    def _close(self, names: list[bytes], bodies: list[bytearray], depth: int) -> None:
        """Write the open directories below ``depth``."""
        while len(names) > depth:
            name = self.add(b"tree", bytes(bodies.pop()))
            bodies[-1] += b"40000 %b\0%b" % (names.pop(), name)

    def finish(self) -> None:
        """Put the pack and its index in place."""
        order = self._sorted()
        self._stream.seek(8)
        self._stream.write(struct.pack(">I", len(order)))
        self._stream.seek(0)
        digest = hashlib.sha1(usedforsecurity=False)
        while block := self._stream.read(_BLOCK):
            digest.update(block)
        self._stream.write(digest.digest())
        self._settle()
        index = self._path.with_name("tmp_idx_lading")
        with open(index, "wb") as stream:
            checked = hashlib.sha1(usedforsecurity=False)
            for part in (*self._index(order), digest.digest()):
                checked.update(part)
                stream.write(part)
            stream.write(checked.digest())
            stream.flush()
            os.fsync(stream.fileno())
        # The index last: git takes a pack for there once it sees the index.
        final = self._directory / f"pack-{digest.hexdigest()}"
        for path, ending in ((self._path, ".pack"), (index, ".idx")):
            path.chmod(0o444)
            os.replace(path, f"{final}{ending}")

    def abandon(self) -> None:
        """Remove what was written."""
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def _settle(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def _sorted(self) -> Any:
        """Return the objects' numbers in the order of their ids, after taking out those that are there twice."""
        order, twice = _order(self._ids)
        if not len(twice):
            return order
        self._stream.flush()
        drop, held = set(twice.tolist()), self._path.with_name("tmp_pack_lading_whole")
        os.replace(self._path, held)
        ends = [*self._offsets[1:], self._at]
        kept = [number for number in range(len(self._offsets)) if number not in drop]
        with open(held, "rb", buffering=_BLOCK) as old:
            self._stream.close()
            self._stream = open(self._path, "wb+", buffering=_BLOCK)  # noqa: SIM115
            self._stream.write(old.read(12))
            moved = array("Q")
            for number in kept:
                moved.append(self._stream.tell())
                old.seek(self._offsets[number])
                self._stream.write(old.read(ends[number] - self._offsets[number]))
        held.unlink()
        self._ids = bytearray(b"".join(self._ids[20 * number : 20 * number + 20] for number in kept))
        self._sums = array("I", (self._sums[number] for number in kept))
        self._offsets = moved
        return _order(self._ids)[0]

    def _index(self, order: Any) -> Iterable[bytes]:
        """Yield the parts of the index: who begins with which byte, ids, sums, offsets."""
        ids = np.frombuffer(self._ids, np.uint8).reshape(-1, 20)[order]
        offsets = np.frombuffer(self._offsets, np.uint64)[order]
        far = offsets >= _FAR
        near = offsets.astype(np.uint32)
        near[far] = np.arange(np.count_nonzero(far), dtype=np.uint32) | np.uint32(1 << 31)
        yield b"\377tOc" + struct.pack(">I", 2)
        yield np.cumsum(np.bincount(ids[:, 0], minlength=256)).astype(">u4").tobytes()
        yield ids.tobytes()
        yield np.frombuffer(self._sums, np.uint32)[order].astype(">u4").tobytes()
        yield near.astype(">u4").tobytes()
        yield offsets[far].astype(">u8").tobytes()


def commit_object(tree: bytes, parents: Iterable[str], who: tuple[str, str], epoch: int, message: str) -> bytes:
    """Return a commit as git and ``git fast-import`` write it."""
    person = f"{who[0]} <{who[1]}> {epoch} +0000".encode()
    above = b"".join(b"parent %b\n" % parent.encode() for parent in parents)
    text = message.encode("utf-8", "backslashreplace")
    return b"tree %b\n%bauthor %b\ncommitter %b\n\n%b" % (tree.hex().encode(), above, person, person, text)


@lru_cache(maxsize=4096)
def _head(kind: int, size: int) -> bytes:
    """Return what an object of the pack begins with: its kind and its size."""
    found = bytearray([kind << 4 | size & 15])
    size >>= 4
    while size:
        found[-1] |= 0x80
        found.append(size & 0x7F)
        size >>= 7
    return bytes(found)


def _common(left: list[bytes], right: list[bytes]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _order(ids: bytearray) -> tuple[Any, Any]:
    """Return the numbers of 20-byte ids in their order, and those of which an equal one came before."""
    rows = np.frombuffer(ids, np.uint8).reshape(-1, 20)
    first = np.ascontiguousarray(rows[:, :8]).view(">u8")[:, 0]
    second = np.ascontiguousarray(rows[:, 8:16]).view(">u8")[:, 0]
    third = np.ascontiguousarray(rows[:, 16:]).view(">u4")[:, 0]
    order = np.lexsort((third, second, first))
    same = (first[order][1:] == first[order][:-1]) & (second[order][1:] == second[order][:-1])
    same &= third[order][1:] == third[order][:-1]
    return order, order[1:][same]
