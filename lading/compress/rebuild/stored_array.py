"""The frames of an array of a recording, chunk by chunk, from its compressed copy.

Input: a stored compression and the path of an array in it. Output: blocks of
frames in order.
Invariant: every file of the array is read; one that is missing is damage, for
a recording's arrays have all of theirs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from lading.compress.destination import StoredFiles
from lading.compress.ephys.correction import Correction
from lading.compress.ephys.recording import Samples
from lading.compress.rebuild.stored_compression import CopyDamaged

_DOCUMENTS = ("zarr.json", ".zarray")


class StoredArray:
    """One array, of one or two axes; frames run over the first."""

    def __init__(self, files: StoredFiles, directory: str, correction: Correction | None = None) -> None:
        self._files, self._directory, self._correction = files, directory, correction
        self._held: dict[str, Any] = {}
        for name in _DOCUMENTS:
            try:
                self._held[name] = _as_buffer(files.read(f"{directory}/{name}"))
                break
            except FileNotFoundError:
                continue
        try:
            self._array: Any = zarr.open_array(MemoryStore(self._held), mode="r")
        except Exception as error:
            raise CopyDamaged(f"{files.name}/{directory}: is not an array that can be read ({_said(error)})") from error
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        self.dtype = np.dtype(self._array.dtype)

    def frames(self) -> Iterator[Samples]:
        """Yield all frames, a chunk at a time, with what a correction changed put back."""
        step = self._array.chunks[0]
        whole = (self._array.shards or self._array.chunks)[0]
        for start in range(0, self.shape[0], whole):
            key = self._key(start // whole)
            try:
                self._held[key] = _as_buffer(self._files.read(f"{self._directory}/{key}"))
            except FileNotFoundError as error:
                raise CopyDamaged(f"{self._files.name}/{self._directory}/{key}: is missing; restore it") from error
            for at in range(start, min(start + whole, self.shape[0]), step):
                try:
                    found = np.asarray(self._array[at : min(at + step, self.shape[0])])
                except Exception as error:
                    raise CopyDamaged(
                        f"{self._files.name}/{self._directory}/{key}: cannot be decoded ({_said(error)}); restore it "
                        "from another copy"
                    ) from error
                yield self._correction.revert(found) if self._correction else found
            del self._held[key]

    def _key(self, number: int) -> str:
        rest = [0] * (len(self.shape) - 1)
        if self._array.metadata.zarr_format == 3:
            return "/".join(map(str, ("c", number, *rest)))
        return ".".join(map(str, (number, *rest)))


def _as_buffer(data: bytes) -> Any:
    return default_buffer_prototype().buffer.from_bytes(data)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
