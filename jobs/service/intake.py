"""What a person sends becomes checked jobs: a csv or xlsx file, or JSON.

Input: bytes of a file, or the ``upload_jobs`` of a request. Output: a
``Checked`` list with every fault, and for each job the one-row list that its
runner reads.
Invariant: browser, REST and command line give one answer, since all go
through ``jobs.table`` and ``jobs.model``; no secret is taken in, only where
one is.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.columns import SECRET_COLUMNS
from jobs.model import Checked, check
from jobs.presets import Presets
from jobs.service.bounds import check_value
from jobs.service.policy import Policy
from jobs.settings import Context, Flags, is_secret, literal
from jobs.table import MOST_COLUMNS, Fault, Row, Table, Value, read_bytes
from jobs.vocabulary import TASKS

MOST_JOBS = 50
# Where a secret may be instead of in the list.
_REFERENCES = ("file:", "env:", "ssm:")
# Fields of a job in JSON that hold more than one cell.
_NESTED = ("modalities", "tasks")


@dataclass(frozen=True)
class Intake:
    """A list as it came: ``table`` for showing faults beside cells, ``checked`` for acting."""

    table: Table
    checked: Checked
    faults: tuple[Fault, ...]

    def rows(self) -> Iterator[str]:
        """Yield each faultless job as a csv list of one row, in order."""
        by_line = {row.line: row for row in self.table.rows}
        for job in self.checked.jobs:
            yield write_row(by_line[job.line])


def take_file(content: bytes, name: str, presets: Presets, bucket: str = "") -> Intake:
    """Return the list in an uploaded file; ``UsageError`` when it is neither csv nor xlsx."""
    return _take(read_bytes(content, name, MOST_JOBS), presets, bucket)


def take_json(jobs: Sequence[Mapping[str, Any]], presets: Presets, bucket: str = "") -> Intake:
    """Return the list in ``upload_jobs``: line n + 1 is the n-th job, as in a file with a header."""
    flat: list[dict[str, Any]] = []
    faults: list[Fault] = []
    if not 1 <= len(jobs) <= MOST_JOBS:
        return _refuse(f"a request holds 1 to {MOST_JOBS} jobs, this one {len(jobs)}; split the list")
    for line, job in enumerate(jobs, 2):
        try:
            check_value(job)
            flat.append(dict(flatten(job)))
        except ValueError as error:
            flat.append({})
            faults.append(Fault(line, 1, "", str(error)))
    if len(faults) == len(flat):
        # Nothing is left of which a column could lack.
        return Intake(Table({}, ()), Checked((), tuple(faults)), tuple(faults))
    names = list(dict.fromkeys(name for cells in flat for name in cells))
    if len(names) > MOST_COLUMNS:
        return _refuse(f"more than {MOST_COLUMNS} different fields; are these jobs?")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names or ["subject_id"])
    for cells in flat:
        writer.writerow([cells.get(name, "") for name in names] if cells else ["-"])
    intake = _take(read_bytes(text.getvalue().encode(), "request.csv", MOST_JOBS), presets, bucket)
    broken = {fault.line for fault in faults}
    kept = [fault for fault in intake.faults if fault.line not in broken]
    return Intake(intake.table, intake.checked, tuple(sorted([*kept, *faults])))


def _take(table: Table, presets: Presets, bucket: str) -> Intake:
    if not table.rows:
        return Intake(table, Checked((), table.faults), table.faults)
    checked = check(table, Context(Flags(s3_bucket=bucket), presets), Path("/"))
    not_allowed = _not_allowed(table, Policy.of(presets.site))
    faults = [*checked.faults, *_secrets(table), *_beyond_json(table), *_relative_paths(table), *not_allowed]
    return Intake(table, checked, tuple(sorted(faults)))


def _refuse(message: str) -> Intake:
    """Return the refusal of a whole request: nothing of it was looked at."""
    fault = Fault(1, 1, "", message)
    return Intake(Table({}, ()), Checked((), (fault,)), (fault,))


def _secrets(table: Table) -> Iterator[Fault]:
    for row in table.rows:
        for name, cell in row.cells.items():
            for place in secrets_of(name, cell.value):
                message = f"{place}: the portal keeps no secret; say where it is, as ssm:NAME, file:PATH or env:NAME"
                yield Fault(row.line, cell.column, name, message)


def secrets_of(name: str, value: Value) -> Iterator[str]:
    """Yield the place of each secret that a cell gives in clear: the column, and the keys of the JSON in it.

    A setting is a secret by its own name or by that of anything around it;
    what is blank, true or false keeps none.
    """
    if name in SECRET_COLUMNS:
        if not str(value).startswith(_REFERENCES):
            yield name
        return
    below: list[tuple[str, Any, bool]] = [(name, literal(value), any(map(is_secret, name.split("."))))]
    while below:
        place, item, hidden = below.pop()
        if isinstance(item, Mapping):
            below += [(f"{place}.{key}", inner, hidden or is_secret(str(key))) for key, inner in item.items()]
        elif isinstance(item, list):
            below += [(place, inner, hidden) for inner in item]
        elif hidden and not (item in (None, "") or isinstance(item, bool) or str(item).startswith(_REFERENCES)):
            yield place


def _not_allowed(table: Table, policy: Policy) -> Iterator[Fault]:
    """What the site's settings do not let a list ask for that came through the portal."""
    for row in table.rows:
        for name, cell in row.cells.items():
            for message in dict.fromkeys(policy.cell(name, cell.value)):
                yield Fault(row.line, cell.column, name, message)


def _beyond_json(table: Table) -> Iterator[Fault]:
    """A cell of settings is read as JSON, and held to what a request in JSON is held to."""
    for row in table.rows:
        for name, cell in row.cells.items():
            if name.split(".", 1)[0] in TASKS or ".job_settings" in name:
                try:
                    check_value(literal(cell.value))
                except ValueError as error:
                    yield Fault(row.line, cell.column, name, f"{name}: {error}")


def _relative_paths(table: Table) -> Iterator[Fault]:
    """A list on disk names paths beside itself; one that was sent here has no such place."""
    for row in table.rows:
        for name, cell in row.cells.items():
            is_path = name.endswith((".source", ".extra_configs", "_dir", "_directory"))
            if is_path and not str(cell.value).startswith("/"):
                yield Fault(
                    row.line, cell.column, name, f"{name}: {cell.value!r} is not an absolute path; begin it with /"
                )


def write_row(row: Row) -> str:
    """Return one row as a csv list with canonical headers."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(row.cells)
    writer.writerow([_cell(cell.value) for cell in row.cells.values()])
    return text.getvalue()


def _cell(value: Value) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)


def flatten(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the cells of a job in JSON: column name as a list would have it, and text.

    ``modalities`` is a list of abbreviations; ``tasks.<task>`` holds a task's
    fields, and under ``modality_transformation_settings`` and
    ``codeocean_pipeline_settings`` those of each modality by its abbreviation.
    A modality or platform may be the schema's object, of which the
    abbreviation counts: so clients that use the service's models send it.
    Raises ``ValueError`` for another shape.
    """
    for name, value in job.items():
        if name not in _NESTED and value is not None:
            yield name, _text(_abbreviation(value) if name == "platform" else value, name)
    modalities = job.get("modalities") or []
    modalities = [_abbreviation(item) for item in modalities] if isinstance(modalities, list) else None
    if modalities is None or not all(isinstance(name, str) for name in modalities):
        raise ValueError("modalities: give a list of abbreviations, such as ['ecephys', 'behavior']")
    for number, name in enumerate(modalities):
        yield f"modality{number}", name
    tasks = job.get("tasks") or {}
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise ValueError("tasks: give an object with an object for each task")
    for task, fields in tasks.items():
        if task in ("modality_transformation_settings", "codeocean_pipeline_settings"):
            for modality, settings in fields.items():
                if modality not in modalities:
                    raise ValueError(f"tasks.{task}: {modality!r} is not among the job's modalities")
                if not isinstance(settings, dict):
                    raise ValueError(f"tasks.{task}.{modality}: give an object with the fields of the task")
                yield from _modality_cells(f"modality{modalities.index(modality)}", settings)
        else:
            said = {name: value for name, value in fields.items() if value != {}}
            yield from ((f"{task}.{name}", text) for name, text in _leaves(said))


def _abbreviation(value: Any) -> Any:
    """Return the abbreviation of the schema's object for a modality or platform; anything else as it is."""
    return value["abbreviation"] if isinstance(value, dict) and "abbreviation" in value else value


def _modality_cells(owner: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = {"input_source": "source", "source": "source", "capsule_id": "capsule_id", "pipeline_id": "pipeline_id"}
    inner = settings.get("job_settings", {})
    # What the service's Task has when nobody set it.
    said = {name for name, value in settings.items() if value not in (None, False, "", {})}
    if not isinstance(inner, dict) or said - {"job_settings"}:
        raise ValueError(f"{owner}: only job_settings may be set here; images and resources belong into a preset")
    for name, text in _leaves(inner):
        yield (f"{owner}.{known[name]}" if name in known else f"{owner}.job_settings.{name}"), text


def _leaves(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(item, dict) and item:
            yield from _leaves(item, name)
        elif item is not None:
            yield name, _text(item, name)


def _text(value: Any, name: str) -> str:
    import json

    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value) if name == "email_notification_types" else json.dumps(value)
    return json.dumps(value)
