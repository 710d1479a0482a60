"""What each task does, one function ``(Work) -> facts`` a task.

Input: ``TaskContext``. Output: facts for the journal (JSON values).
Invariant: a task may be killed anywhere and started again: it converges, and
what it did outside (a request, an object) is not done twice where the other
side lets it be told.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lading.sessions.task_context import TaskContext

Facts = Mapping[str, Any]

# Task → function, imported when the task runs: most jobs need few of them.
_PLACES = {
    "send_job_start_email": "notify:begin",
    "check_s3_folder_exists": "checks:bucket",
    "check_source_folders_exist": "checks:sources",
    "create_staging_folder": "staging:create",
    "gather_preliminary_metadata": "metadata_tasks:preliminary",
    "copy_derivatives_folder": "staging:copy_derivatives",
    "modality_transformation_settings": "transform:settle",
    "compress_data": "transform:transform",
    "gather_final_metadata": "metadata_tasks:final",
    "check_metadata_files": "metadata_tasks:check",
    "upload_data_to_s3": "upload_tasks:upload",
    "register_data_asset_to_codeocean": "codeocean_tasks:register",
    "update_docdb_record": "docdb_tasks:update",
    "codeocean_pipeline_settings": "codeocean_tasks:settle",
    "run_codeocean_pipeline": "codeocean_tasks:run",
    "remove_staging_folder": "staging:remove",
    "remove_source_folders": "remove_sources:sources",
    "send_job_end_email": "notify:end",
}
# What a dry run does instead: it says what would be done.
_PREVIEWS = {
    "send_job_start_email": "notify:preview",
    "upload_data_to_s3": "upload_tasks:preview",
    "register_data_asset_to_codeocean": "codeocean_tasks:preview_register",
    "update_docdb_record": "docdb_tasks:preview",
    "run_codeocean_pipeline": "codeocean_tasks:preview_run",
    "remove_source_folders": "remove_sources:preview",
    "send_job_end_email": "notify:preview",
}


def find(task: str, *, dry_run: bool) -> Callable[[TaskContext], Facts]:
    """Return the function of a task, or its preview in a dry run where it has one."""
    place = _PREVIEWS.get(task, _PLACES[task]) if dry_run else _PLACES[task]
    module, _, name = place.partition(":")
    function: Callable[[TaskContext], Facts] = getattr(import_module(f"lading.sessions.tasks.{module}"), name)
    return function
