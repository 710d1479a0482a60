"""``make report``: the page over a release: crawl, plan, runs, failures, proof.

Input: ``Facts``. Output: ``index.html``, self-contained: no script, no font,
no image from elsewhere; charts are inline SVG.
Invariant: works from ``file://`` and from the bucket; every value is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lading.files import replacing
from lading.progress import format_bytes, format_count, format_seconds
from lading.report.facts import Facts, Minute
from lading.report.status import stages
from lading.report.treepage import environment

# Bars of the charts: more could not be told apart.
MOST_BARS = 120
MOST_ROWS = 1000


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: place and size in the chart's units, and what it says."""

    x: float
    y: float
    width: float
    height: float
    title: str


def draw_bars(values: Sequence[float], titles: Sequence[str], width: float = 900, height: float = 160) -> list[Bar]:
    """Return bars side by side, the highest as high as the chart."""
    top = max(values, default=0) or 1
    step = width / max(1, len(values))
    return [
        Bar(index * step, height - height * value / top, max(1.0, step - 1), height * value / top, title)
        for index, (value, title) in enumerate(zip(values, titles, strict=True))
    ]


def rate_chart(timeline: Sequence[Minute]) -> list[Bar]:
    """Return bytes a second over the time in which objects were stored."""
    if not timeline:
        return []
    minutes = [int(datetime.fromisoformat(minute.at).replace(tzinfo=UTC).timestamp()) // 60 for minute in timeline]
    span = minutes[-1] - minutes[0] + 1
    each = max(1, -(-span // MOST_BARS))
    sums = [0] * -(-span // each)
    for minute, entry in zip(minutes, timeline, strict=True):
        sums[(minute - minutes[0]) // each] += entry.bytes
    starts = [datetime.fromtimestamp((minutes[0] + index * each) * 60, UTC) for index in range(len(sums))]
    rates = [total / (each * 60) for total in sums]
    return draw_bars(
        rates,
        [f"{start:%Y-%m-%d %H:%M} UTC: {format_bytes(rate)}/s" for start, rate in zip(starts, rates, strict=True)],
    )


def batch_chart(sizes: Sequence[int]) -> list[Bar]:
    """Return the batches' sizes, the largest first, grouped when there are many."""
    ordered = sorted(sizes, reverse=True)
    each = max(1, -(-len(ordered) // MOST_BARS))
    groups = [ordered[start : start + each] for start in range(0, len(ordered), each)]
    means = [sum(group) / len(group) for group in groups]
    titles = [f"{len(group)} × about {format_bytes(mean)}" for group, mean in zip(groups, means, strict=True)]
    return draw_bars(means, titles, height=110)


def write_run_page(facts: Facts, directory: Path, *, tree_page: bool) -> Path:
    """Write ``index.html`` below ``directory``; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "index.html"
    template = environment()
    template.filters.update(bytes=format_bytes, count=format_count, seconds=format_seconds)
    text = template.get_template("index.html").render(
        facts=facts,
        stages=stages(facts),
        tree_page=tree_page,
        title=Path(facts.tree.root).name if facts.tree else "release",
        rates=rate_chart(facts.timeline),
        batches=batch_chart([batch.size for batch in facts.plan.batches] if facts.plan else []),
        most=MOST_ROWS,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with replacing(page) as stream:
        # A lone surrogate stands for a byte that is no UTF-8: shown as an escape.
        stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return page
