"""What each task of a job will read of everything that was said of it.

Input: the traced values of all tasks, leaf by leaf in the order in which they
count, and what is known of each modality. Output: the fields of each task as
its model takes them, the same values with their sources for ``explain``, and
a sentence for each value that nothing reads.
Invariant: pure. ``explain`` and the task get the same values, since both are
made here, once. A value that a row gives is read or refused; what a preset
says for many jobs may be of no use to one of them, and is then in neither.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lading.core.errors import UsageError
from lading.sessions import task_settings, values
from lading.sessions.columns import PIPELINE, PIPELINE_KEYS, setting_column
from lading.sessions.precedence import Traced, trails
from lading.sessions.presets import of_alias
from lading.sessions.resources import NUMBERS, directives
from lading.sessions.task_settings import EncryptSettings, NoSettings, Reading, Settings, read_settings
from lading.sessions.vocabulary import (
    MAPPED_TASKS,
    SETTINGS_TASKS,
    TASK_ALIASES,
    TASK_FIELDS,
    TASKS,
    folded,
    modalities,
    nearest,
)

COMPRESS = "compress_raw_data"
TRANSFORM = "modality_transformation_settings"
_PROGRAM_FIELDS = ("image", "image_version", "command_script")
Tree = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One modality as its task sees it."""

    number: int
    folder: str
    modality: str
    compressed: bool
    encrypted: bool


@dataclass
class Read:
    """What was made of the values.

    tasks   task → part ("" or a modality's folder) → fields
    traced  the values that are read, as they are read
    errors  (name of the value, sentence)
    """

    tasks: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    traced: list[Traced] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


def read_tasks(given: Iterable[Traced], parts: Iterable[Part]) -> Read:
    """Return what the tasks of a job read."""
    return _Reader(given).read(list(parts))


class _Reader:
    """One job's values on their way to its tasks."""

    def __init__(self, given: Iterable[Traced]) -> None:
        self._trees: dict[str, Tree] = {}
        for value in given:
            _grow(self._trees.setdefault(value.owner, {}), value)
        self._found = Read()
        # Values for all modalities: those that some modality reads, and what the others have against them.
        self._used: set[int] = set()
        self._unused: dict[int, tuple[Traced, str]] = {}

    def read(self, parts: list[Part]) -> Read:
        for owner, tree in self._trees.items():
            if "/" not in owner and owner not in MAPPED_TASKS:
                self._task(owner, owner, tree)
        for settings, task in SETTINGS_TASKS.items():
            whole = self._trees.get(task, {})
            for part in parts:
                owner = f"{settings}/{part.number}"
                tree = _merged(whole, self._trees.get(owner, {}))
                if tree:
                    self._part(task, owner, tree, part)
            if "skip_task" in whole:
                self._skip(task, task, whole["skip_task"], "")
        for key, (value, sentence) in self._unused.items():
            if key not in self._used and value.column:
                self._found.errors.append((value.name, sentence))
        return self._found

    def _task(self, task: str, owner: str, tree: Tree) -> None:
        """Read a task that is done once."""
        if task in SETTINGS_TASKS:
            # Of the transformation each modality says it itself: behavior_dir is none of them.
            if task != TRANSFORM:
                self._skip(task, owner, tree.get("skip_task"), "")
            return
        if self._skip(task, owner, tree.get("skip_task"), ""):
            return
        program = self._program(task, owner, tree, "")
        self._resources(task, owner, tree, "")
        settings = self._settings(owner, tree)
        if program:
            self._free(task, owner, settings, "")
        elif task == "gather_preliminary_metadata":
            self._metadata(task, owner, settings)
        else:
            self._model(task, owner, settings, task_settings.settings_of(task), "")

    def _part(self, task: str, owner: str, tree: Tree, part: Part) -> None:
        """Read what one modality's compression, or its run in Code Ocean, is told."""
        if self._skip(task, owner, tree.get("skip_task"), part.folder):
            return
        settings = self._settings(owner, tree)
        if owner.startswith(PIPELINE):
            self._refuse_programs(task, owner, tree)
            self._resources(task, owner, tree, part.folder)
            self._model(task, owner, settings, task_settings.settings_of(task), part.folder)
            return
        program = self._program(task, owner, tree, part.folder)
        self._resources(task, owner, tree, part.folder)
        switch = settings.get(COMPRESS)
        settings = {key: value for key, value in settings.items() if not setting_column("modality0", key)}
        if program:
            self._free(task, owner, settings, part.folder)
            return
        model, reader = self._model_of(owner, settings, part)
        if model is not None:
            self._compression(task, owner, settings, model, reader, part)
        # Where it decided, it stands in the task's settings too: jobs of earlier versions are known by that.
        if isinstance(switch, Traced) and switch.value is part.compressed:
            given = self._found.tasks.setdefault(task, {}).setdefault(part.folder, {}).setdefault("job_settings", {})
            given[COMPRESS] = switch.value
            trail = ("job_settings", COMPRESS)
            self._found.traced.append(replace(switch, owner=owner, trail=trail, name=".".join([owner, *trail])))

    def _model_of(self, owner: str, settings: Tree, part: Part) -> tuple[type[Settings] | None, str]:
        """Return what a modality's settings are read by, and how that is called."""
        if not part.compressed:
            if part.encrypted and part.modality == "behavior-videos":
                return EncryptSettings, "the encryption of videos"
            return NoSettings, ""
        kind = settings.get("kind")
        name = kind.value if isinstance(kind, Traced) else task_settings.KIND_OF.get(part.modality, "generic")
        if name not in task_settings.KIND_SETTINGS:
            kinds = list(task_settings.KIND_SETTINGS)
            hint = nearest(str(name), kinds) or f"; one of {', '.join(kinds)}"
            self._found.errors.append((_first(settings["kind"]).name, f"{name!r} is not a data kind{hint}"))
            return None, ""
        return task_settings.KIND_SETTINGS[name], f"the compression of {name}"

    def _compression(
        self, task: str, owner: str, settings: Tree, model: type[Settings], reader: str, part: Part
    ) -> None:
        """Read the settings of a compressor: what another one reads may be said for all modalities at once."""
        known, other = set(task_settings.names_of(model)), task_settings.known_to_any_kind()
        kept: Tree = {}
        for key, value in settings.items():
            if key in known or key not in other:
                kept[key] = value
                continue
            first = _first(value)
            sentence = (
                f"{key!r} is not read by {reader}{nearest(key, known)}"
                if reader
                else f"{key!r} is not read: {part.modality} is not compressed; "
                f"set modality{part.number}.compress_raw_data to TRUE, or leave it out"
            )
            if first.owner == task:
                self._unused[id(first)] = (first, sentence)
            elif first.owner == owner and (first.column or (reader and not first.general)):
                self._found.errors.append((first.name, sentence))
        self._model(task, owner, kept, model, part.folder, reader or f"{part.modality}, which is not compressed")

    def _model(self, task: str, owner: str, settings: Tree, model: type[Settings], part: str, reader: str = "") -> None:
        reading = read_settings(model, _plain(settings), reader or task)
        for trail, sentence in reading.errors:
            at = _at(settings, trail)
            name = ".".join([owner, "job_settings", *trail])
            longer = _long(trail, sentence) if len(trail) > 1 else sentence
            self._found.errors.append((at.name if at else name, longer))
        self._keep(task, owner, reading, settings, part)

    def _keep(self, task: str, owner: str, reading: Reading, settings: Tree, part: str) -> None:
        """Note settings that were read, each with the source of what it was made of."""
        if not reading.values:
            return
        self._found.tasks.setdefault(task, {}).setdefault(part, {})["job_settings"] = reading.values
        self._note(owner, reading.values, settings, ("job_settings",), reading.origins)

    def _note(
        self, owner: str, found: Mapping[str, Any], given: Any, above: tuple[str, ...], origins: Mapping[str, str]
    ) -> None:
        for key, value in found.items():
            source = given.get(origins.get(key, key), given) if isinstance(given, dict) else given
            for one in _all(source):
                self._used.add(id(one))
            if isinstance(value, Mapping) and value:
                self._note(owner, value, source, (*above, key), {})
            else:
                at = _first(source)
                trail = (*above, key)
                self._found.traced.append(Traced(".".join([owner, *trail]), value, at.source, at.column, owner, trail))

    def _free(self, task: str, owner: str, settings: Tree, part: str) -> None:
        """Keep every setting: a program of the list's own reads them."""
        if settings:
            self._keep(task, owner, Reading(_plain(settings), {}), settings, part)

    def _metadata(self, task: str, owner: str, settings: Tree) -> None:
        """Read the settings of the metadata, those for aind-metadata-mapper where it is installed."""
        settings = {key: value for key, value in settings.items() if not setting_column(task, key)}
        of_mapper = task_settings.names_of(task_settings.MapperSettings)
        mapper = {key: value for key, value in settings.items() if key in of_mapper}
        old = {key: value for key, value in settings.items() if key in task_settings.OLD_MAPPER_KEYS}
        self._found.errors += [(_first(value).name, _OLD_MAPPER) for value in old.values()]
        own = {key: value for key, value in settings.items() if key not in mapper and key not in old}
        if mapper and not task_settings.has_mapper():
            self._found.errors += [(_first(value).name, _NO_MAPPER) for value in mapper.values()]
        elif mapper:
            own = self._without_description(own)
        reading = read_settings(task_settings.settings_of(task), _plain(own), task)
        beside = read_settings(task_settings.MapperSettings, _plain(mapper), "aind-metadata-mapper")
        for part, trees in ((reading, own), (beside, mapper)):
            for trail, sentence in part.errors:
                at = _at(trees, trail)
                self._found.errors.append((at.name if at else owner, sentence))
        both = Reading({**reading.values, **beside.values}, {**reading.origins, **beside.origins})
        self._keep(task, owner, both, settings, "")

    def _without_description(self, own: Tree) -> Tree:
        """Return settings without those of a description that aind-metadata-mapper makes: a row may not give them."""
        for key, value in own.items():
            first = _first(value)
            if key in task_settings.DESCRIPTION_KEYS and not first.source.startswith("preset "):
                sentence = "is not read: aind-metadata-mapper makes data_description.json; "
                self._found.errors.append((first.name, f"{sentence}write it into data_description_settings"))
        return {key: value for key, value in own.items() if key not in task_settings.DESCRIPTION_KEYS}

    def _skip(self, task: str, owner: str, given: Any, part: str) -> bool:
        """Read ``skip_task``; tells whether the task is skipped."""
        if not isinstance(given, Traced):
            return False
        self._used.add(id(given))
        if given.value is None:
            return False
        try:
            skipped = values.boolean(given.value)
        except ValueError as error:
            self._found.errors.append((given.name, str(error)))
            return False
        self._field(task, owner, "skip_task", skipped, given, part)
        return skipped

    def _field(self, task: str, owner: str, name: str, value: Any, given: Traced, part: str) -> None:
        self._found.tasks.setdefault(task, {}).setdefault(part, {})[name] = value
        self._found.traced.append(Traced(f"{owner}.{name}", value, given.source, given.column, owner, (name,)))

    def _program(self, task: str, owner: str, tree: Tree, part: str) -> bool:
        """Read the program of a task; tells whether it has one."""
        if task not in task_settings.PROGRAM_TASKS:
            self._refuse_programs(task, owner, tree)
            return False
        given = {name: tree[name] for name in _PROGRAM_FIELDS if name in tree}
        said = {}
        for name, value in given.items():
            first = _first(value)
            self._used.update(map(id, _all(value)))
            if first.value is None or first.value == "":
                continue
            try:
                said[name] = values.words(_plain(value))
            except ValueError as error:
                self._found.errors.append((first.name, str(error)))
        if said and "command_script" not in said:
            name = next(iter(said))
            sentence = f"is not read without a command_script; {task} has none"
            self._found.errors.append((_first(given[name]).name, sentence))
        for name, value in said.items():
            self._field(task, owner, name, value, _first(given[name]), part)
        return bool(said)

    def _refuse_programs(self, task: str, owner: str, tree: Tree) -> None:
        for name in _PROGRAM_FIELDS:
            value = _first(tree[name]) if name in tree else None
            if value is not None and value.value not in (None, ""):
                sentence = f"{task} does not run programs of a list; {name} is read by {', '.join(_PROGRAM_OWNERS)}"
                self._found.errors.append((value.name, sentence))

    def _resources(self, task: str, owner: str, tree: Tree, part: str) -> None:
        """Read ``image_resources`` and whatever else a task has beside its known fields."""
        for key, value in tree.items():
            if key not in TASK_FIELDS:
                sentence = f"{key!r} is not a field of a task{nearest(key, TASK_FIELDS) or _ONE_OF}"
                self._found.errors.append((_first(value).name, sentence))
        given = tree.get("image_resources")
        if given is None or (isinstance(given, Traced) and given.value in (None, {}, "")):
            return
        self._used.update(map(id, _all(given)))
        first = _first(given)
        if task != "compress_data":
            sentence = f"{task} requests nothing from Slurm; image_resources is read by {TRANSFORM}"
            self._found.errors.append((first.name, sentence))
            return
        try:
            resources = {key: _amount(key, value) for key, value in values.members(_plain(given)).items()}
            directives(resources)
        except (ValueError, UsageError) as error:
            self._found.errors.append((first.name, str(error).removeprefix("image_resources: ")))
            return
        self._found.tasks.setdefault(task, {}).setdefault(part, {})["image_resources"] = resources
        self._note(owner, resources, given, ("image_resources",), {})

    def _settings(self, owner: str, tree: Tree) -> Tree:
        """Return the settings of a task, those for Code Ocean left to where they belong."""
        given = tree.get("job_settings", {})
        if isinstance(given, Traced):
            self._used.add(id(given))
            if given.value not in (None, {}, ""):
                self._found.errors.append((given.name, "job_settings is an object with the settings of the task"))
            return {}
        moved = {} if owner.startswith(PIPELINE) else {key: given[key] for key in PIPELINE_KEYS if key in given}
        for value in moved.values():
            first = _first(value)
            if first.source.startswith("preset "):
                sentence = f"is read by {PIPELINE}; move it there"
                self._found.errors.append((first.name, sentence))
        return {key: value for key, value in given.items() if key not in moved}


_NO_MAPPER = (
    "is read by aind-metadata-mapper, which is not installed here: pip install 'lading[mapper]', in a checkout "
    "make setup extras=mapper, or give the task a command_script that runs it"
)
_OLD_MAPPER = (
    "is read by aind-metadata-mapper before 1.0, which writes another schema than the one here; "
    "give the task a command_script that runs it"
)
_ONE_OF = f"; one of {', '.join(TASK_FIELDS)}"
_PROGRAM_OWNERS = (TRANSFORM, "gather_preliminary_metadata", "gather_final_metadata")


def _amount(key: str, value: Any) -> Any:
    """Return a number that a cell gives as text; what else Slurm is asked for stays as it was written."""
    plain = isinstance(value, str) and key in NUMBERS and re.fullmatch(r"[1-9]\d{0,9}", value)
    return int(value) if plain else value


def _long(trail: tuple[str, ...], sentence: str) -> str:
    return f"{'.'.join(trail)}: {sentence}"


def _grow(tree: Tree, value: Traced) -> None:
    """Put a value into a tree in place of whatever is there."""
    *above, last = value.trail
    for key in above:
        below = tree.get(key)
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree.pop(last, None)
    tree[last] = value


def _merged(below: Tree, above: Tree) -> Tree:
    """Return ``above`` over ``below``, key by key; neither is changed."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def _plain(tree: Any) -> Any:
    """Return the values of a tree without their sources."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return tree.value if isinstance(tree, Traced) else tree


def _all(tree: Any) -> Iterable[Traced]:
    """Yield every value of a tree."""
    if isinstance(tree, Traced):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _all(value)


def _first(tree: Any) -> Traced:
    """Return the first value of a tree, which has one."""
    return next(iter(_all(tree)))


def _at(tree: Any, trail: tuple[str, ...]) -> Traced | None:
    """Return the value at a trail, or the one above or below it that stands for it."""
    for key in trail:
        if not isinstance(tree, dict) or key not in tree:
            break
        tree = tree[key]
    return next(iter(_all(tree)), None)


def preset_errors(task: str, modality: str, fields: Mapping[str, Any]) -> list[str]:
    """Return what no job could read of a preset: a sentence each."""
    if task in TASK_ALIASES:
        return [error for own in TASK_ALIASES[task] for error in preset_errors(own, "", of_alias(own, fields))]
    if task not in TASKS:
        return [f"{task!r} is not a task{nearest(task, TASKS)}"]
    settings = next((name for name, mapped in SETTINGS_TASKS.items() if task in (name, mapped)), "")
    if task in SETTINGS_TASKS and not modality and set(fields) - set(TASK_FIELDS):
        # The service's own layout keeps all modalities of a task in one value.
        parts = {str(name): part for name, part in fields.items() if isinstance(part, Mapping)}
        return [
            f"{name}: {error}"
            for name, part in parts.items()
            for error in preset_errors(task, modalities().get(folded(name), name), part)
        ]
    owner = f"{settings}/0" if settings else task
    given = [
        Traced(".".join([owner, *trail]), value, "preset ", 0, owner, trail, not modality)
        for trail, value in trails(fields)
    ]
    # One that some kind of data can read is fine for all modalities.
    kinds = [modality] if modality or not settings else [*task_settings.KIND_OF, "behavior"]
    tried = [read_tasks(given, [Part(0, kind, kind, True, False)]) for kind in kinds]
    common = set(tried[0].errors).intersection(*(read.errors for read in tried[1:]))
    found = list(common) or (tried[0].errors if all(read.errors for read in tried) else [])
    # What some kinds know and all of these refuse, the others leave alone.
    taken = {value.name for read in tried for value in read.traced}
    found += [error for read in tried for error in read.errors if error not in found and error[0] not in taken]
    found = sorted(dict.fromkeys(found))
    return [f"{name.removeprefix(f'{owner}.')}: {message}" for name, message in found]
