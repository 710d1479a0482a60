"""What can be done at the portal: one method each, for REST and pages alike.

Input: checked lists, ids, keys. Output: plain data, or ``RefusedError`` with
the sentence that a person reads.
Invariant: presets are read when a list comes, so an edit counts for the next;
a job's tasks and logs are read from its own files, never kept twice.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lading.compress.preview.shown_outputs import ShownOutput
from lading.core.atomic import atomic_write
from lading.core.errors import UsageError
from lading.portal import submissions as intakes
from lading.portal.job_process import LOG, STATE
from lading.portal.job_progress import LogRequest, read_log, read_tasks
from lading.portal.json_bounds import check_value
from lading.portal.policy import Policy
from lading.portal.session_outputs import check_viewers, find_outputs, session_address
from lading.portal.store import SUCCESS, DuplicatePrefixError, JobStore, NewJob, StoredJob
from lading.portal.submissions import ParsedSubmission, Shared
from lading.sessions import presets as preset_store
from lading.sessions.commands.arguments import load_presets
from lading.sessions.jobfile import encode_job
from lading.sessions.precedence import redact
from lading.sessions.presets import LAYOUT, Presets
from lading.sessions.state_paths import JobPaths, paths_of
from lading.sessions.task_reading import preset_errors
from lading.sessions.vocabulary import TASKS

MASK = "**********"
# What the AIND service calls the workflow that does every job.
DAG: Literal["transform_and_upload_v2"] = "transform_and_upload_v2"
# How much of a log a page shows: its end.
LOG_BYTES = 200_000


class RefusedError(Exception):
    """The request makes sense but cannot be granted; the text says why."""


@dataclass(frozen=True)
class PortalService:
    """The portal's business over one store.

    ``presets_at`` is a directory or ``ssm:/NAME``, "" for none; ``bucket``
    takes the jobs that name none; ``endpoint`` is that of the buckets, "" for AWS.
    """

    store: JobStore
    home: Path
    presets_at: str = ""
    bucket: str = ""
    endpoint: str = ""

    def presets(self) -> Presets:
        """Return the presets as they are now."""
        return load_presets(self.presets_at)

    def take_file(self, content: bytes, name: str, shared: Shared | None = None) -> ParsedSubmission:
        """Check an uploaded list; ``UsageError`` when it is no list at all."""
        return intakes.take_file(content, name, self.presets(), self.bucket, shared)

    def take_json(self, jobs: Sequence[Mapping[str, Any]]) -> ParsedSubmission:
        """Check jobs in JSON."""
        return intakes.take_json(jobs, self.presets(), self.bucket)

    def submit(self, submission: ParsedSubmission, owner: str = "") -> list[str]:
        """Queue every job of a faultless list for a user, all or none; returns their ids in order."""
        jobs = [
            NewJob(
                secrets.token_hex(8),
                job.prefix,
                job.s3_bucket,
                job.job_type,
                job.user_email,
                encode_job(job),
                job.dry_run,
                owner,
            )
            for job in submission.checked.jobs
        ]
        try:
            self.store.add(jobs)
        except DuplicatePrefixError as error:
            raise RefusedError(
                f"{error.args[0]} is queued or running already; wait for it or cancel it; no job of this list was taken"
            ) from error
        return [job.id for job in jobs]

    def cancel(self, job_id: str) -> None:
        """Ask an open job to stop."""
        if not self.store.ask_cancel(job_id):
            raise RefusedError(f"job {job_id} is not queued or running; there is nothing to cancel")

    def retry(self, job_id: str) -> None:
        """Queue a failed or cancelled job again."""
        try:
            done = self.store.retry(job_id)
        except DuplicatePrefixError as error:
            raise RefusedError(f"the prefix of job {job_id} is queued or running in another job") from error
        if not done:
            raise RefusedError(f"job {job_id} has not failed and was not cancelled; there is nothing to retry")

    def tasks(self, job_id: str) -> list[dict[str, Any]] | None:
        """Return the tasks of a job as its journal tells; None for an unknown job."""
        job = self.store.get(job_id)
        if job is None:
            return None
        about = {"dag_id": DAG, "job_id": job.id, "submit_time": job.submitted}
        return [{**about, **task} for task in read_tasks(self.place(job), waiting=job.open)]

    def current_task(self, job: StoredJob) -> str:
        """Return the task that an open job is at, or waits for; "" for a job that has ended."""
        if not job.open:
            return ""
        tasks = read_tasks(self.place(job), waiting=True)
        running = [task for task in tasks if task["task_state"] == "running"]
        found = running[-1] if running else next((task for task in tasks if task["task_state"] is None), None)
        if found is None:
            return ""
        name = " · ".join(filter(None, (found["task_id"], found["part"])))
        return name if running else f"next: {name}"

    def logs(self, job_id: str, task: str = "", attempt: int = 0, part: int = -1) -> str | None:
        """Return the end of a job's log, or what it says of one task, one try and one part; None for what is not."""
        job = self.store.get(job_id)
        # A task's name becomes part of a file name.
        if job is None or (task and task not in TASKS):
            return None
        return read_log(self.directory(job_id) / LOG, self.place(job), LogRequest(task, attempt, part), LOG_BYTES)

    def outputs(self, job: StoredJob) -> list[ShownOutput]:
        """Return what the job's compressions made; with links to viewers once it is in the bucket."""
        return find_outputs(self.place(job), self._address(job))

    def check_viewers(self, job: StoredJob) -> None:
        """Ask the bucket whether a browser may read the job's images, and keep the answer."""
        if not self._address(job):
            raise RefusedError(f"job {job.id} has nothing in a bucket yet; wait until it has succeeded")
        found = self.outputs(job)
        if not any(output.links for output in found):
            raise RefusedError(f"job {job.id} has no images that a viewer could open")
        check_viewers(self.place(job), found, self._address(job))

    def _address(self, job: StoredJob) -> str:
        sent = job.state == SUCCESS and not job.dry_run
        return session_address(job.bucket, job.prefix, self.endpoint) if sent else ""

    def directory(self, job_id: str) -> Path:
        """Return a job's directory at the portal: its list and its runner's log."""
        return self.home / "jobs" / job_id

    def place(self, job: StoredJob) -> JobPaths:
        """Return where the job's state is: one place per destination, also across submissions, and one for dry runs."""
        return paths_of(self.home / STATE, job.bucket, job.prefix, dry_run=job.dry_run)

    def parameter_keys(self) -> list[dict[str, Any]]:
        """Return every preset's key with its parts and when it was changed, sorted."""
        found: list[dict[str, Any]] = []
        for job_type, tasks in self.presets().types.items():
            for task, parts in tasks.items():
                for modality in parts:
                    key = f"{LAYOUT}/{job_type}/tasks/{task}" + (f"/{modality}" if modality else "")
                    found.append(
                        {
                            "name": key,
                            "last_modified": self._modified(key),
                            "job_type": job_type,
                            "task_id": task,
                            "modality": modality or None,
                            "version": "v2",
                        }
                    )
        return sorted(found, key=lambda item: item["name"])

    def _modified(self, key: str) -> str | None:
        """Return when a preset's file was last changed, None where that is not known."""
        if not self.presets_at or self.presets_at.startswith("ssm:"):
            return None
        for name in (key, key.rpartition("/")[0]):
            for ending in (".json", ".yaml", ".yml"):
                with suppress(OSError):
                    found = (Path(self.presets_at) / f"{name}{ending}").stat().st_mtime
                    return datetime.fromtimestamp(found, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return None

    def parameter(self, key: str) -> dict[str, Any] | None:
        """Return the value under a key, secrets masked; None when there is none."""
        job_type, _, task, *modality = key.removeprefix(f"{LAYOUT}/").split("/")
        fields = self.presets().types.get(job_type, {}).get(task, {}).get(modality[0] if modality else "")
        masked: dict[str, Any] | None = None if fields is None else redact(dict(fields))
        return masked

    def set_parameter(self, key: str, value: Mapping[str, Any]) -> None:
        """Write a preset if the whole store stays valid with it; ``UsageError`` otherwise."""
        if not self.presets_at or self.presets_at.startswith("ssm:"):
            raise UsageError(
                "presets are set here only when they are in a directory; start the portal with --presets DIR"
            )
        try:
            check_value(value)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if MASK in json.dumps(value):
            raise UsageError(f"{MASK} replaces a secret that is not shown; write the whole setting")
        _, _, task, *modality = key.removeprefix(f"{LAYOUT}/").split("/")
        refused = list(dict.fromkeys(Policy.of(self.presets().site).preset(task, value)))
        if refused:
            raise UsageError("\n".join(refused))
        wrong = preset_errors(task, modality[0] if modality else "", value)
        if wrong:
            raise UsageError("\n".join(wrong))
        root = Path(self.presets_at)
        path = root / f"{key}.json"
        for other in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
            if other.exists():
                raise UsageError(f"{other.name} holds this preset already; edit that file, or convert it to JSON")
        preset_store.load(_Overlay(preset_store.PresetDirectory(root), key, value), self.presets_at)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            json.dump(value, stream, indent=2, sort_keys=True)
            stream.write("\n")


@dataclass(frozen=True)
class _Overlay:
    """A store with one key as it would be."""

    below: preset_store.PresetDirectory
    key: str
    value: Mapping[str, Any]

    def parameters(self, below: str) -> Any:
        """Yield the store's parameters, the new one in place of the old."""
        for key, place, value in self.below.parameters(below):
            if key != self.key:
                yield key, place, value
        if self.key.startswith(below):
            yield self.key, self.key, dict(self.value)
