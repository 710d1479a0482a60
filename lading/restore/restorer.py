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
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lading.checksums.digest import digest_file, plausible_parts, read_whole_checksum, start_hash
from lading.core.appear import Identity, Taken, appear, is_left_placeholder, replace, still_there
from lading.core.atomic import sync_directory
from lading.core.errors import LadingError, UsageError
from lading.core.progress import Progress, counted, format_bytes
from lading.core.target_tree import Tree, Unsafe, split_path
from lading.core.temporary_files import PREFIX, TemporaryFiles
from lading.core.times import mtime_of, set_mtime
from lading.core.worker_threads import WorkerPool, WorkersStopped
from lading.objectstore.download import ObjectReader
from lading.objectstore.object_info import ARCHIVED, StoreError
from lading.objectstore.readable_store import ReadableStore
from lading.objectstore.target import FailureKind
from lading.plan.class_prices import TABLE, ClassPrice
from lading.restore.accounts import AccountMap, read_accounts
from lading.restore.attributes import AttributeRestorer, open_to_owner
from lading.restore.hard_links import FirstName, HardLinks, RestoredFile
from lading.restore.links_and_directories import EntryRestorer
from lading.restore.restore_report import NamedFiles, RestoreCounters, RestoreReport
from lading.restore.sparse import FileWriter
from lading.restore.thaw import ArchivedObjects, ThawRequest
from lading.tree.entry_record import RecordedEntry
from lading.tree.not_regular import NotRegular
from lading.verification.manifest import Manifest, ManifestRow

LAST_SECONDS = 5.0  # interrupted: for the threads to put away what they had half
READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class RestoreOptions:
    """What a restore was asked to do.

    prefix       a file or directory of the release, or a key prefix; empty: all of it
    to           the directory to restore into
    max_workers  files in flight
    overwrite    replace files of other content
    json         print the summary as JSON
    metadata     put back modes, owners, times and extended attributes; ``map_users`` is a table of accounts for it
    sparse       runs of zeros become holes; None where the source had holes
    outside_links  make links that lead out of ``to``, too
    thaw         how to ask for what is archived; None: not. ``class_prices``: what that costs
    """

    prefix: str
    to: Path
    max_workers: int = 16
    overwrite: bool = False
    json: bool = False
    metadata: bool = False
    map_users: Path | None = None
    sparse: bool | None = None
    outside_links: bool = False
    thaw: ThawRequest | None = None
    class_prices: Mapping[str, ClassPrice] = field(default_factory=lambda: TABLE)


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
    if found or next(select_entries(manifest, prefix), None):
        return
    key = prefix.removeprefix(f"s3://{manifest.header.bucket}/").rstrip("/")
    for row in manifest.rows():
        if row.key == key or row.key.startswith(key + "/"):
            found = True
            yield row
    if not found:
        raise UsageError(f"{manifest.path} has nothing below {prefix!r}, neither by path nor by key")


def select_entries(manifest: Manifest, prefix: str) -> Iterator[RecordedEntry]:
    """Yield what of a path prefix is no object."""
    path = prefix.strip("/")
    everything = path in ("", ".")
    for entry in manifest.entries():
        if everything or entry.path == path or entry.path.startswith(path + "/"):
            yield entry


def names_like_ours(manifest: Manifest) -> Iterator[str]:
    """Yield the paths of the release that look like unfinished files of a restore: they are the user's."""
    for row in manifest.rows():
        if PREFIX in row.path:
            yield row.path


def make_attributes(options: RestoreOptions) -> AttributeRestorer | None:
    """Return what puts metadata back, None where that was not asked for."""
    if not options.metadata:
        if options.map_users:
            raise UsageError("--map-users maps the owners that --metadata puts back; give both")
        return None
    return AttributeRestorer(read_accounts(options.map_users) if options.map_users else AccountMap())


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
        self,
        reader: ObjectReader,
        tree: Tree,
        overwrite: bool,
        names: Callable[[], Iterable[str]] = tuple,
        attributes: AttributeRestorer | None = None,
        *,
        sparse: bool | None = None,
    ) -> None:
        """``attributes`` puts metadata back; ``sparse``: zeros become holes, None where the source had holes."""
        self._reader, self._tree, self._overwrite = reader, tree, overwrite
        self._attributes, self._sparse = attributes, sparse
        self._scratch = TemporaryFiles(names)
        self._stopping = False
        self._lock = threading.Lock()
        self.undated, self.unproven = NamedFiles(), NamedFiles()

    def stop(self) -> None:
        """Let what other threads restore end at its next block."""
        self._stopping = True
        self._reader.stop()

    def restore(self, row: ManifestRow) -> bool:
        """Bring one file back; False when it was there already. Raises ``LadingError`` or ``OSError``."""
        return self.restore_file(row).fresh

    def restore_file(self, row: ManifestRow) -> RestoredFile:
        """Bring one file back, and tell which file it is. Raises ``LadingError`` or ``OSError``."""
        *parents, name = split_path(row.path)
        with self._tree.directory(parents) as directory:
            self._scratch.sweep(parents, directory)
            held, examined = self._examine(row, name, directory)
            if held and examined:
                return RestoredFile(False, examined.device, examined.inode)
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
                made = os.fstat(descriptor)
                if not proven:
                    self._note_unproven(row)
            except Taken:
                # Perhaps by another restore, which brought the same bytes.
                held, examined = self._examine(row, name, directory)
                if not held or examined is None:
                    raise
                return RestoredFile(True, examined.device, examined.inode)
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=directory)
            sync_directory(directory)
        return RestoredFile(True, made.st_dev, made.st_ino)

    def link(self, row: ManifestRow, first: FirstName) -> RestoredFile:
        """Give the file of a name that is restored, or being restored, another name; else as ``restore_file``."""
        try:
            known = first.done.result()
            self._reader.check()
            return self._link(row, first.row, known)
        except WorkersStopped:
            raise
        except (LadingError, OSError) as error:
            if isinstance(error, StoreError) and error.failure is FailureKind.STOP:
                raise
            # The first could not be had, something is in the way, or there are no hard links here: a file of its own.
            if self._attributes:
                self._attributes.note("that it is another name of a file", row.path)
            return self.restore_file(row)

    def _link(self, row: ManifestRow, first: ManifestRow, known: RestoredFile) -> RestoredFile:
        """Make a hard link to the very file ``known``; raises when that is not what has the first name any more."""
        *above, first_name = split_path(first.path)
        *parents, name = split_path(row.path)
        with self._tree.directory(above) as source, self._tree.directory(parents) as directory:
            held, examined = self._examine(row, name, directory)
            if examined and (examined.device, examined.inode) == (known.device, known.inode):
                return RestoredFile(False, known.device, known.inode)
            if examined and not held and not self._overwrite:
                raise LadingError("a file of other content is there")
            scratch = self._scratch.name(name)
            os.link(first_name, scratch, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
            try:
                status = os.stat(scratch, dir_fd=directory, follow_symlinks=False)
                if (status.st_dev, status.st_ino) != (known.device, known.inode):
                    raise Taken("the file under its first name was replaced meanwhile")
                self._tree.check(parents, directory)
                if examined:
                    replace(scratch, name, directory, examined)
                else:
                    appear(scratch, name, directory)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=directory)
        return RestoredFile(True, known.device, known.inode)

    def _date(self, row: ManifestRow, descriptor: int) -> None:
        """Give a file its recorded attributes, and its time, or the nearest that can be held: then it is named."""
        if self._attributes and row.metadata:
            self._attributes.apply(descriptor, row.metadata, row.path, row.mtime_ns)
            return
        if set_mtime(descriptor, row.mtime_ns):
            return
        with self._lock:
            self.undated.add(row.path)

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
        with still_there():
            try:
                descriptor = os.open(name, flags, dir_fd=directory)
            except PermissionError:
                # Perhaps it has the mode that a restore before this one gave it.
                if not self._attributes or not row.metadata or not open_to_owner(name, directory, examined):
                    raise
                examined = Identity.of(os.stat(name, dir_fd=directory, follow_symlinks=False))
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
            if held and (self._attributes or mtime_of(status) != row.mtime_ns):
                self._date(row, descriptor)
                examined = Identity.of(os.fstat(descriptor))
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
            self.unproven.add(row.path)

    def _fetch(self, row: ManifestRow, descriptor: int) -> bool:
        """Read the object into the file, and tell whether it is proven; a broken answer goes on where it stopped."""
        digest = Digest(row)
        had_holes = row.metadata is not None and row.metadata.is_sparse(row.size)
        writer = FileWriter(descriptor, sparse=had_holes if self._sparse is None else self._sparse)
        for block in self._reader.blocks(row.key, row.size, row.version_id):
            digest.add(block)
            writer.write(block)
        writer.finish()
        if not digest.holds:
            raise LadingError(f"the bucket's object {row.key!r} does not have the recorded bytes; run: make verify")
        return digest.proves(descriptor, self._reader)


def restore_all(
    restorer: Restorer,
    rows: Iterable[ManifestRow],
    workers: int,
    progress: Progress,
    archived: ArchivedObjects | None = None,
) -> RestoreCounters:
    """Restore every row with ``workers`` threads; a fault of one file does not end the others.

    ``archived`` takes what cannot be read before it is thawed.
    """
    counters, links = RestoreCounters(), HardLinks()
    waiting: deque[tuple[ManifestRow, Future[RestoredFile], bool]] = deque()

    def record_result(row: ManifestRow, future: "Future[RestoredFile]", is_link: bool) -> None:
        try:
            fresh = future.result().fresh
        except StoreError as error:
            if error.code == ARCHIVED and archived is not None:
                counters.archived += 1
                return
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
        counters.hard_links += is_link and fresh
        counters.without_metadata += row.metadata is None
        counters.bytes += row.size if fresh and not is_link else 0
        if progress.due():
            progress.show(f"{counted(counters.restored, 'file')}, {format_bytes(counters.bytes)}")

    pool = WorkerPool(workers, "restore")
    try:
        for row in rows:
            first = links.first(row)
            future = pool.submit(restore_one, restorer, row, first, archived)
            if first is None:
                links.note(row, future)
            waiting.append((row, future, first is not None))
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


def restore_one(
    restorer: Restorer, row: ManifestRow, first: FirstName | None, archived: ArchivedObjects | None
) -> RestoredFile:
    """Restore one file, or link it to the ``first`` name of its content; counts it when it is archived."""
    try:
        return restorer.link(row, first) if first else restorer.restore_file(row)
    except StoreError as error:
        if error.code == ARCHIVED and archived is not None:
            archived.take(row)
        raise


def run_restore(options: RestoreOptions, manifest: Manifest, store: ReadableStore) -> RestoreReport:
    """Restore what was asked for; returns what came of it."""
    attributes = make_attributes(options)
    started = time.monotonic()
    reader, archived = ObjectReader(store), ArchivedObjects(store, options.thaw, options.class_prices)
    tree = Tree(options.to)
    try:
        with Progress("restore") as progress:
            restorer = Restorer(
                reader,
                tree,
                options.overwrite,
                lambda: names_like_ours(manifest),
                attributes,
                sparse=options.sparse,
            )
            rows = select(manifest, options.prefix)
            counters = restore_all(restorer, rows, options.max_workers, progress, archived)
            maker = EntryRestorer(
                tree,
                attributes,
                overwrite=options.overwrite,
                outside_links=options.outside_links,
                whole=not counters.faults and not counters.archived,
            )
            entries = maker.restore_all(select_entries(manifest, options.prefix))
    finally:
        tree.close()
    if attributes and counters.faults and entries.seen_directories:
        attributes.note("modes and times of directories, until all files are restored", ".")
    missing = NotRegular()
    if options.prefix.strip("/") in ("", "."):
        missing = missing.with_unreadable((bad.path for bad in manifest.end.named), manifest.end.unreadable)
    lacking = attributes.lacking if attributes else None
    seconds = time.monotonic() - started
    return RestoreReport(counters, entries, restorer.undated, restorer.unproven, missing, lacking, seconds, archived)
