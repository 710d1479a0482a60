"""Read voxels of an N5 container as a source: BigDataViewer's layout, or one dataset.

Input: a directory with ``attributes.json``. Output: ``Volume`` descriptions and windows of voxels.
Invariant: nothing is written below the source; a block that is not there holds
zeros, and one that is damaged is a sentence that names it.

BigDataViewer (``bdv.n5``): ``setupS/timepointT/sL``, three axes.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress.imaging import bigdataviewer
from lading.compress.imaging.container_rest import name_rest, refuse_folder
from lading.compress.imaging.n5_blocks import DAMAGE, N5Dataset, decode_block
from lading.compress.imaging.volume import Array, Shape, Volume, Window, as_shape, image_name
from lading.compress.inventory import Item
from lading.compress.job import SourceFault
from lading.compress.sources import Source
from lading.core.bounded import SMALL_BYTES, parse_json
from lading.core.progress import counted

MARK = "attributes.json"
# Attributes that say what the new image says, or how blocks are stored.
_SAID = {
    "n5", "dimensions", "blockSize", "dataType", "compression", "compressionType", "downsamplingFactors", "multiScale",
}  # fmt: skip


def is_n5(path: Path) -> bool:
    """Tell whether a directory is the top of an N5 container."""
    return (path / MARK).is_file() and (path.suffix.lower() == ".n5" or "n5" in _attributes(path / MARK))


class N5Reader:
    """Windows of one volume; see ``volume.Reader``.

    ``detail``: ``datasets``, a template a level with ``{t}``, ``times``, what stands for it at each time, ``axes``.
    """

    def __init__(self, volume: Volume, source: Source) -> None:
        self._volume, self._source = volume, source
        self._below = source.relative(volume.files[0])
        self._datasets: dict[str, N5Dataset] = {}

    def read(self, window: Window, level: int = 0, out: Array | None = None) -> Array:
        """Return ``window`` (z, y, x) of a stored level; ``SourceFault`` when it cannot be read."""
        detail = self._volume.detail
        name = detail["datasets"][level].format(t=detail["times"][window.t])
        out = np.empty(window.shape, np.dtype(self._volume.dtype)) if out is None else out
        ranges = (window.z, window.y, window.x)
        try:
            dataset = self._datasets.setdefault(name, N5Dataset.of(self._attributes(name)))
            wanted = ranges[-len(dataset.shape) :]
            target = out.reshape(out.shape[-len(wanted) :])
            starts = (range(begin // step, -(-end // step)) for (begin, end), step in zip(wanted, dataset.block))
            for place in itertools.product(*starts):
                self._fill(target, wanted, dataset, name, place)
        except DAMAGE as error:
            where = Path(self._volume.files[0], name)
            raise SourceFault(
                f"{where}: cannot be read at {window}: {' '.join(str(error).split())}; restore it or leave it out"
            ) from error
        return out

    def close(self) -> None:
        """Forget the datasets."""
        self._datasets.clear()

    def _attributes(self, name: str) -> dict[str, Any]:
        found = self._bytes(os.path.join(name, MARK))
        if found is None:
            raise ValueError(f"{MARK} is gone")
        record = parse_json(found)
        if not isinstance(record, dict):
            raise ValueError(f"{MARK} is not a JSON object")
        return record

    def _bytes(self, name: str) -> bytes | None:
        """Return a file of the container; None where there is none."""
        path = os.path.normpath(os.path.join("" if self._below == "." else self._below, name))
        try:
            with self._source.open(path) as file:
                return file.as_file().read()
        except SourceFault as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _fill(
        self,
        target: Array,
        wanted: Sequence[tuple[int, int]],
        dataset: N5Dataset,
        name: str,
        place: tuple[int, ...],
    ) -> None:
        """Copy what a block has of the wanted ranges."""
        file = "/".join(map(str, (name, *place[::-1])))
        content = self._bytes(file)
        first = [number * step for number, step in zip(place, dataset.block)]
        inside = [
            (max(begin, start), min(end, start + step, length))
            for (begin, end), start, step, length in zip(wanted, first, dataset.block, dataset.shape)
        ]
        here = tuple(slice(begin - origin, end - origin) for (begin, end), (origin, _) in zip(inside, wanted))
        if content is None:
            target[here] = 0
            return
        try:
            block = decode_block(content, dataset)
        except DAMAGE as error:
            raise ValueError(f"block {file}: {error}") from error
        there = tuple(slice(begin - start, end - start) for (begin, end), start in zip(inside, first))
        needed = tuple(one.stop for one in there)
        if any(length < need for length, need in zip(block.shape, needed)):
            raise ValueError(f"block {file} has {block.shape} voxels, not {needed}")
        target[here] = block[there]


def _attributes(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = stream.read(SMALL_BYTES + 1)
        found = parse_json(content) if len(content) <= SMALL_BYTES else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe_n5(path: Path, inner: str | None, *, allow_gaps: bool = False) -> list[Volume]:
    """Return the volumes of a container: one a set-up of BigDataViewer, or its one dataset, or the one named.

    What else it holds is named in ``items``. No volume at all: it holds no dataset.
    """
    found = {} if inner else _find_views(path)
    if found:
        return _big_data_viewer(path, found, allow_gaps)
    names = [os.path.normpath(inner)] if inner else sorted(_find_datasets(path))
    if not names:
        return []
    if len(names) > 1:
        raise SourceFault(
            f"{path}: holds several datasets, and no set-ups of BigDataViewer; name one with --dataset: "
            f"{', '.join(names[:8])}"
        )
    dataset = _dataset(path, names[0])
    if not 2 <= len(dataset.shape) <= 3:
        raise SourceFault(
            f"{path}: dataset {names[0]} has {counted(len(dataset.shape), 'axis', 'axes')}; z, y, x or y, x are read"
        )
    detail = {"format": "N5", "datasets": [_escaped(names[0])], "times": [""]}
    items = tuple(_rest(path, {names[0]}, set()))
    shape = _full(1, dataset.shape)
    return [Volume(image_name(str(path)), "n5", (str(path),), (shape,), dataset.dtype.str, detail=detail, items=items)]


def folders(volume: Volume, levels: int | None) -> list[str]:
    """Return the folders of the datasets that a volume reads, of its first ``levels`` levels or of all."""
    detail = volume.detail
    return [name.format(t=time) for name in detail["datasets"][:levels] for time in detail["times"]]


def _escaped(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")


def _full(times: int, shape: Sequence[int]) -> Shape:
    return as_shape((times, 1, *(1,) * (3 - len(shape)), *shape))


def _dataset(path: Path, name: str) -> N5Dataset:
    record = _attributes(path / name / MARK)
    if not {"dimensions", "blockSize", "dataType"} <= record.keys():
        raise SourceFault(f"{path}: has no dataset {name!r}; its {MARK} is missing, damaged or not of a dataset")
    try:
        return N5Dataset.of(record)
    except DAMAGE as error:
        raise SourceFault(f"{path / name / MARK}: {error}; restore it or leave it out") from error


def _find_datasets(path: Path) -> Iterator[str]:
    """Yield the folders of all datasets."""
    for directory, names, files in os.walk(path, onerror=refuse_folder):
        if MARK in files and "dimensions" in _attributes(Path(directory, MARK)):
            names.clear()
            yield os.path.relpath(directory, path)


def _find_views(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return set-up → time point → levels of BigDataViewer's layout, by the names of folders."""
    views: dict[str, dict[str, list[str]]] = {}
    for setup in _children(path, r"setup\d+"):
        for time in _children(path / setup, r"timepoint\d+"):
            levels = [
                one for one in _children(path / setup / time, r"s\d+") if (path / setup / time / one / MARK).exists()
            ]
            views.setdefault(setup, {})[time] = levels
    return views


def _children(folder: Path, pattern: str) -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(folder) if re.fullmatch(pattern, entry.name) and entry.is_dir()]
    except OSError as error:
        refuse_folder(error)
    return sorted(names, key=_number)


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _big_data_viewer(path: Path, views: dict[str, dict[str, list[str]]], allow_gaps: bool) -> list[Volume]:
    about = bigdataviewer.read_xml(str(path))
    every = sorted({time for times in views.values() for time in times}, key=_number)
    volumes: list[Volume] = []
    finest: set[str] = set()
    coarser: set[str] = set()
    for setup, found in views.items():
        times = sorted(found, key=_number)
        _check_times(path, setup, times, allow_gaps)
        levels = found[times[0]]
        datasets = {(time, level): _dataset(path, f"{setup}/{time}/{level}") for time in times for level in found[time]}
        first = {level: (datasets[times[0], level].shape, datasets[times[0], level].dtype) for level in levels}
        for time in times:
            there = {level: (datasets[time, level].shape, datasets[time, level].dtype) for level in found[time]}
            if there != first or "s0" not in there:
                raise SourceFault(
                    f"{path}: {setup} at {time} has other levels or shapes than at {times[0]}, or no level s0; all "
                    "time points of an image must have one shape; name one with --dataset"
                )
        shapes = [first[level][0] for level in levels]
        if any(len(shape) != 3 for shape in shapes):
            raise SourceFault(f"{path}: {setup} holds {shapes[0]}, which is not a volume of z, y, x")
        finest |= {f"{setup}/{time}/s0" for time in times}
        coarser |= {f"{setup}/{time}/{level}" for time in times for level in levels[1:]}
        own: list[Item] = []
        if times != every:
            absent = ", ".join(sorted(set(every) - set(times), key=_number)[:8])
            own.append(Item(str(path / setup), f"{setup} at {absent}", "the container has none"))
        detail = {
            "format": "BigDataViewer N5",
            "datasets": [f"{setup}/{{t}}/{level}" for level in levels],
            "times": times,
            "placed": bigdataviewer.place_levels(
                _list(_attributes(path / setup / MARK).get("downsamplingFactors")), levels
            ),
        }
        volume = Volume(
            f"{image_name(str(path))}_{setup}",
            "n5",
            (str(path),),
            tuple(_full(len(times), shape) for shape in shapes),
            first["s0"][1].str,
            detail=detail,
            items=tuple(own),
        )
        volumes.append(bigdataviewer.place(volume, about, _number(setup), _number(times[0])))
    return _with_rest(path, volumes, finest, coarser)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_times(path: Path, setup: str, times: list[str], allow_gaps: bool) -> None:
    numbers = [_number(time) for time in times]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) and not allow_gaps:
        raise SourceFault(
            f"{path}: time points {numbers} of {setup} have gaps; restore them, name one with --dataset, or pass "
            "--allow-gaps to take them as they are"
        )


def _with_rest(path: Path, volumes: list[Volume], finest: set[str], coarser: set[str]) -> list[Volume]:
    rest = tuple(_rest(path, finest, coarser))
    return [replace(volumes[0], items=(*volumes[0].items, *rest)), *volumes[1:]]


def _rest(path: Path, finest: set[str], coarser: set[str]) -> Iterator[Item]:
    """Yield what a container holds besides the datasets that are read, by the names of its folders and files."""
    if finest == {"."}:
        return  # the whole is one array
    why = "no image that is read; keep the N5, or compress it with --kind generic"
    yield from name_rest(path, finest, coarser, (MARK,), lambda name: why)
    above = {"/".join(name.split("/")[:depth]) for name in finest for depth in range(len(name.split("/")) + 1)}
    for name in sorted(above):
        names = sorted(str(key) for key in _attributes(path / name / MARK).keys() - _SAID)
        if names:
            shown = f"attributes {', '.join(names[:8])}{' …' * (len(names) > 8)}"
            yield Item(str(path / name), shown, "no image has them; keep the N5 where they are needed")
