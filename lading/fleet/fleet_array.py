"""The releases that are due, as one array of Slurm: an element a release, as many at once as the list says.

Input: entries of the list. Output: work done by elements; which releases an array has still to do.
Invariant: what is about to be submitted is on disk first, under a comment that Slurm keeps. So a run that comes after a
dead one finds the array and submits none of its releases again; an unanswered question is asked again.
"""

import json
import os
import secrets
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lading.coordination.lock import hold
from lading.core.atomic import atomic_write
from lading.core.bounded import decode, read_object
from lading.core.errors import LockHeldError, UsageError
from lading.core.identity import this_process
from lading.fleet.release_worker import child_environment
from lading.parallel.slurm import ENDED, Unanswered, cancel_jobs, find_job, job_states, submit
from lading.report.release_list import FleetSettings, ReleaseEntry

POLL, SELDOM = 1.0, 15.0
WAIT_SECONDS = 60.0  # for another run that submits, and for elements that were told to end


@dataclass(frozen=True)
class SubmittedArray:
    """An array: its comment in Slurm, the releases of its elements in order, its job id; "" before it has one."""

    mark: str
    names: tuple[str, ...]
    job: str = ""


class FleetArray:
    """Submits one array and waits for it, or for that of a run before."""

    def __init__(self, settings: FleetSettings, stop: threading.Event, note: Callable[[str], None]) -> None:
        self._settings, self._stop, self._note = settings, stop, note
        self._file = settings.home / "array.json"

    def run(self, due: Sequence[ReleaseEntry], ended: Callable[[str], None]) -> None:
        """Have the releases done that no array has; returns when all have ended, or soon after a stop."""
        known, own = self._take(due)
        for array in filter(None, (known, own)):
            self._wait(array, ended, cancel=array is own)

    def _take(self, due: Sequence[ReleaseEntry]) -> tuple[SubmittedArray | None, SubmittedArray | None]:
        """Return the array that is at work already, and the one that was submitted now."""
        for _ in range(int(WAIT_SECONDS / POLL)):
            try:
                with hold(self._settings.home / "submitting", this_process().writer):
                    known = self._read()
                    if known is not None:
                        busy = self._unended(known)
                        if busy:
                            return known, None  # what is due beside it is taken by the next run
                    return None, self._submit([entry.name for entry in due]) if due else None
            except LockHeldError:
                self._stop.wait(POLL)
        raise LockHeldError(f"another run submits for {self._settings.path} all the time; look at it")

    def _read(self) -> SubmittedArray | None:
        try:
            found = decode(SubmittedArray, read_object(self._file))
        except (OSError, ValueError):
            return None
        if found.job:
            return found
        job = find_job(found.mark)
        return replace(found, job=job) if job else None

    def _unended(self, array: SubmittedArray) -> list[str]:
        """Return the releases whose elements have not ended; what Slurm has forgotten has."""
        states = job_states([array.job])
        if not states or all(state in ENDED for state in states.values()):
            return []
        return [
            name
            for number, name in enumerate(array.names)
            if states.get(f"{array.job}_{number}", "PENDING") not in ENDED
        ]

    def _submit(self, names: Sequence[str]) -> SubmittedArray:
        home = self._settings.home
        array = SubmittedArray(f"lading-fleet-{secrets.token_hex(8)}", tuple(names))
        self._write(array)
        (home / "slurm").mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "lading",
            "fleet",
            "element",
            "--releases",
            str(self._settings.path.absolute()),
        ]
        script = home / "slurm" / "element.sh"
        with atomic_write(script) as stream:
            stream.write(f"#!/bin/sh\nexec {shlex.join(command)}\n")
        flags = [
            f"--array=0-{len(names) - 1}%{self._settings.shared.at_once}",
            f"--comment={array.mark}",
            f"--output={home}/slurm/%A_%a.out",
            "--job-name=lading-fleet",
            "--export=ALL",
            *self._settings.shared.sbatch_flags,
        ]
        job = submit(str(script), flags, environment=child_environment())
        array = replace(array, job=job)
        self._write(array)
        return array

    def _write(self, array: SubmittedArray) -> None:
        with atomic_write(self._file, sweep=True) as stream:
            json.dump({"format": 1, "kind": "fleet array", **asdict(array)}, stream)

    def _wait(self, array: SubmittedArray, ended: Callable[[str], None], *, cancel: bool) -> None:
        left, pause, warned = set(array.names), POLL, False
        told_to_end = 0.0
        while left:
            try:
                if self._stop.is_set():
                    if not cancel:
                        return  # it is another run's, and goes on
                    if not told_to_end:
                        cancel_jobs([array.job])
                    told_to_end += POLL
                    if told_to_end > WAIT_SECONDS:
                        return
                now = set(self._unended(array))
                for name in array.names:
                    if name in left - now:
                        ended(name)
                left &= now
                warned = False
            except Unanswered as error:
                if not warned:
                    self._note(f"{error}; array {array.job} is still waited for")
                warned = True
            if left:
                self._stop.wait(pause) if not self._stop.is_set() else threading.Event().wait(POLL)
                pause = min(pause * 1.3, SELDOM)
        with suppress(OSError):
            self._file.unlink()


def find_element(home: Path) -> str:
    """Return the release that this process does as an element of an array."""
    try:
        number = int(os.environ["SLURM_ARRAY_TASK_ID"])
        return decode(SubmittedArray, read_object(home / "array.json")).names[number]
    except (KeyError, ValueError, OSError, IndexError) as error:
        raise UsageError("lading fleet element runs in an array of lading fleet run alone") from error
