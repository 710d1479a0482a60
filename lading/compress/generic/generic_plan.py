"""Any files: copied as they are, or into one zip.

Input: a file or a folder. Output: equal files in the destination, or
``DESTINATION/NAME.zip`` (plain deflate, AES-256 with stored members, or legacy
ZipCrypto).
Invariant: every file of the source is in the output and was compared with it.
The password comes from a file or the environment, never from an argument.
"""

import argparse
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lading.compress import zip_archive as zips
from lading.compress.file_copy import copy_verified, working_directory
from lading.compress.job import (
    CompressionJob,
    CompressionPlan,
    CompressionUnit,
    Output,
    Result,
    SourceFault,
    UnitRecord,
    digest,
    fold_digests,
    walk_files,
)
from lading.compress.names import carried_name, rename_reserved, source_name
from lading.compress.passwords import is_noted, note_password
from lading.compress.sources import OpenFile, Source
from lading.compress.state import PASSWORD
from lading.core.errors import ConsistencyError

# Small files travel together: a marker a file would cost more than the file.
_GROUP_BYTES = 64_000_000
_GROUP_FILES = 256


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``--kind generic``."""
    group = parser.add_argument_group("generic")
    group.add_argument("--pack", choices=("copy", *zips.METHODS), default="copy", help=PACK_HELP)
    add_password_options(group)


PACK_HELP = "copy: files as they are; plain: one zip; aes: zip with AES-256; legacy: zip with ZipCrypto (weak)"


def add_password_options(group: Any) -> None:
    """Declare where the password of a zip comes from."""
    group.add_argument("--password-file", help="a file whose first line is the zip's password")
    group.add_argument("--password-variable", help=f"environment variable of it; default {zips.PASSWORD_VARIABLE}")


def password_of(options: Mapping[str, Any], method: str) -> str | None:
    """Return the password that ``method`` needs, or None."""
    if method not in ("aes", "legacy"):
        return None
    return zips.read_password(options.get("password_file"), options.get("password_variable"))


def planned_password(job: CompressionJob, method: str) -> str | None:
    """Return the password that ``method`` needs; ``ConsistencyError`` when it is not the one of the plan."""
    password = password_of(job.options, method)
    if method == "legacy":
        logging.getLogger(__name__).warning(zips.LEGACY_WARNING)
    if password is not None and not is_noted(str(job.facts.get(PASSWORD, "")), password):
        raise ConsistencyError("the password is another one than when the work was planned; give that one")
    return password


def note_of(password: str | None) -> dict[str, str]:
    """Return what a plan's facts say of the password."""
    return {PASSWORD: note_password(password)} if password is not None else {}


def plan(job: CompressionJob) -> CompressionPlan:
    """Return one unit for a zip, else one per group of files."""
    method = str(job.options.get("pack") or "copy")
    password = secret(job)  # a missing password shows now, not in a worker
    files = list_files(job.source)
    if method != "copy":
        zips.refuse_names((source_name(job, path) for path, _ in files), method)
        unit = CompressionUnit("zip", sum(size for _, size in files), {"files": [path for path, _ in files]})
        notice = [zips.LEGACY_WARNING] if method == "legacy" else []
        return CompressionPlan((unit,), {"notice": notice, **note_of(password)})
    renamed = rename_reserved(source_name(job, path) for path, _ in files)
    return CompressionPlan(tuple(group_files(files)), {"renamed": renamed})


def secret(job: CompressionJob) -> str | None:
    """Return the password of the archive that a job makes, None where it makes none with a password."""
    return password_of(job.options, str(job.options.get("pack") or "copy"))


def list_files(source: Path) -> list[tuple[str, int]]:
    """Return (path, bytes) of every file; ``SourceFault`` for none, and for links to directories (not followed)."""
    files = [(path, status.st_size) for path, status in walk_files(source)]
    if not files:
        raise SourceFault(f"{source}: holds no file; leave it out")
    return files


def group_files(files: Iterable[tuple[str, int]]) -> list[CompressionUnit]:
    """Return units of whole files, in order, each within ``_GROUP_BYTES`` or one file."""
    groups: list[list[tuple[str, int]]] = []
    room = 0
    for path, size in files:
        if not groups or size > room or len(groups[-1]) >= _GROUP_FILES:
            groups.append([])
            room = _GROUP_BYTES
        groups[-1].append((path, size))
        room -= size
    return [
        CompressionUnit(
            f"copy/{digest(*(path.encode('utf-8', 'surrogateescape') + bytes(1) for path, _ in group))}",
            sum(size for _, size in group),
            {"files": [path for path, _ in group]},
        )
        for group in groups
    ]


def estimate(job: CompressionJob) -> list[str]:
    """Return nothing: the outputs are as many as the files of the source, or one archive."""
    return []


def run(job: CompressionJob, unit: CompressionUnit) -> Result:
    """Copy or pack the files of one unit, and prove it."""
    method = str(job.options.get("pack") or "copy")
    if method == "copy":
        return copy_group(job, unit)
    members = [zips.ArchiveMember(path, source_name(job, path)) for path in unit.task["files"]]
    target = job.output / f"{job.source.name}.zip"
    with Source.of(job) as source:
        proof = zips.write_zip(source, members, target, working_directory(job), method, planned_password(job, method))
    return Result(
        proof.bytes_in,
        proof.archive.size,
        proof.checksum,
        proof.checksum,
        f"zip {method}",
        (Output(target.name, *proof.archive),),
        {"members": len(members)},
        proof.sources,
    )


def copy_group(job: CompressionJob, unit: CompressionUnit) -> Result:
    """Copy the files of one unit."""
    outputs, sources = [], []
    with Source.of(job) as source:
        for path in unit.task["files"]:
            with source.open(path) as file:
                name = carried_name(job, path)
                found = copy_verified(file, job.output / name, working_directory(job))
                outputs.append(Output(name, *found))
                sources.append(file.record(found.sha256))
    total = sum(output.size for output in outputs)
    checksum = fold_digests(output.hash for output in outputs)
    return Result(total, total, checksum, checksum, "copy", tuple(outputs), {}, tuple(sources))


def finish(job: CompressionJob, markers: Iterable[UnitRecord]) -> Mapping[str, Any]:
    """Return how many files there are."""
    return {"files": sum(marker.result.detail.get("members", len(marker.result.outputs)) for marker in markers)}


def lossy(job: CompressionJob, file: OpenFile) -> str:
    """Return "": no file is read in parts."""
    return ""
