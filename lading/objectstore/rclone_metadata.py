"""The attributes of a file as rclone keeps them on an S3 object, so that ``rclone copy --metadata`` restores them.

Input: what a stat says of a file. Output: names and values of user metadata.
Invariant: ``mtime`` is what rclone's S3 backend writes: seconds since 1970 as
a decimal number without trailing zeros, to the nanosecond. ``mode``, ``uid``
and ``gid`` are those of its local backend: octal with the file's type, and
decimal. Two more names of rclone are left out: the time of access, which the
upload itself changes (rclone then takes mtime), and the time of birth, which
a stat does not tell. Source: rclone's manual, "Metadata" and the pages of the
backends local and S3.
"""

import os

from lading.objectstore.object_attributes import Pairs

NAMES = ("mtime", "mode", "uid", "gid")
MOST_BYTES = 64  # 15 of names; values: 21 of a time (of 64 bits), 7 of a mode, 10 of each id


def rclone_metadata(status: os.stat_result) -> Pairs:
    """Return the metadata of one file."""
    return (
        ("mtime", _seconds(status.st_mtime_ns)),
        ("mode", f"{status.st_mode:o}"),
        ("uid", str(status.st_uid)),
        ("gid", str(status.st_gid)),
    )


def _seconds(nanoseconds: int) -> str:
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    text = f"{seconds}.{rest:09}".rstrip("0").rstrip(".")
    return f"-{text}" if nanoseconds < 0 else text
