"""The bounds of a batch, and the least number of batches they allow.

Input: sizes. Output: ``Bounds`` and a lower bound on the count.
Invariant: no cut can have fewer batches than ``least_count`` says.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bounds:
    """Bytes a batch should have at least and may have at most, and files at most (None: any number)."""

    least: int
    most: int
    most_files: int | None = None

    @property
    def file_room(self) -> int:
        """Files at most, as a number that no tree reaches when there is no bound."""
        return self.most_files or 1 << 62


def least_count(sizes: NDArray[np.int64], bounds: Bounds) -> int:
    """Return a lower bound on the number of batches: files above the bound, and ⌈rest / bound⌉ by bytes or by files."""
    above = sizes > bounds.most
    rest = int(sizes.sum(where=~above))
    count = len(sizes) - int(above.sum())
    return int(above.sum()) + max(-(-rest // bounds.most), -(-count // bounds.file_room))
