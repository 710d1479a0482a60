"""Superdatasets of many datasets: what a run starts does not grow with those that did not change."""

from pathlib import Path

import pytest

from tests.mirrors import head, repository


def started(trace: Path) -> int:
    """How many processes of git wrote to a trace since it was deleted."""
    found = trace.read_text().count("trace: built-in: git") if trace.exists() else 0
    trace.unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("count", [12, pytest.param(300, marks=pytest.mark.long)])
def test_processes_of_many_datasets(mirror, listing, tmp_path, monkeypatch, count: int) -> None:
    """``python -m benchmarks.dandi --dandisets 5000 --assets 3 --zarr 0`` times 5,000."""
    listing.rows.clear()
    for number in range(count):
        listing.put(f"d{number:04d}/a.dat", b"%d" % number)
        listing.put(f"d{number:04d}/b/c.dat", b"%d b" % number)
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))
    mirror(listing, "update")
    # Of a new dataset: both branches, a look at what was written, and the files for readers over plain http.
    assert started(trace) <= 3 * (count + 1) + 10
    assert "nothing changed" in mirror(listing, "update")
    assert started(trace) == 0
    before = head(repository(tmp_path, f"d{count - 1:04d}"))
    started(trace)
    listing.put("d0001/a.dat", b"other")
    assert "1 dataset updated" in mirror(listing, "update")
    assert started(trace) <= 25
    monkeypatch.delenv("GIT_TRACE")
    assert head(repository(tmp_path, f"d{count - 1:04d}")) == before
    assert "agrees" in mirror(listing, "verify") if count < 100 else True
