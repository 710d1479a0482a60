"""``image_resources``: what a task asks of Slurm, as sbatch flags.

Input: the resources of a task, with the keys of the service (slurmrestd's job
properties) or plain ones. Output: flags, or a sentence that names every key
and value that Slurm would not take.
Invariant: pure; what ``check`` accepts here, ``run`` can submit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lading.core.errors import UsageError
from lading.sessions.vocabulary import nearest

_DIRECTIVES = {
    "memory_per_cpu": "--mem-per-cpu",
    "memory_per_node": "--mem",
    "memory_gb": "--mem",
    "memory": "--mem",
    "minimum_cpus_per_node": "--mincpus",
    "cpus_per_task": "--cpus-per-task",
    "tasks": "--ntasks",
    "nodes": "--nodes",
    "minimum_nodes": "--nodes",
    "time_limit": "--time",
    "partition": "--partition",
    "qos": "--qos",
    "account": "--account",
    "constraints": "--constraint",
    "gres": "--gres",
    "tres_per_task": "--tres-per-task",
    "licenses": "--licenses",
}
# Of these a number is meant.
_COUNTS = ("cpus_per_task", "tasks", "nodes")
NUMBERS = (*(key for key in _DIRECTIVES if key.startswith(("memory", "minimum"))), *_COUNTS)
# What the task's own program gets, wherever it runs: not what sbatch is told.
OF_THE_PROGRAM = ("environment", "current_working_directory", "standard_error", "standard_output", "name", "array")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*")
_ARRAY = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
MOST_ELEMENTS = 10_000
_VALUE = re.compile(r"[A-Za-z0-9_.:,&|\[\]()*=/-]+")
# What Slurm takes for an amount: a job with another one would be refused when it is submitted.
_FORMS = {
    **{
        key: (r"\d+(\.\d+)?([KMGT]B?)?", "an amount of memory; write it like 16G") for key in NUMBERS if "memory" in key
    },
    **dict.fromkeys(("minimum_cpus_per_node", "cpus_per_task", "tasks"), (r"\d+", "a whole number")),
    **dict.fromkeys(("nodes", "minimum_nodes"), (r"\d+(-\d+)?", "a number of nodes")),
    "time_limit": (
        r"\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2}|unlimited|infinite",
        "a time; write minutes, hours:minutes:seconds or days-hours",
    ),
}


def directives(resources: Mapping[str, Any]) -> list[str]:
    """Return sbatch flags for ``image_resources``; ``UsageError`` lists every key that Slurm would not know."""
    known = [*_DIRECTIVES, *OF_THE_PROGRAM]
    unknown = sorted(set(resources) - set(known))
    if unknown:
        named = ", ".join(unknown[:20]) + (f" and {len(unknown) - 20} more" if len(unknown) > 20 else "")
        one_of = f"; use {', '.join(known)}"
        hint = nearest(unknown[0], known) if len(unknown) == 1 else ""
        raise UsageError(f"image_resources: {named} is not known{hint or one_of}")
    surroundings(resources)
    found = []
    for key, value in resources.items():
        flag = _DIRECTIVES.get(key)
        if flag is None or value is None:
            continue
        # slurmrestd wraps numbers: {"set": true, "number": 240}.
        if isinstance(value, Mapping) and value.get("set") is False:
            continue
        plain = value.get("number") if isinstance(value, Mapping) else value
        if not _VALUE.fullmatch(str(plain)):
            raise UsageError(f"image_resources.{key}: {plain!r} is not a value for {flag}")
        form, what = _FORMS.get(key, ("", ""))
        if form and not re.fullmatch(form, str(plain), re.IGNORECASE):
            raise UsageError(f"image_resources.{key}: {plain!r} is not {what}")
        found.append(f"{flag}={plain}{'G' if key == 'memory_gb' else ''}")
    return found


@dataclass(frozen=True)
class Surroundings:
    """Where and with what a task's program runs.

    ``variables`` are added to its environment, ``directory`` is where it
    starts, ``output`` and ``errors`` are files that its log is copied to, and
    ``elements`` are the indices of an array, each a run of its own.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    output: str = ""
    errors: str = ""
    name: str = ""
    elements: tuple[int, ...] = ()


def surroundings(resources: Mapping[str, Any]) -> Surroundings:
    """Return what ``image_resources`` says of the program itself; ``UsageError`` for what is none of it."""
    variables = resources.get("environment") or []
    pairs = [f"{name}={value}" for name, value in variables.items()] if isinstance(variables, Mapping) else variables
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(one, str) and _VARIABLE.fullmatch(one) for one in pairs
    ):
        raise UsageError("image_resources.environment: write variables as a list like [NAME=value]")
    texts = {}
    for key in ("current_working_directory", "standard_output", "standard_error", "name"):
        value = resources.get(key)
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise UsageError(f"image_resources.{key}: {value!r} is not text")
        texts[key] = value or ""
    return Surroundings(
        {name: value for name, _, value in (one.partition("=") for one in pairs)},
        texts["current_working_directory"],
        texts["standard_output"],
        texts["standard_error"],
        texts["name"],
        _elements(resources.get("array")),
    )


def _elements(value: Any) -> tuple[int, ...]:
    """Return the indices of ``0-3,7``; a limit of elements at once (``%2``) is left to this machine."""
    if value is None or value == "":
        return ()
    found: list[int] = []
    for part in str(value).partition("%")[0].split(","):
        match = _ARRAY.fullmatch(part.strip())
        last = int(match[2] or match[1]) if match else -1
        if match is None or last < int(match[1]) or last - int(match[1]) >= MOST_ELEMENTS:
            raise UsageError(f"image_resources.array: {value!r} is not a range of indices; write it like 0-3")
        found += range(int(match[1]), last + 1)
    return tuple(dict.fromkeys(found))
