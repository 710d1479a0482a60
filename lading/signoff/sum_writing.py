"""Write the checksums that a release lacks: a new file in each directory, in the form of ``sha256sum``.

Input: (directory, name, SHA-256) of each file without a sum, sorted. Output: files below the root.
Invariant: nothing that is there is changed or replaced. A file appears whole.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count, groupby
from pathlib import Path

from lading.coordination.exclusive import create_whole
from lading.core.opening import Root
from lading.signoff.sum_files import format_sum

ENDING = ".sha256sum"


def write_sums(root: Root, unsummed: Iterable[bytes]) -> Iterator[tuple[str, int]]:
    """Write what is missing; yields the path below the root of each file written, and how many files it names.

    Raises ``LadingError`` where a directory cannot be written.
    """
    rows = (json.loads(line) for line in unsummed)
    for directory, group in groupby(rows, lambda row: str(row[0])):
        named = [(name, value) for _, name, value in group]
        content = b"".join(format_sum(value, name) for name, value in named)
        yield _create(root, directory, content), len(named)


def _create(root: Root, directory: str, content: bytes) -> str:
    """Make a checksum file in a directory, by the first name that is free: ``night/night.sha256sum``."""
    stem = os.path.basename(directory or root.path) or "release"
    descriptor = root.directory(directory)
    try:
        place = Path(f"/proc/self/fd/{descriptor}")
        for number in count(1):
            name = f"{stem}{ENDING}" if number == 1 else f"{stem}-{number}{ENDING}"
            with suppress(FileExistsError):
                create_whole(place / name, content)
                return f"{directory}/{name}" if directory else name
    finally:
        os.close(descriptor)
    raise AssertionError("unreachable")
