"""Which files and objects of a plan are read, when not all of them are to be.

Input: an inventory; how many files, or how many bytes. Output: whether a file
is in the sample.
Invariant: another sample each time, every file as likely as any other; a
sample of bytes never holds more than these.
"""

import hashlib
import secrets
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lading.core.command_line import parse_size
from lading.plan.objects import PlannedObjects


@dataclass(frozen=True)
class SourceRequest:
    """How much of the source is to be read; ``files`` and ``bytes`` None: all of it."""

    files: int | None = None
    bytes: int | None = None


def parse_source(text: str) -> SourceRequest:
    """Return what ``--source=`` asks for: ``all``, a number of files, or a size with its unit; ``ValueError``."""
    if text == "all":
        return SourceRequest()
    if text.isascii() and text.isdigit():
        return SourceRequest(files=int(text[:18]))
    return SourceRequest(bytes=parse_size(text))


class FileSample:
    """The local files that are read although nothing speaks against them; ``request`` None: no file."""

    def __init__(self, request: SourceRequest | None) -> None:
        self._request = request
        self._salt = secrets.token_bytes(16)
        whole = request is not None and request.files is None and request.bytes is None
        self._bound = 1 << 64 if whole else 0
        self._largest: int | None = None
        self.too_large = 0  # files that no sample of so many bytes can hold

    def describe(self) -> str | int | None:
        """Return what was asked for, for a manifest's header: ``all``, a number of files, ``… bytes``, or None."""
        request = self._request
        if request is None:
            return None
        return (
            "all"
            if request == SourceRequest()
            else request.files
            if request.bytes is None
            else f"{request.bytes} bytes"
        )

    def choose(self, inventory: PlannedObjects) -> None:
        """Draw the sample of a plan's files; reads the plan once unless all or nothing is asked for."""
        self.draw(
            (inventory.keys.key(path), size)
            for number in range(len(inventory.batches))
            for path, size, _ in inventory.members(number)
        )

    def draw(self, objects: Iterable[tuple[str, int]]) -> None:
        """Draw the sample of (key, size) pairs; looks at none of them when all or nothing is asked for."""
        if self._request is None or self._bound:
            return
        marks, sizes = array("Q"), array("q")
        for key, size in objects:
            marks.append(self._mark(key))
            sizes.append(size)
        order, sorted_sizes = np.array(marks, dtype=np.uint64), np.array(sizes, dtype=np.int64)
        if self._request.bytes is not None:
            self._largest = self._request.bytes
            fits = sorted_sizes <= self._largest
            self.too_large = int(np.count_nonzero(~fits))
            order, sorted_sizes = order[fits], sorted_sizes[fits]
        places = np.argsort(order)
        if self._largest is None:
            count = min(self._request.files or 0, len(order))
        else:
            count = int(np.searchsorted(np.cumsum(sorted_sizes[places]), self._largest, side="right"))
        if count == len(order):
            self._bound = 1 << 64
        elif count:
            self._bound = int(order[places[count - 1]]) + 1

    def takes(self, key: str, size: int) -> bool:
        """Tell whether a file, known by its object's key and its size, is in the sample."""
        if not self._bound or (self._largest is not None and size > self._largest):
            return False
        return self._mark(key) < self._bound

    def _mark(self, key: str) -> int:
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, salt=self._salt).digest(), "big")
