"""How long is waited for a server and for what is in flight: every limit by its name, in one place.

Input: ``LADING_SECONDS``, like ``"read=20 silence=60"``, for a site whose
server is slower or whose scheduler is stricter. Output: ``LIMITS``.
Invariant: each wait of a transfer has a limit here; ``docs/explanation/decisions.md`` adds
them up to how long a run lasts when its server is gone.
"""

import os
from dataclasses import dataclass, fields

from lading.core.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Seconds, all of them.

    connect   until a connection is there; read: between two pieces of an answer
    call      a request that broke is not begun again by the client this long after its first try
    stall     without a moving byte, after which an engine's transfers are cut off and begun anew
    silence   without an answer, after which a person is told; again: between two such lines
    patience  for a bucket that does not answer, before the run ends
    backoff   the longest pause between two tries
    grace     for what is in flight after SIGTERM (Slurm kills 30 s after it)
    last      then, for the proofs of what was sent
    ending    then, for all else; after it the process ends whatever hangs
    """

    connect: float = 10.0
    read: float = 60.0
    call: float = 120.0
    stall: float = 120.0
    silence: float = 30.0
    again: float = 300.0
    patience: float = 300.0
    backoff: float = 60.0
    grace: float = 20.0
    last: float = 5.0
    ending: float = 3.0


def read_limits(text: str) -> Limits:
    """Return the limits with the changes of ``text``; raises ``UsageError``."""
    known = {field.name for field in fields(Limits)}
    found: dict[str, float] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = -1.0
        if name not in known or not 0 < found[name] < 1e6:
            raise UsageError(f"LADING_SECONDS: {word!r} is not one of {', '.join(sorted(known))} with its seconds")
    return Limits(**found)


def _read() -> Limits:
    try:
        return read_limits(os.environ.get("LADING_SECONDS", ""))
    except UsageError as error:
        raise SystemExit(f"error: {error}") from error


LIMITS = _read()
