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

# Buffers have sizes in these steps, so that blocks cut at an array's end share them.
_STEP = 32 << 20
# What an array holds before something is decoded into it: what it held before may be the right answer.
_POISON = 0xA5
# mallopt(3): parameters, and the most that glibc takes for the first.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _KEPT = 32 << 20, 256 << 20


def borrow(role: str, dtype: "np.dtype[Any]", shape: Sequence[int]) -> NDArray[Any]:
    """Return this thread's memory for ``role``, C-contiguous, with whatever it held before."""
    size = math.prod(shape) * dtype.itemsize
    memory = _memory(role, threading.get_ident(), -(-size // _STEP) * _STEP)
    return memory[:size].view(dtype).reshape(shape)


def poison(array: NDArray[Any]) -> NDArray[Any]:
    """Overwrite a C-contiguous array, so that no value passes for decoded that was not decoded now."""
    array.reshape(-1).view(np.uint8).fill(_POISON)
    return array


@functools.cache
def keep_freed() -> None:
    """Let the C library keep what codecs allocate and free in every block, where it can."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)


@functools.lru_cache(maxsize=8)
def _memory(role: str, thread: int, size: int) -> NDArray[Any]:
    return np.empty(size, np.uint8)
