"""Samples by python-neo's raw readers.

Input: a reader's name and a path. Output: the open reader, and frames as it gives them.
Invariant: a read returns every frame that was asked for or raises; each process
parses a header once. This module alone loads neo.
"""

import functools
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.compress.library_watch import note_reading

# Readers that look for packets do so once for a piece of some MB.
_PIECE = 24 << 20


@functools.lru_cache(maxsize=2)
def open_neo(reader: str, path: str) -> Any:
    """Return one of neo's readers with its header parsed."""
    module: Any = importlib.import_module("neo.rawio")
    kind = getattr(module, reader)
    note_reading(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = kind(dirname=path) if kind.rawmode == "one-dir" else kind(filename=path)
        opened.parse_header()
    return opened


def read_neo(
    reader: str, path: str, place: tuple[int, int, int], shape: tuple[int, int], dtype: str, start: int
) -> Iterator[NDArray[Any]]:
    """Yield ``shape`` (frames, channels) of samples from ``start`` in pieces; ``place``: block, segment, stream."""
    block, segment, stream = place
    neo = open_neo(reader, path)
    frames, channels = shape
    step = max(1, _PIECE // (channels * np.dtype(dtype).itemsize))
    for at in range(start, start + frames, step):
        end = min(at + step, start + frames)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(neo.get_analogsignal_chunk(block, segment, at, end, stream))
        if values.shape != (end - at, channels):
            raise ValueError(f"it gives samples of shape {values.shape} where {end - at} × {channels} were asked for")
        yield np.ascontiguousarray(values, dtype)


def said(error: BaseException) -> str:
    """Return what an error of neo says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
