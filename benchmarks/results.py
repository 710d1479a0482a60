"""Figures of several runs as one table, as a file, and beside those of another day.

Input: the figures of each run. Output: medians with their spread and the
machine's load; the same as JSON; what became better or worse.
Invariant: a difference within the spread of either side is not called one.
"""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.checksums.__main__ import describe_processor
from benchmarks.figures import Better, Figure
from lading.core.errors import UsageError
from lading.core.version import provenance

FORMAT, KIND = 1, "benchmarks"
# What two runs on one machine differ by although nothing changed.
NOISE = 0.03


@dataclass(frozen=True)
class Result:
    """One figure over all rounds, with the load of each."""

    bench: str
    name: str
    unit: str
    better: Better
    values: tuple[float, ...]
    loads: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure that stands for all of them."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """How far apart the values are, as a share of the median; the two outermost of five and more do not count."""
        values = sorted(self.values)
        if len(values) >= 5:
            values = values[1:-1]
        return (values[-1] - values[0]) / abs(self.median) if self.median else 0.0


def collect(rounds: Iterable[Iterable[Figure]]) -> list[Result]:
    """Return each figure over all rounds, in the order in which they first came."""
    found: dict[tuple[str, str], list[Figure]] = {}
    for figures in rounds:
        for figure in figures:
            found.setdefault((figure.bench, figure.name), []).append(figure)
    return [
        Result(
            bench, name, some[0].unit, some[0].better,
            tuple(figure.value for figure in some), tuple(figure.load for figure in some),
        )
        for (bench, name), some in found.items()
    ]  # fmt: skip


def is_steady(results: Sequence[Result], spread: float) -> bool:
    """Tell whether the ratios agree from round to round; seconds and rates follow the machine, so they do not count."""
    return all(len(one.values) > 1 and one.spread <= spread for one in results if one.unit == "ratio")


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of one table."""
    width = max([len(one.name) for one in results] + [10])
    yield f"{'bench':10} {'figure':{width}} {'median':>10} {'unit':12} {'spread':>7} {'runs':>5} {'load':>11}"
    for one in results:
        least, most = min(one.loads), max(one.loads)
        yield (
            f"{one.bench:10} {one.name:{width}} {number(one.median):>10} {one.unit:12} {one.spread:7.0%} "
            f"{len(one.values):5} {f'{least:.1f}–{most:.1f}' if most - least >= 0.1 else f'{most:.1f}':>11}"
        )


def number(value: float) -> str:
    """Return a figure with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def describe_machine() -> dict[str, Any]:
    """Return what a figure depends on beside the program."""
    return {
        "processor": describe_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def encode(results: Sequence[Result], started: str, ended: str) -> str:
    """Return the text of a file of results."""
    record = {
        "format": FORMAT,
        "kind": KIND,
        "started": started,
        "ended": ended,
        "machine": describe_machine(),
        "written_by": provenance(),
        "figures": [{**asdict(one), "median": one.median, "spread": round(one.spread, 4)} for one in results],
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class ResultFile:
    """A file of results as read."""

    results: tuple[Result, ...]
    machine: dict[str, Any]
    commit: str


def read_results(path: Path) -> ResultFile:
    """Return the results of a file; ``UsageError`` when it holds none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if (record["kind"], record["format"]) != (KIND, FORMAT):
            raise ValueError("it is of another kind or format")
        results = tuple(
            Result(one["bench"], one["name"], one["unit"], one["better"], tuple(one["values"]), tuple(one["loads"]))
            for one in record["figures"]
        )
        return ResultFile(results, record["machine"], str(record["written_by"]["commit"]))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no results of python -m benchmarks ({error})") from error


def judge(before: Result, after: Result) -> str:
    """Return better, worse, or nothing where the difference is within what each side varies by."""
    if not before.median or before.unit != after.unit:
        return "" if before.unit == after.unit else "other unit"
    change = after.median / before.median - 1
    if abs(change) <= max(before.spread, after.spread, NOISE):
        return ""
    return "better" if (change < 0) == (after.better == "less") else "worse"


def compare(before: ResultFile, after: ResultFile) -> Iterator[str]:
    """Yield the lines that set two files side by side."""
    if differing := [name for name in before.machine if before.machine[name] != after.machine.get(name)]:
        yield f"other machines ({', '.join(differing)}): compare ratios, not seconds"
    old = {(one.bench, one.name): one for one in before.results}
    new = {(one.bench, one.name): one for one in after.results}
    width = max([len(name) for _, name in (*old, *new)] + [10])
    yield f"{'bench':10} {'figure':{width}} {'before':>10} {'after':>10} {'unit':12} {'change':>7} {'spread':>12}"
    for key in [*old, *(key for key in new if key not in old)]:
        a, b = old.get(key), new.get(key)
        row = f"{key[0]:10} {key[1]:{width}} {number(a.median) if a else '–':>10} {number(b.median) if b else '–':>10}"
        row += f" {(b or a).unit:12}"  # type: ignore[union-attr]
        if a and b:
            change = f"{b.median / a.median - 1:+.0%}" if a.median else ""
            row += f" {change:>7} {f'{a.spread:.0%}, {b.spread:.0%}':>12} {judge(a, b)}"
        yield row.rstrip()
