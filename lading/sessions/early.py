"""What a job will need hours from now, looked for while its list is checked.

Input: a checked list. Output: a fault for each source that lacks, each secret
that is not where the list says, and each compression that could not begin.
Invariant: reads only; jobs that have faults already are left alone. Secrets
are asked for and forgotten.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from lading.compress.job import EXTRAS, load_kind
from lading.core.command_line import Parser
from lading.core.errors import LadingError
from lading.core.extras import lacking
from lading.sessions.columns import SECRET_COLUMNS
from lading.sessions.job_model import PATH_COLUMNS, Checked, Job, Modality, Resolved
from lading.sessions.presets import merge
from lading.sessions.services.parameter_store import reveal
from lading.sessions.table import ListError
from lading.sessions.tasks.transform import compression_of, flags, read_configs
from lading.sessions.values import secret


def find_errors(checked: Checked, base: Path, site: Mapping[str, Any]) -> list[ListError]:
    """Return the faults that the list's own text does not show."""
    found = []
    known: dict[str, str] = {}
    for row in checked.rows:
        for name, message in _of_job(row.job, base, known) if row.job else ():
            found.append(ListError(row.line, _column(row, name), name, f"{name}: {message}"))
    first = next((row.line for row in checked.rows), 1)
    for place, message in _of_site(site, base, known):
        found.append(ListError(first, 1, "", f"the site's settings: {place}: {message}"))
    return found


def find_missing_sources(checked: Checked, roots: Iterable[str]) -> list[ListError]:
    """Return the faults of sources below ``roots``, as a list's own owner would see them.

    A path elsewhere, and one that a link takes elsewhere, is not looked at: nobody learns here whether it exists.
    """
    tops = [os.path.normpath(root) for root in roots]
    return [
        ListError(row.line, _column(row, name), name, f"{name}: {message}")
        for row in checked.rows
        for name, path in (_places(row.job) if row.job else ())
        if path is not None and _is_below(path, tops) and (message := _unreadable(path))
    ]


def _is_below(path: Path, tops: Iterable[str]) -> bool:
    """Tell whether a path is below one of these by its text, and by where its links lead."""
    text = os.path.normpath(path)
    return any(
        _under(text, top) and _under(os.path.realpath(text), os.path.realpath(top)) for top in tops if top != os.sep
    )


def _under(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}{os.sep}")


def _unreadable(path: Path) -> str:
    """Return why a source cannot be read by this process, "" when it can."""
    try:
        status = os.stat(path)
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError | NotADirectoryError) else error.strerror
        return f"{path} {reason}" if reason == "does not exist" else f"{path} cannot be looked at here: {reason}"
    if not os.access(path, os.R_OK | os.X_OK if stat.S_ISDIR(status.st_mode) else os.R_OK):
        return f"{path} cannot be read by the user that this runs as; make it readable"
    return ""


def _column(row: Resolved, name: str) -> int:
    return next((value.column for value in row.values if value.name == name and value.column), 1)


def _of_job(job: Job, base: Path, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, path in _places(job):
        if path is not None and (message := _unreadable(path)):
            yield name, message
    for entry in _carried(job):
        yield from _of_compression(job, entry)
    for name in SECRET_COLUMNS:
        value = getattr(job, name)
        message = _unrevealed(value, base, known) if value is not None else ""
        if message:
            yield name, message


def _places(job: Job) -> list[tuple[str, Path | None]]:
    """Return what a job reads: the sources of its modalities, and its folders, by their columns."""
    places = [(f"modality{entry.number}.source", entry.source) for entry in _carried(job)]
    return [*places, *((name, getattr(job, name)) for name in PATH_COLUMNS if name != "temp_directory")]


def _carried(job: Job) -> list[Modality]:
    return [entry for entry in job.modalities if not job.task("compress_data", entry.folder).skip_task]


def _of_compression(job: Job, entry: Modality) -> Iterator[tuple[str, str]]:
    """Yield why a modality's compression could not be planned: the settings are read as it will read them."""
    task = job.task("compress_data", entry.folder)
    if task.command_script or not entry.compress_raw_data:
        return
    settings = task.job_settings
    try:
        if entry.extra_configs:
            settings = merge(settings, read_configs(entry.extra_configs))
        kind, options = compression_of(entry, settings)
        if not any(map(lacking, EXTRAS.get(kind, ()))):
            # The compressor's own reader, over the flags that the task will give it.
            parser = Parser(prog=f"the compression of {kind}", add_help=False)
            load_kind(kind).add_options(parser)
            parser.parse_args(flags(options))
    except LadingError as error:
        yield f"modality{entry.number}" + (".extra_configs" if entry.extra_configs else ""), str(error)


def _of_site(site: Mapping[str, Any], base: Path, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, key in (("webhook", "secret"), ("mail", "password"), ("docdb", "api_token")):
        value = (site.get(name) or {}).get(key)
        message = _unrevealed(secret(value), base, known) if value else ""
        if message:
            yield f"{name}.{key}", message


def _unrevealed(value: SecretStr, base: Path, known: dict[str, str]) -> str:
    """Return why a secret cannot be had, "" when it can; each is asked for once."""
    text = value.get_secret_value()
    if text not in known:
        try:
            reveal(value, base)
            known[text] = ""
        except LadingError as error:
            known[text] = str(error)
    return known[text]
