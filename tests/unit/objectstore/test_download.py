"""``body.ObjectReader``: what breaks goes on where it stopped, with bounded patience."""

from collections.abc import Iterator
from typing import Any

import pytest

from lading.objectstore import download as body
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind

MIB = 1 << 20


class Breaking:
    """A store whose answers break after ``run`` bytes each; ``end`` is what it holds of the object."""

    def __init__(self, end: int, run: int) -> None:
        self.end, self.run, self.starts = end, run, list[int]()

    def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
        self.starts.append(start)
        if start and start >= self.end:
            raise StoreError(FailureKind.OBJECT, "the range is not there", "InvalidRange")
        if self.run:
            yield bytes(min(self.run, self.end - start))
        if start + self.run < self.end:
            raise StoreError(FailureKind.TRANSIENT, "broken")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LONGEST_PAUSE", 0.0)


def read(store: Any, size: int) -> int:
    return sum(map(len, body.ObjectReader(store).blocks("a", size)))


def test_a_large_object_may_break_often() -> None:
    store = Breaking(20 * MIB, MIB)
    assert read(store, 20 * MIB) == 20 * MIB
    assert store.starts == [n * MIB for n in range(20)]


@pytest.mark.parametrize("run", [0, 1])
def test_patience_ends(run: int) -> None:
    store = Breaking(MIB, run)
    with pytest.raises(StoreError, match="broken"):
        read(store, MIB)
    assert store.starts == [n * run for n in range(body.ATTEMPTS)]


def test_an_object_that_shrank_ends_where_it_does() -> None:
    assert read(Breaking(MIB, MIB), 2 * MIB) == MIB


def test_what_is_not_transient_is_told_at_once() -> None:
    class Gone(Breaking):
        def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
            self.starts.append(start)
            raise StoreError(FailureKind.OBJECT, "gone", "NoSuchKey")
            yield b""

    store = Gone(1, 1)
    with pytest.raises(StoreError, match="gone"):
        read(store, 1)
    assert store.starts == [0]


def test_told_to_stop_it_ends_at_the_next_block() -> None:
    reader = body.ObjectReader(Breaking(20 * MIB, MIB))  # type: ignore[arg-type]
    blocks = reader.blocks("a", 20 * MIB)
    next(blocks)
    reader.stop()
    with pytest.raises(body.DownloadStopped):
        next(blocks)
