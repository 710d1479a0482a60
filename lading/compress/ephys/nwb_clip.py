"""The clipped copy of an NWB file: everything but the samples.

Input: an HDF5 file and the datasets whose samples are stored elsewhere.
Output: the same groups, attributes, links and references, those datasets cut
to their first frames.
Invariant: every other dataset and attribute is read back and compared. What
the copy does not show of the file's bytes, ``residue`` holds.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lading.compress.ephys import residue
from lading.compress.file_copy import appear, unfinished
from lading.compress.job import BlockDigest, Output, Result, SourceFault, VerificationFailed, digest
from lading.compress.sources import BLOCK, OpenFile


def clip_file(
    file: OpenFile, target: Path, working: Path, relative: str, datasets: list[str], frames: int
) -> tuple[Result, list[residue.Range]]:
    """Write the clipped copy of an HDF5 file and prove it; ``datasets`` are cut to ``frames``.

    With it goes where the bytes are that are neither in the copy as values nor in ``datasets``.
    """
    try:
        with unfinished(working) as partial:
            with h5py.File(file.as_file(), "r") as before, h5py.File(partial, "w") as after:
                _Copier(file.name, before, after, set(datasets), frames).copy()
            with h5py.File(file.as_file(), "r") as before, h5py.File(partial, "r") as after:
                carried = _compare(file.name, before, after, set(datasets), frames)
                ranges = residue.find_ranges(before, file.state.size, carried)
            found = BlockDigest()
            with open(partial, "rb", buffering=0) as stream:
                os.fsync(stream.fileno())
                while block := stream.read(BLOCK):
                    found.update(block)
            appear(partial, target)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise SourceFault(f"{file.name}: cannot be copied without its samples ({reason}); give --no-clip") from error
    checksum = digest(found.hash.encode())
    output = Output(relative, found.size, found.hash, found.sha256)
    return Result(found.size, found.size, checksum, checksum, "clip", (output,)), ranges


def require_copyable(path: Path) -> None:
    """Raise ``SourceFault`` for an HDF5 file that ``clip_file`` cannot copy: before any sample is compressed."""
    try:
        with h5py.File(path, "r") as file:
            for name, item in _items(file):
                types = [item.dtype] if isinstance(item, h5py.Dataset) else []
                for dtype in types:
                    if _is_odd(dtype):
                        raise SourceFault(
                            f"{path}: {name} holds references to regions, or lists of references, which cannot be "
                            "copied; give --no-clip and keep the file"
                        )
    except SourceFault:
        raise
    except Exception as error:
        raise SourceFault(f"{path}: cannot be read whole ({error}); restore it, or give --no-clip") from error


def _is_odd(dtype: "np.dtype[Any]") -> bool:
    """Tell whether values of a type hold references that are more than the address of an object."""
    if dtype.names:
        return any(_is_odd(dtype[name]) for name in dtype.names)
    if dtype.subdtype:
        return _is_odd(dtype.subdtype[0])
    inner = h5py.check_vlen_dtype(dtype)
    if inner is not None and isinstance(inner, np.dtype):
        return (
            _refers(inner) or _is_odd(inner) or bool(inner.names and any(_refers(inner[name]) for name in inner.names))
        )
    return h5py.check_ref_dtype(dtype) is h5py.RegionReference


class _Copier:
    """Copies one file; references are set last, when everything they point to exists."""

    def __init__(self, name: str, before: h5py.File, after: h5py.File, clipped: set[str], frames: int) -> None:
        self._name = name
        self._before, self._after = before, after
        self._clipped, self._frames = clipped, frames
        self._seen: dict[Any, str] = {}

    def copy(self) -> None:
        self._group(self._before, self._after)
        for path, item in _items(self._before):
            copied = self._after[path]
            for key, value in item.attrs.items():
                if isinstance(value, h5py.Reference):
                    copied.attrs[key] = self._translate(value)
                elif isinstance(value, np.ndarray | np.void) and _holds_references(value.dtype):
                    copied.attrs.create(key, self._records(np.asarray(value)), dtype=value.dtype)
                elif isinstance(value, np.ndarray) and _refers(value.dtype):
                    values = np.array([self._translate(one) for one in value.ravel()], dtype=h5py.ref_dtype)
                    copied.attrs.create(key, values.reshape(value.shape), dtype=h5py.ref_dtype)
            if isinstance(item, h5py.Dataset) and _refers(item.dtype):
                found = np.asarray(item[()])
                values = np.array([self._translate(one) for one in found.ravel()], dtype=h5py.ref_dtype)
                copied[()] = values.reshape(found.shape)
            elif isinstance(item, h5py.Dataset) and _holds_references(item.dtype):
                for block in _blocks(item):
                    region = slice(*block) if item.shape else ()
                    copied[region] = self._records(np.asarray(item[region]))

    def _records(self, values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Return records with references into the copy."""
        made = values.copy()
        for name in made.dtype.names or ():
            if _refers(made.dtype[name]):
                flat = np.array([self._translate(one) for one in values[name].ravel()], dtype=object)
                made[name] = flat.reshape(values[name].shape)
            elif made.dtype[name].names:
                made[name] = self._records(values[name])
        return made

    def _group(self, before: h5py.Group, after: h5py.Group) -> None:
        self._seen[_address(before)] = before.name
        self._attributes(before, after)
        for name in before:
            link = before.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
                after[name] = link
                continue
            item = before[name]
            known = self._seen.get(_address(item))
            if known is not None:
                after[name] = self._after[known]
            elif isinstance(item, h5py.Group):
                self._group(item, after.create_group(name))
            else:
                self._seen[_address(item)] = item.name
                self._dataset(item, after, name)

    def _dataset(self, item: h5py.Dataset, after: h5py.Group, name: str) -> None:
        if item.name in self._clipped:
            values = item[: self._frames]
            maximum = (None, *item.shape[1:])
            copied = after.create_dataset(
                name, data=values, dtype=item.dtype, maxshape=maximum, fillvalue=item.fillvalue
            )
        elif _refers(item.dtype):
            copied = after.create_dataset(name, shape=item.shape, dtype=h5py.ref_dtype)
        elif _holds_references(item.dtype):
            copied = after.create_dataset(name, shape=item.shape, dtype=item.dtype, maxshape=item.maxshape)
        else:
            self._before.copy(item, after, name=name, without_attrs=True)
            copied = after[name]
        self._attributes(item, copied)

    def _attributes(self, before: Any, after: Any) -> None:
        for key, value in before.attrs.items():
            typed = isinstance(value, np.ndarray | np.void)
            if not isinstance(value, h5py.Reference) and not (
                typed and (_refers(value.dtype) or _holds_references(value.dtype))
            ):
                after.attrs[key] = value

    def _translate(self, reference: Any) -> Any:
        return self._after[self._before[reference].name].ref if reference else reference


def _refers(dtype: "np.dtype[Any]") -> bool:
    return h5py.check_ref_dtype(dtype) is h5py.Reference


def _holds_references(dtype: "np.dtype[Any]") -> bool:
    """Tell whether a type is of records in which references are."""
    return any(_refers(dtype[name]) or _holds_references(dtype[name]) for name in dtype.names or ())


def _address(item: Any) -> Any:
    return h5py.h5o.get_info(item.id).addr


def _items(file: h5py.File) -> Iterator[tuple[str, Any]]:
    yield "/", file["/"]
    names: list[str] = []
    file.visit(names.append)
    for name in names:
        yield f"/{name}", file[name]


def _compare(origin: str, before: h5py.File, after: h5py.File, clipped: set[str], frames: int) -> list[str]:
    """Raise ``VerificationFailed`` unless both files hold the same, but for the clipped datasets.

    Returns the datasets whose every value is known to be carried bit by bit.
    """
    carried: list[str] = []

    def text(file: h5py.File, value: Any) -> Any:
        if isinstance(value, h5py.Reference):
            return file[value].name if value else None
        if isinstance(value, np.void) and value.dtype.names:
            return [text(file, value[name]) for name in value.dtype.names]
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            return [text(file, one) for one in value.ravel()]
        return value.tobytes() if isinstance(value, np.ndarray | np.generic) else value

    for path, item in _items(before):
        copied = after.get(path)
        same = copied is not None and item.attrs.keys() == copied.attrs.keys()
        same = same and all(text(before, item.attrs[key]) == text(after, copied.attrs[key]) for key in item.attrs)
        if same and isinstance(item, h5py.Dataset):
            blocks = [(frames,)] if path in clipped else _blocks(item)
            plain = residue.is_plain(item)
            same = same and (not plain or item.id.get_type() == copied.id.get_type())
            for block in blocks:
                region = slice(*block) if item.shape else ()
                same = same and text(before, item[region]) == text(after, copied[region])
            if same and plain:
                carried.append(path)
        if not same:
            raise VerificationFailed(f"{origin}: {path} reads differently in the clipped copy; run again")
    return carried


def _blocks(item: h5py.Dataset, size: int = 1 << 24) -> list[tuple[int, int]]:
    """Return row ranges of about ``size`` bytes."""
    if not item.shape:
        return [(0, 0)]
    rows = max(1, size // max(1, item.dtype.itemsize * int(np.prod(item.shape[1:]))))
    return [(start, start + rows) for start in range(0, item.shape[0], rows)]
