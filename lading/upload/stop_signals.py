"""Signals, and the end of the time given, as a gentle stop of an upload.

Input: SIGTERM, SIGINT, SIGUSR1, ``SLURM_JOB_END_TIME``. Output: ``stop`` of
the pipeline, and the seconds that what is in flight still has.
Invariant: the handler takes no lock and writes to nobody who may be gone.
"""

import os
import signal
import time
from contextlib import suppress

from lading.coordination.signals import TWICE_SECONDS
from lading.core.limits import LIMITS
from lading.upload.pipeline import UploadPipeline

GRACE_SECONDS = LIMITS.grace  # after SIGTERM: Slurm kills 30 s after it (KillWait)
INTERRUPTED = "interrupted"  # why no more is sent, after a signal
RESERVE_SECONDS = 120.0  # before the end of a Slurm job


class StopSignals:
    """Turns SIGTERM, SIGINT, SIGUSR1 and the end of the time budget into a gentle stop.

    After SIGUSR1, which a batch system sends early, what is in flight has
    until shortly before the end of the job. A second SIGTERM ends the grace.
    """

    def __init__(self, pipeline: UploadPipeline, most_seconds: float | None) -> None:
        self.caught = 0
        self._pipeline = pipeline
        self._stopped = 0.0
        self._at_once = False
        if most_seconds is not None:
            pipeline.deadline = time.monotonic() + most_seconds
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        self._end = time.monotonic() + float(end) - time.time() - RESERVE_SECONDS if end.isdigit() else 0.0
        if self._end:
            pipeline.deadline = min(pipeline.deadline, self._end)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._catch) for number in numbers}

    def _catch(self, number: int, _: object) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self.caught and (number == signal.SIGUSR1 or self.caught != signal.SIGUSR1):
            self._at_once |= number == signal.SIGTERM and now - self._stopped > TWICE_SECONDS
            return
        self.caught, self._stopped = number, now
        self._pipeline.stop(INTERRUPTED)
        # Not by print: the signal may come inside another one, and who reads may have ended by the same signal.
        with suppress(OSError):
            os.write(2, b"finishing what is in flight; once more to stop at once\n")

    def grace(self) -> float:
        """Return the seconds left for what is in flight."""
        if not self.caught:
            return float("inf")
        if self._at_once:
            return float("-inf")
        until = self._stopped + GRACE_SECONDS
        return (max(until, self._end) if self.caught == signal.SIGUSR1 else until) - time.monotonic()

    def restore(self) -> None:
        """Put the old handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
