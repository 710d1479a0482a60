"""Rectangles whose areas are as values are.

Input: values, the largest first. Output: places and sizes in percent of the whole.
Invariant: squarified (Bruls, Huizing, van Wijk, "Squarified treemaps", 2000): areas in proportion, no overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rectangle:
    """Place and size, in percent of the whole."""

    left: float
    top: float
    width: float
    height: float


def squarify(values: Sequence[float], ratio: float = 4.0) -> list[Rectangle]:
    """Return a rectangle for each value; ``ratio`` is the width of the whole over its height."""
    total = sum(values)
    if total <= 0:
        return []
    scale = 100.0 * ratio * 100.0 / total
    x = y = 0.0
    width, height = 100.0 * ratio, 100.0
    cells: list[Rectangle] = []
    start = 0
    while start < len(values) and width > 0 and height > 0:
        side = min(width, height)
        end = _row_end(values, start, side, scale)
        depth = sum(values[start:end]) * scale / side
        along = 0.0
        for value in values[start:end]:
            length = value * scale / depth if depth else 0.0
            if width >= height:
                cells.append(Rectangle(x / ratio, y + along, depth / ratio, length))
            else:
                cells.append(Rectangle((x + along) / ratio, y, length / ratio, depth))
            along += length
        if width >= height:
            x, width = x + depth, width - depth
        else:
            y, height = y + depth, height - depth
        start = end
    return cells


def _row_end(values: Sequence[float], start: int, side: float, scale: float) -> int:
    """Return where a row along a side ends: one more cell would make the worst of it longer."""
    total, worst, end = 0.0, float("inf"), start
    while end < len(values):
        grown = total + values[end] * scale
        least = values[end] * scale
        if least <= 0:
            return len(values)
        longest = max(side * side * values[start] * scale / (grown * grown), grown * grown / (side * side * least))
        if longest > worst:
            break
        total, worst, end = grown, longest, end + 1
    return end
