"""Codecs for samples: one name, one numcodecs object, one memory order.

Input: a chunk of shape (frames, channels). Output: bytes, and the chunk back.
Invariant: ``decode`` uses what lies on disk and nothing else; a codec that
cannot take an array says so before or while encoding, never by other values.
"""

import importlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np

from lading.compress.buffers import scratch_buffer
from lading.compress.ephys.recording import Samples
from lading.compress.ephys.transpose import holds, same, transpose
from lading.core.errors import LadingError, UsageError

NAMES = ("pcodec", "wavpack", "blosc-zstd")
# Each the best ratio before time grows without gain (docs/explanation/decisions.md).
LEVELS = {"pcodec": 8, "wavpack": 2, "blosc-zstd": 1}
FALLBACK = "blosc-zstd"
_PCODEC_TYPES = ("i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8")
_WAVPACK_TYPES = ("i1", "i2", "i4", "f4")
# WavPack has no unsigned samples: these are stored less half of their range, by a filter that numcodecs reads.
_MOVED = {"u2": ("<i2", 32768)}


class CodecRefused(LadingError):
    """A codec cannot hold these samples."""


class CorrectionRefused(CodecRefused):
    """A correction would change these samples."""


@dataclass(frozen=True)
class SampleCodec:
    """A codec for chunks of one array.

    order  ``F`` lays each channel's samples side by side (zarr's meaning of a chunk's order)
    lossy  True when decoded samples may differ from the source
    fills  True when it decodes into memory that it is given
    moved  True for unsigned samples of 16 bits that it holds as signed ones, less half of their range
    """

    name: str
    codec: Any
    order: str
    lossy: bool = False
    fills: bool = True
    moved: bool = False

    def encode(self, chunk: Samples) -> bytes:
        """Return the bytes of a C-contiguous chunk; ``CodecRefused`` when the codec cannot."""
        arranged = self.arrange(chunk.dtype, chunk.shape)
        self.place(arranged, 0, chunk)
        return self.encode_arranged(arranged)

    def arrange(self, dtype: "np.dtype[Any]", shape: tuple[int, int]) -> Samples:
        """Return memory for a chunk in the codec's order, valid until the next call; ``place`` fills it."""
        return scratch_buffer("chunk", dtype, shape[::-1] if self.order == "F" else shape)

    def place(self, arranged: Samples, at: int, block: Samples) -> None:
        """Put a block of frames at frame ``at`` of a chunk; one that was read into its place stays there."""
        if self.order == "F":
            transpose(block, arranged, at)
            return
        part = arranged[at : at + len(block)]
        if not np.may_share_memory(part, block):
            part[:] = block

    def holds(self, decoded: Samples, at: int, block: Samples) -> bool:
        """Tell whether what ``decode`` returned holds the very bits of a block of frames from frame ``at``."""
        return holds(decoded.T, at, block) if self.order == "F" else same(decoded[at : at + len(block)], block)

    def filters(self) -> list[Any] | None:
        """Return what zarr does with a chunk before the codec, None for nothing."""
        if not self.moved:
            return None
        stored, offset = _MOVED["u2"]
        return [numcodecs.FixedScaleOffset(offset=offset, scale=1, dtype="<u2", astype=stored)]

    def pipeline(self, dimensions: int) -> tuple[list[Any] | None, Any, Any]:
        """Return filters, serializer and compressors of an array of Zarr format 3; ``UsageError`` where it has none."""
        from zarr.codecs import BloscCodec, BytesCodec, TransposeCodec
        from zarr.codecs.numcodecs import PCodec

        if self.name == "pcodec":
            turned = [TransposeCodec(order=(1, 0))] if dimensions == 2 else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is numcodecs' own: the documents say so
                return (
                    turned,
                    PCodec(**{key: value for key, value in self.codec.get_config().items() if key != "id"}),
                    None,
                )
        if self.name == "blosc-zstd":
            return None, BytesCodec(), BloscCodec(cname="zstd", clevel=self.codec.clevel, shuffle="bitshuffle")
        raise UsageError(f"--zarr-format 3 has no {self.name}; give --codec pcodec or blosc-zstd")

    def encode_arranged(self, arranged: Samples) -> bytes:
        """Return the bytes of a chunk in the codec's order; ``CodecRefused`` when the codec cannot."""
        try:
            encoded = self.codec.encode((arranged ^ np.uint16(0x8000)).view("<i2") if self.moved else arranged)
        except (ValueError, RuntimeError, TypeError, AssertionError) as error:
            shape = arranged.shape[::-1] if self.order == "F" else arranged.shape
            raise CodecRefused(f"{self.name} cannot encode a chunk of shape {shape} ({error})") from error
        return encoded if isinstance(encoded, bytes) else memoryview(encoded).tobytes()

    def decode(self, data: bytes, shape: tuple[int, int], dtype: "np.dtype[Any]") -> Samples:
        """Return the chunk of ``shape``, as a view in the order it was stored, valid until the next call."""
        if self.fills:
            flat = scratch_buffer("decoded", dtype, (math.prod(shape),))
            decode_whole(self.name, data, flat)
        else:
            # Some codecs return bytes, some an array of their own shape: both are the samples in stored order.
            decoded = self.codec.decode(data)
            if isinstance(decoded, np.ndarray):
                flat = np.ascontiguousarray(decoded).reshape(-1).view(dtype)
            else:
                flat = np.frombuffer(decoded, dtype)
            if self.moved:
                flat = flat ^ np.uint16(0x8000)
        return flat.reshape(shape, order="F" if self.order == "F" else "C")

    def holds_all(self, decoded: Samples, arranged: Samples) -> bool:
        """Tell whether what ``decode`` returned holds the very bits of a whole chunk in the codec's order."""
        return same(decoded.T if self.order == "F" else decoded, arranged)

    def describe(self) -> str:
        """Return name and parameters as one line."""
        config = {key: value for key, value in self.codec.get_config().items() if key != "id" and value is not None}
        parameters = ",".join(f"{key}={value}" for key, value in sorted(config.items()))
        return f"{self.name}({parameters},order={self.order})"


def make_codec(name: str, dtype: "np.dtype[Any]", settings: Mapping[str, Any]) -> SampleCodec:
    """Return a codec for samples of ``dtype``.

    ``settings`` may hold ``level`` (for the codec that was asked for) and
    ``bits_per_sample`` (WavPack's hybrid lossy mode). Raises ``CodecRefused``
    for a type the codec does not know, ``UsageError`` when it is not installed.
    """
    kind = dtype.str[1:]
    level = settings.get("level")
    level = LEVELS[name] if level is None else int(level)
    if name == "pcodec":
        if kind not in _PCODEC_TYPES:
            raise CodecRefused(f"pcodec does not support samples of type {dtype.name}")
        from numcodecs.pcodec import PCodec

        return SampleCodec(name, PCodec(level=level), "F")
    if name == "wavpack":
        if kind not in (*_WAVPACK_TYPES, *_MOVED):
            raise CodecRefused(f"wavpack does not support samples of type {dtype.name}")
        try:
            wavpack = importlib.import_module("wavpack_numcodecs.wavpack")
        except ImportError as error:
            raise UsageError(
                "wavpack-numcodecs is not installed: install the wavpack program, then run make setup; "
                "or give --codec pcodec"
            ) from error
        bits = settings.get("bits_per_sample")
        codec = wavpack.WavPack(level=level, bps=bits)
        return SampleCodec(name, codec, "C", lossy=bits is not None, fills=False, moved=kind in _MOVED)
    # One process a core: Blosc's own threads would fight with the other workers.
    numcodecs.blosc.set_nthreads(1)
    shuffle = numcodecs.Blosc.BITSHUFFLE
    return SampleCodec(name, numcodecs.Blosc("zstd", clevel=level, shuffle=shuffle), "C")


def decode_whole(name: str, data: bytes, out: Samples) -> None:
    """Decode into ``out``; ``ValueError`` unless every sample of it was written now, whatever it held before."""
    if name == "pcodec":
        from pcodec import standalone

        progress = standalone.simple_decompress_into(data, out)
        whole = progress.finished and progress.n_processed == out.size
    else:
        # The header holds the decoded size in its bytes 4 to 7 (c-blosc, README_CHUNK_FORMAT).
        whole = int.from_bytes(data[4:8], "little") == out.nbytes
        if whole:
            numcodecs.blosc.decompress(data, out)
    if not whole:
        raise ValueError(f"it does not hold the {out.size} samples of a chunk")
