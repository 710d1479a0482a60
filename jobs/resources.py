"""``image_resources``: what a task asks of Slurm, as sbatch flags.

Input: the resources of a task, with the keys of the service (slurmrestd's job
properties) or plain ones. Output: flags, or a sentence that names every key
and value that Slurm would not take.
Invariant: pure; what ``check`` accepts here, ``run`` can submit.
"""

import re
from collections.abc import Mapping
from typing import Any

from lading.errors import UsageError

_DIRECTIVES = {
    "memory_per_cpu": "--mem-per-cpu",
    "memory_per_node": "--mem",
    "memory_gb": "--mem",
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
# Known to the service, and nothing that sbatch is told.
_IGNORED = ("environment", "name", "standard_error", "standard_output")
_VALUE = re.compile(r"[A-Za-z0-9_.:,&|\[\]()*=/-]+")


def directives(resources: Mapping[str, Any]) -> list[str]:
    """Return sbatch flags for ``image_resources``; ``UsageError`` lists every key that Slurm would not know."""
    unknown = sorted(set(resources) - set(_DIRECTIVES) - set(_IGNORED))
    if unknown:
        raise UsageError(f"image_resources: {', '.join(unknown)} is not known; use {', '.join(_DIRECTIVES)}")
    found = []
    for key, value in resources.items():
        flag = _DIRECTIVES.get(key)
        if flag is None:
            continue
        # slurmrestd wraps numbers: {"set": true, "number": 240}.
        plain = value.get("number") if isinstance(value, Mapping) else value
        if not _VALUE.fullmatch(str(plain)):
            raise UsageError(f"image_resources.{key}: {plain!r} is not a value for {flag}")
        found.append(f"{flag}={plain}{'G' if key == 'memory_gb' else ''}")
    return found
