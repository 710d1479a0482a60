"""A restore: bring a part of the release back from the bucket, each file verified by its digest.

Input: a manifest, a path inside the release (or a key prefix), a directory.
Output: the files below ``to`` under their paths in the release, with the
recorded modification times.
Invariant: a name appears below ``to`` only when its bytes were read in full
and have the digest of the manifest; nothing is written outside ``to``, not
through a symbolic link either; a file of other content is never replaced
unless that was asked for, and then only the very file that was examined: one
that appeared or changed meanwhile stays. What no recorded digest speaks for is
compared with the object's bytes and named as not proven. Killed, the same command goes on:
what is there is proven by reading it, not fetched again.
"""

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lading.checksums.digest import digest_file, plausible_parts, read_whole_checksum, start_hash
from lading.core.appear import Identity, Taken, appear, is_left_placeholder, replace
from lading.core.atomic import sync_directory
from lading.core.errors import LadingError, UsageError
from lading.core.progress import Progress, format_bytes, format_count
from lading.core.temporary_files import PREFIX, TemporaryFiles
from lading.core.times import mtime_of, set_mtime
from lading.core.worker_threads import WorkerPool
from lading.objectstore.client import open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind, Target
from lading.verification.manifest import Manifest, ManifestRow

SHOWN = 20
LAST_SECONDS = 5.0  # interrupted: for the threads to put away what they had half
READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Unsafe(LadingError):
    """A recorded path would leave the directory, or a link stands in its way."""


@dataclass(frozen=True)
class RestoreOptions:
    """What a restore was asked to do.

    prefix       a file or directory of the release, or a key prefix; empty: all of it
    to           the directory to restore into
    max_workers  files in flight
    overwrite    replace files of other content
    json         print the summary as JSON
    """

    prefix: str
    to: Path
    max_workers: int = 16
    overwrite: bool = False
    json: bool = False


@dataclass
class RestoreCounters:
    """What was done; ``faults`` holds (path, reason)."""

    restored: int = 0
    bytes: int = 0
    present: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


def select(manifest: Manifest, prefix: str) -> Iterator[ManifestRow]:
    """Yield the rows of a path prefix (whole components), or else of a key prefix."""
    path = prefix.strip("/")
    if path in ("", "."):
        yield from manifest.rows()
        return
    found = False
    for row in manifest.rows():
        if row.path == path or row.path.startswith(path + "/"):
            found = True
            yield row
    if found:
        return
    key = prefix.removeprefix(f"s3://{manifest.header.bucket}/").rstrip("/")
    for row in manifest.rows():
        if row.key == key or row.key.startswith(key + "/"):
            found = True
            yield row
    if not found:
        raise UsageError(f"{manifest.path} has nothing below {prefix!r}, neither by path nor by key")


def names_like_ours(manifest: Manifest) -> Iterator[str]:
    """Yield the paths of the release that look like unfinished files of a restore: they are the user's."""
    for row in manifest.rows():
        if PREFIX in row.path:
            yield row.path


def split_path(path: str) -> list[bytes]:
    """Return the components of a recorded path as bytes; ``Unsafe`` when it could leave the directory."""
    parts = os.fsencode(path).split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise Unsafe("its recorded path is absolute or has an empty, '.' or '..' component")
    return parts


class Tree:
    """A directory that is written below and never out of."""

    def __init__(self, top: Path) -> None:
        top.mkdir(parents=True, exist_ok=True)
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._top)

    @contextmanager
    def directory(self, parts: Iterable[bytes]) -> Iterator[int]:
        """Open the directory of ``parts``, made when absent, following no link; yields its descriptor."""
        current = os.dup(self._top)
        try:
            for part in parts:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
                try:
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    following = os.open(part, flags, dir_fd=current)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise Unsafe(
                            f"{os.fsdecode(part)!r} in its path is a link or a file, not a directory"
                        ) from error
                    raise
                os.close(current)
                current = following
            yield current
        finally:
            os.close(current)

    def check(self, parts: Sequence[bytes], directory: int) -> None:
        """Raise ``Unsafe`` unless the directory of ``parts`` is still the open one: it may have been moved away."""
        current = os.dup(self._top)
        try:
            for part in parts:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                following = os.open(part, flags, dir_fd=current)
                os.close(current)
                current = following
            there = os.fstat(current)
        except OSError:
            there = None
        finally:
            os.close(current)
        mine = os.fstat(directory)
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise Unsafe("its directory was moved or replaced while it was fetched; run the same command again")


class Digest:
    """What of a row is compared with the bytes that come: the strongest digest that it records.

    The ETag counts only where it agrees: under keys and on some servers it is
    no MD5. A row with nothing else may hold without being proven.
    """

    def __init__(self, row: ManifestRow) -> None:
        self._row = row
        self.count = 0
        known = [found for text in (row.server_checksum, row.checksum) if text and (found := read_whole_checksum(text))]
        if wanted := row.sha256 or row.file_sha256:
            self._hash, self._wanted = start_hash("sha256"), wanted
        elif row.md5:
            self._hash, self._wanted = start_hash("md5"), row.md5
        elif known:
            self._hash, self._wanted = start_hash(known[0][0]), known[0][1]
        else:
            self._hash, self._wanted = start_hash("md5"), ""

    def add(self, block: bytes) -> None:
        """Take some bytes."""
        self._hash.update(block)
        self.count += len(block)

    @property
    def holds(self) -> bool:
        """True when all bytes came and no recorded digest says that they are others."""
        return self.count == self._row.size and (not self._wanted or self._hash.hexdigest() == self._wanted)

    def proves(self, descriptor: int, reader: ObjectReader) -> bool:
        """Tell whether what holds is also proven; ``descriptor`` is of the file, to try the part sizes of an ETag."""
        if self._wanted or self._hash.hexdigest() == self._row.etag:
            return True
        for part in plausible_parts(self._row.size, self._row.etag):
            try:
                found = digest_file(f"/proc/self/fd/{descriptor}", part, reader.mark)
            except OSError:
                return False
            if found.steady and found.etag == self._row.etag:
                return True
        return False


class Restorer:
    """Restores rows one by one; safe to use from many threads."""

    def __init__(
        self, reader: ObjectReader, tree: Tree, overwrite: bool, names: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self._reader, self._tree, self._overwrite = reader, tree, overwrite
        self._scratch = TemporaryFiles(names)
        self._stopping = False
        self._lock = threading.Lock()
        self.undated: list[str] = []
        self.undated_count = 0
        self.unproven: list[str] = []
        self.unproven_count = 0

    def stop(self) -> None:
        """Let what other threads restore end at its next block."""
        self._stopping = True
        self._reader.stop()

    def restore(self, row: ManifestRow) -> bool:
        """Bring one file back; False when it was there already. Raises ``LadingError`` or ``OSError``."""
        *parents, name = split_path(row.path)
        with self._tree.directory(parents) as directory:
            self._scratch.sweep(parents, directory)
            held, examined = self._examine(row, name, directory)
            if held:
                return False
            if examined and not self._overwrite and not is_left_placeholder(name, directory, examined):
                raise LadingError("a file of other content is there; move it away, or restore_flags=--overwrite")
            scratch, descriptor = self._scratch.create(name, directory)
            try:
                proven = self._fetch(row, descriptor)
                self._date(row, descriptor)
                os.fsync(descriptor)
                self._tree.check(parents, directory)
                if examined:
                    replace(scratch, name, directory, examined)
                else:
                    appear(scratch, name, directory)
                if not proven:
                    self._note_unproven(row)
            except Taken:
                # Perhaps by another restore, which brought the same bytes.
                if not self._examine(row, name, directory)[0]:
                    raise
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=directory)
            sync_directory(directory)
        return True

    def _date(self, row: ManifestRow, descriptor: int) -> None:
        """Give a file its recorded time, or the nearest that can be held: then it is named at the end."""
        if set_mtime(descriptor, row.mtime_ns):
            return
        with self._lock:
            self.undated_count += 1
            if len(self.undated) < SHOWN:
                self.undated.append(row.path)

    def _examine(self, row: ManifestRow, name: bytes, directory: int) -> tuple[bool, Identity | None]:
        """Tell whether ``name`` holds the row's bytes, and what was examined; None when there is no such name."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False, None
        if not stat.S_ISREG(status.st_mode):
            raise Unsafe("a link, directory or device is there under its name; move it away")
        examined = Identity.of(status)
        if status.st_size != row.size:
            return False, examined
        # O_NONBLOCK: a pipe may have taken the file's place, and would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=directory)
        try:
            digest = Digest(row)
            if Identity.of(os.fstat(descriptor)) == examined:
                while block := os.read(descriptor, READ_BYTES):
                    if self._stopping:
                        self._reader.check()
                    digest.add(block)
            held = digest.holds
            if held and not digest.proves(descriptor, self._reader):
                held = self._equals_object(row, descriptor)
                if held:
                    self._note_unproven(row)
            if Identity.of(os.fstat(descriptor)) != examined:
                raise Taken("the file under its name changes; it was left as it is")
            if held and mtime_of(status) != row.mtime_ns:
                self._date(row, descriptor)
            return held, examined
        finally:
            os.close(descriptor)

    def _equals_object(self, row: ManifestRow, descriptor: int) -> bool:
        """Compare a file of the row's size with the object, byte by byte: nothing recorded tells them apart."""
        count = 0
        for block in self._reader.blocks(row.key, row.size, row.version_id):
            if os.pread(descriptor, len(block), count) != block:
                return False
            count += len(block)
        return count == row.size

    def _note_unproven(self, row: ManifestRow) -> None:
        """Keep the name of a file whose bytes are the object's, and no recorded digest says that these are right."""
        with self._lock:
            self.unproven_count += 1
            if len(self.unproven) < SHOWN:
                self.unproven.append(row.path)

    def _fetch(self, row: ManifestRow, descriptor: int) -> bool:
        """Read the object into the file, and tell whether it is proven; a broken answer goes on where it stopped."""
        digest = Digest(row)
        for block in self._reader.blocks(row.key, row.size, row.version_id):
            digest.add(block)
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        if not digest.holds:
            raise LadingError(f"the bucket's object {row.key!r} does not have the recorded bytes; run: make verify")
        return digest.proves(descriptor, self._reader)


def restore_all(restorer: Restorer, rows: Iterable[ManifestRow], workers: int, progress: Progress) -> RestoreCounters:
    """Restore every row with ``workers`` threads; a fault of one file does not end the others."""
    counters = RestoreCounters()
    waiting: deque[tuple[ManifestRow, Future[bool]]] = deque()

    def record_result(row: ManifestRow, future: "Future[bool]") -> None:
        try:
            fresh = future.result()
        except StoreError as error:
            if error.failure is FailureKind.STOP:
                raise
            counters.faults.append((row.path, str(error)))
            return
        except OSError as error:
            if error.errno in _FULL:
                raise LadingError(f"cannot write below the target: {error.strerror}") from error
            counters.faults.append((row.path, error.strerror or str(error)))
            return
        except LadingError as error:
            counters.faults.append((row.path, str(error)))
            return
        counters.restored += fresh
        counters.present += not fresh
        counters.bytes += row.size if fresh else 0
        if progress.due():
            progress.show(f"{format_count(counters.restored)} files, {format_bytes(counters.bytes)}")

    pool = WorkerPool(workers, "restore")
    try:
        for row in rows:
            waiting.append((row, pool.submit(restorer.restore, row)))
            if len(waiting) >= 4 * workers:
                record_result(*waiting.popleft())
        while waiting:
            record_result(*waiting.popleft())
    except BaseException:
        restorer.stop()  # else leaving waits for every body in flight, hours where they are large
        pool.close(LAST_SECONDS)
        raise
    pool.shutdown()
    return counters


def run_restore(options: RestoreOptions, manifest: Manifest, target: Target) -> tuple[Restorer, RestoreCounters]:
    """Restore what was asked for; returns the restorer, which knows what it could not keep, and the counters."""
    reader = ObjectReader(open_for_reading(target))
    tree = Tree(options.to)
    try:
        with Progress("restore") as progress:
            restorer = Restorer(reader, tree, options.overwrite, lambda: names_like_ours(manifest))
            rows = select(manifest, options.prefix)
            return restorer, restore_all(restorer, rows, options.max_workers, progress)
    finally:
        tree.close()
