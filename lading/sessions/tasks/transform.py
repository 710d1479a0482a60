"""The modality tasks: decide how each modality travels, then compress, copy, or leave it for direct upload.

Input: a job's modalities with their settings. Output: ``transform.json`` in
the job's state, and each modality under its folder in the staging folder.
Invariant: a modality compressed here was decoded and compared by its data
kind before the task ends; what is sent from its source has no link in it
(links are followed by copying).
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from lading.checksums.digest import FileState
from lading.compress.job import KINDS, walk_files
from lading.compress.state import REPORT
from lading.core.atomic import atomic_write, read_record
from lading.core.bounded import JsonMembers
from lading.core.errors import LadingError, UsageError
from lading.core.progress import counted
from lading.core.yaml_file import read_yaml
from lading.sessions.job_model import Job, Modality
from lading.sessions.journal import now
from lading.sessions.precedence import is_secret, leaves
from lading.sessions.presets import merge
from lading.sessions.provenance import COMPRESSED, COPIES, OutputRecord, SourceRecord, Top, write_provenance
from lading.sessions.resources import surroundings
from lading.sessions.services.parameter_store import reveal
from lading.sessions.task_context import OUTDATED, TaskContext, program_environment
from lading.sessions.task_settings import KIND_OF, KIND_SETTINGS, read_settings
from lading.sessions.tasks.scripts import run_around, run_script
from lading.sessions.tasks.staging import note_staged, set_aside, stage_folder, top_of

# The part that stands for behavior_dir.
BEHAVIOR = "behavior"
SETTINGS = "transform.json"
# Of what a compression left out by name, in the task's log; its report has all.
LEFT_OUT_SHOWN = 20
# Videos as they are, each in a password zip: what a job with a password does to behaviour data.
ENCRYPTED: dict[str, Any] = {"action": "compress", "kind": "video", "options": {"preset": "none", "video_zip": "aes"}}


def parts_of(job: Job) -> list[str]:
    """Return the parts of compress_data: a folder per modality, and one for ``behavior_dir``."""
    folders = [entry.folder for entry in job.modalities]
    return [*folders, behavior_folder(job)] if job.behavior_dir else folders


def behavior_folder(job: Job) -> str:
    """Return the folder of ``behavior_dir``, apart from any modality's."""
    taken = {entry.folder for entry in job.modalities}
    return BEHAVIOR if BEHAVIOR not in taken else "behavior_dir"


def settle(work: TaskContext) -> dict[str, object]:
    """Decide for each modality and write the decisions; raises with every fault of every modality."""
    decisions: dict[str, object] = {}
    faults = []
    for entry in work.job.modalities:
        if work.job.task("compress_data", entry.folder).skip_task:
            continue
        try:
            decisions[entry.folder] = decide(work.job, entry)
        except LadingError as error:
            faults.append(f"modality{entry.number}: {error}")
    if work.job.behavior_dir:
        how = dict(ENCRYPTED) if work.job.video_encryption_password else {"action": "copy"}
        decisions[behavior_folder(work.job)] = {"source": str(work.job.behavior_dir), **how}
    if faults:
        raise UsageError("; ".join(faults))
    with atomic_write(work.place.directory / SETTINGS) as stream:
        json.dump(decisions, stream, indent=1)
        stream.write("\n")
    return {"modalities": decisions}


def decide(job: Job, entry: Modality) -> dict[str, Any]:
    """Return how one modality travels: its action (compress, copy, direct, script), kind and options."""
    task = job.task("compress_data", entry.folder)
    settings = dict(task.job_settings)
    if entry.source is None:
        raise UsageError("it has no source; give the path of its data, or skip it")
    decision: dict[str, Any] = {"source": str(entry.source)}
    if task.command_script or task.image:
        return {**decision, "action": "script"}
    if entry.extra_configs:
        settings = merge(settings, read_configs(entry.extra_configs))
    secrets = [name for name, _ in leaves(settings) if is_secret(name)]
    if secrets:
        # Settings become flags of a program and stand in the job's state.
        raise UsageError(f"the setting {secrets[0]} would show a secret; use the column video_encryption_password")
    if not entry.compress_raw_data and entry.modality == "behavior-videos" and job.video_encryption_password:
        chosen = {name: settings[name] for name in ("video_zip",) if name in settings}
        return {**decision, **ENCRYPTED, "options": ENCRYPTED["options"] | chosen}
    if not entry.compress_raw_data:
        direct = entry.skip_staging and entry.source.is_dir() and not _has_links(entry.source)
        return {**decision, "action": "direct" if direct else "copy"}
    kind, options = compression_of(entry, settings)
    if kind == "generic":
        options.setdefault("pack", "plain")
    if kind == "video" and job.video_encryption_password:
        options.setdefault("video_zip", "aes")
    return {**decision, "action": "compress", "kind": kind, "options": options}


def compression_of(entry: Modality, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (data kind, options) of a modality that is compressed; ``UsageError`` names what does not fit."""
    kind = settings.get("kind", KIND_OF.get(entry.modality, "generic"))
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is not a data kind; one of {', '.join(KINDS)}")
    return kind, _options(kind, settings, entry)


def _options(kind: str, settings: Mapping[str, Any], entry: Modality) -> dict[str, Any]:
    """Return the flags of a compressor; ``UsageError`` names what it does not read, of a file of settings too."""
    settings = {name: value for name, value in settings.items() if name != "compress_raw_data"}  # it was heeded
    reading = read_settings(KIND_SETTINGS[kind], settings, f"the compression of {kind}")
    if reading.errors:
        where = f" (see {entry.extra_configs})" if entry.extra_configs else ""
        raise UsageError("; ".join(f"{'.'.join(trail)}: {text}" for trail, text in reading.errors[:20]) + where)
    return {name: value for name, value in reading.values.items() if name != "kind"}


def read_decisions(work: TaskContext) -> dict[str, dict[str, Any]]:
    """Return what was decided for each modality, by its folder; ``UsageError`` when that is damaged."""

    def take(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
        for folder, decision in record.items():
            members = JsonMembers(decision, folder)
            if members.text("action") == "compress":
                members.text("kind"), members.object("options")
            members.text("source")
        return record

    return read_record(work.place.directory / SETTINGS, take, "run the list again with --force-cloud-sync")


def read_configs(path: Path) -> dict[str, Any]:
    """Return the settings in a JSON or YAML file."""
    try:
        content = read_yaml(path).value
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is neither JSON nor YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no object with settings")
    return content


def _has_links(source: Path) -> bool:
    for directory, names, files in os.walk(source, onerror=_refuse):
        if any(os.path.islink(os.path.join(directory, name)) for name in (*names, *files)):
            return True
    return os.path.islink(source)


def _refuse(error: OSError) -> None:
    raise LadingError(f"{error.filename} cannot be read: {error.strerror}; make it readable, then run again") from error


def transform(work: TaskContext) -> dict[str, object]:
    """Bring one modality into the staging folder as was decided."""
    decisions = read_decisions(work)
    decision = decisions[work.part]
    source = Path(decision["source"])
    facts: dict[str, object] = {"action": decision["action"], "started": now()}
    if decision["action"] == "compress":
        facts |= _compress(work, source, decision["kind"], decision["options"])
    elif decision["action"] == "copy":
        facts |= _copy(work, source)
    elif decision["action"] == "direct":
        facts |= _note_direct(work, source)
    else:
        target = work.staging / work.part
        facts |= run_script(work, work.job.task("compress_data", work.part), source, target)
        links: list[str] = []
        note_staged(work, work.part, target, _written(target, links))
        if links:
            facts["left_out"] = len(links)
            work.say(
                f"{counted(len(links), 'link')} and special files that the script made are not sent: "
                f"{', '.join(links[:20])}"
            )
        # What a foreign program did with the data is not ours to vouch for: its sources are never deleted.
    return {**facts, "ended": now()}


def _written(folder: Path, left_out: list[str]) -> Iterator[Path]:
    """Yield each file below a folder; what is not sent, links above all, goes to ``left_out``."""
    for directory, folders, names in os.walk(folder, onerror=_refuse):
        paths = [Path(directory, name) for name in folders]
        left_out += [str(path) for path in paths if path.is_symlink()]
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                yield path
            else:
                left_out.append(str(path))


def _compress(work: TaskContext, source: Path, kind: str, options: Mapping[str, Any]) -> dict[str, object]:
    target = work.staging / work.part
    state = work.place.compression(work.part)
    top, before = _snapshot(source)
    aside = None
    if OUTDATED in work.state.task(work.task, work.part).facts:
        # Its files are not what was compared: none of them counts as done.
        aside = set_aside(work, work.part)
        shutil.rmtree(state, ignore_errors=True)
    environment = program_environment()
    if work.job.video_encryption_password:
        password = reveal(work.job.video_encryption_password, work.settings.list_path.parent)
        environment["LADING_ZIP_PASSWORD"] = password.get_secret_value()
    command = [
        sys.executable, "-m", "jobs", "compress", source, target,
        "--kind", kind, "--engine", "local", "--workers", work.settings.cores, "--state", state, *flags(options),
    ]  # fmt: skip
    resources = work.job.task(work.task, work.part).image_resources
    run_around(work, list(map(str, command)), surroundings(resources), environment)
    # Not by ctime: videos that stay as they are were linked meanwhile.
    _, after = _snapshot(source)
    if {path: replace(one, ctime_ns=0) for path, one in after.items()} != {
        path: replace(one, ctime_ns=0) for path, one in before.items()
    }:
        raise LadingError(f"{source} changed while it was compressed; run again when nothing writes there")
    report = read_record(state / REPORT, dict, "compress it again")
    lost = _note_compression(work, source, state, report, before, top)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)
    if lost:
        work.say(f"remove_source_folders leaves {source}: {lost}")
    left_out = report.get("left_out", [])
    for item in left_out[:LEFT_OUT_SHOWN]:
        work.say(f"left out: {item['item']}: {item['reason']}")
    return {
        "kind": kind,
        "options": report.get("options", dict(options)),
        "versions": report.get("versions", {}),
        "bytes_in": report["bytes_in"],
        "bytes_out": report["bytes_out"],
        "ratio": report["ratio"],
        "checksum": report.get("decoded_checksum"),
        **({"left_out": report.get("left_out_items", len(left_out))} if left_out else {}),
    }


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return settings as flags: ``{"chunk_seconds": 1, "lsb": true}`` → ``--chunk-seconds=1 --lsb``."""
    found: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value is False or value is None:
            continue
        elif isinstance(value, (list, tuple)):
            found.append(f"{flag}={','.join(map(str, value))}")
        else:
            found.append(f"{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    return found


def _note_compression(
    work: TaskContext, source: Path, state: Path, report: Mapping[str, Any], before: Mapping[str, FileState], top: Top
) -> str:
    """Take over what the compression noted of its sources and outputs; returns what of them no object carries."""
    # These read TIFF files and arrays: a list that compresses none need not load that.
    from lading.compress.file_records import read_outputs, read_sources
    from lading.compress.lossless_check import coverage_of, not_preserved

    planned = int(datetime.fromisoformat(report["planned_at"]).timestamp()) * 10**9  # nothing was read before
    lost = not_preserved(report, (str(_locate(source, path)) for path in before))
    records = []
    for found in read_sources(state):
        stamp = FileState(found.size, found.mtime_ns, found.ctime_ns, found.inode, found.device)
        records.append(SourceRecord(found.path, found.size, found.sha256, stamp, planned, lossy=found.lossy or lost))
    noted = {record.path for record in records}
    lost = lost or ("no object contains it" if before.keys() - noted else "")
    records += [_read_now(source, path, stamp, lost) for path, stamp in before.items() if path not in noted]
    outputs = [OutputRecord(f"{work.part}/{one.path}", one.size, one.sha256) for one in read_outputs(state)]
    write_provenance(work.place.lineage, work.part, source, COMPRESSED, records, outputs, top, coverage_of(report))
    return lost


def _locate(source: Path, path: str) -> Path:
    return source if path == "." else source / path


def _read_now(source: Path, path: str, before: FileState, lost: str) -> SourceRecord:
    """Make the record of a file that no output carries: it may go only if somebody accepts that loss."""
    began = time.time_ns()
    with open(_locate(source, path), "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if FileState.of(os.fstat(stream.fileno())) != before:
            raise LadingError(
                f"{_locate(source, path)} changed while it was compressed; run again when nothing writes there"
            )
    return SourceRecord(path, before.size, sha256, before, began, lossy=lost)


def _snapshot(source: Path) -> tuple[Top, dict[str, FileState]]:
    """Return a source's top and the state of every file, as compression walks it: refuses links to directories."""
    top = top_of(source)
    found = {path: FileState.of(status) for path, status in walk_files(source)}
    if not found:  # a mount point without its mount
        raise LadingError(f"{source} holds no file; is its file system mounted here? Then run again")
    return top, found


def _copy(work: TaskContext, source: Path) -> dict[str, object]:
    # Wherever it is met: inside the source, or at the end of a link in it.
    return stage_folder(work, source, work.part, work.job.behavior_dir)


def _note_direct(work: TaskContext, source: Path) -> dict[str, object]:
    """Write the inventory of what is to be sent from its source; what was sent, the upload notes."""
    began = time.time_ns()
    top, snapshot = _snapshot(source)
    records = (
        SourceRecord(path, state.size, None, state, began, f"{work.part}/{path}") for path, state in snapshot.items()
    )
    write_provenance(work.place.inventory, work.part, source, COPIES, records, top=top)
    return {"files": len(snapshot), "bytes": sum(stamp.size for stamp in snapshot.values())}
