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

from lading.compress.buffers import tune_malloc
from lading.compress.destination import Destination, open_destination
from lading.compress.ephys import correction as correct
from lading.compress.ephys import zarr_layout as container
from lading.compress.ephys.codecs import SampleCodec
from lading.compress.ephys.recording import Samples
from lading.compress.ephys.transpose import same
from lading.compress.job import CompressionJob, Result, VerificationFailed, digest, new_digest
from lading.compress.read_back import ReadBack


def write_block(
    job: CompressionJob,
    array: str,
    shape: tuple[int, ...],
    length: int,
    codec: SampleCodec,
    correction: correct.Correction | None,
    read: Callable[[int, int, Samples | None], Iterator[Samples]],
    dtype: "np.dtype[Any]",
    task: Mapping[str, Any],
) -> Result:
    """Write and prove the chunks of a block, one at a time: memory is a chunk, its code twice, and what decodes it.

    ``read(start, stop, into)`` yields the source's frames in blocks, and may put them into ``into``, an array for all.
    """
    tune_malloc()
    hashes: list[str] = []
    decoded_hashes: list[str] = []
    files = ReadBack()
    bytes_in = 0
    worst = 0.0
    whole = (length, shape[1] if len(shape) > 1 else 1)
    with open_destination(job) as place:
        for number in range(task["first"], task["last"]):
            start, stop = number * length, min(shape[0], (number + 1) * length)
            relative = f"{array}/{container.chunk_name(number, len(shape))}"
            arranged = codec.arrange(dtype, whole)
            # A codec that takes samples as they lie gets them where they were read.
            into = arranged[: stop - start] if codec.order == "C" and not correction else None
            encoded, before = encode_chunk(codec, correction, arranged, length, read(start, stop, into))
            bytes_in += whole[1] * (stop - start) * dtype.itemsize
            place.write(relative, [encoded])
            what = f"frames {start} to {stop}"
            stored = place.read(relative)
            again = read(start, stop, None)
            found, error = check_chunk(
                place, relative, stored, stored == encoded, codec, correction, arranged, whole, again, before, what
            )
            worst = max(worst, error)
            hashes.append(found)
            # What was decoded equals this reading bit by bit.
            decoded_hashes.append(found if not codec.lossy else "lossy")
            files.add(relative, stored)
        outputs = tuple(files.outputs())
    return Result(
        bytes_in,
        sum(output.size for output in outputs),
        digest(*(one.encode() for one in hashes)),
        digest(*(one.encode() for one in decoded_hashes)),
        codec.describe(),
        outputs,
        {"largest_error": worst} if codec.lossy else {},
    )


def encode_chunk(
    codec: SampleCodec,
    correction: correct.Correction | None,
    arranged: Samples,
    length: int,
    blocks: Iterator[Samples],
    *,
    digested: bool = False,
) -> tuple[bytes, str]:
    """Return the bytes of a chunk of ``length`` frames, which ``arranged`` has room for.

    With them the digest of its source, for a lossy codec or where it is asked for: what a lossless one
    gives back tells itself whether a second reading is as the first, as long as ``arranged`` is kept.
    """
    digested = digested or codec.lossy
    state = new_digest()
    at = 0
    for block in blocks:
        if digested:
            state.update(block)
        codec.place(arranged, at, correction.apply(block) if correction else block)
        at += len(block)
    if at < length:
        # Zarr stores every chunk whole; what lies beyond the array's end is the fill value.
        channels = arranged.shape[0 if codec.order == "F" else 1]
        codec.place(arranged, at, np.zeros((length - at, channels), arranged.dtype))
    return codec.encode_arranged(arranged), state.hexdigest() if digested else ""


def check_chunk(
    place: Destination,
    path: str,
    stored: bytes,
    intact: bool,
    codec: SampleCodec,
    correction: correct.Correction | None,
    arranged: Samples,
    shape: tuple[int, int],
    again: Iterator[Samples],
    before: str,
    what: str,
) -> tuple[str, float]:
    """Decode a chunk as it was read back, and compare it with the source, read a second time.

    ``intact``: its bytes are those that were written. ``before`` is the digest of the first reading, or empty
    where ``arranged`` still holds that. Returns the digest of
    that second reading and, for a lossy codec, the largest error. Raises
    ``VerificationFailed`` and removes the file when they differ.
    """
    if not intact:
        # A flipped bit need not change a sample: codecs have bits that mean nothing.
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: does not read back as it was written; check the disk and run again"
        )
    try:
        decoded = codec.decode(stored, shape, arranged.dtype)
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
        if codec.lossy:
            worst = max(worst, float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0)))
        elif correction:
            equal = equal and same(correction.revert(found), expected)
        else:
            equal = equal and codec.holds(decoded, at, expected)
        at += len(expected)
    # What decodes to the first reading but not to the second was not spoilt by the codec.
    if state.hexdigest() != before if before else not equal and codec.holds_all(decoded, arranged):
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: the source changed between two readings of {what}, or memory is faulty; "
            "let nothing write there, check disk and memory, and run the same command again"
        )
    if not equal or (decoded[at:].any() and not codec.lossy):
        place.remove(path)
        raise VerificationFailed(
            f"{place.name}/{path}: decoding gives other samples than the source for {what}; "
            "check memory and disk and run again"
        )
    return state.hexdigest(), worst
