"""Tell whether a compression stands for its whole source, so that nothing is lost when the source goes.

Input: a compression's report (compress.json) and the paths of its source.
Output: what it does not carry, in one sentence, or an empty string.
Invariant: nothing is taken for whole that is not known to be: a kind or format
that this module does not know counts as lost. Here a report is judged; what
each file holds beside, its record says (``lossy`` of the kinds).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lading.compress.imaging import tiff_plan as tiffplan
from lading.compress.imaging.tiff_cover import find_lost
from lading.compress.imaging.volume import Volume
from lading.compress.job import COVERAGE

_EARLIER = "an earlier version of Lading compressed it, which did not account for every byte; compress it again"


def not_preserved(report: Mapping[str, Any], sources: Iterable[str]) -> str:
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
        return _imaging(options, facts, sources)
    return f"it is not known whether {kind} keeps all of its source"


def coverage_of(report: Mapping[str, Any]) -> int:
    """Return which account of every byte a compression gave; files that are read whole need none of their own."""
    if report.get("data") in ("generic", "video"):
        return COVERAGE
    found = report.get("facts", {}).get("coverage", 0)
    return found if isinstance(found, int) else 0


def _ephys(options: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if options.get("clip") is not True:
        return "without the clipped copy (no_clip) events, settings and times of the recording have no object"
    if options.get("accept_sizes") is not False:
        return "with accept_sizes the samples beyond the last whole frame have no object"
    if facts.get("coverage") != COVERAGE:
        return _EARLIER
    for stream in facts.get("streams") or [{"name": "?"}]:
        if stream.get("lossless") is not True:
            return f"the samples of {stream['name']} are stored with loss (bits_per_sample)"
    return ""


def _imaging(options: Mapping[str, Any], facts: Mapping[str, Any], sources: Iterable[str]) -> str:
    for image in facts.get("images") or [{"path": "?"}]:
        if image.get("format", "unknown") != "tiff":
            what = image.get("format", "unknown")
            return f"{image['path']} holds the voxels of one image, and what else its {what} source holds has no object"
    if facts.get("coverage") != COVERAGE:
        return _EARLIER
    if options.get("allow_gaps"):
        return "with allow_gaps the numbers of the planes have no object"
    for path in sources:
        name = Path(path).name
        # As discover has it: a hidden file is no image, and was copied.
        if name.lower().endswith(tiffplan.SUFFIXES) and not name.startswith("."):
            tag = more_than_voxels(path)
            if tag:
                return f"{path} says more than voxels ({tag}), which has no object"
    return ""


def more_than_voxels(file: Any, volume: Volume | None = None) -> str:
    """Return what of a TIFF file an OME-Zarr of its voxels does not carry, or an empty string.

    ``file`` is a path, or a file object. See ``tiffcover.find_lost``.
    """
    try:
        if hasattr(file, "read"):
            return find_lost(file, volume)
        with open(file, "rb") as opened:
            return find_lost(opened, volume)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
