"""When the digest of a large file begins, beside the units that compress it."""

from pathlib import Path

import pytest

from lading.compress.hashing import plan_units
from lading.compress.job import CompressionUnit
from lading.compress.sources import Source
from lading.coordination.claims import group_items

MB = 1 << 20


@pytest.mark.parametrize(("blocks", "first"), [(4, False), (40, True)])
def test_a_digest_begins_before_the_compression_only_where_it_would_outlast_it(
    tmp_path: Path, blocks: int, first: bool
) -> None:
    """Four blocks leave two ranks time for the digest of their file after them; that of forty takes as long as five."""
    stack = tmp_path / "stack.tif"
    with stack.open("wb") as stream:
        stream.truncate(blocks * 1000 * MB)
    (digest,) = plan_units(Source(tmp_path), ["stack.tif"])
    units = [CompressionUnit(f"block/{number}", 1000 * MB, {}) for number in range(blocks)]
    order = [item.id for group in group_items([*units, digest], 2) for item in group.items]
    assert sorted(order) == sorted([*(unit.id for unit in units), digest.id])
    assert order.index(digest.id) == (0 if first else blocks)
