"""What a person sends becomes checked jobs: a csv or xlsx file, or JSON.

Input: bytes of a file, or the ``upload_jobs`` of a request. Output: a
``Checked`` list with every fault.
Invariant: browser, REST and command line give one answer, since all go
through ``lading.sessions.table`` and ``lading.sessions.job_model``; no secret is taken in, only where
one is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lading.core.errors import UsageError
from lading.portal.json_bounds import check_value
from lading.portal.policy import Policy
from lading.sessions import values
from lading.sessions.columns import JOB_COLUMNS, MODALITY_FIELDS, PIPELINE, SECRET_COLUMNS
from lading.sessions.early import find_missing_sources
from lading.sessions.job_model import Checked, Job, check, is_path
from lading.sessions.naming import folders
from lading.sessions.precedence import REFERENCES, Context, Flags, is_secret, literal, mask
from lading.sessions.presets import Presets, merge, of_alias
from lading.sessions.table import Cell, ListError, ListRow, Table, Value, of_objects, read_bytes
from lading.sessions.task_reading import TRANSFORM
from lading.sessions.values import as_cell, shown
from lading.sessions.vocabulary import SETTINGS_TASKS, TASK_ALIASES, TASK_FIELDS, TASKS, folded, nearest
from lading.sessions.vocabulary import modalities as known_modalities

MOST_JOBS = 50
# Fields of a job in JSON that hold more than one cell.
_NESTED = ("modalities", "tasks")


@dataclass(frozen=True)
class ParsedSubmission:
    """A list as it came: ``table`` for showing faults beside cells, ``checked`` for acting."""

    table: Table
    checked: Checked
    faults: tuple[ListError, ...]

    def requests(self) -> list[dict[str, Any]]:
        """Return each faultless job as a request holds it: what was given of it, and its prefix; no secret in clear."""
        by_line = {row.line: row for row in self.table.rows}
        return [request_of(by_line[job.line], job) for job in self.checked.jobs]


@dataclass(frozen=True)
class Shared:
    """What holds for the rows of a file that do not say it themselves; None for nothing."""

    user_email: str | None = None
    email_notification_types: Sequence[str] | None = None


def take_file(
    content: bytes, name: str, presets: Presets, bucket: str = "", shared: Shared | None = None
) -> ParsedSubmission:
    """Return the list in an uploaded file; ``UsageError`` when it is neither csv nor xlsx."""
    return _take(_with_shared(read_bytes(content, name, MOST_JOBS), shared or Shared()), presets, bucket)


def _with_shared(table: Table, shared: Shared) -> Table:
    """Return a table whose rows hold what is shared wherever they are blank."""
    given = {
        name: Cell(list(value) if not isinstance(value, str) else value, 1)
        for name, value in vars(shared).items()
        if value is not None
    }
    if not given:
        return table
    rows = tuple(replace(row, cells={**given, **row.cells}) for row in table.rows)
    return replace(table, columns={**dict.fromkeys(given, 1), **table.columns}, rows=rows)


def take_json(jobs: Sequence[Mapping[str, Any]], presets: Presets, bucket: str = "") -> ParsedSubmission:
    """Return the list in ``upload_jobs``: line n + 1 is the n-th job, as in a file with a header."""
    flat: list[dict[str, Any] | None] = []
    faults: list[ListError] = []
    if not 1 <= len(jobs) <= MOST_JOBS:
        return _refuse(f"a request holds 1 to {MOST_JOBS} jobs, this one {len(jobs)}; split the list")
    for line, job in enumerate(jobs, 2):
        try:
            check_value(job)
            flat.append(flatten(job))
        except ValueError as error:
            flat.append(None)
            faults.append(ListError(line, 1, "", str(error)))
    if len(faults) == len(flat):
        # Nothing is left of which a column could lack.
        return ParsedSubmission(Table({}, ()), Checked((), tuple(faults)), tuple(faults))
    try:
        table = of_objects(flat)
    except UsageError as error:
        return _refuse(str(error))
    submission = _take(table, presets, bucket)
    return ParsedSubmission(submission.table, submission.checked, tuple(sorted([*submission.faults, *faults])))


def _take(table: Table, presets: Presets, bucket: str) -> ParsedSubmission:
    if not table.rows:
        return ParsedSubmission(table, Checked((), table.faults), table.faults)
    checked = check(table, Context(Flags(s3_bucket=bucket), presets), Path("/"))
    policy = Policy.of(presets.site)
    not_allowed = _not_allowed(table, policy)
    faults = [
        *checked.faults,
        *_secrets(table),
        *_beyond_json(table),
        *_relative_paths(table, presets.site.get("mounts") or {}),
        *not_allowed,
        *find_missing_sources(checked, policy.sources),
    ]
    return ParsedSubmission(table, checked, tuple(sorted(faults)))


def _refuse(message: str) -> ParsedSubmission:
    """Return the refusal of a whole request: nothing of it was looked at."""
    fault = ListError(1, 1, "", message)
    return ParsedSubmission(Table({}, ()), Checked((), (fault,)), (fault,))


def _secrets(table: Table) -> Iterator[ListError]:
    for row in table.rows:
        for name, cell in row.cells.items():
            for place in secrets_of(name, cell.value):
                message = (
                    f"{place}: the portal does not store secrets; give its place, as ssm:NAME, file:PATH or env:NAME"
                )
                yield ListError(row.line, cell.column, name, message)


def secrets_of(name: str, value: Value) -> Iterator[str]:
    """Yield the place of each secret that a cell gives in clear: the column, and the keys of the JSON in it.

    A setting is a secret by its own name or by that of anything around it;
    what is blank, true or false keeps none.
    """
    if name in SECRET_COLUMNS:
        if not str(value).startswith(REFERENCES):
            yield name
        return
    below: list[tuple[str, Any, bool]] = [(name, literal(value), any(map(is_secret, name.split("."))))]
    while below:
        place, item, hidden = below.pop()
        if isinstance(item, Mapping):
            below += [(f"{place}.{key}", inner, hidden or is_secret(str(key))) for key, inner in item.items()]
        elif isinstance(item, list):
            below += [(place, inner, hidden) for inner in item]
        elif hidden and not (item in (None, "") or isinstance(item, bool) or str(item).startswith(REFERENCES)):
            yield place


def _not_allowed(table: Table, policy: Policy) -> Iterator[ListError]:
    """What the site's settings do not let a list ask for that came through the portal."""
    for row in table.rows:
        for name, cell in row.cells.items():
            for message in dict.fromkeys(policy.cell(name, cell.value)):
                yield ListError(row.line, cell.column, name, message)


def _beyond_json(table: Table) -> Iterator[ListError]:
    """An object in a cell is held to what a request in JSON is held to."""
    for row in table.rows:
        for name, cell in row.cells.items():
            if isinstance(cell.value, (Mapping, list)):
                try:
                    check_value(cell.value)
                except ValueError as error:
                    yield ListError(row.line, cell.column, name, f"{name}: {error}")


def _relative_paths(table: Table, mounts: Mapping[str, str]) -> Iterator[ListError]:
    """A list on disk names paths beside itself; one that was sent here has no such place."""
    for row in table.rows:
        for name, cell in row.cells.items():
            if is_path(name) and not str(values.mounted(cell.value, mounts)).startswith("/"):
                yield ListError(
                    row.line,
                    cell.column,
                    name,
                    f"{name}: {cell.value!r} is not an absolute path; begin it with /",
                )


def request_of(row: ListRow, job: Job) -> dict[str, Any]:
    """Return a job as the AIND service's models have it, with nothing but what its row gives, and its prefix."""
    found: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    for name, cell in row.cells.items():
        owner, *rest = name.split(".")
        if owner in JOB_COLUMNS:
            found[name] = cell.value if isinstance(cell.value, (list, bool)) else as_cell(cell.value)
        elif owner in TASKS or owner in TASK_ALIASES:
            _put(tasks.setdefault(owner, {}), rest, cell.value)
        elif rest:
            entry = next(one for one in job.modalities if one.number == int(owner[8:]))
            task, trail = _place_in_task(rest)
            _put(tasks.setdefault(task, {}).setdefault(entry.folder, {}), trail, cell.value)
    found |= {"modalities": [entry.modality for entry in job.modalities], "tasks": tasks, "s3_prefix": job.prefix}
    masked: dict[str, Any] = mask(found)
    return masked


def _place_in_task(rest: Sequence[str]) -> tuple[str, list[str]]:
    """Return (settings task, keys) of a modality's column."""
    if rest[0] == PIPELINE:
        return PIPELINE, list(rest[1:])
    if rest[0] in MODALITY_FIELDS:
        return TRANSFORM, list(rest)
    if rest[0].endswith(("capsule_id", "pipeline_id")):
        return TRANSFORM, ["job_settings", rest[0]]
    return TRANSFORM, ["job_settings", "input_source" if rest[0] == "source" else rest[0]]


def _put(place: dict[str, Any], trail: Sequence[str], value: Any) -> None:
    for key in trail[:-1]:
        place = place.setdefault(key, {})
    old = place.get(trail[-1])
    place[trail[-1]] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value


def flatten(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a job in JSON: column name as a list would have it, and the value as it was sent.

    ``modalities`` is a list of abbreviations; ``tasks.<task>`` holds a task's
    fields, and under ``modality_transformation_settings`` and
    ``codeocean_pipeline_settings`` those of each modality by its abbreviation
    (or by its folder, where a modality comes twice).
    A modality or platform may be the schema's object, of which the
    abbreviation counts: so clients that use the service's models send it.
    Raises ``ValueError`` for another shape.
    """
    cells: dict[str, Any] = {}
    for name, value in job.items():
        if name not in _NESTED and value is not None:
            cells[name] = _abbreviation(value) if name == "platform" else value
    listed = job.get("modalities") or []
    found = [_abbreviation(item) for item in listed] if isinstance(listed, list) else None
    if found is None or not all(isinstance(name, str) for name in found):
        raise ValueError("modalities: give a list of abbreviations, such as ['ecephys', 'behavior']")
    cells |= {f"modality{number}": name for number, name in enumerate(found)}
    tasks = job.get("tasks") or {}
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) or task is None for task in tasks.values()):
        raise ValueError("tasks: give an object with an object for each task")
    for task, fields in tasks.items():
        if fields and task in SETTINGS_TASKS:
            cells |= _settings_task(task, fields, found)
        elif fields and task in TASK_ALIASES:
            if task == "get_codeocean_asset_id" and fields.get("skip_task"):
                raise ValueError(f"tasks.{task}: the asset is known from register_data_asset; skip that task")
            for own in TASK_ALIASES[task]:
                for name, value in _said(of_alias(own, fields)):
                    if (task, name) != ("get_codeocean_asset_id", "skip_task"):
                        cells[f"{own}.{name}"] = _over(cells.get(f"{own}.{name}"), value)
        elif fields:
            cells |= {f"{task}.{name}": value for name, value in _said(fields)}
    return cells


def _over(old: Any, new: Any) -> Any:
    return merge(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new


def _said(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a task that somebody set: the service's model has the others as null, "" and {}."""
    return ((name, value) for name, value in fields.items() if value not in (None, "", {}))


def _settings_task(task: str, fields: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """Return the cells of a task that is done per modality, or that is skipped for all of them."""
    if fields.get("skip_task") is True or (fields and set(fields) <= set(TASK_FIELDS)):
        said = dict(_said(fields))
        if set(said) - {"skip_task"}:
            raise ValueError(f"tasks.{task}: its settings are per modality; put them under the modality's abbreviation")
        return {f"{task}.skip_task": said["skip_task"]} if said else {}
    owners = {folded(name): number for number, name in reversed(list(enumerate(modalities)))}
    folders = {folded(name): number for number, name in enumerate(folder_names(modalities))}
    cells: dict[str, Any] = {}
    for modality, settings in fields.items():
        number = owners.get(folded(str(modality)), folders.get(folded(str(modality))))
        if number is None:
            raise ValueError(f"tasks.{task}: {shown(modality)} is not among the job's modalities")
        if settings is None:
            continue
        if not isinstance(settings, dict):
            raise ValueError(f"tasks.{task}.{modality}: give an object with the fields of the task")
        unknown = next((name for name in settings if name not in TASK_FIELDS), None)
        if unknown is not None:
            hint = nearest(unknown, TASK_FIELDS) or f"; one of {', '.join(TASK_FIELDS)}"
            raise ValueError(f"tasks.{task}.{modality}: {shown(unknown)} is not a field of a task{hint}")
        owner = f"modality{number}" + (f".{task}" if task == "codeocean_pipeline_settings" else "")
        cells |= {f"{owner}.{name}": value for name, value in _said(settings)}
    return cells


def folder_names(modalities: Sequence[str]) -> list[str]:
    """Return the folder of each modality of a request, by its spelling there."""
    return folders([word_of(name) for name in modalities])


def word_of(name: str) -> str:
    """Return the abbreviation of a modality, or what was written where it is none."""
    return known_modalities().get(folded(name), name)


def _abbreviation(value: Any) -> Any:
    """Return the abbreviation of the schema's object for a modality or platform; anything else as it is."""
    return value["abbreviation"] if isinstance(value, dict) and "abbreviation" in value else value
