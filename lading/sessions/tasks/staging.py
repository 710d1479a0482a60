"""The staging folder: made, filled with copies, removed.

Input: a job. Output: a directory that mirrors the job's prefix, and a
record of each file that was copied.
Invariant: its path is on disk before the folder is, so no crash leaves one
that nobody knows; a file counts as copied once its bytes are in place under
its name, with the SHA-256 of what was read; a task ends once its copies are on disk.
"""

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lading.checksums.digest import FileState
from lading.core.atomic import AppendLog, atomic_write, encode_record, read_log, sync_file_system
from lading.core.errors import LadingError, UsageError
from lading.core.opening import open_plain
from lading.core.times import mtime_of
from lading.core.walking import walk_followed
from lading.sessions.provenance import COPIES, SourceRecord, Top, write_provenance
from lading.sessions.task_context import TaskContext

BLOCK = 1 << 20
# The folder of derivatives_dir below the prefix, and the name of its inventory.
DERIVATIVES = "derivatives"
# The name of a staging folder in the state of its job.
STAGED = "staged"


def create(work: TaskContext) -> dict[str, object]:
    """Make the folder, empty: what an earlier, different job left there goes."""
    work.check_cancelled()
    folder = folder_of(work)
    fault = overlap(work)
    if fault:
        raise UsageError(fault)
    _note_old(work, folder)
    with atomic_write(work.place.staging) as stream:
        stream.write(str(folder))
    _remove_old(work)
    _remove_tree(_working(folder))
    _remove_tree(folder)
    shutil.rmtree(work.place.directory / "compress", ignore_errors=True)
    shutil.rmtree(work.place.lineage, ignore_errors=True)
    shutil.rmtree(work.place.inventory, ignore_errors=True)
    work.place.create()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise LadingError(
            f"the staging folder {folder} cannot be made: {error.strerror}; see temp_directory"
        ) from error
    return {"staging": str(folder)}


def folder_of(work: TaskContext) -> Path:
    """Return where the staging folder goes, as the list and the site say now."""
    above = work.job.temp_directory or work.settings.site.get("temp_directory")
    return Path(above) / _own_name(work) if above else work.place.directory / STAGED


def _own_name(work: TaskContext) -> str:
    """Return the name of the staging folder in a directory of many jobs."""
    return f"{work.job.prefix}.{hashlib.sha256(os.fsencode(work.place.directory)).hexdigest()[:8]}"


def overlap(work: TaskContext) -> str:
    """Return how the staging folder and a source lie in one another, or an empty string.

    In a source it would be copied into itself and deleted with it; a source in it would go when it is made anew.
    """
    job = work.job
    named = [(f"modality{entry.number}.source", entry.source) for entry in job.modalities]
    named += [(name, getattr(job, name)) for name in ("behavior_dir", "metadata_dir", "derivatives_dir")]
    folder = os.path.realpath(folder_of(work))
    for name, path in named:
        if path is None:
            continue
        real = os.path.realpath(path)
        if os.path.commonpath([real, folder]) in (real, folder):
            return (
                f"the staging folder {folder} and {name}, {path}, overlap; "
                "give a temp_directory, or a state root, that is outside all sources"
            )
    return ""


def _note_old(work: TaskContext, folder: Path) -> None:
    """Write down the staging folder of before, when it is another: its bytes are found again by this record."""
    try:
        before = work.place.staging.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if before and before != str(folder):
        with AppendLog(work.place.old_stagings) as log:
            log.append([{"folder": before, "host": os.uname().nodename}])


def _remove_old(work: TaskContext) -> list[str]:
    """Remove the staging folders of before; returns those that stay, each as a sentence that was said."""
    path = work.place.old_stagings
    if not path.exists():
        return []
    host, stay, sentences = os.uname().nodename, {}, []
    for entry in filter(None, read_log(path)):
        folder = Path(str(entry["folder"]))
        if folder == folder_of(work):
            continue  # in use again, and removed with the job's end
        if folder.name != STAGED and not re.fullmatch(re.escape(work.job.prefix) + r"\.[0-9a-f]{8}", folder.name):
            why = "has no name that a staging folder gets"
        elif not folder.exists() and entry.get("host") != host:
            # Perhaps a disk of that machine alone.
            why = f"cannot be seen on {host}, but perhaps on {entry.get('host')}"
        else:
            try:
                _remove_tree(_working(folder))
                _remove_tree(folder)
                continue
            except LadingError as error:
                why = f"cannot be removed: {error}"
        if str(folder) not in stay:
            sentences.append(f"an earlier staging folder, {folder}, {why}; remove it there")
        stay[str(folder)] = entry
    for sentence in sentences:
        work.say(sentence)
    if stay:
        with atomic_write(path, "wb") as stream:
            stream.write(b"".join(encode_record(entry) for entry in stay.values()))
    else:
        path.unlink()
    return sentences


def copy_derivatives(work: TaskContext) -> dict[str, object]:
    """Copy ``derivatives_dir`` to ``derivatives/``."""
    source = work.job.derivatives_dir
    if source is None:
        return {"files": 0}
    top = top_of(source)
    copies = list(copy_tree(source, work.staging / DERIVATIVES, DERIVATIVES, check=work.check_cancelled))
    sync_file_system(work.staging)
    # Without the state of what was copied: no deletion asks for it, and the copy has its own.
    records = (replace(copy, state=None, read_ns=0) for copy in copies)
    write_provenance(work.place.inventory, DERIVATIVES, source, COPIES, records, top=top)
    return {"files": len(copies), "bytes": sum(copy.size for copy in copies)}


def remove(work: TaskContext) -> dict[str, object]:
    """Remove the folder and all that is in it."""
    stay = _remove_old(work)
    if not work.place.staging.exists():
        return {"left": stay} if stay else {}
    folder = work.staging
    _remove_tree(_working(folder))
    _remove_tree(folder)
    return {"removed": str(folder), **({"left": stay} if stay else {})}


def _working(folder: Path) -> Path:
    """Return where copies are unfinished: beside the staging folder, where no name of a source can be theirs."""
    return folder.with_name(f"{folder.name}.partial")


def _remove_tree(folder: Path) -> None:
    """Remove a tree; ``LadingError`` names what stays."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LadingError(
            f"the staging folder {folder} cannot be removed: {error.strerror} ({error.filename})"
        ) from error


def copy_tree(
    source: Path, target: Path, key: str, *, check: Callable[[], None], leave_out: Path | None = None
) -> Iterator[SourceRecord]:
    """Copy a file or tree, links followed, and yield a record of each file.

    ``key`` is the target's path in the session. A copy that stands with its source's size and mtime is taken as it is,
    after both were read again.
    """
    working = _working(target.parent)
    working.mkdir(parents=True, exist_ok=True)
    for path, relative in _files(source, leave_out):
        check()
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path) as reader:
            began = time.time_ns()
            before = FileState.of(os.fstat(reader))
            sha256 = _standing(reader, before, place, check) or _copy(path, reader, place, working, check)
            after = FileState.of(os.fstat(reader))
        if after != before:
            raise LadingError(f"{path} changed while it was copied; run again when nothing writes there")
        name = "." if path == str(source) else relative
        yield SourceRecord(name, after.size, sha256, after, began, f"{key}/{relative}" if relative else key)


def top_of(source: Path) -> Top:
    """Return the directory in which a source is read; ``LadingError`` when it is not there."""
    try:
        return Top.of(source)
    except OSError as error:
        raise LadingError(f"{source} cannot be read: {error.strerror}; make it readable, then run again") from error


def note_staged(work: TaskContext, name: str, folder: Path, paths: Iterable[Path]) -> None:
    """Write the inventory of files that a task made in the staging folder: the upload refuses what is not as now."""
    records = []
    for path in paths:
        state = FileState.of(os.stat(path))
        below = os.path.relpath(path, work.staging)
        records.append(SourceRecord(os.path.relpath(path, folder), state.size, None, state, time.time_ns(), below))
    write_provenance(work.place.inventory, name, folder, COPIES, records)


def set_aside(work: TaskContext, folder: str) -> Path:
    """Move what a task had made in the staging folder out of what is sent, until it is made again; return where to."""
    aside = _working(work.staging) / f"{folder}.outdated"
    aside.parent.mkdir(parents=True, exist_ok=True)
    place = work.staging / folder
    if place.exists():
        _remove_tree(aside)
        os.replace(place, aside)
    return aside


def _files(source: Path, leave_out: Path | None) -> Iterator[tuple[str, str]]:
    """Yield (path, path relative to the source) of every file, sorted.

    Raises ``LadingError`` for a source without any, and for a directory that
    cannot be listed: a part must never pass for the whole.
    """
    if source.is_file():
        yield str(source), source.name
        return
    skipped = os.path.realpath(leave_out) if leave_out else None
    empty = True
    for directory, names, files in walk_followed(source, _refuse):
        kept = [name for name in names if os.path.realpath(os.path.join(directory, name)) != skipped]
        # What is left out may be all that there is.
        empty = empty and not files and len(kept) == len(names)
        names[:] = kept
        for name in files:
            path = os.path.join(directory, name)
            yield path, os.path.relpath(path, source)
    # A mount point without its mount is an empty directory.
    if empty:
        raise LadingError(f"{source} holds no file; is its file system mounted here? Then run again")


def _refuse(path: str, why: str) -> None:
    raise LadingError(f"{path} {why}; correct that, then run again")


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open what is to be copied; ``LadingError`` for what is no file, a pipe without waiting for it."""
    try:
        descriptor = open_plain(path)
    except OSError as error:
        raise LadingError(
            f"{path} cannot be read: {error.strerror or error}; make it readable, then run again"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _standing(reader: int, state: FileState, place: Path, check: Callable[[], None]) -> str:
    """Return the SHA-256 of a copy that is there and equals its source, else an empty string."""
    try:
        there = os.stat(place)
    except FileNotFoundError:
        return ""
    if (there.st_size, mtime_of(there)) != (state.size, state.mtime_ns):
        return ""
    sha256 = hashlib.sha256()
    for block in _blocks(reader, check):
        sha256.update(block)
    os.lseek(reader, 0, os.SEEK_SET)
    with open(place, "rb", buffering=0) as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    return found if found == sha256.hexdigest() else ""


def _blocks(reader: int, check: Callable[[], None]) -> Iterator[bytes]:
    while block := os.read(reader, BLOCK):
        check()
        yield block


def _copy(path: str, reader: int, place: Path, working: Path, check: Callable[[], None]) -> str:
    """Copy one open file with its mtime, by rename out of ``working``; returns the SHA-256 of what was read."""
    digest = hashlib.sha256()
    partial = None
    try:
        descriptor, partial = tempfile.mkstemp(dir=working)
        with open(descriptor, "wb") as writer:
            for block in _blocks(reader, check):
                digest.update(block)
                writer.write(block)
        status = os.fstat(reader)
        os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.chmod(partial, 0o600 | (status.st_mode & 0o777))
        os.replace(partial, place)
    except BaseException as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LadingError(
                f"{path} cannot be copied to {place}: {error.strerror}; free some space or see temp_directory"
            ) from error
        raise
    return digest.hexdigest()


def stage_folder(work: TaskContext, source: Path, folder: str, leave_out: Path | None = None) -> dict[str, object]:
    """Copy a modality as it is to ``<staging>/<folder>/`` and keep its records."""
    top = top_of(source)
    copies = list(copy_tree(source, work.staging / folder, folder, check=work.check_cancelled, leave_out=leave_out))
    # What the journal calls finished is not looked at again: it must outlive the machine. One call for all files:
    # a flush of each would cost more than the copies.
    sync_file_system(work.staging)
    write_provenance(work.place.lineage, folder, source, COPIES, copies, top=top)
    return {"files": len(copies), "bytes": sum(copy.size for copy in copies)}
