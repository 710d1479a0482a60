"""The metadata files of a session, built and judged by the field's own schema package.

Input: a job, prepared files, service records, compression reports. Output:
``data_description.json``, ``subject.json``, ``procedures.json``,
``processing.json`` and ``metadata.nd.json`` as JSON data.
Invariant: what this module makes is valid by aind-data-schema; what others
made is kept as it is and its faults are reported, never mended.

aind-data-schema takes a second to import, so each function imports it itself.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.bounded import read_json as read_json_file
from lading.core.errors import LadingError, UsageError
from lading.core.version import VERSION
from lading.sessions import naming
from lading.sessions.job_model import Job

# Written where a list names no repository of its own.
REPOSITORY_URL = "urn:lading"
# File name → (module, class) of aind_data_schema.core.
SCHEMAS = {
    "subject.json": ("subject", "Subject"),
    "procedures.json": ("procedures", "Procedures"),
    "data_description.json": ("data_description", "DataDescription"),
    "processing.json": ("processing", "Processing"),
    "instrument.json": ("instrument", "Instrument"),
    "acquisition.json": ("acquisition", "Acquisition"),
    "quality_control.json": ("quality_control", "QualityControl"),
    "model.json": ("model", "Model"),
    "metadata.nd.json": ("metadata", "Metadata"),
}
RECORD = "metadata.nd.json"
# The parts of the record: each stands under its file's name without the ending.
PARTS = tuple(name.removesuffix(".json") for name in SCHEMAS if name != RECORD)


@dataclass(frozen=True)
class CompressionStep:
    """One compression, as the processing record tells of it; times are ISO 8601 with zone."""

    name: str
    started: str
    ended: str
    source: str
    output: str
    parameters: Mapping[str, Any]
    results: Mapping[str, Any]
    version: str = VERSION


def data_description(job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return data_description.json of a job.

    ``settings`` may name ``institution``, ``funding_source`` (list),
    ``investigators`` (list of names), ``license``, ``group``, ``tags``,
    ``restrictions`` and ``data_summary``. Raises ``UsageError`` for words that
    the schema does not know.
    """
    with _quiet():
        from aind_data_schema.components.identifiers import Person
        from aind_data_schema.core.data_description import DataDescription, Funding
        from aind_data_schema_models.modalities import Modality
        from pydantic import ValidationError

        institution = _organization(settings.get("institution", "Other"))
        funders = [_organization(name) for name in settings.get("funding_source", [])] or [institution]
        people = settings.get("investigators") or [job.processor_name or job.user_email or "unknown"]
        optional = ("license", "group", "tags", "restrictions", "data_summary")
        try:
            model = DataDescription(
                name=job.prefix,
                subject_id=job.subject_id,
                creation_time=created(job),
                institution=institution,
                funding_source=[Funding(funder=funder) for funder in funders],
                investigators=[Person(name=name) for name in people],
                project_name=job.project_name,
                data_level="raw",
                modalities=[
                    Modality.from_abbreviation(name)
                    for name in dict.fromkeys(entry.modality for entry in job.modalities)
                ],
                **{name: settings[name] for name in optional if name in settings},
            )
        except ValidationError as error:
            raise UsageError(f"data_description of {job.prefix}: {_words(error)}") from error
        return _dumped(model)


def created(job: Job) -> datetime:
    """Return the time of acquisition with its zone."""
    try:
        return naming.in_zone(job.acq_datetime, job.time_zone) if job.time_zone else job.acq_datetime
    except ValueError as error:
        raise UsageError(f"acq_datetime of {job.prefix}: {error}") from error


def processing(job: Job, steps: Sequence[CompressionStep]) -> dict[str, Any]:
    """Return processing.json: one process per compression, in the order of ``steps``."""
    with _quiet():
        from aind_data_schema.components.identifiers import Code, DataAsset
        from aind_data_schema.core.processing import DataProcess, Processing, ProcessStage

        processes = [
            DataProcess(
                process_type="Compression",
                name=step.name,
                stage=ProcessStage.PROCESSING,
                experimenters=[job.processor_name or job.user_email or "unknown"],
                code=Code(
                    url=job.aind_data_transfer_repo_location or REPOSITORY_URL,
                    name="lading",
                    version=step.version,
                    language="Python",
                    parameters=dict(step.parameters),
                    input_data=[DataAsset(name=Path(step.source).name, url=Path(step.source).as_uri())],
                ),
                start_date_time=datetime.fromisoformat(step.started),
                end_date_time=datetime.fromisoformat(step.ended),
                output_path=step.output,
                output_parameters=dict(step.results),
                notes=job.process_name,
            )
            for step in steps
        ]
        return _dumped(Processing(data_processes=processes, dependency_graph={step.name: [] for step in steps}))


def record(job: Job, parts: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return metadata.nd.json of the files that there are, and the names of those that it cannot take in.

    ``parts`` maps ``subject`` and so on to their data. The schema's record
    tolerates a broken part, but its checks across parts stumble over some:
    then the broken ones stay beside the record, as files.
    """
    with _quiet():
        from aind_data_schema.core.metadata import Metadata
        from pydantic import ValidationError

        found = {name: dict(value) for name, value in parts.items() if name in PARTS}
        broken = [name for name, value in found.items() if faults(f"{name}.json", value)]
        sound = {name: value for name, value in found.items() if name not in broken}
        for left_out, chosen in (([], found), (broken, sound)):
            try:
                return _dumped(Metadata(name=job.prefix, location=job.destination, **chosen)), list(left_out)
            except ValidationError as error:
                reason: Exception = error
                words = _words(error)
            except (AttributeError, TypeError, KeyError) as error:
                reason, words = error, f"the schema package's own check fails ({error})"
        raise LadingError(f"{RECORD} of {job.prefix}: {words}") from reason


def faults(name: str, content: Any) -> list[str]:
    """Return what the schema has against a metadata file's content, a sentence each; [] for a name it does not know."""
    if name not in SCHEMAS:
        return []
    from importlib import import_module

    with _quiet():
        from pydantic import ValidationError

        module, kind = SCHEMAS[name]
        schema = getattr(import_module(f"aind_data_schema.core.{module}"), kind)
        try:
            schema.model_validate(content)
        except ValidationError as error:
            return [f"{name}: {_one(item)}" for item in error.errors(include_url=False)]
        return []


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; ``UsageError`` when it holds none."""
    try:
        content = read_json_file(path)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); correct or remove it") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a JSON object; a metadata file is one")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a metadata file atomically."""
    with atomic_write(path) as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")


def _organization(name: str) -> Any:
    from aind_data_schema_models.organizations import Organization

    for find in (Organization.from_abbreviation, Organization.from_name):
        try:
            found = find(name)
        except (KeyError, ValueError):
            continue
        if found is not None:
            return found
    raise UsageError(f"{name!r} is not an organization of aind-data-schema-models; give its name or abbreviation")


def _dumped(model: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(model.model_dump_json(by_alias=True))
    return content


def _words(error: Any) -> str:
    return "; ".join(_one(item) for item in error.errors(include_url=False))


def _one(item: Mapping[str, Any]) -> str:
    place = ".".join(map(str, item["loc"]))
    return f"{place + ': ' if place else ''}{item['msg'].removeprefix('Value error, ')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the schema package's advice to its own authors off the user's screen."""
    schema = logging.getLogger("aind_data_schema")
    level = schema.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            schema.setLevel(level)
