"""Points in time as Lading keeps them: nanoseconds since 1970 in 64 bits.

Input: stats, numbers and texts of artefacts. Output: whole numbers from
``EARLIEST`` (1677) to ``LATEST`` (2262).
Invariant: a time outside is held as the nearest of the two, by every writer
and every reader alike, so two readings of one file compare equal and nothing
wraps. ``times.h`` is the same rule for the compiled modules.
"""

import os
import re

EARLIEST = -(1 << 63)
LATEST = (1 << 63) - 1
# FAT has steps of two seconds, no file system that Linux knows coarser ones.
COARSEST = 2 * 10**9

_NUMBER = re.compile(r"-?[0-9]+")
_DIGITS = 20  # more than 64 bits hold: what follows cannot matter, and Python refuses to convert thousands


def saturate(nanoseconds: int) -> int:
    """Return the time itself where 64 bits hold it, else the nearest that they do."""
    return EARLIEST if nanoseconds < EARLIEST else LATEST if nanoseconds > LATEST else nanoseconds


def is_saturated(nanoseconds: int) -> bool:
    """Tell whether the number stands for a time that 64 bits may not hold."""
    return not EARLIEST < nanoseconds < LATEST


def mtime_of(status: os.stat_result) -> int:
    """Return when a file's content was changed last."""
    return saturate(status.st_mtime_ns)


def ctime_of(status: os.stat_result) -> int:
    """Return when a file's content or attributes were changed last."""
    return saturate(status.st_ctime_ns)


def parse_time(text: str | bytes) -> int:
    """Return the time of a decimal number of any length; ``ValueError`` for anything else."""
    number = text if isinstance(text, str) else text.decode("ascii")
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{number[:40]!r} is not a time in nanoseconds")
    digits = number.lstrip("-").lstrip("0")
    whole = int(digits[:_DIGITS] or "0")
    return saturate(-whole if number.startswith("-") else whole)


def set_mtime(descriptor: int, nanoseconds: int) -> bool:
    """Set the times of an open file; False where its file system, or the number, does not hold the time."""
    try:
        os.utime(descriptor, ns=(nanoseconds, nanoseconds))
    except (OverflowError, ValueError):  # a C library whose seconds have 32 bits
        return False
    held = os.fstat(descriptor).st_mtime_ns
    return abs(held - nanoseconds) < COARSEST and not is_saturated(nanoseconds)
