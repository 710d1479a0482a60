"""What a container of arrays (Zarr, N5) holds besides the arrays that images are read from.

Input: the folder, the folders of arrays that are read and of their coarser levels. Output: ``Item`` for all the rest.
Invariant: each folder and file of the container is read, or named once by the highest folder of it that is not.
"""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NoReturn

from lading.compress.imaging.volume import RESOLUTIONS
from lading.compress.inventory import Item
from lading.compress.job import SourceFault


def name_rest(
    path: Path, finest: set[str], coarser: set[str], metadata: Collection[str], say_why: Callable[[str], str]
) -> Iterator[Item]:
    """Yield what is not read, by the names of folders and files; ``say_why`` returns the reason for a folder."""
    yield from (Item(str(path / name), reason=RESOLUTIONS, recomputed=True) for name in sorted(coarser))
    on_the_way = {part for one in finest | coarser for part in _above(os.path.dirname(one))}
    for directory, names, files in os.walk(path, onerror=refuse_folder):
        below = os.path.relpath(directory, path)
        for name in sorted(names):
            one = os.path.normpath(os.path.join(below, name))
            if one not in on_the_way:
                names.remove(name)
            if one not in finest | coarser | on_the_way:
                yield Item(str(path / one), reason=say_why(name))
        for name in sorted(files):
            known = name in metadata
            reason = "its content is in the metadata of the new image" if known else "no file of an array that is read"
            yield Item(os.path.normpath(path / below / name), reason=reason, recomputed=known)


def refuse_folder(error: OSError) -> NoReturn:
    """Raise ``SourceFault`` for a folder that cannot be listed."""
    raise SourceFault(f"{error.filename}: cannot be listed: {error.strerror}; make it readable") from error


def _above(path: str) -> Iterator[str]:
    while path:
        yield path
        path = os.path.dirname(path)
