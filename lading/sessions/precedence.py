"""Precedence: flag > parameter store > cell > preset > default, each value with its source.

Input: a row, the flags of the command line, the values of the row's
parameter, presets. Output: ``Traced`` values under canonical names.
Invariant: every value that a job acts on passes here, so ``explain`` shows
exactly what ``run`` uses; a flag can only switch on, and a null in the
parameter store erases nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lading.sessions.columns import (
    JOB_COLUMNS,
    MODALITY_ALIASES,
    MODALITY_COLUMNS,
    MODALITY_FIELDS,
    PIPELINE,
    TASK_COLUMNS,
)
from lading.sessions.presets import Presets
from lading.sessions.table import ListRow
from lading.sessions.vocabulary import SETTINGS_TASKS, TASK_ALIASES, TASKS, folded, modalities, nearest

DEFAULTS: Mapping[str, Any] = {
    "job_type": "default",
    "project_name": "unknown",
    "email_notification_types": "fail",
    "log_level": "WARNING",
    "metadata_dir_force": False,
    "dry_run": False,
    "force_cloud_sync": False,
}
# compress_raw_data where nothing else says so.
COMPRESSED_BY_DEFAULT = ("ecephys",)
# A setting that asks for compression by saying how.
ASKED = "compression_requested"
# Where a secret may be instead of in the list.
REFERENCES = ("file:", "env:", "ssm:")
# Names of which a value is never shown.
_SECRET_SIGNS = ("password", "token", "secret", "passphrase", "api_key")


@dataclass(frozen=True)
class Flags:
    """What the command line says of a whole list; a flag can only switch on."""

    dry_run: bool = False
    compress_raw_data: bool = False
    force_cloud_sync: bool = False
    skip_staging: bool = False
    s3_bucket: str = ""

    def get(self, name: str) -> Any:
        """Return the value of a flag that was given, or None."""
        return (getattr(self, name, None) or None) if name in {flag.name for flag in fields(self)} else None


@dataclass(frozen=True)
class Traced:
    """A value and where it came from: ``flag --dry-run``, ``parameter /x``, ``cell 3:5``, ``preset …``, ``default``.

    ``column`` is the number of its cell, 0 for any other source. ``trail``
    is, for a value of a task, the keys from the task's field on: a key may
    hold a dot, so the name alone does not tell them.
    """

    name: str
    value: Any
    source: str
    column: int = 0
    owner: str = ""
    trail: tuple[str, ...] = ()
    general: bool = False

    def shown(self) -> str:
        """Return the value as text, a secret masked."""
        if is_secret(self.name) and self.value not in (None, ""):
            return "**********"
        return self.value if isinstance(self.value, str) else json.dumps(redact(self.value), default=str)


def is_secret(name: str) -> bool:
    """Tell whether a name is that of a secret."""
    last = name.lower().rsplit(".", 1)[-1]
    return any(sign in last for sign in _SECRET_SIGNS) and not last.endswith(("_file", "_path", "_variable"))


def redact(value: Any) -> Any:
    """Return JSON data with every secret in it masked."""
    if isinstance(value, Mapping):
        return {key: "**********" if is_secret(str(key)) and item else redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, list) else value


def mask(value: Any, name: str = "") -> Any:
    """Return JSON data with each secret in clear masked; a reference (``env:NAME``) tells nothing and stays."""
    if isinstance(value, Mapping):
        return {key: mask(item, name if is_secret(name) else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item, name) for item in value]
    hidden = is_secret(name) and value not in (None, "") and not isinstance(value, bool)
    return "**********" if hidden and not str(value).startswith(REFERENCES) else value


@dataclass(frozen=True)
class Context:
    """What a row's values are gathered from.

    ``parameters`` maps the name of a parameter to its JSON object; a name
    that is missing there was not read (``check`` reads none). ``unreadable``
    maps the name of one that could not be read to the reason.
    """

    flags: Flags = field(default_factory=Flags)
    presets: Presets = field(default_factory=Presets)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


def job_values(row: ListRow, context: Context) -> dict[str, Traced]:
    """Return the job-level values of a row, without those that nobody gives."""
    parameter = _cell(row, "aws_param_store_name")
    stored = context.parameters.get(str(parameter.value), {}) if parameter else {}
    defaults = context.presets.site.get("defaults", {})
    preset: Mapping[str, Traced] = {}
    values: dict[str, Traced] = {}
    for name in JOB_COLUMNS:
        flag = context.flags.get(name)
        if name == "s3_bucket":
            # The command line's bucket is for rows that name none: it must not redirect a list.
            flag = None
        candidates = (
            Traced(name, flag, f"flag --{name.replace('_', '-')}") if flag is not None else None,
            Traced(name, stored[name], f"parameter {parameter.value}")
            if parameter and stored.get(name) is not None and name not in OF_THE_ROW
            else None,
            _cell(row, name),
            preset.get(name),
            Traced(name, defaults[name], "preset site/defaults") if defaults.get(name) is not None else None,
            Traced(name, context.flags.s3_bucket, "flag --bucket")
            if name == "s3_bucket" and context.flags.s3_bucket
            else None,
            Traced(name, DEFAULTS[name], "default") if name in DEFAULTS else None,
        )
        chosen = next((candidate for candidate in candidates if candidate), None)
        if chosen:
            values[name] = chosen
        if name == "job_type":
            preset = _preset_columns(str(values[name].value), context.presets)
    return values


def _preset_columns(job_type: str, presets: Presets) -> dict[str, Traced]:
    """Return what presets of tasks say that is a column of the row."""
    try:
        tasks = presets.tasks(job_type)
    except ValueError:
        return {}
    found = {}
    for (task, key), column in TASK_COLUMNS.items():
        for part, (where, fields_) in tasks.get(task, {}).items():
            inner = fields_.get("job_settings")
            if not part and isinstance(inner, Mapping) and inner.get(key) is not None:
                found[column] = Traced(column, inner[key], f"preset {where}")
    return found


# What a session is and where it goes: a parameter sets endpoints and defaults, never these.
OF_THE_ROW = ("s3_bucket", "subject_id", "acq_datetime", "platform", "s3_prefix", "aws_param_store_name")


def strange_endpoints(stored: Mapping[str, Any]) -> list[str]:
    """Return what a parameter says that it may not say, or that nothing reads."""
    found = [f"{name} belongs to a row; remove it from the parameter" for name in stored if name in OF_THE_ROW]
    unknown = [str(name) for name in stored if name not in JOB_COLUMNS]
    found += [f"{name[:80]!r} is not read{nearest(name, JOB_COLUMNS)}" for name in unknown[:20]]
    return found + ([f"and {len(unknown) - 20} more keys that Lading does not read"] if len(unknown) > 20 else [])


def modality_numbers(row: ListRow) -> list[int]:
    """Return the numbers of the modalities that a row fills in, ascending."""
    owners = {name.split(".", 1)[0] for name in row.cells}
    return sorted(int(owner[8:]) for owner in owners if owner.startswith("modality") and owner[8:].isdigit())


def modality_values(row: ListRow, number: int, context: Context, job: Mapping[str, Traced]) -> dict[str, Traced]:
    """Return the values of one modality; names are ``modality<number>`` and ``modality<number>.<column>``."""
    owner = f"modality{number}"
    values: dict[str, Traced] = {}
    kind = _cell(row, owner)
    if kind:
        values[owner] = kind
    abbreviation = modalities().get(folded(str(kind.value)), "") if kind else ""
    preset = _preset_settings(context.presets, job, abbreviation)
    for column in MODALITY_COLUMNS:
        name = f"{owner}.{column}"
        if column in MODALITY_FIELDS or column == PIPELINE:
            continue
        # A whole-job column stands in for the modalities that say nothing themselves; a parameter goes before cells.
        whole = job.get(column)
        whole = Traced(name, whole.value, whole.source, whole.column) if whole else None
        stored = whole and whole.source.startswith("parameter ")
        candidates = (
            Traced(name, True, f"flag --{column.replace('_', '-')}") if context.flags.get(column) else None,
            whole if stored else None,
            _cell(row, name),
            whole,
            Traced(name, *preset[column]) if column in preset else None,
            _asked_to_compress(row, owner, preset) if column == "compress_raw_data" else None,
            Traced(name, abbreviation in COMPRESSED_BY_DEFAULT, "default") if column == "compress_raw_data" else None,
            Traced(name, False, "default") if column == "skip_staging" else None,
        )
        chosen = next((candidate for candidate in candidates if candidate), None)
        if chosen:
            values[name] = chosen
    return values


def _asked_to_compress(row: ListRow, owner: str, preset: Mapping[str, tuple[Any, str]]) -> Traced | None:
    """Return the yes of a row that says how to compress, where nothing says whether."""
    start = f"{owner}.job_settings"
    for name, cell in row.cells.items():
        asked = name.startswith(f"{start}.{ASKED}")
        if asked or (name == start and isinstance(cell.value, Mapping) and ASKED in cell.value):
            return Traced(f"{owner}.compress_raw_data", True, f"cell {row.line}:{cell.column}", cell.column)
    return Traced(f"{owner}.compress_raw_data", True, preset[ASKED][1]) if ASKED in preset else None


def _preset_settings(presets: Presets, job: Mapping[str, Traced], modality: str) -> dict[str, tuple[Any, str]]:
    """Return what presets say of a modality: name → (value, source), what is for all of them below what is for it."""
    try:
        parts = presets.tasks(str(job["job_type"].value)).get("modality_transformation_settings", {})
    except ValueError:
        return {}
    found: dict[str, tuple[Any, str]] = {}
    for part in ("", modality):
        key, settings = parts.get(part, ("", {}))
        inner = settings.get("job_settings", {})
        if isinstance(inner, Mapping):
            found |= {
                MODALITY_ALIASES.get(str(name), str(name)): (value, f"preset {key}")
                for name, value in inner.items()
                if value is not None
            }
    return found


def task_values(row: ListRow, context: Context, job_type: str, kinds: Mapping[int, str]) -> Iterator[Traced]:
    """Yield every field of every task, leaf by leaf, presets first and the row's own cells after them.

    Names are ``<task>.<field>…`` and, for the tasks per modality,
    ``<task>/<modality number>.<field>…``. ``kinds`` maps modality numbers to
    abbreviations. A later value of one trail replaces the earlier one.
    Raises ``ValueError`` for an unknown job type.
    """
    for task, parts in context.presets.tasks(job_type).items():
        # What is said for all modalities first: what is said for one replaces it.
        for part, (key, settings) in sorted(parts.items()):
            owners = (
                [f"{task}/{n}" for n, kind in kinds.items() if part in ("", kind)] if task in SETTINGS_TASKS else [task]
            )
            for owner in owners:
                source, general = f"preset {key}", task in SETTINGS_TASKS and not part
                for trail, value in trails(settings):
                    yield Traced(".".join([owner, *trail]), value, source, 0, owner, trail, general)
    for name, cell in row.cells.items():
        source = f"cell {row.line}:{cell.column}"
        for owner, trail in _owners(name, kinds):
            for below, value in trails(cell.value) if isinstance(cell.value, Mapping) else [((), cell.value)]:
                whole = (*trail, *below)
                yield Traced(".".join([owner, *whole]), value, source, cell.column, owner, whole)


def _owners(name: str, kinds: Mapping[int, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the owners and the trail of a cell of a task, none for another cell."""
    first, *rest = name.split(".")
    if first in TASK_ALIASES:
        return [(task, tuple(rest)) for task in TASK_ALIASES[first]]
    if first in SETTINGS_TASKS:
        # Skipped as a whole: each of its modalities is, and the task itself.
        return [(first, tuple(rest)), *((f"{first}/{number}", tuple(rest)) for number in kinds)]
    if first in TASKS:
        return [(first, tuple(rest))]
    if not rest or not first.startswith("modality"):
        return []
    number = int(first[8:])
    if rest[0] == PIPELINE:
        return [(f"{PIPELINE}/{number}", tuple(rest[1:]))]
    return [(f"modality_transformation_settings/{number}", tuple(rest))] if rest[0] in MODALITY_FIELDS else []


def trails(settings: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (keys, value) of nested settings; an empty object is a leaf."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from trails(value, (*above, str(key)))
        else:
            yield (*above, str(key)), value


def leaves(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested settings; an empty object is a leaf."""
    return ((".".join(trail), value) for trail, value in trails(settings))


def literal(value: Any) -> Any:
    """Return what a cell may be read as: JSON data where it is such, else text. For looking into it, not for use."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value if value[:1] in '{["-0123456789' else value.lower())
    except ValueError:
        return value


def _cell(row: ListRow, name: str) -> Traced | None:
    cell = row.cells.get(name)
    return Traced(name, cell.value, f"cell {row.line}:{cell.column}", cell.column) if cell else None
