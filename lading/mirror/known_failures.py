"""What failed in the mirror's last run, and since when.

Input: the failures of a run. Output: ``failures.json`` of a store.
Invariant: a failure keeps the time at which it began until it is gone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lading.core.atomic import atomic_write
from lading.core.bounded import PLAN_BYTES, decode, read_object


@dataclass(frozen=True)
class KnownFailure:
    """Why a dataset failed, and since when (ISO 8601, UTC)."""

    reason: str
    since: str


def read_failures(path: Path) -> dict[str, KnownFailure]:
    """Return the failures of the last run by dataset; none when nothing is noted."""
    try:
        return {name: decode(KnownFailure, value) for name, value in read_object(path, PLAN_BYTES).items()}
    except (OSError, ValueError):
        return {}


def note_failures(path: Path, failed: Mapping[str, str]) -> None:
    """Replace the note by what failed now."""
    before = read_failures(path)
    if not failed and not before:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = {
        name: asdict(KnownFailure(reason, before[name].since if name in before else now))
        for name, reason in sorted(failed.items())
    }
    with atomic_write(path) as stream:
        json.dump(found, stream, indent=1)
