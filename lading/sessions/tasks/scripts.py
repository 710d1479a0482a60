"""Tasks that bring their own program: ``command_script`` and ``image``.

Input: a task with a script, and what its placeholders stand for. Output: a
script in the job's state and its run, in a container when an image is named.
Invariant: a value that replaces a placeholder stays one shell word, whatever
is in it and however the script quotes the placeholder; the image's program
gets no secret on its command line.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.errors import UsageError
from lading.sessions.job_model import TaskOptions
from lading.sessions.resources import Surroundings, surroundings
from lading.sessions.task_context import TaskContext, program_environment

PLACEHOLDERS = ("JOB_SETTINGS", "OUTPUT_LOCATION", "S3_LOCATION", "INPUT_SOURCE", "IMAGE_VERSION", "IMAGE", "ENV_FILE")
_PLACEHOLDER = re.compile("%(" + "|".join(PLACEHOLDERS) + ")")
_HERE_DOCUMENT = re.compile(r"(?<!<)<<(?!<)")
_NESTED = "a command substitution inside double quotes"
RUNTIMES = ("apptainer", "singularity")


def fill(script: str, values: Mapping[str, str]) -> str:
    """Return a shell script with its ``%NAME`` placeholders replaced, quoted for where they stand.

    Comments are left alone. Raises ``UsageError`` for a placeholder without a
    value, and for one where no quoting is safe: in a here-document, in
    backquotes, in ``$'…'``, or in a command substitution inside double quotes.
    """
    parts = []
    here_document = nested = False
    for text, quote in _by_quote(script):
        # From the first << on nothing is certain: its body may hold what looks like quotes.
        here_document = here_document or (not quote and _HERE_DOCUMENT.search(text) is not None)
        if quote != "#" and _PLACEHOLDER.search(text):
            place = "a here-document" if here_document else _NESTED if nested else _unsafe(text, quote)
            if place:
                raise UsageError(
                    f"command_script has a placeholder in {place}, where no value can be inserted safely; move it out"
                )
            text = _PLACEHOLDER.sub(partial(_replacement, values=values, quote=quote), text)
        parts.append(text)
        # Quotes within it are quotes anew to the shell, and the end of these to this reading.
        nested = nested or (quote == '"' and _is_open(text))
    return "".join(parts)


def _is_open(text: str) -> bool:
    """Tell whether a double-quoted piece ends inside ``$(…)`` or ``${…}``."""
    return any(opens in text and text.count(opens[1]) > text.count(ends) for opens, ends in (("$(", ")"), ("${", "}")))


def _unsafe(text: str, quote: str) -> str:
    if "`" in text and quote != "'":
        return "backquotes"
    if quote == '"' and "$(" in text:
        return _NESTED
    return "$'…'" if quote == "$'" else ""


def _replacement(match: re.Match[str], values: Mapping[str, str], quote: str) -> str:
    return _quoted(match[1], values, quote)


def _by_quote(script: str) -> Iterator[tuple[str, str]]:
    """Yield (piece, what is around it: ``'``, ``"``, ``$'``, ``#`` for a comment, or nothing) of a shell script."""
    position, quote, start, word_begins = 0, "", 0, True
    while position < len(script):
        sign = script[position]
        if not quote and sign == "#" and word_begins:
            end = script.find("\n", position)
            end = len(script) if end < 0 else end
            yield script[start:position], ""
            yield script[position:end], "#"
            start = position = end
            continue
        if sign == "\\" and quote != "'":
            position += 2
            word_begins = False
            continue
        if sign in "'\"" and (not quote or quote[-1] == sign):
            yield script[start : position + 1], quote
            start = position + 1
            opened = "$'" if sign == "'" and script[position - 1 : position] == "$" else sign
            quote = "" if quote else opened
        word_begins = sign in " \t\n;&|("
        position += 1
    yield script[start:], quote


def _quoted(name: str, values: Mapping[str, str], quote: str) -> str:
    if name not in values:
        raise UsageError(f"command_script uses %{name}, which this task has no value for")
    value = values[name]
    if quote == "'":
        return value.replace("'", "'\\''")
    if quote == '"':
        return re.sub(r'([\\"$`])', r"\\\1", value)
    return shlex.quote(value)


def run_script(work: TaskContext, task: TaskOptions, source: Path, output: Path) -> dict[str, object]:
    """Run a task's own program; its output belongs below ``output``.

    With ``image_resources.array`` it runs once for each index, which it finds
    where a Slurm array has it: ``SLURM_ARRAY_TASK_ID``.
    """
    script = _write_script(work, task, source, output)
    output.mkdir(parents=True, exist_ok=True)
    around = surroundings(task.image_resources)
    if task.image and "%IMAGE" not in task.command_script:
        command = _container(task, script, source, output, work)
    else:
        command = ["bash", str(script)]

    def run(element: int | None) -> None:
        variables = dict(around.variables)
        if element is not None:
            count, elements = len(around.elements), around.elements
            variables |= {
                "SLURM_ARRAY_TASK_ID": str(element),
                "SLURM_ARRAY_TASK_COUNT": str(count),
                "SLURM_ARRAY_TASK_MIN": str(min(elements)),
                "SLURM_ARRAY_TASK_MAX": str(max(elements)),
            }
        run_around(work, command, replace(around, variables=variables))

    if around.elements:
        with ThreadPoolExecutor(max(1, work.settings.cores)) as pool:
            list(pool.map(run, around.elements))
    else:
        run(None)
    found: dict[str, object] = {"image": task.image, "image_version": task.image_version}
    return found | ({"elements": len(around.elements)} if around.elements else {})


def run_around(
    work: TaskContext, command: Sequence[str], around: Surroundings, environment: Mapping[str, str] | None = None
) -> None:
    """Run a program where and with what ``image_resources`` says; its log is copied to where they want it."""
    found = dict(environment if environment is not None else program_environment())
    for name, value in around.variables.items():
        inherited = found.get(name)
        # What is found here is still found, after what was asked for.
        found[name] = f"{value}:{inherited}" if name in ("PATH", "LD_LIBRARY_PATH") and inherited else value
        # Containers that begin with a clean environment take these.
        found |= {f"APPTAINERENV_{name}": value, f"SINGULARITYENV_{name}": value}
    directory = work.place.directory / around.directory if around.directory else None
    log = work.place.log(work.task, work.part)
    start = log.stat().st_size if log.exists() else 0
    try:
        work.run_program(command, directory=directory, environment=found)
    finally:
        for wanted in dict.fromkeys((around.output, around.errors)):
            if wanted:
                _copy_log(work, log, start, wanted, around)


def _copy_log(work: TaskContext, log: Path, start: int, wanted: str, around: Surroundings) -> None:
    """Copy what a program wrote to the file that Slurm would have written; where that fails, the log says so."""
    number = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
    index = around.variables.get("SLURM_ARRAY_TASK_ID", number)
    known = {"%x": around.name or f"{work.job.prefix}.{work.part}", "%j": number, "%A": number, "%a": index, "%%": "%"}
    path = Path(re.sub("%[xjAa%]", lambda match: known[match[0]], wanted))
    try:
        with open(log, "rb") as stream:
            stream.seek(start)
            content = stream.read()
        (work.place.directory / path).write_bytes(content)
    except OSError as error:
        work.say(f"{wanted} cannot be written: {error.strerror}; the log is {log}")


def job_settings(
    work: TaskContext, task: TaskOptions, values: Mapping[str, str], source: Path, output: Path
) -> dict[str, Any]:
    """Return the settings that a task's program gets, with the placeholders in its texts replaced.

    A modality's program finds ``input_source`` and ``output_directory`` there,
    the metadata's ``metadata_dir``, under the names that the list gave them by.
    """
    given = dict(task.job_settings)
    if work.task == "compress_data":
        given.setdefault("input_source", str(source))
        given.setdefault("output_directory", str(output))
    elif work.task == "gather_preliminary_metadata" and work.job.metadata_dir:
        given.setdefault("metadata_dir", str(work.job.metadata_dir))
    found: dict[str, Any] = _filled(given, values)
    return found


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), value)
    if isinstance(value, Mapping):
        return {key: _filled(item, values) for key, item in value.items()}
    return [_filled(item, values) for item in value] if isinstance(value, list) else value


def _write_script(work: TaskContext, task: TaskOptions, source: Path, output: Path) -> Path:
    if not task.command_script:
        raise UsageError(f"task {work.task} names the image {task.image} but no command_script to run in it")
    name = f"{work.task}.{work.part}" if work.part else work.task
    environment = work.place.directory / "logs" / f"{name}.env"
    environment.write_text("")
    values = {
        "OUTPUT_LOCATION": str(output),
        "S3_LOCATION": work.job.destination,
        "INPUT_SOURCE": str(source),
        "IMAGE": task.image,
        "IMAGE_VERSION": task.image_version,
        "ENV_FILE": str(environment),
    }
    values["JOB_SETTINGS"] = json.dumps(job_settings(work, task, values, source, output))
    path = work.place.directory / "logs" / f"{name}.sh"
    with atomic_write(path) as stream:
        stream.write(fill(task.command_script, values))
    return path


def _container(task: TaskOptions, script: Path, source: Path, output: Path, work: TaskContext) -> list[str]:
    """Return the command that runs a script inside the task's image; ``UsageError`` where nothing can."""
    runtime = next((name for name in RUNTIMES if shutil.which(name)), None)
    if runtime is None:
        raise UsageError(
            f"task {work.task} asks for the image {task.image}, but neither apptainer nor singularity is on PATH; "
            "load its module, or leave the image out to run the program of this machine"
        )
    image = task.image if task.image.endswith(".sif") or "://" in task.image else f"docker://{task.image}"
    if task.image_version and not image.endswith(".sif"):
        image = f"{image}:{task.image_version}"
    # Paths with a comma or colon cannot be told apart in --bind.
    for path in (source, output):
        if set(",:") & set(str(path)):
            raise UsageError(f"{path} has a comma or a colon, which {runtime} cannot bind; rename it")
    binds = f"{source}:{source}:ro,{output}:{output},{script}:{script}:ro"
    return [runtime, "exec", "--cleanenv", "--bind", binds, image, "bash", str(script)]
