"""``lading fleet report``: one page over many releases, the failures first, and a page on the last runs of each.

Input: ``FleetStatus``; of the portal its jobs as well. Output: what the templates show; ``index.html`` and the pages
below ``runs-TIME/``, which need no server.
Invariant: works from ``file://`` and without scripts; every value is escaped. A colour never says what no word does.
Five thousand rows are laid out as they come into sight.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.core.safe_streams import escape_controls, printable
from lading.report.fleet import LATE, STATES, FleetRow, FleetStatus, format_age
from lading.report.run_story import StageStory, read_story
from lading.report.tree_page import environment, escape_surrogates
from lading.report.treemap import Rectangle, squarify

# Cells of the treemap: smaller ones could not be told apart; the others are one cell.
MOST_CELLS = 300
# How wide a cell must be, in percent, for its name to be read.
NAMED_WIDTH, NAMED_HEIGHT = 6.0, 9.0
WIDTH, HEIGHT = 60, 14  # of a sparkline
MOST_SENTENCE = 400
LOG_BYTES = 20_000  # of a log's end
_FOLDER = re.compile(r"runs-\d{8}T\d{12}Z")
# Which column shows the age that a stage is late with; every other stage is in that of the last success.
_COLUMNS = {"scrub": "verified", "mirror": "mirror"}


@dataclass(frozen=True)
class FleetLine:
    """One row of the page: a release, or a job of the portal; all as text.

    keys   what the script sorts by, in the order of ``SORTED``; -1 for what is not known
    late   the columns whose age is beyond its limit
    path   of the sparkline, "" without one
    """

    kind: str
    name: str
    link: str
    state: str
    word: str
    stage: str
    left: str = ""
    rate: str = ""
    path: str = ""
    remaining: str = ""
    success: str = ""
    verified: str = ""
    mirror: str = ""
    sentence: str = ""
    keys: str = ""
    late: tuple[str, ...] = ()


@dataclass(frozen=True)
class FleetCell:
    """One cell of the treemap: its place, and the release that it is of."""

    place: Rectangle
    name: str
    state: str
    title: str
    named: bool


@dataclass(frozen=True)
class FleetView:
    """What the page shows."""

    lines: tuple[FleetLine, ...]
    cells: tuple[FleetCell, ...]
    counts: tuple[tuple[str, int], ...]
    summary: str
    made: str
    faults: tuple[str, ...]


# The columns that can be sorted, beside the name: the script has them in this order.
SORTED = ("state", "left", "rate", "remaining", "success", "verified", "mirror")


def describe_fleet(
    status: FleetStatus, link: Callable[[int, FleetRow], str], others: Iterable[FleetLine] = ()
) -> FleetView:
    """Return what the page shows, the worst first.

    ``link`` returns where the last runs of a release are shown, by its place in the list and its row.
    """
    jobs = list(others)
    lines = [*jobs, *(describe_row(row, status.at, link(place, row)) for place, row in enumerate(status.rows))]
    lines.sort(key=lambda line: STATES.index(line.state))
    counts = {state: sum(line.state == state for line in lines) for state in STATES}
    sizes = sum(row.bytes or 0 for row in status.rows)
    left = sum(row.bytes_left or 0 for row in status.rows)
    return FleetView(
        tuple(lines),
        tuple(draw_cells(status.rows)),
        tuple((state, count) for state, count in counts.items() if count),
        f"{counted(len(status.rows), 'release')} ({format_bytes(sizes)}, of which {format_bytes(left)} are left)"
        + (f" and {counted(len(jobs), 'job')}" if jobs else ""),
        datetime.fromtimestamp(status.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        tuple(map(printable, status.faults)),
    )


def describe_row(row: FleetRow, now: float, link: str) -> FleetLine:
    """Return the line of one release."""
    left = "" if row.objects_left is None else format_count(row.objects_left)
    if row.objects_left and row.bytes_left is not None:
        left += f" · {format_bytes(row.bytes_left)}"
    late = {_COLUMNS.get(found.stage, "success"): found.at for found in row.problems if found.kind == LATE}
    # What is late counts where a column stands for several stages.
    ages = {"success": row.last_success, "verified": row.oldest_proof, "mirror": row.mirrored} | late
    shown = {
        name: format_age(at, now) if at is not None or name in late or name == "success" else ""
        for name, at in ages.items()
    }
    keys = (STATES.index(row.state), row.bytes_left, row.rate, row.eta, *ages.values())
    return FleetLine(
        "release",
        printable(row.name),
        link,
        row.state,
        row.state,
        row.stage,
        left,
        f"{format_bytes(row.rate)}/s" if row.rate else "",
        sparkline([point.rate for point in row.rates]),
        format_seconds(row.eta) if row.eta else "",
        shown["success"],
        shown["verified"],
        shown["mirror"],
        _sentence(row, now),
        ",".join("-1" if key is None else f"{key:.0f}" for key in keys),
        tuple(sorted(late)),
    )


def _sentence(row: FleetRow, now: float) -> str:
    """Return what is wrong, or who is at work."""
    said = [found.headline for found in row.problems if found.sentence]
    if not said:
        return f"{printable(row.lock.holder)} at work for {format_age(row.lock.since, now)}" if row.lock else ""
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    return printable(said[0])[:MOST_SENTENCE] + more


def sparkline(rates: Sequence[float]) -> str:
    """Return the path of rates, the highest as high as the picture; "" for fewer than two."""
    if len(rates) < 2:
        return ""
    top = max(rates) or 1.0
    step = WIDTH / (len(rates) - 1)
    points = (
        f"{round(place * step)} {round(HEIGHT - 1 - (HEIGHT - 2) * rate / top)}" for place, rate in enumerate(rates)
    )
    return "M" + "L".join(points)


def draw_cells(rows: Sequence[FleetRow]) -> list[FleetCell]:
    """Return the treemap: what needs a look and the largest of the others, and one cell a state for the rest."""
    ordered = sorted((row for row in rows if row.bytes), key=lambda row: -(row.bytes or 0))
    ordered.sort(key=lambda row: not row.problems)
    shown, rest = ordered[:MOST_CELLS], ordered[MOST_CELLS:]
    named = [(printable(row.name), row.state, row.bytes or 0) for row in shown]
    for state in STATES:
        others = [row.bytes or 0 for row in rest if row.state == state]
        if others:
            named.append((f"{format_count(len(others))} others", state, sum(others)))
    named.sort(key=lambda item: -item[2])
    places = squarify([float(size) for _, _, size in named])
    return [
        FleetCell(
            place,
            name,
            state,
            f"{name}: {format_bytes(size)}, {state}",
            place.width >= NAMED_WIDTH and place.height >= NAMED_HEIGHT,
        )
        for place, (name, state, size) in zip(places, named)
    ]


def write_fleet_page(status: FleetStatus, directory: Path, logs: Path | None = None) -> Path:
    """Write the page and those of the last runs; the page replaces an older one when theirs are there.

    ``logs`` is where the fleet keeps what the stages said, a directory for each release.
    """
    directory.mkdir(parents=True, exist_ok=True)
    folder = directory / datetime.now(UTC).strftime("runs-%Y%m%dT%H%M%S%fZ")
    folder.mkdir()
    templates = environment()
    templates.filters["printable"] = printable
    story = templates.get_template("fleet_runs.html")
    for place, row in enumerate(status.rows):
        # What goes well is known from the row: the folders of thousands are not read a second time.
        stories = list_stories(row, logs) if row.problems else [_tell(StageStory(*one)) for one in row.stages.items()]
        text = story.render(row=row, name=printable(row.name), stories=stories, back="../index.html")
        (folder / f"{place}.html").write_text(escape_surrogates(text), encoding="utf-8")
    page = directory / "index.html"
    view = describe_fleet(status, lambda place, _: f"{folder.name}/{place}.html")
    with atomic_write(page, sweep=True) as stream:
        stream.write(escape_surrogates(templates.get_template("fleet.html").render(view=view, sorts=SORTED)))
    for old in directory.iterdir():
        if _FOLDER.fullmatch(old.name) and old != folder and old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
    return page


def list_stories(row: FleetRow, logs: Path | None) -> list[dict[str, Any]]:
    """Return the last run of each stage: its title, whether it went wrong, its lines, the end of its log."""
    return [_tell(found) for found in read_story(Path(row.folder), logs=logs / row.name if logs else None)]


def _tell(found: StageStory) -> dict[str, Any]:
    title, *lines = [printable(line.strip()) for line in found.lines()]
    return {"failing": found.result.failing, "title": title, "lines": lines, "log": _tail(found.log)}


def _tail(log: Path | None) -> str:
    """Return the end of a log, its last lines whole; "" for none."""
    try:
        if log is None:
            return ""
        with log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - LOG_BYTES))
            text = stream.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return escape_controls(text if size <= LOG_BYTES else text.partition("\n")[2])
