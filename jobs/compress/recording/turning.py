"""Samples by frames, as files hold them, and by channels, as codecs like them: turned, and compared.

Input: blocks of frames, C-contiguous, and a chunk by channels. Output: the
chunk filled, or whether it holds the very bits of a block.
Invariant: the compiled module and numpy give the same answers; numpy serves
types of other sizes than two bytes, and where the module was not built
(``LADING_TURN=python`` says so).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.compress.recording.stream import Samples
from lading.compiled import load_compiled

# Frames that numpy turns at once: a block of this many rows and its columns stay in the cache.
TURN = 64
# What numpy compares at once: the truth values stay in the cache.
COMPARED = 1024


def turn(block: Samples, turned: Samples, at: int = 0) -> None:
    """Fill frames from ``at`` of a chunk (channels, length) with a block (frames, channels)."""
    core = _core()
    if core is not None and block.itemsize == 2 and block.size and turned.flags.c_contiguous:
        core.turn(_plain(block), _plain(turned), block.shape[1], at)
        return
    for start in range(0, len(block), TURN):
        part = block[start : start + TURN]
        turned[:, at + start : at + start + len(part)] = part.T


def holds(turned: Samples, at: int, block: Samples) -> bool:
    """Tell whether a chunk (channels, length) holds the very bits of a block (frames, channels) from frame ``at``."""
    core = _core()
    if core is not None and block.itemsize == 2 and block.size and turned.flags.c_contiguous:
        return turned.dtype == block.dtype and bool(core.equal(_plain(block), _plain(turned), block.shape[1], at))
    return same(turned[:, at : at + len(block)].T, block)


def same(decoded: Samples, expected: Samples) -> bool:
    """Tell whether two arrays agree bit by bit (NaN payloads and signed zeros included), whatever their order."""
    if decoded.shape != expected.shape or decoded.dtype != expected.dtype:
        return False
    if decoded.flags.c_contiguous and expected.flags.c_contiguous:
        core = _core()
        if core is not None:
            return bool(core.identical(_plain(decoded), _plain(expected)))
        # Eight bytes at a time: as many truth values, not one a sample.
        word = "u8" if decoded.nbytes % 8 == 0 else "u1"
        bits, other = _plain(decoded).view(word), _plain(expected).view(word)
        step = 128 << 10
    else:
        unsigned = f"u{decoded.itemsize}"
        bits = decoded.view(unsigned) if decoded.dtype.kind == "f" else decoded
        other = expected.view(unsigned) if expected.dtype.kind == "f" else expected
        step = COMPARED
    return all(
        np.array_equal(bits[start : start + step], other[start : start + step]) for start in range(0, len(bits), step)
    )


def _plain(array: Samples) -> NDArray[Any]:
    """Return the bytes of a C-contiguous array."""
    return array.reshape(-1).view(np.uint8)


def _core() -> Any:
    """Return the compiled module, or None; ``LADING_TURN=python`` says no."""
    return load_compiled("jobs.compress.recording._turn", "LADING_TURN")
