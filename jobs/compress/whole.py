"""Tell whether a compression stands for its whole source, so that nothing is lost when the source goes.

Input: a compression's report (compress.json) and the paths of its source.
Output: what it does not carry, in one sentence, or an empty string.
Invariant: nothing is taken for whole that is not known to be: a kind, format
or TIFF tag that this module does not know counts as lost.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tifffile

from jobs.compress import tiffplan
from jobs.compress.tiff import DAMAGE

# Tags that say how voxels lie in the file (TIFF 6.0), and which program wrote it.
_LAYOUT = {
    254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 297, 305, 317, 322, 323, 324, 325,
    338, 339, 340, 341, 347, 530, 531, 532,
}  # fmt: skip
# Tags that say nothing more when they hold these: full image, upright, without resolution.
_NEUTRAL: Mapping[int, tuple[Any, ...]] = {254: (0, 2), 274: (1,), 282: ((1, 1),), 283: ((1, 1),), 296: (1,)}
_DESCRIPTION = 270
# What kinds write into their facts when ``lossy`` accounts for every byte of a file.
COVERAGE = 1


def lacks(report: Mapping[str, Any], sources: Iterable[str]) -> str:
    """Return what of the source no object carries, or an empty string when all of it does."""
    kind, options, facts = report.get("data"), report.get("options", {}), report.get("facts", {})
    if kind == "generic":
        return ""
    if kind == "ephys":
        return _ephys(options, facts)
    if kind == "video":
        made = next(iter(facts.get("frames", {"a video": 0})), "")
        return f"{made} was transcoded, which is not lossless; preset none keeps videos as they are" if made else ""
    if kind == "imaging":
        return _imaging(facts, sources)
    return f"nobody knows whether {kind} carries all of its source"


def _ephys(options: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if options.get("clip") is not True:
        return "without the clipped copy (no_clip) events, settings and times of the recording have no object"
    if options.get("accept_sizes") is not False:
        return "with accept_sizes the samples beyond the last whole frame have no object"
    if facts.get("coverage") != COVERAGE:
        return "an earlier version of Lading compressed it, which did not account for every byte; compress it anew"
    for stream in facts.get("streams") or [{"name": "?"}]:
        if stream.get("lossless") is not True:
            return f"the samples of {stream['name']} are stored with loss (bits_per_sample)"
    return ""


def _imaging(facts: Mapping[str, Any], sources: Iterable[str]) -> str:
    for image in facts.get("images") or [{"path": "?"}]:
        if image.get("format") != "tiff":
            what = image.get("format", "unknown")
            return f"{image['path']} holds the voxels of one image, and what else its {what} source holds has no object"
    for path in sources:
        name = Path(path).name
        # As discover has it: a hidden file is no image, and was copied.
        if name.lower().endswith(tiffplan.SUFFIXES) and not name.startswith("."):
            tag = more_than_voxels(path)
            if tag:
                return f"{path} says more than voxels ({tag}), which has no object"
    return ""


def more_than_voxels(file: Any) -> str:
    """Return the name of a tag that an OME-Zarr of the voxels does not carry, or an empty string.

    ``file`` is a path, or a file object.
    """
    try:
        with tifffile.TiffFile(file) as tiff:
            for page in tiff.pages:
                for tag in getattr(page, "tags", ()):
                    if not _is_carried(tag.code, tag.value):
                        return str(tag.name)
    except DAMAGE as error:
        return f"it cannot be read: {' '.join(str(error).split())}"
    return ""


def _is_carried(code: int, value: Any) -> bool:
    if code in _NEUTRAL:
        return value in _NEUTRAL[code]
    if code == _DESCRIPTION:
        return _is_shape(str(value))
    return code in _LAYOUT


def _is_shape(text: str) -> bool:
    """Tell whether a description holds nothing, or the array's shape only, as tifffile notes it."""
    try:
        return not text.strip("\0 ") or set(json.loads(text)) <= {"shape", "truncated"}
    except (ValueError, TypeError):
        return False
