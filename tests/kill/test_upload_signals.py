"""What signals do to an upload: gently at first, at once when asked again, and never with a traceback."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from lading.upload.pipeline import UploadPipeline
from lading.upload.stop_signals import GRACE_SECONDS, StopSignals


class Stoppable:
    """What ``Signals`` uses of a shipment."""

    deadline = float("inf")
    stopping = ""

    def stop(self, reason: str) -> None:
        self.stopping = self.stopping or reason


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[StopSignals]:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    caught = StopSignals(cast("UploadPipeline", Stoppable()), None)
    yield caught
    caught.restore()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_second_sigterm_ends_the_grace(signals: StopSignals, clock: list[float]) -> None:
    assert signals.grace() == float("inf")
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.grace() == GRACE_SECONDS
    clock[0] += 5
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.grace() <= 0


def test_one_sigterm_that_comes_by_two_ways_is_one(signals: StopSignals, clock: list[float]) -> None:
    """As from the daemon of a node and from the launcher that passes its own on."""
    os.kill(os.getpid(), signal.SIGTERM)
    clock[0] += 0.1
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.grace() == pytest.approx(GRACE_SECONDS - 0.1)


def test_the_early_warning_neither_shortens_nor_lengthens_the_last_grace(
    signals: StopSignals, clock: list[float]
) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    clock[0] += 500
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.grace() == GRACE_SECONDS
    clock[0] += 5
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.grace() == GRACE_SECONDS - 5


def test_nobody_reads_what_the_handler_says(signals: StopSignals, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Ctrl-C in ``make upload 2>&1 | tee log``, which ends tee as well."""

    class Gone:
        def write(self, *_: Any) -> None:
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr("sys.stderr", Gone())
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.caught == signal.SIGTERM
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writing)
