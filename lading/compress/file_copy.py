"""Copy files so that the copy is proven, and tell whether a file changed.

Input: open files of a source. Output: equal files under their final names.
Invariant: the destination appears by rename, after it was read back and
compared, byte by byte, with the source as read a second time; its SHA-256 is
that of the bytes that were compared.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lading.compress.destination import Destination
from lading.compress.job import BlockDigest, CompressionJob, Measured, VerificationFailed, new_digest
from lading.compress.sources import BLOCK, OpenFile
from lading.core.atomic import sync_directory
from lading.core.errors import LadingError
from lading.core.times import mtime_of


def working_directory(job: CompressionJob) -> Path:
    """Return the directory of a local destination for what is unfinished, made where it is missing."""
    path = job.output / job.working
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def unfinished(working: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file in ``working``; it is removed afterwards unless it got another name."""
    descriptor, name = tempfile.mkstemp(dir=working)
    os.close(descriptor)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def appear(partial: Path, target: Path) -> None:
    """Give a file that is flushed its final name, durably."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)
    sync_directory(target.parent)


def stamp(path: Path) -> list[int]:
    """Return [size, mtime in ns] of a file: a change shows here without reading it."""
    status = path.stat()
    return [status.st_size, mtime_of(status)]


def copy_verified(source: OpenFile, target: Path, working: Path) -> Measured:
    """Copy ``source`` to ``target`` with its times and mode; return what was read back.

    Raises ``VerificationFailed`` when the copy read back differs from the
    source read again, ``SourceFault`` when the source cannot be read and
    ``LadingError`` when the destination cannot be written.
    """
    try:
        with unfinished(working) as partial:
            read = _copy(source, partial)
            with open(partial, "rb", buffering=0) as copy:
                found = compare(source, iter(lambda: copy.read(BLOCK), b""))
            if found is None or found.hash != read:
                raise VerificationFailed(
                    f"{source.name}: its copy {target} differs from it; "
                    "it changed meanwhile or a disk is faulty; run again"
                )
            source.require_unchanged()
            appear(partial, target)
    except OSError as error:
        raise LadingError(f"{target}: cannot be written: {error.strerror}; make room there and run again") from error
    return found


def compare(source: OpenFile, blocks: Iterable[bytes]) -> Measured | None:
    """Return what ``blocks`` hold, or None when they are not, byte by byte, what the source gives now."""
    found = BlockDigest()
    for block in blocks:
        if source.read_at(found.size, len(block)) != block:
            return None
        found.update(block)
    if source.read_at(found.size, 1):
        return None
    return Measured(found.size, found.hash, found.sha256)


def send_verified(source: OpenFile, place: Destination, path: str) -> Measured:
    """Write ``source`` to ``path`` of a place; return what was read back. Raises as ``copy_verified`` does."""
    read, again = new_digest(), BlockDigest()

    def blocks() -> Iterator[bytes]:
        for block in source.blocks():
            read.update(block)
            yield block

    place.write(path, blocks())
    found = place.size_and_digest(path)
    for block in source.blocks():
        again.update(block)
    if read.hexdigest() != found.hash or again.sha256 != found.sha256:
        place.remove(path)
        raise VerificationFailed(f"{source.name}: its copy {path} differs from it; it changed meanwhile; run again")
    source.require_unchanged()
    return found


def _copy(source: OpenFile, partial: Path) -> str:
    """Copy the bytes, with times and mode; return the digest of what was read."""
    state = new_digest()
    with open(partial, "wb", buffering=0) as writer:
        for block in source.blocks():
            state.update(block)
            view = memoryview(block)
            while view:
                view = view[writer.write(view) :]
        status = os.fstat(source.descriptor)
        os.utime(writer.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fchmod(writer.fileno(), status.st_mode & 0o777)
        os.fsync(writer.fileno())
    return str(state.hexdigest())
