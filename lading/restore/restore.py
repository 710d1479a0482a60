"""``make restore``: bring a part of the release back from the bucket, each file proven by its digest.

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

import argparse
import errno
import json
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lading.checksums.digest import digest_file, plausible_parts, read_whole_checksum, start_hash
from lading.coordination.signals import leave_hanging
from lading.core.appear import Identity, Taken, appear, is_left_placeholder, replace
from lading.core.atomic import sync_directory
from lading.core.command_line import Parser, configure_logging, parse_workers, printable, run_main
from lading.core.errors import LadingError, PartialFailure, UsageError
from lading.core.exit_codes import DISAGREE, SOME_FAILED
from lading.core.progress import Progress, format_bytes, format_count, format_seconds
from lading.core.temporary_files import PREFIX, TemporaryFiles
from lading.core.times import mtime_of, set_mtime
from lading.core.worker_threads import WorkerPool
from lading.objectstore.client import open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.manner import read_manner
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import FailureKind, Target
from lading.verification.manifest import Manifest, ManifestRow
from lading.verification.manifest_address import add_manifest_arguments, read_manifest_of

SHOWN = 20
LAST_SECONDS = 5.0  # interrupted: for the threads to put away what they had half
READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Unsafe(LadingError):
    """A recorded path would leave the directory, or a link stands in its way."""


@dataclass
class RestoreCounters:
    """What was done; ``faults`` holds (path, reason)."""

    restored: int = 0
    bytes: int = 0
    present: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="restore", description=__doc__.split("\n")[0] if __doc__ else "", codes=[SOME_FAILED, DISAGREE]
    )
    parser.add_argument("--prefix", default="", help="a file or directory of the release, or a key prefix; all of it")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to put it; made when absent")
    add_manifest_arguments(parser)
    parser.add_argument("--max-workers", type=parse_workers, default=16, metavar="N", help="files in flight")
    parser.add_argument("--overwrite", action="store_true", help="replace files of other content")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser.parse_args(argv)


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
        raise UsageError(f"{manifest} has nothing below {prefix!r}, neither as a path nor as a key")


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
                        raise Unsafe(f"{os.fsdecode(part)!r} on its way is a link or a file, no directory") from error
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
    tally = RestoreCounters()
    waiting: deque[tuple[ManifestRow, Future[bool]]] = deque()

    def settle(row: ManifestRow, future: "Future[bool]") -> None:
        try:
            fresh = future.result()
        except StoreError as error:
            if error.failure is FailureKind.STOP:
                raise
            tally.faults.append((row.path, str(error)))
            return
        except OSError as error:
            if error.errno in _FULL:
                raise LadingError(f"cannot write below the target: {error.strerror}") from error
            tally.faults.append((row.path, error.strerror or str(error)))
            return
        except LadingError as error:
            tally.faults.append((row.path, str(error)))
            return
        tally.restored += fresh
        tally.present += not fresh
        tally.bytes += row.size if fresh else 0
        if progress.due():
            progress.show(f"{format_count(tally.restored)} files, {format_bytes(tally.bytes)}")

    pool = WorkerPool(workers, "restore")
    try:
        for row in rows:
            waiting.append((row, pool.submit(restorer.restore, row)))
            if len(waiting) >= 4 * workers:
                settle(*waiting.popleft())
        while waiting:
            settle(*waiting.popleft())
    except BaseException:
        restorer.stop()  # else leaving waits for every body in flight, hours where they are large
        pool.close(LAST_SECONDS)
        raise
    pool.shutdown()
    return tally


def main(argv: Sequence[str] | None = None) -> int:
    """Restore; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(parse(argv))


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    started = time.monotonic()
    manifest = read_manifest_of(arguments.manifest, arguments)
    header = manifest.header
    endpoint = resolve_endpoint(arguments.endpoint_url or header.endpoint)
    store = open_for_reading(Target(header.bucket, endpoint, arguments.max_workers, manner=read_manner(arguments)))
    tree = Tree(arguments.to)
    try:
        with Progress("restore") as progress:
            restorer = Restorer(ObjectReader(store), tree, arguments.overwrite, lambda: names_like_ours(manifest))
            tally = restore_all(restorer, select(manifest, arguments.prefix), arguments.max_workers, progress)
    finally:
        tree.close()
    seconds = time.monotonic() - started
    if arguments.json:
        record: dict[str, Any] = {
            "restored": tally.restored,
            "bytes": tally.bytes,
            "present": tally.present,
            "unproven": restorer.unproven_count,
            "failed": [{"path": path, "reason": reason} for path, reason in tally.faults],
            "seconds": round(seconds, 3),
        }
        print(json.dumps(record))
    else:
        print(
            f"restore  {format_count(tally.restored)} files, {format_bytes(tally.bytes)} restored"
            f"{'' if restorer.unproven_count else ' and proven'} in {format_seconds(seconds)}; "
            f"{format_count(tally.present)} were there already; {len(tally.faults)} failed"
        )
    if restorer.undated_count:
        names = ", ".join(map(printable, restorer.undated))
        more = ", …" if restorer.undated_count > len(restorer.undated) else ""
        print(
            f"note: the time of {format_count(restorer.undated_count)} files cannot be held by this file system or by "
            f"the manifest; they have the nearest that can: {names}{more}",
            file=sys.stderr,
        )
    unproven = (
        [
            f"not proven: {format_count(restorer.unproven_count)} files have the bytes of the bucket's objects, but "
            "the manifest has no digest of them; make verify verify_flags=--full records digests: "
            + ", ".join(map(printable, restorer.unproven))
            + (" …" if restorer.unproven_count > len(restorer.unproven) else "")
        ]
        if restorer.unproven_count
        else []
    )
    if tally.faults:
        lines = [f"{printable(path)}: {reason}" for path, reason in tally.faults[:SHOWN]]
        if len(tally.faults) > SHOWN:
            lines.append(f"… and {len(tally.faults) - SHOWN} more")
        raise PartialFailure("\n".join(["not restored:", *lines, *unproven]))
    if unproven:
        raise PartialFailure("\n".join(unproven))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
