"""A directory as a store of objects: each regular file below it is one, under its path.

Input: a directory. Output: listings, heads and bytes, as ``ReadableStore`` has them.
Invariant: nothing outside of it is read, not through a symbolic link either. A directory has no ETags: its listing
speaks of sizes alone, and who wants more reads.
"""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lading.core.opening import Root
from lading.objectstore.keys import encode_key
from lading.objectstore.object_info import ObjectHead, ObjectInfo, StoreError
from lading.objectstore.target import FailureKind

BLOCK = 1 << 20
_GONE = (errno.ENOENT, errno.ENOTDIR)


class Unversioned:
    """What a store without versions says of them."""

    def keeps_versions(self) -> bool:
        """Tell that it keeps none."""
        return False

    def may_list_versions(self, prefix: str) -> bool:
        """Tell that none may be listed."""
        return False

    def versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield nothing."""
        return iter(())


class NeverArchived:
    """What a store without archives says of thawing."""

    def thaw(self, key: str, tier: str, days: int | None, version_id: str | None = None) -> None:
        """Raise ``StoreError``."""
        raise StoreError(FailureKind.OBJECT, f"{key} is not in an archive that Lading can ask")


class DirectoryStore(NeverArchived):
    """See ``ReadableStore``. Safe to use from many threads."""

    def __init__(self, top: Path) -> None:
        self.listing = Unversioned()
        self.top = top
        try:
            self._root = Root(top)
        except OSError as error:
            raise StoreError(FailureKind.STOP, f"{top} cannot be opened: {error.strerror}") from error

    def page(self, prefix: str, after: str = "", token: str = "") -> tuple[list[ObjectInfo], str]:
        """Return the object of this very name, if there is one: whoever asks for a page asks for one name."""
        try:
            head = self.head(prefix)
        except StoreError:
            return [], ""
        return [ObjectInfo(prefix, head.size, "", "")], ""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every file below ``prefix``, which ends in ``/`` or is empty, by the bytes of its path."""
        yield from self._list(os.fsencode(prefix.rstrip("/")), first=True)

    def _list(self, folder: bytes, *, first: bool = False) -> Iterator[ObjectInfo]:
        try:
            directory = self._root.directory(os.fsdecode(os.path.join(os.fsencode(self._root.path), folder)))
        except OSError as error:
            if first and error.errno in _GONE:
                return
            raise self._unreadable(folder, error) from error
        try:
            with os.scandir(directory) as entries:
                found = sorted((os.fsencode(e.name) + b"/" * e.is_dir(follow_symlinks=False), e) for e in entries)
                names = [(name, entry.is_file(follow_symlinks=False)) for name, entry in found]
            for name, is_file in names:
                path = folder + b"/" + name if folder else name
                if name.endswith(b"/"):
                    yield from self._list(path[:-1])
                elif is_file and (item := self._info(path, name, directory)):
                    yield item
        except OSError as error:
            raise self._unreadable(folder, error) from error
        finally:
            os.close(directory)

    def _info(self, path: bytes, name: bytes, directory: int) -> ObjectInfo | None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return ObjectInfo(_key_of(path), status.st_size, "", format_mtime(status.st_mtime_ns // 10**9))

    def _unreadable(self, folder: bytes, error: OSError) -> StoreError:
        return StoreError(FailureKind.STOP, f"{self.top}/{os.fsdecode(folder)} cannot be listed: {error.strerror}")

    def head(self, key: str, version_id: str | None = None) -> ObjectHead:
        """Return the size of a file."""
        descriptor = self._open(key)
        try:
            return ObjectHead(os.fstat(descriptor).st_size, "", None, None, None)
        finally:
            os.close(descriptor)

    def blocks(self, key: str, version_id: str | None = None, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a file from ``start`` on."""
        descriptor = self._open(key)
        try:
            while block := os.pread(descriptor, BLOCK, start):
                start += len(block)
                yield block
        except OSError as error:
            raise StoreError(FailureKind.OBJECT, f"{key} cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _open(self, key: str) -> int:
        try:
            return self._root.open(os.path.join(self._root.path, key))
        except OSError as error:
            code = "404" if error.errno in _GONE else ""
            raise StoreError(FailureKind.OBJECT, f"{key} cannot be opened: {error.strerror}", code) from error
        except ValueError as error:
            raise StoreError(FailureKind.OBJECT, f"{key!r} is not the name of a file", "404") from error


def _key_of(path: bytes) -> str:
    """Return the key of a path; what cannot be a key is written as one, and belongs to no release."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return encode_key(os.fsdecode(path))


def format_mtime(seconds: int) -> str:
    """Return a file's time as a listing has it; what no calendar holds is 1970."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00Z"
