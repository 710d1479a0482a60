"""The columns of a job list: what a header may say, and what it means.

Input: one header cell as written. Output: the canonical dotted name under
which a row keeps its cell, or a sentence that says why there is none.
Invariant: every spelling that the two published documents use is known, both
``-`` and ``_``, any case, with blanks around; anything else is refused by
its nearest name, never dropped.

Canonical names are ``subject_id``, ``modality0``, ``modality0.source``,
``modality0.job_settings.a.b`` and ``upload_data_to_s3.skip_task``.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from lading.sessions.values import members
from lading.sessions.vocabulary import DOCDB_KEYS, SETTINGS_TASKS, TASK_ALIASES, TASK_FIELDS, TASKS, nearest

# Name → what it holds; the order is that of the template and of ``explain``.
JOB_COLUMNS = {
    "job_type": "preset that supplies the settings of the tasks",
    "project_name": "project the data belong to",
    "platform": "platform, such as ecephys or SmartSPIM; part of the prefix",
    "subject_id": "ID of the subject",
    "acq_datetime": "YYYY-MM-DD HH:MM:SS, YYYY-MM-DDTHH:MM:SS or MM/DD/YYYY H:MM:SS AM",
    "s3_bucket": "bucket name, or one of the site's names such as private, open, default",
    "metadata_dir": "directory with prepared metadata files",
    "metadata_dir_force": "the prepared files win over everything else",
    "behavior_dir": "directory with behaviour data that belong to the raw data",
    "derivatives_dir": "directory copied to derivatives/ of the session",
    "temp_directory": "directory in which the staging folder is made",
    "log_level": "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    "user_email": "who is notified",
    "email_notification_types": "any of begin, end, fail, retry, all",
    "dry_run": "do everything but the upload and the remote steps",
    "force_cloud_sync": "upload even if the prefix exists",
    "compress_raw_data": "compress every modality that does not say otherwise",
    "skip_staging": "upload uncompressed modalities straight from their source",
    "aws_param_store_name": "parameter with the endpoints below",
    "codeocean_domain": "URL of Code Ocean",
    "codeocean_trigger_capsule_id": "capsule to run after the upload",
    "codeocean_trigger_capsule_version": "its version",
    "codeocean_process_capsule_id": "processing capsule handed to the trigger capsule",
    "codeocean_api_token": "token, or where it is: file:PATH, env:NAME or ssm:NAME",
    "metadata_service_domain": "URL of the metadata service",
    "aind_data_transfer_repo_location": "link written into the processing record",
    "video_encryption_password": "password, or where it is: file:PATH, env:NAME or ssm:NAME",
    "processor_name": "who is named in the processing record",
    "process_name": "name of the processing step",
    "s3_prefix": "the prefix as a client computed it; an error if it is another one",
}
MODALITY_COLUMNS = {
    "source": "directory (or file) with the data of this modality",
    "compress_raw_data": "compress; default true for ecephys only",
    "skip_staging": "if not compressed: upload straight from the source",
    "extra_configs": "JSON or YAML file with settings that override the defaults",
    "capsule_id": "Code Ocean capsule for this modality",
    "process_capsule_id": "processing capsule for this modality",
    "pipeline_id": "Code Ocean pipeline for this modality",
    "job_settings": "settings of this modality's compression",
    "skip_task": "leave this modality out",
    "image": "container of its command_script",
    "image_version": "version of the image",
    "image_resources": "what its compression requests from Slurm",
    "command_script": "script that does its compression",
}
# Columns of a modality that are fields of its task, in the order of the task's model.
MODALITY_FIELDS = ("skip_task", "image", "image_version", "image_resources", "job_settings", "command_script")
PIPELINE = "codeocean_pipeline_settings"
# Settings of a modality's task that are columns of their own: one key has one meaning, wherever it stands.
MODALITY_SETTINGS = ("source", "compress_raw_data", "skip_staging", "extra_configs", "capsule_id", "pipeline_id")
# Settings of other tasks that are: (task, key) → column.
TASK_COLUMNS = {
    ("gather_preliminary_metadata", "metadata_dir"): "metadata_dir",
    ("gather_preliminary_metadata", "metadata_dir_force"): "metadata_dir_force",
    ("copy_derivatives_folder", "input_source"): "derivatives_dir",
    ("copy_derivatives_folder", "derivatives_dir"): "derivatives_dir",
    ("compress_data", "compress_raw_data"): "compress_raw_data",
    ("compress_data", "skip_staging"): "skip_staging",
}
# Settings that say what Code Ocean runs, also where a modality's other settings stand.
PIPELINE_KEYS = ("pipeline_monitor_settings", "pipeline_monitor_capsule_id")
SECRET_COLUMNS = ("codeocean_api_token", "video_encryption_password")

# Other spellings: of a job column, and of a column of a modality.
JOB_ALIASES = {"processor_full_name": "processor_name", "bucket": "s3_bucket", "acquisition_datetime": "acq_datetime"}
MODALITY_ALIASES = {
    "input_source": "source",
    "data_source": "source",
    "codeocean_process_capsule_id": "process_capsule_id",
    "codeocean_pipeline_id": "pipeline_id",
}
# A list with one modality may leave the number away, and its source may stand alone.
UNNUMBERED = {"data_source": "modality0.source", "source": "modality0.source", "input_source": "modality0.source"}

_MODALITY = re.compile(r"modality(\d{0,3})")


def recognise(header: str) -> str:
    """Return the canonical name of a header cell; ``ValueError`` says why it has none."""
    first, *rest = [part.strip() for part in header.strip().split(".")]
    name = first.lower().replace("-", "_")
    numbered = _MODALITY.fullmatch(name)
    if numbered:
        return _modality_column(f"modality{int(numbered[1] or 0)}", rest, header)
    if not rest:
        if name in UNNUMBERED:
            return UNNUMBERED[name]
        name = JOB_ALIASES.get(name, name)
        if name in JOB_COLUMNS:
            return name
    elif name in TASKS or name in TASK_ALIASES:
        return _task_column(name, rest, header)
    known = (
        [*TASKS, *TASK_ALIASES]
        if rest
        else [*JOB_COLUMNS, "modality0", *(f"modality0.{column}" for column in MODALITY_COLUMNS), *UNNUMBERED]
    )
    hint = nearest(first if rest else header, known)
    raise ValueError(f"{_short(header)} is not a column of a job list{hint or '; see docs/reference/job-lists.md'}")


def setting_column(owner: str, key: str) -> str | None:
    """Return the column that a setting of ``modality<n>`` or of a task is, None when it is a setting of its own."""
    if owner.startswith("modality") and owner[8:].isdigit():
        if key in PIPELINE_KEYS:
            return f"{owner}.{PIPELINE}.job_settings.{key}"
        name = MODALITY_ALIASES.get(key, key)
        return f"{owner}.{name}" if name in MODALITY_SETTINGS else None
    return TASK_COLUMNS.get((owner, key))


def _short(header: str) -> str:
    text = header.strip()
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}…"


def _modality_column(owner: str, rest: list[str], header: str) -> str:
    if not rest:
        return owner
    if not all(rest):
        raise ValueError(f"{_short(header)} has an empty part between its dots")
    name = rest[0].lower().replace("-", "_")
    name = MODALITY_ALIASES.get(name, name)
    if name in ("job_settings", "image_resources"):
        column = setting_column(owner, rest[1]) if name == "job_settings" and len(rest) == 2 else None
        return column or _pipeline_setting(owner, name, rest[1:]) or ".".join([owner, name, *rest[1:]])
    if name == PIPELINE:
        return _pipeline_column(owner, rest[1:], header)
    if name in MODALITY_COLUMNS and len(rest) == 1:
        return f"{owner}.{name}"
    # Any other key is a setting of this modality's task, except what looks like a typing error.
    close = get_close_matches(name, [*MODALITY_COLUMNS, *MODALITY_ALIASES], n=1, cutoff=0.75)
    if close and name not in PIPELINE_KEYS:
        raise ValueError(
            f"{_short(header)} is not a column of a job list; did you mean '{owner}.{close[0]}'? "
            f"(a setting of that very name is written {owner}.job_settings.{'.'.join(rest)})"
        )
    return _pipeline_setting(owner, "job_settings", rest) or ".".join([owner, "job_settings", *rest])


def _pipeline_setting(owner: str, name: str, rest: list[str]) -> str | None:
    """Return the column of a setting for Code Ocean that stands among a modality's others."""
    if name == "job_settings" and rest and rest[0] in PIPELINE_KEYS:
        return ".".join([owner, PIPELINE, "job_settings", *rest])
    return None


def _pipeline_column(owner: str, rest: list[str], header: str) -> str:
    if rest and rest[0].lower() == "skip_task" and len(rest) == 1:
        return f"{owner}.{PIPELINE}.skip_task"
    if rest and rest[0].lower() == "job_settings":
        rest = rest[1:]
        return ".".join([owner, PIPELINE, "job_settings", *rest])
    if not rest:
        raise ValueError(f"{_short(header)} is not a column of a job list; write {owner}.{PIPELINE}.KEY")
    return ".".join([owner, PIPELINE, "job_settings", *rest])


def _task_column(task: str, rest: list[str], header: str) -> str:
    if not all(rest):
        raise ValueError(f"{_short(header)} has an empty part between its dots")
    name = rest[0].lower().replace("-", "_")
    if task in SETTINGS_TASKS:
        if name == "skip_task" and len(rest) == 1:
            return f"{task}.skip_task"
        raise ValueError(f"{_short(header)}: the settings of {task} are per modality; write modality0.{'.'.join(rest)}")
    task = _own_task(task, [name, *rest[1:]], header)
    if name in TASK_FIELDS:
        if name not in ("job_settings", "image_resources") and len(rest) > 1:
            raise ValueError(f"{_short(header)} is not a column of a job list; write {task}.{name}")
        column = setting_column(task, rest[1]) if name == "job_settings" and len(rest) == 2 else None
        return column or ".".join([task, name, *rest[1:]])
    close = get_close_matches(name, TASK_FIELDS, n=1, cutoff=0.75)
    if close:
        raise ValueError(f"{_short(header)} is not a column of a job list; did you mean '{task}.{close[0]}'?")
    column = setting_column(task, rest[0]) if len(rest) == 1 else None
    return column or ".".join([task, "job_settings", *rest])


def _own_task(task: str, rest: list[str], header: str) -> str:
    """Return the task that has a field or setting of one that the AIND service calls otherwise."""
    if task not in TASK_ALIASES:
        return task
    register, record = TASK_ALIASES[task]
    if rest[0] == "skip_task":
        if task == "get_codeocean_asset_id":
            raise ValueError(f"{_short(header)}: the asset is known from register_data_asset; skip that task")
        return task  # it skips both of ours
    return record if rest[-1] in DOCDB_KEYS else register


def expand(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the cells of a column: an object of settings is divided into the columns that its keys are.

    Raises ``ValueError`` when what stands under ``job_settings`` or ``image_resources`` is no object.
    """
    owner, _, last = name.rpartition(".")
    if last not in ("job_settings", "image_resources") or not owner or owner.endswith(".job_settings"):
        yield name, value
        return
    left = {}
    for key, item in members(value).items():
        column = setting_column(owner, key) if last == "job_settings" else None
        if last == "job_settings" and owner in TASK_ALIASES["register_data_asset"][:1] and key in DOCDB_KEYS:
            column = f"{TASK_ALIASES['register_data_asset'][1]}.job_settings.{key}"
        if column:
            if item is not None:
                yield column, item
        else:
            left[key] = item
    if left:
        yield name, left
