"""The staging folder: made, filled with copies, removed.

Input: a job. Output: a directory that mirrors the job's prefix, and the
lineage of each copy.
Invariant: its path is on disk before the folder is, so no crash leaves one
that nobody knows; a file counts as copied once its bytes are in place under
its name, with the digest of what was read; a task ends once its copies are on disk.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.lineage import Copied, write_copies
from jobs.work import Work
from lading.errors import LadingError
from lading.files import replacing, sync_file_system
from lading.times import mtime_of

BLOCK = 1 << 20


def create(work: Work) -> dict[str, object]:
    """Make the folder, empty: what an earlier, different job left there goes."""
    work.check_cancelled()
    above = work.job.temp_directory or work.settings.site.get("temp_directory")
    folder = (
        Path(above) / f"{work.job.prefix}.{hashlib.sha256(os.fsencode(work.place.directory)).hexdigest()[:8]}"
        if above
        else work.place.directory / "staged"
    )
    with replacing(work.place.staging) as stream:
        stream.write(str(folder))
    _remove_tree(folder)
    shutil.rmtree(work.place.directory / "compress", ignore_errors=True)
    shutil.rmtree(work.place.lineage, ignore_errors=True)
    work.place.create()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise LadingError(
            f"the staging folder {folder} cannot be made: {error.strerror}; see temp_directory"
        ) from error
    return {"staging": str(folder)}


def copy_derivatives(work: Work) -> dict[str, object]:
    """Copy ``derivatives_dir`` to ``derivatives/``."""
    source = work.job.derivatives_dir
    if source is None:
        return {"files": 0}
    copies = list(copy_tree(source, work.staging / "derivatives", "derivatives", check=work.check_cancelled))
    sync_file_system(work.staging)
    return {"files": len(copies), "bytes": sum(copy.size for copy in copies)}


def remove(work: Work) -> dict[str, object]:
    """Remove the folder and all that is in it."""
    if not work.place.staging.exists():
        return {}
    folder = work.staging
    _remove_tree(folder)
    return {"removed": str(folder)}


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
) -> Iterator[Copied]:
    """Copy a file or tree, links followed, and yield what was copied; ``key`` is the target's path in the session.

    A copy that stands with its source's size and mtime is taken as it is,
    after it was read again for its digest.
    """
    for path, relative in _files(source, leave_out):
        check()
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        status = os.stat(path)
        try:
            there = os.stat(place)
            stands = (there.st_size, mtime_of(there)) == (status.st_size, mtime_of(status))
        except FileNotFoundError:
            stands = False
        digest = _digest(path) if stands and _digest(place) == _digest(path) else _copy(path, place)
        after = os.stat(path)
        if (after.st_size, mtime_of(after)) != (status.st_size, mtime_of(status)):
            raise LadingError(f"{path} changed while it was copied; run again when it is at rest")
        yield Copied(path, f"{key}/{relative}" if relative else key, status.st_size, mtime_of(status), digest)


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
    for directory, names, files in os.walk(source, onerror=_refuse, followlinks=True):
        kept = sorted(name for name in names if os.path.realpath(os.path.join(directory, name)) != skipped)
        # What is left out may be all that there is.
        empty = empty and not files and len(kept) == len(names)
        names[:] = kept
        for name in sorted(files):
            path = os.path.join(directory, name)
            yield path, os.path.relpath(path, source)
    # A mount point without its mount is an empty directory.
    if empty:
        raise LadingError(f"{source} holds no file; is its file system mounted here? Then run again")


def _refuse(error: OSError) -> None:
    raise LadingError(f"{error.filename} cannot be read: {error.strerror}; see that it can, then run again") from error


def _copy(path: str, place: Path) -> str:
    """Copy one file with its mtime, by rename; returns the MD5 of what was read."""
    digest = hashlib.md5(usedforsecurity=False)
    # Of a fixed length: the name itself may already be as long as a name can be.
    partial = place.with_name(f".{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:32]}.partial")
    try:
        with open(path, "rb") as reader, open(partial, "wb") as writer:
            while block := reader.read(BLOCK):
                digest.update(block)
                writer.write(block)
        shutil.copystat(path, partial)
        os.chmod(partial, 0o600 | (os.stat(partial).st_mode & 0o777))
        os.replace(partial, place)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LadingError(
            f"{path} cannot be copied to {place}: {error.strerror}; free some space or see temp_directory"
        ) from error
    return digest.hexdigest()


def note_copy(path: Path, key: str) -> Copied:
    """Return a staged file as it is now, to be found again in the bucket under ``key``."""
    status = path.stat()
    return Copied(str(path), key, status.st_size, mtime_of(status), _digest(path))


def _digest(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def stage_folder(work: Work, source: Path, folder: str, leave_out: Path | None = None) -> dict[str, object]:
    """Copy a modality as it is to ``<staging>/<folder>/`` and keep its lineage."""
    copies = list(copy_tree(source, work.staging / folder, folder, check=work.check_cancelled, leave_out=leave_out))
    # What the journal calls finished is not looked at again: it must outlive the machine. One call for all files:
    # a flush of each would cost more than the copies.
    sync_file_system(work.staging)
    write_copies(work.place.lineage / f"{folder}.json", copies)
    return {"files": len(copies), "bytes": sum(copy.size for copy in copies)}
