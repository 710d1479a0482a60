"""Presets: what a ``job_type`` means, as settings of each task.

Input: a store with keys ``job_types/v2/<type>/tasks/<task>[/<modality>]`` and
JSON objects under them: a directory of .json, .yaml or .yml files, or the
AWS parameter store, with one layout. Output: the tasks of a type, and a deep
merge with what a list says.
Invariant: a value of the user always wins, a list replaces a list, and
nothing of a type reaches another; ``default`` supplies the tasks that a type
leaves out, ``custom`` takes none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lading.core.bounded import read_json
from lading.core.errors import usage_errors
from lading.core.walking import walk_followed
from lading.core.yaml_file import read_yaml
from lading.sessions.site import faults as site_faults
from lading.sessions.vocabulary import (
    DOCDB_KEYS,
    SETTINGS_TASKS,
    TASK_ALIASES,
    TASK_FIELDS,
    TASKS,
    folded,
    modalities,
    nearest,
)

LAYOUT = "job_types/v2"
DEFAULT_TYPE = "default"
CUSTOM_TYPE = "custom"
SITE = "site"

# task → modality (or "" for a task that is not per modality) → fields of the task
Tasks = Mapping[str, Mapping[str, Mapping[str, Any]]]


class PresetStore(Protocol):
    """Where parameters live: a directory or the AWS parameter store."""

    def parameters(self, below: str) -> Iterator[tuple[str, str, Any]]:
        """Yield (key relative to the store, where it is for a message, value) of every key under ``below``."""


@dataclass(frozen=True)
class PresetDirectory:
    """Parameters as files: the key is the path without its ending."""

    root: Path

    def parameters(self, below: str) -> Iterator[tuple[str, str, Any]]:
        """Yield every parameter; raises ``UsageError`` with all faults of all files."""
        faults = []
        found = []
        top = self.root / below
        if top.is_dir():
            walked = walk_followed(top, lambda path, why: faults.append(f"{path} {why}"))
            paths = sorted(Path(directory, name) for directory, _, names in walked for name in names)
        else:
            paths = sorted(self.root.glob(f"{below}.*"))
        for path in paths:
            if path.suffix.lower() not in (".json", ".yaml", ".yml") or not path.is_file():
                continue
            try:
                value = _parse(path)
            except ValueError as error:
                faults.append(f"{path} is not {path.suffix[1:].upper()}: {' '.join(str(error).split())}")
                continue
            found.append((path.relative_to(self.root).with_suffix("").as_posix(), str(path), value))
        if faults:
            raise usage_errors(faults)
        yield from found


def _parse(path: Path) -> Any:
    # Each value is an object; YAML reads JSON too, but its errors for JSON mislead.
    return read_json(path) if path.suffix.lower() == ".json" else read_yaml(path).value


@dataclass(frozen=True)
class Presets:
    """Every job type of a store, and the site's own settings (buckets, endpoints, mail)."""

    types: Mapping[str, Tasks] = field(default_factory=dict)
    site: Mapping[str, Any] = field(default_factory=dict)
    where: str = "no presets"
    # Keys of a tree that is shared with others: job type → (where, why nothing here reads it).
    foreign: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the job types that a list may name."""
        return sorted({DEFAULT_TYPE, CUSTOM_TYPE, *self.types})

    def tasks(self, job_type: str) -> dict[str, dict[str, tuple[str, Mapping[str, Any]]]]:
        """Return task → modality or "" → (key of the preset, fields of the task).

        Raises ``ValueError`` for a type that the store does not have.
        """
        if job_type not in self.names():
            hint = nearest(job_type, self.names()) or f"; one of {', '.join(self.names())}"
            raise ValueError(f"{job_type!r} is not a job_type of {self.where}{hint}")
        chosen: dict[str, dict[str, tuple[str, Mapping[str, Any]]]] = {}
        for name in () if job_type == CUSTOM_TYPE else dict.fromkeys((DEFAULT_TYPE, job_type)):
            for task, settings in self.types.get(name, {}).items():
                for part, fields in settings.items():
                    key = f"{LAYOUT}/{name}/tasks/{task}" + (f"/{part}" if part else "")
                    chosen.setdefault(task, {})[part] = (key, fields)
        return chosen


def load(store: PresetStore, where: str) -> Presets:
    """Return everything in a store; ``UsageError`` lists every key that fits nowhere."""
    types: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    # The same thing may be said by the key of its own, and by one that says more: the own one is laid over it.
    own: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    foreign: dict[str, list[tuple[str, str]]] = {}
    faults = []
    for key, place, value in store.parameters(LAYOUT):
        parts = key.removeprefix(LAYOUT + "/").split("/")
        if len(parts) not in (3, 4) or parts[1] != "tasks":
            faults.append(f"{place}: a preset is {LAYOUT}/TYPE/tasks/TASK or …/TASK/MODALITY")
            continue
        job_type, _, task, *rest = parts
        if task in TASK_ALIASES:
            for ours in TASK_ALIASES[task]:
                fields = of_alias(ours, value)
                if fields:
                    settings = types.setdefault(job_type, {}).setdefault(ours, {})
                    settings[""] = merge(settings.get("", {}), fields)
        elif task not in TASKS:
            types.setdefault(job_type, {})
            foreign.setdefault(job_type, []).append((place, f"{task!r} is not a task{nearest(task, TASKS)}"))
        elif not isinstance(value, dict):
            faults.append(f"{place}: a preset is an object with fields of the task, not {type(value).__name__}")
        elif rest and (task not in SETTINGS_TASKS or folded(rest[0]) not in modalities()):
            faults.append(f"{place}: only {' and '.join(SETTINGS_TASKS)} have a part per modality")
        elif not rest and task in SETTINGS_TASKS and set(value) - set(TASK_FIELDS):
            # The service's own layout keeps all modalities of a task in one value.
            for name, fields in value.items():
                if folded(name) not in modalities() or not isinstance(fields, dict):
                    faults.append(f"{place}: {name!r} is not a modality with its settings")
                else:
                    types.setdefault(job_type, {}).setdefault(task, {})[modalities()[folded(name)]] = fields
        else:
            part = modalities()[folded(rest[0])] if rest else ""
            own[job_type, task, part] = value
    for (job_type, task, part), value in own.items():
        found = types.setdefault(job_type, {}).setdefault(task, {})
        found[part] = merge(found.get(part, {}), value)
    site: Mapping[str, Any] = {}
    for _, place, value in store.parameters(SITE):
        if not isinstance(value, dict):
            faults.append(f"{place}: the site's settings are an object, not {type(value).__name__}")
        else:
            site = merge(site, value)
    site = {name: value for name, value in site.items() if value is not None}  # a name with nothing behind it
    faults += [f"{where}: the site's settings: {fault}" for fault in site_faults(site)]
    if faults:
        raise usage_errors(faults)
    return Presets(types, site, where, foreign)


def of_alias(task: str, value: Any) -> dict[str, Any]:
    """Return what a preset of a task that the AIND service calls otherwise says of one of ours."""
    if not isinstance(value, dict):
        return {}
    fields = {name: item for name, item in value.items() if name != "job_settings"}
    inner = value.get("job_settings")
    given = inner if isinstance(inner, dict) else {}
    is_record = task == TASK_ALIASES["register_data_asset"][1]
    kept = {key: item for key, item in given.items() if (key in DOCDB_KEYS) == is_record}
    # A program of theirs is refused once, not twice.
    fields = {name: item for name, item in fields.items() if name == "skip_task" or not is_record}
    return fields | ({"job_settings": kept} if kept else {})


def near_misses(presets: Presets, job_type: str) -> list[str]:
    """Return what the presets of a type probably meant: a task of ours, spelled otherwise."""
    return [f"{place}: {why}" for place, why in presets.foreign.get(job_type, ()) if "did you mean" in why]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``above`` laid over ``below``: objects key by key, anything else replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
