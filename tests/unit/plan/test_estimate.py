"""The estimate: requests by the part rule, prices by the table, the directories that matter."""

from pathlib import Path
from typing import Any

import pytest

from lading.checksums.parts import MIB, PART_BYTES, count_parts, part_bytes
from lading.core.errors import UsageError
from lading.plan.estimate import parse_prices, storage_price
from tests.unit.plan.test_planner import write_tree


def test_parts() -> None:
    assert [count_parts(size) for size in (0, PART_BYTES, PART_BYTES + 1, 10 * PART_BYTES)] == [0, 0, 2, 10]
    huge = 5 << 40
    assert count_parts(huge) <= 10_000
    assert part_bytes(huge) % MIB == 0
    assert count_parts(10_000 * PART_BYTES) < 10_000


def test_prices_by_tier() -> None:
    prices = parse_prices("0.005", "0.023 to 50T, 0.022 to 500T, 0.021", "0", "USD")
    assert storage_price(prices, 10**9) == pytest.approx(0.023)
    assert storage_price(prices, 50 * 10**12) == pytest.approx(1150)
    assert storage_price(prices, 600 * 10**12) == pytest.approx(50_000 * 0.023 + 450_000 * 0.022 + 100_000 * 0.021)


@pytest.mark.parametrize(
    ("request_price", "storage"),
    [("x", "1"), ("-1", "1"), ("nan", "1"), ("1", ""), ("1", "0.02 to 5T"), ("1", "0.02, 0.01"), ("1", "cheap")],
)
def test_bad_prices(request_price: str, storage: str) -> None:
    with pytest.raises(UsageError, match="price_"):
        parse_prices(request_price, storage, "0", "USD")


def test_text_and_tables(run: Any, tmp_path: Path) -> None:
    store = {str(z): {str(x): (1, 1000) for x in range(50)} for z in range(20)}
    content = {
        "big": {"raw": {"a.dat": (1, 3 * PART_BYTES), "b.dat": (1, PART_BYTES)}, "log": (1, 10)},
        "image.zarr": {"0": {"c": store}},
        "new\nline": {"x": (1, 5)},
    }
    write_tree(tmp_path, content)
    lacking = run("batch.py", "/data", "--estimate", "-o", tmp_path / "batch.json")
    assert lacking.returncode == 2
    assert "make batch.json" in lacking.stderr
    assert (
        run("batch.py", "/data", "--file-tree", tmp_path / "find.json", "-o", tmp_path / "batch.json").returncode == 0
    )
    result = run("batch.py", "/data", "--estimate", "-o", tmp_path / "batch.json", "--rate", "1M")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["objects", "1,004"]
    assert f"{4 * PART_BYTES + 1_000_015:,}" in lines[1]
    assert "1,006 PUT (3 of them parts of 1 object), 2 POST, about 4 LIST" in lines[2]
    assert "3 min 31 s at 1 MB/s" in lines[4]
    largest = lines[lines.index("largest directories") + 1]
    worst = lines[lines.index("directories with most files below 64 KiB") + 1]
    assert largest.endswith("  big/raw/")
    assert worst.endswith("  image.zarr/0/c/")
    assert "new\\nline/" in result.stdout
    bad = run("batch.py", "/data", "--estimate", "-o", tmp_path / "batch.json", "--rate", "0")
    assert bad.returncode == 2
