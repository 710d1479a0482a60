"""The metadata tasks: gather, record the processing, check.

Input: prepared files, the metadata service, compression facts of the
journal. Output: JSON files at the top of the staging folder.
Invariant: a prepared file goes before the service, and with
``metadata_dir_force`` before what is generated too; a file about another
subject stops the job; an answer "no such subject" makes no file.
"""

from pathlib import Path
from typing import Any

from lading.core.errors import LadingError, UsageError
from lading.sessions import metadata
from lading.sessions.inputs import json_files
from lading.sessions.naming import host_zone
from lading.sessions.services import metadata_service
from lading.sessions.services.http import HttpClient, Unreachable
from lading.sessions.task_context import TaskContext
from lading.sessions.tasks.metadata_mapper import is_asked, run_mapper
from lading.sessions.tasks.scripts import run_script
from lading.sessions.tasks.staging import note_staged

# The name of their inventory, which no modality has.
INVENTORY = "metadata"
FROM_SERVICE = {"subject": "subject.json", "procedures": "procedures.json"}


def preliminary(work: TaskContext) -> dict[str, object]:
    """Write data_description, subject, procedures and the other prepared files."""
    folder = work.job.metadata_dir
    _check_zone(work)
    _run_program(work)
    prepared = {path.name: path for path in json_files(folder)} if folder else {}
    # It has read the prepared files, and its own hold what they say.
    origin = run_mapper(work, prepared) if is_asked(work) else {}
    mapped = set(origin)
    for name, path in prepared.items():
        if name == metadata.RECORD or name in mapped:
            continue
        content = metadata.read_json(path)
        _check_subject(work, name, content)
        if name == "data_description.json" and not (work.job.metadata_dir_force or _describes(work, content)):
            origin[name] = f"generated: {path} names another session"
            continue
        metadata.write_json(work.staging / name, content)
        origin[name] = str(path)
    made = [*mapped, *_made_by_program(work, origin)]
    if origin.get("data_description.json", "generated").startswith("generated"):
        # The settings of a program are the program's.
        own = {} if work.job.task(work.task).command_script else work.options
        metadata.write_json(work.staging / "data_description.json", metadata.data_description(work.job, own))
        origin.setdefault("data_description.json", "generated")
    for kind, name in FROM_SERVICE.items():
        if name not in origin:
            origin[name] = _fetch(work, kind, name)
    for name in made:
        _check_subject(work, name, metadata.read_json(work.staging / name))
    _note(work)
    return {"files": origin}


def _check_zone(work: TaskContext) -> None:
    """Refuse a time without zone where this machine would take it for another time than the list's machine did."""
    there, here = work.settings.list_zone, host_zone()
    if work.job.time_zone or work.job.acq_datetime.tzinfo is not None or there in ("", here):
        return
    raise UsageError(
        f"acq_datetime {work.job.acq_datetime} has no zone: it was {there} where the list was started and is {here} "
        "here; set time_zone in the site's settings, or write the offset into the list"
    )


def _run_program(work: TaskContext) -> None:
    """Have a program of the list's own make its files before ours are made."""
    task = work.job.task(work.task)
    if task.command_script:
        run_script(work, task, work.job.metadata_dir or work.staging, work.staging)


def _made_by_program(work: TaskContext, origin: dict[str, str]) -> list[str]:
    """Note the files that a program made and nobody prepared."""
    if not work.job.task(work.task).command_script:
        return []
    made = [
        path.name
        for path in _top_files(work.staging)
        if path.name not in origin
        and (path.name != "data_description.json" or _describes(work, metadata.read_json(path)))
    ]
    origin.update((name, "made by the task's program") for name in made)
    return made


def _describes(work: TaskContext, content: dict[str, Any]) -> bool:
    return content.get("name") == work.job.prefix and not metadata.faults("data_description.json", content)


def _check_subject(work: TaskContext, name: str, content: dict[str, Any]) -> None:
    subject = content.get("subject_id")
    if subject is not None and str(subject) != work.job.subject_id:
        raise UsageError(
            f"{name} is about subject {subject!r}, but the job is about {work.job.subject_id!r}; correct one of them"
        )


def _fetch(work: TaskContext, kind: str, name: str) -> str:
    """Get a file from the metadata service; returns what became of it."""
    domain = work.job.metadata_service_domain
    if domain is None:
        return "absent: no metadata service is named"
    timeout = float(work.options.get("timeout", 30))
    service = HttpClient("the metadata service", domain, timeout=timeout, plain=True)  # it gets no token
    try:
        found = metadata_service.fetch(service, kind, work.job.subject_id)
    except Unreachable as error:
        if not work.options.get("allow_unreachable"):
            raise LadingError(
                f"{error}; or put {name} into metadata_dir, or set gather_preliminary_metadata.allow_unreachable"
            ) from error
        work.say(f"{name} is missing: {error}")
        return "absent: the metadata service does not answer"
    if found is None:
        work.say(f"{name} is missing: the metadata service knows no {kind} of {work.job.subject_id}")
        return "absent: the metadata service has none"
    _check_subject(work, name, dict(found.content))
    metadata.write_json(work.staging / name, found.content)
    return found.note


def final(work: TaskContext) -> dict[str, object]:
    """Write processing.json and metadata.nd.json."""
    steps = []
    for entry in work.job.modalities:
        state = work.state.task("compress_data", entry.folder)
        facts = dict(state.facts)
        if facts.get("action") != "compress":
            continue
        results: dict[str, Any] = {
            name: facts[name] for name in ("bytes_in", "bytes_out", "ratio", "checksum") if name in facts
        }
        steps.append(
            metadata.CompressionStep(
                name=f"Compression {entry.folder}",
                started=facts["started"],
                ended=facts["ended"],
                source=str(entry.source),
                output=entry.folder,
                parameters={"kind": facts["kind"], **facts.get("options", {}), "versions": facts.get("versions", {})},
                results=results,
            )
        )
    staging = work.staging
    task = work.job.task(work.task)
    if task.command_script:
        run_script(work, task, staging, staging)
    if not (task.command_script and (staging / "processing.json").exists()):
        metadata.write_json(staging / "processing.json", metadata.processing(work.job, steps))
    parts = {path.name.removesuffix(".json"): metadata.read_json(path) for path in _top_files(staging)}
    record, left_out = metadata.record(work.job, parts)
    metadata.write_json(staging / metadata.RECORD, record)
    for name in left_out:
        work.say(f"{name}.json does not fit its schema: it is uploaded, but is not part of {metadata.RECORD}")
    _note(work)
    return {"processes": len(steps), "left_out": left_out}


def _note(work: TaskContext) -> None:
    """Write the inventory of the metadata files, which the upload compares with what it sent."""
    note_staged(work, INVENTORY, work.staging, json_files(work.staging))


def _top_files(staging: Path) -> list[Path]:
    return [path for path in json_files(staging) if path.name != metadata.RECORD]


def check(work: TaskContext) -> dict[str, object]:
    """Refuse a session whose own metadata files break the schema; report the faults of what others made."""
    staging = work.staging
    lacking = [
        name for name in ("data_description.json", "processing.json", metadata.RECORD) if not (staging / name).exists()
    ]
    made = {"processing.json", metadata.RECORD, "data_description.json"}
    strict = bool(work.options.get("strict"))
    faults = [f"{name} is missing" for name in lacking]
    noted: list[str] = []
    names = []
    for path in [*_top_files(staging), *([staging / metadata.RECORD] if metadata.RECORD not in lacking else [])]:
        names.append(path.name)
        found = metadata.faults(path.name, metadata.read_json(path))
        (faults if strict or path.name in made else noted).extend(found)
    if faults:
        raise LadingError("; ".join(faults[:20]))
    for fault in noted:
        work.say(f"kept although it fails its schema: {fault}")
    return {"files": names, "invalid": noted[:20]}
