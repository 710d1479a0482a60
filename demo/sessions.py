"""The demo's sessions: from a job list to the bucket, with the metadata checked.

Input: the demo's directory and server. Output: how many metadata files are valid.
Invariant: each file that has a schema is read back from the bucket and validated.
"""

from collections.abc import Callable
from pathlib import Path

from lading.core.errors import LadingError
from lading.sessions.metadata import SCHEMAS, faults, read_json
from lading.testing.lab_sessions import make_sessions
from lading.testing.s3_server import Server

BUCKET = "sessions"
PRESETS = Path(__file__).resolve().parent.parent / "jobs" / "example" / "presets"


def carry_sessions(
    run: Path, server: Server, do: Callable[[Path, Path, str], None], heading: Callable[[str], None]
) -> int:
    """Carry three sessions from a job list to the bucket; returns how many metadata files are there and valid."""
    heading("a job list: a probe, a light-sheet stack, behaviour with videos")
    server.make_bucket(BUCKET)
    path = make_sessions(run / "data" / "sessions", BUCKET)
    print(path.read_text(encoding="utf-8-sig"), end="")
    do(path, PRESETS, BUCKET)
    valid = 0
    for file in sorted((run / "s3" / BUCKET).glob("*/*.json")):
        wrong = faults(file.name, read_json(file)) if file.name in SCHEMAS else [f"{file.name} has no schema"]
        if wrong:
            raise LadingError(f"{file}: {wrong[0]}")
        valid += 1
    return valid
