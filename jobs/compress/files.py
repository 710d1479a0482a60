"""Copy files so that the copy is proven, and tell whether a file changed.

Input: paths. Output: equal files under their final names.
Invariant: the destination appears by rename, after it was read back and its
digest equals that of the source as read a second time.
"""

import os
import shutil
from pathlib import Path

import xxhash

from jobs.compress.base import SourceFault, VerificationFailed, digest, digest_file
from jobs.compress.place import Place
from lading.errors import LadingError
from lading.files import sync_directory
from lading.times import mtime_of

_BLOCK = 4 << 20
# Names of files and directories that are not finished; what a killed worker leaves begins so.
WORKING = ".lading-work-"


def working_name(target: Path) -> Path:
    """Return the name beside ``target`` under which it is written, short whatever the target's length."""
    return target.with_name(WORKING + digest(os.fsencode(target.name)))


def sweep_working(top: Path) -> int:
    """Remove what killed workers left below ``top``, the destination, half a report included; return how many."""
    count = 0
    for directory, names, files in os.walk(top):
        for name in [name for name in names if name.startswith(WORKING)]:
            names.remove(name)
            shutil.rmtree(os.path.join(directory, name))
            count += 1
        for name in files:
            report = Path(directory) == top and name.startswith(".compress.json.")
            if name.startswith(WORKING) or report:
                Path(directory, name).unlink()
                count += 1
    return count


def stamp(path: Path) -> list[int]:
    """Return [size, mtime in ns] of a file: a change shows here without reading it."""
    status = path.stat()
    return [status.st_size, mtime_of(status)]


def copy_proven(source: Path, target: Path) -> tuple[int, str]:
    """Copy ``source`` to ``target`` with its times and mode; return (bytes, digest).

    Raises ``VerificationFailed`` when the copy read back differs from the
    source read again, ``SourceFault`` when the source cannot be read and
    ``LadingError`` when the destination cannot be written.
    """
    partial = working_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        count, read = _copy(source, partial)
        written = digest_file(partial)
        if digest_file(source) != read or written != read:
            raise VerificationFailed(
                f"{source}: its copy {target} differs from it; it changed meanwhile or a disk is faulty; run again"
            )
        os.replace(partial, target)
        sync_directory(target.parent)
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) == os.fspath(source):
            raise SourceFault(f"{source}: cannot be read: {error.strerror}") from error
        raise LadingError(f"{target}: cannot be written: {error.strerror}; make room there and run again") from error
    finally:
        partial.unlink(missing_ok=True)
    return count, read


def send_proven(source: Path, place: Place, path: str) -> tuple[int, str]:
    """Write ``source`` to ``path`` of a place; return (bytes, digest). Raises as ``copy_proven`` does."""
    with open(source, "rb", buffering=0) as reader:
        place.write(path, iter(lambda: reader.read(_BLOCK), b""))
    size, written = place.measure(path)
    if digest_file(source) != written:
        raise VerificationFailed(f"{source}: its copy {path} differs from it; it changed meanwhile; run again")
    return size, written


def _copy(source: Path, partial: Path) -> tuple[int, str]:
    """Copy the bytes, digesting what was read."""
    state = xxhash.xxh3_128()
    count = 0
    with open(source, "rb", buffering=0) as reader, open(partial, "wb", buffering=0) as writer:
        while block := reader.read(_BLOCK):
            state.update(block)
            view = memoryview(block)
            while view:
                view = view[writer.write(view) :]
            count += len(block)
        os.fsync(writer.fileno())
    status = os.stat(source)
    os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.chmod(partial, status.st_mode & 0o777)
    return count, state.hexdigest()
