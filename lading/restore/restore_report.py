"""What a restore came to, for people or as JSON, and as an exit code.

Input: the restorer, its counters. Output: lines on stdout and stderr.
Invariant: a file that is not restored, or whose bytes no recorded digest confirms, is never less than exit 3.
"""

import json
import sys
from typing import Any

from lading.core.command_line import printable
from lading.core.errors import PartialFailure
from lading.core.progress import format_bytes, format_count, format_seconds
from lading.restore.restorer import SHOWN, RestoreCounters, Restorer


def report(restorer: Restorer, done: RestoreCounters, seconds: float, *, as_json: bool) -> int:
    """Print what was done; returns 0, or raises with what was not."""
    if as_json:
        print(json.dumps(encode(restorer, done, seconds)))
    else:
        print(summarize(restorer, done, seconds))
    if restorer.undated_count:
        print(
            f"note: {format_count(restorer.undated_count)} files have a modification time that this file system or the "
            f"manifest cannot hold; they got the nearest one: {_names(restorer.undated, restorer.undated_count)}",
            file=sys.stderr,
        )
    unproven = []
    if restorer.unproven_count:
        unproven.append(
            f"not verified: {format_count(restorer.unproven_count)} files have the bytes of the bucket's objects, but "
            "the manifest has no digest of them; make verify verify_flags=--full records digests: "
            + _names(restorer.unproven, restorer.unproven_count)
        )
    if done.faults:
        lines = [f"{printable(path)}: {reason}" for path, reason in done.faults[:SHOWN]]
        if len(done.faults) > SHOWN:
            lines.append(f"… and {len(done.faults) - SHOWN} more")
        advice = "fix the problems below, then run the same command again; not restored:"
        raise PartialFailure("\n".join([advice, *lines, *unproven]))
    if unproven:
        raise PartialFailure("\n".join(unproven))
    return 0


def encode(restorer: Restorer, done: RestoreCounters, seconds: float) -> dict[str, Any]:
    """Return the summary as JSON knows it."""
    return {
        "restored": done.restored,
        "bytes": done.bytes,
        "present": done.present,
        "unproven": restorer.unproven_count,
        "failed": [{"path": path, "reason": reason} for path, reason in done.faults],
        "seconds": round(seconds, 3),
    }


def summarize(restorer: Restorer, done: RestoreCounters, seconds: float) -> str:
    """Return the line that ends a restore."""
    state = "incomplete" if done.faults else "complete"
    verified = "" if restorer.unproven_count else " and verified"
    return (
        f"restore  {state}: {format_count(done.restored)} files, {format_bytes(done.bytes)} restored{verified} in "
        f"{format_seconds(seconds)}; {format_count(done.present)} were already there; {len(done.faults)} failed"
    )


def _names(names: list[str], count: int) -> str:
    return ", ".join(map(printable, names)) + (" …" if count > len(names) else "")
