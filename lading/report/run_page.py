"""``make report``: the page over a release: crawl, plan, runs, failures, proof.

Input: ``Facts``. Output: ``index.html``, self-contained: no script, no font,
no image from elsewhere; charts are inline SVG.
Invariant: works from ``file://`` and from the bucket; every value is escaped.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.report.charts import Chart, draw_bars
from lading.report.facts import Facts, Moment
from lading.report.proof_age import ProofAge, describe_proof_age
from lading.report.status import stages
from lading.report.tree_page import environment, escape_surrogates

# Bars of the charts: more could not be told apart.
MOST_BARS = 120
MOST_ROWS = 1000


def rate_chart(timeline: Sequence[Moment]) -> Chart:
    """Return bytes a second over the time in which objects were stored."""
    if not timeline:
        return Chart()
    seconds = [int(datetime.fromisoformat(moment.at).replace(tzinfo=UTC).timestamp()) for moment in timeline]
    each = max(1, -(-(seconds[-1] - seconds[0] + 1) // MOST_BARS))
    sums = [0] * ((seconds[-1] - seconds[0]) // each + 1)
    for second, moment in zip(seconds, timeline, strict=True):
        sums[(second - seconds[0]) // each] += moment.bytes
    starts = [datetime.fromtimestamp(seconds[0] + index * each, UTC) for index in range(len(sums))]
    rates = [total / each for total in sums]
    titles = [
        f"{start:%Y-%m-%d %H:%M:%S} UTC: {format_bytes(rate)}/s" for start, rate in zip(starts, rates, strict=True)
    ]
    return Chart(
        tuple(draw_bars(rates, titles)),
        f"{format_bytes(max(rates))}/s",
        f"{format_bytes(max(rates) / 2)}/s",
        f"{starts[0]:%Y-%m-%d %H:%M:%S} UTC",
        f"{starts[-1]:%Y-%m-%d %H:%M:%S} UTC",
    )


def batch_chart(sizes: Sequence[int]) -> Chart:
    """Return the batches' sizes, the largest first, grouped when there are many."""
    if not sizes:
        return Chart()
    ordered = sorted(sizes, reverse=True)
    each = max(1, -(-len(ordered) // MOST_BARS))
    groups = [ordered[start : start + each] for start in range(0, len(ordered), each)]
    means = [sum(group) / len(group) for group in groups]
    titles = [f"{len(group)} × about {format_bytes(mean)}" for group, mean in zip(groups, means, strict=True)]
    return Chart(
        tuple(draw_bars(means, titles, height=110)),
        format_bytes(means[0]),
        format_bytes(means[0] / 2),
        "the largest",
        f"the smallest: {format_bytes(ordered[-1])}",
    )


def _proof_age(facts: Facts) -> ProofAge | None:
    try:
        return describe_proof_age(facts.scrub, datetime.now(UTC).timestamp()) if facts.scrub else None
    except ValueError:  # of an edition that knew other members
        return None


def write_run_page(
    facts: Facts, directory: Path, *, tree_page: bool, outputs: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write ``index.html`` below ``directory``; returns its path. ``outputs``: those of compressions, with pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "index.html"
    template = environment()
    template.filters.update(bytes=format_bytes, count=format_count, counted=counted, seconds=format_seconds)
    text = template.get_template("index.html").render(
        facts=facts,
        as_it_is=str,
        stages=stages(facts),
        tree_page=tree_page,
        outputs=outputs,
        proof_age=_proof_age(facts),
        title=Path(facts.tree.root).name if facts.tree else "release",
        rates=rate_chart(facts.timeline),
        batches=batch_chart([batch.size for batch in facts.plan.batches] if facts.plan else []),
        most=MOST_ROWS,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with atomic_write(page, sweep=True) as stream:
        stream.write(escape_surrogates(text))
    return page
