"""A job: one session with everything that is to be done to it, validated.

Input: a ``Table``, and the ``Context`` of flags, parameters and presets.
Output: ``Checked``: the valid jobs, and every fault of every row with line,
column number, column name and message.
Invariant: pure (no clock, network or file but the vocabulary): the command
line and the web page give one answer. A row with a fault makes no job; the
others do.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lading.sessions import naming, values, vocabulary
from lading.sessions.columns import PIPELINE
from lading.sessions.precedence import (
    Context,
    Traced,
    is_secret,
    job_values,
    modality_numbers,
    modality_values,
    strange_endpoints,
    task_values,
)
from lading.sessions.presets import CUSTOM_TYPE, Presets, merge, near_misses
from lading.sessions.table import ListError, ListRow, Table
from lading.sessions.task_reading import Part, read_tasks
from lading.sessions.vocabulary import TASKS, nearest

# Columns of a job that hold a path.
PATH_COLUMNS = ("metadata_dir", "behavior_dir", "derivatives_dir", "temp_directory")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskOptions(_Model):
    """How one task is done; the fields are those of the AIND service's ``TaskOptions``."""

    skip_task: values.Boolean = False
    image: values.Words = ""
    image_version: values.Words = ""
    image_resources: dict[str, Any] = Field(default_factory=dict)
    job_settings: dict[str, Any] = Field(default_factory=dict)
    command_script: str = ""


class Modality(_Model):
    """One modality of a job: where its data are and how they travel.

    ``folder`` is its directory below the prefix, unique in the job;
    ``source`` is absolute, None only where the modality is left out.
    """

    number: int
    modality: values.Modality
    source: values.PosixPath | None
    folder: str = ""
    compress_raw_data: values.Boolean = False
    skip_staging: values.Boolean = False
    extra_configs: values.PosixPath | None = None
    capsule_id: values.Identifier | None = None
    process_capsule_id: values.Identifier | None = None
    pipeline_id: values.Identifier | None = None


class Job(_Model):
    """One row of a list, resolved: what ``run`` acts on.

    ``tasks`` maps each task to its parts: ``""`` for a task that is done
    once, the modality's folder for those that are done per modality.
    ``values`` says where each value came from. ``model_dump`` masks secrets.
    """

    line: int
    job_type: values.Text
    project_name: values.Project
    platform: values.Text | None = None
    subject_id: values.Subject
    acq_datetime: values.Acquired
    s3_bucket: values.Bucket
    prefix: str = ""
    modalities: tuple[Modality, ...] = ()
    metadata_dir: values.PosixPath | None = None
    metadata_dir_force: values.Boolean = False
    behavior_dir: values.PosixPath | None = None
    derivatives_dir: values.PosixPath | None = None
    temp_directory: values.PosixPath | None = None
    log_level: values.LogLevel = "WARNING"
    user_email: values.Email | None = None
    email_notification_types: values.Notifications = ("fail",)
    dry_run: values.Boolean = False
    force_cloud_sync: values.Boolean = False
    compress_raw_data: values.Boolean | None = None
    skip_staging: values.Boolean | None = None
    aws_param_store_name: values.Text | None = None
    codeocean_domain: values.Url | None = None
    codeocean_trigger_capsule_id: values.Identifier | None = None
    codeocean_trigger_capsule_version: values.Identifier | None = None
    codeocean_process_capsule_id: values.Identifier | None = None
    codeocean_api_token: values.Secret | None = None
    metadata_service_domain: values.OpenUrl | None = None
    aind_data_transfer_repo_location: values.OpenUrl | None = None
    video_encryption_password: values.Secret | None = None
    processor_name: values.Text | None = None
    process_name: values.Text | None = None
    s3_prefix: values.Text | None = None
    time_zone: str | None = None
    tasks: dict[str, dict[str, TaskOptions]] = Field(default_factory=dict)

    @field_validator("acq_datetime")
    @classmethod
    def _whole_seconds(cls, value: Any) -> Any:
        return value.replace(microsecond=0)

    @property
    def destination(self) -> str:
        """The job's place in the bucket, as a URL without trailing slash: unique among jobs."""
        return f"s3://{self.s3_bucket}/{self.prefix}"

    def task(self, name: str, part: str = "") -> TaskOptions:
        """Return the settings of a task (of one modality's folder), defaults where nobody gave any."""
        parts = self.tasks.get(name, {})
        given = [parts[key].model_dump(exclude_unset=True) for key in dict.fromkeys(("", part)) if key in parts]
        return TaskOptions.model_validate(merge({}, merge(*given) if len(given) == 2 else given[0]) if given else {})


@dataclass(frozen=True)
class Resolved:
    """One row: its job, or None when it has a fault; the values it is made of; its faults."""

    line: int
    job: Job | None
    values: tuple[Traced, ...]
    faults: tuple[ListError, ...]


@dataclass(frozen=True)
class Checked:
    """A whole list; ``faults`` are those of the header and of every row, in order."""

    rows: tuple[Resolved, ...]
    faults: tuple[ListError, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs of the rows without fault."""
        return tuple(row.job for row in self.rows if row.job)


def check(table: Table, context: Context | None = None, base: Path | None = None) -> Checked:
    """Return every job and every fault of a list.

    Relative paths are taken from ``base`` (the list's directory; default: the
    working directory).
    """
    context = context or Context()
    base = Path(os.path.abspath(base or "."))
    header = _header_faults(table, context.presets)
    rows = [resolve(row, table, context, base) for row in table.rows]
    rows = _without_duplicates(rows, table)
    spread = [fault for row in rows for fault in row.faults]
    faults = sorted({*table.faults, *header, *spread})
    if table.sheet:
        faults = [replace(fault, message=f"sheet {table.sheet!r}: {fault.message}") for fault in faults]
    return Checked(tuple(rows), tuple(faults))


def _header_faults(table: Table, presets: Presets) -> list[ListError]:
    """Return a fault for each column that every list of this kind must have."""
    present = set(table.columns)
    required = ["subject_id", "acq_datetime"]
    # A list of the service's kind names a job_type and a project, one of the older kind platform and bucket.
    required += ["project_name"] if "job_type" in present else ["platform"]
    if not present and table.faults:
        return []  # the list has no header at all, and its fault says so
    lacking = [name for name in required if name not in present and name not in presets.site.get("defaults", {})]
    if not any(name.startswith("modality") and "." not in name for name in present):
        lacking.append("modality0")
    # A column that is there under a mistyped name has its own fault.
    meant = " ".join(fault.message for fault in table.faults)
    lacking = [name for name in lacking if f"did you mean {name!r}?" not in meant]
    end = max(table.columns.values(), default=0) + 1
    return [ListError(1, end, name, f"the column {name} is missing") for name in lacking]


def resolve(row: ListRow, table: Table, context: Context, base: Path) -> Resolved:
    """Return one row's job and faults."""
    faults: list[ListError] = []
    site = context.presets.site
    traced = _on_mounts(job_values(row, context), site)
    shown = dict(traced)

    def fault(name: str, message: str) -> None:
        owner, _, setting = name.partition(".")
        source = shown.get(name) or shown.get(f"{owner}.job_settings.{setting}")
        column = source.column if source else table.columns.get(name, 0)
        where = f" (from {source.source})" if source and not source.column else ""
        name = _as_column(name)
        faults.append(ListError(row.line, column or 1, name, f"{name}: {message}{where}"))

    parameter = traced.get("aws_param_store_name")
    if parameter and str(parameter.value) in context.unreadable:
        fault("aws_param_store_name", context.unreadable[str(parameter.value)])
    for message in strange_endpoints(context.parameters.get(str(parameter.value), {})) if parameter else ():
        fault("aws_param_store_name", f"{parameter.value if parameter else ''}: {message}")
    fields: dict[str, Any] = {name: value.value for name, value in traced.items()}
    _spell(fields, site, fault)
    _zone_of_site(fields, site, shown, fault)
    _bucket_of_site(fields, context.presets, fault)
    modalities, lacking = _modalities(row, context, traced, shown, table, fault)
    given: list[Traced] = []
    try:
        given = list(task_values(row, context, values.text(fields["job_type"]), _kinds(modalities)))
    except ValueError as error:
        fault("job_type", str(error))
    shown.update((value.name, value) for value in given)
    read = read_tasks(given, [_part(entry, fields) for entry in modalities])
    for message in near_misses(context.presets, values.text(fields["job_type"])):
        fault("job_type", message)
    for name, message in read.errors:
        hidden = any(map(is_secret, name.split("."))) and "is not read" not in message
        fault(name, "is not accepted" if hidden else message)
    for entry in modalities:
        skipped = read.tasks.get("compress_data", {}).get(entry["folder"], {}).get("skip_task", False)
        if entry["number"] in lacking and not skipped:
            fault(f"modality{entry['number']}.source", "is blank, but each modality needs the path of its data")
    names = context.presets.site.get("project_names", [])
    if names and "project_name" in row.cells and values.text(fields["project_name"]) not in names:
        hint = nearest(values.text(fields["project_name"]), names)
        fault("project_name", f"{fields['project_name']!r} is not a project of this site{hint}")
    for name in ("subject_id", "acq_datetime", *_required(table)):
        if name not in fields and name in table.columns:
            fault(name, "is blank, but each job needs it")
    if "s3_bucket" not in fields:
        fault("s3_bucket", "no bucket is given; fill the column, or give --bucket for the whole list")
    of_tasks = {one.name for one in given}
    traces = (*(value for name, value in shown.items() if name not in of_tasks), *read.traced)
    whole = all(name in fields for name in ("subject_id", "acq_datetime", "s3_bucket"))
    try:
        # Fields that lack were reported above: stand-ins let pydantic judge all the others.
        known = {"subject_id": "x", "acq_datetime": "2000-01-01 00:00:00", "s3_bucket": "bucket"} | fields
        known["tasks"] = read.tasks
        job = Job.model_validate({"line": row.line, "modalities": modalities, **known})
    except ValidationError as error:
        _report(error, modalities, fault)
        return Resolved(row.line, None, traces, tuple(faults))
    job = placed(job, base)
    _cross_checks(job, fault)
    _code_ocean(job, context, fault)
    if whole and job.s3_prefix is not None and job.s3_prefix != job.prefix:
        fault("s3_prefix", f"{job.s3_prefix!r} is not the prefix of this job, which is {job.prefix}; leave it out")
    return Resolved(row.line, None if faults or not whole else job, traces, tuple(faults))


def _as_column(name: str) -> str:
    """Return the column that a value of a task would have in a list: ``modality0.codec``, ``TASK.KEY``."""
    owner, dot, rest = name.partition(".")
    task, slash, number = owner.partition("/")
    if slash:
        owner = f"modality{number}" + (f".{task}" if task == PIPELINE else "")
    elif task not in TASKS:
        return name
    return f"{owner}{dot}{rest.removeprefix('job_settings.')}"


def _kinds(modalities: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    return {entry["number"]: entry["modality"] for entry in modalities}


def _part(entry: Mapping[str, Any], fields: Mapping[str, Any]) -> Part:
    """Return what decides on the settings that a modality's task reads."""
    try:
        compressed = values.boolean(entry.get("compress_raw_data", False))
    except ValueError:
        compressed = True  # the cell has its own fault
    encrypted = bool(fields.get("video_encryption_password"))
    return Part(entry["number"], entry["folder"], entry["modality"], compressed, encrypted)


def _on_mounts(traced: dict[str, Traced], site: Mapping[str, Any]) -> dict[str, Traced]:
    """Return values whose paths are those of this machine, where the site says how its shares are mounted."""
    mounts = site.get("mounts") or {}
    found = dict(traced)
    for name, value in traced.items() if mounts else ():
        if is_path(name):
            path = values.mounted(value.value, mounts)
            if path != value.value:
                found[name] = replace(value, value=path, source=f"{value.source}, preset site/mounts")
    return found


def is_path(name: str) -> bool:
    """Tell whether a column holds a path."""
    return name.endswith((".source", ".extra_configs")) or name in PATH_COLUMNS


def _spell(fields: dict[str, Any], site: Mapping[str, Any], fault: Any) -> None:
    """Put the platform in as the site, or else the AIND service, spells it; "custom" is read in any case, as there."""
    if values.text(fields["job_type"]).lower() == CUSTOM_TYPE:
        fields["job_type"] = CUSTOM_TYPE
    if "platform" not in fields:
        return
    try:
        fields["platform"] = vocabulary.platform(values.text(fields["platform"]), site.get("platforms") or ())
    except ValueError as error:
        fault("platform", str(error))


def _zone_of_site(fields: dict[str, Any], site: Mapping[str, Any], shown: dict[str, Traced], fault: Any) -> None:
    """Give a time without zone that of the site; where that has none, it is read as this machine's."""
    zone = site.get("time_zone")
    try:
        moment = naming.parse_datetime(fields.get("acq_datetime", ""))
    except ValueError:
        return  # the cell has its own fault
    if moment.tzinfo is not None:
        return
    if not zone:
        # What the job's machine makes of it is compared with this when the metadata are written.
        shown["time_zone"] = Traced("time_zone", naming.host_zone(), "this machine: the site names no time_zone")
        return
    shown["time_zone"] = Traced("time_zone", zone, "preset site/time_zone")
    fields["time_zone"] = zone
    try:
        naming.in_zone(moment, zone)
    except ValueError as error:
        fault("acq_datetime", str(error))


def _required(table: Table) -> list[str]:
    return ["project_name"] if "job_type" in table.columns else ["platform"]


def _bucket_of_site(fields: dict[str, Any], presets: Presets, fault: Any) -> None:
    """Put the bucket in for one of the site's names; a row without bucket gets the site's default."""
    buckets = presets.site.get("buckets", {})
    name = values.text(fields.get("s3_bucket", "default"))
    if name in buckets:
        fields["s3_bucket"] = buckets[name]
    elif name in ("private", "open", "default") and "s3_bucket" in fields:
        fault("s3_bucket", f"{name!r} is a name that this site's presets must define; add buckets: {{{name}: …}}")


def _modalities(
    row: ListRow, context: Context, job: Mapping[str, Traced], shown: dict[str, Traced], table: Table, fault: Any
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the fields of each modality and the numbers of those without source; reports what is unknown."""
    found = []
    lacking = []
    numbers = modality_numbers(row)
    for number in numbers:
        owner = f"modality{number}"
        traced = _on_mounts(modality_values(row, number, context, job), context.presets.site)
        shown.update(traced)
        if owner not in traced:
            fault(owner, f"is blank, but {owner} has other columns filled")
            continue
        if f"{owner}.source" not in traced:
            if f"{owner}.source" not in table.columns:
                shown.setdefault(f"{owner}.source", traced[owner])
            lacking.append(number)
        try:
            kind = vocabulary.modality(values.text(traced[owner].value))
        except ValueError as error:
            fault(owner, str(error))
            continue
        entry = {name.removeprefix(f"{owner}."): value.value for name, value in traced.items() if "." in name}
        found.append({"source": None, **entry, "number": number, "modality": kind})
    if not numbers and "modality0" in table.columns:
        fault("modality0", "is blank, but each job needs one modality at least")
    for entry, folder in zip(found, naming.folders([entry["modality"] for entry in found])):
        entry["folder"] = folder
    return found, lacking


def _report(error: ValidationError, modalities: Sequence[Mapping[str, Any]], fault: Any) -> None:
    """Turn pydantic's errors into faults at their cells."""
    for item in error.errors(include_url=False, include_context=False):
        if item["type"] == "none_required":
            continue  # the other branch of an optional value; its real fault is reported beside it
        place = [str(part) for part in item["loc"]]
        message = item["msg"].removeprefix("Value error, ")
        if place[0] == "modalities":
            name = f"modality{modalities[int(place[1])]['number']}" + "".join(f".{part}" for part in place[2:3])
        else:
            name = place[0]
        fault(name, "is not accepted" if is_secret(name) else message)


def placed(job: Job, base: Path) -> Job:
    """Return the job with absolute paths and its prefix."""
    update: dict[str, Any] = {"prefix": naming.prefix(job.platform, job.subject_id, job.acq_datetime)}
    for name in ("metadata_dir", "behavior_dir", "derivatives_dir", "temp_directory"):
        path = getattr(job, name)
        if path is not None:
            update[name] = Path(os.path.normpath(base / path))
    update["modalities"] = tuple(
        entry.model_copy(
            update={
                "source": entry.source and Path(os.path.normpath(base / entry.source)),
                "extra_configs": entry.extra_configs and Path(os.path.normpath(base / entry.extra_configs)),
            }
        )
        for entry in job.modalities
    )
    return job.model_copy(update=update)


def _cross_checks(job: Job, fault: Any) -> None:
    """Report what no single cell shows."""
    placed = [(entry, entry.source) for entry in job.modalities if entry.source]
    for entry, source in placed:
        name = f"modality{entry.number}.source"
        for other, above in placed:
            if other.number < entry.number and source == above:
                fault(name, f"is the source of modality{other.number} too; each modality has data of its own")
            elif other.number != entry.number and above in source.parents:
                fault(name, f"is inside the source of modality{other.number}; modalities must not be nested")
    if job.temp_directory:
        for name, path in _sources(job):
            if path == job.temp_directory or (path in job.temp_directory.parents and path != Path("/")):
                fault("temp_directory", f"is inside {name}, {path}, which would be copied into itself; give another")
    shown = sent_unencrypted(job)
    if shown:
        fault("behavior_dir", shown)


def _code_ocean(job: Job, context: Context, fault: Any) -> None:
    """Report what Code Ocean is to do and cannot, hours before it is asked."""
    runs = {entry.number: computation_of(job, entry) for entry in job.modalities}
    for number, (capsule, pipeline) in runs.items():
        if capsule and pipeline:
            fault(
                f"modality{number}.capsule_id", f"it names the capsule {capsule} and the pipeline {pipeline}; give one"
            )
    if job.aws_param_store_name and job.aws_param_store_name not in context.parameters:
        return  # what lacks may be there
    skipped = job.task("codeocean_pipeline_settings").skip_task or job.task("run_codeocean_pipeline").skip_task
    if job.codeocean_process_capsule_id and not job.codeocean_trigger_capsule_id and not skipped:
        fault("codeocean_process_capsule_id", "nothing runs it without codeocean_trigger_capsule_id; give that, too")
    if job.codeocean_domain is None:
        if skipped:
            return
        for number, (capsule, pipeline) in runs.items():
            if capsule or pipeline:
                name = f"modality{number}.{'capsule_id' if capsule else 'pipeline_id'}"
                fault(name, f"nothing runs {capsule or pipeline} without codeocean_domain; give that, too")
        if job.codeocean_trigger_capsule_id:
            fault("codeocean_trigger_capsule_id", "nothing runs it without codeocean_domain; give that, too")
        return
    asked = not job.task("register_data_asset_to_codeocean").skip_task or (not skipped and any(map(any, runs.values())))
    if asked and job.codeocean_api_token is None:
        fault("codeocean_domain", "it needs codeocean_api_token; say where that is, as file:PATH, env:NAME or ssm:NAME")


def computation_of(job: Job, entry: Modality) -> tuple[str | None, str | None]:
    """Return (capsule, pipeline) that a modality asks Code Ocean for, wherever it says so."""
    settings = job.task("run_codeocean_pipeline", entry.folder).job_settings
    params = (settings.get("pipeline_monitor_settings") or {}).get("run_params") or {}
    pipeline = entry.pipeline_id or settings.get("pipeline_id") or params.get("pipeline_id")
    capsule = entry.capsule_id or settings.get("capsule_id") or params.get("capsule_id")
    # On its own it is what runs; beside another it is handed to that.
    return capsule or (None if pipeline else entry.process_capsule_id), pipeline


def _sources(job: Job) -> Iterator[tuple[str, Path]]:
    """Yield (column, path) of everything that a job reads."""
    yield from ((f"modality{entry.number}.source", entry.source) for entry in job.modalities if entry.source)
    for name in ("behavior_dir", "metadata_dir", "derivatives_dir"):
        path = getattr(job, name)
        if path is not None:
            yield name, path


def sent_unencrypted(job: Job, real: Callable[[Path], Path] = Path) -> str:
    """Return how the videos of ``behavior_dir``, which are to be encrypted, would go up in clear too, or "".

    ``real`` resolves links where there is a file system to ask. A modality
    that is copied leaves the directory out; one that encrypts does no harm.
    """
    if not job.behavior_dir or not job.video_encryption_password:
        return ""
    apart = real(job.behavior_dir)

    def holds(path: Path | None) -> bool:
        return path is not None and real(path) in (apart, *apart.parents)

    for entry in job.modalities:
        task = job.task("compress_data", entry.folder)
        plain = not (entry.compress_raw_data or task.command_script or task.image)
        if plain and entry.modality == "behavior-videos":
            continue
        left_out = plain and not entry.skip_staging and entry.source and real(entry.source) != apart
        if holds(entry.source) and not left_out:
            return (
                f"is inside the source of modality{entry.number}, which would send its videos unencrypted; "
                f"move it out of {entry.source}"
            )
    if job.derivatives_dir and holds(job.derivatives_dir):
        return (
            f"is inside derivatives_dir, which would send its videos unencrypted; move it out of {job.derivatives_dir}"
        )
    return ""


def _without_duplicates(rows: Iterable[Resolved], table: Table) -> list[Resolved]:
    """Return the rows, each later one of equal destination turned into a fault."""
    first: dict[str, int] = {}
    kept = []
    for row in rows:
        line = first.setdefault(row.job.destination, row.line) if row.job else row.line
        if row.job and line != row.line:
            column = table.columns.get("acq_datetime", 1)
            message = f"acq_datetime: {row.job.destination} is already the prefix of line {line}; a session has one row"
            row = Resolved(row.line, None, row.values, (ListError(row.line, column, "acq_datetime", message),))
        kept.append(row)
    return kept
