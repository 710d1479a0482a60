"""Trees to crawl: flat directories, deep nesting, many small directories, sparse files.

Input: a directory and a number of files. Output: about that many entries,
the same for the same number.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

FLAT = 100_000
DEPTH = 300


def touch(directory: int, name: str, size: int) -> None:
    """Make a sparse file of ``size`` bytes relative to an open directory."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
    if size:
        os.ftruncate(descriptor, size)
    os.close(descriptor)


def fill(path: Path, names: Iterator[str], draw: random.Random) -> None:
    """Make a directory of sparse files of many sizes."""
    os.makedirs(path)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        touch(directory, name, int(10 ** draw.uniform(2, 8)))
    os.close(directory)


def make_tree(root: Path, files: int, flat_share: float = 0.2) -> None:
    """Make a tree of ``files`` files: a share in flat directories, one deep chain, the rest 20 to a directory."""
    draw = random.Random(files)
    flat = int(files * flat_share)
    for number in range(0, flat, FLAT):
        count = min(FLAT, flat - number)
        names = (f"{i // 1000}.{i // 10 % 100}.{i % 10}" for i in range(count))
        fill(root / f"flat{number // FLAT}.zarr" / "0", names, draw)
    chain = root / "deep"
    for level in range(min(DEPTH, files // 100)):
        chain = chain / f"level{level}"
    fill(chain / "end", (f"f{i}" for i in range(10)), draw)
    left, number = files - flat, 0
    while left > 0:
        count = min(left, draw.choice((1, 5, 10, 20, 40, 80)))
        path = root / "tiles" / str(number // 1000) / f"{number:06d}"
        fill(path, (f"sci-{i:02d}-{number:08d}.fits.fz" for i in range(count)), draw)
        left -= count
        number += 1
