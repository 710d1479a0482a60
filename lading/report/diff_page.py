"""The page over a comparison: counts and bytes by kind, directories, renamed directories, the first names of each kind.

Input: what ``lading diff --json`` prints. Output: one file, self-contained.
Invariant: works from ``file://`` and from the bucket; every value is escaped.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.progress import format_bytes, format_count
from lading.report.charts import Chart, draw_bars
from lading.report.tree_page import environment, escape_surrogates

MOST_ROWS = 1000
MOST_BARS = 60


def write_diff_page(record: Mapping[str, Any], page: Path, names: tuple[str, str]) -> None:
    """Write the page; ``names`` are what the two sides were called."""
    directories = sorted(record["directories"].items(), key=lambda entry: -entry[1]["bytes"])
    template = environment()
    template.filters.update(bytes=format_bytes, count=format_count)
    text = template.get_template("diff.html").render(
        record=record,
        names=names,
        directories=directories[:MOST_ROWS],
        chart=directory_chart(directories[:MOST_BARS]),
        most=MOST_ROWS,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with atomic_write(page, sweep=True) as stream:
        stream.write(escape_surrogates(text))


def directory_chart(directories: list[tuple[str, dict[str, int]]]) -> Chart:
    """Return the bytes that changed in each first directory, the largest first."""
    if not directories:
        return Chart()
    values = [found["bytes"] for _, found in directories]
    titles = [f"{name}: {format_bytes(found['bytes'])}" for name, found in directories]
    return Chart(
        tuple(draw_bars(values, titles, height=110)),
        format_bytes(values[0]),
        format_bytes(values[0] / 2),
        directories[0][0],
        directories[-1][0],
    )
