"""Walk a source with its links followed, so that nothing below it is passed over unsaid.

Input: a directory. Output: its directories one by one, as ``os.walk`` yields them.
Invariant: whatever is not walked, a directory that cannot be listed or a
link that leads round in a circle, is told to the caller by its path.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# What is wrong with a path, and the path: "<path> <why>" is a sentence.
Note = Callable[[str, str], None]
CIRCLE = "is a link to a directory above it"


def walk_followed(top: str | Path, note: Note) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (directory, names of directories, names of files), sorted; names that the caller removes are not entered.

    ``note`` is called for what cannot be entered, and may raise.
    """
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(os.fspath(top), ())]
    while waiting:
        directory, above = waiting.pop()
        try:
            status = os.stat(directory)
            if (here := (status.st_dev, status.st_ino)) in above:
                note(directory, CIRCLE)
                continue
            names, files = _list(directory)
        except OSError as error:
            note(directory, f"cannot be read: {error.strerror or error}")
            continue
        yield directory, names, files
        waiting += [(os.path.join(directory, name), (*above, here)) for name in reversed(names)]


def _list(directory: str) -> tuple[list[str], list[str]]:
    names: list[str] = []
    files: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            (names if entry.is_dir() else files).append(entry.name)
    return sorted(names), sorted(files)
