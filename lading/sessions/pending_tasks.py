"""Which tasks of a job are still to be done, and which are to be done again.

Input: a job, and the state that its journal tells. Output: tasks and their parts.
Invariant: pure. A task that was skipped is over only as long as it is to be
skipped, and one that had nothing to do only as long as it has nothing to do:
a list may say otherwise the next time.
"""

from collections.abc import Callable
from typing import Any

from lading.sessions.job_model import Job
from lading.sessions.journal import SKIPPED, JobState, TaskState
from lading.sessions.tasks import codeocean_tasks as codeocean
from lading.sessions.tasks import transform
from lading.sessions.vocabulary import MAPPED_TASKS, TASKS

# The journal's message of a task that the list or a preset skips; a notice that failed has another.
SKIP_TASK = "skip_task"
# Deleting sources happens only when a list or preset says so in as many words.
OFF_BY_DEFAULT = ("remove_source_folders",)
_PARTS: dict[str, Callable[[Job], list[str]]] = {
    "compress_data": transform.parts_of,
    "run_codeocean_pipeline": codeocean.parts_of,
}


def skipped(job: Job, task: str) -> bool:
    """Tell whether a task as a whole is not to be done."""
    given: Any = job.tasks.get(task, {}).get("")
    if task in OFF_BY_DEFAULT and (given is None or "skip_task" not in given.model_fields_set):
        return True
    return job.task(task).skip_task


def left(job: Job, state: JobState, task: str) -> list[str]:
    """Return the parts of a task that are to be done; a task that is not mapped is one part, ``""``."""
    if skipped(job, task):
        return []
    parts = _PARTS[task](job) if task in MAPPED_TASKS else [""]
    return [part for part in parts if not _over(job, state.task(task, part))]


def anything_left(job: Job, state: JobState) -> bool:
    """Tell whether any task is to be done."""
    return any(left(job, state, task) for task in TASKS)


def _over(job: Job, done: TaskState) -> bool:
    if done.state == SKIPPED and done.message == SKIP_TASK:
        return job.task(done.task, done.part).skip_task
    if done.task == "register_data_asset_to_codeocean" and "skipped" in done.facts:
        return done.over and job.codeocean_domain is None
    if done.task == "codeocean_pipeline_settings":
        return done.over and set(done.facts.get("runs", ())) == set(codeocean.parts_of(job))
    return done.over


def again(job: Job, state: JobState) -> list[str]:
    """Return the tasks that were done, but must be done once more for the sake of those that are left."""
    found = ["remove_source_folders"] if _deletion_is_due(job, state) else []
    upload = state.task("upload_data_to_s3")
    if upload.state == SKIPPED and left(job, state, upload.task):
        # Somebody may have filled the prefix since, and the staging folder is needed once more.
        found += ["check_s3_folder_exists", "remove_staging_folder", "send_job_end_email"]
    if state.task("register_data_asset_to_codeocean").over and left(job, state, "register_data_asset_to_codeocean"):
        found.append("update_docdb_record")  # it names the asset
    return [task for task in found if (task, "") in state.tasks]


def _deletion_is_due(job: Job, state: JobState) -> bool:
    """Tell whether sources are to be deleted now that were only listed, or left alone, before."""
    task = state.task("remove_source_folders")
    if not task.over or skipped(job, task.task):
        return False
    listed = "removable" in task.facts
    return task.state == SKIPPED or (listed and job.task(task.task).job_settings.get("dry_run", True) is False)
