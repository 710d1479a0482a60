"""Copies into a directory: each object a file under its key below the release's prefix.

Input: jobs, a store to read from. Output: verified files, with the recorded modification times.
Invariant: a name appears only when its bytes were found to be the recorded ones, were written to disk and were read
back from it. Nothing is written outside of the directory, not through a symbolic link either; what somebody else put
under a name meanwhile stays.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lading.copy.bucket_copy import proven_copy, refuse_damaged
from lading.copy.copy_digest import CopyDigest
from lading.copy.copy_job import DAMAGED, CopyFault, CopyJob, CopyOutcome, classify
from lading.copy.copy_log import ProvenCopy
from lading.core.appear import Identity, Taken, appear, replace
from lading.core.atomic import sync_file_system
from lading.core.errors import LadingError
from lading.core.target_tree import Tree, split_path
from lading.core.temporary_files import TemporaryFiles
from lading.core.times import set_mtime
from lading.core.worker_threads import WorkerPool
from lading.objectstore.directory_store import DirectoryStore, format_mtime
from lading.objectstore.download import ObjectReader
from lading.objectstore.object_info import ObjectInfo, StoreError
from lading.objectstore.readable_store import ReadableStore
from lading.objectstore.target import FailureKind
from lading.verification.manifest import ManifestRow

BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Unnamed:
    """A file that is written and has no name yet."""

    scratch: bytes
    sha256: str
    job: CopyJob


class DirectoryCopy:
    """See ``CopyDestination``."""

    def __init__(self, top: Path, source: ReadableStore, workers: int) -> None:
        self.url, self.prefix = str(top), ""
        self.endpoint: str | None = None
        self._tree, self._top = Tree(top), top
        self._store = DirectoryStore(top)
        self._reader, self._check = ObjectReader(source), ObjectReader(self._store)
        self._scratch = TemporaryFiles()
        self._pool = WorkerPool(workers, "settle")

    @property
    def store(self) -> DirectoryStore:
        """Return the directory."""
        return self._store

    def describe(self) -> str:
        """Return how objects come there, for people."""
        return "through this machine"

    def close(self) -> None:
        """Let every reading end at its next block."""
        self._reader.stop()
        self._check.stop()
        self._pool.close()
        self._tree.close()

    def looks_copied(self, row: ManifestRow, there: ObjectInfo) -> bool:
        """Tell whether a file has the time that a copy got; what has another is read."""
        return there.modified == format_mtime(row.mtime_ns // 10**9)

    def adopt(self, job: CopyJob, there: ObjectInfo) -> ProvenCopy | None:
        """Return the verification of a file that is there by reading it; None where it is another one."""
        if there.size != job.row.size:
            return None
        digest = CopyDigest(job.row)
        for block in self._check.blocks(job.key, job.row.size):
            digest.add(block)
        return proven_copy(job, "", "download", None) if digest.is_proven() else None

    def transfer(self, job: CopyJob) -> CopyOutcome:
        """Write the bytes of one object to a file that has no name yet."""
        *parents, name = split_path(job.key)
        digest = CopyDigest(job.row)
        with self._tree.directory(parents) as directory:
            self._scratch.sweep(parents, directory)
            scratch, descriptor = self._scratch.create(name, directory)
            try:
                for block in self._reader.blocks(job.row.key, job.row.size, job.version_id):
                    digest.add(block)
                    _write(descriptor, block)
                refuse_damaged(digest)
                set_mtime(descriptor, job.row.mtime_ns)
            except BaseException as error:
                with suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=directory)
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise StoreError(FailureKind.STOP, f"cannot write below {self._top}: {error.strerror}") from error
                raise
            finally:
                os.close(descriptor)
        held = Unnamed(scratch, digest.sha256, job)
        proven = proven_copy(job, "", "download", None)
        return CopyOutcome(proven, job.row.size, held=held, unproven=not digest.is_proven())

    def settle(self, outcomes: Sequence[CopyOutcome]) -> Sequence[CopyOutcome | CopyFault]:
        """Have all of them on disk at once, read them back, and give them their names."""
        if any(isinstance(outcome.held, Unnamed) for outcome in outcomes):
            sync_file_system(self._top)
        return list(self._pool.map(self._name, outcomes))

    def _name(self, outcome: CopyOutcome) -> CopyOutcome | CopyFault:
        held = outcome.held
        if not isinstance(held, Unnamed):
            return outcome
        *parents, name = split_path(held.job.key)
        try:
            with self._tree.directory(parents) as directory:
                try:
                    if _read_back(held.scratch, directory) != held.sha256:
                        return CopyFault(DAMAGED, "the file was read back and has other bytes; check this disk")
                    self._tree.check(parents, directory)
                    self._give_name(held, name, directory)
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(held.scratch, dir_fd=directory)
        except (LadingError, OSError) as error:
            return classify(error)
        return outcome

    def _give_name(self, held: Unnamed, name: bytes, directory: int) -> None:
        if held.job.there is None:
            appear(held.scratch, name, directory)
            return
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size != held.job.there.size:
            raise Taken("another file is under its name since it was listed")
        replace(held.scratch, name, directory, Identity.of(status))


def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_back(name: bytes, directory: int) -> str:
    """Return the SHA-256 of a file as the disk has it, not this machine's memory, where the system can do that."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
        return digest.hexdigest()
    finally:
        os.close(descriptor)
