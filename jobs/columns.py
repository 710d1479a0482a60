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
from difflib import get_close_matches

from jobs.vocabulary import SETTINGS_TASKS, TASK_FIELDS, TASKS, nearest

# Name → what it holds; the order is that of the template and of ``explain``.
JOB_COLUMNS = {
    "job_type": "preset that supplies the settings of the tasks",
    "project_name": "project the data belong to",
    "platform": "platform, such as ecephys or smartSPIM; part of the prefix",
    "subject_id": "ID of the subject",
    "acq_datetime": "YYYY-MM-DD HH:MM:SS, YYYY-MM-DDTHH:MM:SS or MM/DD/YYYY H:MM:SS AM",
    "s3_bucket": "bucket name, or one of the site's names such as private, open, default",
    "metadata_dir": "directory with prepared metadata files",
    "metadata_dir_force": "the prepared files win over everything else",
    "behavior_dir": "directory with behaviour data that belong to the raw data",
    "derivatives_dir": "directory copied to derivatives/ of the session",
    "temp_directory": "directory in which the staging folder is made",
    "log_level": "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    "user_email": "who is told",
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
}
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
    elif name in TASKS:
        return _task_column(name, rest, header)
    known = (
        [*TASKS]
        if rest
        else [*JOB_COLUMNS, "modality0", *(f"modality0.{column}" for column in MODALITY_COLUMNS), *UNNUMBERED]
    )
    hint = nearest(first if rest else header, known)
    raise ValueError(f"{header.strip()!r} is not a column of a job list{hint or '; see docs/jobs.md'}")


def _modality_column(owner: str, rest: list[str], header: str) -> str:
    if not rest:
        return owner
    if not all(rest):
        raise ValueError(f"{header.strip()!r} has an empty part between its dots")
    name = rest[0].lower().replace("-", "_")
    name = MODALITY_ALIASES.get(name, name)
    if name in MODALITY_COLUMNS and len(rest) == 1:
        return f"{owner}.{name}"
    if name == "job_settings":
        return ".".join([owner, name, *rest[1:]])
    # Any other key is a setting of this modality's task, except what looks like a slip of the pen.
    close = get_close_matches(name, [*MODALITY_COLUMNS, *MODALITY_ALIASES], n=1, cutoff=0.75)
    if close:
        raise ValueError(
            f"{header.strip()!r} is not a column of a job list; did you mean '{owner}.{close[0]}'? "
            f"(a setting of that very name is written {owner}.job_settings.{'.'.join(rest)})"
        )
    return ".".join([owner, "job_settings", *rest])


def _task_column(task: str, rest: list[str], header: str) -> str:
    if not all(rest):
        raise ValueError(f"{header.strip()!r} has an empty part between its dots")
    if task in SETTINGS_TASKS:
        raise ValueError(
            f"{header.strip()!r}: the settings of {task} are per modality; write modality0.{'.'.join(rest)}"
        )
    name = rest[0].lower().replace("-", "_")
    if name in TASK_FIELDS:
        nested = name in ("job_settings", "image_resources")
        if nested != (len(rest) > 1):
            shape = f"{task}.{name}.KEY" if nested else f"{task}.{name}"
            raise ValueError(f"{header.strip()!r} is not a column of a job list; write {shape}")
        return ".".join([task, name, *rest[1:]])
    close = get_close_matches(name, TASK_FIELDS, n=1, cutoff=0.75)
    if close:
        raise ValueError(f"{header.strip()!r} is not a column of a job list; did you mean '{task}.{close[0]}'?")
    return ".".join([task, "job_settings", *rest])
