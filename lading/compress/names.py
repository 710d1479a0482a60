"""Which path of the destination a source file gets, so that no two meet and none meets a file of the program.

Input: paths relative to the source. Output: paths relative to the destination.
Invariant: a name that the destination needs for itself is never given to a
source file: what has it is carried under another one, which stands in
compress.json; whatever else would meet is refused before anything is written.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

from lading.compress.job import CompressionJob

# What a finished job writes at the top of its destination.
REPORT = "compress.json"
SOURCE_LIST = "compress.sources.jsonl"
OUTPUT_LIST = "compress.outputs.jsonl"
# What the files of images hold besides voxels.
IMAGE_RESIDUE = "imaging_residue"
# Pictures of images.
IMAGE_PREVIEW = "imaging_preview"
RESERVED = (REPORT, SOURCE_LIST, OUTPUT_LIST, IMAGE_RESIDUE, IMAGE_PREVIEW)


def rename_reserved(paths: Iterable[str]) -> dict[str, str]:
    """Return, for each first component of ``paths`` that is reserved, the free name that it is carried under."""
    tops = {path.partition("/")[0] for path in paths}
    renamed: dict[str, str] = {}
    for name in RESERVED:
        if name in tops:
            number, free = 0, f"source.{name}"
            while free in tops or free in RESERVED:
                number += 1
                free = f"source.{number}.{name}"
            tops.add(free)
            renamed[name] = free
    return renamed


def source_name(job: CompressionJob, path: str) -> str:
    """Return the path of a source file below the source, by its own name when the source is that file."""
    return job.source.name if path == "." else path


def carried_name(job: CompressionJob, path: str) -> str:
    """Return where a file that is carried as it is goes; needs ``facts["renamed"]`` of the plan."""
    return rename(job.facts.get("renamed", {}), source_name(job, path))


def rename(renamed: Mapping[str, str], path: str) -> str:
    """Return ``path`` with the first component that ``rename_reserved`` gave it."""
    top, slash, rest = path.partition("/")
    return f"{renamed[top]}{slash}{rest}" if top in renamed else path


def find_clashes(targets: Iterable[tuple[str, str]], folders: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield a sentence for each source that would meet another one in the destination.

    ``targets`` are (source file, path in the destination); ``folders`` maps
    directories that are filled otherwise to what fills them.
    """
    pairs = list(targets)
    owner = dict(reversed([(target, source) for source, target in pairs]))
    counts: dict[str, int] = {}
    for _, target in pairs:
        counts[target] = counts.get(target, 0) + 1
    for source, target in pairs:
        if counts[target] > 1:
            yield f"{source}: would be written as {target} like another file; rename one of them"
            continue
        above = target
        while above:
            if above in (folders or {}):
                yield f"{source}: would be written as {target}, where {folders[above]} goes; rename one of them"  # type: ignore[index]
                break
            above = os.path.dirname(above)
            if above in owner:
                yield f"{source}: would be written below {above}, which {owner[above]} becomes; rename one of them"
                break
