"""Carries queued jobs: starts runners, notices their ends, survives its own death.

Input: the store and the jobs' directories. Output: state changes in the store.
Invariant: what happened is read from disk (a runner's lock, an attempt's
outcome), never remembered; so a supervisor that was killed and started again
ends every job exactly once, and a runner outlives the service. What a dead
runner left in Slurm's queue is taken up by the next one, also to be cancelled.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lading.core.atomic import atomic_write
from lading.core.bounded import JsonMembers, read_json
from lading.core.errors import LadingError
from lading.portal.job_process import JOB, LIST, LOG, STATE, STOPPED, outcome_path, running, submission_name
from lading.portal.store import CANCELLED, FAILED, QUEUED, RUNNING, SUCCESS, JobStore, StoredJob
from lading.sessions.executors.slurm_arrays import is_submission, submission_directory
from lading.sessions.job_runner import request_cancel
from lading.sessions.journal import FAILED as JOURNAL_FAILED
from lading.sessions.journal import read_state
from lading.sessions.state_paths import JobPaths, paths_of

LOGGER = logging.getLogger("lading.portal")

POLL_SECONDS = 0.5
AFTER_FAULT_SECONDS = 5.0
# A job whose runner dies (not its tasks) more often than this is given up.
MOST_DEATHS = 3
TASK_FAILED = 3
# A job's line in the list says why it failed; the log says it all.
LONGEST_REASON = 500

_MEANINGS = {
    1: "failed; the log says why",
    2: "the job list or a setting is wrong; the log says what",
    TASK_FAILED: "a task failed; the log says which",
    4: "what is in the bucket and on disk disagree; the log says where",
    75: "another run holds the job's state",
}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@dataclass(frozen=True)
class Supervisor:
    """Runs at most ``slots`` jobs at once; ``flags`` go to every ``jobs run``."""

    store: JobStore
    home: Path
    slots: int
    flags: tuple[str, ...] = ()
    _stop: threading.Event = field(default_factory=threading.Event)
    _children: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def directory(self, job_id: str) -> Path:
        """Return a job's directory."""
        return self.home / "jobs" / job_id

    def run(self) -> None:
        """Look after the jobs until ``stop``."""
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.step()
            except Exception:  # a full disk passes; jobs that were accepted must not wait for a restart then
                LOGGER.exception("jobs could not be checked; trying again")
                self._stop.wait(AFTER_FAULT_SECONDS)

    def stop(self) -> None:
        """Leave; runners go on and are found again by the next supervisor."""
        self._stop.set()

    def step(self) -> None:
        """Notice ends, pass on cancellations, start what is queued."""
        for child in [name for name, process in self._children.items() if process.poll() is not None]:
            del self._children[child]
        active = 0
        for job in self.store.in_state(RUNNING):
            active += self._apart(job, self._follow)
        for job in self.store.in_state(QUEUED):
            active += self._apart(job, partial(self._begin, free=active < self.slots))

    def _apart(self, job: StoredJob, action: Callable[[StoredJob], bool]) -> bool:
        """Do something for one job; what goes wrong with it is logged and holds up no other."""
        try:
            return action(job)
        except (OSError, LadingError) as error:
            LOGGER.error("job %s (%s) could not be checked: %s; trying again", job.id, job.prefix, error)
            self._stop.wait(POLL_SECONDS)
            return False

    def _begin(self, job: StoredJob, free: bool) -> bool:
        """Start a queued job if there is a free slot and nobody wants it stopped; tell whether it took the slot."""
        if self._ended(job):
            return False
        if job.cancel and self._in_slurm(job):
            self._start(job)  # it withdraws the job, and takes no slot for long
        elif job.cancel:
            self.store.end(job.id, CANCELLED, "cancelled before it began")
        elif free:
            self._start(job)
            return True
        return False

    def _follow(self, job: StoredJob) -> bool:
        """Tell whether a running job still runs; otherwise end it, or queue it again when its runner died."""
        if running(self.directory(job.id)) or job.id in self._children:
            if job.cancel:
                request_cancel(self._place(job))
            return True
        if self._ended(job):
            return False
        stopped = self.directory(job.id) / STOPPED
        if job.cancel and not self._in_slurm(job):
            self.store.end(job.id, CANCELLED, "cancelled")
        elif stopped.exists():
            stopped.unlink()
            self.store.requeue(job.id)
        elif self._count_death(job) > MOST_DEATHS:
            request_cancel(self._place(job))  # what Slurm may have of it ends too
            self.store.end(job.id, FAILED, f"its runner died {MOST_DEATHS + 1} times; the log shows how far it got")
        else:
            self.store.requeue(job.id)
        return False

    def _in_slurm(self, job: StoredJob) -> bool:
        """Tell whether this attempt was, or was about to be, handed to Slurm."""
        return is_submission(submission_directory(self.home / STATE, submission_name(job.id, job.attempt)))

    def _ended(self, job: StoredJob) -> bool:
        try:
            code = JsonMembers(read_json(outcome_path(self.directory(job.id), job.attempt))).number("exit", least=-255)
        except FileNotFoundError:
            return False
        except ValueError:
            code = 1  # it ended, but how is not to be read: the log says it
        if job.cancel and code != 0:
            self.store.end(job.id, CANCELLED, "cancelled")
        elif code == 0:
            self.store.end(job.id, SUCCESS, "")
        else:
            self.store.end(job.id, FAILED, self._reason(job, code))
        return True

    def _reason(self, job: StoredJob, code: int) -> str:
        """Return why a job failed: its journal's words, or what the exit code means."""
        state = read_state(self._place(job).journal)
        # What an earlier attempt ended with is not why this one did.
        ours = state.state == JOURNAL_FAILED and state.ended >= (job.started or "")
        if code == TASK_FAILED and ours and state.message:
            return f"{state.current}: {state.message}"[:LONGEST_REASON]
        return _MEANINGS.get(code, f"ended with {code}; the log says why")

    def _count_death(self, job: StoredJob) -> int:
        path = self.directory(job.id) / f"deaths-{job.attempt}"
        count = int(path.read_text()) + 1 if path.exists() else 1
        with atomic_write(path) as stream:
            stream.write(str(count))
        return count

    def _place(self, job: StoredJob) -> JobPaths:
        return paths_of(self.home / STATE, job.bucket, job.prefix, dry_run=job.dry_run)

    def _start(self, job: StoredJob) -> None:
        if job.cancel:
            request_cancel(self._place(job))
        else:
            # A request that came too late for an earlier attempt is not meant for this one.
            self._place(job).cancel.unlink(missing_ok=True)
        directory = self.directory(job.id)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if running(directory):
            # Started by a service that was killed before it could note it.
            self.store.start(job.id)
            return
        # A list of one row is what an earlier version took in.
        path, text = (directory / JOB, job.job) if job.job else (directory / LIST, job.row)
        with atomic_write(path) as stream:
            stream.write(text)
        os.chmod(path, 0o600)
        command = [sys.executable, "-m", "lading.portal.job_process", str(directory), str(job.attempt), *self.flags]
        with open(directory / LOG, "ab", opener=_private) as log:
            # Its own session: a signal to the service does not reach it, one to its group reaches all it started.
            self._children[job.id] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,  # its state and logs are the owner's alone
            )
        self.store.start(job.id)
