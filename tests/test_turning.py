"""The compiled turning and comparing of samples against numpy's, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jobs.compress.recording import turning

core = pytest.importorskip("jobs.compress.recording._turn")

# Sides of a square, of a tile and what is left beside them.
SIDES = st.one_of(st.integers(1, 100), st.sampled_from([7, 8, 9, 31, 32, 33, 64, 96]))
BLOCKS = arrays.arrays(st.sampled_from(["<i2", ">i2", "<u2"]), st.tuples(SIDES, SIDES))


def numpy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning, "_core", lambda: None)


def chunk_around(block: np.ndarray, at: int, after: int) -> np.ndarray:
    """A chunk (channels, length) of a value that no block's edge may touch."""
    return np.full((block.shape[1], at + len(block) + after), -7 if block.dtype.kind == "i" else 7, block.dtype)


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.integers(0, 40), st.integers(0, 40))
def test_turned_like_numpy_and_nothing_else_touched(block: np.ndarray, at: int, after: int) -> None:
    turned = chunk_around(block, at, after)
    expected = turned.copy()
    expected[:, at : at + len(block)] = block.T
    turning.turn(block, turned, at)
    assert turned.tobytes() == expected.tobytes()
    assert turning.holds(turned, at, block)


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.integers(0, 40), st.integers(0, 40), st.data())
def test_every_bit_of_the_block_counts_and_no_other(
    block: np.ndarray, at: int, after: int, data: st.DataObject
) -> None:
    turned = chunk_around(block, at, after)
    turning.turn(block, turned, at)
    channel = data.draw(st.integers(0, turned.shape[0] - 1))
    frame = data.draw(st.integers(0, turned.shape[1] - 1))
    turned.view("<u2")[channel, frame] ^= 1 << data.draw(st.integers(0, 15))
    assert turning.holds(turned, at, block) is not (at <= frame < at + len(block))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["<i2", "i1", "<i4", "<f4", "<f8"])
def test_both_ways_agree_for_every_type(compiled: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        numpy_only(monkeypatch)
    block = np.random.default_rng(3).integers(0, 256, (1100, 97 * np.dtype(dtype).itemsize), "u1").view(dtype)
    turned = np.zeros((97, 1300), dtype)
    turning.turn(block, turned, 150)
    assert turned[:, 150:1250].tobytes() == np.ascontiguousarray(block.T).tobytes()
    assert not turned[:, :150].any()
    assert not turned[:, 1250:].any()
    assert turning.holds(turned, 150, block)
    turned.view("u1")[50, turned.itemsize * 700] ^= 1
    assert not turning.holds(turned, 150, block)


@pytest.mark.parametrize(("channels", "at"), [(8, 1), (8, -1), (7, 0), (0, 0), (-8, 0), (8, 2**62), (2**62, 0)])
def test_a_block_outside_the_chunk_is_refused(channels: int, at: int) -> None:
    rows, turned = bytes(16 * 8 * 2), bytearray(16 * 8 * 2)
    for action in (core.turn, core.equal):
        with pytest.raises(ValueError, match="does not lie within"):
            action(rows, turned, channels, at)
    assert not any(turned)


def test_a_chunk_of_another_type_does_not_hold_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    block = np.zeros((8, 8), "<i2")
    assert not turning.holds(np.zeros((8, 8), "<u2"), 0, block)
    numpy_only(monkeypatch)
    assert not turning.holds(np.zeros((8, 8), "<u2"), 0, block)
