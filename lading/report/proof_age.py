"""How old the proof of a release's bytes is, as the last scrub left it.

Input: the summary that ends a run in a scrub log. Output: a chart of bytes over the age of their proof, and sentences.
Invariant: what was never read, and what was found wrong, has bars of its own: neither counts as proven.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lading.core.bounded import JsonMembers
from lading.core.progress import counted, format_bytes, format_count
from lading.report.charts import Chart, draw_bars

DAY = 86400.0
BARS = 90
WRONG, NEVER = "wrong", "never"


@dataclass(frozen=True)
class ProofAge:
    """What the last scrub left: bytes by age, and what it read and found wrong."""

    chart: Chart
    lines: tuple[str, ...]
    wrong: bool


def describe_proof_age(summary: Mapping[str, Any], now: float) -> ProofAge:
    """Return what a summary says now; ``ValueError`` when it is of another form."""
    take = JsonMembers(summary, "the summary")
    ages = {name: take.members("ages").number(name) for name in take.object("ages")}
    period = max(1, round(take.real("period") / DAY))
    days = {int(now // DAY) - int(name): size for name, size in ages.items() if name.lstrip("-").isdigit()}
    oldest = max(period, *days, 1)
    each = -(-(oldest + 1) // BARS)
    sizes = [0] * (oldest // each + 1)
    for age, size in days.items():
        sizes[max(0, age) // each] += size
    titles = [
        f"{index * each} to {index * each + each - 1} days: {format_bytes(size)}" if each > 1 else
        f"{counted(index, 'day')}: {format_bytes(size)}"
        for index, size in enumerate(sizes)
    ]  # fmt: skip
    sizes += [ages.get(NEVER, 0), ages.get(WRONG, 0)]
    titles += [f"never read: {format_bytes(ages.get(NEVER, 0))}", f"found wrong: {format_bytes(ages.get(WRONG, 0))}"]
    top = max(sizes)
    chart = Chart(
        tuple(draw_bars(sizes, titles)),
        format_bytes(top),
        format_bytes(top / 2),
        "read today",
        f"{counted(oldest, 'day')} ago · never · wrong",
    )
    read, wrong = take.members("read"), take.object("wrong")
    found = {name: take.members("wrong").number(name) for name in wrong}
    listed = {name: take.members("listed").number(name) for name in take.object("listed") if name != "right"}
    bad = {name: listed.get(name, 0) + found.get(name, 0) for name in (listed | found)}
    lines = [
        f"The last run read {counted(read.number('objects'), 'object')}, {format_bytes(read.number('bytes'))}; "
        f"everything is to be read within {counted(period, 'day')}.",
        f"Never read: {format_bytes(ages.get(NEVER, 0))}; later than that: {format_bytes(take.number('late_bytes'))}.",
    ]
    if any(bad.values()):
        lines.append(
            "Wrong: " + ", ".join(f"{format_count(count)} {name}" for name, count in bad.items() if count) + "."
        )
    return ProofAge(chart, tuple(lines), any(bad.values()))
