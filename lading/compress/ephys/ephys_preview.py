"""The preview of a stream: a raster of one second and a spectrum.

Input: a stream and some of its samples as they were stored. Output: a PNG.
Invariant: nothing here changes what was compressed, and equal samples give an
equal picture; memory is a few times the samples, of which there are at most ``MOST_SAMPLES``.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.compress.ephys.recording import DIGITAL, NEURAL, Samples, Stream
from lading.compress.preview.pictures import Sheet, signed_pixels
from lading.core.progress import counted

FOLDER = "ecephys_preview"
SECONDS = 1.0
# Of all channels together: one second of 512 at 30 kHz.
MOST_SAMPLES = 1 << 24
# From here on what all channels share is taken away before the raster is drawn: it hides the rest.
MANY_CHANNELS = 16
_RASTER = (70, 58, 560, 400)  # left, top, width, height
_SPECTRUM = (730, 58, 290, 400)
_SIZE = (1040, 520)
_LENGTH = 4096  # samples of one spectrum
_OUTLIERS = (10, 50, 90)  # percentiles of channels that the spectrum shows
# Channels, evenly chosen, that are enough for what all share and for percentiles: a picture costs less than its second.
_ENOUGH = 96

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Excerpt:
    """Frames ``start`` to ``stop`` of a segment."""

    segment: int
    start: int
    stop: int


def choose_excerpt(stream: Stream, chunk_frames: int) -> Excerpt | None:
    """Return the second in the middle of the longest segment, from a chunk's start; None for a stream of digits."""
    if stream.content == DIGITAL or not stream.segments or np.dtype(stream.dtype).itemsize > 8:
        return None
    longest = max(range(len(stream.segments)), key=lambda number: stream.segments[number].frames)
    frames = stream.segments[longest].frames
    length = min(frames, max(1, round(stream.sampling_frequency * SECONDS)), MOST_SAMPLES // max(1, stream.channels))
    if length < 2:
        return None
    start = min(frames // 2 // max(1, chunk_frames) * chunk_frames, frames - length)
    return Excerpt(longest, start, start + length)


def draw_preview(stream: Stream, excerpt: Excerpt, samples: Samples) -> bytes:
    """Return the picture of an excerpt; ``samples`` are its stored ones (frames, channels)."""
    signal = _Signal.of(stream, samples)
    sheet = Sheet(*_SIZE)
    begin = excerpt.start / stream.sampling_frequency
    span = len(samples) / stream.sampling_frequency
    sheet.write((16, 10), stream.name[:100], size=16)
    _draw_raster(sheet, stream, signal, span)
    _draw_spectrum(sheet, signal, stream.sampling_frequency)
    about = (
        f"segment {excerpt.segment}, from {begin:.3f} s; {counted(stream.channels, 'channel')} at "
        f"{stream.sampling_frequency:g} Hz, {np.dtype(stream.dtype).name}"
    )
    sheet.write((16, 494), about, faint=True)
    return sheet.encode()


@dataclass(frozen=True)
class _Signal:
    """Samples as they are stored, and what makes values of them: in µV where the stream knows it, else in counts."""

    samples: Samples
    medians: Values
    gains: Values
    unit: str

    @staticmethod
    def of(stream: Stream, samples: Samples) -> "_Signal":
        gains = np.array(stream.microvolts(stream.gains), np.float32)
        known = bool(np.isfinite(gains).all() and gains.any())
        # A tenth of the frames is enough for a median.
        some = samples[:: max(1, len(samples) // 3000)].astype(np.float32)
        medians = np.nan_to_num(np.median(some, axis=0)).astype(np.float32)
        return _Signal(samples, medians, gains if known else np.ones_like(gains), "uV" if known else "counts")

    def values(self, frames: slice, channels: slice) -> Values:
        """Return values less each channel's median."""
        found = self.samples[frames, channels].astype(np.float32)
        found -= self.medians[channels]
        found *= self.gains[channels]
        return found

    @functools.cached_property
    def some(self) -> Values:
        """All values of at most ``_ENOUGH`` channels: of many every third, fifth …, as probes have 2 or 4 columns."""
        step = -(-self.samples.shape[1] // _ENOUGH)
        return self.values(slice(None), slice(0, None, step if step == 1 else step | 1))

    @property
    def described(self) -> str:
        """How many channels ``some`` has, or that it has all."""
        number = self.some.shape[1]
        return "all channels" if number == self.samples.shape[1] else counted(number, "channel")


def _by_depth(stream: Stream) -> tuple[NDArray[np.intp], bool]:
    """Return the order of channels from the surface to the tip of each shank, and whether it is known."""
    order = np.arange(stream.channels)
    probes = (stream.probe or {}).get("probes", ())
    try:
        (probe,) = probes
        places = np.array(probe["contact_positions"], float)
        if len(places) != stream.channels:
            return order, False
        shanks = np.array([str(one) for one in probe.get("shank_ids") or [""] * len(places)])
        return np.lexsort((places[:, 0], -places[:, 1], shanks)), True
    except (ValueError, TypeError, KeyError, IndexError):
        return order, False


def _draw_raster(sheet: Sheet, stream: Stream, signal: _Signal, span: float) -> None:
    left, top, width, height = _RASTER
    shared = stream.content == NEURAL and stream.channels >= MANY_CHANNELS
    order, known = _by_depth(stream)
    common = np.median(signal.some, axis=1, keepdims=True) if shared else None
    columns = _columns(signal, width, common)
    lines = columns[:, order].T
    pixels = np.array([_farthest(lines[start:end]) for start, end in _spans(len(lines), height)]).T
    limit = float(np.percentile(np.abs(pixels), 99.5)) if pixels.size else 0.0
    sheet.paste((left, top), signed_pixels(pixels.T, limit), (width, height))
    sheet.frame((left - 1, top - 1, left + width, top + height))
    about = f"white 0, blue and red ±{limit:.3g} {signal.unit}"
    if shared:
        about += f", median of {signal.described} removed"
    sheet.write((left, top - 20), about, faint=True)
    for share in (0.0, 0.5, 1.0):
        sheet.write((left + share * width, top + height + 6), f"{share * span:.3g} s", to="m", faint=True)
    first, last = ("surface", "tip") if known else ("0", str(stream.channels - 1))
    sheet.write((left - 8, top - 4), first, to="r", faint=True)
    sheet.write((left - 8, top + height - 14), last, to="r", faint=True)
    sheet.write((left - 8, top + height / 2 - 8), "depth" if known else "channel", to="r", faint=True)


def _columns(signal: _Signal, most: int, common: Values | None) -> Values:
    """Return a row for each column of pixels, less what channels have in common in each frame."""
    rows = []
    # Column by column: what one takes stays in the cache, and nothing of the whole second is made.
    for start, end in _spans(len(signal.samples), most):
        values = signal.values(slice(start, end), slice(None))
        if common is not None:
            values -= common[start:end]
        rows.append(_farthest(values))
    return np.array(rows)


def _spans(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield the ends of at most ``most`` parts of a length."""
    count = min(length, most)
    yield from itertools.pairwise(number * length // count for number in range(count + 1))


def _farthest(values: Values) -> Values:
    """Return of each column the value farthest from zero."""
    low, high = values.min(axis=0), values.max(axis=0)
    farthest: Values = np.where(high >= -low, high, low)
    return farthest


def _spectra(values: Values, rate: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return frequencies without 0, and the power density of each channel there (Welch's method, a Hann window)."""
    length = min(_LENGTH, len(values))
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    # Each channel's samples side by side, as the transform takes them.
    rows = np.nan_to_num(np.ascontiguousarray(values.T), copy=False)
    starts = range(0, len(values) - length + 1, max(1, length // 2))
    total: Any = 0.0
    for start in starts:
        part = rows[:, start : start + length]
        total = total + np.abs(np.fft.rfft((part - part.mean(axis=1, keepdims=True)) * window)) ** 2
    density = 2 * total / (len(starts) * rate * float((window**2).sum()))
    return np.fft.rfftfreq(length, 1 / rate)[1:], density[:, 1:]


def _draw_spectrum(sheet: Sheet, signal: _Signal, rate: float) -> None:
    left, top, width, height = _SPECTRUM
    about = f"{signal.unit}^2/Hz: median, 10 to 90 % of {signal.described}"
    sheet.write((left, top - 20), about, faint=True)
    sheet.frame((left - 1, top - 1, left + width, top + height))
    frequencies, density = _spectra(signal.some, rate)
    curves = np.percentile(density, _OUTLIERS, axis=0)
    if len(frequencies) < 2 or not curves.max() > 0:
        sheet.write((left + width / 2, top + height / 2), "all samples of a channel are equal", to="m", faint=True)
        return
    floor = max(float(curves[curves > 0].min()), float(curves.max()) * 1e-12)
    logs = np.log10(np.maximum(curves, floor))
    low, high = math.floor(logs.min()), math.ceil(logs.max())
    high += high == low
    x = np.log10(frequencies)

    def place(level: NDArray[Any]) -> list[tuple[float, float]]:
        across = left + (x - x[0]) / (x[-1] - x[0]) * width
        return list(zip(across.tolist(), (top + (high - level) / (high - low) * height).tolist()))

    sheet.band(place(logs[2]), place(logs[0]))
    sheet.curve(place(logs[1]))
    for power in range(math.ceil(x[0]), math.floor(x[-1]) + 1):
        at = left + (power - x[0]) / (x[-1] - x[0]) * width
        sheet.tick((at, top + height), (at, top + height + 5))
        sheet.write((at, top + height + 6), _hertz(power), to="m", faint=True)
    for power in _ticks(low, high):
        at = top + (high - power) / (high - low) * height
        sheet.tick((left - 5, at), (left, at))
        sheet.write((left - 8, at - 8), f"1e{power}", to="r", faint=True)


def _hertz(power: int) -> str:
    return f"{10**power:g} Hz" if power < 3 else f"{10 ** (power - 3):g} kHz"


def _ticks(low: int, high: int) -> Iterator[int]:
    """Yield whole powers of ten, at most about six."""
    yield from range(low, high + 1, max(1, -(-(high - low) // 6)))


Reader = Callable[[Excerpt], Samples]


def preview_stream(stream: Stream, chunk_frames: int, read: Reader) -> bytes | None:
    """Return the picture of a stream, None where there is none to show; ``read`` returns stored samples."""
    excerpt = choose_excerpt(stream, chunk_frames)
    return draw_preview(stream, excerpt, read(excerpt)) if excerpt else None


def preview_path(name: str) -> str:
    """Return where the picture of a stream goes."""
    return f"{FOLDER}/{name}.png"


def stored_bytes(stream: Stream, frames: Sequence[int]) -> int:
    """Return how many bytes of samples must be decoded to show some of ``frames``, which are whole files."""
    return max(frames, default=0) * stream.channels * np.dtype(stream.dtype).itemsize
