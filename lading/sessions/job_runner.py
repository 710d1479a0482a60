"""One job from its first task to its last, and what a list of them came to.

Input: a validated job and the run's settings. Output: an ``JobResult``; events
in the job's journal, readable while it runs.
Invariant: a task that the journal calls finished is not done again; a task
without an end is; one process works on a destination at a time; whatever
goes wrong in a job is its outcome, never an exception in its list.

Hooks for pages and commands: ``request_cancel``, ``retry``, ``read_state`` of
``lading.sessions.journal``, ``paths_of`` of ``lading.sessions.state_paths``.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lading.compress.passwords import is_noted, note_password
from lading.coordination.lock import hold
from lading.core.atomic import atomic_write
from lading.core.bounded import read_object
from lading.core.errors import LadingError, LockHeldError, UsageError
from lading.parallel.slurm import find_allocation
from lading.sessions import pending_tasks as due
from lading.sessions import tasks as steps
from lading.sessions.delivery import Outdated
from lading.sessions.inputs import CONFIGS, METADATA, changed_inputs, read_inputs
from lading.sessions.job_model import Job, Modality, TaskOptions
from lading.sessions.journal import (
    CANCELLED,
    DONE,
    FAILED,
    FINISHED,
    SKIPPED,
    STARTED,
    JobJournal,
    JobState,
    read_state,
)
from lading.sessions.precedence import redact
from lading.sessions.result import JobResult
from lading.sessions.services.parameter_store import reveal
from lading.sessions.state_paths import JobPaths, paths_of
from lading.sessions.task_context import OUTDATED, Cancelled, RunSettings, TaskContext
from lading.sessions.tasks import notify as tell
from lading.sessions.vocabulary import MAPPED_TASKS, TASKS

# Parts of a mapped task that run side by side; each uses its share of the cores.
SIDE_BY_SIDE = 2
# A notice that cannot be delivered is no reason to stop the data.
NOTICES = ("send_job_start_email", "send_job_end_email")
INTERRUPTED = "interrupted; run the same command again to continue"
logger = logging.getLogger("jobs")


def run_job(job: Job, settings: RunSettings, stop: threading.Event, until: str = "") -> JobResult:
    """Do a job's tasks, from the first that is not finished, to the last (or to ``until``)."""
    started = time.monotonic()
    if stop.is_set():
        return JobResult(job.line, job.destination, FAILED, INTERRUPTED)
    place = paths_of(settings.state_root, job.s3_bucket, job.prefix, dry_run=job.dry_run)
    try:
        place.create()
        allocation = find_allocation()
        with hold(place.directory, new_launch(), allocation.job if allocation else None):
            state, message, task = _Run(job, settings, place, stop, until).work()
    except LockHeldError as error:
        state, message, task = FAILED, f"{job.destination} is being worked on elsewhere: {error}", ""
    except LadingError as error:
        state, message, task = FAILED, str(error), ""
    except OSError as error:
        state, message, task = FAILED, f"{error.strerror or error} ({error.filename})", ""
    return JobResult(job.line, job.destination, state, message, task, time.monotonic() - started)


def new_launch() -> str:
    """Return a name for this process's hold of a job."""
    return f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{os.urandom(4).hex()}"


def request_cancel(place: JobPaths) -> None:
    """Ask whoever works on a job, now or next, to stop it; its journal then ends with ``cancelled``."""
    place.directory.mkdir(parents=True, exist_ok=True)
    place.cancel.touch()


def retry(place: JobPaths, task: str = "") -> None:
    """Make the next run do a task and all after it ("" for the whole job); ``LockHeldError`` while it runs."""
    if task and task not in TASKS:
        raise UsageError(f"{task!r} is not a task; one of {', '.join(TASKS)}")
    place.cancel.unlink(missing_ok=True)
    with hold(place.directory, new_launch()), JobJournal(place.journal) as journal:
        for name in TASKS[TASKS.index(task) :] if task else ("",):
            journal.write("reset", task=name)


# The fields that every fingerprint has. One that came later is in it only where it has a value other than its default:
# a session that an earlier version sent must keep the fingerprint that it has on disk.
FIRST_FIELDS: Mapping[type[BaseModel], frozenset[str]] = {
    Job: frozenset((
        "job_type", "project_name", "platform", "subject_id", "acq_datetime", "s3_bucket", "prefix", "modalities",
        "metadata_dir", "metadata_dir_force", "behavior_dir", "derivatives_dir", "temp_directory", "dry_run",
        "compress_raw_data", "skip_staging", "aws_param_store_name", "metadata_service_domain",
        "aind_data_transfer_repo_location", "video_encryption_password", "processor_name", "process_name", "tasks",
    )),
    Modality: frozenset((
        "number", "modality", "source", "folder", "compress_raw_data", "skip_staging", "extra_configs",
    )),
    TaskOptions: frozenset((
        "skip_task", "image", "image_version", "image_resources", "job_settings", "command_script",
    )),
}  # fmt: skip


def _without_later_defaults(model: BaseModel, record: dict[str, Any]) -> dict[str, Any]:
    """Return a dump of ``model`` without the later fields that have their default."""
    fields = type(model).model_fields
    return {
        name: value
        for name, value in record.items()
        if name in FIRST_FIELDS[type(model)]
        or getattr(model, name) != fields[name].get_default(call_default_factory=True)
    }


def fingerprint(job: Job) -> str:
    """Return a digest of what decides on the bytes in the bucket.

    Not in it: who is told, and what happens after the upload. Correcting
    that must not compress and send anything again.
    """
    apart = {
        "line",
        "log_level",
        "user_email",
        "email_notification_types",
        "force_cloud_sync",
        "time_zone",  # a site that names one later sends nothing again
        "s3_prefix",  # what it makes is in ``prefix``
    }
    record = job.model_dump(mode="json", exclude=apart | {name for name in Job.model_fields if "codeocean" in name})
    record = _without_later_defaults(job, record)
    later = TASKS[TASKS.index("upload_data_to_s3") :]
    record["tasks"] = {
        name: {part: _without_later_defaults(job.tasks[name][part], options) for part, options in parts.items()}
        for name, parts in record["tasks"].items()
        if name not in later
    }
    for entry in record["modalities"]:
        for name in ("capsule_id", "process_capsule_id", "pipeline_id"):
            del entry[name]
    record["modalities"] = [_without_later_defaults(*pair) for pair in zip(job.modalities, record["modalities"])]
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


class _Run:
    """One attempt at a job, under its lease."""

    def __init__(self, job: Job, settings: RunSettings, place: JobPaths, stop: threading.Event, until: str) -> None:
        self._job, self._settings, self._place = job, settings, place
        self._stop, self._until = stop, until
        self._lock = threading.Lock()
        self._password: str | None = None

    def work(self) -> tuple[str, str, str]:
        """Do what is left; returns (state, message, task)."""
        before = read_state(self._place.journal)
        noted = self._noted()
        # Once all is sent, nothing reads these files any more.
        sent = before.task("upload_data_to_s3").state == FINISHED
        corrected = set() if sent else changed_inputs(noted.get("inputs", {}), read_inputs(self._job))
        same = noted.get("fingerprint") == fingerprint(self._job) and CONFIGS not in corrected
        self._password = self._note_of_password(noted.get("password"))
        if noted.get("password") is not None and self._password != noted["password"]:
            same = False
        elif before.tasks and self._password is not None and noted.get("password") is None:
            logger.warning(
                "%s: an earlier version of Lading did not record with which password it was encrypted; "
                "if the password changed since, reset the job",
                self._job.prefix,
            )
        repeated = due.again(self._job, before) if same else []
        if before.state == DONE and same and not repeated and not due.anything_left(self._job, before):
            return DONE, "was done before", ""
        if self._place.cancel.exists():
            return self._end_before_start()
        with JobJournal(self._place.journal) as journal:
            if not same and before.tasks:
                journal.write("reset", task="")
                shutil.rmtree(self._place.directory / "upload", ignore_errors=True)
            if METADATA in corrected:
                self._reset_metadata(journal)
            self._write_job()
            for task in repeated:
                journal.write("reset", task=task)
            self._reset_lost_staging(journal)
            journal.begin()
            if before.state in (FAILED, CANCELLED):
                self._notice(tell.RETRY, f"{self._job.prefix} is tried again", before.message)
            state, message, task = self._tasks(journal)
            if state:
                journal.write("end", state=state, message=message)
        # An interruption is nobody's failure: the job goes on where it was, with its staging folder.
        if state == FAILED and not self._stop.is_set():
            self._after_failure(task, message)
        if state == CANCELLED:
            self._place.cancel.unlink(missing_ok=True)
        return state or DONE, message, task

    def _noted(self) -> dict[str, Any]:
        """Return what was noted of the job when it was last begun."""
        try:
            record = read_object(self._place.job)
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record.get("inputs", {}), dict) else {}

    def _note_of_password(self, noted: Any) -> str | None:
        """Return what tells the job's password from another one: what was noted when it is the same, else a new note.

        The fingerprint cannot: it sees a mask, or the name of the place where the password is.
        """
        secret = self._job.video_encryption_password
        if secret is None:
            return None
        password = reveal(secret, self._settings.list_path.parent).get_secret_value()
        with suppress(ValueError):  # damaged: as if it were another
            if noted is not None and is_noted(str(noted), password):
                return str(noted)
        return note_password(password)

    def _reset_metadata(self, journal: JobJournal) -> None:
        """Have the metadata files gathered anew, also without those that are no longer prepared."""
        if self._place.staging.exists():
            for path in Path(self._place.staging.read_text(encoding="utf-8")).glob("*.json"):
                path.unlink()
        for task in ("gather_preliminary_metadata", "gather_final_metadata", "check_metadata_files"):
            journal.write("reset", task=task)

    def _write_job(self) -> None:
        record = {
            "fingerprint": fingerprint(self._job),
            "inputs": {**self._noted().get("inputs", {}), **read_inputs(self._job)},
            "list": str(self._settings.list_path),
        }
        if self._password is not None:
            record["password"] = self._password
        with atomic_write(self._place.job) as stream:
            json.dump({**record, "job": redact(self._job.model_dump(mode="json"))}, stream, indent=1)
            stream.write("\n")

    def _end_before_start(self) -> tuple[str, str, str]:
        with JobJournal(self._place.journal) as journal:
            journal.write("end", state=CANCELLED, message="cancelled before it began")
        self._place.cancel.unlink(missing_ok=True)
        return CANCELLED, "cancelled before it began", ""

    def _reset_lost_staging(self, journal: JobJournal) -> None:
        """Begin again from the staging folder when it is gone: a node's own disk, or somebody's cleaning.

        Not once it was sent: what is in the bucket is then of the sources as the lineages have them.
        """
        state = read_state(self._place.journal)
        if state.task("upload_data_to_s3").state == FINISHED:
            return
        made, removed = state.task("create_staging_folder"), state.task("remove_staging_folder")
        if not made.over or made.state == SKIPPED or removed.over or removed.attempts:
            return
        noted = self._place.staging.read_text(encoding="utf-8") if self._place.staging.exists() else ""
        if not noted or not Path(noted).is_dir():
            first = TASKS.index("create_staging_folder")
            for task in TASKS[first : TASKS.index("upload_data_to_s3")]:
                journal.write("reset", task=task)

    def _tasks(self, journal: JobJournal) -> tuple[str, str, str]:
        for task in TASKS:
            try:
                self._check_stop()
                self._task(journal, task)
            except Cancelled as error:
                asked = self._place.cancel.exists()
                message = str(error) if asked else INTERRUPTED
                return (CANCELLED if asked else FAILED), message, task
            except _TaskFailed as error:
                return FAILED, str(error), task
            if task == self._until:
                return "", f"done up to {task}", task
        return DONE, "", ""

    def _check_stop(self) -> None:
        if self._stop.is_set() or self._place.cancel.exists():
            raise Cancelled(f"{self._job.prefix} was cancelled")

    def _task(self, journal: JobJournal, task: str) -> None:
        """Do one task, in all its parts, unless it is over."""
        state = read_state(self._place.journal)
        if due.skipped(self._job, task):
            if not state.task(task).over:
                journal.task(task, "", SKIPPED, message=due.SKIP_TASK)
            return
        left = due.left(self._job, state, task)
        if len(left) < 2:
            failures = [self._part(journal, state, task, part, 1) for part in left]
        else:
            beside = min(SIDE_BY_SIDE, len(left))
            with ThreadPoolExecutor(beside) as pool:
                failures = list(pool.map(lambda part: self._part(journal, state, task, part, beside), left))
        found = [failure for failure in failures if failure]
        if found:
            stopped = next((failure for failure in found if isinstance(failure, Cancelled)), None)
            raise stopped or _TaskFailed("; ".join(str(failure) for failure in found))

    def _part(self, journal: JobJournal, state: JobState, task: str, part: str, beside: int) -> LadingError | None:
        """Do one part of a task and note its end; returns why it failed."""
        if task in MAPPED_TASKS and self._job.task(task, part).skip_task:
            journal.task(task, part, SKIPPED, message=due.SKIP_TASK)
            return None
        journal.task(task, part, STARTED)
        began = time.monotonic()
        work = self._work(state, task, part, beside)
        with self._lock, open(self._place.log(task, part), "a", encoding="utf-8") as log:
            log.write(f"-- try {state.task(task, part).attempts + 1}\n")
        try:
            facts = steps.find(task, dry_run=self._job.dry_run)(work)
        except Cancelled as error:
            journal.task(task, part, FAILED, seconds=round(time.monotonic() - began, 3), message=str(error))
            return error
        except Exception as error:  # noqa: BLE001 - whatever a task raises is this job's outcome, not its list's
            message = self._reason(error, task, part)
            # Before the end of this task: a killed run would else find their outputs wrong, and send them, once more.
            for maker, which in error.again if isinstance(error, Outdated) else ():
                journal.task(maker, which, FAILED, message=f"{task}: {message}", facts={OUTDATED: True})
            state_ = SKIPPED if task in NOTICES else FAILED
            journal.task(task, part, state_, seconds=round(time.monotonic() - began, 3), message=message)
            return None if task in NOTICES else LadingError(message)
        journal.task(task, part, FINISHED, seconds=round(time.monotonic() - began, 3), facts=dict(facts))
        return None

    def _reason(self, error: Exception, task: str, part: str) -> str:
        """Return a failure as one sentence; the traceback of a fault of ours goes to the task's log."""
        if isinstance(error, LadingError):
            return str(error).replace("\n", "; ")
        if isinstance(error, OSError):
            return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        log = self._place.log(task, part)
        with open(log, "a", encoding="utf-8") as stream:
            traceback.print_exception(error, file=stream)
        return f"unexpected {type(error).__name__}; see {log}"

    def _work(self, state: JobState, task: str, part: str, beside: int = 1) -> TaskContext:
        settings = replace(self._settings, cores=max(1, self._settings.cores // beside))
        return TaskContext(self._job, self._place, settings, task, part, state, self._stop, self._sayer(task, part))

    def _sayer(self, task: str, part: str) -> Callable[[str], None]:
        def say(text: str) -> None:
            with self._lock, open(self._place.log(task, part), "a", encoding="utf-8", errors="surrogateescape") as log:
                log.write(text + "\n")
            if self._job.dry_run:
                print(f"{self._job.prefix}: {text}", flush=True)
            else:
                logger.info("%s: %s", self._job.prefix, text)

        return say

    def _notice(self, event: str, subject: str, text: str) -> None:
        """Tell those who asked; what goes wrong with that is logged and changes nothing."""
        if self._job.dry_run or due.skipped(self._job, NOTICES[1]):
            return
        work = self._work(read_state(self._place.journal), NOTICES[1], "")
        try:
            tell.notify(work, event, subject, text)
        except Exception as error:  # noqa: BLE001 - no notice may end a job, whatever is wrong with it
            work.say(f"the notice of {event} could not be sent: {self._reason(error, NOTICES[1], '')}")

    def _after_failure(self, task: str, message: str) -> None:
        self._notice(tell.FAIL, f"{self._job.prefix} failed", f"{task}: {message}")
        if self._job.task("remove_staging_folder").job_settings.get("always") is True:
            work = self._work(read_state(self._place.journal), "remove_staging_folder", "")
            steps.find("remove_staging_folder", dry_run=False)(work)


class _TaskFailed(LadingError):
    """A task ended in failure."""
