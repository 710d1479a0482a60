"""Which spans of a manifest a scrub reads now.

Input: when each span was read last, its bytes; the period in which all are to be read, the most bytes of a run.
Output: the chosen spans, oldest proof first, and what is late.
Invariant: runs at even distances read everything within the period, as far as their bytes allow; each run reads
something. One span may be larger than the bound: it is then read by itself, since it would never be otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lading.verification.fixity_log import FixityState
from lading.verification.manifest_spans import ManifestSpan

CLOCK = 86400.0  # seconds that clocks of two machines may differ
FIRST_SHARE = 1 / 180  # of the period: how far apart runs are taken to be when there was none


@dataclass
class SpanTable:
    """What is known of each span of a manifest, in order; ``proven`` is 0 where it was never read."""

    digests: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    proven: list[float] = field(default_factory=list)

    def add(self, span: ManifestSpan, state: FixityState) -> None:
        """Take the next span."""
        digest = span.digest
        self.digests.append(digest)
        self.sizes.append(span.bytes)
        self.proven.append(state.proofs.get(digest, 0.0))

    def proven_until(self, now: float) -> NDArray[np.float64]:
        """Return when each span was read, 0 for never; a time that is still to come says nothing."""
        proven = np.array(self.proven, dtype=np.float64)
        return np.where(proven <= now + CLOCK, proven, 0.0)


@dataclass(frozen=True)
class ScrubPlan:
    """What a run reads.

    chosen     numbers of spans
    bytes      of these
    late       bytes whose last reading is longer ago than the period, and that are not chosen
    needed     bytes that a run would have to read for all to be read in time
    """

    chosen: frozenset[int]
    bytes: int
    late: int
    needed: int


def plan_scrub(
    table: SpanTable, state: FixityState, now: float, period: float, most: int, *, everything: bool = False
) -> ScrubPlan:
    """Choose the spans of a run: what will be due before the next one, at least an even share, and at most ``most``.

    ``everything``: as if all were due.
    """
    interval = now - state.last if state.last is not None and state.last < now else period * FIRST_SHARE
    started = min(state.started, now) if state.started is not None else now
    sizes = np.array(table.sizes, dtype=np.int64)
    proven = table.proven_until(now)
    if not len(sizes):
        return ScrubPlan(frozenset(), 0, 0, 0)
    # What was never read is due a period after the first run.
    reference = np.where(proven > 0, proven, started)
    due = (reference + period <= now + interval) | everything
    share = int(np.ceil(int(sizes.sum()) * min(1.0, interval / period)))
    needed = max(share, int(sizes[due].sum()))
    order = np.lexsort((np.arange(len(sizes)), proven))
    chosen: list[int] = []
    taken = 0
    rest = int(due.sum())
    for number in order.tolist():
        size = int(sizes[number])
        if chosen and ((taken >= needed and rest <= 0) or taken + size > most):
            break
        chosen.append(number)
        taken += size
        rest -= bool(due[number])
    late = reference + period < now
    late[chosen] = False
    return ScrubPlan(frozenset(chosen), taken, int(sizes[late].sum()), needed)


def proof_ages(table: SpanTable, state: FixityState, day: float = 86400.0) -> Mapping[str, int]:
    """Return bytes by the day (since 1970) on which they were read last, ``never`` and ``wrong`` for the others."""
    unproven = state.unproven_bytes()
    found: dict[str, int] = {}
    for digest, size in zip(table.digests, table.sizes):
        at = state.proofs.get(digest)
        wrong = min(size, unproven.get(digest, 0)) if at else 0
        for name, count in ((str(int(at // day)) if at else "never", size - wrong), ("wrong", wrong)):
            if count:
                found[name] = found.get(name, 0) + count
    return found
