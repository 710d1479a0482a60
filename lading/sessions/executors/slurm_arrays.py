"""Jobs handed to Slurm as arrays: submitted once, waited for, cancelled, found again after a death.

Input: jobs and how to submit them, or the directory of a submission. Output:
one ``JobResult`` per job, in order.
Invariant: what is submitted is on disk, and under a name that Slurm keeps,
before sbatch is asked. So whoever comes back to a submission's directory
finds its arrays and waits for them; nothing is submitted twice, and a job is
over only when Slurm says so: an unanswered question is asked again.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lading.coordination.kernel_lock import wait_for_lock
from lading.core import exit_codes
from lading.core.atomic import atomic_write, read_record
from lading.core.bounded import decode, read_object
from lading.core.errors import LadingError, UsageError
from lading.core.progress import counted
from lading.parallel.slurm import ENDED, Unanswered, cancel_jobs, find_job, job_states, submit
from lading.sessions.job_model import Job
from lading.sessions.journal import CANCELLED, DONE, FAILED, read_state
from lading.sessions.result import JobResult
from lading.sessions.state_paths import JobPaths, paths_of

POLL = 1.0
SELDOM = 30.0
# A job whose dependency failed ends instead of waiting for ever.
NEVER = "--kill-on-invalid-dep=yes"
# Of a row's two arrays: up to the transfer, and the one that finishes it.
FIRST, LAST = "first", "last"
logger = logging.getLogger("jobs")


class StoppedWaiting(LadingError):
    """This process was told to end; the jobs continue in Slurm (exit 130)."""

    exit_code = exit_codes.INTERRUPTED


@dataclass(frozen=True)
class SubmittedJob:
    """A job of a submission: its row, where its state is, and what its journal said before.

    array, index     element ``index`` of the submission's array number ``array``
    attempts, ended  of the journal when it was submitted: what differs later is this submission's doing
    """

    line: int
    bucket: str
    prefix: str
    dry_run: bool
    array: int
    index: int
    attempts: int
    ended: str

    @property
    def destination(self) -> str:
        """The job's place in the bucket."""
        return f"s3://{self.bucket}/{self.prefix}"

    def place(self, state_root: Path) -> JobPaths:
        """Return where the job's state is."""
        return paths_of(state_root, self.bucket, self.prefix, dry_run=self.dry_run)


@dataclass(frozen=True)
class SlurmSubmission:
    """A submission: its directory, its jobs, and the Slurm ids of its arrays, keyed by number and part."""

    directory: Path
    state_root: Path
    submitted_jobs: Sequence[SubmittedJob]
    arrays: Mapping[tuple[int, str], str]

    def elements(self, submitted_job: SubmittedJob) -> list[str]:
        """Return the array elements of a job; the last one finishes it."""
        parts = [
            self.arrays[submitted_job.array, part]
            for part in (FIRST, LAST)
            if (submitted_job.array, part) in self.arrays
        ]
        return [f"{array}_{submitted_job.index}" for array in parts]

    def wait(self, stop: threading.Event) -> list[JobResult]:
        """Wait until Slurm is done with every job, pass on wishes to cancel, and tell what became of each."""
        ids = sorted(set(self.arrays.values()))
        # Whether somebody wants a job stopped is looked up more often than Slurm is asked.
        look = POLL + len(self.submitted_jobs) / 200
        pause, due, warned = POLL / 4, 0.0, False
        states: dict[str, str] = {}
        while not stop.is_set():
            try:
                unwanted = [element for job in self._unwanted() for element in self.elements(job)]
                unwanted = [element for element in unwanted if states.get(element) not in ENDED]
                if unwanted:
                    cancel_jobs(unwanted)
                if unwanted or time.monotonic() >= due:
                    due, pause = time.monotonic() + pause, min(pause * 1.5, SELDOM)
                    states = job_states(ids)
                    # "123_[4-7]" stands for those that wait.
                    if all(state in ENDED for state in states.values()):
                        return [self._outcome(job, states) for job in self.submitted_jobs]
                warned = False
            except Unanswered as error:
                if not warned:
                    logger.warning("%s; the jobs of %s are still waited for", error, self.directory)
                warned = True
            stop.wait(min(pause, look))
        raise StoppedWaiting(f"stopped waiting; the jobs continue in Slurm: {', '.join(ids)} (end them with scancel)")

    def _unwanted(self) -> list[SubmittedJob]:
        return [job for job in self.submitted_jobs if job.place(self.state_root).cancel.exists()]

    def _outcome(self, submitted_job: SubmittedJob, states: Mapping[str, str]) -> JobResult:
        place = submitted_job.place(self.state_root)
        state = read_state(place.journal)
        element = self.elements(submitted_job)[-1]
        said = states.get(element, "gone")
        place.queued.unlink(missing_ok=True)
        ours = (state.attempts, state.ended) != (submitted_job.attempts, submitted_job.ended)
        done_before = state.state == DONE and said in ("COMPLETED", "gone")
        if done_before or (ours and state.ended):
            return JobResult(submitted_job.line, submitted_job.destination, state.state, state.message, state.current)
        if place.cancel.exists():
            place.cancel.unlink(missing_ok=True)
            where = f"working on {state.current}" if ours else "waiting in Slurm's queue"
            return JobResult(submitted_job.line, submitted_job.destination, CANCELLED, f"cancelled while {where}")
        task = state.current if ours else ""
        where = f"; see {self.directory}/{element}.out"
        message = f"Slurm ended job {element} with {said} in {task or 'its first task'}{where}"
        return JobResult(submitted_job.line, submitted_job.destination, FAILED, message, task)


@dataclass(frozen=True)
class Slurm:
    """Jobs as a Slurm array, one element a row; what has other resources is another array.

    script       slurm/jobs.sbatch
    directory    of this submission: the rows of each array, and the elements' output
    environment  for the script (no secret): list, flags and state root
    flags_of     sbatch flags of a job (from its tasks' image_resources)
    transfer     sbatch flags of a second array that does upload and what follows, after the
                 first one's element of the same row succeeded; empty for one array
    then         a script that is submitted with ``afterok`` of everything
    wait         return when the jobs ended; else at once
    """

    script: Path
    directory: Path
    environment: Mapping[str, str]
    flags_of: Callable[[Job], Sequence[str]]
    state_root: Path
    stop: threading.Event
    at_once: int = 0
    transfer: Sequence[str] = ()
    then: str = ""
    wait: bool = True

    def run(self, jobs: Sequence[Job]) -> list[JobResult]:
        """Submit, note each job as queued, wait, and read what became of each."""
        groups: dict[tuple[str, ...], list[Job]] = {}
        for job in jobs:
            groups.setdefault(tuple(self.flags_of(job)), []).append(job)
        ordered = sorted(groups.items())
        submitted_jobs = {
            job.line: self._submitted_job(job, number, index)
            for number, (_, group) in enumerate(ordered)
            for index, job in enumerate(group)
        }
        write_tickets(
            self.directory, self.environment["LADING_LIST"], list(submitted_jobs.values()), bool(self.transfer)
        )
        arrays: dict[tuple[int, str], str] = {}
        for number, (flags, group) in enumerate(ordered):
            arrays.update(self._submit(number, flags, [submitted_jobs[job.line] for job in group]))
        submission = SlurmSubmission(
            self.directory, self.state_root, [submitted_jobs[job.line] for job in jobs], arrays
        )
        if self.then:
            # The last array of a row is the one that finishes it.
            ids = sorted(array for (_, part), array in arrays.items() if part == LAST)
            after = submit(self.then, [f"--dependency=afterok:{':'.join(ids)}", NEVER])
            print(f"submitted {self.then} as job {after}, after all rows succeeded", flush=True)
        if not self.wait:
            return [
                JobResult(
                    submitted_job.line,
                    submitted_job.destination,
                    "queued",
                    f"job {submission.elements(submitted_job)[-1]}",
                )
                for submitted_job in submission.submitted_jobs
            ]
        return submission.wait(self.stop)

    def _submitted_job(self, job: Job, array: int, index: int) -> SubmittedJob:
        state = read_state(paths_of(self.state_root, job.s3_bucket, job.prefix, dry_run=job.dry_run).journal)
        return SubmittedJob(job.line, job.s3_bucket, job.prefix, job.dry_run, array, index, state.attempts, state.ended)

    def _submit(
        self, number: int, flags: Sequence[str], submitted_jobs: Sequence[SubmittedJob]
    ) -> dict[tuple[int, str], str]:
        """Submit one array (two with ``transfer``), unless that was done before; returns their ids."""
        self._note(submitted_jobs, "")
        rows = self.directory / f"rows.{number}"
        with atomic_write(rows) as stream:
            stream.writelines(f"{submitted_job.line}\n" for submitted_job in submitted_jobs)
        limit = f"%{self.at_once}" if self.at_once else ""
        common = [
            f"--array=0-{len(submitted_jobs) - 1}{limit}",
            f"--output={self.directory}/%A_%a.out",
            "--job-name=lading-jobs",
        ]
        found = {}
        if self.transfer:
            first = self._sbatch(number, FIRST, [*common, *flags], rows, until="check_metadata_files")
            found[number, FIRST] = first
            flags = [*self.transfer, f"--dependency=aftercorr:{first}", NEVER]
        last = self._sbatch(number, LAST, [*common, *flags], rows)
        found[number, LAST] = last
        self._note(submitted_jobs, last)
        ids = ", then ".join(found.values())
        print(f"submitted {counted(len(submitted_jobs), 'job')} as array {ids}", flush=True)
        return found

    def _note(self, submitted_jobs: Sequence[SubmittedJob], array: str) -> None:
        """Say in each job's state that this submission has it in the queue, or is about to."""
        record = {"submission": str(self.directory), "list": self.environment["LADING_LIST"]}
        for submitted_job in submitted_jobs:
            element = f"{array}_{submitted_job.index}" if array else ""
            position = {"array": submitted_job.array, "index": submitted_job.index}
            with atomic_write(submitted_job.place(self.state_root).create().queued) as stream:
                json.dump({**record, **position, "element": element}, stream)

    def _sbatch(self, number: int, part: str, flags: Sequence[str], rows: Path, until: str = "") -> str:
        known = find_array(self.directory, number, part, self.stop)
        if known:
            return known
        # Values travel by the environment: names with commas would break --export=NAME=VALUE.
        values = {
            **self.environment,
            "LADING_SUBMISSION": str(self.directory),
            "LADING_ROWS": str(rows),
            "LADING_UNTIL": until,
        }
        try:
            with open(_asking(self.directory), "a") as lock:
                wait_for_lock(lock)
                flags = [f"--comment={_mark(self.directory, number, part)}", "--export=ALL", *flags]
                array = submit(str(self.script), flags, environment=values, held=[lock.fileno()])
        except Unanswered:
            # It may have been heard all the same.
            heard = find_array(self.directory, number, part, self.stop)
            if heard is None:
                raise
            return heard
        with atomic_write(_array_file(self.directory, number, part)) as stream:
            stream.write(array)
        return array


def submission_directory(state_root: Path, name: str) -> Path:
    """Return the directory of a submission."""
    return state_root / ".slurm" / name


def write_tickets(directory: Path, list_path: str, submitted_jobs: Sequence[SubmittedJob], transfer: bool) -> None:
    """Note what is about to be submitted, once; ``UsageError`` when the directory holds another submission."""
    path = directory / "submission.json"
    if path.exists():
        known = [(submitted_job.line, submitted_job.destination) for submitted_job in read_tickets(directory)]
        if known != [(submitted_job.line, submitted_job.destination) for submitted_job in submitted_jobs]:
            raise UsageError(f"{directory} is the submission of other jobs; give another --submission")
        return
    directory.mkdir(parents=True, exist_ok=True)
    record = {
        "list": list_path,
        "transfer": transfer,
        "jobs": [asdict(submitted_job) for submitted_job in submitted_jobs],
    }
    with atomic_write(path) as stream:
        json.dump(record, stream)


def read_tickets(directory: Path) -> list[SubmittedJob]:
    """Return the jobs of a submission."""
    return list(_read_submission(directory).jobs)


@dataclass(frozen=True)
class _Submission:
    """``submission.json``."""

    list: str
    transfer: bool
    jobs: tuple[SubmittedJob, ...]


def _read_submission(directory: Path) -> _Submission:
    remedy = f"check with squeue what is queued of it, remove {directory}, then run again"
    return read_record(directory / "submission.json", lambda record: decode(_Submission, record), remedy)


def is_submission(directory: Path) -> bool:
    """Tell whether jobs were, or were about to be, submitted from a directory."""
    return (directory / "submission.json").exists()


def resume(directory: Path, state_root: Path, stop: threading.Event) -> SlurmSubmission | None:
    """Return a submission that an earlier process made; None when it never got all its arrays into the queue."""
    if not is_submission(directory):
        return None
    submission = _read_submission(directory)
    submitted_jobs, transfer = list(submission.jobs), submission.transfer
    arrays = {}
    for number in sorted({submitted_job.array for submitted_job in submitted_jobs}):
        for part in (FIRST, LAST) if transfer else (LAST,):
            array = find_array(directory, number, part, stop)
            if array is None:
                return None
            arrays[number, part] = array
    return SlurmSubmission(directory, state_root, submitted_jobs, arrays)


def find_array(directory: Path, number: int, part: str, stop: threading.Event | None = None) -> str | None:
    """Return the Slurm id of a submission's array; None when Slurm never got it.

    While Slurm does not answer, it is asked again until ``stop``; without one, ``Unanswered`` is raised.
    """
    try:
        return _array_file(directory, number, part).read_text()
    except FileNotFoundError:
        pass
    if not _asking(directory).exists():
        return None
    # The sbatch of a process that died may still be at work; it holds the lock as long.
    with open(_asking(directory), "a") as lock:
        wait_for_lock(lock)
    while True:
        try:
            array = find_job(_mark(directory, number, part))
            break
        except Unanswered as error:
            if stop is None:
                raise
            logger.warning("%s; asking again, since %s may be in the queue", error, directory)
            if stop.wait(SELDOM):
                raise StoppedWaiting(f"stopped before Slurm confirmed whether it has {directory}") from error
    if array:
        with atomic_write(_array_file(directory, number, part)) as stream:
            stream.write(array)
    return array


@dataclass(frozen=True)
class _Queued:
    """``queued.json``: which element of which array of a submission a job is; ``element`` once Slurm has told it."""

    submission: str
    list: str
    array: int
    index: int
    element: str = ""


def refuse_queued(job: Job, state_root: Path, own: Path | None = None) -> None:
    """Raise ``UsageError`` when a submission other than ``own`` has the job in Slurm's queue or at work."""
    place = paths_of(state_root, job.s3_bucket, job.prefix, dry_run=job.dry_run)
    try:
        queued = decode(_Queued, read_object(place.queued))
    except (FileNotFoundError, ValueError):
        return
    if queued.submission in (os.environ.get("LADING_SUBMISSION"), str(own)):
        return  # this very process is what was queued
    element = queued.element
    if not element:
        found = find_array(Path(queued.submission), queued.array, LAST)
        if not found:
            return
        element = f"{found}_{queued.index}"
    array, _, index = element.partition("_")
    for known, state in job_states([array]).items():
        waiting = known == array or "[" in known
        if state not in ENDED and (known == element or (waiting and _in_range(known, index))):
            raise UsageError(f"{job.destination} is already {state.lower()} as Slurm job {element}, from {queued.list}")


def _in_range(known: str, index: str) -> bool:
    """Tell whether ``123_[2,4-7,10-20:5%3]`` covers an index; a bare job id covers every one.

    Where Slurm cut the list off (no ``]``, or a part like ``...``) it may hold
    any index that waits: covered, since nothing may be submitted twice.
    """
    if "[" not in known or not known.endswith("]"):
        return True
    for part in known.split("[", 1)[1].rstrip("]").split("%")[0].split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if span is None:
            return True
        first, last, step = int(span[1]), int(span[2] or span[1]), int(span[3] or 1)
        if int(index) in range(first, last + 1, max(1, step)):
            return True
    return False


def _mark(directory: Path, number: int, part: str) -> str:
    """Return the comment by which Slurm knows an array; a submission's directory has a name of its own."""
    return f"lading:{directory.name}:{number}:{part}"


def _array_file(directory: Path, number: int, part: str) -> Path:
    return directory / f"array.{number}.{part}"


def _asking(directory: Path) -> Path:
    return directory / "asking"
