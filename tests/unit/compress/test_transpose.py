"""Samples turned and compared, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lading.compress.ephys import transpose as turning

# Sides of a square and of what is turned at once, and what is left beside them.
SIDES = st.one_of(st.integers(1, 100), st.sampled_from([7, 8, 9, 255, 256, 257, 513]))
BLOCKS = arrays.arrays(st.sampled_from(["<i2", ">i2", "<u2"]), st.tuples(SIDES, st.integers(1, 100)))


def chunk_around(block: np.ndarray, at: int, after: int) -> np.ndarray:
    """A chunk (channels, length) of a value that no block's edge may touch."""
    return np.full((block.shape[1], at + len(block) + after), -7 if block.dtype.kind == "i" else 7, block.dtype)


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.integers(0, 40), st.integers(0, 40))
def test_turned_and_nothing_else_touched(block: np.ndarray, at: int, after: int) -> None:
    turned = chunk_around(block, at, after)
    expected = turned.copy()
    expected[:, at : at + len(block)] = block.T
    turning.transpose(block, turned, at)
    assert turned.tobytes() == expected.tobytes()
    assert turning.holds(turned, at, block)


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.integers(0, 40), st.integers(0, 40), st.data())
def test_every_bit_of_the_block_counts_and_no_other(
    block: np.ndarray, at: int, after: int, data: st.DataObject
) -> None:
    turned = chunk_around(block, at, after)
    turning.transpose(block, turned, at)
    channel = data.draw(st.integers(0, turned.shape[0] - 1))
    frame = data.draw(st.integers(0, turned.shape[1] - 1))
    turned.view("<u2")[channel, frame] ^= 1 << data.draw(st.integers(0, 15))
    assert turning.holds(turned, at, block) is not (at <= frame < at + len(block))


@pytest.mark.parametrize("dtype", ["<i2", "i1", "<i4", "<f4", "<f8"])
def test_every_type(dtype: str) -> None:
    block = np.random.default_rng(3).integers(0, 256, (1100, 97 * np.dtype(dtype).itemsize), "u1").view(dtype)
    turned = np.zeros((97, 1300), dtype)
    turning.transpose(block, turned, 150)
    assert turned[:, 150:1250].tobytes() == np.ascontiguousarray(block.T).tobytes()
    assert not turned[:, :150].any()
    assert not turned[:, 1250:].any()
    assert turning.holds(turned, 150, block)
    turned.view("u1")[50, turned.itemsize * 700] ^= 1
    assert not turning.holds(turned, 150, block)


def test_a_chunk_of_another_type_does_not_hold_a_block() -> None:
    assert not turning.holds(np.zeros((8, 8), "<u2"), 0, np.zeros((8, 8), "<i2"))
