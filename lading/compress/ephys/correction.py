"""Correction of the least significant bit and the median: opt-in, exact, reversible.

Input: samples of a stream. Output: per channel a median and one common step,
so that ``original = corrected × step + median`` for every sample.
Invariant: a sample that does not lie on the grid is refused, never rounded;
the correction is written beside the data.
Why: some systems write samples as multiples of a step (12 in Open Ephys with
Neuropixels 1) around an offset; codecs without a model of that waste bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

import numpy as np

from lading.compress.ephys.codecs import CorrectionRefused
from lading.compress.ephys.recording import Samples, Stream

# As the AIND pipeline samples recordings: 100 random chunks of 10,000 frames, seed 0, so that runs agree.
CHUNKS, CHUNK_FRAMES, SEED = 100, 10_000, 0


@dataclass(frozen=True)
class Correction:
    """``step`` in counts (≥ 1), ``medians`` in counts, one a channel."""

    step: int
    medians: tuple[int, ...]

    def apply(self, samples: Samples) -> Samples:
        """Return corrected samples of the same shape and type; ``CorrectionRefused`` when one is off the grid."""
        wide = samples.astype(np.int32) - np.asarray(self.medians, np.int32)
        quotient, rest = np.divmod(wide, self.step)
        if rest.any():
            frame, channel = np.argwhere(rest)[0]
            raise CorrectionRefused(
                f"sample {samples[frame, channel]} of channel {channel} is not a multiple of {self.step} "
                f"from {self.medians[channel]}, so the correction would lose it"
            )
        corrected = quotient.astype(samples.dtype)
        if not np.array_equal(corrected, quotient):
            raise CorrectionRefused("a corrected sample does not fit its type")
        return corrected

    def revert(self, samples: Samples) -> Samples:
        """Return the original samples."""
        wide = samples.astype(np.int32) * self.step + np.asarray(self.medians, np.int32)
        return wide.astype(samples.dtype)


def estimate(stream: Stream, read: Callable[[int, int, int], Samples]) -> Correction | None:
    """Return the correction of an integer stream, or None when it has none to gain.

    ``read(segment, start, stop)`` returns samples.
    """
    if np.dtype(stream.dtype).kind != "i" or np.dtype(stream.dtype).itemsize > 2:
        return None
    generator = np.random.default_rng(SEED)
    lengths = np.array([segment.frames for segment in stream.segments])
    if lengths.sum() == 0:
        return None
    blocks = []
    for segment in generator.choice(len(lengths), CHUNKS, p=lengths / lengths.sum()):
        start = int(generator.integers(0, max(1, lengths[segment] - CHUNK_FRAMES)))
        # Every tenth frame is enough for a median and for common divisors.
        blocks.append(read(int(segment), start, int(min(lengths[segment], start + CHUNK_FRAMES)))[::10].copy())
    samples = np.concatenate(blocks)
    # A median that occurs: the mean of two middle values may lie off the grid.
    medians = np.percentile(samples, 50, axis=0, method="lower").astype(np.int32)
    step = 0
    for channel in range(samples.shape[1]):
        steps = np.unique(np.abs(samples[:, channel].astype(np.int32) - medians[channel]))
        step = gcd(step, int(np.gcd.reduce(steps)))
        if step == 1:
            break
    if step <= 1 and not medians.any():
        return None
    return Correction(max(step, 1), tuple(int(median) for median in medians))
