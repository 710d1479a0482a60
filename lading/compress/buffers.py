"""Memory that is kept from block to block.

Input: a role, a type and a shape. Output: an array with whatever it held before.
Invariant: one array a role and thread: a second call with the same role takes
the first one's memory.
The kernel clears fresh pages at a few GB a second, once for each large array
that a block needs: beside a fast codec that would be a third of the work.
"""

import contextlib
import ctypes
import functools
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What an array holds before something is read or decoded into it: what it held before may be the right answer.
POISON = 0xA5
# mallopt(3): parameters, and the most that glibc takes for the first.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _KEPT = 32 << 20, 256 << 20


def scratch_buffer(role: str, dtype: "np.dtype[Any]", shape: Sequence[int]) -> NDArray[Any]:
    """Return this thread's memory for ``role``, C-contiguous, with whatever it held before."""
    size = math.prod(shape) * dtype.itemsize
    held = _held(role, threading.get_ident())
    if not held or len(held[0]) < size:
        held.clear()  # before the larger one is made: never both
        held.append(np.empty(size, np.uint8))
    return held[0][:size].view(dtype).reshape(shape)


def poison_fill(array: NDArray[Any], value: int = POISON, step: int = 1) -> NDArray[Any]:
    """Overwrite every ``step``-th value along the last axis, so that none passes for read that was not read now."""
    array[..., ::step] = np.full(array.itemsize, value, np.uint8).view(array.dtype)[0]
    return array


@functools.cache
def tune_malloc() -> None:
    """Let the C library keep what codecs allocate and free in every block, where it can."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)


@functools.lru_cache(maxsize=8)
def _held(role: str, thread: int) -> list[NDArray[Any]]:
    return []
