"""Planes in files of their own, put in order by their names.

Input: the files of a folder, and what reads the head of one. Output: which file holds which plane.
Invariant: every plane of a series is there once, and all have one shape and
type, or every exception is reported at once.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from lading.compress.imaging.volume import Channel, Shape, Volume, color_channels, natural_order
from lading.compress.job import SourceFault

# Tokens of plane numbers in file names, as microscopes write them: _z0012, _ch_488, -T3, _C01.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(time|t|channel|chan|ch|c|plane|slice|z)[_ -]?(\d+)(?![A-Za-z0-9])", re.I)
_NUMBER = re.compile(r"\d+")


class PlaneHeader(Protocol):
    """What one file says of its plane."""

    @property
    def path(self) -> str:
        """Its name."""

    @property
    def kind(self) -> tuple[tuple[int, int], str, int]:
        """Shape, type and samples a pixel, which all planes of an image share."""


T = TypeVar("T", bound=PlaneHeader)


@dataclass(frozen=True)
class PlaneSeries(Generic[T]):
    """The files of an image, in order; ``axes`` (of t, c, z) run over them, slowest first, with these ``values``."""

    heads: Sequence[T]
    axes: str
    files: tuple[str, ...]
    values: Mapping[str, Sequence[int]]
    kind: tuple[tuple[int, int], str, int]

    def volume(self, name: str, kind: str, detail: Mapping[str, Any]) -> Volume:
        """Return the image; ``SourceFault`` for colour whose channels have names of their own."""
        plane, dtype, samples = self.kind
        shape: Shape = (*(len(self.values.get(axis, [0])) for axis in "tcz"), *plane)  # type: ignore[assignment]
        detail = {"file_axes": self.axes, **detail}
        if samples > 1:
            if "c" in self.axes:
                raise SourceFault(
                    f"{self.files[0]}: holds {samples} samples a pixel (colour), and its name a channel; rename the "
                    "files, or write grey planes"
                )
            shape = (shape[0], samples, *shape[2:])
            detail["samples"] = True
        channels = color_channels(samples)
        if "c" in self.axes:
            channels = tuple(Channel(str(number)) for number in self.values["c"])
        return Volume(name, kind, self.files, (shape,), dtype, channels=channels, detail=detail)


def arrange_planes(
    members: Sequence[tuple[dict[str, int], str]], read: Callable[[str], T], *, allow_gaps: bool
) -> PlaneSeries[T]:
    """Return the order of files whose names have these numbers; raises all faults at once."""
    faults: list[str] = []
    heads: list[T] = []
    for _, path in members:
        try:
            heads.append(read(path))
        except SourceFault as error:
            faults.append(str(error))
    usual = max({head.kind for head in heads}, key=lambda kind: sum(head.kind == kind for head in heads), default=None)
    faults += [_unlike(head, usual) for head in heads if usual is not None and head.kind != usual]
    axes = "".join(axis for axis in "tcz" if any(axis in numbers for numbers, _ in members))
    values = {axis: sorted({numbers.get(axis, 0) for numbers, _ in members}) for axis in axes}
    by_place: dict[tuple[int, ...], str] = {}
    for numbers, path in members:
        place = tuple(numbers.get(axis, 0) for axis in axes)
        if place in by_place:
            faults.append(f"{path}: is the same plane as {by_place[place]}; leave one of them out")
        by_place[place] = path
    if not allow_gaps:
        faults.extend(_gaps(members[0][1], values, by_place, axes))
    if faults:
        raise SourceFault("\n".join(faults))
    assert usual is not None
    files = tuple(path for _, path in sorted(by_place.items()))
    if len(files) != np.prod([len(numbers) for numbers in values.values()], dtype=int):
        # Gaps were allowed and the grid has holes: the planes as they come.
        axes, files = "z", tuple(sorted(files, key=natural_order))
        values = {"z": list(range(len(files)))}
    return PlaneSeries(heads, axes, files, values, usual)


def _unlike(head: PlaneHeader, usual: tuple[tuple[int, int], str, int]) -> str:
    (rows, columns), dtype, _ = head.kind
    (height, width), other, _ = usual
    return (
        f"{head.path}: page 0 is {rows} × {columns} {np.dtype(dtype)} where the others are {height} × {width} "
        f"{np.dtype(other)}; all planes of an image must have one shape"
    )


def title_of(base: str) -> str:
    """Return a file's name without what says which plane it is."""
    return _TOKEN.sub("", base)


def parse_names(bases: Sequence[str]) -> list[tuple[str, dict[str, int]]]:
    """Return for each name of a folder the name without its plane numbers, and the numbers by axis.

    Where no token says which number is the plane, it is the one that varies over the folder: the only one, or the
    one that is another in each file, or else the one of most values; the last of equals.
    """
    found: list[tuple[str, dict[str, int]]] = []
    alike: dict[str, list[int]] = defaultdict(list)
    digits: dict[int, list[str]] = {}
    for place, base in enumerate(bases):
        numbers = _tokens(base)
        key = _TOKEN.sub(lambda token: token[1], base)
        found.append((key, numbers))
        if "z" not in numbers and "t" not in numbers:
            stem, suffix = os.path.splitext(key)
            digits[place] = _NUMBER.findall(stem)
            if digits[place]:
                alike[_NUMBER.sub("*", stem) + suffix].append(place)
    for places in alike.values():
        chosen, alone = _varying([(tuple(found[place][1].items()), digits[place]) for place in places])
        for place in places:
            key, numbers = found[place]
            stem, suffix = os.path.splitext(key)
            parts = re.split(r"(\d+)", stem)
            for number in range(len(digits[place])):
                if alone or number == chosen:
                    parts[2 * number + 1] = "*"
            found[place] = ("".join(parts) + suffix, numbers | {"z": int(digits[place][chosen])})
    return found


def _tokens(base: str) -> dict[str, int]:
    """Return the numbers of a name's tokens by axis; none when a token is there twice: no plane numbers."""
    numbers: dict[str, int] = {}
    for token, text in _TOKEN.findall(base):
        axis = {"p": "z", "s": "z"}.get(token[0].lower(), token[0].lower())
        if axis in numbers:
            return {}
        numbers[axis] = int(text)
    return numbers


def _varying(names: Sequence[tuple[Any, Sequence[str]]]) -> tuple[int, bool]:
    """Return which number of the names is the plane, and whether it tells every two of the names apart."""
    best, most = len(names[0][1]) - 1, 0
    for place in range(len(names[0][1])):
        values = len({(other, int(found[place])) for other, found in names})
        if values >= most and (values > 1 or most == 0):
            best, most = place, values
    if most <= 1:
        best = len(names[0][1]) - 1
    return best, most == len(names)


def _gaps(first: str, values: dict[str, list[int]], places: dict[tuple[int, ...], str], axes: str) -> Iterator[str]:
    """Yield a sentence for each axis whose numbers skip, and for each plane that some stack lacks."""
    folder = os.path.dirname(first)
    for axis, numbers in values.items():
        if axis == "c":
            continue  # wavelengths: 488, 561, 640
        steps = [after - before for before, after in pairwise(numbers)]
        for before, step in zip(numbers, steps):
            if step != min(steps):
                yield (
                    f"{folder}: plane {axis} {before + min(steps)} is missing (between {before} and {before + step}); "
                    "restore it, or pass --allow-gaps to take the planes as they are"
                )
                break
    expected = np.prod([len(numbers) for numbers in values.values()], dtype=int)
    if len(places) != expected:
        lacking = next(place for place in _grid([values[axis] for axis in axes]) if place not in places)
        where = ", ".join(f"{axis} {number}" for axis, number in zip(axes, lacking))
        yield (
            f"{folder}: plane {where} is missing ({expected - len(places)} of {expected} are); "
            "restore it, or pass --allow-gaps to take the planes as they are"
        )


def _grid(values: list[list[int]]) -> Iterator[tuple[int, ...]]:
    if not values:
        yield ()
        return
    for first in values[0]:
        for rest in _grid(values[1:]):
            yield (first, *rest)
