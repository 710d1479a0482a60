"""Parts of one-dimensional arrays in ``.npy`` files.

Input: an open file of a source. Output: ranges of its values.
Invariant: a range that the file does not hold raises ``SourceFault``.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.compress.job import SourceFault
from lading.compress.sources import OpenFile


class NpyFile:
    """An open array; ``length`` values of ``dtype``."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._stream: Any = file.as_file()
        try:
            version = np.lib.format.read_magic(self._stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, self.dtype = read(self._stream)
        except ValueError as error:
            raise SourceFault(f"{file.name}: is not a NumPy array ({error}); restore it") from error
        if len(shape) != 1 or self.dtype.hasobject:
            raise SourceFault(f"{file.name}: is not a list of numbers; restore it")
        self.length = int(shape[0])
        self._start = self._stream.tell()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return values ``start`` to ``stop``, fewer at the end of the array."""
        count = max(0, min(stop, self.length) - start)
        self._stream.seek(self._start + start * self.dtype.itemsize)
        data = self._stream.read(count * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise SourceFault(f"{self._file.name}: ends before its value {start + count}; restore it")
        return np.frombuffer(data, self.dtype)
