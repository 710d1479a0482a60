"""Bars side by side, as inline SVG has them.

Input: values and what to say of each. Output: places and sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: place and size in the chart's units, and what it says."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """Bars side by side with the words of both axes; the highest bar is as high as the chart."""

    bars: tuple[Bar, ...] = ()
    top: str = ""
    middle: str = ""
    first: str = ""
    last: str = ""


def draw_bars(values: Sequence[float], titles: Sequence[str], width: float = 900, height: float = 160) -> list[Bar]:
    """Return bars side by side, the highest as high as the chart."""
    top = max(values, default=0) or 1
    step = width / max(1, len(values))
    return [
        Bar(index * step, height - height * value / top, max(1.0, step - 1), height * value / top, title)
        for index, (value, title) in enumerate(zip(values, titles, strict=True))
    ]
