"""Samples by frames, as files hold them, and by channels, as codecs like them: turned, and compared.

Input: blocks of frames, C-contiguous, and a chunk by channels. Output: the
chunk filled, or whether it holds the very bits of a block.
Invariant: every bit counts, those of NaNs too; nothing outside the block's part of the chunk is touched.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.compress.ephys.recording import Samples

# Frames turned at once: a block of this many rows and its columns stay in the cache.
TURN = 256
# Words compared at once: the truth values stay in the cache.
COMPARED = 128 << 10


def transpose(block: Samples, turned: Samples, at: int = 0) -> None:
    """Fill frames from ``at`` of a chunk (channels, length) with a block (frames, channels)."""
    for start in range(0, len(block), TURN):
        part = block[start : start + TURN]
        turned[:, at + start : at + start + len(part)] = part.T


def holds(turned: Samples, at: int, block: Samples) -> bool:
    """Tell whether a chunk (channels, length) holds the very bits of a block (frames, channels) from frame ``at``."""
    return same(turned[:, at : at + len(block)].T, block)


def same(decoded: Samples, expected: Samples) -> bool:
    """Tell whether two arrays agree bit by bit (NaN payloads and signed zeros included), whatever their order."""
    if decoded.shape != expected.shape or decoded.dtype != expected.dtype:
        return False
    if decoded.flags.c_contiguous and expected.flags.c_contiguous:
        return _same_bytes(decoded, expected)
    # Turned back block by block: comparing across both orders would take twice the time.
    return all(
        _same_bytes(
            np.ascontiguousarray(decoded[start : start + TURN]), np.ascontiguousarray(expected[start : start + TURN])
        )
        for start in range(0, len(decoded), TURN)
    )


def _same_bytes(one: Samples, other: Samples) -> bool:
    """Compare C-contiguous arrays eight bytes at a time: as many truth values, not one a sample."""
    word = "u8" if one.nbytes % 8 == 0 else "u1"
    bits, others = _words(one, word), _words(other, word)
    return all(
        np.array_equal(bits[start : start + COMPARED], others[start : start + COMPARED])
        for start in range(0, len(bits), COMPARED)
    )


def _words(array: Samples, word: str) -> NDArray[Any]:
    return array.reshape(-1).view(word)
