"""Write files so that no crash leaves half of one.

Input: paths and bytes or records. Output: a file replaced whole, or a log
that only ever grows.
Invariant: after ``kill -9``, a power cut or a full disk, a replaced file is
the old or the new one, and a log is readable up to its last synced group;
a torn last line is cut off, a damaged line in the middle is reported and
skipped, never guessed.
"""

import ctypes
import errno
import itertools
import json
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from lading.core.bounded import lines_of, parse_json, read_object
from lading.core.errors import LadingError, UsageError
from lading.core.identity import is_abandoned, owner_tag

T = TypeVar("T")

# A log line is a JSON object whose last member is the CRC-32 of all bytes
# before it: '…,"crc":"1c291ca3"}'. Fixed width, so a reader needs no parse
# to check it.
_CRC_TAIL = len(',"crc":"00000000"}')


# How file systems say that a directory, or anything, cannot be synced there: CIFS before Linux 4.17, some FUSE, 9p.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF)


def sync_directory(directory: Path | int) -> None:
    """Make renames and creations inside ``directory``, or an open one, durable where the file system can do that."""
    if isinstance(directory, int):
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        return
    with naming(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_directory(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give every ``OSError`` of the block the name of a file: those of calls on descriptors have none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def sync_file_system(directory: Path) -> None:
    """Make all that was written on the file system of ``directory`` durable, in one call for any number of files."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path | str, mode: str = "w", *, sweep: bool = False) -> Iterator[IO[Any]]:
    """Open a temporary file that becomes ``path`` when the block succeeds.

    ``mode`` is "w" (UTF-8 text, ``\\n`` kept) or "wb". On any exception the
    old ``path`` stays and the temporary file is removed. The mode bits follow
    the umask, as for an ordinary new file. ``sweep`` first removes what
    killed processes left of the same file: for directories of few files.
    """
    target = Path(path)
    if sweep:
        remove_unfinished(target)
    try:
        descriptor, name = _create_unfinished(target)
    except OSError as error:
        raise LadingError(f"cannot write {target}: {error.strerror}") from error
    try:
        text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with open(descriptor, mode, **text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~umask())
        os.replace(name, target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        if error.filename not in (None, name):
            raise
        raise LadingError(f"cannot write {target}: {error.strerror}; the old file, if any, is untouched") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def _create_unfinished(target: Path) -> tuple[int, str]:
    while True:
        name = f"{_unfinished_prefix(target)}{owner_tag()}-{secrets.token_hex(4)}"
        path = os.path.join(target.parent, name)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), path
        except FileExistsError:
            continue


def _unfinished_prefix(target: Path) -> str:
    return f".{target.name[:150]}."


def remove_unfinished(target: Path) -> None:
    """Remove the temporary files of ``target`` whose processes are gone; a directory that cannot be read is left."""
    prefix = _unfinished_prefix(target)
    try:
        with os.scandir(target.parent) as entries:
            left = [entry for entry in entries if entry.name.startswith(prefix)]
    except OSError:
        return
    for entry in left:
        with suppress(OSError):  # its process has just finished it; or it is another user's
            written = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(written.st_mode) and is_abandoned(entry.name[len(prefix) :], written.st_mtime):
                os.unlink(entry.path)


def umask() -> int:
    """Return the mode bits that new files of this process go without."""
    # Reading the mask means setting it; Linux also shows it in /proc, which
    # is safe beside other threads.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


# Made once: json.dumps with other separators than its own makes an encoder for each record, most of its time.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Return ``record`` as one log line: compact ASCII JSON with its CRC, and a newline."""
    body = _ENCODE(record)[:-1].encode("ascii")
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def decode_record(line: bytes) -> dict[str, Any] | None:
    """Return the record of one log line without its newline, or None if it is damaged."""
    body, tail = line[:-_CRC_TAIL], line[-_CRC_TAIL:]
    if tail != b',"crc":"%08x"}' % zlib.crc32(body):
        return None
    try:
        record = parse_json(body + b"}")
    except ValueError:  # the sum is right: somebody else wrote it
        return None
    return record if isinstance(record, dict) else None


def read_record(path: Path, take: Callable[[dict[str, Any]], T], remedy: str) -> T:
    """Return what ``take`` makes of the JSON object in a file of ours.

    ``take`` raises ``ValueError`` for an object of another form. That, and a
    file that holds no object, is a ``UsageError`` which ends in the remedy.
    """
    try:
        return take(read_object(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is damaged ({said}); {remedy}") from error


class AppendLog:
    """A log of records with one writing process: append in groups, then ``sync``.

    Opening cuts a torn last line that a killed writer left. Records are
    durable when ``sync`` (or leaving the ``with`` block) returns; nothing may
    rely on a record before that.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        created = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if created:
            sync_directory(self.path.parent)
        else:
            _cut_torn_tail(self._descriptor)

    def append(self, records: Iterable[Mapping[str, Any]]) -> list[int]:
        """Write ``records`` in one go; call ``sync`` before anything depends on them.

        Returns the offset in bytes of each record and, last, of the log's end.
        """
        lines = [encode_record(record) for record in records]
        block = memoryview(b"".join(lines))
        start = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            while block:
                block = block[os.write(self._descriptor, block) :]
        except OSError as error:
            # Half a group on a full disk: take it back, so that later lines stay readable.
            os.ftruncate(self._descriptor, start)
            raise LadingError(f"cannot append to {self.path}: {error.strerror}") from error
        return [start, *(start + length for length in itertools.accumulate(map(len, lines)))]

    def sync(self) -> None:
        """Return when everything appended is on disk."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:  # network filesystems tell only here that a disk or a quota is full
            raise LadingError(f"cannot append to {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> "AppendLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_torn_tail(descriptor: int) -> None:
    end = os.fstat(descriptor).st_size
    position = end
    while position > 0:
        start = max(0, position - 65536)
        newline = os.pread(descriptor, position - start, start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position != end:
        os.ftruncate(descriptor, position)


def read_log(path: Path | str) -> Iterator[dict[str, Any] | None]:
    """Yield the records of a log in order; None stands for a damaged line.

    A last line without its newline is a torn tail and is left out. The file
    may be growing: what was complete at the time of reading is yielded.
    """
    with open(path, "rb") as stream:
        for line, _ in lines_of(stream):
            if line.endswith(b"\n"):
                yield decode_record(line[:-1])
