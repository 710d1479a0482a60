"""The rows of a fleet for a terminal and for machines.

Input: ``FleetStatus``. Output: lines of text, the worst first; one JSON object.
Invariant: a line is one release, whatever its name or the server's words hold.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.core.safe_streams import printable
from lading.report.fleet import STATES, FleetRow, FleetStatus, format_age

HEAD = ("release", "state", "stage", "left", "rate", "time left", "success", "verified", "mirror", "what is wrong")
MOST_NAME, MOST_SENTENCE = 40, 160


def list_rows(status: FleetStatus, rows: Sequence[FleetRow] | None = None) -> list[str]:
    """Return the lines of the table."""
    cells = [HEAD, *(_cells(row, status.at) for row in (status.worst_first() if rows is None else rows))]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]


def _cells(row: FleetRow, now: float) -> tuple[str, ...]:
    left = "" if row.objects_left is None else format_count(row.objects_left)
    if row.objects_left and row.bytes_left is not None:
        left += f", {format_bytes(row.bytes_left)}"
    sentence = " ".join(found.headline for found in row.problems[:1] if found.sentence)
    stage = row.problems[0].stage if row.problems and row.problems[0].stage else row.stage
    if row.lock is not None and not sentence:
        sentence = f"{row.lock.holder} at work for {format_age(row.lock.since, now)}"
    return (
        printable(row.name)[:MOST_NAME],
        row.state,
        stage,
        left,
        f"{format_bytes(row.rate)}/s" if row.rate else "",
        format_seconds(row.eta) if row.eta else "",
        format_age(row.last_success, now),
        format_age(row.oldest_proof, now) if "scrub" in row.stages else "",
        format_age(row.mirrored, now) if row.mirrored else "",
        printable(sentence)[:MOST_SENTENCE],
    )


def summarise_fleet(status: FleetStatus) -> str:
    """Return the line that ends the table."""
    counts = status.counts()
    parts = [f"{format_count(counts[state])} {state}" for state in STATES if counts[state]]
    return f"{counted(len(status.rows), 'release')}: {', '.join(parts) or 'none'}; in {format_seconds(status.seconds)}"


def encode_fleet(status: FleetStatus) -> dict[str, Any]:
    """Return the fleet as one JSON object."""
    return {
        "format": 1,
        "kind": "fleet",
        "at": round(status.at, 3),
        "seconds": round(status.seconds, 3),
        "exit": status.exit_code,
        "counts": status.counts(),
        "releases": [_encode(row) for row in status.rows],
        "faults": list(status.faults),
    }


def _encode(row: FleetRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "folder": row.folder,
        "bucket": row.bucket,
        "state": row.state,
        "stage": row.stage,
        "objects": row.objects,
        "bytes": row.bytes,
        "objects_left": row.objects_left,
        "bytes_left": row.bytes_left,
        "rate": row.rate,
        "eta": row.eta,
        "last_success": row.last_success,
        "last_failure": row.last_failure,
        "failed_stage": row.failed_stage,
        "failure": row.failure,
        "oldest_verification": row.oldest_proof,
        "never_read": row.never_read,
        "mirrored": row.mirrored,
        "lock": asdict(row.lock) if row.lock else None,
        "problems": [asdict(found) for found in row.problems],
        "contacts": list(row.contacts),
        "stages": {
            name: {"began": found.began, "ended": found.ended, "exit": found.exit, "succeeded": found.succeeded}
            for name, found in row.stages.items()
        },
    }
