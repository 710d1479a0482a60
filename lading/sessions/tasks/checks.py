"""What must be true before hours of work begin: the prefix is free, the sources are there.

Input: a job. Output: facts, or a sentence that names every fault.
Invariant: nothing is changed. A prefix is compared with its trailing slash,
so ``…_14-10-10_processed`` does not stand for ``…_14-10-10``.
"""

import os
from pathlib import Path

from lading.core.errors import LadingError, UsageError
from lading.core.walking import walk_followed
from lading.objectstore.client import ObjectStore
from lading.objectstore.target import Target
from lading.sessions import naming, vocabulary
from lading.sessions.job_model import sent_unencrypted
from lading.sessions.task_context import TaskContext
from lading.sessions.tasks.staging import overlap

SHOWN = 20


def store_of(work: TaskContext) -> ObjectStore:
    """Return the job's bucket; credentials by the AWS chain."""
    return ObjectStore(Target(bucket=work.job.s3_bucket, endpoint=work.settings.endpoint))


def bucket(work: TaskContext) -> dict[str, object]:
    """Refuse a prefix that holds anything, unless ``force_cloud_sync``."""
    prefix = f"{work.job.prefix}/"
    found, _ = store_of(work).page(prefix)
    if found and not work.job.force_cloud_sync:
        raise UsageError(
            f"{work.job.destination}/ exists ({found[0].key} and others); give --force-cloud-sync to add to it, "
            "or correct the session's date, subject or platform"
        )
    if found:
        work.say(f"{work.job.destination}/ exists and files are added to it, because force_cloud_sync is set")
    for spelling in vocabulary.other_spellings(work.job.platform) if work.job.platform else ():
        other = naming.prefix(spelling, work.job.subject_id, work.job.acq_datetime)
        there, _ = store_of(work).page(f"{other}/")
        if there and not work.job.force_cloud_sync:
            raise UsageError(
                f"the session is in the bucket under the other spelling of its platform, s3://{work.job.s3_bucket}/"
                f"{other}/; name {spelling} in platforms of the site's settings, or give --force-cloud-sync"
            )
    return {"existing": len(found)}


def sources(work: TaskContext) -> dict[str, object]:
    """Refuse sources that lack, cannot be read, are nested, or hold links that lead nowhere or round in circles."""
    faults: list[str] = []
    counts: dict[str, object] = {}
    job = work.job
    named = [
        (f"modality{entry.number}", entry.source)
        for entry in job.modalities
        if entry.source and not job.task("compress_data", entry.folder).skip_task
    ]
    others = [(name, getattr(job, name)) for name in ("behavior_dir", "metadata_dir", "derivatives_dir")]
    for name, path in [*named, *((name, path) for name, path in others if path)]:
        if not path.exists():
            broken = "is a symbolic link that leads nowhere" if path.is_symlink() else "does not exist"
            faults.append(f"{name}: {path} {broken}")
            continue
        files, size, bad = _survey(path)
        counts[name] = {"files": files, "bytes": size}
        faults += [f"{name}: {fault}" for fault in bad]
        if not files and not bad:
            faults.append(f"{name}: {path} holds no file")
    real = [(name, Path(os.path.realpath(path))) for name, path in named if path.exists()]
    for name, path in real:
        for other, above in real:
            if other != name and (above in path.parents or (above == path and other < name)):
                faults.append(f"{name}: {path} is inside {other}, {above}; modalities must not be nested")
    inside = overlap(work)
    faults += [inside] if inside else []
    shown = sent_unencrypted(job, lambda path: Path(os.path.realpath(path)))
    faults += [f"behavior_dir: {job.behavior_dir} {shown}"] if shown else []
    for entry in job.modalities:
        if entry.extra_configs and not entry.extra_configs.is_file():
            faults.append(f"modality{entry.number}.extra_configs: {entry.extra_configs} is not a file")
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise LadingError("; ".join([*faults[:SHOWN], *more]))
    return counts


def _survey(top: Path) -> tuple[int, int, list[str]]:
    """Return (files, bytes, faults) below a path, links followed as the transfer of a session needs it."""
    if top.is_file():
        return 1, top.stat().st_size, []
    files = size = 0
    faults: list[str] = []

    for directory, _, entries in walk_followed(top, lambda path, why: faults.append(f"{path} {why}")):
        for name in entries:
            path = os.path.join(directory, name)
            try:
                status = os.stat(path)
            except OSError as error:
                what = "is a symbolic link that leads nowhere" if os.path.islink(path) else f"{error.strerror}"
                faults.append(f"{path} {what}")
                continue
            if not os.access(path, os.R_OK):
                faults.append(f"{path} cannot be read: permission denied")
            files += 1
            size += status.st_size
    return files, size, faults
