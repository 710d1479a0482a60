"""The work of one ephys unit: chunks of one array, written and proven.

Input: readers of the source, a codec, a place. Output: chunk files and their
record.
Invariant: what is compared was read back from the place and decoded, and the
source is read a second time for it, so neither a bit that flipped in memory
nor one that flipped on a disk passes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jobs.compress.base import Job, Output, Result, VerificationFailed, digest, new_digest
from jobs.compress.memory import keep_freed
from jobs.compress.place import Place, open_place
from jobs.compress.recording import container, correct
from jobs.compress.recording.codecs import SampleCodec, same
from jobs.compress.recording.stream import Samples


def write_block(
    job: Job,
    array: str,
    shape: tuple[int, ...],
    length: int,
    codec: SampleCodec,
    correction: correct.Correction | None,
    read: Callable[[int, int], Iterator[Samples]],
    dtype: "np.dtype[Any]",
    task: Mapping[str, Any],
) -> Result:
    """Write and prove the chunks of a block, one at a time: memory is a chunk, its code twice, and what decodes it."""
    keep_freed()
    hashes: list[str] = []
    decoded_hashes: list[str] = []
    outputs: list[Output] = []
    bytes_in = 0
    worst = 0.0
    with open_place(job) as place:
        for number in range(task["first"], task["last"]):
            start, stop = number * length, min(shape[0], (number + 1) * length)
            relative = f"{array}/{container.chunk_name(number, len(shape))}"
            encoded, before, whole = encode_chunk(codec, correction, length, read(start, stop))
            bytes_in += whole[1] * (stop - start) * dtype.itemsize
            place.write(relative, [encoded])
            what = f"frames {start} to {stop}"
            stored, error = check_chunk(
                place, relative, encoded, codec, correction, whole, dtype, read(start, stop), before, what
            )
            worst = max(worst, error)
            hashes.append(before)
            # What was decoded equals this reading bit by bit, and this reading the first.
            decoded_hashes.append(before if not codec.lossy else "lossy")
            outputs.append(Output(relative, len(stored), digest(stored)))
    return Result(
        bytes_in,
        sum(output.size for output in outputs),
        digest(*(one.encode() for one in hashes)),
        digest(*(one.encode() for one in decoded_hashes)),
        codec.describe(),
        tuple(outputs),
        {"largest_error": worst} if codec.lossy else {},
    )


def encode_chunk(
    codec: SampleCodec, correction: correct.Correction | None, length: int, blocks: Iterator[Samples]
) -> tuple[bytes, str, tuple[int, int]]:
    """Return the bytes of a chunk of ``length`` frames, the digest of its source and the chunk's shape."""
    state = new_digest()
    at = 0
    arranged: Samples | None = None
    shape = (length, 0)
    for block in blocks:
        state.update(block)
        if arranged is None:
            shape = (length, block.shape[1])
            arranged = codec.arrange(block.dtype, shape)
        codec.place(arranged, at, correction.apply(block) if correction else block)
        at += len(block)
    assert arranged is not None, "a chunk has frames"
    if at < length:
        # Zarr stores every chunk whole; what lies beyond the array's end is the fill value.
        codec.place(arranged, at, np.zeros((length - at, shape[1]), arranged.dtype))
    return codec.encode_arranged(arranged), state.hexdigest(), shape


def check_chunk(
    place: Place,
    path: str,
    encoded: bytes,
    codec: SampleCodec,
    correction: correct.Correction | None,
    shape: tuple[int, int],
    dtype: "np.dtype[Any]",
    again: Iterator[Samples],
    before: str,
    what: str,
) -> tuple[bytes, float]:
    """Decode a chunk file and compare it with the source, read a second time.

    Returns the file's bytes and, for a lossy codec, the largest error.
    Raises ``VerificationFailed`` and removes the file when they differ.
    """
    stored = place.read(path)
    if stored != encoded:
        # A flipped bit need not change a sample: codecs have bits that mean nothing.
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: reads back other than it was written; check the disk and run again"
        )
    try:
        decoded = codec.decode(stored, shape, dtype)
    except Exception as error:
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: what was written for {what} cannot be decoded ({error}); "
            "check the disk and run again"
        ) from error
    state = new_digest()
    at, equal, worst = 0, True, 0.0
    for expected in again:
        state.update(expected)
        found = decoded[at : at + len(expected)]
        at += len(expected)
        if codec.lossy:
            worst = max(worst, float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0)))
        else:
            equal = equal and same(correction.revert(found) if correction else found, expected)
    if state.hexdigest() != before:
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: the source changed between two readings of {what}; "
            "let nothing write there, check the disk, and run the same command again"
        )
    if not equal or (decoded[at:].any() and not codec.lossy):
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: decoding gives other samples than the source for {what}; "
            "check memory and disk and run again"
        )
    return stored, worst
