"""``python -m benchmarks.ratio [FILE:CHANNELS …]``: ratio and speed of codecs on real and generated recordings.

Input: files of raw little-endian int16 samples, frames × channels; else generated data only. Output: a table for
each set of data: ratio, MB per CPU second of encoding and decoding.
All candidates are lossless, compared sample by sample, and can be read by zarr with numcodecs or with the codec's own
package. Their order of memory is one that Zarr has: time beside time (F) or channel beside channel (C).
Of each real one a longer one is made, fitted to it: spectrum, what channels share, steps and medians.
Settings: LADING_BENCH_SECONDS (of generated data, default 2), LADING_BENCH_CHANNELS (384).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from numcodecs.pcodec import PCodec

from benchmarks.figures import note
from lading.compress.ephys.codecs import make_codec
from lading.core.errors import UsageError
from lading.testing.ephys_data import RATE, make_samples

CHANNELS = int(os.environ.get("LADING_BENCH_CHANNELS", "384"))
SECONDS = int(os.environ.get("LADING_BENCH_SECONDS", "2"))
ENOUGH = 100.0  # MB per CPU second of encoding: what a default must reach


@dataclass(frozen=True)
class Candidate:
    """A way to store a chunk of samples: what is done in turn, over one order of memory."""

    name: str
    order: str
    steps: tuple[Any, ...]
    seconds: float = 1.0

    def encode(self, chunk: np.ndarray) -> Any:
        """Return the bytes of a chunk of frames × channels."""
        found: Any = np.ascontiguousarray(chunk.T if self.order == "F" else chunk)
        for step in self.steps:
            found = step.encode(found)
        return found

    def decode(self, data: Any, like: np.ndarray) -> np.ndarray:
        """Return the chunk again."""
        for step in reversed(self.steps):
            data = step.decode(data)
            data = np.frombuffer(data, like.dtype) if not isinstance(data, np.ndarray) else data
        flat = np.frombuffer(np.ascontiguousarray(data), like.dtype)
        return flat.reshape(like.shape, order=self.order)  # type: ignore[call-overload]


def candidates() -> Iterator[Candidate]:
    """Yield all, the default first."""
    blosc = numcodecs.Blosc
    yield Candidate("pcodec 8, F (default)", "F", (PCodec(level=8),))
    for level in (4, 12):
        yield Candidate(f"pcodec {level}, F", "F", (PCodec(level=level),))
    for seconds in (0.25, 2.0):
        yield Candidate(f"pcodec 8, F, chunks of {seconds} s", "F", (PCodec(level=8),), seconds)
    yield Candidate("pcodec 8, C", "C", (PCodec(level=8),))
    yield Candidate("delta of neighbours, pcodec 8, C", "C", (numcodecs.Delta("<i2"), PCodec(level=8)))
    try:
        for level in (1, 2, 4):
            yield Candidate(
                f"wavpack {level}, C", "C", (make_codec("wavpack", np.dtype("<i2"), {"level": level}).codec,)
            )
    except UsageError as error:
        print(error, file=sys.stderr)
    yield Candidate("blosc-zstd 1 bitshuffle, C", "C", (blosc("zstd", 1, blosc.BITSHUFFLE),))
    yield Candidate("blosc-zstd 9 bitshuffle, F", "F", (blosc("zstd", 9, blosc.BITSHUFFLE),))
    for order, what in (("F", "time"), ("C", "neighbours")):
        for shuffle, name in ((blosc.BITSHUFFLE, "bit planes"), (blosc.SHUFFLE, "bytes")):
            steps = (numcodecs.Delta("<i2"), blosc("zstd", 5, shuffle))
            yield Candidate(f"delta of {what}, {name}, zstd 5, {order}", order, steps)
    yield Candidate(
        "delta of time, lzma 1, F", "F", (numcodecs.Delta("<i2"), numcodecs.Shuffle(2), numcodecs.LZMA(preset=1))
    )


def fitted(real: np.ndarray, frames: int) -> np.ndarray:
    """Return samples like real ones, as many as are wanted: their spectrum, shared part, spread, steps and medians."""
    generator = np.random.default_rng(5)
    real = real[:, :CHANNELS].astype(np.float64)
    medians = np.median(real, axis=0)
    rest = real - medians
    step = max(1, int(np.gcd.reduce(np.abs(rest).astype(np.int64).ravel())))
    # What channels share, beyond what 300 frames show by chance: the strongest directions over all channels.
    _, sizes, directions = np.linalg.svd(rest, full_matrices=False)
    shared = directions[:8] * sizes[:8, None] / np.sqrt(len(rest))
    own = np.sqrt(np.maximum(rest.var(axis=0) - (shared**2).sum(axis=0), 1e-9))
    blocks = rest[: len(rest) // 100 * 100].reshape(-1, 100, rest.shape[1])
    density = (np.abs(np.fft.rfft(blocks, axis=1)) ** 2).mean(axis=(0, 2))
    shape = np.sqrt(np.interp(np.linspace(0, 50, frames // 2 + 1), np.arange(51), density))
    noise = generator.standard_normal((frames, len(shared) + len(own)))
    noise = np.fft.irfft(np.fft.rfft(noise, axis=0) * shape[:, None], frames, axis=0)
    noise /= noise.std(axis=0)
    values = noise[:, : len(shared)] @ shared + noise[:, len(shared) :] * own
    return (np.rint(values / step) * step + medians).astype("<i2")


def broadband(frames: int) -> np.ndarray:
    """Return samples as of Neuropixels 2.0: slow potentials that all share, noise of each, spikes; steps of 1."""
    generator = np.random.default_rng(4)
    samples = make_samples(frames, CHANNELS, 2).astype(np.float32)
    spectrum = np.fft.rfft(generator.standard_normal((frames, 12)), axis=0)
    frequencies = np.fft.rfftfreq(frames, 1 / RATE)[:, None]
    slow = np.fft.irfft(spectrum / np.maximum(frequencies, 1.0), frames, axis=0)
    slow *= 60 / slow.std(axis=0)
    depth = np.linspace(0, 11, CHANNELS)
    weight = np.maximum(0, 1 - np.abs(depth[:, None] - np.arange(12))) + 0.3
    return np.rint(samples + slow @ weight.T).astype("<i2")


def by_geometry(samples: np.ndarray) -> np.ndarray:
    """Return the channels as four columns of a probe, each from the tip upwards, instead of row by row."""
    return np.concatenate([samples[:, start::4] for start in range(4)], axis=1)


def read_samples(word: str) -> tuple[str, np.ndarray]:
    """Return the name of a file and its samples, of a word ``FILE:CHANNELS``."""
    path, _, channels = word.rpartition(":")
    try:
        return Path(path).name, np.fromfile(path, "<i2").reshape(-1, int(channels))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{word!r} is not FILE:CHANNELS of int16 samples: {error}") from None


def data(recordings: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each set of samples with its name."""
    for name, real in recordings:
        yield name, real
        yield f"fitted to {name}", fitted(real, SECONDS * RATE)
    frames = SECONDS * RATE
    yield "generated: AP band, steps of 1", make_samples(frames, CHANNELS, 1)
    yield "generated: AP band, steps of 12 and offsets", make_samples(frames, CHANNELS, 1, step=12, offset=400)
    wide = broadband(frames)
    yield "generated: broadband, common slow potentials", wide
    yield "the same, channels by columns of the probe", by_geometry(wide)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the least CPU seconds of two calls, and the result."""
    least, found = float("inf"), None
    for _ in range(2):
        start = time.process_time()
        found = action()
        least = min(least, time.process_time() - start)
    return least, found


def measure(candidate: Candidate, samples: np.ndarray) -> tuple[float, float, float]:
    """Return ratio, and MB per CPU second of encoding and decoding; raises when a sample differs."""
    length = max(1, round(candidate.seconds * RATE))
    stored, spent = 0, [0.0, 0.0]
    for start in range(0, len(samples), length):
        chunk = np.ascontiguousarray(samples[start : start + length])
        encode, encoded = timed(lambda c=chunk: candidate.encode(c))
        decode, decoded = timed(lambda e=encoded, c=chunk: candidate.decode(e, c))
        if not np.array_equal(decoded, chunk):
            raise ValueError(f"{candidate.name} gives other samples back")
        stored += memoryview(encoded).nbytes
        spent = [spent[0] + encode, spent[1] + decode]
    return (
        samples.nbytes / stored,
        samples.nbytes / 1e6 / max(spent[0], 1e-9),
        samples.nbytes / 1e6 / max(spent[1], 1e-9),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Print a table for each set of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", type=read_samples, metavar="FILE:CHANNELS")
    recordings = parser.parse_args(words).recordings
    numcodecs.blosc.set_nthreads(1)
    for name, samples in data(recordings):
        print(f"\n{name}: {samples.shape[0]:,} frames × {samples.shape[1]}, {samples.nbytes / 1e6:,.1f} MB")
        print(f"{'codec':<44}{'ratio':>7}{'encode':>8}{'decode':>8}")
        for candidate in candidates():
            ratio, encode, decode = measure(candidate, samples)
            slow = "" if encode >= ENOUGH else "  too slow"
            print(f"{candidate.name:<44}{ratio:7.3f}{encode:8.0f}{decode:8.0f}{slow}", flush=True)
            note(f"{name}, {candidate.name}: compression", ratio, better="more")
            note(f"{name}, {candidate.name}: encode", encode, "MB/CPU s", "more")
            note(f"{name}, {candidate.name}: decode", decode, "MB/CPU s", "more")
    return 0


if __name__ == "__main__":
    sys.exit(main())
