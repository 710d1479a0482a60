"""What a page shows of a finished compression: each output with its picture and its viewers.

Input: compress.json, and its pictures where they lie: in the state of the compression, or in its destination.
Output: ``ShownOutput`` rows.
Invariant: a page is shown whatever the files hold: a picture is one only if it begins as a PNG and is small.
"""

import binascii
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress import viewers
from lading.compress.viewers import ViewerLink
from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, parse_json
from lading.core.progress import counted

# Directory of a compression's state that keeps its pictures: the destination may be sent away and deleted.
FOLDER = "previews"
LARGEST = 2 << 20
LARGEST_REPORT = 64 << 20
# Pictures of one page; the others are named.
MOST_PICTURES = 24
_PNG = b"\x89PNG\r\n\x1a\n"

Fetch = Callable[[str], bytes]


@dataclass(frozen=True)
class ShownOutput:
    """One Zarr group of a session.

    path      below the session
    about     what it holds, for people
    picture   as a data URL; empty where there is none
    links     viewers of it, none where it is no image or in no bucket
    ngff      the version of an OME-Zarr; empty for recordings
    """

    path: str
    name: str
    about: str
    picture: str = ""
    links: tuple[ViewerLink, ...] = ()
    ngff: str = ""


@dataclass(frozen=True)
class CompressionReport:
    """Where a compression's report is: ``folder`` below the session; ``fetch`` returns files of its destination."""

    folder: str
    data: bytes
    fetch: Fetch


def shown_outputs(reports: Sequence[CompressionReport], address: str) -> list[ShownOutput]:
    """Return the outputs of a session's compressions; ``address``: where browsers find the session, or nothing."""
    found = [row for report in reports for row in _of_report(report, address)]
    # What is left out for its number is named.
    return found[:MOST_PICTURES] + [
        ShownOutput(row.path, row.name, row.about, "", row.links, row.ngff) for row in found[MOST_PICTURES:]
    ]


def _of_report(report: CompressionReport, address: str) -> Iterator[ShownOutput]:
    try:
        take = JsonMembers(parse_json(report.data))
        facts = take.object("facts", {})
    except ValueError:
        return
    for row in _rows(facts.get("streams")):
        path = _joined(report.folder, f"ecephys_compressed/{row.get('name')}.zarr")
        yield ShownOutput(path, str(row.get("name")), _of_stream(row), _picture(report, row.get("preview")))
    ngff = str(facts.get("ngff") or "")
    for row in _rows(facts.get("images")):
        path = _joined(report.folder, str(row.get("path")))
        links = viewers.links(viewers.address_of(address, path), str(row.get("name"))) if address else []
        picture = _picture(report, row.get("preview"))
        yield ShownOutput(path, str(row.get("name")), _of_image(row), picture, tuple(links), ngff)


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _joined(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def _of_stream(row: Mapping[str, Any]) -> str:
    frames, rate = row.get("frames"), row.get("sampling_frequency")
    lengths = [one for one in frames if isinstance(one, int)] if isinstance(frames, list) else []
    known = isinstance(rate, int | float) and math.isfinite(rate) and rate > 0
    span = f", {sum(lengths) / rate:,.1f} s" if known and rate else ""
    channels = row.get("channels")
    many = counted(channels, "channel") if isinstance(channels, int) else f"{channels} channel(s)"
    return f"{many} at {rate} Hz{span}, {row.get('codec')}"


def _of_image(row: Mapping[str, Any]) -> str:
    shape, voxel = row.get("shape_tczyx"), row.get("voxel_um_zyx")
    text = " × ".join(map(str, shape)) if isinstance(shape, list) else "?"
    size = " × ".join("?" if one is None else f"{one}" for one in voxel) if isinstance(voxel, list) else "unknown size"
    return f"t, c, z, y, x: {text}, {_type(row)}; voxel {size}" + (" µm" if isinstance(voxel, list) else "")


def _type(row: Mapping[str, Any]) -> str:
    """Return the type of an output as people write it, whatever stands there."""
    try:
        return np.dtype(str(row.get("dtype"))).name
    except TypeError:
        return str(row.get("dtype"))


def _picture(report: CompressionReport, path: Any) -> str:
    """Return a picture as a data URL, nothing where it is none."""
    if not isinstance(path, str) or not _is_below(path):
        return ""
    try:
        data = report.fetch(path)
    except (OSError, ValueError):
        return ""
    if len(data) > LARGEST or not data.startswith(_PNG):
        return ""
    return "data:image/png;base64," + binascii.b2a_base64(data, newline=False).decode("ascii")


def _is_below(path: str) -> bool:
    return not any(part in ("", ".", "..") or "\0" in part for part in path.split("/"))


def picture_paths(facts: Mapping[str, Any]) -> list[str]:
    """Return the paths of the pictures that a kind's facts name."""
    rows = [*_rows(facts.get("streams")), *_rows(facts.get("images"))]
    return [row["preview"] for row in rows if isinstance(row.get("preview"), str)]


def keep_pictures(state: Path, facts: Mapping[str, Any], fetch: Fetch) -> None:
    """Copy the pictures of a finished compression into its state, as many as a page shows."""
    paths = picture_paths(facts)[:MOST_PICTURES]
    if paths:
        (state / FOLDER).mkdir(exist_ok=True)
    for path in paths:
        with atomic_write(kept_picture(state, path), "wb") as stream:
            stream.write(fetch(path))


def kept_picture(state: Path, path: str) -> Path:
    """Return where a compression's state keeps a picture."""
    name = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
    return state / FOLDER / f"{name[:32]}.png"


def of_state(state: Path, folder: str, report: str) -> CompressionReport | None:
    """Return the report in a compression's state, None where it is not finished."""
    try:
        data = _bounded(state / report, LARGEST_REPORT)
    except OSError:
        return None
    return CompressionReport(folder, data, lambda path: _bounded(kept_picture(state, path)))


def of_directory(top: Path, folder: str, report: str) -> CompressionReport | None:
    """Return the report in a destination, None where there is none; its pictures are read from there."""
    try:
        data = _bounded(top / folder / report, LARGEST_REPORT)
    except OSError:
        return None
    return CompressionReport(folder, data, lambda path: _bounded(top / folder / path))


def _bounded(path: Path, most: int = LARGEST) -> bytes:
    """Return a regular file's bytes, at most one more than ``most``; ``OSError`` when it is none."""
    if path.is_symlink() or not path.is_file():
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as stream:
        return stream.read(most + 1)
