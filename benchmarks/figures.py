"""What a benchmark found, as figures that other runs can be compared with.

Input: a name, a value, its unit, and whether less or more of it is better.
Output: a line of JSON for ``python -m benchmarks``, which gathers them.
Invariant: a benchmark that is run by itself writes nothing but its table.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FILE_VARIABLE, NAME_VARIABLE = "LADING_BENCH_FIGURES", "LADING_BENCH_NAME"
Better = Literal["less", "more"]


@dataclass(frozen=True)
class Figure:
    """One figure of one run; ``load`` is the machine's when it was taken."""

    bench: str
    name: str
    value: float
    unit: str
    better: Better
    load: float


def note(name: str, value: float, unit: str = "ratio", better: Better = "less") -> None:
    """Give a figure to whoever gathers them; its name stays the same from run to run."""
    if not (file := os.environ.get(FILE_VARIABLE)):
        return
    figure = Figure(os.environ.get(NAME_VARIABLE, "?"), name, float(value), unit, better, os.getloadavg()[0])
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(figure)) + "\n")


def read_figures(file: Path) -> Iterator[Figure]:
    """Yield the figures that a benchmark noted."""
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Figure(**json.loads(line))
