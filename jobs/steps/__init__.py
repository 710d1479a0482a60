"""What each task does, one function ``(Work) -> facts`` a task.

Input: ``Work``. Output: facts for the journal (JSON values).
Invariant: a task may be killed anywhere and started again: it converges, and
what it did outside (a request, an object) is not done twice where the other
side lets it be told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jobs.work import Work

Facts = Mapping[str, Any]

# Task → function, imported when the task runs: most jobs need few of them.
_PLACES = {
    "send_job_start_email": "tell:begin",
    "check_s3_folder_exists": "checks:bucket",
    "check_source_folders_exist": "checks:sources",
    "create_staging_folder": "staging:create",
    "gather_preliminary_metadata": "describe:preliminary",
    "copy_derivatives_folder": "staging:copy_derivatives",
    "modality_transformation_settings": "transform:settle",
    "compress_data": "transform:transform",
    "gather_final_metadata": "describe:final",
    "check_metadata_files": "describe:check",
    "upload_data_to_s3": "ship:upload",
    "register_data_asset_to_codeocean": "codeocean:register",
    "update_docdb_record": "docdb:update",
    "codeocean_pipeline_settings": "codeocean:settle",
    "run_codeocean_pipeline": "codeocean:run",
    "remove_staging_folder": "staging:remove",
    "remove_source_folders": "remove:sources",
    "send_job_end_email": "tell:end",
}
# What a dry run does instead: it says what would be done.
_PREVIEWS = {
    "send_job_start_email": "tell:preview",
    "upload_data_to_s3": "ship:preview",
    "register_data_asset_to_codeocean": "codeocean:preview_register",
    "update_docdb_record": "docdb:preview",
    "run_codeocean_pipeline": "codeocean:preview_run",
    "remove_source_folders": "remove:preview",
    "send_job_end_email": "tell:preview",
}


@dataclass(frozen=True)
class Step:
    """A task's function, and whether it is the preview of a dry run."""

    run: Callable[[Work], Facts]


def find(task: str, *, dry_run: bool) -> Callable[[Work], Facts]:
    """Return the function of a task, or its preview in a dry run where it has one."""
    place = _PREVIEWS.get(task, _PLACES[task]) if dry_run else _PLACES[task]
    module, _, name = place.partition(":")
    function: Callable[[Work], Facts] = getattr(import_module(f"jobs.steps.{module}"), name)
    return function
