"""Files that a compression carried as they are, or in a zip: kinds generic and video.

Input: a stored compression. Output: the bytes of its source files.
Invariant: a video that was transcoded is promised by nothing. An archive in a
bucket is fetched to a temporary file: a zip is read from its end.
"""

import contextlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import pyzipper

from lading.compress.job import SourceFile
from lading.compress.names import rename
from lading.compress.rebuild.stored_compression import CopyDamaged, NotPromised, StoredCompression
from lading.core.errors import UsageError

_BLOCK = 4 << 20


class FileRebuilder:
    """Source files of a compression of whole files; ``password`` opens its archives."""

    def __init__(self, stored: StoredCompression, password: str | None) -> None:
        self._stored, self._password = stored, password
        self._held = contextlib.ExitStack()
        self._archives: dict[str, Any] = {}

    def blocks(self, record: SourceFile) -> Iterator[bytes]:
        """Yield the bytes of a source file; ``NotPromised`` before the first where not all are held."""
        stored = self._stored
        if record.lossy:
            raise NotPromised(record.lossy)
        name = stored.source_name if record.path == "." else record.path
        copy = rename(stored.renamed, name)
        pack = str(stored.options.get("pack") or "copy")
        if stored.kind == "generic" and pack != "copy":
            return self._member(f"{stored.source_name}.zip", name)
        if stored.size(copy) == record.size:
            return stored.blocks(copy)
        if stored.kind == "video" and stored.size(f"{copy}.zip") is not None:
            return self._member(f"{copy}.zip", os.path.basename(name))
        raise CopyDamaged(f"{stored.name}/{copy}: is missing, or has another size; restore it")

    def _member(self, archive: str, name: str) -> Iterator[bytes]:
        try:
            if archive not in self._archives:
                self._archives[archive] = self._open(archive)
            with self._archives[archive].open(name) as member:
                while block := member.read(_BLOCK):
                    yield block
        except KeyError as error:
            raise CopyDamaged(f"{self._stored.name}/{archive}: has no member {name}; restore it") from error
        except RuntimeError as error:
            raise UsageError(
                f"{self._stored.name}/{archive}: needs its password ({error}); give it by --password-file"
            ) from error
        except (zipfile.BadZipFile, pyzipper.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise CopyDamaged(f"{self._stored.name}/{archive}: {name} cannot be unpacked ({error})") from error

    def _open(self, archive: str) -> Any:
        root = self._stored.place.root
        file: IO[bytes] = tempfile.TemporaryFile() if root is None else open(root / archive, "rb")  # noqa: SIM115
        self._held.callback(file.close)
        if root is not None:
            for _ in self._stored.blocks(archive):
                pass  # whether it is what was written
        else:
            for block in self._stored.blocks(archive):
                file.write(block)
        opened = self._held.enter_context(pyzipper.AESZipFile(file))
        if self._password is not None:
            opened.setpassword(self._password.encode("utf-8"))
        return opened

    def close(self) -> None:
        """Close the archives."""
        self._held.close()
