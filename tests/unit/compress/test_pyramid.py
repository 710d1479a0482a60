"""Levels against their definition: shapes, transforms, the windowed mean in any pieces."""

import itertools
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lading.compress.imaging import ome_zarr, pyramid
from lading.compress.imaging.pyramid import halve, level_shapes, mean_halved, stored_transforms, transforms

SHAPES = st.tuples(*[st.integers(1, 9)] * 3)


def definition(block: np.ndarray) -> np.ndarray:
    """The rounded mean, voxel by voxel, in exact arithmetic."""
    out = np.empty([-(-n // 2) for n in block.shape], block.dtype)
    for place in itertools.product(*map(range, out.shape)):
        values = block[tuple(slice(2 * p, 2 * p + 2) for p in place)].ravel()
        total = sum(Fraction(int(value)) for value in values)
        out[place] = (2 * total / len(values) + 1) // 2  # half up
    return out


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int32"]))
def test_mean_of_integers_is_exact(data: st.DataObject, dtype: str) -> None:
    block = data.draw(hnp.arrays(dtype, data.draw(SHAPES)))
    assert np.array_equal(mean_halved(block), definition(block))
    assert mean_halved(block).dtype == block.dtype


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32"])
def test_extremes_do_not_overflow(dtype: str) -> None:
    for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        assert (mean_halved(np.full((4, 4, 4), value, dtype)) == value).all()


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(st.sampled_from(["u1", "<u2", ">u2"]), st.tuples(*[st.integers(2, 70)] * 3)),
    st.tuples(*[st.integers(0, 3)] * 3),
)
def test_compiled_mean_is_numpys(whole: np.ndarray, start: tuple[int, int, int]) -> None:
    pytest.importorskip("lading.compress.imaging._mean")
    assert pyramid.compiled_core() is not None
    block = whole[tuple(slice(min(at, length - 1), None) for at, length in zip(start, whole.shape))]
    found = mean_halved(block)
    with patch.object(pyramid, "compiled_core", lambda: None):
        assert np.array_equal(found, mean_halved(block))


def test_compiled_mean_refuses_what_does_not_fit() -> None:
    core = pytest.importorskip("lading.compress.imaging._mean")
    room = np.zeros((2, 2, 2), "u2")
    for block in (np.zeros((4, 4, 3), "u2"), np.zeros((4, 4, 6), "u2"), np.zeros((4, 4, 8), "u2")[:, :, ::2]):
        with pytest.raises(ValueError, match="no block of even sides"):
            core.halve(block, room)
    with pytest.raises(ValueError, match="no block of even sides"):
        core.halve(np.zeros((4, 4, 4), "u4"), np.zeros((2, 2, 2), "u4"))
    assert not room.any()


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(st.sampled_from(["u1", "<u2", ">i2", "f4"]), st.tuples(*[st.integers(1, 20)] * 3)),
    st.tuples(*[st.integers(0, 3)] * 3),
    st.data(),
)
def test_blocks_compare_by_their_bytes(whole: np.ndarray, start: tuple[int, int, int], data: st.DataObject) -> None:
    """With the compiled module and without it: what lies apart, one bit in any place, NaN beside NaN."""
    block = whole[tuple(slice(min(at, length - 1), None) for at, length in zip(start, whole.shape))]
    other = np.array(block)
    place = data.draw(st.integers(0, other.nbytes - 1))
    for core in (pyramid.compiled_core(), None):
        with patch.object(ome_zarr, "compiled_core", lambda core=core: core):
            assert ome_zarr.are_equal(block, other)
            other.reshape(-1).view("u1")[place] ^= 1
            assert not ome_zarr.are_equal(block, other)
            other.reshape(-1).view("u1")[place] ^= 1
            assert not ome_zarr.are_equal(block, other[:, :, 1:]), "another shape"


def test_blocks_that_do_not_fit_are_not_compared() -> None:
    core = pytest.importorskip("lading.compress.imaging._mean")
    block = np.zeros((4, 4, 4), "u2")
    for other in (block[:, :, ::2], block[:2], block[0], block.astype("u4"), block[:, :, :2]):
        with pytest.raises(ValueError, match="no two blocks of one shape"):
            core.same(block, other)


@settings(deadline=None, max_examples=40)
@given(hnp.arrays("float32", SHAPES, elements=st.floats(-1e6, 1e6, width=32)))
def test_mean_of_floats(block: np.ndarray) -> None:
    found = mean_halved(block)
    for place in itertools.product(*map(range, found.shape)):
        window = block[tuple(slice(2 * p, 2 * p + 2) for p in place)].astype(np.float64)
        assert found[place] == pytest.approx(window.mean(), rel=1e-5, abs=1e-1)


def test_nan_stays_nan() -> None:
    block = np.ones((2, 2, 4), np.float32)
    block[0, 0, 0] = np.nan
    assert np.isnan(mean_halved(block)[0, 0, 0])
    assert mean_halved(block)[0, 0, 1] == 1


@settings(deadline=None, max_examples=40)
@given(hnp.arrays("uint16", SHAPES), st.integers(0, 4))
def test_pieces_that_start_at_even_voxels_give_the_whole(block: np.ndarray, cut: int) -> None:
    at = 2 * cut
    parts = [part for part in (block[:at], block[at:]) if len(part)]
    assert np.array_equal(np.concatenate([mean_halved(part) for part in parts]), mean_halved(block))


def test_levels_end_when_nothing_is_left() -> None:
    assert level_shapes((1, 2, 5, 8, 1), 9) == [(1, 2, 5, 8, 1), (1, 2, 3, 4, 1), (1, 2, 2, 2, 1), (1, 2, 1, 1, 1)]
    assert level_shapes((1, 1, 10, 4000, 2000), None)[-1] == (1, 1, 2, 500, 250)
    assert level_shapes((1, 1, 10, 512, 512), None) == [(1, 1, 10, 512, 512)]
    assert halve((3, 2, 1, 7, 8)) == (3, 2, 1, 4, 4)


def test_transforms_put_each_voxel_at_the_middle_of_what_it_covers() -> None:
    shapes = level_shapes((1, 1, 1, 64, 1024), 4)
    voxel = (2.0, 0.5, 0.25)
    for level, change in enumerate(transforms(shapes, voxel)):
        for axis, size in enumerate(voxel):
            factor = 1 if axis == 0 else 2**level  # z has one plane and is never halved
            covered = np.arange(factor) * size  # centres of the voxels that voxel 0 of this level covers
            assert change.translation[axis] == pytest.approx(covered.mean())
            assert change.scale[axis] == pytest.approx(size * factor)


def test_stored_levels_keep_their_own_factors() -> None:
    shapes = [(1, 1, 100, 2049, 2048), (1, 1, 100, 1024, 1024), (1, 1, 50, 512, 512), (1, 1, 50, 170, 512)]
    scales = [change.scale for change in stored_transforms(shapes, (1.0, 1.0, 1.0))]
    assert scales[:3] == [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    assert scales[3] == (2, pytest.approx(2049 / 170), 4)
