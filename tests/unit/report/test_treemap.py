"""Rectangles of a treemap: areas as the values are, nothing beyond the edge, nothing over another."""

import pytest

from lading.report.treemap import squarify


@pytest.mark.parametrize(
    "values",
    [[1.0], [6, 6, 4, 3, 2, 2, 1], [1000.0, *[1.0] * 300], [5.0] * 97, [10.0**12, 1.0], [3.0, 1.0, 0.0, 0.0]],
    ids=lambda values: f"{len(values)} from {values[0]:g}",
)
def test_areas_are_in_proportion(values: list[float]) -> None:
    cells = squarify(values)
    total = sum(values)
    assert len(cells) == len(values)
    for cell, value in zip(cells, values, strict=True):
        assert cell.width * cell.height == pytest.approx(10_000 * value / total, rel=1e-6, abs=1e-6)
        assert cell.left >= -1e-6
        assert cell.top >= -1e-6
        assert cell.left + cell.width <= 100 + 1e-6
        assert cell.top + cell.height <= 100 + 1e-6
    for place, one in enumerate(cells[:40]):
        for other in cells[place + 1 : 40]:
            wide = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
            high = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
            assert wide < 1e-6 or high < 1e-6


def test_nothing_has_no_cells() -> None:
    assert squarify([]) == []
    assert squarify([0.0, 0.0]) == []
