"""What a job's page shows of its data: outputs with their pictures, links to viewers, and whether a browser may read.

Input: the state of a job's compressions, and the address of its bucket. Output: rows for the page, and a verdict that
is kept beside the job's state.
Invariant: only a person's request makes the portal ask the bucket, and it asks as a stranger's browser would; no
credentials are used.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lading.compress import viewers
from lading.compress.names import REPORT
from lading.compress.preview.shown_outputs import ShownOutput, of_state, shown_outputs
from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, read_object
from lading.sessions.state_paths import JobPaths

# What may stand in an address as the name of a bucket.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,250}")
# Images that are asked for: one bucket has one rule.
MOST_CHECKED = 2


@dataclass(frozen=True)
class ViewerVerdict:
    """What was found when somebody asked whether a browser may read the images."""

    checked_at: str
    errors: tuple[str, ...]

    @property
    def rule(self) -> str:
        """A rule of the bucket that allows viewers."""
        return json.dumps(viewers.RULE) if self.errors else ""


def find_outputs(place: JobPaths, address: str) -> list[ShownOutput]:
    """Return the outputs of a job's finished compressions; ``address``: where browsers find the session, or nothing."""
    top = place.compression("part").parent
    try:
        parts = sorted(path.name for path in top.iterdir() if path.is_dir())
    except OSError:
        return []
    reports = [of_state(place.compression(part), part, REPORT) for part in parts]
    return shown_outputs([report for report in reports if report], address)


def session_address(bucket: str, prefix: str, endpoint: str) -> str:
    """Return where browsers find a session; nothing for a bucket that is none."""
    return viewers.public_address(bucket, prefix, endpoint or None, None) if _BUCKET.fullmatch(bucket) else ""


def read_verdict(place: JobPaths) -> ViewerVerdict | None:
    """Return what was found last, None where nobody asked."""
    try:
        take = JsonMembers(read_object(place.viewers))
        return ViewerVerdict(take.text("checked_at"), tuple(take.texts("errors")))
    except (OSError, ValueError):
        return None


def check_viewers(place: JobPaths, outputs: list[ShownOutput], address: str) -> ViewerVerdict:
    """Ask the bucket for some of the images as a browser would, and keep what was found."""
    images = [output for output in outputs if output.links][:MOST_CHECKED]
    errors = [
        error
        for image in images
        for error in viewers.check_address(viewers.address_of(address, image.path), viewers.documents_of(image.ngff))
    ]
    verdict = ViewerVerdict(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), tuple(errors))
    record: Mapping[str, Any] = {
        "format": 1,
        "kind": "viewers",
        "checked_at": verdict.checked_at,
        "address": address,
        "errors": list(verdict.errors),
    }
    with atomic_write(place.viewers) as stream:
        json.dump(record, stream, indent=1)
        stream.write("\n")
    return verdict
