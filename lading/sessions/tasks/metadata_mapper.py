"""The metadata of a session gathered by aind-metadata-mapper, where a list gives settings that only it reads.

Input: the settings of the task, prepared files. Output: its files in the
staging folder, each with what it was made from.
Invariant: it works on copies. It writes into the directory that it is given
as ``metadata_dir``, and that of a session belongs to whoever prepared it.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from lading.core.errors import LadingError
from lading.sessions import metadata
from lading.sessions.inputs import json_files
from lading.sessions.task_context import TaskContext
from lading.sessions.task_settings import MAPPER, MapperSettings

DESCRIPTION = "data_description.json"
ORIGIN = "made by aind-metadata-mapper"


def is_asked(work: TaskContext) -> bool:
    """Tell whether the task has settings that only aind-metadata-mapper reads; a program of the list's own runs it."""
    return not work.job.task(work.task).command_script and bool(set(work.options) & set(MapperSettings.model_fields))


def run_mapper(work: TaskContext, prepared: Mapping[str, Path]) -> dict[str, str]:
    """Run it, and put what it made into the staging folder; returns each file's name with its origin."""
    folder = work.place.directory / "metadata-mapper"
    given, made = folder / "given", folder / "made"
    # Another try begins with nothing: it would take what the last one made for prepared files.
    shutil.rmtree(folder, ignore_errors=True)
    for place in (given, made):
        place.mkdir(parents=True)
    for name, path in prepared.items():
        if name != metadata.RECORD:
            shutil.copyfile(path, given / name)
    work.run_python("-m", f"{MAPPER}.gather_metadata", "--job-settings", json.dumps(_settings(work, given, made)))
    found = {}
    for path in json_files(made):
        content = metadata.read_json(path)
        if path.name == DESCRIPTION:
            content["name"] = work.job.prefix  # it knows no platform
            wrong = metadata.faults(DESCRIPTION, content)
            if wrong:
                raise LadingError(f"{DESCRIPTION} of aind-metadata-mapper: {'; '.join(wrong[:5])}")
        metadata.write_json(work.staging / path.name, content)
        found[path.name] = ORIGIN
    return found


def _settings(work: TaskContext, given: Path, made: Path) -> dict[str, object]:
    """Return its settings: the list's, and of the row what it asks for."""
    job = work.job
    known = {name: value for name, value in work.options.items() if name in MapperSettings.model_fields}
    description = {
        "project_name": job.project_name,
        "modalities": list(dict.fromkeys(entry.modality for entry in job.modalities)),
        **known.get("data_description_settings", {}),
    }
    service = {"metadata_service_url": job.metadata_service_domain} if job.metadata_service_domain else {}
    row = {
        "metadata_dir": str(given),
        "output_dir": str(made),
        "subject_id": job.subject_id,
        "acquisition_start_time": metadata.created(job).isoformat(),
        "data_description_settings": description,
    }
    return {**service, **known, **row}
